//! Remember: facts that outlive messages. Receipts by idempotency key, tenants, counts of quotas.
//!
//! What is durable stands in two logs; what is asked is made from them and can be made again:
//!
//! | folder | holds | lost or damaged |
//! |---|---|---|
//! | `receipts/` | a log of receipts, in batches and sorted runs (`receipts`) | what stood there is forgotten; the spool tells again what its own log still has |
//! | `facts/` | a log of small values by table and key (`facts`) | what stood there is forgotten |
//! | `index/` | sled: the facts that count | moved to `index.aside` and made anew from `facts/` |
//!
//! A receipt is durable with its message: the key stands in the `MESSAGE` record, and the spool keeps that record's segment until
//! the key is on disk here ([`Ledger::unrecorded`]). At start it hands over again what stands behind [`Ledger::recorded`]. So the
//! ledger may write receipts at leisure, and a crash forgets none.

mod codec;
mod facts;
#[doc(hidden)]
pub mod probe;
mod receipts;
#[cfg(test)]
mod tests;

pub use codec::CodecError;
pub use facts::{Bookmark, Page};
pub use receipts::{Begun, Ticket, Waiter};

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use bytes::Bytes;

use crate::clock::{Clock, Timestamp};
use crate::config::LedgerConfig;
use crate::log::{Files, Health, Log, LogError, LogOptions, Position, SegmentId, VerifiedRecord, VerifyReport};
use crate::mail::{Keyed, Receipt};
use crate::telemetry::Metrics;
use codec::Fact;
#[cfg(test)]
pub(crate) use facts::MemoryIndexes;
use facts::{Facts, Indexes, SledIndexes};
use receipts::{Pace, Receipts};

/// The ledger. Shared by `Arc`. The default one is in memory only, for tests.
#[derive(Debug, Default)]
pub struct Ledger {
    receipts: Arc<Receipts>,
    facts: Arc<Facts>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What a fact is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// Tenants by name.
    Tenants = 2,
    /// What tenants have used of their quotas.
    Usage = 3,
    /// Orders in force, by number.
    Orders = 4,
    /// How far sources are warmed up, by source and provider.
    Warmup = 5,
    /// What egress paths were found to take, by source and site.
    Paces = 6,
    /// Who must not be mailed, by scope and address.
    Suppressions = 7,
    /// How often an address failed for good, by address.
    HardBounces = 8,
    /// How empty the buckets of long limits are.
    Buckets = 9,
    /// What the reputation brake counted, by provider and stream.
    Brake = 10,
    /// What has come back already, by kind and message.
    Returned = 11,
    /// By which source mail comes again that was greylisted, by message.
    Wishes = 12,
}

impl Table {
    /// The table of that number. 0 is the index's own, 1 stood for receipts before there were any on disk.
    fn from_number(number: u8) -> Option<Table> {
        let all = [
            Table::Tenants,
            Table::Usage,
            Table::Orders,
            Table::Warmup,
            Table::Paces,
            Table::Suppressions,
            Table::HardBounces,
            Table::Buckets,
            Table::Brake,
            Table::Returned,
            Table::Wishes,
        ];
        all.into_iter().find(|table| *table as u8 == number)
    }
}

/// A fact could not be read or written.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the ledger: {0}")]
pub struct LedgerError(pub String);

impl LedgerError {
    /// With all its causes.
    fn new(error: &dyn std::error::Error) -> LedgerError {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        LedgerError(text)
    }
}

impl Ledger {
    /// Opens the ledger in `dir` and reads back what it remembers. Blocks.
    ///
    /// # Errors
    /// The folder cannot be read or written, or another process has it. A damaged index is no error: it is made anew.
    pub fn open(
        dir: &Path,
        config: &LedgerConfig,
        files: Arc<dyn Files>,
        metrics: Arc<Metrics>,
        clock: Clock,
    ) -> Result<Ledger, LedgerError> {
        let indexes = SledIndexes { dir: dir.join("index"), cache: config.cache_size.0 };
        Ledger::open_with(dir, config, Pace::default(), files, Box::new(indexes), metrics, clock)
    }

    fn open_with(
        dir: &Path,
        config: &LedgerConfig,
        pace: Pace,
        files: Arc<dyn Files>,
        indexes: Box<dyn Indexes>,
        metrics: Arc<Metrics>,
        clock: Clock,
    ) -> Result<Ledger, LedgerError> {
        let receipts_dir = dir.join("receipts");
        let (again, counts) = (Arc::clone(&files), Arc::clone(&metrics));
        let opened = Receipts::open(&receipts_dir, config.keep_keys, pace, again, counts, clock);
        let receipts = opened.map_err(|error| LedgerError::new(&error))?;
        let facts = Facts::open(&dir.join("facts"), pace.segment_size / 4, indexes, files, Arc::clone(&metrics))?;
        let ledger = Ledger { receipts, facts, threads: Mutex::default() };
        let (receipts, facts) = (Arc::clone(&ledger.receipts), Arc::clone(&ledger.facts));
        ledger.start("ledger", move || receipts.run())?;
        ledger.start("ledger-index", move || facts.run())?;
        Ok(ledger)
    }

