//! What a tenant has used of its quotas.
//!
//! All or nothing, under one lock: the counts that can be given back are looked at first, governor's limiter, which takes
//! nothing back, last.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use governor::clock::Clock as _;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{NotUntil, RateLimiter};
use serde::{Deserialize, Serialize};

use super::AccessError;
use super::tenant::{Quota, Tenant};
use super::window::{Day, Hour};
use crate::clock::{Clock, Instant, Timestamp};

/// When to look again for room in the queue: that is up to the receivers.
const QUEUE_RETRY: Duration = Duration::from_secs(30);

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

type Limiter = RateLimiter<NotKeyed, InMemoryState, Monotonic, NoOpMiddleware<Nanos>>;

/// Counts what one tenant submits.
#[derive(Debug)]
pub(super) struct Meter {
    counts: Mutex<Counts>,
    clock: Clock,
}

#[derive(Debug)]
struct Counts {
    hour: Hour,
    day: Day,
    /// Let through, not in the queue yet.
    in_flight: u64,
    /// Built for these recipients a second and at once.
    limiter: Option<((u32, u32), Limiter)>,
    /// How often something was counted, and how often when it was last saved.
    changes: u64,
    saved: u64,
}

/// What is kept of it over a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Saved {
    hour: Vec<(u64, u64)>,
    day: Vec<(u64, u64)>,
}

/// Room taken from quotas, held while the recipients are on their way to the queue. Dropped, they count as taken: whoever
/// drops it need not know whether the queue got them after all, and going away early must not make mail free.
#[derive(Debug)]
#[must_use = "hold it until the recipients are in the queue"]
pub struct Charge(Option<Taken>);

#[derive(Debug)]
struct Taken {
    meter: Arc<Meter>,
    recipients: u64,
    at: Timestamp,
}

impl Charge {
    /// Nobody counts.
    pub(super) fn free() -> Charge {
        Charge(None)
    }

    /// The queue did not take the recipients: the hour and the day are given back. What went from the rate per second
    /// comes back by itself.
    pub fn refund(self) {
        if let Some(Taken { meter, recipients, at }) = &self.0 {
            let mut counts = meter.counts();
            counts.hour.take_back(*recipients, *at);
            counts.day.take_back(*recipients, *at);
            counts.changes += 1;
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut counts = self.meter.counts();
        counts.in_flight = counts.in_flight.saturating_sub(self.recipients);
    }
}

impl Meter {
    pub(super) fn new(saved: &Saved, clock: Clock) -> Meter {
        let now = clock.timestamp();
        let (mut hour, mut day) = (Hour::new(HOUR), Day::new(DAY));
        hour.restore(&saved.hour, now);
        day.restore(&saved.day, now);
        Meter { counts: Mutex::new(Counts { hour, day, in_flight: 0, limiter: None, changes: 0, saved: 0 }), clock }
    }

    /// Takes room for so many recipients. `waiting` are in the queue already; asked only where it matters.
    pub(super) fn charge(
        self: &Arc<Meter>,
        tenant: &Tenant,
        recipients: u64,
        waiting: impl FnOnce() -> u64,
        at: Timestamp,
    ) -> Result<Charge, AccessError> {
        let quota = &tenant.quota;
        check_size(tenant, recipients)?;
        // Before our lock is taken: the queue has locks of its own.
        let waiting = quota.waiting_max.map_or(0, |_| waiting());
        let mut counts = self.counts();
        let full = |what: &str, limit: u64, retry_after| AccessError::Quota {
            why: format!("tenant {:?} has used up {what}, {limit} recipients", tenant.name).into(),
            retry_after: Some(retry_after),
        };
        if let Some(max) = quota.waiting_max
            && waiting.saturating_add(counts.in_flight).saturating_add(recipients) > max
        {
            return Err(full("what it may have waiting", max, QUEUE_RETRY));
        }
        if let Some(limit) = quota.per_hour {
            let wait = counts.hour.room_in(recipients, limit, at).unwrap_or(HOUR);
            if !wait.is_zero() {
                return Err(full("its hour", limit, wait));
            }
        }
        if let Some(limit) = quota.per_day {
            let wait = counts.day.room_in(recipients, limit, at).unwrap_or(DAY);
            if !wait.is_zero() {
                return Err(full("its day", limit, wait));
            }
        }
        if let Some((rate, wait)) = counts.too_fast(quota, recipients, self.clock) {
            let why = format!("tenant {:?} submits faster than {rate} recipients a second", tenant.name);
            return Err(AccessError::Quota { why: why.into(), retry_after: Some(wait) });
        }
        counts.hour.add(recipients, at);
        counts.day.add(recipients, at);
        counts.in_flight += recipients;
        counts.changes += 1;
        drop(counts);
        Ok(Charge(Some(Taken { meter: Arc::clone(self), recipients, at })))
    }

