//! What must outlive the process, saved every half minute and at the end: how far sources are warmed up, what the reputation
//! brake counted, how empty the buckets of long limits are, by which source greylisted mail comes again. A crash loses half a
//! minute of it.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Queue;
use super::scheduler::Kept;
use crate::clock::Timestamp;
use crate::events::{About, Notice, NoticeKind};
use crate::ledger::{Ledger, LedgerError, Table};
use crate::mail::MessageId;
use crate::shaping::bucket::{Bucket, Rate};
use crate::shaping::warmup::Step;
use crate::shaping::{Fill, FillName};

/// How often.
const KEEP_EVERY: Duration = Duration::from_secs(30);

/// Greylisted messages in one record of the ledger.
const WISHES_PER_RECORD: usize = 1000;

/// Tokens that one transaction takes at most; as many may be owed.
const TRANSACTION_MAX: f64 = 1000.0;

/// The first octet of a bucket that is kept.
const VERSION: u8 = 1;

/// A bucket as the ledger has it: when it will be full on the wall clock, in milliseconds, at which rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct KeptFill {
    full_at: u64,
    rate: Rate,
}

impl KeptFill {
    /// Clocks are read one after the other: what differs by less than a second is the same.
    fn is_as(&self, other: &KeptFill) -> bool {
        self.full_at.abs_diff(other.full_at) < 1000 && self.rate == other.rate
    }

    fn write(&self) -> Bytes {
        let mut out = vec![VERSION];
        out.extend(self.full_at.to_le_bytes());
        out.extend(self.rate.per_second().to_le_bytes());
        out.extend(self.rate.burst().to_le_bytes());
        out.into()
    }

    /// As the queue has it, whose clock says `now` when that on the wall says `timestamp`; `None`: it is full. If the clock on the wall was
    /// far ahead when this was kept, nobody waits for a time that was a mistake: no bucket lacks more than itself and a transaction.
    fn fill(&self, now: u64, timestamp: Timestamp) -> Option<Fill> {
        let most = (self.rate.burst() + TRANSACTION_MAX) * 1e3 / self.rate.per_second();
        let lacks = self.full_at.saturating_sub(timestamp.0).min(most as u64);
        (lacks > 0).then(|| Fill { full_at: now.saturating_add(lacks), rate: self.rate })
    }

    /// What `fill` on the queue's clock is on the wall's.
    fn of(fill: &Fill, now: u64, timestamp: Timestamp) -> KeptFill {
        KeptFill { full_at: timestamp.0.saturating_add(fill.full_at.saturating_sub(now)), rate: fill.rate }
    }

    /// `None`: not ours, or nothing that could be true.
    fn read(octets: &[u8]) -> Option<KeptFill> {
        let (full_at, rest) = octets.strip_prefix(&[VERSION])?.split_first_chunk::<8>()?;
        let (per_second, burst) = rest.split_first_chunk::<8>()?;
        let (per_second, burst) = (f64::from_le_bytes(*per_second), f64::from_le_bytes(burst.try_into().ok()?));
        let possible = |number: f64| number.is_finite() && number > 0.0;
        let rate = Rate::new(per_second, Duration::from_secs(1), burst);
        (possible(per_second) && possible(burst)).then_some(KeptFill { full_at: u64::from_le_bytes(*full_at), rate })
    }
}

/// For fuzzing: a bucket that can be read is written so that it reads the same, and holds back nothing for longer than if it were empty and
/// a transaction were owed.
pub fn kept(octets: &[u8]) {
    let Some(kept) = KeptFill::read(octets) else { return };
    assert_eq!(KeptFill::read(&kept.write()), Some(kept));
    let (now, timestamp) = (5000, Timestamp(1_795_348_800_000));
    let Some(fill) = kept.fill(now, timestamp) else { return };
    let level = Bucket::full_from(fill.full_at).level(fill.rate, now);
    // But for rounding.
    assert!(level >= -TRANSACTION_MAX - 1.0 - fill.rate.burst() * 1e-12 && fill.full_at > now, "{level}");
    let again = KeptFill::of(&fill, now, timestamp);
    assert!(again.full_at <= kept.full_at && again.fill(now, timestamp) == Some(fill));
}

