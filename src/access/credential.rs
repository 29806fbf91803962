//! What is kept of a secret: enough to know it again over every protocol, too little to tell it.
//!
//! The secret has 160 random bits and is made here, never chosen by a person. So no hash of it can be guessed backwards,
//! the fast ones (`glimpse`, SCRAM's keys) as little as argon2id. What argon2id adds is that this stays true if chance
//! was weaker than we thought.

use std::fmt;

use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{self, SHA256};
use serde::{Deserialize, Serialize};

use super::scram::{self, ScramKeys};
use super::token::Token;
use crate::clock::Timestamp;

/// What argon2id costs: memory in KiB and passes. The first recommendation of OWASP's cheat sheet for password storage
/// with parallelism 1; some 20 ms.
const ARGON2: (u32, u32) = (19 * 1024, 2);

/// PBKDF2's rounds in SCRAM, the least that RFC 7677 §4 allows: against random secrets more buy nothing, and every login
/// of a client pays them.
pub(super) const SCRAM_ITERATIONS: u32 = 4096;

/// A credential as the ledger keeps it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Credential {
    /// Part of the token. Never used twice.
    pub(super) id: String,
    /// What people call it.
    #[serde(default)]
    pub(super) label: String,
    pub(super) created_at: Timestamp,
    /// From then on it is as good as gone; `None`: never.
    #[serde(default)]
    pub(super) expires_at: Option<Timestamp>,
    /// argon2id of the token, as a PHC string.
    pub(super) hash: String,
    /// A bit of a fast hash of the token: all but one wrong secret in four billion are turned away before argon2id, so
    /// that whoever guesses cannot keep it busy.
    pub(super) glimpse: u32,
    pub(super) scram: ScramKeys,
}

impl Credential {
    /// What is to be kept of `token`. Takes some ten milliseconds of CPU.
    pub(super) fn of(
        token: Token<'_>,
        scram_salt: &[u8],
        label: String,
        now: Timestamp,
        salt: &[u8; 16],
    ) -> Credential {
        let salt = SaltString::encode_b64(salt).expect("16 octets are a good salt");
        let hash = argon2().hash_password(token.as_str().as_bytes(), &salt).expect("parameters and salt are good");
        Credential {
            id: token.id().to_owned(),
            label,
            created_at: now,
            expires_at: None,
            hash: hash.to_string(),
            glimpse: glimpse(token),
            scram: scram::keys(token.as_str(), scram_salt, SCRAM_ITERATIONS),
        }
    }

    pub(super) fn has_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

/// Without what could be attacked.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("id", &self.id).field("label", &self.label).finish_non_exhaustive()
    }
}

fn argon2() -> Argon2<'static> {
    let params = Params::new(ARGON2.0, ARGON2.1, 1, None).expect("constants that argon2 takes");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

/// Whether `hash` is of `token`. Takes some ten milliseconds of CPU and as much memory as the hash says.
pub(super) fn fits(token: &str, hash: &str) -> bool {
    let Ok(hash) = PasswordHash::new(hash) else { return false };
    argon2().verify_password(token.as_bytes(), &hash).is_ok()
}

/// The first 32 bits of SHA-256.
fn glimpse(token: Token<'_>) -> u32 {
    let hash = digest::digest(&SHA256, token.as_str().as_bytes());
    u32::from_be_bytes(hash.as_ref()[..4].try_into().expect("there are 32"))
}

/// Whether `token` may be the one with that glimpse. `None` costs as much, and never fits.
pub(super) fn may_fit(token: Token<'_>, expected: Option<u32>) -> bool {
    let same = verify_slices_are_equal(&glimpse(token).to_be_bytes(), &expected.unwrap_or_default().to_be_bytes());
    same.is_ok() & expected.is_some()
}

#[cfg(test)]
mod tests {
    use super::super::token;
    use super::*;

    #[test]
    fn a_secret_is_known_again_and_not_kept() {
        let text = token::make(&[3; 44]);
        let token = Token::parse(&text).expect("made by us");
        let credential = Credential::of(token, &[1; 16], "web".into(), Timestamp(5), &[2; 16]);
        assert!(credential.hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", credential.hash);
        assert!(may_fit(token, Some(credential.glimpse)) && fits(&text, &credential.hash));

        let wrong = token::make(&[4; 44]);
        let other = Token::parse(&wrong).expect("made by us");
        assert!(!may_fit(other, Some(credential.glimpse)) && !may_fit(other, None) && !fits(&wrong, &credential.hash));
        assert!(!fits(&text, "") && !fits(&text, "$argon2id$v=19$m=1"));

        let stored = serde_json::to_string(&credential).expect("plain data");
        assert!(!stored.contains(&text[16..]) && stored.contains(token.id()));
        assert_eq!(serde_json::from_str::<Credential>(&stored).expect("just written"), credential);
        assert_eq!(format!("{credential:?}"), "Credential { id: \"dddddddddddd\", label: \"web\", .. }");
    }

    #[test]
    fn it_ends_when_it_says() {
        let text = token::make(&[3; 44]);
        let token = Token::parse(&text).expect("made by us");
        let mut credential = Credential::of(token, &[1; 16], String::new(), Timestamp(5), &[2; 16]);
        assert!(!credential.has_expired(Timestamp(u64::MAX)));
        credential.expires_at = Some(Timestamp(9));
        assert!(!credential.has_expired(Timestamp(8)) && credential.has_expired(Timestamp(9)));
    }
}
