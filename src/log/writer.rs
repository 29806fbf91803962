//! The one thread that writes.

mod begin;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use rand::rngs::SmallRng;

use super::batch::{Batch, batch_len, first_group_len};
use super::files::LogFile;
use super::pending::{Entry, Work};
use super::record::Stamp;
use super::replay::Replay;
use super::segment::{PAGE, page_up};
use super::shared::Shared;
use super::survey::Surveyed;
use super::zero::Filler;
use super::{Done, Health, Location, LogError, Position, SegmentId};
use crate::clock::{Clock, Instant};

/// Size of the reserve where segments are larger.
const RESERVE_MAX: u64 = 16 << 20;

/// The segment that is written to.
struct Open {
    file: Arc<dyn LogFile>,
    path: PathBuf,
    stamp: Stamp,
    size: u64,
    /// Where the next batch goes.
    offset: u64,
    /// Where the last batch that was synced ends, without its padding.
    end: u64,
}

impl Open {
    fn position(&self) -> Position {
        Position { segment: SegmentId(self.stamp.generation), offset: self.end as u32 }
    }

    /// What the last process wrote to.
    fn found((Surveyed { path, file, stamp, size, .. }, end): (Surveyed, u64)) -> Open {
        Open { file, path, stamp, size, offset: page_up(end), end }
    }

    /// Octets left for batches; the last page is the seal's.
    fn room(&self) -> u64 {
        (self.size - PAGE).saturating_sub(self.offset)
    }
}

/// Why synced appends are refused, and when to try again.
struct Refusal {
    error: LogError,
    next_try: Instant,
}

/// What the thread owns.
pub(super) struct Writer {
    shared: Arc<Shared>,
    filler: Arc<Filler>,
    clock: Clock,
    rng: SmallRng,
    open: Option<Open>,
    /// Where the last process ended, until a segment is begun behind that.
    found: Option<Open>,
    /// While nothing is open: the end of the log, and whether its segment has a seal.
    prior: Option<Position>,
    prior_sealed: bool,
    generation: u32,
    has_reserve: bool,
    refusal: Option<Refusal>,
    /// When the last batch was.
    synced: Instant,
    /// Taken from [`Pending`](super::pending::Pending), not yet synced.
    queue: VecDeque<Entry>,
    arena: Vec<u8>,
}

impl Writer {
    /// Clears what a crash left behind and begins a segment.
    ///
    /// # Errors
    /// What hinders the first segment, unless it is a full disk.
    pub fn start(shared: Arc<Shared>, filler: Arc<Filler>, replay: Replay) -> Result<Writer, LogError> {
        let mut writer = Writer {
            shared,
            filler,
            clock: Clock,
            rng: rand::make_rng(),
            open: None,
            found: replay.newest.map(Open::found),
            prior: replay.prior,
            prior_sealed: replay.prior_sealed,
            generation: replay.generation_max,
            has_reserve: replay.has_reserve,
            refusal: None,
            synced: Clock.instant(),
            queue: VecDeque::new(),
            arena: Vec::new(),
        };
        writer.tidy(&replay.residue)?;
        match writer.begin(0).and_then(|()| writer.ensure_reserve()) {
            Ok(()) => {}
            Err(error) if error.is_full() => writer.turn_read_only(&error),
            Err(error) => return Err(error),
        }
        writer.shared.publish_bytes();
        Ok(writer)
    }

    /// Until the log is closed.
    pub fn run(mut self) {
        loop {
            let tick = self.refusal.as_ref().map(|r| r.next_try.saturating_duration_since(self.clock.instant()));
            // Not so long after each came, but after the last sync: most then need not wait at all, and there are no more syncs.
            let linger = self.shared.options.linger;
            let (clock, synced) = (self.clock, self.synced);
            let patience = || linger.saturating_sub(clock.instant() - synced);
            let work = self.shared.pending.take(patience, tick);
            let closing = work.closing;
            self.turn(work);
            if closing {
                return self.finish();
            }
        }
    }

    /// Does what there is to do, without waiting for more.
    pub fn turn(&mut self, work: Work) {
        let due = self.refusal.as_ref().is_some_and(|r| r.next_try <= self.clock.instant());
        if due || work.closing && self.refusal.is_some() {
            self.heal();
        }
        self.admit(work.entries);
        self.write_queue();
        for (done, error) in work.refused {
            call(done, Err(error));
        }
    }

    /// Writes what is queued; what has no place stays queued, if it is relaxed.
    fn write_queue(&mut self) {
        while !self.queue.is_empty() {
            let need = batch_len(first_group_len(&self.queue));
            if self.open.as_ref().is_some_and(|open| need <= open.room()) {
                self.write_batch();
            } else if self.refusal.is_none() {
                if let Err(error) = self.begin(need) {
                    self.turn_read_only(&error);
                    let queue = std::mem::take(&mut self.queue);
                    self.admit(queue);
                }
            } else if let Err(error) = self.begin_in_reserve(need) {
                tracing::debug!(%error, "the reserve cannot be used");
                return;
            }
        }
    }

