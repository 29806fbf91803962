//! Remember: facts that outlive messages. Receipts by idempotency key, tenants, counts of quotas.
//!
//! (Skeleton: in memory only. The real one keeps them in a log of its own, indexed by sled.)

mod receipts;

pub use receipts::{Begun, Ticket, Waiter};

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::clock::Clock;
use crate::config::LedgerConfig;
use crate::log::Files;
use crate::mail::{Keyed, Receipt};
use crate::telemetry::Metrics;

/// The ledger. Shared by `Arc`.
#[derive(Debug, Default)]
pub struct Ledger {
    receipts: Arc<receipts::Receipts>,
    facts: Mutex<BTreeMap<(Table, Vec<u8>), Bytes>>,
}

/// What a fact is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// Receipts by tenant and idempotency key.
    Receipts = 1,
    /// Tenants by name.
    Tenants = 2,
    /// What tenants have used of their quotas.
    Usage = 3,
}

/// A fact could not be read or written.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the ledger: {0}")]
pub struct LedgerError(pub String);

impl Ledger {
    /// Opens the ledger in `dir` and reads back what it remembers. Blocks.
    ///
    /// # Errors
    /// The folder cannot be read or written, or another process has it. A damaged index is no error: it is made anew.
    pub fn open(
        _dir: &Path,
        _config: &LedgerConfig,
        _files: Arc<dyn Files>,
        _metrics: Arc<Metrics>,
        _clock: Clock,
    ) -> Result<Ledger, LedgerError> {
        Ok(Ledger::default())
    }

    /// Puts a new configuration in force: `keep_keys` holds for keys that come from now on.
    pub fn reload(&self, _config: &LedgerConfig) {}

    /// Syncs what waits and stops the threads. Call it after the spool was closed. Blocks; a second call does nothing.
    pub fn close(&self) {}

    /// The value of a key. Takes microseconds; may read from disk.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, LedgerError> {
        Ok(self.facts.lock().expect("no code panics under this lock").get(&(table, key.to_vec())).cloned())
    }

    /// All keys of a table that begin with `prefix`, in order, with their values. For small tables.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn scan(&self, table: Table, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Bytes)>, LedgerError> {
        let facts = self.facts.lock().expect("no code panics under this lock");
        let found = facts.iter().filter(|((t, key), _)| *t == table && key.starts_with(prefix));
        Ok(found.map(|((_, key), value)| (key.clone(), value.clone())).collect())
    }

    /// Sets (`Some`) or removes (`None`) facts, all or nothing. They are durable when this resolves.
    ///
    /// # Errors
    /// Nothing was written.
    ///
    /// # Cancel safety
    /// What was begun may become durable all the same.
    pub async fn put(&self, table: Table, facts: Vec<(Vec<u8>, Option<Bytes>)>) -> Result<(), LedgerError> {
        let mut known = self.facts.lock().expect("no code panics under this lock");
        for (key, value) in facts {
            match value {
                Some(value) => _ = known.insert((table, key), value),
                None => _ = known.remove(&(table, key)),
            }
        }
        Ok(())
    }

    /// A submission with a key begins.
    pub fn begin(&self, tenant: &str, keyed: &Keyed) -> Begun {
        self.receipts.begin(tenant, keyed)
    }

    /// The message with the key is durable. Called by the spool, on the log's thread; does not block.
    pub fn record(&self, tenant: &str, keyed: &Keyed, receipt: Receipt) {
        self.receipts.record(tenant, keyed, receipt);
    }

    /// It was not stored.
    pub fn abandon(&self, tenant: &str, keyed: &Keyed) {
        self.receipts.abandon(tenant, keyed);
    }

    /// What was submitted with a key.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn receipt(&self, tenant: &str, key: &str) -> Result<Option<Receipt>, LedgerError> {
        Ok(self.receipts.get(tenant, key))
    }
}
