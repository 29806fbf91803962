//! Facts: small values by table and key. The log is the truth; an index over it is what is asked.
//!
//! | deed | order |
//! |---|---|
//! | `put` | record in the log, synced; in memory, where `get` looks first; `put` resolves |
//! | apply | the index's thread hands facts to the index, which syncs; only then they leave memory |
//! | start | the index says how far it has come, and gets what the log has behind that |
//! | the index fails, panics, will not open or knows more than the log | moved aside, and made anew from the log; in memory if the disk is full |
//! | compaction | from the oldest segment on: facts that still count are written again, then the segment goes |
//!
//! The first is done here, and asked in `ask.rs`; the last in `compact.rs`, the others in `upkeep.rs`.
//!
//! Removals need no care: they are dropped with their segment, and by then all older ones are gone.

mod ask;
mod bookmark;
mod compact;
#[cfg(test)]
mod faulty;
mod index;
mod memory;
mod sled;
mod upkeep;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use bytes::Bytes;
use smallvec::SmallVec;

use super::codec::{CodecError, Fact, read_facts, write_facts};
use super::{LedgerError, LogGauges, Table, log_options};
use crate::log::{Append, Durability, Files, Location, Log, LogError, Position, Replayed, SegmentId};
use crate::telemetry::Metrics;
pub use ask::Page;
pub use bookmark::Bookmark;
#[cfg(test)]
pub(crate) use faulty::MemoryIndexes;
pub(super) use index::Indexes;
use index::{Applied, Index};
use memory::MemoryIndex;
pub(super) use sled::{SledIndexes, probe};

const FACTS: u8 = 1;

/// Longest value, in octets.
pub(super) const VALUE_MAX: usize = 1 << 20;
/// Longest key, in octets.
pub(super) const KEY_MAX: usize = 512;

type Key = (Table, Vec<u8>);

/// All tables.
#[derive(Default)]
pub(super) struct Facts {
    state: Mutex<State>,
    /// Wakes the index's thread.
    wake: Condvar,
    /// Wakes those who wait for it.
    caught_up: Condvar,
    /// `None`: in memory only.
    disk: Option<Disk>,
}

struct Disk {
    log: Log,
    dir: PathBuf,
    files: Arc<dyn Files>,
    indexes: Box<dyn Indexes>,
    gauges: LogGauges,
    /// Octets.
    segment_size: u64,
}

#[derive(Default)]
struct State {
    /// Durable, and perhaps not in the index yet.
    fresh: BTreeMap<Key, Fresh>,
    /// On their way to the log.
    pending: HashMap<Key, usize>,
    /// For the index, in the order of the log.
    queue: VecDeque<(Position, Fact)>,
    /// Octets of that.
    behind: usize,
    /// `None` while it is out of use.
    index: Option<Arc<dyn Index>>,
    /// The index is not on disk.
    in_memory: bool,
    applied: Option<Applied>,
    /// What is retained, by segment.
    records: BTreeMap<SegmentId, Vec<Location>>,
    /// Segments that what counts filled at the last compaction, or fills at the start.
    compacted: usize,
    closing: bool,
}

struct Fresh {
    at: Position,
    value: Option<Bytes>,
}

/// What `posthaste spool verify` prints for a record of this log.
pub(super) fn describe(kind: u8, head: &[u8]) -> Result<&'static str, CodecError> {
    match kind {
        FACTS => read_facts(head).map(|_| "facts"),
        _ => Err(CodecError("kind")),
    }
}

impl Facts {
    /// Opens the log in `dir` and brings the index up to date; makes it anew if need be.
    pub(super) fn open(
        dir: &Path,
        segment_size: u64,
        indexes: Box<dyn Indexes>,
        files: Arc<dyn Files>,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Facts>, LedgerError> {
        let mut state = State::default();
        let mut last = None;
        let mut visit = |record: Replayed<'_>| {
            last = Some(record.location.position);
            state.keep(record.location);
        };
        let gauges = LogGauges::new("facts", metrics);
        let counts = Arc::clone(&gauges.counts);
        let opened = Log::open(log_options(dir, segment_size), Arc::clone(&files), counts, &mut visit);
        let (log, _) = opened.map_err(|error| LedgerError::new(&error))?;
        state.records.values().flatten().for_each(|location| log.retain(*location));
        let disk = Disk { log, dir: dir.to_owned(), files, indexes, gauges, segment_size };
        let opened = disk.open_index(last).or_else(|error| {
            // A full disk, say: mail must be taken from the queue all the same. Today's tables are small.
            tracing::error!(%error, "no index of the ledger can be made on disk; it is held in memory until the next start");
            state.in_memory = true;
            disk.catch_up(Arc::new(MemoryIndex::default()), None, None)
        });
        let (index, applied) = opened.map_err(|error| LedgerError::new(&error))?;
        (state.index, state.applied) = (Some(index), applied);
        // As if the last compaction had just ended: what needs none is not written anew at each start.
        state.compacted = disk.segments_of(applied.map_or(0, |applied| applied.octets));
        let facts =
            Facts { state: Mutex::new(state), wake: Condvar::new(), caught_up: Condvar::new(), disk: Some(disk) };
        facts.publish();
        Ok(Arc::new(facts))
    }

