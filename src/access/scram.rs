//! The server's side of SCRAM-SHA-256 (RFC 5802, RFC 7677), without its messages.
//!
//! The salt belongs to the tenant, not to the credential: so a client may call itself by its tenant's name, and keep the
//! name when its token changes. Then the proof is tried against each of the tenant's credentials.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{self, SHA256};
use aws_lc_rs::{hmac, pbkdf2};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use super::directory::Directory;
use super::guard::{Guard, Mechanism, Why};
use super::{AccessError, Principal};
use crate::clock::Clock;

const LEN: usize = digest::SHA256_OUTPUT_LEN;

/// What a server keeps to know a password again (RFC 5802 §3): `StoredKey` and `ServerKey`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "(String, String)", into = "(String, String)")]
pub(super) struct ScramKeys {
    pub(super) stored: [u8; LEN],
    pub(super) server: [u8; LEN],
}

impl ScramKeys {
    /// Keys of nobody.
    pub(super) const NONE: ScramKeys = ScramKeys { stored: [0; LEN], server: [0; LEN] };
}

/// The keys of a password of ASCII (SASLprep, RFC 4013, changes nothing in it).
pub(super) fn keys(password: &str, salt: &[u8], iterations: u32) -> ScramKeys {
    let iterations = NonZeroU32::new(iterations).unwrap_or(NonZeroU32::MIN);
    let mut salted = [0; LEN];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, password.as_bytes(), &mut salted);
    let key = hmac::Key::new(hmac::HMAC_SHA256, &salted);
    let client = sign(&key, b"Client Key");
    ScramKeys { stored: hash(&client), server: sign(&key, b"Server Key") }
}

/// The server's signature if `proof` is of these keys over these messages (RFC 5802 §3). Takes the same time if not.
pub(super) fn check(keys: &ScramKeys, auth_message: &[u8], proof: &[u8; LEN]) -> Option<[u8; LEN]> {
    let mut client = sign(&hmac::Key::new(hmac::HMAC_SHA256, &keys.stored), auth_message);
    client.iter_mut().zip(proof).for_each(|(octet, proof)| *octet ^= proof);
    let server = sign(&hmac::Key::new(hmac::HMAC_SHA256, &keys.server), auth_message);
    verify_slices_are_equal(&hash(&client), &keys.stored).is_ok().then_some(server)
}

fn sign(key: &hmac::Key, data: &[u8]) -> [u8; LEN] {
    hmac::sign(key, data).as_ref().try_into().expect("SHA-256 has 32 octets")
}

fn hash(data: &[u8]) -> [u8; LEN] {
    digest::digest(&SHA256, data).as_ref().try_into().expect("SHA-256 has 32 octets")
}

impl From<ScramKeys> for (String, String) {
    fn from(keys: ScramKeys) -> (String, String) {
        (BASE64_STANDARD.encode(keys.stored), BASE64_STANDARD.encode(keys.server))
    }
}

impl TryFrom<(String, String)> for ScramKeys {
    type Error = &'static str;

    fn try_from((stored, server): (String, String)) -> Result<ScramKeys, &'static str> {
        let octets = |text: &str| BASE64_STANDARD.decode(text).ok()?.try_into().ok();
        let keys = octets(&stored).zip(octets(&server)).ok_or("no two keys of 32 octets in base64")?;
        Ok(ScramKeys { stored: keys.0, server: keys.1 })
    }
}

/// Never the keys.
impl fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScramKeys(…)")
    }
}

/// One exchange with one user.
pub struct Scram {
    /// For the server's first message, to be encoded in base64.
    pub salt: Vec<u8>,
    /// For the server's first message.
    pub iterations: u32,
    /// Ids and keys of the credentials that may be meant; of users that do not exist, one that never fits.
    pub(super) candidates: Vec<(Arc<str>, ScramKeys)>,
    pub(super) directory: Arc<ArcSwap<Directory>>,
    pub(super) guard: Arc<Guard>,
    pub(super) clock: Clock,
}

impl Scram {
    /// Checks a client's proof over the messages as they went over the wire (`AuthMessage` in RFC 5802 §3). Gives the
    /// principal and the server's signature. Wrong ones are answered late, later each time.
    ///
    /// # Errors
    /// [`AccessError::Unauthenticated`].
    ///
    /// # Cancel safety
    /// Safe; a failure has been counted before its delay begins.
    pub async fn verify(
        &self,
        auth_message: &[u8],
        client_proof: &[u8],
        client: Option<IpAddr>,
    ) -> Result<(Arc<Principal>, Vec<u8>), AccessError> {
        let found = client_proof.try_into().ok().and_then(|proof| {
            let check = |(id, keys): &(Arc<str>, ScramKeys)| Some((Arc::clone(id), check(keys, auth_message, proof)?));
            // All of them, so that the time does not tell which.
            let fitting: Vec<_> = self.candidates.iter().filter_map(check).collect();
            fitting.into_iter().next()
        });
        let admitted = found.ok_or(Why::Wrong).and_then(|(id, signature)| {
            let principal = self.directory.load().principal(&id, self.clock.timestamp())?;
            Ok((principal, signature.to_vec()))
        });
        match admitted {
            Ok(admitted) => {
                self.guard.passed(Mechanism::Scram);
                Ok(admitted)
            }
            Err(why) => {
                let who = self.candidates.first().map(|(id, _)| id.as_ref());
                Err(self.guard.failed(Mechanism::Scram, why, client, who).await)
            }
        }
    }
}

impl fmt::Debug for Scram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scram").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7677 §3.
    #[test]
    fn the_example_of_the_rfc() {
        let base64 = |text: &str| BASE64_STANDARD.decode(text).expect("base64");
        let keys = keys("pencil", &base64("W22ZaJ0SNY7soEsUEjb6gQ=="), 4096);
        let auth_message = "n=user,r=rOprNGfwEbeRWgbNEkqO,\
            r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,\
            c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let proof: [u8; 32] = base64("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=").try_into().expect("32 octets");
        let server = base64("6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        assert_eq!(check(&keys, auth_message.as_bytes(), &proof).map(Vec::from), Some(server));

        assert_eq!(check(&keys, b"other messages", &proof), None);
        assert_eq!(check(&ScramKeys::NONE, auth_message.as_bytes(), &proof), None);
        let wrong = super::keys("Pencil", &base64("W22ZaJ0SNY7soEsUEjb6gQ=="), 4096);
        assert_eq!(check(&wrong, auth_message.as_bytes(), &proof), None);
    }

    #[test]
    fn keys_come_back_from_the_ledger() {
        let keys = keys("x", b"salt", 4096);
        let stored = serde_json::to_string(&keys).expect("plain data");
        assert_eq!(serde_json::from_str::<ScramKeys>(&stored).expect("just written"), keys);
        assert!(serde_json::from_str::<ScramKeys>("[\"AA==\",\"AA==\"]").is_err());
    }
}
