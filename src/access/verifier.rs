//! Checks secrets, and remembers which were right, so that not every request pays for argon2id.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::hmac;
use tokio::sync::Semaphore;

use super::credential;
use super::token::Token;
use crate::clock::{Clock, Instant};

/// How long a secret that was right is taken without argon2id. Whether its credential still stands is looked up each time.
const TRUSTED_FOR: Duration = Duration::from_secs(3600);

/// Secrets remembered; only right ones are, so no guess pushes them out.
const KNOWN_MAX: usize = 10_000;

type Tag = [u8; 32];

/// Checks secrets against hashes.
pub(super) struct Verifier {
    /// Of this process alone: a copy of the memory of the cache is worth nothing without it.
    key: hmac::Key,
    known: Mutex<HashMap<Tag, Known>>,
    /// argon2id runs at once: each takes a core and 19 MiB.
    slots: Arc<Semaphore>,
    clock: Clock,
}

struct Known {
    /// The id of its credential.
    id: Box<str>,
    since: Instant,
}

impl Verifier {
    pub(super) fn new(slots: usize, clock: Clock) -> Verifier {
        let key: [u8; 32] = super::chance();
        Verifier {
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            known: Mutex::default(),
            slots: Arc::new(Semaphore::new(slots)),
            clock,
        }
    }

    /// Whether `token` is the one that `hash` is of. Of many that ask for the same one at once, one pays.
    ///
    /// # Cancel safety
    /// Safe; a check under way ends, and its slot is taken until then.
    pub(super) async fn fits(&self, token: Token<'_>, hash: &str) -> bool {
        let tag = self.tag(token);
        if self.knows(&tag) {
            return true;
        }
        let Ok(slot) = Arc::clone(&self.slots).acquire_owned().await else { return false };
        if self.knows(&tag) {
            return true;
        }
        let (text, hash) = (token.as_str().to_owned(), hash.to_owned());
        let checking = tokio::task::spawn_blocking(move || {
            let fits = credential::fits(&text, &hash);
            drop(slot);
            fits
        });
        let fits = checking.await.unwrap_or(false);
        if fits {
            self.remember(tag, token.id());
        }
        fits
    }

    /// A credential has gone.
    pub(super) fn forget(&self, id: &str) {
        self.known.lock().expect("no code panics under this lock").retain(|_, known| known.id.as_ref() != id);
    }

    fn tag(&self, token: Token<'_>) -> Tag {
        hmac::sign(&self.key, token.as_str().as_bytes()).as_ref().try_into().expect("SHA-256 has 32 octets")
    }

    fn knows(&self, tag: &Tag) -> bool {
        let now = self.clock.instant();
        let known = self.known.lock().expect("no code panics under this lock");
        known.get(tag).is_some_and(|known| now.duration_since(known.since) < TRUSTED_FOR)
    }

    fn remember(&self, tag: Tag, id: &str) {
        let since = self.clock.instant();
        let mut known = self.known.lock().expect("no code panics under this lock");
        if known.len() >= KNOWN_MAX {
            known.retain(|_, known| since.duration_since(known.since) < TRUSTED_FOR / 2);
        }
        if known.len() < KNOWN_MAX {
            known.insert(tag, Known { id: id.into(), since });
        }
    }
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").field("slots", &self.slots).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::token;
    use super::*;
    use crate::access::credential::Credential;
    use crate::clock::Timestamp;

    #[tokio::test]
    async fn argon2_is_paid_once() {
        let text = token::make(&[5; 44]);
        let token = Token::parse(&text).expect("made by us");
        let hash = Credential::of(token, b"salt", String::new(), Timestamp(0), &[1; 16]).hash;
        let verifier = Verifier::new(1, Clock);
        assert!(!verifier.fits(token, "no hash").await);
        let together = tokio::join!(verifier.fits(token, &hash), verifier.fits(token, &hash));
        assert_eq!(together, (true, true));
        assert!(verifier.fits(token, "no hash is looked at").await, "it is remembered");
        verifier.forget("someoneelses");
        assert!(verifier.fits(token, "").await);
        verifier.forget(token.id());
        assert!(!verifier.fits(token, "").await, "it is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_not_remembered_for_ever() {
        let text = token::make(&[5; 44]);
        let token = Token::parse(&text).expect("made by us");
        let verifier = Verifier::new(1, Clock);
        verifier.remember(verifier.tag(token), token.id());
        tokio::time::advance(TRUSTED_FOR - Duration::from_millis(1)).await;
        assert!(verifier.fits(token, "").await);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!verifier.fits(token, "").await);
    }
}
