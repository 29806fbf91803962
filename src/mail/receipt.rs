//! What a submission is called, and what its client gets for it.

use std::fmt;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use super::MessageId;
use crate::clock::Timestamp;

/// Longest idempotency key, in octets.
pub const KEY_MAX: usize = 255;

/// A client's own name for a submission: the same name again, by the same tenant, is the same submission and gets the
/// same receipt. 1 to 255 printable characters of ASCII.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IdempotencyKey(Box<str>);

/// The text is no idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to {KEY_MAX} printable ASCII characters without spaces")]
pub struct IdempotencyKeyError;

impl IdempotencyKey {
    /// The key as given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for IdempotencyKey {
    type Err = IdempotencyKeyError;

    fn from_str(text: &str) -> Result<IdempotencyKey, IdempotencyKeyError> {
        let good = (1..=KEY_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        if good { Ok(IdempotencyKey(text.into())) } else { Err(IdempotencyKeyError) }
    }
}

impl TryFrom<String> for IdempotencyKey {
    type Error = IdempotencyKeyError;
    fn try_from(text: String) -> Result<IdempotencyKey, IdempotencyKeyError> {
        text.parse()
    }
}

impl From<IdempotencyKey> for String {
    fn from(key: IdempotencyKey) -> String {
        key.0.into()
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a submission said, in 128 bits. The first octet names the function that made the others: what different functions
/// made cannot be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 16]);

impl Fingerprint {
    /// Made by a function that nobody knows any more.
    pub const UNKNOWN: Fingerprint = Fingerprint([0; 16]);

    /// What `function`, which is not 0, made of a submission; of `hash` 120 bits are kept.
    pub fn new(function: u8, hash: u128) -> Fingerprint {
        let mut octets = hash.to_le_bytes();
        octets[0] = function;
        Fingerprint(octets)
    }

    /// Half of it, the function included: enough to be compared with one other.
    pub fn short(self) -> u64 {
        u64::from_le_bytes(*self.0.first_chunk().expect("it has 16 octets"))
    }

    /// Whether what these are [short](Fingerprint::short) for surely said different things.
    pub fn contradict(one: u64, other: u64) -> bool {
        one as u8 == other as u8 && one != other
    }
}

/// How a submission with an idempotency key is known. Stands in the envelope of its first message, so that key and
/// message are durable in one commit.
#[derive(Debug, Clone)]
pub struct Keyed {
    /// The client's name for it; its scope is the tenant of the envelope's stream.
    pub key: IdempotencyKey,
    /// What it said.
    pub fingerprint: Fingerprint,
    /// How many messages it became, this one being the first; their ids follow one another.
    pub messages: u32,
    /// See [`name`](Keyed::name).
    name: OnceLock<u128>,
}

impl Keyed {
    /// A submission of `messages` messages.
    pub fn new(key: IdempotencyKey, fingerprint: Fingerprint, messages: u32) -> Keyed {
        Keyed { key, fingerprint, messages, name: OnceLock::new() }
    }

    /// What the ledger calls it: made by `make` when it is first asked for. A good hash of so short a text is a tenth of what
    /// a key costs, and the ledger asks twice. It stands for the tenant, too, which must not change from then on.
    pub fn name(&self, make: impl FnOnce(&IdempotencyKey) -> u128) -> u128 {
        *self.name.get_or_init(|| make(&self.key))
    }
}

/// Whether the name has been asked for makes no difference.
impl PartialEq for Keyed {
    fn eq(&self, other: &Keyed) -> bool {
        (&self.key, self.fingerprint, self.messages) == (&other.key, other.fingerprint, other.messages)
    }
}

impl Eq for Keyed {}

/// What a client gets for a submission that is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// The message; of several, the first. The ids of the others follow.
    pub id: MessageId,
    /// How many messages it became: one, or one for each recipient of a personal submission.
    pub messages: u32,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// This submission had been accepted before, and nothing was done now.
    pub replayed: bool,
}

impl Receipt {
    /// The ids of all its messages.
    pub fn ids(self) -> impl ExactSizeIterator<Item = MessageId> {
        (0..self.messages).map(move |n| MessageId(self.id.0 + u64::from(n)))
    }
}
