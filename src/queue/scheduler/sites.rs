//! Sites and their sessions: what comes to a site, what becomes of its sessions and its health, which sites there are.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::Notify;

use super::{Action, Item, Limits, PathId, Scheduler, SiteId, Verdict};
use crate::mail::Failure;
use crate::queue::site::{Health, Line, PathState, SiteState, Wait};
use crate::routing::{Egress, PoolId, Route, SourceId};

/// So many sites are kept without a look at which are of use.
const SITES_MIN: usize = 1024;

impl Scheduler {
    /// Puts an item where the sessions of its site find it.
    pub(in crate::queue) fn enqueue(
        &mut self,
        now: u64,
        id: SiteId,
        item: Item,
        front: bool,
        actions: &mut Vec<Action>,
    ) {
        let Some(message) = self.messages.get(item.message) else { return self.drop_item(&item) };
        let (stream, class) = (message.stream, self.streams.class(message.stream));
        let lane = self.lane_of(id, &item, stream);
        let site = &mut self.sites[id as usize];
        if let Some(failure) = site.closed(now) {
            let verdict = Verdict::Later(failure.clone());
            return self.turn_away(vec![item], verdict, actions);
        }
        if site.ready.is_held(lane) {
            self.purge(id, lane);
        }
        let site = &mut self.sites[id as usize];
        self.hosts.get_mut(item.host).stands_at(id);
        match front {
            false => site.ready.push(class, lane, item),
            true => site.ready.push_front(class, lane, item),
        }
        self.staff(now, id, actions);
    }

    /// Puts other limits in force: what they allow more of is taken up at once, what they allow less of ends by itself.
    pub(in crate::queue) fn set_limits(&mut self, now: u64, limits: Limits, actions: &mut Vec<Action>) {
        self.limits = limits;
        let ids: Vec<usize> = self.sites.iter().map(|(id, _)| id).collect();
        ids.into_iter().for_each(|id| self.staff(now, id as SiteId, actions));
    }

    /// Puts other sources and pools in force. Routes must be forgotten afterwards, so that ready mail finds its pool.
    pub(in crate::queue) fn set_egress(&mut self, egress: Arc<Egress>) {
        self.streams.set_pools(|stream| egress.pool_of(stream));
        let out = |source| egress.source(source).is_out();
        self.sites.iter_mut().for_each(|(_, site)| site.set_sources(egress.sources_of(site.pool), out));
        let used: HashSet<SourceId> = egress.sources().map(|(source, _)| source).collect();
        self.wishes.retain(|source| used.contains(&source));
        self.egress = egress;
    }

    /// A source is out, or back: others take over its mail, or it goes on with it.
    pub(in crate::queue) fn sources_changed(&mut self, now: u64, actions: &mut Vec<Action>) {
        let ids: Vec<usize> = self.sites.iter().map(|(id, _)| id).collect();
        for id in ids {
            let site = &mut self.sites[id];
            site.paths.iter_mut().for_each(|path| path.out = self.egress.source(path.source).is_out());
            match site.closed(now).cloned() {
                Some(failure) => {
                    let items = site.ready.drain();
                    self.turn_away(items, Verdict::Later(failure), actions);
                }
                None => self.staff(now, id as SiteId, actions),
            }
        }
    }

    /// Whether a session that has had its share should close because a site has none. As many are told so as there are
    /// such sites: call [`yielded`](Scheduler::yielded) when it has closed.
    pub(in crate::queue) fn must_yield(&mut self) -> bool {
        let must = self.starving.len() > self.yielding;
        self.yielding += usize::from(must);
        must
    }

    /// The same where a limit on connections leaves another site without one. Nobody need be told.
    pub(in crate::queue) fn must_hand_on(&mut self, path: PathId) -> bool {
        self.shaper.must_yield(&self.sites[path.site as usize].path(path.source).pace)
    }

    /// A session that was to make room is gone; call before [`session_ended`](Scheduler::session_ended).
    pub(in crate::queue) fn yielded(&mut self) {
        self.yielding = self.yielding.saturating_sub(1);
    }

    /// Whether an idle connection is of more use elsewhere.
    pub(in crate::queue) fn is_crowded(&mut self, path: PathId) -> bool {
        let wanted = |state: &PathState| self.shaper.is_wanted(&state.pace);
        !self.starving.is_empty() || !self.hungry.is_empty() || wanted(self.sites[path.site as usize].path(path.source))
    }

