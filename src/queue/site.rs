//! One site: its ready mail, and for each source that may send it the sessions and health of that path.

use std::sync::Arc;

use smallvec::SmallVec;
use tokio::sync::Notify;

use super::ready::Ready;
use super::wheel::TimerKey;
use crate::mail::{Class, Failure};
use crate::routing::{PoolId, Route, SourceId};
use crate::shaping::controller::{Bounds, Controller};
use crate::shaping::{BucketId, Gate, Pace};

/// Everything the queue knows of a site, for one pool of sources.
#[derive(Debug)]
pub(super) struct SiteState {
    /// The newest route that led here.
    pub(super) route: Arc<Route>,
    pub(super) pool: PoolId,
    pub(super) ready: Ready,
    /// One for each source of the pool, and those that were in it for as long as they have sessions; never none.
    pub(super) paths: SmallVec<[PathState; 1]>,
    /// Items handed to sessions so far.
    pub(super) taken: u64,
    /// Until then busy sessions are waited for, and what `taken` should be by then.
    pub(super) patience: Option<(u64, u64)>,
    /// When the line is looked at again.
    pub(super) look: Option<(u64, TimerKey)>,
    /// Where it waits for a connection.
    pub(super) line: Line,
    /// Recipients it takes in one transaction, once it has said so.
    pub(super) recipients_max: Option<usize>,
    /// Since when mail has been here that wishes for a source.
    pub(super) bound_since: Option<u64>,
}

/// A path with a pace is looked at this often, in milliseconds, whether it wants another session.
const STAFF_EVERY: u64 = 1000;

/// An egress path: one source at one site. Connections and limits live here.
#[derive(Debug)]
pub(super) struct PathState {
    pub(super) source: SourceId,
    /// Its weight in the pool, at least 1.
    pub(super) weight: u32,
    /// The source has left the pool: the path goes when its sessions have.
    pub(super) retired: bool,
    /// Nothing can be sent from the source at present.
    pub(super) out: bool,
    /// What it took, by weight, and when last; see `share.rs`.
    pub(super) account: u64,
    pub(super) took_at: u64,
    /// Session tasks, connecting ones included.
    pub(super) sessions: usize,
    pub(super) connecting: usize,
    /// Sessions that have delivered something.
    pub(super) proved: usize,
    /// Sessions that wait for work; the last to go idle is the first to be woken, so that the others time out.
    pub(super) idle: Vec<Arc<Notify>>,
    /// The scheduler has it in its list of paths on which sessions wait; that is put right when the list is read.
    pub(super) is_listed: bool,
    pub(super) health: Health,
    pub(super) pace: Pace,
    /// What this path was found to take.
    pub(super) control: Controller,
    /// When it was last looked whether the pace wants another session.
    staffed: u64,
    /// For the next message.
    pub(super) sending: Wait,
    /// For the next connection.
    pub(super) dialling: Wait,
}

/// Whether a path stands in line for tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Wait {
    #[default]
    No,
    /// In that line, among those of that class.
    In(BucketId, Class),
    /// It was let go from a line, and has not gone yet.
    Senior,
}

impl PathState {
    /// Whether it is time to look, if the path has a pace, whether it wants another session.
    pub(super) fn is_staffing_due(&mut self, now: u64) -> bool {
        let due = !self.control.is_free() && now >= self.staffed + STAFF_EVERY;
        if due {
            self.staffed = now;
        }
        due
    }

    fn new(source: SourceId, weight: u32, out: bool) -> PathState {
        PathState {
            source,
            weight,
            retired: false,
            out,
            account: 0,
            took_at: 0,
            sessions: 0,
            connecting: 0,
            proved: 0,
            idle: Vec::new(),
            is_listed: false,
            health: Health::Open { failures: 0 },
            pace: Pace::default(),
            control: Controller::default(),
            staffed: 0,
            sending: Wait::No,
            dialling: Wait::No,
        }
    }

    /// Sessions it may have.
    pub(super) fn sessions_max(&self, now: u64, bounds: &Bounds) -> usize {
        let found = self.control.sessions_max().max(bounds.sessions_min as usize);
        self.health.sessions_max(now, bounds.sessions_max as usize).min(found)
    }

    /// Whether a message may go now: by the pace that was found, and then by `limits`, so that nobody stands in line for
    /// what could not use its place.
    pub(super) fn may_send(&mut self, now: u64, limits: impl FnOnce(u64, &mut Pace) -> Gate) -> Gate {
        match self.control.may_send(now) {
            Gate::Go => limits(now, &mut self.pace),
            later @ (Gate::Later(_) | Gate::Behind(_)) => later,
        }
    }
}

impl SiteState {
    /// A site and the sources of a pool with their weights; `out`: nothing can be sent from that one at present.
    pub(super) fn new(
        route: Arc<Route>,
        pool: PoolId,
        sources: &[(SourceId, u32)],
        out: impl Fn(SourceId) -> bool,
    ) -> SiteState {
        SiteState {
            route,
            pool,
            ready: Ready::default(),
            paths: sources.iter().map(|(id, weight)| PathState::new(*id, *weight, out(*id))).collect(),
            taken: 0,
            patience: None,
            look: None,
            line: Line::Out,
            recipients_max: None,
            bound_since: None,
        }
    }

