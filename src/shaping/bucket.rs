//! A token bucket whose rate may change while it runs.
//!
//! The generic cell rate algorithm (ITU-T I.371, virtual scheduling): one number, the instant at which the bucket will be
//! full, says everything. Nothing is ever refilled and no timer runs; a bucket that is empty knows the exact instant at
//! which it is not.
//!
//! All limits use it, fixed ones too. governor, which paces clients elsewhere, cannot be asked without taking (several
//! rows apply at once, and a token of one must stay if another says no), cannot be given a token back, and knows no
//! change of rate.
//!
//! Time is whole milliseconds. Whoever comes at an instant may have come up to one millisecond later, so what arrives
//! within it counts: without that, 700 tokens a second and a burst of 1 would come to 500. It is all the tolerance there
//! is.

use std::time::Duration;

/// Width of the clock's step, in milliseconds.
const STEP: f64 = 1.0;

/// So many tokens in so long a time, with so many at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    per_second: f64,
    burst: f64,
}

impl Rate {
    /// `tokens` in `period`, never more than `burst` at once. At least one token a century and a burst of 1.
    pub fn new(tokens: f64, period: Duration, burst: f64) -> Rate {
        const PER_SECOND_MIN: f64 = 1.0 / (100.0 * 365.25 * 86_400.0);
        let per_second = tokens / period.as_secs_f64().max(f64::MIN_POSITIVE);
        Rate { per_second: per_second.clamp(PER_SECOND_MIN, 1e12), burst: burst.clamp(1.0, 1e15) }
    }

    /// `per_second` tokens a second, evenly: as many at once as come in a second, at least one.
    pub fn even(per_second: f64) -> Rate {
        Rate::new(per_second, Duration::from_secs(1), per_second)
    }

    /// Tokens a second, more than zero.
    pub fn per_second(self) -> f64 {
        self.per_second
    }

    /// Tokens that may go at once after a pause, at least 1.
    pub fn burst(self) -> f64 {
        self.burst
    }

    /// Milliseconds a token takes to come.
    fn interval(self) -> f64 {
        1e3 / self.per_second
    }
}

/// The state of a bucket; its rate is the caller's, who may have a hundred thousand of them with the same. Full at first.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Bucket {
    /// When it will be full, in milliseconds: each token taken moves it on by one interval. At or before now: it is full.
    full_at: f64,
}

impl Bucket {
    /// The first instant, not before `now`, at which `tokens` can be taken. More than a whole burst can be taken when the
    /// bucket is full; they are owed afterwards.
    pub fn ready_at(&self, rate: Rate, now: u64, tokens: f64) -> u64 {
        let room = (rate.burst - tokens.min(rate.burst)) * rate.interval() + STEP;
        let at = self.full_at - room;
        // Rounded up, so that whoever comes then finds them.
        if at <= now as f64 { now } else { at.ceil().min(u64::MAX as f64) as u64 }
    }

    /// Takes `tokens`, whether they are there or not; what is not there is owed.
    pub fn charge(&mut self, rate: Rate, now: u64, tokens: f64) {
        self.full_at = self.full_at.max(now as f64) + tokens * rate.interval();
    }

    /// Takes `tokens` if they are there.
    ///
    /// # Errors
    /// They are not; the instant at which they will be, if nobody else takes any.
    pub fn take(&mut self, rate: Rate, now: u64, tokens: f64) -> Result<(), u64> {
        let ready = self.ready_at(rate, now, tokens);
        if ready > now {
            return Err(ready);
        }
        self.charge(rate, now, tokens);
        Ok(())
    }

    /// Gives back what was taken and not used.
    pub fn give_back(&mut self, rate: Rate, tokens: f64) {
        self.full_at -= tokens * rate.interval();
    }

    /// Tokens that can be taken at `now`; negative: so many are owed.
    pub fn level(&self, rate: Rate, now: u64) -> f64 {
        (rate.burst - (self.full_at - STEP - now as f64) / rate.interval()).min(rate.burst)
    }

    /// A bucket that will be full at that instant.
    pub fn full_from(instant: u64) -> Bucket {
        Bucket { full_at: instant as f64 }
    }

    /// When it will be full, in milliseconds; at or before now: it is.
    pub fn full_at(&self) -> f64 {
        self.full_at
    }

    /// Whether nothing would change if it were forgotten.
    pub fn is_full(&self, now: u64) -> bool {
        self.full_at <= now as f64
    }

