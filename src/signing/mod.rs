//! Sign: DKIM signatures (RFC 6376, RFC 8463), relaxed/relaxed, made once per message at its first attempt.
//!
//! The promise: mail from a domain for which a key is configured leaves with every configured signature or it does not
//! leave. In order:
//!
//! 1. [`Signer::load`] reads every key. One that cannot be used stays in the set as broken, with its reason.
//! 2. The author's domain (RFC 5322 §3.6.2) chooses the keys: those of exactly this domain, else those of the closest
//!    domain above it. All keys of that domain sign; one broken key is a [`SigningError`], and the message waits.
//! 3. The body is hashed once, the header fields are canonicalised once; each key adds its own field.
//! 4. [`SigningPool`] does this off the reactor, no more at once than there are cores: RSA-2048 takes about 1 ms.
//!
//! Keys, hashes and the signature field are mail-auth's. Its relaxed body keeps white-space-only lines at the end
//! (stalwartlabs/mail-auth#62), which `canonical.rs` works around, and its signer asks the time itself, so the pieces are
//! put together here.

mod author;
mod canonical;
mod key;
pub mod keygen;
mod pool;
#[doc(hidden)]
pub mod probe;

use std::collections::HashMap;
use std::path::PathBuf;

use bytes::Bytes;
use mail_auth::common::crypto::SigningKey;
use mail_auth::common::headers::{Writable, Writer};
use mail_auth::dkim::Signature;

pub use key::KeyError;
pub use pool::SigningPool;

use crate::clock::Timestamp;
use crate::config::DkimConfig;
use crate::mail::{Blame, Domain, EnhancedCode, Failure, header};
use canonical::SignedFields;
use key::Key;

/// Room for one RSA-2048 signature field.
const FIELD_CAPACITY: usize = 1024;

/// Every configured key. Never changes: a reload builds a new one.
#[derive(Debug, Default)]
pub struct Signer {
    domains: HashMap<Box<str>, DomainKeys>,
}

/// The keys of one domain, in the order of the file.
#[derive(Debug)]
struct DomainKeys {
    domain: Domain,
    keys: Vec<KeyEntry>,
}

#[derive(Debug)]
struct KeyEntry {
    selector: Box<str>,
    key: Result<Key, KeyError>,
}

/// What is put on a message with its signatures.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Added {
    /// Whole fields with their line ends; they are signed.
    pub fields: Bytes,
    /// A domain whose keys must sign, too.
    pub also: Option<Domain>,
}

/// A configured key that cannot be used: mail from its domain waits until it can.
#[derive(Debug, thiserror::Error)]
#[error("dkim key {selector}._domainkey.{domain} ({}): {why}", file.display())]
pub struct KeyProblem {
    /// The `d=` of the key.
    pub domain: Domain,
    /// Its `s=`.
    pub selector: String,
    /// Where it should be.
    pub file: PathBuf,
    /// What is wrong with it.
    pub why: KeyError,
}

/// Why a message could not be signed. It waits; nothing goes out unsigned.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// The domain has a key that [`Signer::load`] could not use.
    #[error("dkim key {selector}._domainkey.{domain} cannot be used: {why}")]
    KeyUnusable {
        /// The `d=` of the key.
        domain: Domain,
        /// Its `s=`.
        selector: Box<str>,
        /// What is wrong with it.
        why: KeyError,
    },
    /// The cryptographic library refused.
    #[error("dkim key {selector}._domainkey.{domain} did not sign: {why}")]
    Crypto {
        /// The `d=` of the key.
        domain: Domain,
        /// Its `s=`.
        selector: Box<str>,
        /// The library's words.
        why: String,
    },
    /// The daemon stops, or the thread that signed panicked.
    #[error("the signing pool dropped the message")]
    Dropped,
}

impl SigningError {
    /// What it means for the recipients: not now (4.3.5, RFC 3463 §3.4). Names no file and no key, since it may reach the
    /// sender in a report; the log has the error itself.
    pub fn failure(&self) -> Failure {
        Failure::ours(Blame::Message, EnhancedCode(4, 3, 5), "the message cannot be signed for its From domain now")
    }
}

impl Signer {
    /// A signer without keys: signs nothing.
    pub fn none() -> Signer {
        Signer::default()
    }

    /// Reads every key file, blocking. A key that cannot be read or used is listed and stays in the set, so that
    /// [`sign`](Signer::sign) fails for its domain instead of letting mail out unsigned.
    pub fn load(configs: &[DkimConfig]) -> (Signer, Vec<KeyProblem>) {
        let mut signer = Signer::none();
        let mut problems = Vec::new();
        for config in configs {
            let key = Key::read(&config.key_file);
            if let Err(why) = &key {
                problems.push(KeyProblem {
                    domain: config.domain.clone(),
                    selector: config.selector.clone(),
                    file: config.key_file.clone(),
                    why: why.clone(),
                });
            }
            signer.add(&config.domain, &config.selector, key);
        }
        (signer, problems)
    }