impl Queue {
    /// Goes on from what the ledger has of all this.
    pub(super) fn recall_kept(&self, ledger: &Ledger) -> Result<(), LedgerError> {
        let warmups = read_all(ledger, Table::Warmup)?;
        let counted = read_all(ledger, Table::Brake)?;
        let known = ledger.scan(Table::Buckets, b"")?;
        let read = |(name, octets): (Vec<u8>, Bytes)| Some((FillName::from(name), KeptFill::read(&octets)?));
        let known: HashMap<FillName, KeptFill> = known.into_iter().filter_map(read).collect();
        let (now, timestamp) = (self.now(), self.clock.timestamp());
        let fills = known.iter().filter_map(|(name, kept)| Some((name.clone(), kept.fill(now, timestamp)?)));
        {
            let mut scheduler = self.lock();
            scheduler.steering().warmup.restore(warmups);
            scheduler.steering().brake().restore(counted, timestamp);
            scheduler.shaper.limits.keep_fills(fills);
        }
        *self.saved_fills() = known;
        Ok(())
    }

    /// Keeps it, now and then, until the queue is closed.
    pub(super) fn keep_on(self: Arc<Queue>) {
        let queue = Arc::clone(&self);
        self.spawn(async move {
            while queue.stopping.run_until_cancelled(tokio::time::sleep(KEEP_EVERY)).await.is_some() {
                queue.keep_all().await;
            }
        });
    }

    /// Keeps what has changed, and tells of the steps of warm-ups. [`close`](Queue::close) ends with it.
    pub(super) async fn keep_all(&self) {
        let (steps, warmups, counted) = {
            let mut scheduler = self.lock();
            let steering = scheduler.steering();
            (steering.warmup.steps(), steering.warmup.changed(), steering.brake().changed())
        };
        steps.iter().for_each(|step| self.tell_of_step(step));
        let warmups = warmups.iter().map(|kept| (format!("{}\0{}", kept.source, kept.provider).into(), json(kept)));
        self.put(Table::Warmup, warmups.collect(), "how far sources are warmed up").await;
        let counted = counted.into_iter().map(|(key, kept)| (key, kept.as_ref().and_then(json)));
        self.put(Table::Brake, counted.collect(), "what the reputation brake counted").await;
        self.keep_fills().await;
        self.keep_wishes().await;
    }

