//! The buckets of all limits, and who waits for their tokens.
//!
//! The rows of paths are found once for each path ([`Limits::path`]); those of mail when it is about to be picked
//! ([`Limits::mail`]). A bucket that is full again, that no path has and nobody waits for is forgotten: another like it
//! would be made anew.

mod fills;
mod table;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};

pub use fills::{Fill, FillName};

use smallvec::SmallVec;

use super::bucket::{Bucket, Rate};
use super::index::{Index, folded};
use super::line::{Line, Waiter};
use super::rows::{Allowed, Counted, Row, Rows, Sizes};
use crate::config::Subject;
use crate::mail::Class;

/// The serial of no bucket.
const FORGOTTEN: u32 = u32::MAX;

/// Names a bucket until it is forgotten; then it names none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BucketId {
    place: u32,
    serial: u32,
}

impl BucketId {
    /// Names no bucket.
    pub const NONE: BucketId = BucketId { place: u32::MAX, serial: FORGOTTEN };
}

/// Buckets, few.
pub type Buckets = SmallVec<[BucketId; 4]>;

/// What a transaction takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Recipients.
    pub recipients: u32,
    /// Octets of content.
    pub octets: u64,
}

/// Why something may not go yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// The tokens come at that instant, in milliseconds.
    Until(u64),
    /// Others wait for them, too: stand in line with [`Limits::join`].
    Behind(BucketId),
}

/// The limits of one path. Without any it has no memory of its own.
#[derive(Debug, Default)]
pub struct PathLimits(Option<Box<OfPath>>);

#[derive(Debug, Default)]
struct OfPath {
    /// Counts and rates of connections.
    dial: Buckets,
    /// Rates of messages, recipients, octets.
    send: Buckets,
    sizes: Sizes,
}

/// What was taken for a transaction, to be given back if there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    buckets: Buckets,
    load: Load,
}

/// A limit in force, for people.
#[derive(Debug, Clone, PartialEq)]
pub struct InForce<'a> {
    /// The row.
    pub row: &'a Row,
    /// Tokens that can be taken now, or connections that may be opened; negative: owed.
    pub left: f64,
    /// When the next can be taken: `now`, or later; `None`: when a connection ends.
    pub next: Option<u64>,
    /// How many wait for it.
    pub waiting: usize,
}

/// All limits.
#[derive(Debug, Default)]
pub struct Limits {
    rows: Rows,
    /// Places of rows about paths, and of the others, by what they name; of caps about mail, too.
    of_paths: Index<u32>,
    of_mail: Index<u32>,
    caps_of_mail: Index<u32>,
    tells: Domains,
    names: HashMap<Box<[u8]>, u32>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    serial: u32,
    /// With so many names it is time to see which can be forgotten.
    names_max: usize,
    key: Vec<u8>,
    /// What buckets begin with that have not been asked for since the start.
    kept: HashMap<FillName, Fill>,
    #[cfg(test)]
    pub(crate) work: Work,
}

/// Domains of which mail must be told apart.
#[derive(Debug, Default)]
struct Domains {
    /// From each other.
    all: bool,
    /// From the rest: by the hash of their names.
    named: HashSet<u64>,
}

/// What was done, counted for tests.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct Work {
    /// Rows compared with a subject.
    pub(crate) compared: usize,
    /// Times all rows were put in force anew.
    pub(crate) rebuilt: usize,
}

#[derive(Debug)]
struct Slot {
    serial: u32,
    row: u32,
    /// Paths that have it.
    paths: u32,
    state: State,
    line: Option<Box<Line>>,
    /// Connections that are closing to make room for those in line.
    yielding: u32,
}

#[derive(Debug)]
enum State {
    Rate(Bucket),
    Open(u32),
}

impl Limits {
    /// These rows, all buckets full.
    pub fn new(rows: Rows) -> Limits {
        let mut limits = Limits::default();
        limits.set_rows(0, rows);
        limits
    }

