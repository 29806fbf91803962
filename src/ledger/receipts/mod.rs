//! Receipts by idempotency key: each submission once, however often it is handed in.
//!
//! 1. [`Receipts::begin`] claims the key, or says what became of it. A new key is looked for in memory only: in the claims,
//!    among the recent ones, in the filters of the runs.
//! 2. The spool [records](Receipts::record) it once its message is synced. From then on it is known; the ledger's thread writes what
//!    came in a fifth of a second as one small record, a *batch* (`writer.rs`).
//! 3. When enough came together, they are written once more, sorted by name, as a *run* (`run.rs`), and the batches may go. Eight runs
//!    of like size are merged into one. A run is asked by its filter first, in memory, and then by reading one page.
//! 4. When the last of a run is to be forgotten, the run is dropped; none in the first hour, in which a machine's clock may still be
//!    wrong. Time that the wall clock jumps ahead while we run does not count.
//!
//! While the log takes nothing (a full or broken disk of its own) keys wait in memory, and the spool keeps their messages' records.
//! Too many of them, and new keys are put off ([`Begun::Crowded`]).
//!
//! Nothing is ever changed in place, and a receipt is the same wherever it stands: a batch or run that a crash brings back does no
//! harm.
//!
//! Runs rather than sled, which the rest of the ledger uses: ten million keys in sled 0.34 took 15.5 µs of CPU each, 1.7 GB of
//! disk, 426 MB of memory with a cache of 32 MB, and 8 s to open; here they take 3.7 µs on all
//! threads together, 484 MB, 137 MB at most while runs are merged, and 51 ms (`ten_million_keys` in the tests).

mod filter;
mod names;
mod replay;
mod run;
pub(super) use run::probe;
mod writer;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::codec::{Kept, hour_after};
use crate::clock::{Clock, Instant, Timestamp};
use crate::ledger::LogGauges;
use crate::log::{Location, Log, Position, SegmentId};
use crate::mail::{Fingerprint, Keyed, Receipt};
use names::Names;
pub(super) use replay::describe;
use run::{Run, RunError};
use writer::Job;
pub(super) use writer::Pace;

/// Resolves to the receipt of the submission that is under way, or to `None` when that fails.
pub type Waiter = Pin<Box<dyn Future<Output = Option<Receipt>> + Send>>;

/// How a submission with a key begins.
pub enum Begun {
    /// It is new; whoever asks next waits for it.
    New(Ticket),
    /// It was accepted before.
    Known(Receipt),
    /// The same is being accepted right now.
    UnderWay(Waiter),
    /// The key stands for something else.
    Contradicts,
    /// What is known of the key cannot be read.
    Unreadable(String),
    /// Too many keys wait in memory, since their log takes nothing at present.
    Crowded,
}

/// The right to hand a new submission to the spool. Dropped before, others may try.
#[derive(Debug)]
pub struct Ticket {
    receipts: Arc<Receipts>,
    name: Option<u128>,
}

impl Ticket {
    /// The spool has it now and will tell the ledger how it ends.
    pub fn hand_over(mut self) {
        self.name = None;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(name) = self.name.take() {
            self.receipts.let_go(name);
        }
    }
}

/// No new keys are taken with so many times [`Pace::recent_max`] in memory. That many come together only when the log takes
/// nothing: a quarter of a million keys, about 40 MB.
const RECENT_FULL: usize = 4;

/// What is known of each key.
#[derive(Default)]
pub(super) struct Receipts {
    state: Mutex<State>,
    /// Wakes the thread that writes.
    wake: Condvar,
    /// `None`: in memory only.
    log: Option<Log>,
    keep_ms: AtomicU64,
    pace: Pace,
    clock: Clock,
    /// When it was opened, by both clocks.
    opened: Option<(Instant, Timestamp)>,
    metrics: Option<LogGauges>,
}

#[derive(Debug, Default)]
struct State {
    /// Being accepted.
    claims: Names<Claim>,
    /// Not in a run yet.
    recent: Names<Kept>,
    /// On their way into a run, with the number of the last batch that has one of them.
    frozen: Option<(u64, Arc<Names<Kept>>)>,
    /// Oldest first.
    runs: Arc<Vec<Arc<Run>>>,
    /// Not in a batch yet.
    outbox: Vec<Kept>,
    /// Where in the spool's log the first in the outbox stands.
    outbox_from: Option<SegmentId>,
    /// Where in the spool's log the last of all stands.
    through: Option<Position>,
    /// Batches queued: number, and the first segment of the spool's log with a key of it.
    unsynced: VecDeque<(u64, SegmentId)>,
    /// Batches on disk that are not in a run yet.
    batches: VecDeque<Batch>,
    /// Batches made so far.
    batch: u64,
    /// The run being written.
    job: Option<Job>,
    /// The thread sleeps until something comes.
    sleeping: bool,
    closing: bool,
}

