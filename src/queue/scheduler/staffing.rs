//! Who opens a session: a line that is long, or has waited for long, within limits and by turn.

use std::sync::Arc;

use smallvec::SmallVec;
use tokio::sync::Notify;

use super::{Action, PathId, Scheduler, SiteId, held};
use crate::queue::share::Turn;
use crate::queue::site::{Line, Wait};
use crate::routing::SourceId;
use crate::shaping::{BucketId, Gate, Load, NEVER};

/// How long mail waits for the busy sessions of its site before another one is opened for it, in milliseconds. Little
/// beside what a transaction with a distant receiver takes, many transactions with a near one.
const PATIENCE: u64 = 20;

/// Items for each session that make another one worth its while at once: dialling takes as long as a few transactions.
const LONG_LINE: usize = 4;

impl Scheduler {
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
        self.drop_finished(id);
        if self.sites[id as usize].ready.available() == 0 {
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
}

/// Paths of a site that stand in line: the source, where, and whether for a connection.
type Lines = SmallVec<[(SourceId, BucketId, bool); 1]>;

/// The earlier of two instants.
fn earlier(one: Option<u64>, other: u64) -> Option<u64> {
    Some(one.map_or(other, |one| one.min(other)))
}
