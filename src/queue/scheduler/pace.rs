//! What answers and refusals teach the controllers of paths, and what is kept of it when a site is forgotten.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Action, PathId, Scheduler};
use crate::queue::site::SiteState;
use crate::routing::{Site, SourceId};
use crate::shaping::controller::{Change, Saved};

/// What was found out of so many paths is remembered without their sites.
const PACES_MAX: usize = 100_000;

/// The name of a path over restarts: source and site, a null octet between them.
pub(in crate::queue) type PathName = Box<[u8]>;

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
        let bounds = self.limits.bounds(self.site(path.site).route.provider);
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
                paces.extend(path.control.save().map(|saved| (self.path_name(&site.route.site, path.source), saved)));
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
        for path in &mut site.paths {
            let name = self.path_name(&site.route.site, path.source);
            if let Some(saved) = self.paces_kept.remove(&name) {
                path.control.restore(now, saved, &bounds);
            }
        }
    }

    /// A site is about to be forgotten, but not what was found out of it.
    pub(super) fn part_with(&mut self, site: &SiteState) {
        for path in &site.paths {
            if let Some(saved) = path.control.save().filter(|_| self.paces_kept.len() < PACES_MAX) {
                self.paces_kept.insert(self.path_name(&site.route.site, path.source), saved);
            }
        }
    }

    fn path_name(&self, site: &Site, source: SourceId) -> PathName {
        [self.egress.source(source).name.as_bytes(), b"\0", site.as_str().as_bytes()].concat().into()
    }
}
