//! Start-up: from the records of the log back to the messages that are not finished.

use std::collections::HashMap;

use bytes::Bytes;

use super::state::{self, Change, RecipientState, StateRecord};
use super::{Entry, Export, Later, MESSAGE, Reader, SIGNATURE, STATE, codec};
use crate::log::{Location, Log, Position, ReplayReport, Replayed, SegmentId};
use crate::mail::{Envelope, MessageId};

/// An unfinished message found at start-up.
#[derive(Debug)]
pub struct Restored {
    /// Its name.
    pub id: MessageId,
    /// Its envelope.
    pub envelope: Envelope,
    /// The recipients that have had an attempt; each at most once.
    pub changes: Vec<Change>,
}

/// What opening found.
#[derive(Debug)]
pub struct Opened {
    /// Unfinished messages.
    pub messages: usize,
    /// What the log says.
    pub log: ReplayReport,
}

/// One message as the records seen so far tell it. Without `message` it is a straggler: its first copy was reclaimed and
/// the later one has not been reached yet.
#[derive(Debug, Default)]
struct Found {
    /// Segment of the first copy.
    oldest: Option<SegmentId>,
    message: Option<(Location, Envelope)>,
    changes: HashMap<u32, RecipientState>,
    states: Vec<Location>,
    signature: Option<Location>,
}

pub(super) struct Replay {
    found: HashMap<MessageId, Found>,
    depends: Vec<(SegmentId, SegmentId)>,
    last: MessageId,
    exported: Option<Position>,
    export: Export,
    unreadable: u64,
}

impl Replay {
    pub(super) fn new(exported: Option<Position>, export: Export) -> Replay {
        Replay { found: HashMap::new(), depends: Vec::new(), last: MessageId(0), exported, export, unreadable: 0 }
    }

    pub(super) fn visit(&mut self, record: Replayed<'_>) {
        let id = MessageId(record.id);
        self.last = self.last.max(id);
        let readable = match record.kind {
            MESSAGE => self.message(id, record.location, record.head),
            STATE => self.state(id, &record),
            SIGNATURE => {
                self.found.entry(id).or_default().signature = Some(record.location);
                true
            }
            _ => false,
        };
        if !readable {
            self.unreadable += 1;
            tracing::error!(message_id = %id, kind = record.kind, position = ?record.location.position,
                "a record in the spool cannot be read and is passed over; run `posthaste spool verify`");
        }
    }

    fn message(&mut self, id: MessageId, location: Location, head: &[u8]) -> bool {
        let Ok(envelope) = codec::read_envelope(&mut Reader(head)) else { return false };
        let found = self.found.entry(id).or_default();
        match found.message.replace((location, envelope)) {
            Some((older, _)) => self.depends.push((location.position.segment, older.position.segment)),
            None => found.oldest = Some(location.position.segment),
        }
        true
    }

    fn state(&mut self, id: MessageId, record: &Replayed<'_>) -> bool {
        let position = record.location.position;
        let Ok(StateRecord { grave, changes, events }) = state::read(record.head) else { return false };
        if self.exported.is_none_or(|exported| position > exported) && !events.is_empty() {
            (self.export)(position, Bytes::copy_from_slice(events));
        }
        if grave.is_some() {
            if let Some((location, _)) = self.found.remove(&id).and_then(|found| found.message) {
                self.depends.push((position.segment, location.position.segment));
            }
            return true;
        }
        let found = self.found.entry(id).or_default();
        found.states.push(record.location);
        for change in changes {
            let known = found.changes.get(&change.recipient);
            if known.is_none_or(|known| supersedes(&change.state, known)) {
                found.changes.insert(change.recipient, change.state);
            }
        }
        true
    }

    /// The index, and the highest id seen.
    pub(super) fn finish(self, log: &Log, restore: &mut dyn FnMut(Restored)) -> (HashMap<MessageId, Entry>, MessageId) {
        let mut index = HashMap::with_capacity(self.found.len());
        for (id, found) in self.found {
            let Some((location, envelope)) = found.message else { continue };
            log.retain(location);
            found.states.iter().chain(&found.signature).for_each(|location| log.retain(*location));
            let later = (!found.states.is_empty() || found.signature.is_some())
                .then(|| Box::new(Later { states: found.states, signature: found.signature }));
            let single = envelope.recipients.len() == 1;
            let oldest = found.oldest.unwrap_or(location.position.segment);
            index.insert(id, Entry { location, oldest, single, later });
            let changes = found.changes.into_iter().map(|(recipient, state)| Change { recipient, state }).collect();
            restore(Restored { id, envelope, changes });
        }
        self.depends.into_iter().for_each(|(segment, on)| log.depend(segment, on));
        (index, self.last)
    }
}

/// Whether `new` says more than `old`, whichever was written first.
fn supersedes(new: &RecipientState, old: &RecipientState) -> bool {
    match (new, old) {
        (_, RecipientState::Ended(_)) => false,
        (RecipientState::Ended(_), RecipientState::Waiting { .. }) => true,
        (RecipientState::Waiting { attempts: new, .. }, RecipientState::Waiting { attempts: old, .. }) => new >= old,
    }
}
