//! The index's thread: what is durable in the log is handed to the index, and the index is mended when it fails.

use std::sync::Arc;
use std::time::Duration;

use super::index::{Applied, Index, IndexError};
use super::{Disk, Facts, State};
use crate::ledger::codec::{Fact, read_facts};
use crate::log::Position;

/// Facts handed to the index at once.
const CHUNK: usize = 4096;
/// How often a broken index is tried again.
pub(super) const RETRY: Duration = Duration::from_secs(1);
/// The index is not made anew with less than this free; the log has the better use for it.
const FREE_MIN: u64 = 16 << 20;

impl Facts {
    /// Keeps the index up to date until [`stop`](Facts::stop) is called.
    pub(in crate::ledger) fn run(self: &Arc<Self>) {
        let Some(disk) = &self.disk else { return };
        loop {
            let (closing, broken) = {
                let state = self.lock();
                let idle = |state: &mut State| state.queue.is_empty() && !state.closing;
                let state = self.wake.wait_timeout_while(state, RETRY, idle).expect("no code panics under this lock").0;
                (state.closing, state.index.is_none())
            };
            if broken {
                self.mend(disk);
            }
            let whole = self.apply(disk);
            self.publish();
            if closing {
                return;
            }
            if !whole {
                self.pause();
            } else if let Err(error) = self.compact(disk) {
                tracing::warn!(%error, "the ledger's log could not be compacted");
            }
        }
    }

    /// Hands what waits to the index. False if it cannot take it.
    pub(super) fn apply(&self, disk: &Disk) -> bool {
        loop {
            let (index, facts): (_, Vec<(Position, Fact)>) = {
                let state = self.lock();
                let Some(index) = state.index.clone() else { return false };
                (index, state.queue.iter().take(CHUNK).cloned().collect())
            };
            let Some((last, _)) = facts.last() else { return true };
            match index.apply(&facts, *last) {
                Ok(applied) => {
                    self.lock().applied(applied, facts.len());
                    self.caught_up.notify_all();
                }
                Err(error) => {
                    tracing::error!(%error, dir = %disk.dir.display(), "the ledger's index failed and is opened anew");
                    self.lock().index = None;
                    return false;
                }
            }
        }
    }

    /// Opens the index anew.
    fn mend(&self, disk: &Disk) {
        if disk.files.free_space(&disk.dir).is_ok_and(|free| free < FREE_MIN) {
            return;
        }
        let last = self.lock().records.values().flatten().map(|location| location.position).max();
        match disk.open_index(last) {
            Ok((index, applied)) => {
                let mut state = self.lock();
                (state.index, state.applied, state.in_memory) = (Some(index), applied, false);
                // They were found in the log just now.
                let through = applied.map(|applied| applied.through);
                while state.queue.front().is_some_and(|(at, _)| through.is_some_and(|through| *at <= through)) {
                    state.applied(applied.expect("it is not new"), 1);
                }
            }
            Err(error) => tracing::error!(%error, "the ledger's index cannot be made anew yet"),
        }
    }

    fn pause(&self) {
        let state = self.lock();
        drop(self.wake.wait_timeout_while(state, RETRY, |state| !state.closing));
    }

    pub(super) fn publish(&self) {
        let Some(disk) = &self.disk else { return };
        let state = self.lock();
        let all = &disk.gauges.all;
        disk.gauges.publish(&disk.log);
        all.ledger_index_ok.set((state.index.is_some() && !state.in_memory).into());
        all.ledger_behind.set(state.queue.len() as i64);
        all.ledger_facts.set(state.applied.map_or(0, |applied| applied.facts) as i64);
    }
}

impl State {
    /// The first so many of the queue are in the index.
    fn applied(&mut self, applied: Applied, count: usize) {
        self.applied = Some(applied);
        for (at, fact) in self.queue.drain(..count) {
            self.behind -= fact.octets();
            let key = (fact.table, fact.key);
            if self.fresh.get(&key).is_some_and(|fresh| fresh.at == at) {
                self.fresh.remove(&key);
            }
        }
    }
}

impl Disk {
    /// How many segments so many octets fill, of those there are.
    pub(super) fn segments_of(&self, octets: u64) -> usize {
        let filled = octets.div_ceil(self.segment_size.max(1));
        usize::try_from(filled).unwrap_or(usize::MAX).min(self.log.segments().len())
    }

    /// The index that is there, brought up to `last`, where the log ends; or a new one. What an old index has behind it may be
    /// compacted away: a removal that is not in the log any more would never come to it.
    pub(super) fn open_index(&self, last: Option<Position>) -> Result<(Arc<dyn Index>, Option<Applied>), IndexError> {
        let there = self.indexes.open().and_then(|index| {
            let applied = index.applied()?;
            let first = self.log.segments().first().copied();
            match applied.map(|applied| applied.through) {
                through if through > last => Err(IndexError("it knows more than the log".into())),
                Some(through) if first.is_some_and(|first| through.segment < first) => {
                    Err(IndexError("it ends before the log begins".into()))
                }
                None if last.is_some() => Err(IndexError("it is empty".into())),
                through => self.catch_up(index, applied, through),
            }
        });
        let error = match there {
            Ok(good) => return Ok(good),
            Err(error) => error,
        };
        tracing::warn!(%error, dir = %self.dir.display(), "the ledger's index is moved aside and made anew from the log");
        self.gauges.all.ledger_rebuilt.inc();
        self.indexes.set_aside()?;
        self.catch_up(self.indexes.open()?, None, None)
    }

    /// Applies what the log has behind `from`.
    pub(super) fn catch_up(
        &self,
        index: Arc<dyn Index>,
        mut applied: Option<Applied>,
        from: Option<Position>,
    ) -> Result<(Arc<dyn Index>, Option<Applied>), IndexError> {
        let mut chunk: Vec<(Position, Fact)> = Vec::new();
        for segment in self.log.segments() {
            if from.is_some_and(|from| segment < from.segment) {
                continue;
            }
            let mut outcome = Ok(());
            let scanned = self.log.scan(segment, &mut |record| {
                let at = record.location.position;
                if from.is_some_and(|from| at <= from) || outcome.is_err() {
                    return;
                }
                match read_facts(record.head) {
                    Ok(facts) => chunk.extend(facts.into_iter().map(|fact| (at, fact))),
                    Err(error) => {
                        self.gauges.counts.spool_damaged.inc();
                        tracing::error!(?at, %error, "a record in the ledger is passed over");
                    }
                }
                if chunk.len() >= CHUNK {
                    outcome = index.apply(&chunk, at).map(|done| applied = Some(done));
                    chunk.clear();
                }
            });
            scanned.map_err(|error| IndexError(error.to_string()))?;
            outcome?;
        }
        if let Some((at, _)) = chunk.last() {
            applied = Some(index.apply(&chunk, *at)?);
        }
        Ok((index, applied))
    }
}
