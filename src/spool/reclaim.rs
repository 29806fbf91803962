//! Giving disk back: dead segments are reused, stragglers in nearly dead ones are copied forward first.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, channel};

use bytes::Bytes;

use super::state::{self, Grave};
use super::write::append;
use super::{MESSAGE, STATE, Spool, SpoolError, State};
use crate::log::{Health, Location, LogError, Replayed, SegmentId};
use crate::mail::MessageId;

/// Segments with less than this share of live octets are worth copying. With 0.3 the log grew to twice its live octets
/// when messages ended at random, with more than 0.5 little was gained (`log/tests/owner.rs`).
const SPARSE: f64 = 0.5;

impl Spool {
    /// One round: frees what is dead; copies the stragglers of the sparsest segment, or the tombstones that hold a dead
    /// one, if there is one. Blocks on disk; returns whether another round is worth its while. Only one at a time.
    ///
    /// # Errors
    /// When a segment cannot be read; nothing is lost then.
    pub fn reclaim(self: &Arc<Self>) -> Result<bool, SpoolError> {
        self.free();
        // What little room a full disk has left is for what was delivered, not for copies.
        if self.log.health() != Health::Ok {
            return Ok(false);
        }
        if let Some(segment) = self.log.sparse(SPARSE) {
            self.copy_forward(segment)?;
        } else if let Some(segment) = self.log.pinned() {
            return self.vacate(segment);
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    /// Frees what is dead, and no more. Blocks on disk if there is some; else it takes no time. The sooner it is done, the fewer new
    /// files the log has to fill.
    pub fn free(&self) {
        // Nothing goes before its events are in the event log and its keys in the ledger.
        let exported = SegmentId(self.exported.load(Ordering::Relaxed));
        self.log.set_reclaim_floor(self.ledger.unrecorded().map_or(exported, |unrecorded| unrecorded.min(exported)));
        self.log.reclaim();
    }

    /// Appends the tombstones in `segment` again that are still needed, so that it may go before the segments with the
    /// messages they end. False when that did not work out.
    fn vacate(self: &Arc<Self>, segment: SegmentId) -> Result<bool, SpoolError> {
        let (sender, copied) = channel::<Option<SegmentId>>();
        self.log
            .scan(segment, &mut |record| {
                let grave =
                    state::read(record.head).ok().filter(|_| record.kind == STATE).and_then(|state| state.grave);
                let Some(Grave { oldest, newest }) = grave else { return };
                let newest = newest.unwrap_or(segment);
                if oldest > newest || !self.log.holds_any(oldest..=newest, segment) {
                    return;
                }
                let sender = sender.clone();
                let done = move |result: Result<Location, LogError>| {
                    let _ = sender.send(result.ok().map(|location| location.position.segment));
                };
                let head = state::write(&[], Some(Grave { oldest, newest: Some(newest) }), false, b"");
                self.log.append([append(STATE, MessageId(record.id), head, Bytes::new(), done)]);
            })
            .map_err(Arc::new)?;
        drop(sender);
        self.log.step();
        let copied: Vec<Option<SegmentId>> = copied.iter().collect();
        // If one is missing, the segment stays as it is.
        let into: Option<Vec<SegmentId>> = copied.into_iter().collect();
        match into {
            Some(mut into) => {
                into.dedup();
                self.log.vacate(segment, &into);
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Appends every live record of `segment` again and waits until all copies are durable.
    fn copy_forward(self: &Arc<Self>, segment: SegmentId) -> Result<(), SpoolError> {
        let (waiter, copied) = channel::<()>();
        let mut outcome = Ok(());
        let mut copy = |record: Replayed<'_>| {
            if outcome.is_ok() {
                outcome = self.copy(&record, &waiter);
            }
        };
        self.log.scan(segment, &mut copy).map_err(Arc::new)?;
        drop(waiter);
        self.log.step();
        // Every copy holds a sender until its callback has run.
        while copied.recv().is_ok() {}
        outcome
    }

    fn copy(self: &Arc<Self>, record: &Replayed<'_>, waiter: &Sender<()>) -> Result<(), SpoolError> {
        let (id, kind, old) = (MessageId(record.id), record.kind, record.location);
        if !self.lock().holds(id, kind, old) {
            return Ok(());
        }
        let (head, body) = match kind {
            // The events have been exported, or the segment would not be offered; nobody needs them here again.
            STATE => (state::without_events(record.head), Bytes::new()),
            _ => (record.head.to_vec(), self.log.read_blocking(old).map_err(Arc::new)?.body),
        };
        // Under the lock until it is queued, so that a tombstone can only come behind it.
        let mut state = self.lock();
        if !state.holds(id, kind, old) {
            return Ok(());
        }
        if kind == MESSAGE {
            state.moving.insert(id);
        }
        let (spool, waiter) = (Arc::clone(self), waiter.clone());
        let done = move |result: Result<Location, LogError>| {
            match result {
                Ok(new) => spool.moved(id, kind, old, new),
                // After a close this is called under the lock, by `append` itself; nobody asks then.
                Err(LogError::Closed) => {}
                Err(_) => drop(spool.lock().moving.remove(&id)),
            }
            drop(waiter);
        };
        self.log.append([append(kind, id, head, body, done)]);
        Ok(())
    }

    /// On the log's thread: a copy is durable.
    fn moved(&self, id: MessageId, kind: u8, old: Location, new: Location) {
        let mut state = self.lock();
        if kind == MESSAGE {
            state.moving.remove(&id);
            self.log.depend(new.position.segment, old.position.segment);
        }
        match state.index.get_mut(id) {
            Some(entry) if entry.holds(kind, old) => {
                self.log.retain(new);
                entry.refer(kind, old, new);
                self.log.release(old);
            }
            Some(_) => {}
            None if kind == MESSAGE => {
                state.ghosts.insert(id, new.position.segment);
            }
            None => {}
        }
    }
}

impl State {
    pub(super) fn holds(&self, id: MessageId, kind: u8, location: Location) -> bool {
        self.index.get(id).is_some_and(|entry| entry.holds(kind, location))
    }
}