    /// The rows in force.
    pub fn rows(&self) -> &Rows {
        &self.rows
    }

    /// Whether no row is about mail.
    pub fn is_blind_to_mail(&self) -> bool {
        self.of_mail.is_empty() && self.caps_of_mail.is_empty()
    }

    /// Whether mail to some domains must be told apart from other mail of its stream.
    pub fn tells_domains(&self) -> bool {
        self.tells.all || !self.tells.named.is_empty()
    }

    /// Whether mail to this domain must be told apart from other mail of its stream.
    pub fn tells_domain(&self, domain: &str) -> bool {
        self.tells.all || (!self.tells.named.is_empty() && self.tells.named.contains(&folded(domain)))
    }

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

    /// The buckets of mail on a path, but for those of the path, and the most recipients it may have at a time.
    pub fn mail(&mut self, now: u64, subject: &Subject<'_>) -> (Buckets, u32) {
        let mut found = Buckets::new();
        for row in self.matching(|limits| &limits.of_mail, subject) {
            found.push(self.bucket(now, row, subject));
        }
        let mut most = u32::MAX;
        self.caps_of_mail.about(subject, |place| {
            let cap = &self.rows.caps[place as usize];
            if cap.scope.matches(subject) {
                most = most.min(cap.recipients_per_transaction.unwrap_or(u32::MAX));
            }
        });
        (found, most)
    }

