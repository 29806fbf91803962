//! Weights: how the sources of a pool share the mail of a site.
//!
//! Every path has an account of what it took, each message at the price of one over its weight; whose account is lowest
//! is next. A path that is a few messages ahead leaves the work to those behind it for as long as they are at work and
//! nothing but its weight keeps it from more: a source of weight 1 beside one of weight 9 gets a tenth however fast it is.
//! Nobody waits for a path that is shut, held back by a limit or by the receiver, or does nothing; what it missed is
//! forgotten, so that it does not get everything when it comes back.

use super::site::{Health, PathState, SiteState};

/// The price of a message at weight 1.
const PRICE: u64 = 1 << 20;

/// Messages that a path may be ahead of another.
const LEAD: u64 = 4;

/// A path that took nothing for so many milliseconds is not waited for.
const AT_WORK: u64 = 1_000;

/// Whether a path may take a message now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Yes.
    Own,
    /// Yes, and the path in this place, which is behind, has no session yet: it should get one.
    Absent(usize),
    /// No: that of the path in this place, which has an idle session.
    Idle(usize),
    /// No: that of others that are at work; to be asked again when one takes something, and at that instant.
    Busy(u64),
}

impl SiteState {
    /// Places of the paths in the order in which they should take the next message.
    pub(super) fn by_turn(&self) -> impl Iterator<Item = usize> + use<> {
        let mut places: smallvec::SmallVec<[usize; 4]> = (0..self.paths.len()).collect();
        // One path is the usual case.
        if places.len() > 1 {
            places.sort_by_key(|place| self.paths[*place].account);
        }
        places.into_iter()
    }

    /// Whose turn it is, asked by the path in `place`. `open` says whether limits let a path send.
    pub(super) fn turn(&mut self, now: u64, place: usize, mut open: impl FnMut(&mut PathState) -> bool) -> Turn {
        if self.paths.len() == 1 {
            return Turn::Own;
        }
        let ours = &self.paths[place];
        let bound = ours.account.saturating_sub(LEAD * ours.price());
        let mut turn = Turn::Own;
        for (other, path) in self.paths.iter_mut().enumerate() {
            if path.account >= bound || !path.is_free(now) || !open(path) {
                continue;
            }
            if !path.idle.is_empty() {
                return Turn::Idle(other);
            }
            let until = path.took_at + AT_WORK;
            turn = match turn {
                Turn::Own if path.sessions == 0 => Turn::Absent(other),
                _ if path.sessions == path.connecting || now >= until => turn,
                Turn::Busy(earlier) => Turn::Busy(earlier.min(until)),
                Turn::Own | Turn::Absent(_) | Turn::Idle(_) => Turn::Busy(until),
            };
        }
        turn
    }

    /// The path in `place` has taken so many items.
    pub(super) fn took(&mut self, now: u64, place: usize, items: usize) {
        let path = &mut self.paths[place];
        path.took_at = now;
        if self.paths.len() == 1 {
            return;
        }
        let path = &mut self.paths[place];
        path.account += path.price() * items as u64;
        // Twice as far behind as anybody lets another fall who could take part.
        let forgotten = path.account.saturating_sub(2 * LEAD * path.price());
        self.paths.iter_mut().for_each(|other| other.account = other.account.max(forgotten));
    }
}

impl PathState {
    fn price(&self) -> u64 {
        (PRICE / u64::from(self.weight)).max(1)
    }

