//! Own: messages in the log, and what became of each recipient. The `250` is earned here.
//!
//! A message is one `MESSAGE` record: envelope as head, content as body, written once. Whatever happens to a recipient
//! later is a small `STATE` record that rides along with the next sync and carries the event lines that tell of it, so
//! that state and events are exactly as durable as each other. The `STATE` record that ends the last recipient is the
//! message's tombstone. A `SIGNATURE` record keeps what was signed at the first attempt for the retries.
//!
//! | on disk | means | after a crash |
//! |---|---|---|
//! | `MESSAGE`, no tombstone | accepted, not finished | waits again, with the states found |
//! | `MESSAGE` not whole | never acknowledged | not there |
//! | `STATE` lost | an attempt is forgotten | that attempt is repeated |
//! | `STATE` that says "taken back" | recipients were in flight then | who is not at his end ends as cancelled |
//! | tombstone lost | the final reply was in flight | the recipient gets it twice |
//! | two copies of a `MESSAGE` | a straggler was being copied forward | the later one counts |
//!
//! States are order-independent: an end wins over waiting, more attempts over fewer, so copying a `STATE` record forward
//! is safe at any time. A segment with a tombstone outlives the segments with the message ([`crate::log`] `depend`).

mod cache;
#[doc(hidden)]
pub mod census;
mod codec;
mod index;
mod message;
#[doc(hidden)]
pub mod probe;
mod read;
mod reclaim;
mod replay;
mod state;
#[cfg(test)]
mod tests;
mod write;

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};

use crate::clock::{Clock, Timestamp};
use crate::config::SpoolConfig;
use crate::ledger::Ledger;
use crate::log::{Files, Health, Log, LogError, LogOptions, Position, SegmentId};
use crate::mail::{Envelope, IdMap, IdSet, MessageId, MessageIds};
use crate::telemetry::Metrics;

use cache::Cache;
pub use codec::CodecError;
use codec::Reader;
use index::Index;
pub use message::Message;
pub use replay::{ENDED, Opened, Restored, RestoredRecipient};
pub use state::{Change, End, RecipientState};

const MESSAGE: u8 = 1;
const STATE: u8 = 2;
const SIGNATURE: u8 = 3;

/// Why the spool did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SpoolError {
    /// The log refused or failed.
    #[error(transparent)]
    Log(#[from] Arc<LogError>),
    /// The record is there but cannot be read.
    #[error("message {id} on disk: {source}")]
    Damaged {
        /// The message.
        id: MessageId,
        /// What is wrong.
        source: CodecError,
    },
    /// No such message: finished, or never accepted.
    #[error("message {0} does not wait here: it has come to its end, or was never accepted")]
    Unknown(MessageId),
}

/// Takes event lines once they are on disk: where the record stands, and one or more JSON objects, a line each.
pub type Export = Arc<dyn Fn(Position, Bytes) + Send + Sync>;

/// Who is told of what is durable.
#[derive(Clone)]
pub struct Outlets {
    /// Event lines up to here need not be told again.
    pub exported: Option<Position>,
    /// Takes event lines.
    pub export: Export,
    /// Takes idempotency keys.
    pub ledger: Arc<Ledger>,
}

/// What one transaction changed about a message; written as one group, so all of it or nothing survives.
#[derive(Debug)]
pub struct Update {
    /// Which message.
    pub id: MessageId,
    /// New states, by recipient.
    pub changes: Vec<Change>,
    /// No recipient is left: the record is the tombstone.
    pub finished: bool,
    /// The event lines that tell of the changes.
    pub events: Bytes,
    /// What was signed, to be kept for the retries.
    pub signature: Option<Bytes>,
    /// Reports to the sender, accepted in the same group.
    pub reports: Vec<Arc<Message>>,
    /// Told when all of it is on disk; dropped if that never comes.
    pub synced: Option<oneshot::Sender<()>>,
}

/// Names no message: it would be from 1970.
const NOBODY: MessageId = MessageId(0);

/// Octets that wait to be written, beyond which whoever makes more records waits.
const BEHIND: usize = 64 << 20;

/// Beyond this the log refuses messages. Each door holds what it has taken within its `memory_max` until the answer, and what
/// waits here is that same memory: when a disk is slow, doors stop reading before anything is refused.
const QUEUED_MAX: usize = 1 << 30;

/// The spool. Shared by `Arc`.
pub struct Spool {
    log: Log,
    state: Mutex<State>,
    ids: MessageIds,
    export: Export,
    ledger: Arc<Ledger>,
    /// Segments from this one on hold events that may not be in the event log.
    exported: AtomicU32,
    /// A message is not ending any more.
    told: Notify,
}

