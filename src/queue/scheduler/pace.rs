//! What answers and refusals teach the controllers of paths, and what is kept of it when a site is forgotten.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Action, PathId, Scheduler};
use crate::queue::site::SiteState;
use crate::routing::SourceId;
use crate::shaping::controller::{Change, Saved};

/// What was found out of so many paths is remembered without their sites.
const PACES_MAX: usize = 100_000;

/// The name of a path over restarts: source, site and pool, a null octet between them.
///
/// Two pools that send from one source to one site are two senders to the receiver, as two daemons are: each finds its part
/// of what that address may send (docs/traffic.md, "How well it follows"), and goes on with its own part.
pub(in crate::queue) type PathName = Box<[u8]>;

/// What a receiver made of a message, as far as the pace is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::queue) enum Answer {
    /// It took it.
    Passed,
    /// It refused it for a reason of its own.
    TurnedDown,
    /// "Slow down."
    Throttled,
    /// None: the connection broke.
    Lost,
}

impl Scheduler {
    /// A message that was begun at `began` got this answer.
    pub(in crate::queue) fn answered(
        &mut self,
        now: u64,
        path: PathId,
        began: u64,
        answer: Answer,
        actions: &mut Vec<Action>,
    ) {
        let bounds = self.limits.bounds(self.site(path.site).route.provider);
        let state = self.path(path);
        let standing = (state.sessions - state.connecting) as u32;
        let change = match answer {
            Answer::Passed => state.control.passed(now, began, standing, &bounds),
            Answer::TurnedDown => state.control.turned_down(now, began, standing, &bounds),
            Answer::Throttled => state.control.throttled(now, began, &bounds),
            Answer::Lost => {
                state.control.lost(now);
                None
            }
        };
        self.tell_pace(path, change, actions);
        // More may be allowed now than when the line was looked at last. A pace that few sessions cannot use up does not rise, so
        // nothing changes: it is looked from time to time.
        let due = change.is_some_and(|change| !change.slower) || self.path(path).is_staffing_due(now);
        if due {
            self.staff(now, path.site, actions);
        }
    }

    /// One more session was refused while `others` stood.
    pub(super) fn refused(&mut self, now: u64, path: PathId, others: usize, actions: &mut Vec<Action>) {
        let change = self.path(path).control.refused(now, others as u32);
        self.tell_pace(path, change, actions);
    }

    /// Whether the path has more sessions than are good for it.
    pub(in crate::queue) fn is_too_wide(&mut self, path: PathId) -> bool {
        let bounds = self.limits.bounds(self.site(path.site).route.provider);
        let state = self.path(path);
        state.sessions - state.connecting > state.control.sessions_max().max(bounds.sessions_min as usize)
    }

    fn tell_pace(&mut self, path: PathId, change: Option<Change>, actions: &mut Vec<Action>) {
        if let Some(change) = change {
            let route = Arc::clone(&self.site(path.site).route);
            actions.push(Action::Paced(route, path.source, change));
        }
    }

    /// What was found out, by the name of the path.
    pub(in crate::queue) fn paces(&self) -> HashMap<PathName, Saved> {
        let mut paces = self.paces_kept.clone();
        for (_, site) in &self.sites {
            for path in &site.paths {
                paces.extend(path.control.save().map(|saved| (self.path_name(site, path.source), saved)));
            }
        }
        paces
    }

    /// Goes on from these when their sites turn up.
    pub(in crate::queue) fn keep_paces(&mut self, paces: impl IntoIterator<Item = (PathName, Saved)>) {
        self.paces_kept.extend(paces);
    }

    /// A site turned up: what is known of its paths is in force again.
    pub(super) fn recall_paces(&mut self, now: u64, site: &mut SiteState) {
        if self.paces_kept.is_empty() {
            return;
        }
        let bounds = self.limits.bounds(site.route.provider);
        for place in 0..site.paths.len() {
            let name = self.path_name(site, site.paths[place].source);
            // Older versions wrote it without the pool.
            let end = name.iter().rposition(|octet| *octet == 0).unwrap_or(name.len());
            let saved = self.paces_kept.remove(&name).or_else(|| self.paces_kept.remove(&name[..end]));
            if let Some(saved) = saved {
                site.paths[place].control.restore(now, saved, &bounds);
            }
        }
    }

