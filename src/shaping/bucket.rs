//! A token bucket whose rate may change while it runs.
//!
//! The generic cell rate algorithm (ITU-T I.371, virtual scheduling): one number, the *theoretical arrival time* of the
//! next token, says everything. Nothing is ever refilled and no timer runs; a bucket that is empty knows the exact instant
//! at which it is not.

use std::time::Duration;

/// Nanoseconds on whatever clock the caller uses.
pub type Nanos = u64;

/// So many tokens in so long a time, with so many at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Tokens a second, more than zero.
    pub per_second: f64,
    /// Tokens that may go at once after a pause, at least 1.
    pub burst: f64,
}

impl Rate {
    /// `tokens` in `period`, never more than `burst` at once.
    pub fn new(tokens: f64, period: Duration, burst: f64) -> Rate {
        let per_second = (tokens / period.as_secs_f64()).max(f64::MIN_POSITIVE);
        Rate { per_second, burst: burst.max(1.0) }
    }

    /// Nanoseconds a token takes to come.
    fn interval(self) -> f64 {
        1e9 / self.per_second
    }
}

/// A bucket. Full at first.
#[derive(Debug, Clone)]
pub struct Bucket {
    rate: Rate,
    /// When it will be full: each token taken moves it on by one interval. At or before now: it is full.
    full_at: f64,
}

impl Bucket {
    /// A full bucket.
    pub fn new(rate: Rate) -> Bucket {
        Bucket { rate, full_at: 0.0 }
    }

    /// Its rate.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// The first instant, not before `now`, at which `tokens` can be taken. More than a whole burst can be taken when the
    /// bucket is full; they are owed afterwards.
    pub fn ready_at(&self, now: Nanos, tokens: f64) -> Nanos {
        let interval = self.rate.interval();
        let room = (self.rate.burst - tokens.min(self.rate.burst)) * interval;
        let at = self.full_at - room;
        // Rounded up, so that whoever comes then finds them.
        if at <= now as f64 { now } else { at.ceil().min(u64::MAX as f64) as Nanos }
    }

    /// Takes `tokens` if they are there.
    ///
    /// # Errors
    /// They are not; the instant at which they will be, if nobody else takes any.
    pub fn take(&mut self, now: Nanos, tokens: f64) -> Result<(), Nanos> {
        let ready = self.ready_at(now, tokens);
        if ready > now {
            return Err(ready);
        }
        self.full_at = self.full_at.max(now as f64) + tokens * self.rate.interval();
        Ok(())
    }

    /// Gives back what was taken and not used.
    pub fn give_back(&mut self, tokens: f64) {
        self.full_at -= tokens * self.rate.interval();
    }

    /// Tokens that can be taken at `now`; negative: so many are owed.
    pub fn level(&self, now: Nanos) -> f64 {
        self.rate.burst - (self.full_at - now as f64).max(0.0) / self.rate.interval()
    }

    /// Changes the rate; the level stays, but for what a smaller burst cannot hold.
    pub fn set_rate(&mut self, now: Nanos, rate: Rate) {
        let level = self.level(now).min(rate.burst);
        self.rate = rate;
        self.full_at = now as f64 + (rate.burst - level) * rate.interval();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    #[test]
    fn an_empty_bucket_knows_when_it_is_not() {
        let mut bucket = Bucket::new(Rate::new(10.0, Duration::from_secs(1), 3.0));
        let start = 5 * SECOND;
        assert_eq!(bucket.level(start), 3.0);
        for _ in 0..3 {
            assert_eq!(bucket.take(start, 1.0), Ok(()));
        }
        let next = start + SECOND / 10;
        assert_eq!(bucket.take(start, 1.0), Err(next));
        assert_eq!(bucket.take(next - 1, 1.0), Err(next));
        assert_eq!(bucket.take(next, 1.0), Ok(()));
        bucket.give_back(1.0);
        assert_eq!(bucket.take(next, 1.0), Ok(()));
        // After a long pause there is a burst, and no more.
        let late = start + 3600 * SECOND;
        assert_eq!(bucket.level(late), 3.0);
    }

    #[test]
    fn more_than_a_burst_is_owed() {
        let mut bucket = Bucket::new(Rate::new(1.0, Duration::from_secs(1), 5.0));
        assert_eq!(bucket.take(0, 100.0), Ok(()));
        assert_eq!(bucket.take(1, 1.0), Err(96 * SECOND));
    }

    #[test]
    fn a_change_of_rate_keeps_the_level() {
        let mut bucket = Bucket::new(Rate::new(10.0, Duration::from_secs(1), 10.0));
        assert_eq!(bucket.take(0, 8.0), Ok(()));
        bucket.set_rate(0, Rate::new(1.0, Duration::from_secs(1), 10.0));
        assert!((bucket.level(0) - 2.0).abs() < 1e-6);
        assert_eq!(bucket.take(0, 2.0), Ok(()));
        let next = bucket.take(0, 1.0).unwrap_err();
        assert!(next.abs_diff(SECOND) < 2, "{next}");
        bucket.set_rate(next, Rate::new(1.0, Duration::from_secs(1), 1.0));
        assert_eq!(bucket.take(next, 1.0), Ok(()));
    }

    proptest! {
        /// Whoever takes as soon as there is something gets the rate, to a thousandth over a minute, and never more than
        /// the burst above it.
        #[test]
        fn the_rate_is_kept(per_second in 0.1f64..5_000.0, burst in 1.0f64..100.0, start in 0u64..1 << 50) {
            let mut bucket = Bucket::new(Rate { per_second, burst });
            let (mut now, mut taken) = (start, 0.0);
            let end = start + 60 * SECOND;
            while now <= end {
                match bucket.take(now, 1.0) {
                    Ok(()) => taken += 1.0,
                    Err(next) => {
                        prop_assert!(next > now);
                        now = next;
                    }
                }
                let most = burst + per_second * (now - start) as f64 / 1e9;
                prop_assert!(taken <= most + 0.1, "{taken} of {most}");
            }
            let expected = burst.floor() + 60.0 * per_second;
            prop_assert!((taken - expected).abs() <= 1.5 + expected * 0.001, "{taken} instead of {expected}");
        }
    }
}