    /// For tests on a simulated disk: in a hurry, with small runs.
    #[cfg(test)]
    pub(crate) fn open_small(files: &crate::log::sim::SimFiles) -> Ledger {
        Ledger::open_small_with(files, MemoryIndexes::default())
    }

    /// The same with the index that is in this folder.
    #[cfg(test)]
    pub(crate) fn open_small_on_sled(files: &crate::log::sim::SimFiles, dir: &Path) -> Ledger {
        Ledger::open_small_with(files, SledIndexes { dir: dir.to_owned(), cache: 1 << 20 })
    }

    /// The same with these indexes.
    #[cfg(test)]
    #[allow(private_bounds, reason = "a test has the few there are")]
    pub(crate) fn open_small_with(files: &crate::log::sim::SimFiles, indexes: impl Indexes + 'static) -> Ledger {
        let linger = std::time::Duration::from_millis(1);
        let proven_after = std::time::Duration::ZERO;
        let pace = Pace { linger, recent_max: 40, batches_max: 20, segment_size: 64 << 10, proven_after };
        let (files, indexes) = (Arc::new(files.clone()), Box::new(indexes));
        let config = LedgerConfig::default();
        let metrics = Arc::new(Metrics::new());
        Ledger::open_with(Path::new("/ledger"), &config, pace, files, indexes, metrics, Clock).unwrap()
    }

    fn start(&self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), LedgerError> {
        let thread = std::thread::Builder::new().name(name.into()).spawn(run);
        let thread = thread.map_err(|error| LedgerError::new(&error))?;
        self.threads.lock().expect("no code panics under this lock").push(thread);
        Ok(())
    }

    /// Puts a new configuration in force: `keep_keys` holds for keys that come from now on, `cache_size` after a restart.
    pub fn reload(&self, config: &LedgerConfig) {
        self.receipts.set_keep(config.keep_keys);
    }

