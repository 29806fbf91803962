//! What happened in a run, in numbers and as a sum.

use std::fmt::{self, Write};
use std::hash::{DefaultHasher, Hasher};
use std::time::Duration;

use super::flat::Held;

/// What happened, in numbers.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Tally {
    pub messages: usize,
    pub recipients: usize,
    pub delivered: usize,
    pub bounced: usize,
    pub expired: usize,
    pub deferrals: usize,
    pub reports: usize,
    /// Copies beyond the first, each explained.
    pub repeats: usize,
    pub connections: usize,
    pub connections_max: usize,
    pub waiting_max: usize,
    pub lives: usize,
    /// To a place that takes everything, whatever stood in line there.
    pub slowest_transactional: Duration,
    /// The longest anybody stood in line at such a place, by class: transactional, bulk, system.
    pub slowest: [Duration; 3],
    /// Who expired there meanwhile.
    pub expired_in_line: usize,
    /// From when an attempt was due to when it began, at any place.
    pub latest_attempt: Duration,
    /// The most the engine held.
    pub held: Held,
    /// Octets of the log, and how many of them live, when there were most.
    pub log_bytes_max: (u64, u64),
}

/// A sum over everything that happened, in order.
#[derive(Debug, Default)]
pub struct Digest(DefaultHasher);

impl Digest {
    /// Adds a text.
    pub fn add(&mut self, what: fmt::Arguments<'_>) {
        let _ = self.write_fmt(what);
    }

    /// The sum so far.
    pub fn sum(&self) -> u64 {
        self.0.finish()
    }
}

impl Write for Digest {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}
