//! `[spool]`, `[events]`, `[ledger]`: what is kept on disk, and how much of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ByteSize;

/// `[spool]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SpoolConfig {
    /// Size of one log file.
    pub segment_size: ByteSize,
    /// Memory for messages that wait for their first attempt.
    pub cache_size: ByteSize,
    /// Below this much free disk new mail gets 452.
    pub disk_free_min: ByteSize,
    /// Recipients waiting at once; beyond it new mail gets 452.
    pub recipients_max: usize,
}

impl Default for SpoolConfig {
    fn default() -> SpoolConfig {
        SpoolConfig {
            segment_size: ByteSize(64 << 20),
            cache_size: ByteSize(32 << 20),
            disk_free_min: ByteSize(256 << 20),
            recipients_max: 10_000_000,
        }
    }
}

/// `[events]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EventsConfig {
    /// A file of this size is set aside and a new one begun.
    pub rotate_size: ByteSize,
    /// Files set aside that are kept.
    pub keep: usize,
}

impl Default for EventsConfig {
    fn default() -> EventsConfig {
        EventsConfig { rotate_size: ByteSize(256 << 20), keep: 8 }
    }
}

/// `[ledger]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LedgerConfig {
    /// How long a submission's idempotency key is known at least, from its acceptance; longer where the message may live
    /// longer.
    #[serde(with = "humantime_serde")]
    pub keep_keys: Duration,
    /// Memory for reading the index.
    pub cache_size: ByteSize,
}

impl Default for LedgerConfig {
    fn default() -> LedgerConfig {
        LedgerConfig { keep_keys: Duration::from_secs(7 * 86_400), cache_size: ByteSize(32 << 20) }
    }
}
