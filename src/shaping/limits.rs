//! The buckets of all limits, and who waits for their tokens.
//!
//! The rows of paths are found once for each path ([`Limits::path`]); those of mail when it is about to be picked
//! ([`Limits::mail`]). A bucket that is full again, that no path has and nobody waits for is forgotten: another like it
//! would be made anew.

use std::collections::HashMap;

use smallvec::SmallVec;

use super::bucket::{Bucket, Rate};
use super::line::{Line, Waiter};
use super::rows::{Allowed, Counted, Row, Rows, Sizes};
use crate::config::Subject;
use crate::mail::Class;

/// So many buckets are kept without a look at which are of use.
const BUCKETS_MIN: usize = 4096;

/// The serial of no bucket.
const FORGOTTEN: u32 = u32::MAX;

/// Names a bucket until it is forgotten; then it names none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BucketId {
    place: u32,
    serial: u32,
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
    /// Places of rows about paths, and of the others.
    of_paths: Vec<u32>,
    of_mail: Vec<u32>,
    tells_domains: bool,
    names: HashMap<Box<[u8]>, u32>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    serial: u32,
    /// With so many names it is time to see which can be forgotten.
    names_max: usize,
    key: Vec<u8>,
}

#[derive(Debug)]
struct Slot {
    serial: u32,
    row: u32,
    /// Paths that have it.
    paths: u32,
    state: State,
    line: Option<Box<Line>>,
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

    /// Puts other rows in force. Buckets of a row that is still there go on, with its new rate. Everybody who waited is
    /// returned and waits no more; every path must ask for its limits anew.
    pub fn set_rows(&mut self, now: u64, rows: Rows) -> Vec<Waiter> {
        let before = std::mem::replace(&mut self.rows, rows);
        let places = |of: fn(&Row) -> bool| -> Vec<u32> {
            (0u32..).zip(&self.rows.rows).filter(|(_, row)| of(row)).map(|(place, _)| place).collect()
        };
        (self.of_paths, self.of_mail) = (places(Row::is_of_paths), places(|row| !row.is_of_paths()));
        self.tells_domains = self.rows.rows.iter().any(Row::tells_domains);
        let lines = self.slots.iter_mut().filter_map(|slot| slot.line.take());
        let waiters = lines.flat_map(|line| line.into_waiters()).collect();
        for (mut name, place) in std::mem::take(&mut self.names) {
            let slot = &mut self.slots[place as usize];
            let old = &before.rows[slot.row as usize];
            let successor = (0u32..).zip(&self.rows.rows).find(|(_, row)| row.is_successor_of(old));
            let Some((row, new)) = successor else {
                slot.serial = FORGOTTEN;
                self.free.push(place);
                continue;
            };
            match (&mut slot.state, old.allowed, new.allowed) {
                (State::Rate(bucket), Allowed::PerTime(old), Allowed::PerTime(new)) => bucket.change(now, old, new),
                // Paths count theirs when they ask anew.
                (State::Open(open), ..) => *open = 0,
                (State::Rate(_), ..) => {}
            }
            (slot.row, slot.paths) = (row, 0);
            name[..size_of::<u32>()].copy_from_slice(&row.to_le_bytes());
            // Of two rows that are the same but for their rates, the first goes on.
            if let Some(double) = self.names.insert(name, place) {
                self.slots[double as usize].serial = FORGOTTEN;
                self.free.push(double);
            }
        }
        waiters
    }

    /// The rows in force.
    pub fn rows(&self) -> &Rows {
        &self.rows
    }

    /// Whether no row is about mail.
    pub fn no_rows_of_mail(&self) -> bool {
        self.of_mail.is_empty()
    }

    /// Whether mail to this domain must be told apart from other mail of its stream.
    pub fn tells_domain(&self, domain: &str) -> bool {
        let about = |row: &Row| {
            row.tells_domains() && row.scope.domain.as_ref().is_none_or(|name| name.eq_ignore_ascii_case(domain))
        };
        self.tells_domains && self.rows.rows.iter().any(about)
    }

