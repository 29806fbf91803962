//! What moves through the queue: recipients of one message that share their fate for now.

use std::ops::Deref;

use smallvec::{SmallVec, smallvec};

use super::HostId;
use crate::clock::Timestamp;
use crate::mail::{AddressHost, MessageId, Stream};
use crate::shaping::Taken;

/// Recipients of one message at one host that share their next attempt: what waits, is ready, or is in flight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::queue) struct Item {
    pub(in crate::queue) message: MessageId,
    pub(in crate::queue) host: HostId,
    /// Attempts so far.
    pub(in crate::queue) attempts: u16,
    /// Times a connection broke under it before a verdict came.
    pub(in crate::queue) spoilt: u8,
    /// The time for a report of delay has come: who wanted one has it.
    pub(in crate::queue) late: bool,
    /// Places in the envelope.
    pub(in crate::queue) recipients: Recipients,
}

impl Item {
    /// The same message and host, no recipients.
    pub(in crate::queue) fn with_none(&self, attempts: u16, spoilt: u8) -> Item {
        let Item { message, host, late, .. } = *self;
        Item { message, host, attempts, spoilt, late, recipients: Recipients::None }
    }

    /// Cuts the item to `limit` recipients; the rest is returned as an item of its own.
    pub(super) fn split(&mut self, limit: usize) -> Option<Item> {
        if self.recipients.len() <= limit {
            return None;
        }
        let (first, rest) = self.recipients.split_at(limit);
        let rest = Item { recipients: rest.iter().copied().collect(), ..self.with_none(self.attempts, self.spoilt) };
        self.recipients = first.iter().copied().collect();
        Some(rest)
    }
}

/// Places of recipients in an envelope. Most items have one, and millions of them wait: 16 octets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::queue) enum Recipients {
    #[default]
    None,
    One(u32),
    #[allow(clippy::box_collection, reason = "a bare Vec would make every item half as large again")]
    Many(Box<Vec<u32>>),
}

impl Recipients {
    pub(in crate::queue) fn push(&mut self, recipient: u32) {
        match self {
            Recipients::None => *self = Recipients::One(recipient),
            Recipients::One(first) => *self = Recipients::Many(Box::new(vec![*first, recipient])),
            Recipients::Many(all) => all.push(recipient),
        }
    }

    /// Each by itself, if they go apart; else all together.
    pub(in crate::queue) fn pieces(self, apart: bool) -> SmallVec<[Recipients; 1]> {
        match apart && self.len() > 1 {
            true => self.iter().map(|place| Recipients::One(*place)).collect(),
            false => smallvec![self],
        }
    }

    pub(in crate::queue) fn retain(&mut self, keep: impl Fn(u32) -> bool) {
        match self {
            Recipients::One(only) if !keep(*only) => *self = Recipients::None,
            Recipients::Many(all) => all.retain(|recipient| keep(*recipient)),
            Recipients::None | Recipients::One(_) => {}
        }
    }
}

impl Deref for Recipients {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        match self {
            Recipients::None => &[],
            Recipients::One(only) => std::slice::from_ref(only),
            Recipients::Many(all) => all,
        }
    }
}

impl FromIterator<u32> for Recipients {
    fn from_iter<I: IntoIterator<Item = u32>>(places: I) -> Recipients {
        let mut recipients = Recipients::None;
        places.into_iter().for_each(|place| recipients.push(place));
        recipients
    }
}

/// A message that joins the queue.
#[derive(Debug)]
pub(in crate::queue) struct Newcomer<'a> {
    pub(in crate::queue) id: MessageId,
    pub(in crate::queue) stream: &'a Stream,
    pub(in crate::queue) accepted_at: Timestamp,
    /// All it has, open or not.
    pub(in crate::queue) recipients: usize,
    /// Octets of its content.
    pub(in crate::queue) size: u64,
    /// On the queue's clock.
    pub(in crate::queue) expires: u64,
    /// Each recipient goes in a transaction of its own.
    pub(in crate::queue) apart: bool,
}

/// Recipients of a message that share host, attempts so far, and when they are due: no later than the message expires.
#[derive(Debug)]
pub(in crate::queue) struct Group<'a> {
    pub(in crate::queue) host: &'a AddressHost,
    pub(in crate::queue) attempts: u16,
    /// See [`Item::late`].
    pub(in crate::queue) late: bool,
    pub(in crate::queue) recipients: Recipients,
    pub(in crate::queue) due: u64,
    /// The suppression list names them: not to be mailed.
    pub(in crate::queue) refused: bool,
}

/// What a session takes away to deliver: recipients of one message.
#[derive(Debug)]
pub(in crate::queue) struct Batch {
    pub(in crate::queue) message: MessageId,
    pub(in crate::queue) items: Vec<Item>,
    /// What limits count of it, if there are some; given back if it is not delivered.
    pub(in crate::queue) taken: Option<Taken>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_small() {
        // The figures in docs/performance.md rest on this.
        assert_eq!(size_of::<Option<Item>>(), 32);
    }

    #[test]
    fn splits_at_the_limit() {
        let recipients = (0..5).collect();
        let mut item = Item { message: MessageId(1), host: 0, attempts: 2, spoilt: 1, late: false, recipients };
        let rest = item.split(3).expect("there is a rest");
        assert_eq!((&item.recipients[..], &rest.recipients[..]), (&[0, 1, 2][..], &[3, 4][..]));
        assert_eq!((rest.attempts, rest.spoilt), (2, 1));
        assert_eq!(item.split(3), None);
    }
}