    /// Changes the rate; the level stays, but for what a smaller burst cannot hold.
    pub fn change(&mut self, now: u64, before: Rate, rate: Rate) {
        let missing = (self.full_at - now as f64) / before.interval();
        let level = (before.burst - missing.max(0.0)).min(rate.burst);
        self.full_at = now as f64 + (rate.burst - level) * rate.interval();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000;

    fn rate(per_second: f64, burst: f64) -> Rate {
        Rate::new(per_second, Duration::from_secs(1), burst)
    }

    #[test]
    fn an_empty_bucket_knows_when_it_is_not() {
        let rate = rate(10.0, 3.0);
        let mut bucket = Bucket::default();
        let start = 5 * SECOND;
        assert_eq!(bucket.level(rate, start), 3.0);
        for _ in 0..3 {
            assert_eq!(bucket.take(rate, start, 1.0), Ok(()));
        }
        let told = bucket.take(rate, start, 1.0).expect_err("empty");
        assert_eq!(told, start + 99);
        assert_eq!(bucket.take(rate, told - 1, 1.0), Err(told));
        assert_eq!(bucket.take(rate, told, 1.0), Ok(()));
        bucket.give_back(rate, 1.0);
        assert_eq!(bucket.take(rate, told, 1.0), Ok(()));
        // After a long pause there is a burst, and no more.
        let late = start + 3600 * SECOND;
        assert_eq!(bucket.level(rate, late), 3.0);
        assert!(bucket.is_full(late) && !bucket.is_full(told));
    }

    #[test]
    fn more_than_a_burst_is_owed() {
        let rate = rate(1.0, 5.0);
        let mut bucket = Bucket::default();
        assert_eq!(bucket.take(rate, SECOND, 100.0), Ok(()));
        let told = bucket.take(rate, SECOND, 1.0).expect_err("owed");
        assert!(told.abs_diff(97 * SECOND) <= 2, "{told}");
        assert!((bucket.level(rate, SECOND) + 95.0).abs() < 0.01);
    }

    #[test]
    fn a_change_of_rate_keeps_the_level() {
        let (fast, slow) = (rate(10.0, 10.0), rate(1.0, 10.0));
        let mut bucket = Bucket::default();
        let now = 77 * SECOND;
        assert_eq!(bucket.take(fast, now, 8.0), Ok(()));
        bucket.change(now, fast, slow);
        assert!((bucket.level(slow, now) - 2.0).abs() < 0.02, "{}", bucket.level(slow, now));
        assert_eq!(bucket.take(slow, now, 2.0), Ok(()));
        let next = bucket.take(slow, now, 1.0).unwrap_err();
        assert!(next.abs_diff(now + SECOND) <= 11, "{next}");
        let little = rate(1.0, 1.0);
        bucket.change(next, slow, little);
        assert_eq!(bucket.take(little, next, 1.0), Ok(()));
        assert!(bucket.take(little, next, 1.0).is_err());
    }

    #[test]
    fn rates_that_make_no_sense_are_bounded() {
        let none = Rate::new(0.0, Duration::from_secs(1), 0.0);
        assert!(none.per_second() > 0.0 && none.burst() == 1.0);
        let mut bucket = Bucket::default();
        assert_eq!(bucket.take(none, 0, 1.0), Ok(()));
        assert!(bucket.take(none, 1 << 30, 1.0).is_err());
        let all = Rate::new(1.0, Duration::ZERO, f64::MAX);
        assert!((0..10_000).all(|_| bucket.take(all, 1 << 62, 1.0).is_ok()));
    }

    proptest! {
        /// Whoever takes as soon as there is something gets the rate to a hundredth over a minute (and what comes in one
        /// step of the clock), and never more than the burst above it, in no window whatever.
        #[test]
        fn the_rate_is_kept(per_second in 0.1f64..5_000.0, burst in 1.0f64..100.0, start in 0u64..1 << 36) {
            let rate = rate(per_second, burst);
            let mut bucket = Bucket::default();
            let (mut now, mut taken) = (start, 0.0);
            let mut at = Vec::new();
            let end = start + 60 * SECOND;
            while now <= end {
                match bucket.take(rate, now, 1.0) {
                    Ok(()) => {
                        taken += 1.0;
                        at.push(now);
                    }
                    Err(next) => {
                        prop_assert!(next > now);
                        now = next;
                    }
                }
            }
            let step = per_second / 1e3;
            let expected = burst.floor() + 60.0 * per_second;
            prop_assert!((taken - expected).abs() <= 2.0 + step + expected * 0.01, "{taken} instead of {expected}");
            for window in [1usize, 2, 10, 100, 1000] {
                for (first, last) in at.iter().zip(at.iter().skip(window - 1)).step_by(window.div_ceil(7)) {
                    let most = burst + per_second * (last - first + 1) as f64 / 1e3;
                    prop_assert!(window as f64 <= most + 0.1, "{window} of {most}");
                }
            }
        }
    }
}