    /// The limits of a path, of which the subject's mail is not looked at, with so many connections open. Give them back by
    /// [`leave`](Limits::leave).
    pub fn path(&mut self, now: u64, subject: &Subject<'_>, connections: u32) -> PathLimits {
        let mut of_path = OfPath::default();
        let caps = self.rows.caps.iter().filter(|cap| cap.scope.is_of_paths() && cap.scope.matches(subject));
        for cap in caps {
            of_path.sizes.add(cap.recipients_per_transaction, cap.messages_per_connection);
        }
        for index in 0..self.of_paths.len() {
            let row = self.of_paths[index];
            if !self.rows.rows[row as usize].scope.matches(subject) {
                continue;
            }
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
        for index in 0..self.of_mail.len() {
            let row = self.of_mail[index];
            if self.rows.rows[row as usize].scope.matches(subject) {
                found.push(self.bucket(now, row, subject));
            }
        }
        let caps = self.rows.caps.iter().filter(|cap| !cap.scope.is_of_paths() && cap.scope.matches(subject));
        (found, caps.filter_map(|cap| cap.recipients_per_transaction).min().unwrap_or(u32::MAX))
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

    /// A connection of the path is over. Who waited for its place is returned.
    pub fn disconnected(&mut self, path: &PathLimits) -> SmallVec<[Waiter; 1]> {
        let mut freed = SmallVec::new();
        for id in path.dial() {
            let Some(slot) = self.slot_mut(*id) else { continue };
            let State::Open(open) = &mut slot.state else { continue };
            *open = open.saturating_sub(1);
            if let Some(line) = &mut slot.line {
                freed.extend(line.pop().map(|(waiter, _)| waiter));
                if line.is_empty() {
                    slot.line = None;
                }
            }
        }
        freed
    }

    /// Whether somebody waits for a place that a connection of this path takes.
    pub fn is_wanted(&self, path: &PathLimits) -> bool {
        let wanted = |slot: &Slot| slot.line.is_some() && matches!(slot.state, State::Open(_));
        path.dial().iter().any(|id| self.slot(*id).is_some_and(wanted))
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

    /// Lets those go whose tokens have come. When to call it again, if somebody is left.
    pub fn advance(&mut self, now: u64, id: BucketId, freed: &mut Vec<Waiter>) -> Option<u64> {
        let (_, Some(rate)) = self.rate(id) else { return None };
        let slot = self.slot_mut(id)?;
        let (Some(line), State::Rate(bucket)) = (&mut slot.line, &slot.state) else { return None };
        line.advance(now, rate, bucket, freed);
        let next = line.next();
        if next.is_none() {
            slot.line = None;
        }
        next.map(|next| next.max(now + 1))
    }

    /// How many stand in line for a bucket.
    pub fn waiting(&self, id: BucketId) -> usize {
        self.slot(id).and_then(|slot| slot.line.as_ref()).map_or(0, |line| line.len())
    }

    /// Forgets those in line that do not wait any more.
    pub fn retain(&mut self, id: BucketId, waits: impl FnMut(Waiter) -> bool) {
        if let Some(line) = self.slot_mut(id).and_then(|slot| slot.line.as_mut()) {
            line.retain(waits);
        }
    }

    /// Every limit that holds for a subject, with what is left of it.
    pub fn in_force(&self, now: u64, subject: &Subject<'_>) -> Vec<InForce<'_>> {
        let mut key = Vec::new();
        let rows = (0u32..).zip(&self.rows.rows).filter(|(_, row)| row.scope.matches(subject));
        let tell = |(place, row): (u32, &'_ Row)| {
            row.key(place, subject, &mut key);
            let slot = self.names.get(key.as_slice()).map(|place| &self.slots[*place as usize]);
            let (left, next) = match (slot.map(|slot| &slot.state), row.allowed) {
                (Some(State::Rate(bucket)), Allowed::PerTime(rate)) => {
                    (bucket.level(rate, now), Some(bucket.ready_at(rate, now, 1.0)))
                }
                (Some(State::Open(open)), Allowed::AtOnce(most)) => {
                    (f64::from(most) - f64::from(*open), (*open < most).then_some(now))
                }
                (_, Allowed::PerTime(rate)) => (rate.burst(), Some(now)),
                (_, Allowed::AtOnce(most)) => (most.into(), Some(now)),
            };
            let waiting = slot.and_then(|slot| slot.line.as_ref()).map_or(0, |line| line.len());
            (place, left, next, waiting)
        };
        let told: Vec<_> = rows.map(tell).collect();
        let row = |place: u32| &self.rows.rows[place as usize];
        told.into_iter().map(|(place, left, next, waiting)| InForce { row: row(place), left, next, waiting }).collect()
    }

    /// Buckets that are kept.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// No bucket is kept.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
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

    /// The subject's bucket of a row, made if it is not there.
    fn bucket(&mut self, now: u64, row: u32, subject: &Subject<'_>) -> BucketId {
        let mut key = std::mem::take(&mut self.key);
        self.rows.rows[row as usize].key(row, subject, &mut key);
        let place = match self.names.get(key.as_slice()) {
            Some(place) => *place,
            None => self.new_bucket(now, row, &key),
        };
        self.key = key;
        BucketId { place, serial: self.slots[place as usize].serial }
    }

    fn new_bucket(&mut self, now: u64, row: u32, key: &[u8]) -> u32 {
        if self.names.len() >= self.names_max {
            self.forget(now);
            self.names_max = BUCKETS_MIN.max(2 * self.names.len());
        }
        let state = match self.rows.rows[row as usize].allowed {
            Allowed::PerTime(_) => State::Rate(Bucket::default()),
            Allowed::AtOnce(_) => State::Open(0),
        };
        self.serial = (self.serial + 1) % FORGOTTEN;
        let slot = Slot { serial: self.serial, row, paths: 0, state, line: None };
        let place = match self.free.pop() {
            Some(place) => {
                self.slots[place as usize] = slot;
                place
            }
            None => {
                self.slots.push(slot);
                self.slots.len() as u32 - 1
            }
        };
        self.names.insert(key.into(), place);
        place
    }

    /// Forgets buckets that would be made anew as they are. Called when there are twice as many as were of use before, so
    /// it costs O(1) a new bucket.
    fn forget(&mut self, now: u64) {
        let (slots, free) = (&mut self.slots, &mut self.free);
        self.names.retain(|_, place| {
            let slot = &mut slots[*place as usize];
            let idle = match &slot.state {
                State::Rate(bucket) => bucket.is_full(now),
                State::Open(open) => *open == 0,
            };
            let keep = slot.paths > 0 || slot.line.is_some() || !idle;
            if !keep {
                slot.serial = FORGOTTEN;
                free.push(*place);
            }
            keep
        });
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

#[cfg(test)]
mod tests;
