//! A sliding count of what became of mail.

use std::collections::VecDeque;

use super::Fact;
use crate::clock::Timestamp;

/// Kinds of [`Fact`].
pub(super) const FACTS: usize = 3;

/// Begun steps that are not empty, by number since 1970.
pub(super) type Parts = VecDeque<(u64, [u32; FACTS])>;

/// A sliding count in steps; the step that is counted now is the last.
#[derive(Debug)]
pub(super) struct Window {
    /// Milliseconds of a step.
    step: u64,
    steps: u64,
    parts: Parts,
    pub(super) sums: [u32; FACTS],
}

impl Window {
    /// So many steps of so many seconds.
    pub(super) fn new(step: u64, steps: u64) -> Window {
        Window { step: step * 1000, steps, parts: VecDeque::new(), sums: [0; FACTS] }
    }

    /// How long it is.
    pub(super) fn seconds(&self) -> u64 {
        self.step * self.steps / 1000
    }

    pub(super) fn add(&mut self, fact: Fact, n: u32, now: Timestamp) {
        // A clock set back counts into the step that is open.
        let newest = self.parts.back().map_or(0, |(number, _)| *number);
        let number = (now.0 / self.step).max(newest);
        self.slide(number);
        if newest != number || self.parts.is_empty() {
            self.parts.push_back((number, [0; FACTS]));
        }
        let part = self.parts.back_mut().map(|(_, counts)| &mut counts[fact as usize]);
        part.into_iter().for_each(|count| *count = count.saturating_add(n));
        self.sums[fact as usize] = self.sums[fact as usize].saturating_add(n);
    }

    pub(super) fn parts(&self) -> &Parts {
        &self.parts
    }

    /// What lies before the window that ends with that step is forgotten.
    fn slide(&mut self, number: u64) {
        while self.parts.front().is_some_and(|(oldest, _)| number.saturating_sub(*oldest) >= self.steps) {
            let (_, gone) = self.parts.pop_front().unwrap_or_default();
            self.sums.iter_mut().zip(gone).for_each(|(sum, gone)| *sum = sum.saturating_sub(gone));
        }
    }

    /// These were counted before.
    pub(super) fn restore(&mut self, parts: Parts, now: Timestamp) {
        let current = now.0 / self.step;
        for (number, counts) in parts.into_iter().take(self.steps as usize) {
            // One ahead of us was written before the clock was set back; it counts as if it were now, and grows old from now on.
            let number = number.min(current);
            if current - number >= self.steps {
                continue;
            }
            match self.parts.back_mut() {
                // In order, as they were written.
                Some((newest, _)) if *newest > number => continue,
                Some((newest, known)) if *newest == number => {
                    known.iter_mut().zip(counts).for_each(|(known, n)| *known = known.saturating_add(n));
                }
                _ => self.parts.push_back((number, counts)),
            }
            self.sums.iter_mut().zip(counts).for_each(|(sum, n)| *sum = sum.saturating_add(n));
        }
    }

    pub(super) fn size(&self) -> u64 {
        self.sums.iter().map(|sum| u64::from(*sum)).sum()
    }
}