    /// One batch, one sync. There is room for at least its first group.
    fn write_batch(&mut self) {
        let open = self.open.as_mut().expect("the caller looked for room");
        let arena = std::mem::take(&mut self.arena);
        let batch = Batch::take(&mut self.queue, open.stamp, open.offset, open.room(), arena);
        let written = batch.write(&*open.file).map_err(LogError::io("write", &open.path)).and_then(|()| {
            let before = self.clock.instant();
            let synced = open.file.sync_data().map_err(LogError::io("sync", &open.path));
            self.synced = self.clock.instant();
            self.shared.metrics.spool_sync.observe((self.synced - before).as_secs_f64());
            synced
        });
        match written {
            Ok(()) => {
                open.end = batch.offset + batch.len;
                open.offset = page_up(open.end);
                let pooled = {
                    let mut table = self.shared.table();
                    if let Some(segment) = table.segments.get_mut(&open.position().segment) {
                        segment.end = open.end;
                    }
                    !table.pool.is_empty()
                };
                if !pooled {
                    self.filler.allow(open.offset, open.size);
                }
                self.acknowledge(batch);
            }
            Err(error) => {
                self.abandon();
                self.turn_read_only(&error);
                let rest = std::mem::take(&mut self.queue);
                self.requeue(batch, &error);
                self.admit(rest);
            }
        }
    }

    fn acknowledge(&mut self, batch: Batch) {
        let (entries, locations, arena) = batch.into_parts();
        self.arena = arena;
        self.shared.pending.finished(entries.iter().map(Entry::len).sum());
        for (entry, location) in entries.into_iter().zip(locations) {
            if let Some(done) = entry.done {
                call(done, Ok(location));
            }
        }
    }

    /// After a batch that failed: relaxed records go back to the queue, in order; the others are told.
    fn requeue(&mut self, batch: Batch, error: &LogError) {
        let (entries, _, arena) = batch.into_parts();
        self.arena = arena;
        let (synced, relaxed): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(|e| e.synced);
        self.queue.extend(relaxed);
        self.fail(synced, error);
    }

    /// Queues what comes; while read-only, nobody is kept waiting.
    fn admit(&mut self, entries: VecDeque<Entry>) {
        let Some(refusal) = &self.refusal else { return self.queue.extend(entries) };
        let error = refusal.error.clone();
        let (synced, relaxed): (VecDeque<Entry>, VecDeque<Entry>) = entries.into_iter().partition(|e| e.synced);
        self.queue.extend(relaxed);
        self.fail(synced, &error);
    }

    fn fail(&self, entries: impl IntoIterator<Item = Entry>, error: &LogError) {
        let mut len = 0;
        for entry in entries {
            len += entry.len();
            if let Some(done) = entry.done {
                call(done, Err(error.clone()));
            }
        }
        self.shared.pending.finished(len);
    }

    /// Nothing more is written to the open segment, not even a seal. Where it ends stands in the next one's header.
    fn abandon(&mut self) {
        if let Some(open) = self.open.take() {
            self.end_segment(&open, false);
        }
    }

    fn end_segment(&mut self, open: &Open, sealed: bool) {
        self.prior = Some(open.position());
        self.prior_sealed = sealed;
        self.shared.table().ended(open.position().segment);
    }

    fn turn_read_only(&mut self, error: &LogError) {
        let next_try = self.clock.instant() + self.shared.options.retry;
        let reason: Arc<str> = error.chain().into();
        if self.refusal.is_none() {
            tracing::error!(%reason, "the log takes no new records until this is mended");
        }
        // A full disk has its own reply code, so that error is kept as it is.
        let kept = if error.is_full() { error.clone() } else { LogError::ReadOnly { reason: reason.clone() } };
        self.refusal = Some(Refusal { error: kept, next_try });
        self.shared.health.send_replace(Health::ReadOnly { reason });
        self.shared.metrics.spool_readonly.set(1);
    }

    /// Tries to be of use again: a segment to write to, a reserve behind it, and enough space besides.
    fn heal(&mut self) {
        // As much space as segments to come will want, or the log would be read-only again in no time; for the same reason a new segment,
        // wherever it failed. It comes last, since each try takes a file.
        let wanted = if self.has_filled(0) { 0 } else { self.shared.options.segment_size };
        let ready = self.check_space(wanted).and_then(|()| match self.ensure_reserve() {
            // No inode, it may be. Names that only tell of segments before have some; behind the next header they are not needed.
            Err(error) if error.is_full() && !self.shared.table().gone.is_empty() => {
                self.begin(0).and_then(|()| self.ensure_reserve())
            }
            made => made.and_then(|()| self.begin(0)),
        });
        match ready {
            Ok(()) => {
                self.refusal = None;
                self.shared.metrics.spool_readonly.set(0);
                self.shared.health.send_replace(Health::Ok);
                tracing::info!("the log takes new records again");
            }
            Err(error) => {
                tracing::debug!(error = error.chain(), "the log stays read-only");
                if let Some(refusal) = &mut self.refusal {
                    refusal.next_try = self.clock.instant() + self.shared.options.retry;
                }
            }
        }
    }

    /// The log is closed: nothing is left behind, or it is said.
    pub fn finish(mut self) {
        let left = std::mem::take(&mut self.queue);
        if !left.is_empty() {
            tracing::error!(records = left.len(), "the log was closed before these could be written");
            self.fail(left, &LogError::Closed);
        }
        if let Some(open) = self.open.take() {
            let sealed = self.seal(&open, None);
            self.end_segment(&open, sealed);
        }
    }
}

/// Calls back; a panic there must not end the log.
fn call(done: Done, result: Result<Location, LogError>) {
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| done(result))).is_err() {
        tracing::error!("what waited for the log panicked");
    }
}