#[derive(Debug)]
struct State {
    index: Index,
    cache: Cache,
    /// Messages of which a copy is queued.
    moving: IdSet,
    /// Copies of messages that finished while they were being copied: their tombstone must outlive the copy.
    ghosts: IdMap<SegmentId>,
    /// Finished messages whose last record is not on disk yet.
    ending: IdSet,
}

impl Spool {
    /// Opens the log in `dir` and finds what is there; [`restore`](Spool::restore) hands it out. Event lines that
    /// were not exported are handed over again.
    ///
    /// # Errors
    /// When the folder cannot be opened or is in use. Damaged records are reported in the result, not errors.
    pub fn open(
        dir: &Path,
        config: &SpoolConfig,
        files: Arc<dyn Files>,
        metrics: Arc<Metrics>,
        outlets: Outlets,
        clock: Clock,
    ) -> Result<(Arc<Spool>, Opened), SpoolError> {
        let options = LogOptions::new(dir);
        Spool::open_with(options, config, files, metrics, outlets, clock)
    }

    /// The same with options of the log's own that no configuration has: how it is driven.
    ///
    /// # Errors
    /// As [`open`](Spool::open).
    pub fn open_with(
        options: LogOptions,
        config: &SpoolConfig,
        files: Arc<dyn Files>,
        metrics: Arc<Metrics>,
        outlets: Outlets,
        clock: Clock,
    ) -> Result<(Arc<Spool>, Opened), SpoolError> {
        let Outlets { exported, export, ledger } = outlets;
        // Another spool may have stood here before. The event log and the ledger know positions in it; those of this one
        // have to come behind them, or who follows events would take what is new for old.
        let after = exported.max(ledger.recorded()).map_or(SegmentId(0), |position| position.segment);
        let options = LogOptions {
            segment_size: config.segment_size.0,
            disk_free_min: config.disk_free_min.0,
            after,
            queue_bytes_max: QUEUED_MAX,
            ..options
        };
        let dir = options.dir.display().to_string();
        let mut replay = replay::Replay::new(exported, export.clone(), Arc::clone(&ledger));
        let opened = Log::open(options, files, metrics, &mut |record| replay.visit(record));
        let (log, report) = opened.map_err(Arc::new)?;
        if report.renumbered {
            tracing::warn!(%dir, known = after.0,
                "this is not the spool that the event log and the ledger were written from; its segments are numbered on \
                 behind those of that one, and what it tells of from before is not told again: if the old one still exists, \
                 stop and put it back");
        }
        let (index, opened, last) = replay.finish(&log, report)?;
        let exported = exported.map_or(0, |exported| exported.segment.0);
        let cache = Cache::new(config.cache_size.bytes());
        let ids = MessageIds::after(last);
        ids.next(clock.timestamp());
        let (moving, ghosts, ending) = (IdSet::default(), IdMap::default(), IdSet::default());
        let state = Mutex::new(State { index, cache, moving, ghosts, ending });
        let (exported, told) = (exported.into(), Notify::new());
        Ok((Arc::new(Spool { log, state, ids, export, ledger, exported, told }), opened))
    }

    /// An id for a message about to come.
    pub fn next_id(&self, now: Timestamp) -> MessageId {
        self.ids.next(now)
    }

    /// The first of `count` ids that follow one another.
    pub fn next_ids(&self, now: Timestamp, count: u32) -> MessageId {
        self.ids.next_row(now, count)
    }

    /// The log has more to write than it should: whoever makes more records waits.
    pub fn is_behind(&self) -> bool {
        self.log.queued_bytes() > BEHIND
    }

    /// Whether new mail can be written, and why not.
    pub fn health(&self) -> Health {
        self.log.health()
    }

    /// Writes what is queued, where the log has no thread for it ([`Drive::Stepped`](crate::log::Drive)).
    pub fn step(&self) {
        self.log.step();
    }

    /// Segments from this one on hold events that are not yet safely in the event log.
    pub fn set_exported(&self, floor: SegmentId) {
        self.exported.store(floor.0, Ordering::Relaxed);
    }

    /// Syncs what waits, seals the log and stops its thread. Call it last.
    pub fn close(&self) {
        self.log.close();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics under this lock")
    }
}

impl std::fmt::Debug for Spool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spool").finish_non_exhaustive()
    }
}

/// What `posthaste spool verify` prints for a record: its kind and whether its head can be read.
pub fn describe(kind: u8, head: &[u8]) -> Result<&'static str, CodecError> {
    match kind {
        MESSAGE => codec::read_envelope(&mut Reader(head)).map(|_: Envelope| "message"),
        STATE => state::read(head).map(|_| "state"),
        SIGNATURE => Ok("signature"),
        _ => Err(CodecError("kind")),
    }
}