    /// Messages a connection on this path may carry.
    pub(in crate::queue) fn messages_per_connection(&mut self, path: PathId) -> u32 {
        self.shaper.messages_per_connection(&self.sites[path.site as usize].path(path.source).pace)
    }

    /// The next site to get a connection.
    fn next_in_line(&mut self) -> Option<SiteId> {
        let next = match self.starving.pop_front() {
            Some(next) => next,
            // Those that came to starve meanwhile have had their turn in the other line.
            None => std::iter::from_fn(|| self.hungry.pop_front())
                .find(|id| self.sites[*id as usize].line == Line::Hungry)?,
        };
        self.sites[next as usize].line = Line::Out;
        Some(next)
    }

    /// The connection of a session stands. Two more may follow: so the number of sessions grows as they succeed.
    pub(in crate::queue) fn connected(&mut self, now: u64, path: PathId, actions: &mut Vec<Action>) {
        let state = self.path(path);
        state.connecting = state.connecting.saturating_sub(1);
        match state.health {
            // Not proved yet: if it breaks before it delivers, the next pause is longer.
            Health::Shut { failures, until, .. } if now >= until => state.health = Health::Open { failures },
            // A straggler from before it was shut: that it connected is no news.
            Health::Shut { .. } | Health::Open { .. } => {}
        }
        state.control.connected((state.sessions - state.connecting) as u32);
        for _ in 0..self.site(path.site).ready.available().saturating_sub(1).min(2) {
            self.staff(now, path.site, actions);
        }
    }

    /// A session of the path delivered something: whatever was wrong is over.
    pub(in crate::queue) fn proved(&mut self, path: PathId) {
        let path = self.path(path);
        path.proved += 1;
        path.health = Health::Open { failures: 0 };
    }

    /// A session that has [`proved`](Scheduler::proved) itself is over.
    pub(in crate::queue) fn proved_ended(&mut self, path: PathId) {
        let path = self.path(path);
        path.proved = path.proved.saturating_sub(1);
    }

    /// No host of the site could be reached; or, if `met`, one was and hung up before it took anything. While other
    /// sessions of the path live, only this session is given up: the receiver wants no more of them. (Sessions that have
    /// taken nothing either do not speak for a site that hangs up.) Otherwise the path closes for a pause, and with the
    /// last path of a site everything ready there waits by its schedule.
    pub(in crate::queue) fn unreachable(
        &mut self,
        now: u64,
        path: PathId,
        met: bool,
        failure: &Failure,
        actions: &mut Vec<Action>,
    ) {
        let (min, max) = (self.limits.pause_min, self.limits.pause_max);
        let state = self.path(path);
        // One that is still connecting may have taken the last place: if it fails, too, that decides.
        let others = if met { state.proved } else { state.sessions.saturating_sub(1) };
        if others > 0 {
            let standing = (state.sessions - state.connecting).saturating_sub(usize::from(met));
            return self.refused(now, path, standing.max(1), actions);
        }
        state.health = state.health.clone().failed(now, failure.clone(), min, max);
        let site = &mut self.sites[path.site as usize];
        if site.closed(now).is_some() {
            let items = site.ready.drain();
            self.turn_away(items, Verdict::Later(failure.clone()), actions);
        }
    }

    /// DNS says that no host of the site has an address, now and for as long as it is believed: its ready mail fails.
    pub(in crate::queue) fn dead_end(&mut self, id: SiteId, failure: Failure, actions: &mut Vec<Action>) {
        let items = self.sites[id as usize].ready.drain();
        self.turn_away(items, Verdict::Never(failure), actions);
    }

    /// A session task is over; `connecting`: it never got so far as [`connected`](Scheduler::connected).
    pub(in crate::queue) fn session_ended(
        &mut self,
        now: u64,
        path: PathId,
        connecting: bool,
        actions: &mut Vec<Action>,
    ) {
        self.connections -= 1;
        let state = self.path(path);
        state.sessions -= 1;
        state.connecting -= usize::from(connecting);
        let site = &mut self.sites[path.site as usize];
        let lines = self.shaper.disconnected(&mut site.path(path.source).pace);
        site.drop_retired(|pace| self.shaper.leave(pace));
        self.hand_on(now, &lines, actions);
        // Sites that wait for room go first, in order of coming.
        while self.connections < self.limits.connections_max {
            let Some(next) = self.next_in_line() else { break };
            self.staff(now, next, actions);
        }
        self.staff(now, path.site, actions);
    }