    /// Places of the rows of an index that are about the subject, in order.
    fn matching(&mut self, index: fn(&Limits) -> &Index<u32>, subject: &Subject<'_>) -> SmallVec<[u32; 8]> {
        let mut rows: SmallVec<[u32; 8]> = SmallVec::new();
        index(self).about(subject, |row| rows.push(row));
        #[cfg(test)]
        {
            self.work.compared += rows.len();
        }
        rows.retain(|row| self.rows.rows[*row as usize].scope.matches(subject));
        rows.sort_unstable();
        rows
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

    /// Whether mail may be picked.
    pub fn held(&self, now: u64, buckets: &[BucketId], load: Load, senior: bool) -> Option<Held> {
        let mut latest: Option<(u64, Held)> = None;
        for id in buckets {
            let Some(slot) = self.slot(*id) else { continue };
            let row = &self.rows.rows[slot.row as usize];
            let until = match (&slot.state, row.allowed) {
                (State::Rate(bucket), Allowed::PerTime(rate)) => bucket.ready_at(rate, now, row.counted.tokens(load)),
                (State::Open(open), Allowed::AtOnce(most)) if *open >= most => u64::MAX,
                (State::Rate(_) | State::Open(_), _) => now,
            };
            let must_line_up = slot.line.is_some() && !senior;
            if until <= now && !must_line_up {
                continue;
            }
            let held = if row.is_shared() || until == u64::MAX { Held::Behind(*id) } else { Held::Until(until) };
            if latest.is_none_or(|(other, _)| other < until) {
                latest = Some((until, held));
            }
        }
        latest.map(|(_, held)| held)
    }

    /// How many recipients there are tokens for, at least one.
    pub fn recipients(&self, now: u64, buckets: &[BucketId]) -> u32 {
        let levels = buckets.iter().filter_map(|id| {
            let slot = self.slot(*id)?;
            let row = &self.rows.rows[slot.row as usize];
            match (&slot.state, row.allowed) {
                (State::Rate(bucket), Allowed::PerTime(rate)) if row.counted == Counted::Recipients => {
                    Some(bucket.level(rate, now) as u32)
                }
                (State::Rate(_) | State::Open(_), _) => None,
            }
        });
        levels.min().unwrap_or(u32::MAX).max(1)
    }

    /// Takes the tokens of a transaction.
    pub fn take(&mut self, now: u64, path: &PathLimits, mail: &[BucketId], load: Load) -> Option<Taken> {
        let buckets: Buckets = path.send().iter().chain(mail).copied().collect();
        for id in &buckets {
            if let (Some(counted), Some(rate)) = self.rate(*id)
                && let Some(Slot { state: State::Rate(bucket), .. }) = self.slot_mut(*id)
            {
                bucket.charge(rate, now, counted.tokens(load));
            }
        }
        (!buckets.is_empty()).then_some(Taken { buckets, load })
    }

    /// The transaction did not take place.
    pub fn give_back(&mut self, taken: &Taken) {
        for id in &taken.buckets {
            if let (Some(counted), Some(rate)) = self.rate(*id)
                && let Some(Slot { state: State::Rate(bucket), .. }) = self.slot_mut(*id)
            {
                bucket.give_back(rate, counted.tokens(taken.load));
            }
        }
    }

    /// Stands in line for a bucket; `front`: it was let go and came too late. When [`advance`](Limits::advance) must be
    /// called, unless that is known already; never for places of connections.
    pub fn join(&mut self, now: u64, id: BucketId, waiter: (Waiter, Class), load: Load, front: bool) -> Option<u64> {
        let (counted, rate) = self.rate(id);
        let slot = self.slot_mut(id)?;
        let line = slot.line.get_or_insert_default();
        let before = line.next();
        let (ready, needs) = match (&slot.state, counted, rate) {
            (State::Rate(bucket), Some(counted), Some(rate)) => {
                let needs = counted.tokens(load);
                (bucket.ready_at(rate, now, needs), needs)
            }
            (State::Rate(_) | State::Open(_), ..) => (u64::MAX, 1.0),
        };
        line.join(ready, waiter.0, waiter.1, needs, front);
        let next = line.next().filter(|_| matches!(slot.state, State::Rate(_)));
        next.filter(|next| before.is_none_or(|before| *next < before))
    }

    /// Lets those go whose tokens have come, if they still wait. When to call it again, if somebody is left.
    pub fn advance(
        &mut self,
        now: u64,
        id: BucketId,
        waits: impl FnMut(Waiter) -> bool,
        freed: &mut Vec<Waiter>,
    ) -> Option<u64> {
        let (_, Some(rate)) = self.rate(id) else { return None };
        let slot = self.slot_mut(id)?;
        let (Some(line), State::Rate(bucket)) = (&mut slot.line, &slot.state) else { return None };
        line.advance(now, rate, bucket, waits, freed);
        let next = line.next();
        if next.is_none() {
            slot.line = None;
        }
        next.map(|next| next.max(now + 1))
    }

    /// Forgets those in line that do not wait any more, if there may be many.
    pub fn tidy(&mut self, id: BucketId, waits: impl FnMut(Waiter) -> bool) {
        if let Some(line) = self.slot_mut(id).and_then(|slot| slot.line.as_mut()) {
            line.tidy(waits);
        }
    }

    fn slot(&self, id: BucketId) -> Option<&Slot> {
        self.slots.get(id.place as usize).filter(|slot| slot.serial == id.serial)
    }

    fn slot_mut(&mut self, id: BucketId) -> Option<&mut Slot> {
        self.slots.get_mut(id.place as usize).filter(|slot| slot.serial == id.serial)
    }

    /// What a bucket counts, and its rate if it has one.
    fn rate(&self, id: BucketId) -> (Option<Counted>, Option<Rate>) {
        let Some(row) = self.slot(id).map(|slot| &self.rows.rows[slot.row as usize]) else { return (None, None) };
        match row.allowed {
            Allowed::PerTime(rate) => (Some(row.counted), Some(rate)),
            Allowed::AtOnce(_) => (Some(row.counted), None),
        }
    }
}

impl Counted {
    /// Tokens a transaction, or a connection, takes.
    fn tokens(self, load: Load) -> f64 {
        match self {
            Counted::Connections | Counted::Dials | Counted::Messages => 1.0,
            Counted::Recipients => load.recipients.into(),
            Counted::Octets => load.octets as f64,
        }
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
