//! What limits say of paths: the buckets of one, and the connections that it may open and must give up.

use super::{BucketId, Buckets, Held, Limits, Load, Slot, State};
use crate::config::Subject;
use crate::shaping::line::Waiter;
use crate::shaping::rows::{Allowed, Counted, Sizes};

/// The limits of one path. Without any it has no memory of its own.
#[derive(Debug, Default)]
pub struct PathLimits(pub(super) Option<Box<OfPath>>);

#[derive(Debug, Default)]
pub(super) struct OfPath {
    /// Counts and rates of connections.
    dial: Buckets,
    /// Rates of messages, recipients, octets.
    send: Buckets,
    sizes: Sizes,
}

impl Limits {
    /// The limits of a path, of which the subject's mail is not looked at, with so many connections open. Give them back by
    /// [`leave`](Limits::leave).
    pub fn path(&mut self, now: u64, subject: &Subject<'_>, connections: u32) -> PathLimits {
        let mut of_path = OfPath::default();
        let caps = self.rows.caps.iter().filter(|cap| cap.scope.is_of_paths() && cap.scope.matches(subject));
        for cap in caps {
            of_path.sizes.add(cap.recipients_per_transaction, cap.messages_per_connection);
        }
        for row in self.matching(|limits| &limits.of_paths, subject) {
            let id = self.bucket(now, row, subject);
            let slot = &mut self.slots[id.place as usize];
            slot.paths += 1;
            if let State::Open(open) = &mut slot.state {
                *open += connections;
            }
            match self.rows.rows[row as usize].counted {
                Counted::Connections | Counted::Dials => of_path.dial.push(id),
                Counted::Messages | Counted::Recipients | Counted::Octets => of_path.send.push(id),
            }
        }
        let none = of_path.dial.is_empty() && of_path.send.is_empty() && of_path.sizes == Sizes::default();
        PathLimits((!none).then(|| Box::new(of_path)))
    }

    /// A path is gone, or asks anew. Its connections are given back by [`disconnected`](Limits::disconnected).
    pub fn leave(&mut self, path: &PathLimits) {
        for id in path.dial().iter().chain(path.send()) {
            if let Some(slot) = self.slot_mut(*id) {
                slot.paths = slot.paths.saturating_sub(1);
            }
        }
    }

    /// Whether a path may open one more connection. `senior`: it was let go from a line, others have to stand behind it.
    pub fn may_connect(&self, now: u64, path: &PathLimits, senior: bool) -> Option<Held> {
        self.held(now, path.dial(), Load { recipients: 1, octets: 0 }, senior)
    }

    /// A connection of the path is being opened.
    pub fn connecting(&mut self, now: u64, path: &PathLimits) {
        for id in path.dial() {
            let (_, rate) = self.rate(*id);
            match (self.slot_mut(*id).map(|slot| &mut slot.state), rate) {
                (Some(State::Open(open)), _) => *open += 1,
                (Some(State::Rate(bucket)), Some(rate)) => bucket.charge(rate, now, 1.0),
                _ => {}
            }
        }
    }

    /// A connection of the path is over. Lines in which somebody waits for its place are returned: see
    /// [`next_place`](Limits::next_place).
    pub fn disconnected(&mut self, path: &PathLimits) -> Buckets {
        let mut lines = Buckets::new();
        for id in path.dial() {
            let Some(slot) = self.slot_mut(*id) else { continue };
            let State::Open(open) = &mut slot.state else { continue };
            *open = open.saturating_sub(1);
            slot.yielding = slot.yielding.saturating_sub(1);
            if slot.line.is_some() {
                lines.push(*id);
            }
        }
        lines
    }

    /// If there is a place, who may have it, of those that still wait.
    pub fn next_place(&mut self, id: BucketId, mut waits: impl FnMut(Waiter) -> bool) -> Option<Waiter> {
        let row = self.slot(id)?.row;
        let slot = self.slots.get_mut(id.place as usize)?;
        match (&slot.state, self.rows.rows[row as usize].allowed) {
            (State::Open(open), Allowed::AtOnce(most)) if *open < most => {}
            (State::Open(_) | State::Rate(_), _) => return None,
        }
        let line = slot.line.as_mut()?;
        let next = std::iter::from_fn(|| line.pop()).map(|(waiter, _)| waiter).find(|waiter| waits(*waiter));
        if line.is_empty() {
            slot.line = None;
        }
        next
    }

    /// Whether a path has to do with this bucket of connections.
    pub fn has_place(&self, path: &PathLimits, id: BucketId) -> bool {
        path.dial().contains(&id) && self.slot(id).is_some_and(|slot| matches!(slot.state, State::Open(_)))
    }

    /// Whether no other path has to do with this bucket.
    pub fn is_of_one(&self, id: BucketId) -> bool {
        self.slot(id).is_some_and(|slot| slot.paths == 1)
    }

    /// Whether somebody waits for a place that a connection of this path takes: an idle one is of more use there.
    pub fn is_wanted(&self, path: &PathLimits) -> bool {
        let wanted = |slot: &Slot| slot.line.is_some() && matches!(slot.state, State::Open(_));
        path.dial().iter().any(|id| self.slot(*id).is_some_and(wanted))
    }

    /// Whether a connection of this path should close, though it has work, because somebody has none at all. As many are
    /// told so as there are of those.
    pub fn must_yield(&mut self, path: &PathLimits) -> bool {
        for id in path.dial() {
            let Some(slot) = self.slot_mut(*id) else { continue };
            let urgent = slot.line.as_ref().map_or(0, |line| line.urgent());
            if matches!(slot.state, State::Open(_)) && urgent > slot.yielding {
                slot.yielding += 1;
                return true;
            }
        }
        false
    }
}

impl Sizes {
    fn add(&mut self, recipients_per_transaction: Option<u32>, messages_per_connection: Option<u32>) {
        let least = |one: u32, other: Option<u32>| other.map_or(one, |other| one.min(other.max(1)));
        self.recipients_per_transaction = least(self.recipients_per_transaction, recipients_per_transaction);
        self.messages_per_connection = least(self.messages_per_connection, messages_per_connection);
    }
}

impl PathLimits {
    fn dial(&self) -> &[BucketId] {
        self.0.as_ref().map_or(&[], |of_path| &of_path.dial)
    }

    /// The buckets every message on it takes from.
    pub fn send(&self) -> &[BucketId] {
        self.0.as_ref().map_or(&[], |of_path| &of_path.send)
    }

    /// What may be sent at once.
    pub fn sizes(&self) -> Sizes {
        self.0.as_ref().map_or_else(Sizes::default, |of_path| of_path.sizes)
    }
}
