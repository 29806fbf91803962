//! New keys, and what to publish for a key (RFC 6376 §3.6.1, RFC 8463 §4).

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::str::FromStr;

use rcgen::{KeyPair, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize};

use super::key::{Key, KeyError};
use crate::mail::Domain;

/// The longest character string in a TXT record (RFC 1035 §3.3).
const STRING_MAX: usize = 255;

/// What kind of key to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyAlgorithm {
    /// RSA with 2048 bits: every receiver verifies it.
    #[default]
    Rsa,
    /// Ed25519 (RFC 8463): short and fast, but large receivers still ignore it; use it beside RSA.
    Ed25519,
}

impl FromStr for KeyAlgorithm {
    type Err = String;

    fn from_str(name: &str) -> Result<KeyAlgorithm, String> {
        match name {
            "rsa" => Ok(KeyAlgorithm::Rsa),
            "ed25519" => Ok(KeyAlgorithm::Ed25519),
            _ => Err(format!("{name:?} is no key algorithm; it is rsa or ed25519")),
        }
    }
}

/// A fresh key.
pub struct GeneratedKey {
    /// PKCS#8 in PEM: the secret.
    pub private_pem: String,
    /// The value of the TXT record, in one piece.
    pub record: String,
}

/// Why no key was made or described.
#[derive(Debug, thiserror::Error)]
pub enum KeygenError {
    /// The cryptographic library failed.
    #[error("cannot generate a key: {0}")]
    Generate(String),
    /// The key given cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The key file could not be written; an existing one is never overwritten.
    #[error("cannot write {file}")]
    Write {
        /// Where to.
        file: String,
        /// What the system said.
        source: io::Error,
    },
}

/// Makes a key. RSA takes a fraction of a second.
///
/// # Errors
/// If the cryptographic library fails.
pub fn generate(algorithm: KeyAlgorithm) -> Result<GeneratedKey, KeygenError> {
    let pair = match algorithm {
        KeyAlgorithm::Rsa => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048),
        KeyAlgorithm::Ed25519 => KeyPair::generate_for(&PKCS_ED25519),
    }
    .map_err(|error| KeygenError::Generate(error.to_string()))?;
    let private_pem = pair.serialize_pem();
    let record = dns_record(&private_pem)?;
    Ok(GeneratedKey { private_pem, record })
}

/// The TXT record for a private key, in one piece: `v=DKIM1; k=rsa; p=…`.
///
/// # Errors
/// If the key is none that [`Signer::load`](super::Signer::load) would take.
pub fn dns_record(pem: &str) -> Result<String, KeygenError> {
    let key = Key::from_pem(pem.as_bytes())?;
    let pair = KeyPair::try_from(key.der()).map_err(|error| KeyError::Damaged(error.to_string()))?;
    let spki: String = pair.public_key_pem().lines().filter(|line| !line.starts_with("-----")).collect();
    Ok(if pair.algorithm() == &PKCS_ED25519 {
        // RFC 8463 §4 wants the bare 32 octets. Before them stand 12 octets of algorithm: 16 characters.
        format!("v=DKIM1; k=ed25519; p={}", &spki[16..])
    } else {
        format!("v=DKIM1; k=rsa; p={spki}")
    })
}

/// The record as a zone file has it: name, and the value cut into strings of at most 255 octets, one a line.
///
/// ```
/// let line = posthaste::signing::keygen::zone_line(&"example.com".parse().unwrap(), "s1", "v=DKIM1; k=rsa; p=abc");
/// assert_eq!(line, "s1._domainkey.example.com. IN TXT ( \"v=DKIM1; k=rsa; p=abc\" )\n");
/// ```
pub fn zone_line(domain: &Domain, selector: &str, record: &str) -> String {
    // Base64 and tags: ASCII, so every cut is a character's end.
    let strings: Vec<String> =
        record.as_bytes().chunks(STRING_MAX).map(|chunk| format!("\"{}\"", String::from_utf8_lossy(chunk))).collect();
    format!("{selector}._domainkey.{domain}. IN TXT ( {} )\n", strings.join("\n    "))
}

/// Writes a secret to a new file that only its owner can read (0600), and syncs it.
///
/// # Errors
/// If the file exists (it is left alone) or cannot be written.
pub fn write_private(file: &Path, pem: &str) -> Result<(), KeygenError> {
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).and_then(|mut out| {
        out.write_all(pem.as_bytes())?;
        out.sync_all()
    });
    written.map_err(|source| KeygenError::Write { file: file.display().to_string(), source })
}

/// `posthaste dkim generate`: makes a key, writes it to `file` or returns it, and says what to publish. The text is for
/// standard output.
///
/// # Errors
/// As [`generate`] and [`write_private`].
pub fn generate_command(
    domain: &Domain,
    selector: &str,
    algorithm: KeyAlgorithm,
    file: Option<&Path>,
) -> Result<String, KeygenError> {
    let key = generate(algorithm)?;
    let line = zone_line(domain, selector, &key.record);
    let Some(file) = file else { return Ok(format!("{}\n; publish:\n{line}", key.private_pem)) };
    write_private(file, &key.private_pem)?;
    // The daemon is started elsewhere.
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    Ok(format!(
        "; wrote {file}; let the daemon's user read it (chown posthaste {file})\n; publish:\n{line}\
         ; then configure:\n; [[dkim]]\n; domain = \"{domain}\"\n; selector = \"{selector}\"\n; key_file = \"{file}\"\n",
        file = file.display()
    ))
}

/// `posthaste dkim dns`: what to publish for a key that exists.
///
/// # Errors
/// If the file is no key that can sign.
pub fn dns_command(domain: &Domain, selector: &str, file: &Path) -> Result<String, KeygenError> {
    let pem = std::fs::read_to_string(file).map_err(|error| KeyError::Read(error.to_string()))?;
    Ok(zone_line(domain, selector, &dns_record(&pem)?))
}
