//! The buckets of all limits, and who waits for their tokens.
//!
//! The rows of paths are found once for each path ([`Limits::path`]); those of mail when it is about to be picked
//! ([`Limits::mail`]). A bucket that is full again, that no path has and nobody waits for is forgotten: another like it
//! would be made anew.

mod fills;
mod path;
mod table;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};

use smallvec::SmallVec;

use super::bucket::{Bucket, Rate};
use super::index::{Index, folded};
use super::line::{Line, Waiter};
use super::rows::{Allowed, Counted, Row, Rows};
use crate::config::Subject;
use crate::mail::Class;
pub use fills::{Fill, FillName};
pub use path::PathLimits;

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
