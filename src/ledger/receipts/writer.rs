//! The thread that writes receipts: batches as they come, runs when there are enough, and fewer runs when there are too many.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;
use smallvec::smallvec;

use super::replay::{BATCH, RUN, Replay};
use super::run::{Builder, Run, RunError, merge};
use super::{Batch, Names, Receipts, State};
use crate::clock::{Clock, Timestamp};
use crate::ledger::codec::{BatchHead, Kept, RunHead, hour_after, is_before};
use crate::ledger::{LogGauges, log_options};
use crate::log::{Append, Durability, Files, Location, Log, LogError, Position};
use crate::telemetry::Metrics;

/// How often the thread looks after its runs when nothing comes.
const TICK: Duration = Duration::from_secs(1);
/// Receipts in one batch, at most.
const BATCH_MAX: usize = 16_384;
/// So many runs of like size are merged.
const FAN_IN: usize = 8;
/// A run larger than this is not merged with others: making it takes 44 octets of memory each. 24 MB.
const RUN_MAX: u32 = 540_000;
/// Receipts that live longer than others by more than this have runs of their own, or they would keep the others.
const LONGER: Duration = Duration::from_secs(2 * 86_400);
/// Segments with less live than this are worth copying.
const SPARSE: f64 = 0.5;

/// When what is written.
#[derive(Debug, Clone, Copy)]
pub(in crate::ledger) struct Pace {
    /// Receipts wait this long for company. Until they are on disk the spool keeps their messages' records, so waiting risks
    /// nothing.
    pub linger: Duration,
    /// A run is made of so many recent receipts,
    pub recent_max: usize,
    /// or of what so many batches hold; each takes 4 KiB on disk at least.
    pub batches_max: usize,
    /// Octets of a file of either log.
    pub segment_size: u64,
    /// Nothing is forgotten on disk before so long has passed since the start.
    pub proven_after: Duration,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            linger: Duration::from_millis(200),
            recent_max: 65_536,
            batches_max: 4096,
            segment_size: 4 << 20,
            proven_after: Duration::from_secs(3600),
        }
    }
}

/// Runs being written, what they take the place of, and how many are still to be synced.
#[derive(Debug)]
pub(super) struct Job {
    made: Vec<Arc<Run>>,
    missing: usize,
    replaces: Vec<Arc<Run>>,
    /// The frozen receipts are in them.
    frozen: bool,
}

impl Receipts {
    /// Opens the log in `dir`. What it holds is known from here on; [`run`](Receipts::run) is to be called on a thread of its own.
    pub(in crate::ledger) fn open(
        dir: &Path,
        keep: Duration,
        pace: Pace,
        files: Arc<dyn Files>,
        metrics: Arc<Metrics>,
        clock: Clock,
    ) -> Result<Arc<Receipts>, LogError> {
        let mut replay = Replay::default();
        let gauges = LogGauges::new("receipts", metrics);
        let counts = Arc::clone(&gauges.counts);
        let (log, report) =
            Log::open(log_options(dir, pace.segment_size), files, counts, &mut |record| replay.visit(record))?;
        gauges.counts.spool_damaged.inc_by(replay.unreadable);
        let mut state = replay.finish(&log);
        if !report.damaged.is_empty() || gauges.counts.spool_damaged.get() > 0 {
            tracing::error!(dir = %dir.display(), "keys of accepted submissions may be lost here; the spool hands over \
                again all that it still has");
            state.through = None;
        }
        gauges.publish(&log);
        let receipts = Receipts {
            state: Mutex::new(state),
            wake: Condvar::new(),
            log: Some(log),
            keep_ms: 0.into(),
            pace,
            clock,
            opened: Some((clock.instant(), clock.timestamp())),
            metrics: Some(gauges),
        };
        receipts.set_keep(keep);
        Ok(Arc::new(receipts))
    }

    /// All keys of the spool's log up to here are on disk.
    pub(in crate::ledger) fn recorded(&self) -> Option<Position> {
        self.lock().through
    }

    /// Writes until [`stop`](Receipts::stop) is called.
    pub(in crate::ledger) fn run(self: &Arc<Self>) {
        while self.wait() {
            self.step();
        }
        while self.write_batch(true) {}
    }

    /// What is to be done now and then.
    fn step(self: &Arc<Self>) {
        let Some(log) = &self.log else { return };
        while self.write_batch(false) {}
        // Also when no new ones come, perhaps because they are too many.
        self.lock().set_aside(&self.pace);
        let now = self.now();
        // A clock that was wrong when we were started is set right by then, or so one hopes.
        let proven = self.opened.is_some_and(|(opened, _)| self.clock.instant() - opened >= self.pace.proven_after);
        let over = if proven { now } else { Timestamp(0) };
        self.forget(log, over);
        let done = self.write_run(log, now, over).and_then(|busy| if busy { Ok(()) } else { self.merge(log, over) });
        if let Err(error) = done {
            tracing::error!(%error, "receipts of idempotency keys cannot be read");
        }
        log.reclaim();
        if let Some(metrics) = &self.metrics {
            metrics.all.ledger_keys.set(self.lock().keys() as i64);
            metrics.publish(log);
        }
    }