    /// Mail waits here, a session is open, or something must not be forgotten yet.
    pub(super) fn is_busy(&self, now: u64) -> bool {
        let remembered = |path: &PathState| match path.health {
            Health::Open { .. } => false,
            Health::Shut { until, .. } => now < until,
        };
        self.sessions() > 0 || !self.ready.is_empty() || self.look.is_some() || self.paths.iter().any(remembered)
    }

    /// Session tasks on all paths, connecting ones included.
    pub(super) fn sessions(&self) -> usize {
        self.paths.iter().map(|path| path.sessions).sum()
    }

    /// Why nothing is attempted now: no path is open. Of several reasons the one that is over first. A path whose source
    /// is out says nothing of the site: if all are, the mail waits for them.
    pub(super) fn closed(&self, now: u64) -> Option<&Failure> {
        let mut first: Option<(u64, &Failure)> = None;
        for path in self.paths.iter().filter(|path| !path.out && !path.retired) {
            let (until, failure) = path.health.closed(now)?;
            if first.is_none_or(|(other, _)| until < other) {
                first = Some((until, failure));
            }
        }
        first.map(|(_, failure)| failure)
    }

    /// The place of the path of a source that is in the pool, or was and has sessions.
    pub(super) fn place(&self, source: SourceId) -> usize {
        let place = self.paths.iter().position(|path| path.source == source);
        place.expect("a path is kept as long as it has sessions")
    }

    /// The path of such a source.
    pub(super) fn path(&mut self, source: SourceId) -> &mut PathState {
        let place = self.place(source);
        &mut self.paths[place]
    }

    /// The sources of its pool are these now, with these weights.
    pub(super) fn set_sources(&mut self, sources: &[(SourceId, u32)], out: impl Fn(SourceId) -> bool) {
        for path in &mut self.paths {
            let weight = sources.iter().find(|(source, _)| *source == path.source).map(|(_, weight)| *weight);
            path.retired = weight.is_none();
            path.weight = weight.unwrap_or(path.weight);
            path.out = out(path.source);
        }
        for (source, weight) in sources {
            if !self.paths.iter().any(|path| path.source == *source) {
                self.paths.push(PathState::new(*source, *weight, out(*source)));
            }
        }
        self.drop_retired(|_| {});
    }

    /// Forgets paths of sources that have left the pool.
    pub(super) fn drop_retired(&mut self, mut gone: impl FnMut(&Pace)) {
        self.paths.retain(|path| {
            let keep = !path.retired || path.sessions > 0;
            if !keep {
                gone(&path.pace);
            }
            keep
        });
    }
}

/// In which line a site waits for a connection while all are in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Line {
    /// In none.
    Out,
    /// It has sessions and would like one more.
    Hungry,
    /// It has mail and not one session.
    Starving,
}

/// Whether a site can be reached from a source. Times are milliseconds on the queue's clock.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Health {
    /// It answers, or has not been asked; `failures` in a row before.
    Open { failures: u32 },
    /// None of its hosts answered. After `until` one session probes it.
    Shut { failures: u32, until: u64, failure: Failure },
}

impl Health {
    /// Until when nothing is attempted, and why.
    pub(super) fn closed(&self, now: u64) -> Option<(u64, &Failure)> {
        match self {
            Health::Shut { until, failure, .. } if now < *until => Some((*until, failure)),
            Health::Shut { .. } | Health::Open { .. } => None,
        }
    }

    /// Sessions it may have: one while it must prove itself.
    pub(super) fn sessions_max(&self, now: u64, limit: usize) -> usize {
        match self {
            Health::Open { .. } => limit,
            Health::Shut { until, .. } if now < *until => 0,
            Health::Shut { .. } => 1,
        }
    }

    /// All its hosts failed: shut for `min`, doubling with every failure in a row up to `max`.
    pub(super) fn failed(self, now: u64, failure: Failure, min: u64, max: u64) -> Health {
        let failures = match self {
            Health::Open { failures } => failures + 1,
            // A straggler from before it was shut: it tells us nothing new.
            Health::Shut { until, .. } if now < until => return self,
            Health::Shut { failures, .. } => failures + 1,
        };
        let pause = min.saturating_mul(1 << (failures - 1).min(20)).min(max.max(min));
        Health::Shut { failures, until: now + pause, failure }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::{Blame, EnhancedCode};

    fn failure() -> Failure {
        Failure::ours(Blame::Site, EnhancedCode(4, 4, 1), "no answer")
    }

    #[test]
    fn a_dead_site_is_probed_ever_more_rarely() {
        let (min, max) = (60_000, 1_800_000);
        let mut health = Health::Open { failures: 0 };
        let mut now = 0;
        for pause in [60_000, 120_000, 240_000, 480_000, 960_000, 1_800_000, 1_800_000] {
            assert_eq!(health.closed(now), None);
            health = health.failed(now, failure(), min, max);
            assert_eq!(health.closed(now + pause - 1), Some((now + pause, &failure())));
            assert_eq!(health.sessions_max(now + pause - 1, 20), 0);
            // A straggler changes nothing.
            assert_eq!(health.clone().failed(now + 1, failure(), min, max), health);
            now += pause;
            assert_eq!(health.closed(now), None);
            assert_eq!(health.sessions_max(now, 20), 1);
        }
    }
}
