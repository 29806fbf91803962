//! What may not go yet, and what wakes it: paths that have no token, lanes whose mail has none.
//!
//! The shaper says until when, or in which line to stand. For a time a timer is set; in a line the shaper says when
//! tokens come, and to whom. Either way whoever is woken looks again at everything: all limits must let it through.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use smallvec::SmallVec;

use super::{Action, Item, LaneId, PathId, Scheduler, SiteId, StreamId};
use crate::config::Subject;
use crate::mail::{AddressHost, Class};
use crate::queue::share::Turn;
use crate::queue::site::{PathState, SiteState, Wait};
use crate::queue::wheel::{TimerKey, Wheel};
use crate::routing::{Egress, PoolId, Route, SourceId};
use crate::shaping::{BucketId, Gate, Load, NEVER, Pick, Rows, Shaper, Waiter};

/// What is asked for when it is not known yet which message it will be.
pub(super) const ANY: Load = Load { recipients: 1, octets: 1 };

/// Timers of what is held back.
#[derive(Debug, Default)]
pub(super) struct Held {
    timers: Wheel<Wake>,
    /// The timer of each line.
    lines: HashMap<BucketId, (u64, TimerKey)>,
    /// That of each lane that waits for a time.
    lanes: HashMap<(SiteId, LaneId), TimerKey>,
}

#[derive(Debug, Clone, Copy)]
enum Wake {
    /// Tokens of this bucket come.
    Line(BucketId),
    /// The time of a lane has come.
    Lane(SiteId, LaneId),
}

/// Who stands in a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// A path that would send, among those of that class.
    Sender(PathId, Class),
    /// A path that would open a connection.
    Dialler(PathId, Class),
    /// Mail of a site.
    Mail(SiteId, LaneId),
}

impl Standing {
    const SENDER: u32 = 0;
    const DIALLER: u32 = 1;
    const MAIL: u32 = 2;
    const KIND_BITS: u32 = 2;
    /// In the place of a host: all hosts.
    const ANY_HOST: u32 = u32::MAX;

    fn name(self) -> [u32; 4] {
        let of_path = |kind: u32, path: PathId, class: Class| [kind, path.site, u32::from(path.source.0), class as u32];
        match self {
            Standing::Sender(path, class) => of_path(Standing::SENDER, path, class),
            Standing::Dialler(path, class) => of_path(Standing::DIALLER, path, class),
            Standing::Mail(site, lane) => {
                // Which source it wishes for, counted from 1, stands above the kind.
                let source = lane.source.map_or(0, |source| (u32::from(source.0) + 1) << Standing::KIND_BITS);
                [Standing::MAIL | source, site, lane.stream, lane.host.unwrap_or(Standing::ANY_HOST)]
            }
        }
    }

    fn of(waiter: Waiter) -> Standing {
        let [kind, site, second, third] = waiter.name;
        let path = PathId { site, source: SourceId(second as u16) };
        let class = Class::ALL[third as usize % Class::ALL.len()];
        match kind {
            Standing::SENDER => Standing::Sender(path, class),
            Standing::DIALLER => Standing::Dialler(path, class),
            _ => {
                let host = (third != Standing::ANY_HOST).then_some(third);
                let source = (kind >> Standing::KIND_BITS).checked_sub(1).map(|source| SourceId(source as u16));
                Standing::Mail(site, LaneId { stream: second, host, source })
            }
        }
    }

    /// Whether it still stands in that line: it may have gone, or moved, without saying so.
    fn waits(self, sites: &slab::Slab<SiteState>, line: BucketId) -> bool {
        let path = |path: PathId, wait: fn(&PathState) -> Wait, class| {
            let site = sites.get(path.site as usize);
            let state = site.and_then(|site| site.paths.iter().find(|state| state.source == path.source));
            state.is_some_and(|state| wait(state) == Wait::In(line, class))
        };
        match self {
            Standing::Sender(of, class) => path(of, |state| state.sending, class),
            Standing::Dialler(of, class) => path(of, |state| state.dialling, class),
            Standing::Mail(site, lane) => {
                sites.get(site as usize).is_some_and(|site| site.ready.is_aside(lane, Some(line)))
            }
        }
    }
}

impl Held {
    /// Timers that run.
    pub(super) fn len(&self) -> usize {
        self.timers.len()
    }

    pub(super) fn next_wake(&self) -> Option<u64> {
        self.timers.next_wake()
    }

    fn lane_at(&mut self, site: SiteId, lane: LaneId, at: u64) {
        let timer = self.timers.insert(at, Wake::Lane(site, lane));
        if let Some(before) = self.lanes.insert((site, lane), timer) {
            self.timers.cancel(before);
        }
    }

    fn line_at(&mut self, line: BucketId, at: u64) {
        let timer = self.timers.insert(at, Wake::Line(line));
        if let Some((_, before)) = self.lines.insert(line, (at, timer)) {
            self.timers.cancel(before);
        }
    }
}

impl Scheduler {
    /// Puts other limits in force. Everybody who is held back looks again.
    pub(in crate::queue) fn set_rows(&mut self, now: u64, rows: Rows, actions: &mut Vec<Action>) {
        self.shaper.set_rows(now, rows);
        self.rows_changed(now, actions);
    }

