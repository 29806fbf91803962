//! The table of buckets: made when they are first asked for, forgotten when nobody would miss them.

use std::collections::HashMap;

use super::{BucketId, Domains, FORGOTTEN, InForce, Limits, Slot, State};
use crate::config::{Dimension, Subject};
use crate::shaping::index::folded;
use crate::shaping::line::Waiter;
use crate::shaping::rows::{Allowed, Row, Rows};

/// So many buckets are kept without a look at which are of use.
pub(super) const BUCKETS_MIN: usize = 4096;

impl Limits {
    /// Puts other rows in force. Buckets of a row that is still there go on, with its new rate. Everybody who waited is
    /// returned and waits no more; every path must ask for its limits anew.
    pub fn set_rows(&mut self, now: u64, rows: Rows) -> Vec<Waiter> {
        let before = std::mem::replace(&mut self.rows, rows);
        self.index_rows();
        let lines = self.slots.iter_mut().filter_map(|slot| slot.line.take());
        let waiters = lines.flat_map(|line| line.into_waiters()).collect();
        // Of two rows that are the same but for their rates, the first goes on.
        let mut successors: HashMap<_, u32> = HashMap::with_capacity(self.rows.rows.len());
        for (place, row) in (0u32..).zip(&self.rows.rows) {
            successors.entry(row.identity()).or_insert(place);
        }
        for (mut name, place) in std::mem::take(&mut self.names) {
            let slot = &mut self.slots[place as usize];
            let old = &before.rows[slot.row as usize];
            let Some(row) = successors.get(&old.identity()).copied() else {
                slot.serial = FORGOTTEN;
                self.free.push(place);
                continue;
            };
            let new = &self.rows.rows[row as usize];
            match (&mut slot.state, old.allowed, new.allowed) {
                (State::Rate(bucket), Allowed::PerTime(old), Allowed::PerTime(new)) => bucket.change(now, old, new),
                // Paths count theirs when they ask anew.
                (State::Open(open), ..) => *open = 0,
                (State::Rate(_), ..) => {}
            }
            (slot.row, slot.paths) = (row, 0);
            name[..size_of::<u32>()].copy_from_slice(&row.to_le_bytes());
            if let Some(double) = self.names.insert(name, place) {
                self.slots[double as usize].serial = FORGOTTEN;
                self.free.push(double);
            }
        }
        waiters
    }

    fn index_rows(&mut self) {
        (self.of_paths, self.of_mail, self.caps_of_mail) = Default::default();
        self.tells = Domains::default();
        for (place, row) in (0u32..).zip(&self.rows.rows) {
            let index = if row.is_of_paths() { &mut self.of_paths } else { &mut self.of_mail };
            index.file(&row.scope, place);
            match &row.scope.domain {
                Some(domain) => _ = self.tells.named.insert(folded(domain)),
                None => self.tells.all |= row.each.contains(&Dimension::Domain),
            }
        }
        let caps = (0u32..).zip(&self.rows.caps).filter(|(_, cap)| !cap.scope.is_of_paths());
        caps.for_each(|(place, cap)| self.caps_of_mail.file(&cap.scope, place));
        #[cfg(test)]
        {
            self.work.rebuilt += 1;
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
                (_, Allowed::PerTime(rate)) => {
                    let bucket = self.recalled(now, place, &key, rate);
                    (bucket.level(rate, now), Some(bucket.ready_at(rate, now, 1.0)))
                }
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

    /// The subject's bucket of a row, made if it is not there.
    pub(super) fn bucket(&mut self, now: u64, row: u32, subject: &Subject<'_>) -> BucketId {
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
            Allowed::PerTime(rate) => State::Rate(self.recall(now, row, key, rate)),
            Allowed::AtOnce(_) => State::Open(0),
        };
        self.serial = (self.serial + 1) % FORGOTTEN;
        let slot = Slot { serial: self.serial, row, paths: 0, state, line: None, yielding: 0 };
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
