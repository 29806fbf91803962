//! Who waits for the tokens of one bucket.
//!
//! Many may wait for the same bucket: ten thousand sites of one provider, or the mail of one tenant at as many sites. If
//! all of them looked again when the next token comes, each token would cost ten thousand looks. So they stand in line,
//! and when a token comes, the first is let go. Classes have their shares of the tokens as they have of a site's turns.

use std::collections::VecDeque;

use super::bucket::{Bucket, Rate};
use crate::mail::Class;

/// Tokens each class may have before the others have had theirs, in the order of [`Class::ALL`].
pub const WEIGHTS: [f32; 3] = [16.0, 4.0, 2.0];

/// Who waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiter {
    /// What that means is the caller's.
    pub name: [u32; 4],
    /// He has nothing at all, and others are to make room.
    pub urgent: bool,
}

/// The line at one bucket.
#[derive(Debug, Default)]
pub struct Line {
    /// By class, each with the tokens it needs at least.
    waiters: [VecDeque<(Waiter, f32)>; 3],
    credit: [f32; 3],
    urgent: u32,
    /// So long it is worth a look who of them still waits.
    tidy_from: usize,
    /// When the tokens of the first have come, if those who were let go before take theirs.
    next: f64,
}

impl Line {
    /// Nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiters.iter().all(VecDeque::is_empty)
    }

    /// How many wait, those included who have gone without saying so.
    pub fn len(&self) -> usize {
        self.waiters.iter().map(VecDeque::len).sum()
    }

    /// How many of them are urgent.
    pub fn urgent(&self) -> u32 {
        self.urgent
    }

    /// Stands in line: at its end, or in front after one was let go and came too late. `ready` is when the tokens will
    /// have come, if nobody else takes any.
    pub fn join(&mut self, ready: u64, waiter: Waiter, class: Class, needs: f64, front: bool) {
        if self.is_empty() || front {
            self.next = if self.is_empty() { ready as f64 } else { self.next.max(ready as f64) };
        }
        self.urgent += u32::from(waiter.urgent);
        let waiters = &mut self.waiters[class as usize];
        match front {
            false => waiters.push_back((waiter, needs as f32)),
            true => waiters.push_front((waiter, needs as f32)),
        }
    }

    /// When somebody is to be let go.
    pub fn next(&self) -> Option<u64> {
        (!self.is_empty()).then_some(self.next.ceil() as u64)
    }

    /// Lets go whoever's tokens have come and who still waits: into `freed`, in order.
    pub fn advance(
        &mut self,
        now: u64,
        rate: Rate,
        bucket: &Bucket,
        mut waits: impl FnMut(Waiter) -> bool,
        freed: &mut Vec<Waiter>,
    ) {
        // A full bucket: those who were let go did not take theirs, and these are there for others.
        let mut spare = if bucket.is_full(now) { rate.burst() } else { 0.0 };
        while self.next <= now as f64 || spare >= 1.0 {
            let Some((waiter, needs)) = self.pop() else { return };
            if !waits(waiter) {
                continue;
            }
            freed.push(waiter);
            match self.next <= now as f64 {
                true => self.next += f64::from(needs) * 1e3 / rate.per_second(),
                false => self.next = now as f64,
            }
            spare -= f64::from(needs).max(1.0);
        }
    }

    /// The next to go, by class.
    pub fn pop(&mut self) -> Option<(Waiter, f32)> {
        if self.is_empty() {
            return None;
        }
        loop {
            for (waiters, credit) in self.waiters.iter_mut().zip(&mut self.credit) {
                if *credit > 0.0 && !waiters.is_empty() {
                    let first = waiters.pop_front()?;
                    *credit -= 1.0;
                    self.urgent -= u32::from(first.0.urgent);
                    return Some(first);
                }
            }
            for (credit, weight) in self.credit.iter_mut().zip(WEIGHTS) {
                *credit = (*credit + weight).min(weight);
            }
        }
    }

    /// Everybody in it.
    pub fn into_waiters(self) -> impl Iterator<Item = Waiter> {
        self.waiters.into_iter().flatten().map(|(waiter, _)| waiter)
    }

    /// Forgets those that do not wait any more, once the line is twice as long as it was when that was last done.
    pub fn tidy(&mut self, mut waits: impl FnMut(Waiter) -> bool) {
        const MIN: usize = 1024;
        if self.len() < self.tidy_from.max(MIN) {
            return;
        }
        self.waiters.iter_mut().for_each(|waiters| waiters.retain(|(waiter, _)| waits(*waiter)));
        self.urgent = self.waiters.iter().flatten().filter(|(waiter, _)| waiter.urgent).count() as u32;
        self.tidy_from = 2 * self.len();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn waiter(n: u32) -> Waiter {
        Waiter { name: [n, 0, 0, 0], urgent: false }
    }

    #[test]
    fn each_token_lets_one_go() {
        let rate = Rate::new(10.0, Duration::from_secs(1), 1.0);
        let mut bucket = Bucket::default();
        bucket.take(rate, 1_000, 1.0).expect("full");
        let mut line = Line::default();
        let ready = bucket.ready_at(rate, 1_000, 1.0);
        (0..100).for_each(|n| line.join(ready, waiter(n), Class::Bulk, 1.0, false));
        let (mut freed, mut looks) = (Vec::new(), 0);
        while let Some(next) = line.next() {
            let before = freed.len();
            line.advance(next, rate, &bucket, |_| true, &mut freed);
            assert_eq!(freed.len(), before + 1, "at {next}");
            assert_eq!(bucket.take(rate, next, 1.0), Ok(()), "{next}");
            looks += 1;
        }
        assert_eq!(looks, 100);
        assert_eq!(freed, (0..100).map(waiter).collect::<Vec<_>>());
    }

    #[test]
    fn tokens_nobody_took_are_for_those_behind() {
        let rate = Rate::new(10.0, Duration::from_secs(1), 5.0);
        let bucket = Bucket::default();
        let mut line = Line::default();
        (0..100).for_each(|n| line.join(1_000, waiter(n), Class::Bulk, 1.0, false));
        let mut freed = Vec::new();
        line.advance(1_000, rate, &bucket, |_| true, &mut freed);
        assert_eq!(freed.len(), 5);
        assert!(line.next().is_some_and(|next| next > 1_000));
    }

    #[test]
    fn classes_have_their_shares() {
        let mut line = Line::default();
        for n in 0..2_200 {
            line.join(0, waiter(n), Class::Bulk, 1.0, false);
            line.join(0, waiter(10_000 + n), Class::Transactional, 1.0, false);
            line.join(0, waiter(20_000 + n), Class::System, 1.0, false);
        }
        let mut counts = [0; 3];
        for _ in 0..2_200 {
            counts[line.pop().expect("there").0.name[0] as usize / 10_000] += 1;
        }
        assert_eq!(counts, [400, 1600, 200]);
    }
}