    /// The shaper's rows are others now. Everybody who is held back looks again.
    pub(super) fn rows_changed(&mut self, now: u64, actions: &mut Vec<Action>) {
        for (_, (_, timer)) in self.held.lines.drain() {
            self.held.timers.cancel(timer);
        }
        let ids: Vec<usize> = self.sites.iter().map(|(id, _)| id).collect();
        for id in ids {
            self.enter_paths(now, id as SiteId);
        }
        self.look_everywhere(now, actions);
    }

    /// Whatever is held back looks again: what held it may not hold any more.
    pub(in crate::queue) fn look_everywhere(&mut self, now: u64, actions: &mut Vec<Action>) {
        let ids: Vec<usize> = self.sites.iter().map(|(id, _)| id).collect();
        ids.into_iter().for_each(|id| self.look_at_all(now, id as SiteId, actions));
    }

    /// Whatever is held back at one site looks again.
    pub(super) fn look_at_all(&mut self, now: u64, id: SiteId, actions: &mut Vec<Action>) {
        let site = &mut self.sites[id as usize];
        site.ready.restore_all();
        for path in &mut site.paths {
            (path.sending, path.dialling) = (Wait::No, Wait::No);
        }
        self.staff(now, id, actions);
    }

    /// Learns the pace of the site's paths anew.
    pub(super) fn enter_paths(&mut self, now: u64, id: SiteId) {
        let site = &mut self.sites[id as usize];
        for path in &mut site.paths {
            let subject = path_subject(&site.route, &self.egress, site.pool, path.source);
            path.pace = self.shaper.enter(now, &subject, path.sessions as u32);
        }
    }

    /// What limits say of the item that is first in a lane, mail of that stream.
    pub(super) fn may_pick(&mut self, now: u64, path: PathId, lane: LaneId, stream: StreamId, load: Load) -> Pick {
        let site = &self.sites[path.site as usize];
        let domain = site.ready.first(lane).map(|first| domain_of(&self.hosts.get(first.host).host));
        let stream = self.streams.get(stream);
        let subject = Subject {
            site: site.route.site.as_str(),
            domain: domain.as_deref().unwrap_or_default(),
            source: &self.egress.source(path.source).name,
            pool: self.egress.pool_name(site.pool),
            ..Subject::of_stream(stream, site.route.provider)
        };
        self.shaper.may_pick(now, &subject, load, site.ready.is_senior(lane))
    }

    /// The lane of a message's mail to a host at that site.
    pub(super) fn lane_of(&self, site: SiteId, item: &Item, stream: StreamId) -> LaneId {
        let orders = &self.shaper.steering.orders;
        let host = (self.shaper.limits.tells_domains() || !orders.is_empty())
            .then(|| domain_of(&self.hosts.get(item.host).host))
            .filter(|domain| self.shaper.limits.tells_domain(domain) || orders.tells_domain(domain));
        LaneId { stream, host: host.map(|_| item.host), source: self.wished(site, item) }
    }

    /// A lane whose turn it is may not go.
    pub(super) fn set_aside(&mut self, now: u64, site: SiteId, lane: LaneId, gate: Gate, load: Load) {
        let ready = &mut self.sites[site as usize].ready;
        match gate {
            Gate::Go => {}
            Gate::Later(until) => {
                ready.set_aside(lane, None);
                if until != NEVER {
                    self.held.lane_at(site, lane, until);
                }
            }
            Gate::Behind(line) => {
                let senior = ready.is_senior(lane);
                if let Some(class) = ready.set_aside(lane, Some(line)) {
                    self.join(now, line, Standing::Mail(site, lane), (class, load), (senior, false));
                }
            }
        }
    }

    /// A path stands in line: for a message, or, if `dial`, for a connection. Then an idle session of another path that has
    /// such a place makes room.
    pub(super) fn stand(
        &mut self,
        now: u64,
        path: PathId,
        line: BucketId,
        (load, dial): (Load, bool),
        actions: &mut Vec<Action>,
    ) {
        let site = &mut self.sites[path.site as usize];
        let class = site.ready.best_class().unwrap_or(Class::System);
        let state = site.path(path.source);
        // One that has connections would like more; it does not need it.
        let (urgent, hungry) = (dial && state.sessions == 0, dial && state.sessions > 0);
        let class = if hungry { Class::System } else { class };
        let wait = if dial { &mut state.dialling } else { &mut state.sending };
        let better = |before: Class| Class::ALL.iter().position(|c| *c == before) <= Some(class as usize);
        if matches!(*wait, Wait::In(before, among) if before == line && better(among)) {
            return;
        }
        let senior = *wait == Wait::Senior;
        *wait = Wait::In(line, class);
        if dial {
            actions.extend(self.idle_session_in(path, line).map(Action::Wake));
        }
        let standing = if dial { Standing::Dialler(path, class) } else { Standing::Sender(path, class) };
        self.join(now, line, standing, (class, load), (senior, urgent));
    }

