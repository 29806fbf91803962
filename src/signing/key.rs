//! Private keys from PEM files, refused with a reason a person can act on.

use std::path::Path;

use mail_auth::common::crypto::{DkimKey, Ed25519Key, RsaKey, Sha256};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

use crate::config::pem_fault;

/// RFC 8301 §3.2 asks signers for at least 2048 bits; receivers treat shorter keys as no signature.
const RSA_BITS_MIN: usize = 2048;
/// The longest the cryptographic library takes, and more than a DNS record should hold.
const RSA_BITS_MAX: usize = 8192;

/// A key file is a few kilobytes; anything much larger is something else.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// A private key that can sign.
pub(super) struct Key {
    signing: DkimKey,
    der: PrivateKeyDer<'static>,
}

/// Why a key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The file could not be read.
    #[error("cannot read it: {0}")]
    Read(String),
    /// No PEM section that could be a private key.
    #[error("it holds no PEM private key")]
    NoKey,
    /// A passphrase protects it; the daemon has nobody to ask.
    #[error("the key is encrypted with a passphrase; write it out without (openssl pkey -in FILE -out NEWFILE)")]
    Encrypted,
    /// Another kind of PEM section.
    #[error("it holds {0}, not a private key")]
    NotPrivate(&'static str),
    /// A private key that DKIM has no use for.
    #[error("it holds {0} key; DKIM signs with RSA or Ed25519")]
    Algorithm(&'static str),
    /// An RSA key below 2048 bits (RFC 8301 §3.2).
    #[error("a {0}-bit RSA key is too short: receivers ignore such signatures; generate one of 2048 bits")]
    TooShort(usize),
    /// An RSA key above 8192 bits.
    #[error("a {0}-bit RSA key is too long; generate one of 2048 bits")]
    TooLong(usize),
    /// Damaged, or inconsistent in itself.
    #[error("the key is damaged: {0}")]
    Damaged(String),
}

impl Key {
    /// Reads a key file, blocking.
    pub(super) fn read(file: &Path) -> Result<Key, KeyError> {
        let size = std::fs::metadata(file).map_err(|error| KeyError::Read(error.to_string()))?.len();
        if size > FILE_BYTES_MAX {
            return Err(KeyError::NoKey);
        }
        let pem = std::fs::read(file).map_err(|error| KeyError::Read(error.to_string()))?;
        Key::from_pem(&pem)
    }

    /// The first private key in `pem`: PKCS#8 (RSA, Ed25519) or PKCS#1 (RSA).
    pub(super) fn from_pem(pem: &[u8]) -> Result<Key, KeyError> {
        refuse_other_sections(pem)?;
        let der = PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
            rustls_pki_types::pem::Error::NoItemsFound => KeyError::NoKey,
            error => KeyError::Damaged(pem_fault(&error)),
        })?;
        Key::from_der(der)
    }

    /// A key that is already decoded.
    pub(super) fn from_der(der: PrivateKeyDer<'static>) -> Result<Key, KeyError> {
        let damaged = |error: mail_auth::Error| KeyError::Damaged(error.to_string());
        let signing = match algorithm(&der)? {
            Algorithm::Rsa => DkimKey::Rsa(RsaKey::<Sha256>::from_key_der(der.clone_key()).map_err(damaged)?),
            Algorithm::Ed25519 => DkimKey::Ed25519(Ed25519Key::from_pkcs8_der(der.secret_der()).map_err(damaged)?),
        };
        Ok(Key { signing, der })
    }

    /// What signs.
    pub(super) fn signing(&self) -> &DkimKey {
        &self.signing
    }

    /// The key itself.
    pub(super) fn der(&self) -> &PrivateKeyDer<'static> {
        &self.der
    }
}

/// Shows no secret.
impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").finish_non_exhaustive()
    }
}

