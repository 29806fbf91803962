//! Sites and their sessions: who may open one, who must close one, who gets the next message.

use std::collections::HashSet;
use std::sync::Arc;

use smallvec::SmallVec;
use tokio::sync::Notify;

use super::{Action, Item, Limits, PathId, Scheduler, SiteId, Verdict, held};
use crate::mail::Failure;
use crate::queue::share::Turn;
use crate::queue::site::{Health, Line, PathState, SiteState, Wait};
use crate::routing::{Egress, PoolId, Route, SourceId};
use crate::shaping::{BucketId, Gate, Load, NEVER};

/// How long mail waits for the busy sessions of its site before another one is opened for it, in milliseconds. Little
/// beside what a transaction with a distant receiver takes, many transactions with a near one.
const PATIENCE: u64 = 20;

/// Items for each session that make another one worth its while at once: dialling takes as long as a few transactions.
const LONG_LINE: usize = 4;
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

    /// Sees to it that somebody works on the site's ready mail: an idle session, or a new one within the limits.
    pub(in crate::queue) fn staff(&mut self, now: u64, id: SiteId, actions: &mut Vec<Action>) {
        self.staff_site(now, id, false, actions);
    }

    /// A busy session is soon free, and dialling costs as much as several messages, for us and for the receiver. So
    /// another session is opened at once only for a long line; otherwise when mail has waited for [`PATIENCE`], which is
    /// what `overdue` says. (With one more for each item, 20,000 messages to 200 sites took 6,172 connections.)
    fn staff_site(&mut self, now: u64, id: SiteId, overdue: bool, actions: &mut Vec<Action>) {
        #[cfg(test)]
        {
            self.looks += 1;
        }
        self.set_paused_aside(now, id);
        if self.stopped || self.sites[id as usize].ready.available() == 0 {
            return;
        }
        let load = self.head_load(id);
        self.unbind(now, id, load);
        if let Some(session) = self.idle_session(now, id, load, actions) {
            return actions.push(Action::Wake(session));
        }
        let Some(place) = self.path_to_grow(now, id, load, actions) else { return };
        let site = &mut self.sites[id as usize];
        let (sessions, waiting) = (site.sessions(), site.ready.available());
        if sessions > 0 && waiting <= LONG_LINE * sessions && !overdue {
            return self.be_patient(now, id);
        }
        if self.connections >= self.limits.connections_max {
            let line = if sessions == 0 { Line::Starving } else { Line::Hungry };
            if site.line < line {
                site.line = line;
                match line {
                    Line::Starving => self.starving.push_back(id),
                    Line::Hungry | Line::Out => self.hungry.push_back(id),
                }
                actions.extend(self.some_idle_session().map(Action::Wake));
            }
            return;
        }
        let connecting = self.connect(now, id, place, actions);
        if waiting > connecting {
            self.be_patient(now, id);
        }
    }

    /// Starts a session on a path of the site; returns how many of it are connecting.
    fn connect(&mut self, now: u64, id: SiteId, place: usize, actions: &mut Vec<Action>) -> usize {
        self.connections += 1;
        let path = &mut self.sites[id as usize].paths[place];
        path.sessions += 1;
        path.connecting += 1;
        path.dialling = Wait::No;
        self.shaper.connecting(now, &mut path.pace);
        actions.push(Action::Connect(PathId { site: id, source: path.source }));
        path.connecting
    }

    /// Whether it is a path's turn to take a message, which limits let it send. If it is not, `idle` is noted, and woken
    /// when it is.
    pub(super) fn is_its_turn(
        &mut self,
        now: u64,
        path: PathId,
        load: Load,
        idle: &Arc<Notify>,
        actions: &mut Vec<Action>,
    ) -> bool {
        let site = &mut self.sites[path.site as usize];
        let place = site.place(path.source);
        match site.turn_of(now, place, &mut self.shaper, &self.egress, load) {
            Turn::Own => return true,
            Turn::Absent(other) => {
                self.open_first_session(now, path.site, other, actions);
                return true;
            }
            Turn::Idle(other) => actions.extend(site.paths[other].idle.pop().map(Action::Wake)),
            Turn::Busy(until) => self.look_at(path.site, until),
        }
        self.rest(path, idle);
        false
    }

    /// Starts the first session on a path of the site if there is room and limits let it.
    fn open_first_session(&mut self, now: u64, id: SiteId, place: usize, actions: &mut Vec<Action>) {
        let path = &mut self.sites[id as usize].paths[place];
        let room = self.connections < self.limits.connections_max;
        if room && self.shaper.may_connect(now, &mut path.pace, path.dialling == Wait::Senior) == Gate::Go {
            self.connect(now, id, place, actions);
        }
    }

    /// What the message whose turn it is asks for.
    fn head_load(&mut self, id: SiteId) -> Load {
        let Some((_, first)) = self.sites[id as usize].ready.turn(None) else { return held::ANY };
        let octets = self.messages.get(first.message).map_or(1, |message| message.size.octets());
        Load { recipients: 1, octets }
    }

    /// An idle session of the site whose path may send now. If there are some whose path may not yet, the line is looked
    /// at again when the first of them may.
    fn idle_session(&mut self, now: u64, id: SiteId, load: Load, actions: &mut Vec<Action>) -> Option<Arc<Notify>> {
        let (mut look, mut lines) = (None, Lines::new());
        let site = &mut self.sites[id as usize];
        for place in site.by_turn() {
            if site.paths[place].idle.is_empty() || site.ready.available_to(site.paths[place].source) == 0 {
                continue;
            }
            match site.gate(now, place, &mut self.shaper, &self.egress, load) {
                Gate::Go => {}
                Gate::Later(until) => {
                    look = earlier(look, until);
                    continue;
                }
                Gate::Behind(line) => {
                    lines.push((site.paths[place].source, line, false));
                    continue;
                }
            }
            match site.turn_of(now, place, &mut self.shaper, &self.egress, load) {
                Turn::Own | Turn::Absent(_) => return site.paths[place].idle.pop(),
                Turn::Idle(other) => return site.paths[other].idle.pop(),
                Turn::Busy(until) => look = earlier(look, until),
            }
        }
        self.hold(now, id, load, (look, lines), actions);
        None
    }

    /// Looks at the site again at that time, if any, and has these of its paths stand in line.
    fn hold(
        &mut self,
        now: u64,
        id: SiteId,
        load: Load,
        (look, lines): (Option<u64>, Lines),
        actions: &mut Vec<Action>,
    ) {
        look.into_iter().for_each(|until| self.look_at(id, until));
        for (source, line, dial) in lines {
            self.stand(now, PathId { site: id, source }, line, (load, dial), actions);
        }
    }

    /// The place of a path of the site that may have one more session. If none may yet, the line is looked at again when
    /// the first of them may.
    fn path_to_grow(&mut self, now: u64, id: SiteId, load: Load, actions: &mut Vec<Action>) -> Option<usize> {
        let bounds = self.limits.bounds(self.sites[id as usize].route.provider);
        let site = &mut self.sites[id as usize];
        let (mut look, mut lines) = (None, Lines::new());
        for place in site.by_turn() {
            let path = &mut site.paths[place];
            let waiting = site.ready.available_to(path.source);
            if path.retired || path.out {
                continue;
            }
            if let Some((until, _)) = path.health.closed(now) {
                look = earlier(look, until);
                continue;
            }
            let limit = path.sessions_max(now, &bounds);
            // A site that has not answered yet is asked by one; then as many may connect as have connected.
            let connected = path.sessions - path.connecting;
            if path.sessions >= limit || path.connecting >= connected.max(1) || waiting <= path.connecting {
                continue;
            }
            // No connection is made for mail that may not go yet.
            let send = site.gate(now, place, &mut self.shaper, &self.egress, load);
            let path = &mut site.paths[place];
            let dial = self.shaper.may_connect(now, &mut path.pace, path.dialling == Wait::Senior);
            match (send.and(dial), send) {
                (Gate::Go, _) => return Some(place),
                (Gate::Later(until), _) => look = earlier(look, until),
                (Gate::Behind(line), Gate::Behind(_)) => lines.push((path.source, line, false)),
                // Where all places are its own, it is looked at again when one of its sessions ends.
                (Gate::Behind(line), Gate::Go | Gate::Later(_))
                    if path.sessions > 0 && self.shaper.limits.is_of_one(line) => {}
                (Gate::Behind(line), Gate::Go | Gate::Later(_)) => lines.push((path.source, line, true)),
            }
        }
        self.hold(now, id, load, (look, lines), actions);
        None
    }

    /// Has a look at the site again in a while: what waits there now should be gone by then.
    fn be_patient(&mut self, now: u64, id: SiteId) {
        let site = &mut self.sites[id as usize];
        if site.patience.is_none() {
            site.patience = Some((now + PATIENCE, site.taken + site.ready.available() as u64));
            self.look_at(id, now + PATIENCE);
        }
    }

    /// Has a look at the site at that instant, or before if one is planned. Whoever calls the scheduler arms the timer.
    pub(in crate::queue) fn look_at(&mut self, id: SiteId, at: u64) {
        if at == NEVER {
            return;
        }
        let site = &mut self.sites[id as usize];
        match site.look {
            Some((planned, _)) if planned <= at => return,
            Some((_, key)) => _ = self.lines.cancel(key),
            None => {}
        }
        site.look = Some((at, self.lines.insert(at, id)));
    }

    /// The time of [`look_at`](Scheduler::look_at) has come.
    pub(super) fn look_again(&mut self, now: u64, id: SiteId, actions: &mut Vec<Action>) {
        let site = &mut self.sites[id as usize];
        site.look = None;
        let over = site.patience.take_if(|(until, _)| *until <= now);
        let overdue = over.is_some_and(|(_, expected)| site.taken < expected);
        if let Some((until, _)) = site.patience {
            self.look_at(id, until);
        }
        self.staff_site(now, id, overdue, actions);
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

/// Paths of a site that stand in line: the source, where, and whether for a connection.
type Lines = SmallVec<[(SourceId, BucketId, bool); 1]>;

/// The earlier of two instants.
fn earlier(one: Option<u64>, other: u64) -> Option<u64> {
    Some(one.map_or(other, |one| one.min(other)))
}
