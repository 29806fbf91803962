//! What answers and refusals teach the controllers of paths, and what is kept of it when a site is forgotten.

use std::sync::Arc;

use super::{Action, PathId, Scheduler};
use crate::queue::site::SiteState;
use crate::routing::{Site, SourceId};
use crate::shaping::controller::{Bounds, Change, Saved};

/// What a receiver made of a message, as far as the pace is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::queue) enum Answer {
    /// It took it, or refused it for a reason of its own.
    Passed,
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
        let bounds = self.bounds();
        let state = self.path(path);
        let standing = (state.sessions - state.connecting) as u32;
        let change = match answer {
            Answer::Passed => state.control.passed(now, began, standing, &bounds),
            Answer::Throttled => state.control.throttled(now, began, &bounds),
            Answer::Lost => {
                state.control.lost(now);
                None
            }
        };
        self.tell_pace(path, change, actions);
        // More may be allowed now than when the line was looked at last.
        if change.is_some_and(|change| !change.slower) {
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
        let state = self.path(path);
        state.sessions - state.connecting > state.control.sessions_max()
    }

    fn tell_pace(&mut self, path: PathId, change: Option<Change>, actions: &mut Vec<Action>) {
        if let Some(change) = change {
            let route = Arc::clone(&self.site(path.site).route);
            actions.push(Action::Paced(route, path.source, change));
        }
    }

    fn bounds(&self) -> Bounds {
        Bounds { sessions_max: self.limits.connections_per_site as u32, ..Bounds::default() }
    }

    /// What was found out of paths that are not limited by nothing: site, source, what.
    pub(in crate::queue) fn paces(&self) -> Vec<(Site, SourceId, Saved)> {
        let live = self.sites.iter().flat_map(|(_, site)| {
            let paths = site.paths.iter().filter_map(|path| Some((path.source, path.control.save()?)));
            paths.map(|(source, saved)| (site.route.site.clone(), source, saved))
        });
        let kept = self.paces_kept.iter().map(|((site, source), saved)| (site.clone(), *source, *saved));
        kept.chain(live).collect()
    }

    /// Goes on from these when their sites turn up.
    pub(in crate::queue) fn keep_paces(&mut self, paces: impl IntoIterator<Item = (Site, SourceId, Saved)>) {
        self.paces_kept.extend(paces.into_iter().map(|(site, source, saved)| ((site, source), saved)));
    }

    /// A site turned up: what is known of its paths is in force again.
    pub(super) fn recall_paces(&mut self, now: u64, site: &mut SiteState) {
        if self.paces_kept.is_empty() {
            return;
        }
        let bounds = self.bounds();
        for path in &mut site.paths {
            if let Some(saved) = self.paces_kept.remove(&(site.route.site.clone(), path.source)) {
                path.control.restore(now, saved, &bounds);
            }
        }
    }
}
