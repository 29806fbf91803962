//! An authority that knows one user, the one of the example in RFC 7677 §3, with its salt and its nonce: for tests and
//! fuzz targets, which need the same answers each time.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::{hmac, pbkdf2};

use super::{Authority, BASE64_STANDARD, Checking, Engine, ScramKeys, Verified};
use crate::access::{AccessError, How, Principal, Tenant};

const USER: &str = "user";
const PASSWORD: &str = "pencil";
const SALT: &str = "W22ZaJ0SNY7soEsUEjb6gQ==";
const NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
const ITERATIONS: u32 = 4096;

/// The authority.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Example {
    /// How long it thinks before it says no.
    pub(in super::super) delay: Duration,
    /// It has had enough, and says so to everybody.
    pub(in super::super) tired: bool,
}

impl Example {
    fn answer(&self, good: bool, last_words: Option<Vec<u8>>) -> Checking {
        let Example { delay, tired } = *self;
        Box::pin(async move {
            if tired {
                let why = "too many failed attempts, try again later".into();
                return Err(AccessError::Quota { why, retry_after: None });
            }
            if good {
                let tenant = Some(Arc::new(Tenant { name: "shop".into(), ..Tenant::default() }));
                let principal = Arc::new(Principal { tenant, how: How::Credential("user".into()) });
                return Ok(Verified { principal, last_words });
            }
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            Err(AccessError::Unauthenticated)
        })
    }
}

impl Authority for Example {
    fn password(self: Arc<Self>, user: String, password: String, _: IpAddr) -> Checking {
        self.answer(user == USER && password == PASSWORD, None)
    }

    fn scram(&self, user: &str) -> Box<dyn ScramKeys> {
        let salt = BASE64_STANDARD.decode(SALT).expect("base64");
        Box::new(Keys { example: self.clone(), salt, known: user == USER })
    }

    fn certificate(&self, names: &[String]) -> Result<Arc<Principal>, AccessError> {
        let known = |name: &&String| ["shop.example", "bank.example"].contains(&name.as_str());
        let name = names.iter().find(known).ok_or(AccessError::Unauthenticated)?;
        let tenant = Tenant { name: name.trim_end_matches(".example").into(), ..Tenant::default() };
        Ok(Arc::new(Principal { tenant: Some(Arc::new(tenant)), how: How::Certificate(name.as_str().into()) }))
    }

    fn nonce(&self) -> String {
        NONCE.into()
    }
}

struct Keys {
    example: Example,
    salt: Vec<u8>,
    known: bool,
}

impl ScramKeys for Keys {
    fn salt(&self) -> &[u8] {
        &self.salt
    }

    fn iterations(&self) -> u32 {
        ITERATIONS
    }

    /// RFC 5802 §3.
    fn verify(self: Box<Self>, auth_message: Vec<u8>, proof: Vec<u8>, _: IpAddr) -> Checking {
        let mut salted = [0; 32];
        let iterations = NonZeroU32::new(ITERATIONS).expect("it is not 0");
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &self.salt, PASSWORD.as_bytes(), &mut salted);
        let sign = |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text);
        let stored = digest(&SHA256, sign(&salted, b"Client Key").as_ref());
        let signature = sign(stored.as_ref(), &auth_message);
        let client_key: Vec<u8> = proof.iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
        let good = self.known && digest(&SHA256, &client_key).as_ref() == stored.as_ref();
        let server = sign(sign(&salted, b"Server Key").as_ref(), &auth_message);
        self.example.answer(good, Some(format!("v={}", BASE64_STANDARD.encode(server)).into_bytes()))
    }
}
