//! Giving disk back: dead segments are reused, stragglers in nearly dead ones are copied forward first.

use std::sync::Arc;

use bytes::Bytes;

use super::{Entry, MESSAGE, SIGNATURE, STATE, Spool, SpoolError, append};
use crate::log::{Location, LogError, Replayed, SegmentId};
use crate::mail::MessageId;

/// Segments with less than this share of live octets are worth copying.
const SPARSE: f64 = 0.3;

impl Spool {
    /// One round: copies the stragglers of the sparsest segment, if there is one, and frees what is dead. Blocks on disk;
    /// returns the segments freed and whether another round is worth its while. Only one at a time.
    ///
    /// # Errors
    /// When the sparse segment cannot be read; nothing is lost then.
    pub fn reclaim(self: &Arc<Self>) -> Result<(usize, bool), SpoolError> {
        let sparse = self.log.sparse(SPARSE);
        if let Some(segment) = sparse {
            self.copy_forward(segment)?;
        }
        Ok((self.log.reclaim(), sparse.is_some()))
    }

    /// Appends every live record of `segment` again and waits until all copies are durable.
    fn copy_forward(self: &Arc<Self>, segment: SegmentId) -> Result<(), SpoolError> {
        let (waiter, copied) = std::sync::mpsc::channel::<()>();
        self.log.scan(segment, &mut |record| self.copy(&record, &waiter)).map_err(Arc::new)?;
        drop(waiter);
        // Every copy holds a sender until its callback has run.
        while copied.recv().is_ok() {}
        Ok(())
    }

    fn copy(self: &Arc<Self>, record: &Replayed<'_>, waiter: &std::sync::mpsc::Sender<()>) {
        let (id, kind, old) = (MessageId(record.id), record.kind, record.location);
        // Under the lock until it is queued, so that a tombstone can only come behind it.
        let state = self.lock();
        if !state.index.get(&id).is_some_and(|entry| entry.holds(kind, old)) {
            return;
        }
        // The events of a state have been exported, or the segment would not be offered.
        let body = if kind == STATE { Bytes::new() } else { Bytes::copy_from_slice(record.body) };
        let (spool, waiter) = (Arc::clone(self), waiter.clone());
        let done = move |result: Result<Location, LogError>| {
            if let Ok(new) = result {
                spool.moved(id, kind, old, new);
            }
            drop(waiter);
        };
        self.log.append([append(kind, id, record.head.to_vec(), body, done)]);
    }

    /// On the log's thread: a copy is durable.
    fn moved(&self, id: MessageId, kind: u8, old: Location, new: Location) {
        let mut state = self.lock();
        if kind == MESSAGE {
            self.log.depend(new.position.segment, old.position.segment);
        }
        match state.index.get_mut(&id) {
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

impl Entry {
    fn holds(&self, kind: u8, location: Location) -> bool {
        match (kind, &self.later) {
            (MESSAGE, _) => self.location == location,
            (STATE, Some(later)) => later.states.contains(&location),
            (SIGNATURE, Some(later)) => later.signature == Some(location),
            _ => false,
        }
    }

    fn refer(&mut self, kind: u8, old: Location, new: Location) {
        match (kind, &mut self.later) {
            (STATE, Some(later)) => later.states.iter_mut().filter(|l| **l == old).for_each(|l| *l = new),
            (SIGNATURE, Some(later)) => later.signature = Some(new),
            _ => self.location = new,
        }
    }
}