/// Names what people put in place of a private key; the PEM reader would only say that it found none.
fn refuse_other_sections(pem: &[u8]) -> Result<(), KeyError> {
    let has = |label: &str| memchr::memmem::find(pem, format!("-----BEGIN {label}-----").as_bytes()).is_some();
    if has("ENCRYPTED PRIVATE KEY") || memchr::memmem::find(pem, b"Proc-Type: 4,ENCRYPTED").is_some() {
        return Err(KeyError::Encrypted);
    }
    if has("PRIVATE KEY") || has("RSA PRIVATE KEY") {
        return Ok(());
    }
    for (label, what) in [("EC PRIVATE KEY", "an elliptic-curve"), ("DSA PRIVATE KEY", "a DSA")] {
        if has(label) {
            return Err(KeyError::Algorithm(what));
        }
    }
    for (label, what) in [
        ("OPENSSH PRIVATE KEY", "an OpenSSH key"),
        ("PUBLIC KEY", "a public key"),
        ("RSA PUBLIC KEY", "a public key"),
        ("CERTIFICATE", "a certificate"),
    ] {
        if has(label) {
            return Err(KeyError::NotPrivate(what));
        }
    }
    Err(KeyError::NoKey)
}

enum Algorithm {
    Rsa,
    Ed25519,
}

/// Which algorithm a key is for; RSA only within the lengths that sign.
fn algorithm(der: &PrivateKeyDer<'_>) -> Result<Algorithm, KeyError> {
    let damaged = || KeyError::Damaged("it is no DER private key".into());
    let (oid, inner) = match der {
        PrivateKeyDer::Pkcs1(key) => (RSA, key.secret_pkcs1_der()),
        PrivateKeyDer::Pkcs8(key) => pkcs8(key.secret_pkcs8_der()).ok_or_else(damaged)?,
        _ => return Err(KeyError::Algorithm("an elliptic-curve")),
    };
    match oid {
        RSA => match rsa_bits(inner).ok_or_else(damaged)? {
            bits if bits < RSA_BITS_MIN => Err(KeyError::TooShort(bits)),
            bits if bits > RSA_BITS_MAX => Err(KeyError::TooLong(bits)),
            _ => Ok(Algorithm::Rsa),
        },
        ED25519 => Ok(Algorithm::Ed25519),
        RSA_PSS => Err(KeyError::Algorithm("an RSA-PSS")),
        ELLIPTIC_CURVE => Err(KeyError::Algorithm("an elliptic-curve")),
        ED448 => Err(KeyError::Algorithm("an Ed448")),
        _ => Err(KeyError::Algorithm("another kind of")),
    }
}

const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const RSA_PSS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
const ED448: &[u8] = &[0x2b, 0x65, 0x71];
const ELLIPTIC_CURVE: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const OBJECT_IDENTIFIER: u8 = 0x06;
const OCTET_STRING: u8 = 0x04;

/// The algorithm and the key inside a PKCS#8 `PrivateKeyInfo` (RFC 5958 §2).
fn pkcs8(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (info, _) = element(der, SEQUENCE)?;
    let (_version, rest) = element(info, INTEGER)?;
    let (algorithm, rest) = element(rest, SEQUENCE)?;
    let (oid, _parameters) = element(algorithm, OBJECT_IDENTIFIER)?;
    let (key, _) = element(rest, OCTET_STRING)?;
    Some((oid, key))
}

/// The length of the modulus of a PKCS#1 `RSAPrivateKey` (RFC 8017 §A.1.2).
fn rsa_bits(der: &[u8]) -> Option<usize> {
    let (key, _) = element(der, SEQUENCE)?;
    let (_version, rest) = element(key, INTEGER)?;
    let (modulus, _) = element(rest, INTEGER)?;
    let zeros = modulus.iter().take_while(|b| **b == 0).count();
    let first = modulus.get(zeros)?;
    Some((modulus.len() - zeros) * 8 - first.leading_zeros() as usize)
}

/// Splits one DER element with this tag off the front: its content, and what follows.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, length], rest) = der.split_first_chunk::<2>()?;
    if found != tag {
        return None;
    }
    if length < 0x80 {
        return rest.split_at_checked(length.into());
    }
    let (digits, rest) = rest.split_at_checked((length & 0x7f).into())?;
    if digits.len() > 4 {
        return None;
    }
    let length = digits.iter().fold(0usize, |sum, b| sum << 8 | usize::from(*b));
    rest.split_at_checked(length)
}