    /// Syncs what waits and stops the threads. Call it after the spool was closed. Blocks; a second call does nothing.
    pub fn close(&self) {
        self.receipts.stop();
        self.facts.stop();
        let threads = std::mem::take(&mut *self.threads.lock().expect("no code panics under this lock"));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the ledger panicked");
            }
        }
        self.receipts.close_log();
        self.facts.close_log();
    }

    /// The first segment that the log of facts has; those before were compacted.
    #[cfg(test)]
    pub(crate) fn facts_begin_at(&self) -> Option<SegmentId> {
        self.facts.begins_at()
    }

    /// The value of a key. Takes microseconds; may read from disk.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, LedgerError> {
        self.facts.get(table, key)
    }

    /// As [`get`](Ledger::get), of a long value that stays what it is until it is removed: `mark` is for this key only, and
    /// spares the index when it is asked for again. What was removed lately may still be found by it.
    ///
    /// # Errors
    /// The index or the log cannot be read.
    pub fn get_marked(&self, table: Table, key: &[u8], mark: &Bookmark) -> Result<Option<Bytes>, LedgerError> {
        self.facts.get_marked(table, key, mark)
    }

    /// All keys of a table that begin with `prefix`, in order, with their values. For small tables.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn scan(&self, table: Table, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Bytes)>, LedgerError> {
        self.facts.scan(table, prefix)
    }

    /// The first keys of a table that begin with `prefix` and are not before `from`, in order, about `limit` of them; for tables
    /// of any size. A page may be empty and not the last.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn page(&self, table: Table, prefix: &[u8], from: &[u8], limit: usize) -> Result<Page, LedgerError> {
        self.facts.page(table, prefix, from, limit)
    }

    /// As [`put`](Ledger::put), for who has no time to wait, or no task: `done` is called on the log's thread.
    pub fn put_then(
        &self,
        table: Table,
        facts: Vec<(Vec<u8>, Option<Bytes>)>,
        done: impl FnOnce(Result<(), LedgerError>) + Send + 'static,
    ) {
        let facts = facts.into_iter().map(|(key, value)| Fact { table, key, value }).collect();
        self.facts.put(facts, done);
    }

    /// Waits until the index lacks less than so many octets of facts; they are held in memory. For who writes much. Blocks.
    pub fn wait_for_index(&self, octets: usize) {
        self.facts.wait_for_index(octets);
    }

    /// Sets (`Some`) or removes (`None`) facts, all or nothing. They are durable, and to be found, when this resolves. A key has
    /// at most 512 octets, a value 1 MiB; above 3 KiB it is read from the log.
    ///
    /// # Errors
    /// Nothing was written.
    ///
    /// # Cancel safety
    /// What was begun may become durable all the same.
    pub async fn put(&self, table: Table, facts: Vec<(Vec<u8>, Option<Bytes>)>) -> Result<(), LedgerError> {
        let (sender, answer) = tokio::sync::oneshot::channel();
        self.put_then(table, facts, move |result| drop(sender.send(result)));
        answer.await.unwrap_or_else(|_| Err(LedgerError("it is closed".into())))
    }

    /// A submission with a key begins. Takes microseconds; reads from disk if the key is probably known.
    pub fn begin(&self, tenant: &str, keyed: &Keyed) -> Begun {
        self.receipts.begin(tenant, keyed)
    }

    /// The message with the key is durable in the spool's log, at `at`; positions rise from call to call. The receipt is known until
    /// `keep_keys` have passed since its acceptance, and until `expires_at`. Called by the spool, on the log's thread; does not block.
    pub fn record(&self, tenant: &str, keyed: &Keyed, receipt: Receipt, expires_at: Timestamp, at: Position) {
        self.receipts.record(tenant, keyed, receipt, expires_at, at);
    }

    /// As [`record`](Ledger::record), at start, for a message whose key may have been recorded before. May read from disk.
    pub fn record_again(&self, tenant: &str, keyed: &Keyed, receipt: Receipt, expires_at: Timestamp, at: Position) {
        self.receipts.record_again(tenant, keyed, receipt, expires_at, at);
    }

    /// Keys in the spool's log up to here were on disk when the ledger was opened; those behind are to be recorded again.
    pub fn recorded(&self) -> Option<Position> {
        self.receipts.recorded()
    }

    /// The first segment of the spool's log with a key that is not on disk here. It must not be reclaimed.
    pub fn unrecorded(&self) -> Option<SegmentId> {
        self.receipts.unrecorded()
    }

    /// It was not stored.
    pub fn abandon(&self, tenant: &str, keyed: &Keyed) {
        self.receipts.abandon(tenant, keyed);
    }

    /// What was submitted with a key.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn receipt(&self, tenant: &str, key: &str) -> Result<Option<Receipt>, LedgerError> {
        self.receipts.get(tenant, key).map_err(LedgerError)
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.close();
    }
}

/// How one of the two logs is.
#[derive(Debug)]
struct LogGauges {
    name: &'static str,
    /// Everybody's.
    all: Arc<Metrics>,
    /// What the log counts as if it were the spool's.
    counts: Arc<Metrics>,
}

impl LogGauges {
    fn new(name: &'static str, all: Arc<Metrics>) -> LogGauges {
        LogGauges { name, all, counts: Arc::new(Metrics::new()) }
    }

    fn publish(&self, log: &Log) {
        let label = [self.name];
        self.all.ledger_bytes.with_label_values(&label).set(log.stats().bytes as i64);
        self.all.ledger_readonly.with_label_values(&label).set((log.health() != Health::Ok).into());
        self.all.ledger_damaged.with_label_values(&label).set(self.counts.spool_damaged.get() as i64);
    }
}

fn log_options(dir: &Path, segment_size: u64) -> LogOptions {
    // Little is kept free here: what is told of full disks is the spool's affair, and receipts follow its messages.
    LogOptions { segment_size, disk_free_min: 0, recycle_max: 2, ..LogOptions::new(dir) }
}

/// Checks both logs in `dir` without opening them, as [`crate::log::verify`] does. `visit` gets the kind of each record,
/// or why it cannot be read.
///
/// # Errors
/// A folder or file cannot be read.
pub fn verify(
    dir: &Path,
    visit: &mut dyn FnMut(&VerifiedRecord<'_>, Result<&'static str, CodecError>),
) -> Result<VerifyReport, LogError> {
    let mut whole = VerifyReport::default();
    type Describe = fn(u8, &[u8]) -> Result<&'static str, CodecError>;
    let logs: [(&str, Describe); 2] = [("receipts", receipts::describe), ("facts", facts::describe)];
    for (name, describe) in logs.into_iter().filter(|(name, _)| dir.join(name).exists()) {
        let each = &mut |record: VerifiedRecord<'_>| visit(&record, describe(record.kind, record.head));
        let report = crate::log::verify(&dir.join(name), each)?;
        whole.segments += report.segments;
        whole.records += report.records;
        whole.bytes += report.bytes;
        whole.torn += report.torn;
        whole.damaged.extend(report.damaged);
    }
    Ok(whole)
}
