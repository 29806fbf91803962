//! How many in the last hour, or day: a count that slides.
//!
//! Time is cut into steps; what falls into one is counted together, and stands until the whole step is older than the
//! window. So never more than the limit pass in any window, and room comes back at most one step late.

use std::time::Duration;

use crate::clock::Timestamp;

/// A sliding count of `STEPS` steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Window<const STEPS: usize> {
    /// Length of a step, in milliseconds.
    step: u64,
    /// The number of the step that is counted now, from 1970 on.
    head: u64,
    /// Counts by age in steps: the step begun last, then `STEPS` whole ones.
    counts: Vec<u64>,
}

/// An hour by minutes.
pub(super) type Hour = Window<60>;

/// A day by quarters of an hour.
pub(super) type Day = Window<96>;

impl<const STEPS: usize> Window<STEPS> {
    pub(super) fn new(length: Duration) -> Window<STEPS> {
        Window { step: length.as_millis() as u64 / STEPS as u64, head: 0, counts: vec![0; STEPS + 1] }
    }

    /// The sum up to `now`.
    pub(super) fn sum(&mut self, now: Timestamp) -> u64 {
        self.turn(now);
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Counts `n`.
    pub(super) fn add(&mut self, n: u64, now: Timestamp) {
        self.turn(now);
        self.counts[0] = self.counts[0].saturating_add(n);
    }

    /// Takes back `n` that were counted at `at`.
    pub(super) fn take_back(&mut self, n: u64, at: Timestamp) {
        let age = self.head.saturating_sub(at.0 / self.step);
        if let Some(count) = usize::try_from(age).ok().and_then(|age| self.counts.get_mut(age)) {
            *count = count.saturating_sub(n);
        }
    }

    /// How long from `now` until `n` more keep the sum within `limit`; `None`: never, as `n` alone exceeds it.
    pub(super) fn room_in(&mut self, n: u64, limit: u64, now: Timestamp) -> Option<Duration> {
        let room = limit.checked_sub(n)?;
        let mut sum = self.sum(now);
        // The oldest step leaves first, when the one that is begun now has ended.
        for (age, count) in self.counts.iter().enumerate().rev() {
            if sum <= room {
                let steps = (STEPS - age) as u64;
                return Some(if steps == 0 { Duration::ZERO } else { self.start_in(steps, now) });
            }
            sum = sum.saturating_sub(*count);
        }
        Some(self.start_in(STEPS as u64 + 1, now))
    }

    /// Steps that are not empty, by number, for storage.
    pub(super) fn parts(&self) -> Vec<(u64, u64)> {
        let counts = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        counts.map(|(age, count)| (self.head.saturating_sub(age as u64), *count)).collect()
    }

    /// Takes back what [`parts`](Self::parts) gave.
    pub(super) fn restore(&mut self, parts: &[(u64, u64)], now: Timestamp) {
        self.turn(now);
        for (number, count) in parts {
            // A step ahead of us was written before the clock was set back; it counts as if it were now.
            let age = self.head.saturating_sub(*number) as usize;
            if let Some(known) = self.counts.get_mut(age) {
                *known = known.saturating_add(*count);
            }
        }
    }

    /// How long until so many steps from now begin.
    fn start_in(&self, steps: u64, now: Timestamp) -> Duration {
        Timestamp((self.head + steps).saturating_mul(self.step)).since(now)
    }

    fn turn(&mut self, now: Timestamp) {
        let head = now.0 / self.step;
        // If the clock was set back, what we have grows old from now on: nobody gains by it, and nobody waits for a
        // time that was a mistake.
        let steps = usize::try_from(head.saturating_sub(self.head)).unwrap_or(usize::MAX).min(self.counts.len());
        self.head = head;
        self.counts.rotate_right(steps);
        self.counts[..steps].fill(0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn at(seconds: u64) -> Timestamp {
        Timestamp(1_795_348_800_000 + seconds * 1000)
    }

    #[test]
    fn slides() {
        let mut hour = Hour::new(HOUR);
        hour.add(5, at(30));
        hour.add(2, at(90));
        assert_eq!(hour.sum(at(90)), 7);
        assert_eq!(hour.sum(at(3600 + 59)), 7, "the step of the five is not all an hour old");
        assert_eq!(hour.sum(at(3600 + 60)), 2);
        assert_eq!(hour.sum(at(3600 + 120)), 0);
        hour.add(1, at(1_000_000));
        assert_eq!(hour.sum(at(1_000_000)), 1);
    }

    #[test]
    fn says_when_there_is_room() {
        let mut hour = Hour::new(HOUR);
        hour.add(5, at(30));
        hour.add(3, at(90));
        let mut room = |n, limit| hour.room_in(n, limit, at(100)).map(|wait| wait.as_secs());
        assert_eq!(room(2, 10), Some(0));
        assert_eq!(room(3, 10), Some(3560), "when the five go");
        assert_eq!(room(7, 10), Some(3560));
        assert_eq!(room(8, 10), Some(3620), "when the three go as well");
        assert_eq!(room(10, 10), Some(3620));
        assert_eq!(room(11, 10), None);
    }

    #[test]
    fn what_is_taken_back_was_never_there() {
        let mut hour = Hour::new(HOUR);
        hour.add(5, at(30));
        hour.add(3, at(90));
        hour.take_back(5, at(30));
        assert_eq!(hour.sum(at(100)), 3);
        hour.take_back(9, at(90));
        assert_eq!(hour.sum(at(100)), 0);
        hour.take_back(1, at(7200));
        hour.sum(at(100_000));
        hour.take_back(1, at(90));
    }

    #[test]
    fn a_clock_set_back_neither_helps_nor_hurts() {
        let mut hour = Hour::new(HOUR);
        hour.add(5, at(1_000_000));
        assert_eq!(hour.sum(at(60)), 5);
        hour.add(1, at(60));
        assert_eq!(hour.sum(at(60 + 3600)), 6);
        assert_eq!(hour.sum(at(60 + 3660)), 0);
    }

    #[test]
    fn survives_a_restart() {
        let mut before = Day::new(24 * HOUR);
        before.add(5, at(0));
        before.add(3, at(10_000));
        let mut after = Day::new(24 * HOUR);
        after.restore(&before.parts(), at(20_000));
        before.sum(at(20_000));
        assert_eq!(after, before);
        let mut late = Day::new(24 * HOUR);
        late.restore(&before.parts(), at(200_000));
        assert_eq!(late.sum(at(200_000)), 0);
        let mut early = Day::new(24 * HOUR);
        early.restore(&before.parts(), Timestamp(0));
        assert_eq!(early.sum(Timestamp(0)), 8);
    }

    proptest! {
        /// Never more than the limit in any hour, and the wait that was named is long enough and at most a step too long.
        #[test]
        fn holds_the_limit(steps in proptest::collection::vec((0u64..2000, 1u64..6), 1..60), limit in 5u64..20) {
            let (mut hour, mut now, mut passed) = (Hour::new(HOUR), 0, Vec::new());
            for (wait, n) in steps {
                now += wait;
                match hour.room_in(n, limit, at(now)).expect("the limit is larger") {
                    Duration::ZERO => {
                        hour.add(n, at(now));
                        passed.push((now, n));
                    }
                    wait => {
                        let then = Timestamp(at(now).0 + wait.as_millis() as u64);
                        prop_assert_eq!(hour.clone().room_in(n, limit, then), Some(Duration::ZERO));
                        prop_assert_ne!(hour.clone().room_in(n, limit, Timestamp(then.0 - 1)), Some(Duration::ZERO));
                        let exact: u64 = passed.iter().filter(|(t, _)| t + 3600 + 60 > now).map(|(_, n)| n).sum();
                        prop_assert!(exact + n > limit, "refused with room");
                    }
                }
                let within: u64 = passed.iter().filter(|(t, _)| t + 3600 > now).map(|(_, n)| n).sum();
                prop_assert!(within <= limit);
            }
        }

        #[test]
        fn never_panics(times in proptest::collection::vec((any::<u64>(), any::<u64>()), 0..20)) {
            let mut day = Day::new(24 * HOUR);
            for (time, n) in times {
                day.add(n, Timestamp(time));
                day.take_back(n / 2, Timestamp(time / 2));
                day.room_in(n, n / 3, Timestamp(time));
                day.restore(&day.clone().parts(), Timestamp(time ^ 77));
            }
        }
    }
}