    /// Nothing but its weight keeps it from work.
    fn is_free(&self, now: u64) -> bool {
        let healthy = match self.health {
            Health::Open { .. } => true,
            Health::Shut { until, .. } => now >= until,
        };
        healthy && !self.retired && !self.out
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::mail::{Blame, EnhancedCode, Failure};
    use crate::queue::probe;
    use crate::routing::{PoolId, SourceId};

    fn site(weights: &[u32]) -> SiteState {
        let sources: Vec<_> = (0..).map(SourceId).zip(weights.iter().copied()).collect();
        SiteState::new(probe::a_route().1, PoolId(0), &sources, |_| false)
    }

    /// Each path has so many sessions, and each of them takes a message every so many milliseconds if it may. What they
    /// took in a minute.
    fn shares(weights: &[u32], paths: &[(usize, u64)]) -> Vec<u64> {
        let mut site = site(weights);
        let mut sessions: Vec<(usize, u64)> = Vec::new();
        for (place, (count, every)) in paths.iter().enumerate() {
            site.paths[place].sessions = *count;
            // Those that wait for work.
            site.paths[place].idle = vec![Arc::default(); *count];
            sessions.extend(std::iter::repeat_n((place, *every), *count));
        }
        let mut free_at = vec![0; sessions.len()];
        let mut taken = vec![0; weights.len()];
        for now in (0..60_000).step_by(5) {
            for (session, (place, every)) in sessions.iter().enumerate() {
                if free_at[session] > now {
                    continue;
                }
                if free_at[session] > 0 {
                    site.paths[*place].idle.push(Arc::default());
                    free_at[session] = 0;
                }
                let us = site.paths[*place].idle.pop().expect("it is one of them");
                match site.turn(now, *place, |_| true) {
                    Turn::Own | Turn::Absent(_) => {
                        site.took(now, *place, 1);
                        taken[*place] += 1;
                        free_at[session] = now + every;
                    }
                    Turn::Idle(_) | Turn::Busy(_) => site.paths[*place].idle.push(us),
                }
            }
        }
        taken
    }

    #[track_caller]
    fn check(weights: &[u32], paths: &[(usize, u64)], expected: &[f64]) {
        let taken = shares(weights, paths);
        let all: u64 = taken.iter().sum();
        for (share, expected) in taken.iter().map(|taken| *taken as f64 / all as f64).zip(expected) {
            assert!((share - expected).abs() < 0.01, "{weights:?} {paths:?}: {taken:?}");
        }
    }

    #[test]
    fn shares_follow_the_weights_however_fast_each_path_is() {
        check(&[1, 1], &[(20, 100), (20, 100)], &[0.5, 0.5]);
        check(&[3, 1], &[(20, 100), (20, 100)], &[0.75, 0.25]);
        check(&[3, 1], &[(20, 100), (20, 20)], &[0.75, 0.25]);
        check(&[100, 1], &[(20, 100), (1, 300)], &[0.99, 0.01]);
        check(&[1, 2, 5], &[(5, 50), (10, 200), (20, 100)], &[0.125, 0.25, 0.625]);
    }

    #[test]
    fn nobody_waits_for_a_path_that_does_nothing() {
        // Its transaction lasts for ever.
        let taken = shares(&[1, 1], &[(1, 1_000_000), (10, 100)]);
        assert!(taken[1] > 5_800, "{taken:?}");
        // It has no sessions.
        let taken = shares(&[100, 1], &[(0, 1), (10, 100)]);
        assert_eq!(taken[1], 6_000);
    }

    #[test]
    fn nobody_waits_for_a_path_that_may_not() {
        let mut site = site(&[1, 1]);
        for path in &mut site.paths {
            path.sessions = 1;
        }
        site.took(0, 0, 1);
        site.took(1, 1, 20);
        assert_eq!(site.turn(2, 1, |_| true), Turn::Busy(1_000));
        assert_eq!(site.turn(2, 1, |_| false), Turn::Own, "a limit holds it");
        let failure = Failure::ours(Blame::Site, EnhancedCode(4, 4, 1), "no answer");
        site.paths[0].health = Health::Shut { failures: 1, until: 10, failure };
        assert_eq!(site.turn(2, 1, |_| true), Turn::Own);
        assert_eq!(site.turn(10, 1, |_| true), Turn::Busy(1_000));
        site.paths[0].sessions = 0;
        assert_eq!(site.turn(10, 1, |_| true), Turn::Absent(0));
        site.paths[0].sessions = 1;
        site.paths[0].idle.push(Arc::default());
        assert_eq!(site.turn(10, 1, |_| true), Turn::Idle(0));
        site.paths[0].out = true;
        assert_eq!(site.turn(10, 1, |_| true), Turn::Own);
    }

    #[test]
    fn what_a_path_missed_is_forgotten() {
        let mut site = site(&[1, 1]);
        for path in &mut site.paths {
            path.sessions = 1;
        }
        site.took(0, 0, 1_000_000);
        site.took(0, 1, 5);
        assert_eq!(site.turn(1, 0, |_| true), Turn::Own);
    }
}