/// A submission that is being accepted.
#[derive(Debug)]
struct Claim {
    fingerprint: u64,
    /// Who wait for its end. Mostly nobody.
    waiting: Vec<oneshot::Sender<Receipt>>,
}

impl Claim {
    /// It ended well. Dropped instead, it failed.
    fn accepted(self, receipt: Receipt) {
        // One that does not listen any more does not mind.
        self.waiting.into_iter().for_each(|one| _ = one.send(Receipt { replayed: true, ..receipt }));
    }
}

#[derive(Debug)]
struct Batch {
    number: u64,
    location: Location,
    through: Position,
}

impl Receipts {
    pub(super) fn begin(self: &Arc<Self>, tenant: &str, keyed: &Keyed) -> Begun {
        let (name, fingerprint) = (name_of(tenant, keyed), keyed.fingerprint.short());
        loop {
            let runs = {
                let mut state = self.lock();
                if let Some(begun) = state.stands(name, fingerprint, || self.now()) {
                    return begun;
                }
                if !state.runs.iter().any(|run| run.may_hold(name)) {
                    return self.claim(&mut state, name, fingerprint);
                }
                Arc::clone(&state.runs)
            };
            let found = self.search(&runs, name, self.now());
            let mut state = self.lock();
            // What was read is right only if no run was taken away meanwhile; and what was recent may be in a new one.
            if !Arc::ptr_eq(&runs, &state.runs) {
                continue;
            }
            return match found {
                Err(error) => Begun::Unreadable(error.to_string()),
                Ok(Some(kept)) => known(&kept, fingerprint),
                Ok(None) => match state.stands(name, fingerprint, || self.now()) {
                    Some(begun) => begun,
                    None => self.claim(&mut state, name, fingerprint),
                },
            };
        }
    }

    fn claim(self: &Arc<Self>, state: &mut State, name: u128, fingerprint: u64) -> Begun {
        if self.log.is_some() && state.recent.len() >= RECENT_FULL * self.pace.recent_max {
            return Begun::Crowded;
        }
        state.claims.insert(name, Claim { fingerprint, waiting: Vec::new() });
        Begun::New(Ticket { receipts: Arc::clone(self), name: Some(name) })
    }

    /// Its message is durable in the spool, at `at`. Positions rise.
    pub(super) fn record(&self, tenant: &str, keyed: &Keyed, receipt: Receipt, expires_at: Timestamp, at: Position) {
        let kept = self.kept(tenant, keyed, receipt, expires_at);
        let mut state = self.lock();
        let claim = state.claims.remove(&kept.name);
        self.keep(&mut state, kept, at);
        drop(state);
        if let Some(claim) = claim {
            claim.accepted(receipt);
        }
    }

    /// As [`record`](Receipts::record), for what may have been recorded before.
    pub(super) fn record_again(
        &self,
        tenant: &str,
        keyed: &Keyed,
        receipt: Receipt,
        expires_at: Timestamp,
        at: Position,
    ) {
        let kept = self.kept(tenant, keyed, receipt, expires_at);
        // One that cannot be read does no harm twice.
        let known = self.look_up(kept.name).is_ok_and(|known| known.is_some());
        if !known && kept.holds(self.now()) {
            self.keep(&mut self.lock(), kept, at);
        }
    }

    fn kept(&self, tenant: &str, keyed: &Keyed, receipt: Receipt, expires_at: Timestamp) -> Kept {
        let keep = Duration::from_millis(self.keep_ms.load(Ordering::Relaxed));
        Kept {
            name: name_of(tenant, keyed),
            fingerprint: keyed.fingerprint.short(),
            id: receipt.id,
            accepted_at: receipt.accepted_at,
            messages: receipt.messages,
            until: hour_after(receipt.accepted_at.after(keep).max(expires_at)),
        }
    }

    fn keep(&self, state: &mut State, kept: Kept, at: Position) {
        state.recent.insert(kept.name, kept);
        if self.log.is_none() {
            return;
        }
        state.outbox.push(kept);
        state.outbox_from.get_or_insert(at.segment);
        state.through = Some(at);
        if std::mem::take(&mut state.sleeping) {
            self.wake.notify_one();
        }
    }

    pub(super) fn abandon(&self, tenant: &str, keyed: &Keyed) {
        self.let_go(name_of(tenant, keyed));
    }

    fn let_go(&self, name: u128) {
        // Who waits is woken when the lock is free again.
        let claim = self.lock().claims.remove(&name);
        drop(claim);
    }