    /// Recipients in the last hour and day.
    pub(super) fn used(&self, now: Timestamp) -> (u64, u64) {
        let mut counts = self.counts();
        (counts.hour.sum(now), counts.day.sum(now))
    }

    /// What is to be kept, if something changed since [`saved`](Self::saved) was told, and the word to tell it then.
    pub(super) fn save(&self) -> Option<(Saved, u64)> {
        let counts = self.counts();
        let saved = || Saved { hour: counts.hour.parts(), day: counts.day.parts() };
        (counts.changes != counts.saved).then(|| (saved(), counts.changes))
    }

    /// It is kept.
    pub(super) fn saved(&self, word: u64) {
        self.counts().saved = word;
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().expect("no code panics under this lock")
    }
}

impl Counts {
    /// Takes from the rate per second, unless that is used up: then the rate, and how long until it would do.
    fn too_fast(&mut self, quota: &Quota, recipients: u64, clock: Clock) -> Option<(u32, Duration)> {
        let rate = quota.rate()?;
        let recipients = u32::try_from(recipients).ok().and_then(NonZeroU32::new)?;
        if self.limiter.as_ref().is_none_or(|(built_for, _)| *built_for != rate) {
            self.limiter = Some((rate, limiter(rate, clock)));
        }
        let limiter = &self.limiter.as_ref()?.1;
        let until = |not: NotUntil<Nanos>| not.wait_time_from(limiter.clock().now());
        let wait = match limiter.check_n(recipients) {
            Ok(Ok(())) => return None,
            Ok(Err(not)) => until(not),
            Err(_) => Duration::from_secs(1),
        };
        // Milliseconds, rounded up: what is cut off would bring the client back a moment too early.
        Some((rate.0, Duration::from_millis(wait.as_micros().div_ceil(1000) as u64)))
    }
}

/// What can never have room is refused for good: the client would try for ever.
fn check_size(tenant: &Tenant, recipients: u64) -> Result<(), AccessError> {
    let quota = &tenant.quota;
    let limits = [
        ("burst", quota.rate().map(|(_, burst)| u64::from(burst))),
        ("per_hour", quota.per_hour),
        ("per_day", quota.per_day),
        ("waiting_max", quota.waiting_max),
    ];
    for (name, limit) in limits.into_iter().filter_map(|(name, limit)| Some((name, limit?))) {
        if recipients > limit {
            let why = format!(
                "{recipients} in one submission are more than {name} of tenant {:?} ever allows, {limit}; split it",
                tenant.name
            );
            return Err(AccessError::Forbidden { field: "recipients", why: why.into() });
        }
    }
    Ok(())
}

fn limiter((per_second, burst): (u32, u32), clock: Clock) -> Limiter {
    let positive = |n: u32| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
    let quota = governor::Quota::per_second(positive(per_second)).allow_burst(positive(burst));
    RateLimiter::direct_with_clock(quota, Monotonic { start: clock.instant(), clock })
}

/// Our clock as governor wants it; follows tokio's paused time, which governor's own does not.
#[derive(Debug, Clone)]
struct Monotonic {
    start: Instant,
    clock: Clock,
}

impl governor::clock::Clock for Monotonic {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::from(self.clock.instant().duration_since(self.start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_795_348_800_000);

    fn tenant(quota: Quota) -> Tenant {
        Tenant { name: "shop".into(), quota, ..Tenant::default() }
    }

    fn meter() -> Arc<Meter> {
        Arc::new(Meter::new(&Saved::default(), Clock))
    }

    /// In milliseconds; `None`: let through, and kept.
    fn charge(meter: &Arc<Meter>, tenant: &Tenant, recipients: u64, waiting: u64, at: Timestamp) -> Option<u128> {
        match meter.charge(tenant, recipients, || waiting, at) {
            Ok(charge) => {
                drop(charge);
                None
            }
            Err(AccessError::Quota { retry_after, .. }) => retry_after.map(|wait| wait.as_millis()),
            Err(error) => panic!("{error}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_held_to_the_millisecond() {
        let (meter, tenant) = (meter(), tenant(Quota { per_second: Some(10), burst: Some(20), ..Quota::default() }));
        let now = |n| charge(&meter, &tenant, n, 0, NOW);
        assert_eq!((now(15), now(6), now(5)), (None, Some(100), None));
        tokio::time::advance(Duration::from_millis(99)).await;
        assert_eq!(now(1), Some(1));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!((now(1), now(1), now(20)), (None, Some(100), Some(2000)));

        // In the mean of a minute, exactly as many as allowed.
        let mut passed = 0;
        for _ in 0..6000 {
            tokio::time::advance(Duration::from_millis(10)).await;
            passed += u32::from(now(1).is_none());
        }
        assert_eq!(passed, 600);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_as_told_gets_through() {
        let (meter, tenant) = (meter(), tenant(Quota { per_second: Some(3), burst: Some(7), ..Quota::default() }));
        for n in [7, 1, 2, 5, 7, 3, 1, 1, 7] {
            if let Some(wait) = charge(&meter, &tenant, n, 0, NOW) {
                tokio::time::advance(Duration::from_millis(wait as u64)).await;
                assert_eq!(charge(&meter, &tenant, n, 0, NOW), None, "{n} after {wait} ms");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_takes_nothing() {
        let quota = Quota {
            per_second: Some(10),
            burst: Some(10),
            per_hour: Some(30),
            per_day: Some(35),
            waiting_max: Some(50),
        };
        let (meter, tenant) = (meter(), tenant(quota));
        assert_eq!(charge(&meter, &tenant, 10, 0, NOW), None);
        assert_eq!(charge(&meter, &tenant, 1, 0, NOW), Some(100), "the rate");
        assert_eq!(charge(&meter, &tenant, 5, 46, NOW), Some(30_000), "the queue");
        assert_eq!(meter.used(NOW), (10, 10));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(charge(&meter, &tenant, 10, 40, NOW), None, "no token went with the one refused");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(charge(&meter, &tenant, 10, 0, NOW), None);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(charge(&meter, &tenant, 1, 0, NOW), Some(3_660_000), "the hour");
        let later = NOW.after(HOUR + Duration::from_secs(60));
        assert_eq!(
            charge(&meter, &tenant, 6, 0, later),
            Some(22 * 3_600_000 + 3_600_000 + 15 * 60_000 - 60_000),
            "the day"
        );
        assert_eq!(charge(&meter, &tenant, 5, 0, later), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_did_not_reach_the_queue_is_given_back() {
        let quota = Quota { per_hour: Some(10), waiting_max: Some(10), ..Quota::default() };
        let (meter, tenant) = (meter(), tenant(quota));
        let first = meter.charge(&tenant, 10, || 0, NOW).expect("room");
        assert_eq!(charge(&meter, &tenant, 1, 0, NOW), Some(30_000), "ten are under way");
        first.refund();
        assert_eq!(meter.used(NOW), (0, 0));
        assert_eq!(charge(&meter, &tenant, 10, 0, NOW), None);
        assert_eq!(meter.used(NOW), (10, 10));
    }

    #[tokio::test(start_paused = true)]
    async fn going_away_makes_nothing_free() {
        let quota = Quota { per_hour: Some(10), waiting_max: Some(10), ..Quota::default() };
        let (meter, tenant) = (meter(), tenant(quota));
        drop(meter.charge(&tenant, 10, || 0, NOW).expect("room"));
        assert_eq!(meter.used(NOW), (10, 10));
        assert!(charge(&meter, &tenant, 1, 0, NOW).is_some_and(|wait| wait > 30_000), "the hour, not the queue");
    }

    #[tokio::test(start_paused = true)]
    async fn what_can_never_pass_is_told_at_once() {
        let refused = |quota: Quota, recipients| match meter().charge(&tenant(quota), recipients, || 0, NOW) {
            Err(AccessError::Forbidden { field: "recipients", why }) => why.into_owned(),
            other => panic!("{other:?}"),
        };
        let why = |name, limit| {
            format!(
                "{} in one submission are more than {name} of tenant \"shop\" ever allows, {limit}; split it",
                limit + 1
            )
        };
        assert_eq!(refused(Quota { per_second: Some(5), ..Quota::default() }, 101), why("burst", 100));
        assert_eq!(refused(Quota { per_second: Some(500), ..Quota::default() }, 501), why("burst", 500));
        assert_eq!(refused(Quota { per_hour: Some(5), ..Quota::default() }, 6), why("per_hour", 5));
        assert_eq!(refused(Quota { per_day: Some(5), ..Quota::default() }, 6), why("per_day", 5));
        assert_eq!(refused(Quota { waiting_max: Some(5), ..Quota::default() }, 6), why("waiting_max", 5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_rate_is_in_force_at_once() {
        let meter = meter();
        let slow = tenant(Quota { per_second: Some(1), burst: Some(1), ..Quota::default() });
        let fast = tenant(Quota { per_second: Some(100), burst: Some(2), ..Quota::default() });
        assert_eq!((charge(&meter, &slow, 1, 0, NOW), charge(&meter, &slow, 1, 0, NOW)), (None, Some(1000)));
        assert_eq!((charge(&meter, &fast, 2, 0, NOW), charge(&meter, &fast, 1, 0, NOW)), (None, Some(10)));
        assert_eq!(charge(&meter, &tenant(Quota::default()), 1_000_000, 0, NOW), None);
    }

    #[tokio::test(start_paused = true)]
    async fn counts_survive_a_restart() {
        let tenant = tenant(Quota { per_hour: Some(10), ..Quota::default() });
        let now = Clock.timestamp();
        let before = meter();
        assert_eq!(before.save(), None);
        assert_eq!(charge(&before, &tenant, 8, 0, now), None);
        let (saved, word) = before.save().expect("something to save");
        before.saved(word);
        assert_eq!(before.save(), None);
        let stored = serde_json::to_string(&saved).expect("plain data");
        let after = Arc::new(Meter::new(&serde_json::from_str(&stored).expect("just written"), Clock));
        assert_eq!(after.used(now), (8, 8));
        assert!(charge(&after, &tenant, 3, 0, now).is_some());
        assert_eq!(charge(&after, &tenant, 2, 0, now), None);
    }

    #[test]
    fn two_cannot_have_the_last_token() {
        let quota = Quota { per_second: Some(1), burst: Some(50), per_hour: Some(50), ..Quota::default() };
        let (meter, tenant) = (meter(), tenant(quota));
        let (meter, tenant) = (&meter, &tenant);
        let passed: usize = std::thread::scope(|scope| {
            let one = move || (0..40).filter(|_| charge(meter, tenant, 1, 0, NOW).is_none()).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(one)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert_eq!((passed, meter.used(NOW)), (50, (50, 50)));
    }
}