    /// The thread ends when what has been recorded is queued; then the log is to be closed.
    pub(in crate::ledger) fn stop(&self) {
        self.lock().closing = true;
        self.wake.notify_one();
    }

    /// Syncs what is queued.
    pub(in crate::ledger) fn close_log(&self) {
        if let Some(log) = &self.log {
            log.close();
        }
    }

    /// Until there is something to write and it has had company for long enough, or a second has passed. False: stop.
    fn wait(&self) -> bool {
        let mut state = self.lock();
        state.sleeping = state.outbox.is_empty() && !state.closing;
        if state.sleeping {
            let idle = |state: &mut State| state.sleeping && !state.closing;
            state = self.wake.wait_timeout_while(state, TICK, idle).expect("no code panics under this lock").0;
            state.sleeping = false;
        }
        if !state.outbox.is_empty() && !state.closing {
            let open = |state: &mut State| !state.closing;
            state =
                self.wake.wait_timeout_while(state, self.pace.linger, open).expect("no code panics under this lock").0;
        }
        !state.closing
    }

    /// Appends what waits; true if there is more.
    fn write_batch(self: &Arc<Self>, closing: bool) -> bool {
        let Some(log) = &self.log else { return false };
        let mut state = self.lock();
        let (Some(from), Some(through)) = (state.outbox_from, state.through) else { return false };
        let kept: Vec<Kept> = match state.outbox.len() > BATCH_MAX {
            false => std::mem::take(&mut state.outbox),
            true => state.outbox.drain(..BATCH_MAX).collect(),
        };
        let more = !state.outbox.is_empty();
        // Where a part of the outbox stands nobody knows: it counts as standing where all begins.
        let through = if more { Position { segment: from, offset: 0 } } else { through };
        state.outbox_from = Some(from).filter(|_| more);
        state.batch += 1;
        let number = state.batch;
        state.unsynced.push_back((number, from));
        let receipts = Arc::clone(self);
        let head = BatchHead { through, kept }.write();
        // Under the lock, so that batches stand in the order of their numbers.
        log.append([append(
            BATCH,
            head,
            Bytes::new(),
            move |log, location| {
                log.retain(location);
                let mut state = receipts.lock();
                state.unsynced.pop_front();
                state.batches.push_back(Batch { number, location, through });
            },
            self,
        )]);
        if !closing {
            state.set_aside(&self.pace);
        }
        more
    }

    /// Drops runs of which nothing is to be known any more at `now`.
    fn forget(&self, log: &Log, now: Timestamp) {
        let mut state = self.lock();
        if state.job.is_some() || state.runs.iter().all(|run| is_before(now, run.until_max)) {
            return;
        }
        let (stay, go): (Vec<_>, Vec<_>) = state.runs.iter().cloned().partition(|run| is_before(now, run.until_max));
        state.runs = Arc::new(stay);
        go.iter().for_each(|run| log.release(run.location));
    }

    /// Sorts what is set aside and writes it, once all of it is on disk as it came. True: a run is being written.
    fn write_run(self: &Arc<Self>, log: &Log, now: Timestamp, over: Timestamp) -> Result<bool, RunError> {
        let (frozen, covers, through) = {
            let state = self.lock();
            if state.job.is_some() {
                return Ok(true);
            }
            let Some((number, frozen)) = &state.frozen else { return Ok(false) };
            match state.batches.iter().find(|batch| batch.number == *number) {
                Some(batch) => (Arc::clone(frozen), batch.location.position, batch.through),
                None => return Ok(true),
            }
        };
        let (mut usual, mut long) = self.sorted(&frozen, now, over);
        let made = [(&mut usual, false), (&mut long, true)].into_iter().filter_map(|(kept, long)| {
            let mut builder = Builder::new(kept.len());
            kept.iter().for_each(|kept| builder.push(kept));
            builder.finish(through, covers, long, Vec::new())
        });
        let made = made.collect();
        self.write(log, made, Vec::new(), true);
        Ok(true)
    }

    /// In the order of names, those that live long apart; without those that are over at `over`.
    fn sorted(&self, frozen: &Names<Kept>, now: Timestamp, over: Timestamp) -> (Vec<Kept>, Vec<Kept>) {
        let keep = Duration::from_millis(self.keep_ms.load(std::sync::atomic::Ordering::Relaxed));
        let longer = hour_after(now.after(keep + LONGER));
        let mut kept: Vec<Kept> = frozen.values().filter(|kept| kept.holds(over)).copied().collect();
        kept.sort_unstable_by_key(|kept| kept.name);
        kept.into_iter().partition(|kept| kept.until <= longer)
    }