    /// A session stops waiting. False: work was handed to it in the meantime.
    pub(in crate::queue) fn leave_idle(&mut self, path: PathId, session: &Arc<Notify>) -> bool {
        let idle = &mut self.path(path).idle;
        let place = idle.iter().position(|other| Arc::ptr_eq(other, session));
        place.map(|place| idle.swap_remove(place)).is_some()
    }

    /// The receiver takes fewer recipients in a transaction than we gave it.
    pub(in crate::queue) fn learn_recipients_max(&mut self, id: SiteId, taken: usize) {
        self.sites[id as usize].recipients_max = Some(taken.max(1));
    }

    /// Back to the front of its site's queue: the connection broke before a verdict.
    pub(in crate::queue) fn put_back(&mut self, now: u64, id: SiteId, item: Item, actions: &mut Vec<Action>) {
        if self.is_unwanted(item.message) {
            return self.end_unwanted(&item, actions);
        }
        // Unless its mail goes another way by now.
        match self.hosts.get(item.host).route.leads_to(id) {
            true => self.enqueue(now, id, item, true, actions),
            false => self.forward(now, item, actions),
        }
    }

    /// Opens every site that was closed, for an operator's retry.
    pub(in crate::queue) fn reopen_sites(&mut self) {
        let paths = self.sites.iter_mut().flat_map(|(_, site)| &mut site.paths);
        paths.for_each(|path| {
            path.health = Health::Open { failures: 0 };
            path.control.release();
        });
    }

    pub(in crate::queue) fn site(&self, id: SiteId) -> &SiteState {
        &self.sites[id as usize]
    }

    pub(in crate::queue) fn sites(&self) -> impl Iterator<Item = &SiteState> {
        self.sites.iter().map(|(_, site)| site)
    }

    pub(super) fn path(&mut self, path: PathId) -> &mut PathState {
        self.sites[path.site as usize].path(path.source)
    }

    /// The site the route leads to from a pool, which keeps the newest route.
    pub(in crate::queue) fn site_id(&mut self, now: u64, route: &Arc<Route>, pool: PoolId) -> SiteId {
        let name = (route.site.clone(), pool);
        if let Some(id) = self.site_ids.get(&name).copied() {
            let site = &mut self.sites[id as usize];
            let before = std::mem::replace(&mut site.route, Arc::clone(route));
            // A reload may know another provider of these hosts, with limits of its own.
            if before.provider != route.provider {
                for path in &mut site.paths {
                    for _ in 0..path.sessions {
                        // Who waits for these places finds others: connections under the old configuration end soon.
                        self.shaper.disconnected(&mut path.pace);
                    }
                    self.shaper.leave(&path.pace);
                    (path.sending, path.dialling) = (Wait::No, Wait::No);
                }
                self.enter_paths(now, id);
            }
            return id;
        }
        if self.sites.len() >= self.sites_max {
            self.forget_sites(now);
            self.sites_max = SITES_MIN.max(2 * self.sites.len());
        }
        let out = |source| self.egress.source(source).is_out();
        let mut site = SiteState::new(Arc::clone(route), pool, self.egress.sources_of(pool), out);
        self.recall_paces(now, &mut site);
        let id = self.sites.insert(site) as SiteId;
        self.site_ids.insert(name, id);
        self.enter_paths(now, id);
        id
    }

    /// Forgets the sites that no host leads to any more and where nothing goes on. Hosts move, and what they leave behind
    /// would be kept for as long as the daemon runs. Called when the table has doubled, so it costs O(1) a new site.
    fn forget_sites(&mut self, now: u64) {
        let in_line = self.starving.iter().chain(&self.hungry).copied();
        let named: HashSet<SiteId> = self.hosts.sites().chain(in_line).collect();
        let goes =
            |(id, site): (usize, &SiteState)| (!site.is_busy(now) && !named.contains(&(id as SiteId))).then_some(id);
        let going: Vec<usize> = self.sites.iter().filter_map(goes).collect();
        for id in going {
            let site = self.sites.remove(id);
            self.part_with(&site);
            site.paths.iter().for_each(|path| self.shaper.leave(&path.pace));
        }
        self.site_ids.retain(|_, id| self.sites.contains(*id as usize));
    }
}
