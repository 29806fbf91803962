//! What buckets lack, by names that hold over restarts: a restart is no way around a daily limit.

use std::collections::HashMap;

use super::{Limits, State};
use crate::shaping::bucket::{Bucket, Rate};
use crate::shaping::index::folded;
use crate::shaping::rows::{Allowed, Row};

/// Names a bucket over restarts: what its row counts and is about, then the values it stands for.
pub type FillName = Box<[u8]>;

/// How empty a bucket is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fill {
    /// When it will be full, in milliseconds on the queue's clock.
    pub full_at: u64,
    /// At this rate.
    pub rate: Rate,
}

/// A bucket that is full again within so many milliseconds is not worth keeping.
const KEPT_FROM: f64 = 60_000.0;

/// Buckets that are kept at most.
const FILLS_MAX: usize = 100_000;

/// The longest name in octets: a key of the ledger has at most 512.
const NAME_MAX: usize = 500;

impl Limits {
    /// The buckets that take long to be full again.
    pub fn fills(&self, now: u64) -> HashMap<FillName, Fill> {
        let waiting = self.kept.iter().filter(|(_, fill)| fill.full_at > now);
        let mut fills: HashMap<FillName, Fill> = waiting.map(|(name, fill)| (name.clone(), *fill)).collect();
        for (key, place) in &self.names {
            let slot = &self.slots[*place as usize];
            let row = &self.rows.rows[slot.row as usize];
            if let (State::Rate(bucket), Allowed::PerTime(rate)) = (&slot.state, row.allowed)
                && bucket.full_at() - now as f64 > KEPT_FROM
                && fills.len() < FILLS_MAX
            {
                fills.insert(name(row, key), Fill { full_at: bucket.full_at() as u64, rate });
            }
        }
        fills
    }

    /// Buckets begin with these, when they are asked for.
    pub fn keep_fills(&mut self, fills: impl IntoIterator<Item = (FillName, Fill)>) {
        self.kept.extend(fills);
    }

    /// What a bucket begins with when it is made, which forgets what was kept of it.
    pub(super) fn recall(&mut self, now: u64, row: u32, key: &[u8], rate: Rate) -> Bucket {
        let bucket = self.recalled(now, row, key, rate);
        if !self.kept.is_empty() {
            self.kept.remove(&name(&self.rows.rows[row as usize], key));
        }
        bucket
    }

    /// What a bucket would begin with.
    pub(super) fn recalled(&self, now: u64, row: u32, key: &[u8], rate: Rate) -> Bucket {
        if self.kept.is_empty() {
            return Bucket::default();
        }
        let Some(fill) = self.kept.get(&name(&self.rows.rows[row as usize], key)) else { return Bucket::default() };
        let mut bucket = Bucket::full_from(fill.full_at);
        if fill.rate != rate {
            bucket.change(now, fill.rate, rate);
        }
        bucket
    }
}

/// `key`: the row's place and the values, as the table has them.
fn name(row: &Row, key: &[u8]) -> FillName {
    let (counted, scope, each) = row.identity();
    let mut name = vec![counted as u8];
    name.extend(serde_json::to_vec(&(scope, each)).expect("plain data"));
    name.push(0xFF);
    name.extend(&key[size_of::<u32>()..]);
    if name.len() > NAME_MAX {
        let rest = folded(&String::from_utf8_lossy(&name[NAME_MAX - 8..]));
        name.truncate(NAME_MAX - 8);
        name.extend(rest.to_le_bytes());
    }
    name.into()
}
