//! What was sent, and what passed, of late.

use super::Millis;

/// Seconds of which it is known what passed.
const SECONDS: usize = 72;
/// Who sends nothing for so long, in milliseconds, begins a new cycle.
pub(super) const QUIET: Millis = 60_000;

/// How much was sent of late. Cheap, for every path has one.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Meter {
    /// The second that is being counted.
    second: u64,
    /// Messages answered in the second before, and in this one.
    answered: (u32, u32),
    /// Since when, and how many passed since.
    pub(super) cycle: (Millis, u32),
}

impl Meter {
    /// A message was answered; whether it passed.
    pub(in crate::shaping::controller) fn count(&mut self, now: Millis, passed: bool) {
        let second = now / 1000;
        if second != self.second {
            if now.saturating_sub(self.second * 1000) > QUIET {
                self.cycle = (now, 0);
            }
            self.answered = (if second == self.second + 1 { self.answered.1 } else { 0 }, 0);
            self.second = second;
        }
        self.answered.1 += 1;
        self.cycle.1 = self.cycle.1.saturating_add(u32::from(passed));
    }

    /// Messages answered in the last second, by proportion of the two seconds that are counted.
    pub(in crate::shaping::controller) fn per_second(&self, now: Millis) -> f64 {
        let part = (now % 1000) as f64 / 1000.0;
        f64::from(self.answered.0) * (1.0 - part) + f64::from(self.answered.1)
    }
}

/// What passed in each of the last seconds.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct History {
    second: u64,
    passed: [u16; SECONDS],
}

impl Default for History {
    fn default() -> History {
        History { second: 0, passed: [0; SECONDS] }
    }
}

impl History {
    pub(super) fn count(&mut self, now: Millis) {
        self.turn(now / 1000);
        let passed = &mut self.passed[(now / 1000) as usize % SECONDS];
        *passed = passed.saturating_add(1);
    }

    /// What passed a second in the last `window` milliseconds, in the mean.
    pub(super) fn per_second(&mut self, now: Millis, window: Millis) -> f64 {
        self.turn(now / 1000);
        let seconds = (window.div_ceil(1000) as usize).clamp(1, SECONDS - 1);
        let of = |back: usize| f64::from(self.passed[(now / 1000 + (SECONDS - back) as u64) as usize % SECONDS]);
        // The second under way is not over: of the oldest, the part that is missing.
        let part = (now % 1000) as f64 / 1000.0;
        let sum = (0..seconds).map(of).sum::<f64>() + (1.0 - part) * of(seconds);
        sum / seconds as f64
    }

    fn turn(&mut self, second: u64) {
        let passed = second.saturating_sub(self.second).min(SECONDS as u64);
        for back in 0..passed {
            self.passed[(second - back) as usize % SECONDS] = 0;
        }
        self.second = self.second.max(second);
    }
}