    fn add(&mut self, domain: &Domain, selector: &str, key: Result<Key, KeyError>) {
        let of_domain = self
            .domains
            .entry(domain.as_str().into())
            .or_insert_with(|| DomainKeys { domain: domain.clone(), keys: Vec::new() });
        of_domain.keys.push(KeyEntry { selector: selector.into(), key });
    }

    /// Whether no key is configured at all.
    pub fn is_empty(&self) -> bool {
        self.domains.is_empty()
    }

    /// Whether [`sign`](Signer::sign) has work to do: a key, usable or not, is configured for the author's domain.
    /// Reads the header section only; about a microsecond.
    pub fn applies(&self, content: &[u8]) -> bool {
        self.keys_for(content).is_some()
    }

    /// The domain of the author, and the domain whose keys sign for it; `None`: there are none.
    pub fn signs(&self, content: &[u8]) -> Option<(Domain, &Domain)> {
        self.keys_for(content).map(|(author, of_domain)| (author, &of_domain.domain))
    }

    /// Whether there is a key of exactly this domain.
    pub fn has(&self, domain: &Domain) -> bool {
        self.domains.contains_key(domain.as_str())
    }

    /// All DKIM-Signature fields to put in front of `content`, each with its CRLF; empty if no key is configured for the
    /// author's domain. `now` becomes `t=`. Blocking: about 1 ms of CPU a key for RSA-2048, 0.05 ms for Ed25519.
    ///
    /// # Errors
    /// If any key of the domain is unusable: a message with half of its signatures is not what was configured.
    pub fn sign(&self, content: &[u8], now: Timestamp) -> Result<Bytes, SigningError> {
        self.sign_with(&Added::default(), content, now)
    }

    /// The same of a message that gets further fields: they follow the signatures, which cover them.
    ///
    /// # Errors
    /// As for [`sign`](Signer::sign).
    pub fn sign_with(&self, added: &Added, content: &[u8], now: Timestamp) -> Result<Bytes, SigningError> {
        let Some((_, of_author)) = self.keys_for(content) else { return Ok(Bytes::new()) };
        let also = added.also.as_ref().and_then(|domain| self.domains.get(domain.as_str()));
        let section = &content[..header::section_len(content)];
        let body = content.get(section.len() + 2..).unwrap_or_default();
        let fields = match added.fields.is_empty() {
            true => SignedFields::of(section),
            false => SignedFields::of(&[&added.fields, section].concat()),
        };
        let body_hash = canonical::body_hash(body);
        let mut out = Vec::with_capacity(FIELD_CAPACITY * of_author.keys.len() + added.fields.len());
        for of_domain in std::iter::once(of_author).chain(also) {
            for entry in &of_domain.keys {
                of_domain.sign_with(entry, &fields, body_hash.as_ref(), now)?.write(&mut out, true);
            }
        }
        out.extend_from_slice(&added.fields);
        Ok(out.into())
    }

    /// The keys of the author's domain, or of the closest domain above it that has any.
    fn keys_for(&self, content: &[u8]) -> Option<(Domain, &DomainKeys)> {
        if self.is_empty() {
            return None;
        }
        let section = &content[..header::section_len(content)];
        let from = canonical::fields(section).find(|field| field.is("From"))?;
        let author = author::domain(from.value)?;
        let mut name = author.as_str();
        loop {
            if let Some(found) = self.domains.get(name) {
                return Some((author, found));
            }
            name = name.split_once('.')?.1;
        }
    }
}

impl DomainKeys {
    fn sign_with(
        &self,
        entry: &KeyEntry,
        fields: &SignedFields,
        body_hash: &[u8],
        now: Timestamp,
    ) -> Result<Signature, SigningError> {
        let key = entry.key.as_ref().map_err(|why| SigningError::KeyUnusable {
            domain: self.domain.clone(),
            selector: entry.selector.clone(),
            why: why.clone(),
        })?;
        let mut signature = Signature {
            v: 1,
            a: key.signing().algorithm(),
            d: self.domain.as_str().into(),
            s: entry.selector.as_ref().into(),
            t: now.0 / 1000,
            h: fields.names.iter().map(|name| (*name).to_owned()).collect(),
            bh: body_hash.to_vec(),
            ..Signature::default()
        };
        let signed = key.signing().sign(SignedInput { fields: &fields.canonical, signature: &signature });
        signature.b = signed.map_err(|error| SigningError::Crypto {
            domain: self.domain.clone(),
            selector: entry.selector.clone(),
            why: error.to_string(),
        })?;
        Ok(signature)
    }
}

/// What a signature covers: the canonical fields, then the signature's own field with an empty `b=` (RFC 6376 §3.7).
struct SignedInput<'a> {
    fields: &'a [u8],
    signature: &'a Signature,
}

impl Writable for SignedInput<'_> {
    fn write(self, writer: &mut impl Writer) {
        writer.write(self.fields);
        self.signature.write(writer, false);
    }
}

#[cfg(test)]
mod tests;