    /// A site is about to be forgotten, but not what was found out of it.
    pub(super) fn part_with(&mut self, site: &SiteState) {
        for path in &site.paths {
            if let Some(saved) = path.control.save().filter(|_| self.paces_kept.len() < PACES_MAX) {
                self.paces_kept.insert(self.path_name(site, path.source), saved);
            }
        }
    }

    fn path_name(&self, site: &SiteState, source: SourceId) -> PathName {
        let (source, pool) = (&self.egress.source(source).name, self.egress.pool_name(site.pool));
        [source.as_bytes(), b"\0", site.route.site.as_str().as_bytes(), b"\0", pool.as_bytes()].concat().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::mail::{Class, Stream};
    use crate::queue::probe;
    use crate::routing::{Egress, PoolId};
    use crate::shaping::controller::Bounds;

    const POOLS: &str = r#"
        [[source]]
        name = "a"
        addresses = ["127.0.0.1"]
        [[pool]]
        name = "default"
        sources = { a = 1 }
        [[pool]]
        name = "bulk"
        sources = { a = 1 }
        [[egress]]
        match = { class = "bulk" }
        pool = "bulk"
    "#;

    /// A scheduler with two pools of the same source, and the pools.
    fn scheduler() -> (Scheduler, [PoolId; 2]) {
        let config: Config = toml::from_str(POOLS).unwrap();
        let egress = Arc::new(Egress::new(&config, None).unwrap());
        let of = |class| egress.pool_of(&Stream { class, ..Stream::default() });
        let pools = [of(Class::Transactional), of(Class::Bulk)];
        (Scheduler { egress, ..Scheduler::default() }, pools)
    }

    fn site(scheduler: &Scheduler, pool: PoolId) -> SiteState {
        let sources = scheduler.egress.sources_of(pool);
        SiteState::new(probe::relays(1).remove(0), pool, sources, |_| false)
    }

    /// It was found to take so much.
    fn found(site: &mut SiteState, per_second: f64) {
        let saved = Saved { per_second: Some(per_second), sessions: None };
        site.paths[0].control.restore(0, saved, &Bounds::default());
    }

    fn known(scheduler: &mut Scheduler, pool: PoolId) -> Option<f64> {
        let mut site = site(scheduler, pool);
        scheduler.recall_paces(0, &mut site);
        site.paths[0].control.per_second()
    }

    #[test]
    fn each_pool_goes_on_with_its_own_pace_of_the_same_source_and_site() {
        let (mut scheduler, pools) = scheduler();
        for (pool, rate) in pools.into_iter().zip([7.0, 3.0]) {
            let mut site = site(&scheduler, pool);
            found(&mut site, rate);
            scheduler.part_with(&site);
        }
        // As after a restart: what was kept, by name.
        let kept = scheduler.paces();
        assert_eq!(kept.len(), 2);
        scheduler.paces_kept.clear();
        scheduler.keep_paces(kept);
        assert_eq!(pools.map(|pool| known(&mut scheduler, pool)), [Some(7.0), Some(3.0)]);
        assert_eq!(pools.map(|pool| known(&mut scheduler, pool)), [None, None], "it is in force, not kept twice");
    }

    #[test]
    fn what_an_older_version_kept_is_read() {
        let (mut scheduler, pools) = scheduler();
        let site = site(&scheduler, pools[1]);
        let name = [b"a\0", site.route.site.as_str().as_bytes()].concat();
        let saved = Saved { per_second: Some(5.0), sessions: None };
        scheduler.keep_paces([(PathName::from(name), saved)]);
        assert_eq!(known(&mut scheduler, pools[1]), Some(5.0));
    }
}