    /// Goes on with who was greylisted by which source. Call it when all mail is back, before [`start`](Queue::start); without it
    /// that is not kept. Blocks.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn recall_wishes(&self, ledger: &Ledger) -> Result<(), LedgerError> {
        let read = |(key, value): (Vec<u8>, Bytes)| {
            let id = MessageId(u64::from_be_bytes(key.try_into().ok()?));
            Some((id, serde_json::from_slice(&value).unwrap_or_default()))
        };
        let kept: Vec<_> = ledger.scan(Table::Wishes, b"")?.into_iter().filter_map(read).collect();
        self.lock().recall_wishes(kept.into_iter());
        Ok(())
    }

    async fn keep_wishes(&self) {
        let changed = self.lock().wishes_changed();
        for some in changed.chunks(WISHES_PER_RECORD) {
            let fact = |(id, kept): &(MessageId, Kept)| {
                (id.0.to_be_bytes().to_vec(), Some(kept).filter(|kept| !kept.is_empty()).and_then(json))
            };
            self.put(Table::Wishes, some.iter().map(fact).collect(), "which source was greylisted").await;
        }
    }

    async fn keep_fills(&self) {
        let (now, timestamp) = (self.now(), self.clock.timestamp());
        let fills = self.lock().shaper.limits.fills(now);
        let on_wall = |(name, fill)| (name, KeptFill::of(&fill, now, timestamp));
        let fills: HashMap<FillName, KeptFill> = fills.into_iter().map(on_wall).collect();
        let facts: Vec<(Vec<u8>, Option<Bytes>)> = {
            let saved = self.saved_fills();
            let gone = saved.keys().filter(|name| !fills.contains_key(*name)).map(|name| (name.to_vec(), None));
            let same = |name: &FillName, fill: &KeptFill| saved.get(name).is_some_and(|before| before.is_as(fill));
            let changed = fills.iter().filter(|(name, fill)| !same(name, fill));
            gone.chain(changed.map(|(name, fill)| (name.to_vec(), Some(fill.write())))).collect()
        };
        if self.put(Table::Buckets, facts, "how much of the limits is used up").await {
            *self.saved_fills() = fills;
        }
    }

    /// Whether it is kept.
    async fn put(&self, table: Table, facts: Vec<(Vec<u8>, Option<Bytes>)>, what: &str) -> bool {
        let Some(ledger) = self.ledger.get().filter(|_| !facts.is_empty()) else { return false };
        let kept = ledger.put(table, facts).await;
        kept.inspect_err(|error| tracing::warn!(%error, "{what} was not kept")).is_ok()
    }

    fn saved_fills(&self) -> MutexGuard<'_, HashMap<FillName, KeptFill>> {
        self.fills_saved.lock().expect("no code panics under this lock")
    }

    fn tell_of_step(&self, step: &Step) {
        let Step { source, provider, what, day, per_day } = step;
        let about = About { source, provider, ..About::default() };
        let cause = match per_day {
            0 => "the plan has ended".to_owned(),
            _ => format!("day {day} of its plan: {per_day} recipients"),
        };
        tracing::info!(%source, %provider, what = what.as_str(), "warm-up: {cause}");
        let mut notice = Notice::new(self.clock.timestamp(), NoticeKind::Warmup, what.as_str(), about);
        notice.cause = &cause;
        self.spool.note(notice.line());
    }
}

/// What can be read of a table.
fn read_all<T: DeserializeOwned>(ledger: &Ledger, table: Table) -> Result<Vec<T>, LedgerError> {
    let facts = ledger.scan(table, b"")?;
    Ok(facts.iter().filter_map(|(_, value)| serde_json::from_slice(value).ok()).collect())
}

fn json(kept: &impl Serialize) -> Option<Bytes> {
    Some(Bytes::from(serde_json::to_vec(kept).expect("plain data")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_wrote_and_nothing_else() {
        let fill = KeptFill { full_at: 1_795_348_800_000, rate: Rate::new(1000.0, Duration::from_secs(86_400), 50.0) };
        let octets = fill.write();
        let read = KeptFill::read(&octets).expect("ours");
        assert!(read.is_as(&KeptFill { full_at: fill.full_at + 999, rate: read.rate }));
        assert!((read.rate.per_second() - fill.rate.per_second()).abs() < 1e-12 && read.rate.burst() == 50.0);
        for end in 0..octets.len() {
            assert_eq!(KeptFill::read(&octets[..end]), None);
        }
        assert_eq!(KeptFill::read(&[2; 25]), None);
        assert_eq!(KeptFill::read(&[&[VERSION][..], &[0; 24]].concat()), None);
    }

    #[test]
    fn a_clock_that_was_ahead_holds_nothing_back_for_long() {
        const DAY: u64 = 86_400_000;
        let now = Timestamp(1_795_348_800_000);
        let rate = Rate::new(1000.0, Duration::from_secs(86_400), 1000.0);
        let lacks = |full_at| KeptFill { full_at, rate }.fill(77, now).map(|fill| fill.full_at - 77);
        assert_eq!((lacks(now.0), lacks(0)), (None, None));
        assert_eq!(lacks(now.0 + DAY), Some(DAY));
        for wild in [now.0 + 4000 * DAY, u64::MAX] {
            assert!(lacks(wild).is_some_and(|lacks| lacks.abs_diff(2 * DAY) < 10), "{:?}", lacks(wild));
        }
    }
}
