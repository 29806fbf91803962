//! When to try again.

use std::time::Duration;

use rand::{Rng, RngExt};

use crate::config::RetryConfig;

/// The retry schedule: a first wait, doubled up to a last one, spread at random.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    delay_min: Duration,
    delay_max: Duration,
}

impl RetryPolicy {
    /// From checked configuration.
    pub fn new(config: &RetryConfig) -> RetryPolicy {
        RetryPolicy { delay_min: config.delay_min, delay_max: config.delay_max.max(config.delay_min) }
    }

    /// The longest wait between attempts, but for the spread.
    pub fn delay_max(&self) -> Duration {
        self.delay_max
    }

    /// Wait before attempt `attempt + 1`: `delay_min` doubled `attempt - 1` times, at most `delay_max`, times a random
    /// 0.75..=1.25, and as much over `delay_min` as it would be under it.
    ///
    /// `attempt` counts from 1. The spread keeps a site that comes back from meeting its whole backlog at once. Source:
    /// RFC 5321 §4.5.4.1.
    pub fn delay(&self, attempt: u32, rng: &mut impl Rng) -> Duration {
        let doubled = self.delay_min.saturating_mul(1u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX));
        let delay = doubled.min(self.delay_max).mul_f64(rng.random_range(0.75..=1.25));
        // Not simply `delay_min`: then half of what was put off together would come back together.
        if delay < self.delay_min { self.delay_min + (self.delay_min - delay) } else { delay }
    }

    /// The instant to come back when the receiver asked to wait so long: then, or a little later, spread over a tenth of the
    /// wait (at most a minute).
    pub fn after_wait(&self, wait: Duration, rng: &mut impl Rng) -> Duration {
        wait + wait.mul_f64(0.1).min(Duration::from_secs(60)).mul_f64(rng.random_range(0.0..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn doubles_up_to_the_longest_wait() {
        let policy = RetryPolicy::new(&RetryConfig::default());
        let mut rng = rand::rngs::SmallRng::seed_from_u64(7);
        for (attempt, centre) in [(1, 300), (2, 600), (3, 1200), (6, 9600), (7, 14400), (40, 14400), (u32::MAX, 14400)]
        {
            for _ in 0..100 {
                let delay = policy.delay(attempt, &mut rng);
                let (low, high) =
                    (Duration::from_secs(centre).mul_f64(0.75), Duration::from_secs(centre).mul_f64(1.25));
                assert!(delay >= low.max(Duration::from_secs(300)) && delay <= high, "attempt {attempt}: {delay:?}");
            }
        }
    }

    #[test]
    fn what_was_put_off_together_does_not_come_back_together() {
        let policy = RetryPolicy::new(&RetryConfig::default());
        let mut rng = rand::rngs::SmallRng::seed_from_u64(7);
        let wait = Duration::from_secs(300);
        for delays in [
            (0..1000).map(|_| policy.delay(1, &mut rng)).collect::<Vec<_>>(),
            (0..1000).map(|_| policy.after_wait(wait, &mut rng)).collect::<Vec<_>>(),
        ] {
            let seconds: std::collections::HashSet<u64> = delays.iter().map(Duration::as_secs).collect();
            assert!(seconds.len() >= 30, "{} different seconds", seconds.len());
            assert!(delays.iter().all(|delay| *delay >= wait));
        }
        assert!(policy.after_wait(Duration::from_secs(86_400), &mut rng) <= Duration::from_secs(86_460));
    }
}
