//! Compaction: the log of facts goes on with those that count, and its oldest segments go.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};

use super::upkeep::RETRY;
use super::{Disk, Facts};
use crate::ledger::LedgerError;
use crate::ledger::codec::{Fact, read_facts};
use crate::log::{Durability, Health, Position, SegmentId};

/// Segments that are never worth compacting.
const SEGMENTS_MIN: usize = 4;

/// What a record takes besides its facts, about.
const RECORD_LEN: u64 = 37;

impl Facts {
    /// The first segment there is.
    #[cfg(test)]
    pub(in crate::ledger) fn begins_at(&self) -> Option<SegmentId> {
        self.disk.as_ref()?.log.segments().first().copied()
    }

    /// If the log has grown to twice what the last time left, writes what counts anew, oldest first.
    pub(super) fn compact(self: &Arc<Self>, disk: &Disk) -> Result<(), LedgerError> {
        let segments = disk.log.segments();
        if segments.len() < SEGMENTS_MIN + 2 * self.lock().compacted || disk.log.health() != Health::Ok {
            return Ok(());
        }
        let mut copied = 0;
        for (place, segment) in segments.iter().enumerate().take(segments.len() - 1) {
            let Some(octets) = self.copy_forward(disk, *segment)? else { return Ok(()) };
            copied += octets;
            // What was copied waits in memory for the index, and a log may be larger than that.
            if !self.apply(disk) {
                return Ok(());
            }
            // A removal must not go before what it removes, not even when a file cannot be deleted.
            segments[..place].iter().for_each(|older| disk.log.depend(*segment, *older));
            let records = self.lock().records.remove(segment).unwrap_or_default();
            records.into_iter().for_each(|location| disk.log.release(location));
            disk.log.reclaim();
        }
        // What others wrote meanwhile may count as little as what was there before.
        self.lock().compacted = disk.segments_of(copied);
        Ok(())
    }

    /// Writes all facts of a segment again that still count, and waits for that. Returns their octets; `None`: not now.
    fn copy_forward(self: &Arc<Self>, disk: &Disk, segment: SegmentId) -> Result<Option<u64>, LedgerError> {
        let mut records = Vec::new();
        let scanned = disk.log.scan(segment, &mut |record| {
            records.push((record.location.position, read_facts(record.head)));
        });
        scanned.map_err(|error| LedgerError::new(&error))?;
        let (sender, copied) = channel();
        let (mut missing, mut octets) = (0, 0);
        for (at, facts) in records {
            // What cannot be read is not to be thrown away: a later version may know better.
            let facts = facts.map_err(|error| LedgerError::new(&error))?;
            let appended = loop {
                match self.copy(at, &facts, &sender)? {
                    Some(appended) => break appended,
                    None if !self.wait_for_puts() => return Ok(None),
                    None => {}
                }
            };
            missing += usize::from(appended > 0);
            octets += appended;
        }
        while missing > 0 {
            match copied.recv_timeout(RETRY) {
                Ok(true) => missing -= 1,
                Ok(false) | Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) if self.lock().closing => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        Ok(Some(octets))
    }

    /// Appends those of a record's facts that count; returns their octets. `None`: one of them is being replaced.
    fn copy(self: &Arc<Self>, at: Position, facts: &[Fact], sender: &Sender<bool>) -> Result<Option<u64>, LedgerError> {
        let Some(index) = self.index(&self.lock())? else { return Ok(None) };
        // Before the lock, for which all wait who look something up: only this thread changes the index.
        let indexed =
            facts.iter().map(|fact| index.get(fact.table, &fact.key).map(|entry| entry.map(|entry| entry.at)));
        let indexed: Vec<_> = indexed.collect::<Result<_, _>>().map_err(|error| LedgerError::new(&error))?;
        let state = self.lock();
        let mut live = Vec::new();
        for (fact, indexed) in facts.iter().zip(indexed) {
            let key = (fact.table, fact.key.clone());
            if state.pending.contains_key(&key) {
                return Ok(None);
            }
            let now = match state.fresh.get(&key) {
                Some(fresh) => Some(fresh.at).filter(|_| fresh.value.is_some()),
                None => indexed,
            };
            // A key that stands twice in one record counts as the record's last.
            if now == Some(at) {
                live.push(fact.clone());
            }
        }
        if live.is_empty() {
            return Ok(Some(0));
        }
        let octets = RECORD_LEN + live.iter().map(Fact::len).sum::<u64>();
        let sender = sender.clone();
        self.append(live, Durability::Relaxed, move |result| _ = sender.send(result.is_ok()));
        Ok(Some(octets))
    }

    /// Until a put is on disk. False: the log does not get on, or is being closed.
    fn wait_for_puts(&self) -> bool {
        let (state, waited) = self.wake.wait_timeout(self.lock(), RETRY).expect("no code panics under this lock");
        !waited.timed_out() && !state.closing
    }
}