    /// Merges runs of like size, or writes one anew that holds a nearly dead segment.
    fn merge(self: &Arc<Self>, log: &Log, now: Timestamp) -> Result<(), RunError> {
        let runs = Arc::clone(&self.lock().runs);
        let Some(chosen) = alike(&runs).or_else(|| in_sparse_segment(log, &runs)) else { return Ok(()) };
        let builder = merge(log, &chosen, now)?;
        let newest = chosen.iter().max_by_key(|run| run.covers).expect("some were chosen");
        let replaces = chosen.iter().map(|run| run.location.position).collect();
        let made = builder.finish(newest.through, newest.covers, chosen[0].long, replaces);
        self.write(log, made.into_iter().collect(), chosen, false);
        Ok(())
    }

    /// Writes runs as one group; they count, and what they replace does not, when all are synced.
    fn write(self: &Arc<Self>, log: &Log, made: Vec<(RunHead, Bytes)>, replaces: Vec<Arc<Run>>, frozen: bool) {
        let job = Job { made: Vec::new(), missing: made.len(), replaces, frozen };
        if made.is_empty() {
            return self.lock().install(log, job);
        }
        self.lock().job = Some(job);
        log.append(made.into_iter().map(|(head, body)| {
            let (receipts, written) = (Arc::clone(self), head.write());
            append(
                RUN,
                written,
                body,
                move |log, location| {
                    log.retain(location);
                    let run = Arc::new(Run::new(location, head));
                    let mut state = receipts.lock();
                    let Some(mut job) = state.job.take() else { return };
                    job.made.push(run);
                    job.missing -= 1;
                    match job.missing {
                        0 => state.install(log, job),
                        _ => state.job = Some(job),
                    }
                },
                self,
            )
        }));
    }
}

impl State {
    /// Sets the recent ones aside for a run when they are many enough and all in batches.
    fn set_aside(&mut self, pace: &Pace) {
        let many = self.recent.len() >= pace.recent_max || self.batches.len() >= pace.batches_max;
        if many && self.outbox.is_empty() && self.frozen.is_none() && !self.recent.is_empty() {
            self.frozen = Some((self.batch, Arc::new(std::mem::take(&mut self.recent))));
        }
    }

    /// The runs of a job are on disk.
    fn install(&mut self, log: &Log, job: Job) {
        let replaced = |run: &Arc<Run>| job.replaces.iter().any(|old| Arc::ptr_eq(old, run));
        let mut runs: Vec<Arc<Run>> = self.runs.iter().filter(|run| !replaced(run)).cloned().collect();
        runs.extend(job.made);
        // Of two receipts with one name the later counts.
        runs.sort_by_key(|run| run.covers);
        self.runs = Arc::new(runs);
        job.replaces.iter().for_each(|run| log.release(run.location));
        let Some((number, _)) = self.frozen.take_if(|_| job.frozen) else { return };
        while let Some(batch) = self.batches.pop_front_if(|batch| batch.number <= number) {
            log.release(batch.location);
        }
    }

    /// How many keys are known; what is on its way into a run counts once.
    pub(super) fn keys(&self) -> usize {
        let frozen = self.frozen.as_ref().map_or(0, |(_, frozen)| frozen.len());
        self.recent.len() + frozen + self.runs.iter().map(|run| run.count as usize).sum::<usize>()
    }
}

/// The oldest of like size, if they are enough to be merged.
pub(super) fn alike(runs: &[Arc<Run>]) -> Option<Vec<Arc<Run>>> {
    let class = |run: &Run| (run.count.max(1).ilog2() / FAN_IN.ilog2(), run.long);
    let small: Vec<&Arc<Run>> = runs.iter().filter(|run| run.count < RUN_MAX / 2 && !run.is_damaged()).collect();
    small.iter().find_map(|first| {
        let like = small.iter().filter(|run| class(run) == class(first)).take(FAN_IN);
        let (mut chosen, mut count) = (Vec::new(), 0);
        for run in like {
            count += run.count;
            if count > RUN_MAX {
                break;
            }
            chosen.push(Arc::clone(run));
        }
        let full = chosen.len() == FAN_IN || count > RUN_MAX;
        (full && chosen.len() > 1).then_some(chosen)
    })
}

/// A run in a segment that holds little else.
fn in_sparse_segment(log: &Log, runs: &[Arc<Run>]) -> Option<Vec<Arc<Run>>> {
    let segment = log.sparse(SPARSE)?;
    let run = runs.iter().find(|run| run.location.position.segment == segment && !run.is_damaged())?;
    Some(vec![Arc::clone(run)])
}

fn append(
    kind: u8,
    head: Vec<u8>,
    body: Bytes,
    done: impl FnOnce(&Log, Location) + Send + 'static,
    receipts: &Arc<Receipts>,
) -> Append {
    let receipts = Arc::clone(receipts);
    let done = move |result: Result<Location, LogError>| {
        // Fails only when the log is closed: nobody asks any more, and the spool hands over again what was lost.
        if let (Ok(location), Some(log)) = (result, &receipts.log) {
            done(log, location);
        }
    };
    Append { kind, id: 0, head, body: smallvec![body], durability: Durability::Relaxed, done: Some(Box::new(done)) }
}
