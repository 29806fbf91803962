//! The messages that have open recipients. Compact: a million of them may wait.

use super::StreamId;
use crate::clock::Timestamp;
use crate::mail::{ById, HasId, MessageId};
use crate::queue::wheel::TimerKey;

/// The table.
pub(super) type Messages = ById<MessageState>;

/// What a message needs in memory until its last end is recorded.
#[derive(Debug)]
pub(super) struct MessageState {
    pub(super) id: MessageId,
    pub(super) stream: StreamId,
    pub(super) accepted_at: Timestamp,
    /// On the queue's clock.
    pub(super) expires: u64,
    /// Set while a recipient is awake; sleepers wake no later than they expire.
    pub(super) expiry: Option<TimerKey>,
    /// Recipients whose time has come: resolving, ready or in flight.
    pub(super) awake: u32,
    /// Recipients whose end is claimed and not yet recorded.
    pub(super) unrecorded: u32,
    /// Its sender took it back: what is not in flight ends, and so does what lands without a final verdict.
    pub(super) cancelled: bool,
    /// Its time is up: the same, but that they end as expired.
    pub(super) given_up: bool,
    pub(super) size: Size,
    pub(super) open: Open,
}

/// Octets of a content, rounded up by less than a thousandth, in the two octets that the state has room for: 11 bits, and
/// in the 5 above them how far they are shifted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size(u16);

impl Size {
    const BITS: u32 = 11;

    pub(super) fn of(octets: u64) -> Size {
        let octets = octets.min(1 << 40);
        let mut shift = (u64::BITS - octets.leading_zeros()).saturating_sub(Size::BITS);
        let mut rounded = (octets + (1 << shift) - 1) >> shift;
        if rounded >> Size::BITS > 0 {
            (rounded, shift) = (rounded.div_ceil(2), shift + 1);
        }
        Size((shift << Size::BITS) as u16 | rounded as u16)
    }

    pub(super) fn octets(self) -> u64 {
        u64::from(self.0 & ((1 << Size::BITS) - 1)) << (self.0 >> Size::BITS)
    }
}

impl HasId for MessageState {
    fn id(&self) -> MessageId {
        self.id
    }
}

impl MessageState {
    /// Somebody ends its recipients, or has to when they land: none is attempted any more.
    pub(super) fn is_unwanted(&self) -> bool {
        self.cancelled || self.given_up
    }
}

/// Recipients that have not come to their end.
#[derive(Debug)]
pub(super) enum Open {
    /// The only one.
    Single,
    /// One of several.
    Several(Box<Several>),
}

/// Which of a message's recipients are open. Boxed: most messages have one recipient, and their state is small.
#[derive(Debug, Default)]
pub(super) struct Several {
    /// A bit each.
    bits: Vec<u64>,
    /// Each goes in a transaction of its own.
    apart: bool,
}

impl Open {
    /// None of so many is open yet; a single one is.
    pub(super) fn of(recipients: usize) -> Open {
        match recipients {
            1 => Open::Single,
            _ => Open::Several(Box::new(Several { bits: vec![0; recipients.div_ceil(64)], apart: false })),
        }
    }

    pub(super) fn set(&mut self, recipient: u32) {
        if let Open::Several(several) = self {
            several.bits[recipient as usize / 64] |= 1 << (recipient % 64);
        }
    }

    pub(super) fn has(&self, recipient: u32) -> bool {
        match self {
            Open::Single => recipient == 0,
            Open::Several(several) => {
                several.bits.get(recipient as usize / 64).is_some_and(|b| b >> (recipient % 64) & 1 == 1)
            }
        }
    }

    /// From now on each goes in a transaction of its own.
    pub(super) fn go_apart(&mut self) {
        if let Open::Several(several) = self {
            several.apart = true;
        }
    }

    /// Whether each goes in a transaction of its own.
    pub(super) fn is_apart(&self) -> bool {
        matches!(self, Open::Several(several) if several.apart)
    }

    /// False: it was not open.
    pub(super) fn clear(&mut self, recipient: u32) -> bool {
        if !self.has(recipient) {
            return false;
        }
        match self {
            Open::Single => *self = Open::Several(Box::default()),
            Open::Several(several) => several.bits[recipient as usize / 64] &= !(1 << (recipient % 64)),
        }
        true
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Open::Single => 1,
            Open::Several(several) => several.bits.iter().map(|b| b.count_ones() as usize).sum(),
        }
    }

    pub(super) fn list(&self) -> Vec<u32> {
        match self {
            Open::Single => vec![0],
            Open::Several(several) => (0..several.bits.len() as u32 * 64).filter(|r| self.has(*r)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_small() {
        // The figures in docs/performance.md rest on this.
        assert_eq!(crate::mail::size_in_slab::<MessageState>(), 56);
    }

    #[test]
    fn sizes_are_rounded_up() {
        for (octets, rounded) in [(0, 0), (1, 1), (2047, 2047), (2049, 2050), (10_001, 10_008), (1 << 30, 1 << 30)] {
            assert_eq!(Size::of(octets).octets(), rounded, "{octets}");
        }
        for octets in (0..1 << 30).step_by(99_991).chain([4095, (1 << 30) - 1]) {
            let rounded = Size::of(octets).octets();
            assert!(rounded >= octets && rounded <= octets + octets / 1000, "{octets} {rounded}");
        }
    }
}
