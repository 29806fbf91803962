//! Where the records of every unfinished message stand. Compact: a million waiting messages have an entry each.

use super::{MESSAGE, SIGNATURE, STATE};
use crate::log::{Location, Position, SegmentId};
use crate::mail::{ById, HasId, MessageId};

/// The entries by message.
pub(super) type Index = ById<Entry>;

/// The records of one message.
#[derive(Debug)]
pub(super) struct Entry {
    id: MessageId,
    /// Its `MESSAGE` record; `None` only during replay, when a later copy is still to come.
    pub(super) message: Option<Location>,
    /// The last `STATE` record of a message with one recipient.
    state: StatePlace,
    more: Option<Box<More>>,
}

/// Where a `STATE` record stands, if there is one. It has no body, so this is 12 octets.
#[derive(Debug, Clone, Copy)]
struct StatePlace {
    position: Position,
    head_len: u32,
}

/// What few messages have.
#[derive(Debug, Default)]
struct More {
    /// Several recipients, so that no state replaces another.
    many: bool,
    /// All `STATE` records of a message with several recipients.
    states: Vec<Location>,
    signature: Option<Location>,
    /// Segment of the first copy of the `MESSAGE` record that may still be there, if it was copied.
    oldest: Option<SegmentId>,
}

impl HasId for Entry {
    fn id(&self) -> MessageId {
        self.id
    }
}

impl StatePlace {
    /// Segments count from 1.
    const NONE: StatePlace = StatePlace { position: Position { segment: SegmentId(0), offset: 0 }, head_len: 0 };

    fn get(self) -> Option<Location> {
        let StatePlace { position, head_len } = self;
        (position.segment.0 > 0).then_some(Location { position, head_len, body_len: 0 })
    }

    fn set(&mut self, Location { position, head_len, body_len }: Location) {
        debug_assert!(body_len == 0 && position.segment.0 > 0);
        *self = StatePlace { position, head_len };
    }

    fn replace(&mut self, location: Location) -> Option<Location> {
        let old = self.take();
        self.set(location);
        old
    }

    fn take(&mut self) -> Option<Location> {
        std::mem::replace(self, StatePlace::NONE).get()
    }
}

impl Entry {
    /// Of which nothing is known yet.
    pub(super) fn new(id: MessageId) -> Entry {
        Entry { id, message: None, state: StatePlace::NONE, more: None }
    }

    /// The message has several recipients.
    pub(super) fn set_many(&mut self) {
        self.more.get_or_insert_default().many = true;
        let state = self.state.take();
        self.more.get_or_insert_default().states.extend(state);
    }

    /// The message has one recipient: its last state says all.
    pub(super) fn keep_last_state(&mut self) {
        let Some(mut more) = self.more.take() else { return };
        more.states.last().into_iter().for_each(|last| self.state.set(*last));
        (more.many, more.states) = (false, Vec::new());
        if more.signature.is_some() || more.oldest.is_some() {
            self.more = Some(more);
        }
    }

    /// A new copy of the message; the old one, if any, is returned.
    pub(super) fn set_message(&mut self, location: Location) -> Option<Location> {
        let old = self.message.replace(location)?;
        self.more.get_or_insert_default().oldest.get_or_insert(old.position.segment);
        Some(old)
    }

    /// A new state; the one it replaces, if any, is returned.
    pub(super) fn add_state(&mut self, location: Location) -> Option<Location> {
        match &mut self.more {
            Some(more) if more.many => {
                more.states.push(location);
                None
            }
            _ => self.state.replace(location),
        }
    }

    /// A state seen at start-up, when nobody knows yet how many recipients the message has. Most messages have one state,
    /// and cost no box, which would leave holes in memory when it goes.
    pub(super) fn note_state(&mut self, location: Location) {
        match &mut self.more {
            Some(more) if more.many => more.states.push(location),
            _ if self.state.get().is_none() => self.state.set(location),
            _ => {
                self.set_many();
                self.add_state(location);
            }
        }
    }

    /// A new signature; the one it replaces, if any, is returned.
    pub(super) fn set_signature(&mut self, location: Location) -> Option<Location> {
        self.more.get_or_insert_default().signature.replace(location)
    }

    pub(super) fn signature(&self) -> Option<Location> {
        self.more.as_ref().and_then(|more| more.signature)
    }

    /// The `STATE` records, oldest first.
    pub(super) fn states(&self) -> impl Iterator<Item = Location> + '_ {
        self.state.get().into_iter().chain(self.more.iter().flat_map(|more| more.states.iter().copied()))
    }

    /// All records that are live.
    pub(super) fn records(&self) -> impl Iterator<Item = Location> + '_ {
        self.message.into_iter().chain(self.states()).chain(self.signature())
    }

    /// The segment of the oldest copy of the `MESSAGE` record that may still be there.
    pub(super) fn oldest(&self) -> Option<SegmentId> {
        let copied = self.more.as_ref().and_then(|more| more.oldest);
        copied.or(self.message.map(|location| location.position.segment))
    }

    /// Whether the record at `location` is one of the live ones.
    pub(super) fn holds(&self, kind: u8, location: Location) -> bool {
        match kind {
            MESSAGE => self.message == Some(location),
            STATE => self.states().any(|state| state == location),
            SIGNATURE => self.signature() == Some(location),
            _ => false,
        }
    }

    /// The live record at `old` was copied to `new`.
    pub(super) fn refer(&mut self, kind: u8, old: Location, new: Location) {
        match (kind, &mut self.more) {
            (MESSAGE, _) => drop(self.set_message(new)),
            (STATE, _) if self.state.get() == Some(old) => self.state.set(new),
            (STATE, Some(more)) => more.states.iter_mut().filter(|state| **state == old).for_each(|state| *state = new),
            (SIGNATURE, Some(more)) => more.signature = Some(new),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_small() {
        // The figures in docs/performance.md rest on this.
        assert_eq!(crate::mail::size_in_slab::<Entry>(), 48);
    }
}