    pub(super) fn get(&self, tenant: &str, key: &str) -> Result<Option<Receipt>, String> {
        let found = self.look_up(name(tenant, key)).map_err(|error| error.to_string())?;
        Ok(found.map(|kept| kept.receipt()))
    }

    /// The first segment of the spool's log that has a key which is not on disk here.
    pub(super) fn unrecorded(&self) -> Option<SegmentId> {
        let state = self.lock();
        state.unsynced.front().map(|(_, from)| *from).or(state.outbox_from)
    }

    pub(super) fn set_keep(&self, keep: Duration) {
        self.keep_ms.store(keep.as_millis() as u64, Ordering::Relaxed);
    }

    /// The time by which keys are forgotten. The wall clock may be set far ahead by mistake: no more time passes than by
    /// the clock that nobody sets. Behind a machine's sleep it is too early, and keys are known for longer.
    fn now(&self) -> Timestamp {
        let wall = self.clock.timestamp();
        match self.opened {
            Some((opened, then)) => wall.min(then.after(self.clock.instant().saturating_duration_since(opened))),
            None => wall,
        }
    }

    fn look_up(&self, name: u128) -> Result<Option<Kept>, RunError> {
        let now = self.now();
        loop {
            let runs = {
                let state = self.lock();
                if let Some(kept) = state.in_memory(name, || now) {
                    return Ok(Some(kept));
                }
                Arc::clone(&state.runs)
            };
            let found = self.search(&runs, name, now);
            if Arc::ptr_eq(&runs, &self.lock().runs) {
                return found;
            }
        }
    }

    /// The newest of that name in the runs that is not to be forgotten.
    fn search(&self, runs: &[Arc<Run>], name: u128, now: Timestamp) -> Result<Option<Kept>, RunError> {
        let Some(log) = &self.log else { return Ok(None) };
        for run in runs.iter().rev().filter(|run| run.may_hold(name)) {
            if let Some(kept) = run.find(log, name)?.filter(|kept| kept.holds(now)) {
                return Ok(Some(kept));
            }
        }
        Ok(None)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics under this lock")
    }
}

impl std::fmt::Debug for Receipts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receipts").finish_non_exhaustive()
    }
}

impl State {
    /// `now` is asked only where there is something to be forgotten; mostly the name is new.
    fn in_memory(&self, name: u128, now: impl FnOnce() -> Timestamp) -> Option<Kept> {
        let frozen = || self.frozen.as_ref().and_then(|(_, frozen)| frozen.get(&name));
        self.recent.get(&name).or_else(frozen).filter(|kept| kept.holds(now())).copied()
    }

    /// What memory knows of the name.
    fn stands(&mut self, name: u128, fingerprint: u64, now: impl FnOnce() -> Timestamp) -> Option<Begun> {
        if let Some(kept) = self.in_memory(name, now) {
            return Some(known(&kept, fingerprint));
        }
        let claim = self.claims.get_mut(&name)?;
        if Fingerprint::contradict(claim.fingerprint, fingerprint) {
            return Some(Begun::Contradicts);
        }
        let (waiting, ended) = oneshot::channel();
        if claim.waiting.len() == claim.waiting.capacity() {
            claim.waiting.retain(|one| !one.is_closed());
        }
        claim.waiting.push(waiting);
        Some(Begun::UnderWay(Box::pin(async move { ended.await.ok() })))
    }
}

fn known(kept: &Kept, fingerprint: u64) -> Begun {
    if Fingerprint::contradict(kept.fingerprint, fingerprint) {
        return Begun::Contradicts;
    }
    Begun::Known(Receipt { replayed: true, ..kept.receipt() })
}

/// The name of a submission of a tenant.
fn name_of(tenant: &str, keyed: &Keyed) -> u128 {
    let known = keyed.name(|key| name(tenant, key.as_str()));
    debug_assert_eq!(known, name(tenant, keyed.key.as_str()), "a submission changed its tenant");
    known
}

/// The name of a key of a tenant; the length in front, so that no two pairs read the same.
fn name(tenant: &str, key: &str) -> u128 {
    let mut text: SmallVec<[u8; 256]> = SmallVec::new();
    text.extend_from_slice(&(tenant.len() as u64).to_le_bytes());
    text.extend_from_slice(tenant.as_bytes());
    text.extend_from_slice(key.as_bytes());
    // In one call: to begin and end a hash takes longer than so short a text.
    let digest = digest(&SHA256, &text);
    let first = digest.as_ref().first_chunk().expect("SHA-256 has 32 octets");
    u128::from_be_bytes(*first)
}

#[cfg(test)]
mod tests;