    /// Writes facts, all or nothing; `done` is called when they are durable and to be found.
    pub(super) fn put(self: &Arc<Self>, facts: Vec<Fact>, done: impl FnOnce(Result<(), LedgerError>) + Send + 'static) {
        if let Some(fact) = facts.iter().find(|fact| !fits(fact)) {
            let key = String::from_utf8_lossy(&fact.key);
            return done(Err(LedgerError(format!("{:?} {key:?} is too long to be kept", fact.table))));
        }
        let mut state = self.lock();
        if self.disk.is_none() {
            let at = Position { segment: SegmentId(0), offset: 0 };
            state.fresh.extend(facts.into_iter().map(|f| ((f.table, f.key), Fresh { at, value: f.value })));
            drop(state);
            return done(Ok(()));
        }
        for fact in &facts {
            *state.pending.entry((fact.table, fact.key.clone())).or_default() += 1;
        }
        // Under the lock, so that a copy of an older fact cannot come behind it.
        self.append(facts, Durability::Synced, done);
    }

    /// Appends a record; on the log's thread its facts are noted.
    fn append(
        self: &Arc<Self>,
        facts: Vec<Fact>,
        durability: Durability,
        done: impl FnOnce(Result<(), LedgerError>) + Send + 'static,
    ) {
        let Some(disk) = &self.disk else { return };
        let (this, head) = (Arc::clone(self), write_facts(&facts));
        let noted = move |result: Result<Location, LogError>| {
            let put = durability == Durability::Synced;
            match result {
                Ok(location) => this.note(facts, location, put),
                // After a close this is called under the lock, by `append` itself; nobody asks then.
                Err(LogError::Closed) => {}
                Err(_) => this.lock().settle(&facts, put),
            }
            done(result.map(|_| ()).map_err(|error| LedgerError::new(&error)));
        };
        let done = Some(Box::new(noted) as crate::log::Done);
        disk.log.append([Append { kind: FACTS, id: 0, head, body: SmallVec::new(), durability, done }]);
    }

    /// On the log's thread: the facts are durable.
    fn note(&self, facts: Vec<Fact>, location: Location, put: bool) {
        let Some(disk) = &self.disk else { return };
        disk.log.retain(location);
        let at = location.position;
        let mut state = self.lock();
        state.settle(&facts, put);
        state.keep(location);
        for fact in facts {
            state.fresh.insert((fact.table, fact.key.clone()), Fresh { at, value: fact.value.clone() });
            state.behind += fact.octets();
            state.queue.push_back((at, fact));
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Waits until the index lacks less than so many octets. Blocks.
    pub(super) fn wait_for_index(&self, octets: usize) {
        let much = |state: &mut State| state.behind > octets && !state.closing;
        drop(self.caught_up.wait_while(self.lock(), much));
    }

    pub(super) fn stop(&self) {
        self.lock().closing = true;
        self.wake.notify_all();
        self.caught_up.notify_all();
    }

    /// Syncs what is queued, and lets go of the index.
    pub(super) fn close_log(&self) {
        if let Some(disk) = &self.disk {
            disk.log.close();
            drop(self.lock().index.take());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics under this lock")
    }
}

impl State {
    /// Notes a record, in the order of the log. It nearly always is the last, but not all are told of in that order.
    fn keep(&mut self, location: Location) {
        let records = self.records.entry(location.position.segment).or_default();
        let place = records.partition_point(|other| other.position < location.position);
        records.insert(place, location);
    }

    /// They are not on their way any more.
    fn settle(&mut self, facts: &[Fact], put: bool) {
        for fact in facts.iter().filter(|_| put) {
            let key = (fact.table, fact.key.clone());
            if let Some(count) = self.pending.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    self.pending.remove(&key);
                }
            }
        }
    }
}

fn fits(fact: &Fact) -> bool {
    fact.key.len() <= KEY_MAX && fact.value.as_ref().is_none_or(|value| value.len() <= VALUE_MAX)
}

impl std::fmt::Debug for Facts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Facts").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