    fn join(
        &mut self,
        now: u64,
        line: BucketId,
        standing: Standing,
        (class, load): (Class, Load),
        (front, urgent): (bool, bool),
    ) {
        let sites = &self.sites;
        self.shaper.limits.tidy(line, |waiter| Standing::of(waiter).waits(sites, line));
        let waiter = Waiter { name: standing.name(), urgent };
        if let Some(at) = self.shaper.limits.join(now, line, (waiter, class), load, front) {
            self.held.line_at(line, at);
        }
    }

    /// Wakes whoever was held back until now.
    pub(super) fn wake_held(&mut self, now: u64, limit: usize, actions: &mut Vec<Action>) {
        let mut due = Vec::new();
        self.held.timers.advance(now, limit, |wake| due.push(wake));
        let mut freed = Vec::new();
        for wake in due {
            match wake {
                Wake::Lane(site, lane) => {
                    self.held.lanes.remove(&(site, lane));
                    let Some(state) = self.sites.get_mut(site as usize) else { continue };
                    if state.ready.is_aside(lane, None) {
                        state.ready.restore(lane);
                        self.staff(now, site, actions);
                    }
                }
                Wake::Line(line) => {
                    self.held.lines.remove(&line);
                    let sites = &self.sites;
                    let waits = |waiter| Standing::of(waiter).waits(sites, line);
                    if let Some(next) = self.shaper.limits.advance(now, line, waits, &mut freed) {
                        self.held.line_at(line, next);
                    }
                    freed.drain(..).for_each(|waiter| self.let_go(now, waiter, actions));
                }
            }
        }
    }

    /// Connections are over: whoever waits for their places has them.
    pub(super) fn hand_on(&mut self, now: u64, lines: &[BucketId], actions: &mut Vec<Action>) {
        for line in lines {
            loop {
                let sites = &self.sites;
                let waits = |waiter| Standing::of(waiter).waits(sites, *line);
                let Some(waiter) = self.shaper.limits.next_place(*line, waits) else { break };
                self.let_go(now, waiter, actions);
                // It may not want it any more: then the next has it.
                if let Standing::Dialler(path, _) = Standing::of(waiter) {
                    let state = self.path(path);
                    if state.dialling == Wait::Senior {
                        state.dialling = Wait::No;
                    }
                }
            }
        }
    }

    fn let_go(&mut self, now: u64, waiter: Waiter, actions: &mut Vec<Action>) {
        let site = match Standing::of(waiter) {
            Standing::Sender(path, _) => {
                self.path(path).sending = Wait::Senior;
                path.site
            }
            Standing::Dialler(path, _) => {
                self.path(path).dialling = Wait::Senior;
                path.site
            }
            Standing::Mail(site, lane) => {
                self.sites[site as usize].ready.restore(lane);
                site
            }
        };
        self.staff(now, site, actions);
    }
}

impl SiteState {
    /// Whether a message may be sent on the path in `place` now: by orders and warm-ups, then by the pace that was found,
    /// then by limits.
    pub(super) fn gate(&mut self, now: u64, place: usize, shaper: &mut Shaper, egress: &Egress, load: Load) -> Gate {
        gate(now, &mut self.paths[place], (&self.route, self.pool), (shaper, egress), load)
    }

    /// Whose turn it is to send, asked by the path in `place`, which may.
    pub(super) fn turn_of(&mut self, now: u64, place: usize, shaper: &mut Shaper, egress: &Egress, load: Load) -> Turn {
        // One path is the usual case.
        if self.paths.len() == 1 {
            return Turn::Own;
        }
        let (route, pool) = (Arc::clone(&self.route), self.pool);
        // Nobody waits for a path whose source all that is here does not wish for.
        let paths = self.paths.iter().map(|path| path.source);
        let idle: SmallVec<[SourceId; 4]> = paths.filter(|source| self.ready.available_to(*source) == 0).collect();
        self.turn(now, place, |path| {
            !idle.contains(&path.source) && gate(now, path, (&route, pool), (shaper, egress), load) == Gate::Go
        })
    }
}

fn gate(
    now: u64,
    path: &mut PathState,
    (route, pool): (&Route, PoolId),
    (shaper, egress): (&mut Shaper, &Egress),
    load: Load,
) -> Gate {
    let steered = shaper.may_use(now, || path_subject(route, egress, pool, path.source));
    let senior = path.sending == Wait::Senior;
    steered.and(path.may_send(now, |now, pace| shaper.may_send(now, pace, load, senior)))
}

/// A domain as it is, a literal as it is written.
pub(super) fn domain_of(host: &AddressHost) -> Cow<'_, str> {
    match host {
        AddressHost::Domain(domain) => Cow::Borrowed(domain.as_str()),
        AddressHost::Literal(_) => Cow::Owned(host.to_string()),
    }
}

/// A path, and no mail.
pub(super) fn path_subject<'a>(route: &'a Route, egress: &'a Egress, pool: PoolId, source: SourceId) -> Subject<'a> {
    Subject {
        provider: route.provider,
        site: route.site.as_str(),
        source: &egress.source(source).name,
        pool: egress.pool_name(pool),
        domain: "",
        tenant: "",
        class: Class::default(),
        campaign: "",
    }
}
