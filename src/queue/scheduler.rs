//! Who is due: the whole state of the queue, without I/O.
//!
//! Events come in (a message accepted, a timer, a route found, an outcome), [`Action`]s come out for [`super::Queue`] to
//! carry out. `now` is milliseconds on the queue's monotonic clock. One mutex guards it; no method does more than the
//! work of one message, but for draining a site that went dead.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use smallvec::SmallVec;
use tokio::sync::Notify;

use super::site::{Health, Line, SiteState};
use super::wheel::{TimerKey, Wheel};
use crate::clock::Timestamp;
use crate::mail::{AddressHost, Class, Failure, MessageId, Stream};
use crate::routing::{Route, Site};

/// Place of a stream in the table of streams.
pub(super) type StreamId = u32;
/// Place of a receiving host in the table of hosts.
pub(super) type HostId = u32;
/// Place of a site in the table of sites.
pub(super) type SiteId = u32;

/// Hosts remembered with their routes though no mail waits for them.
const HOSTS_KEPT: usize = 65_536;

/// Recipients of one message at one host that share their next attempt: what waits, is ready, or is in flight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub(super) message: MessageId,
    pub(super) host: HostId,
    /// Attempts so far.
    pub(super) attempts: u16,
    /// Times a connection broke under it before a verdict came.
    pub(super) spoilt: u8,
    /// Places in the envelope.
    pub(super) recipients: SmallVec<[u32; 2]>,
}

/// What a message needs in memory while any of its recipients is open.
#[derive(Debug)]
pub(super) struct MessageState {
    pub(super) stream: StreamId,
    pub(super) accepted_at: Timestamp,
    /// None once it has fired.
    expiry: Option<TimerKey>,
    /// Recipients whose time has come: resolving, ready or in flight.
    awake: u32,
    open: Open,
}

/// Recipients that have not come to their end.
#[derive(Debug, PartialEq)]
enum Open {
    /// The only one.
    Single,
    /// A bit each.
    Bits(Box<[u64]>),
}

/// Something for the queue to do outside the lock.
#[derive(Debug)]
pub(super) enum Action {
    /// Look up where mail for this host goes, then call [`Scheduler::routed`].
    Resolve(HostId, AddressHost),
    /// Start a session task for this site.
    Connect(SiteId),
    /// An idle session has work.
    Wake(Arc<Notify>),
    /// These will not be attempted now for this reason: settle them as deferred or failed.
    Settle(Vec<Item>, Verdict),
    /// The time of this message is up, for these recipients.
    Expire(MessageId, Vec<u32>),
    /// An earlier timer than all before was set.
    Rearm,
}

/// Why a whole host or site takes no mail now.
#[derive(Debug, Clone)]
pub(super) enum Verdict {
    /// Try again by the schedule.
    Later(Failure),
    /// Give up.
    Never(Failure),
}

#[derive(Debug)]
struct HostState {
    host: AddressHost,
    /// Items that name it.
    items: usize,
    route: HostRoute,
}

#[derive(Debug)]
enum HostRoute {
    Unknown,
    /// A look-up is under way; these wait for it.
    Resolving(Vec<Item>),
    Known(SiteId, u64),
    /// Remembered until then, so that a dead name costs one probe.
    Dead(Verdict, u64),
}

/// Numbers for metrics and `queue list`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counts {
    /// Recipients not at their end, by class.
    pub open: [i64; 3],
    /// Of those, recipients whose time has come: resolving, ready or in flight.
    pub ready: [i64; 3],
}

/// The queue's state.
#[derive(Debug, Default)]
pub(super) struct Scheduler {
    messages: HashMap<MessageId, MessageState>,
    sleepers: Wheel<Item>,
    expiries: Wheel<MessageId>,
    /// What sessions are delivering right now, and what is being settled without an attempt: its outcome is under way.
    in_flight: HashMap<MessageId, Vec<u32>>,
    streams: Vec<Stream>,
    stream_ids: HashMap<Stream, StreamId>,
    hosts: Vec<Option<HostState>>,
    hosts_free: Vec<HostId>,
    host_ids: HashMap<AddressHost, HostId>,
    sites: Vec<SiteState>,
    site_ids: HashMap<Site, SiteId>,
    /// Sites with ready mail and no session, because all were in use. Sessions of others make room for them.
    starving: VecDeque<SiteId>,
    /// Sites that would like one more. They get what is left over.
    hungry: VecDeque<SiteId>,
    /// Sessions that are closing to make room.
    yielding: usize,
    pub(super) connections: usize,
    pub(super) counts: Counts,
    pub(super) limits: Limits,
    stopped: bool,
}

/// Limits of the configuration in force.
#[derive(Debug, Clone, Default)]
pub(super) struct Limits {
    pub(super) connections_max: usize,
    pub(super) connections_per_site: usize,
    pub(super) recipients_per_transaction: usize,
    pub(super) pause_min: u64,
    pub(super) pause_max: u64,
}

/// A message that joins the queue.
#[derive(Debug)]
pub(super) struct Newcomer<'a> {
    pub(super) id: MessageId,
    pub(super) stream: &'a Stream,
    pub(super) accepted_at: Timestamp,
    /// All it has, open or not.
    pub(super) recipients: usize,
    /// On the queue's clock.
    pub(super) expires: u64,
}

/// Recipients of a message that share host, attempts so far, and when they are due.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) host: AddressHost,
    pub(super) attempts: u16,
    pub(super) recipients: SmallVec<[u32; 2]>,
    pub(super) due: u64,
}

/// What a session takes away to deliver: recipients of one message.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) message: MessageId,
    pub(super) items: Vec<Item>,
}

impl Scheduler {
    /// Stops giving out work; what is in flight may still be settled.
    pub(super) fn stop(&mut self) -> Vec<Arc<Notify>> {
        self.stopped = true;
        self.sites.iter_mut().flat_map(|site| site.idle.drain(..)).collect()
    }

    pub(super) fn stopped(&self) -> bool {
        self.stopped
    }

    /// Recipients not at their end.
    pub(super) fn open_recipients(&self) -> usize {
        self.counts.open.iter().sum::<i64>().max(0) as usize
    }

    /// Adds a message. `groups` are its open recipients, each in one of them.
    pub(super) fn add(
        &mut self,
        now: u64,
        newcomer: Newcomer<'_>,
        groups: impl IntoIterator<Item = Group>,
        actions: &mut Vec<Action>,
    ) {
        let Newcomer { id, stream, accepted_at, recipients, expires } = newcomer;
        let stream = self.stream_id(stream);
        let mut open = if recipients == 1 { Open::Single } else { Open::none(recipients) };
        let before = self.next_wake();
        let expiry = Some(self.expiries.insert(expires, id));
        let mut items: SmallVec<[(Item, u64); 1]> = SmallVec::new();
        for Group { host, attempts, recipients, due } in groups {
            recipients.iter().for_each(|r| open.set(*r));
            let host = self.host_id(host);
            items.push((Item { message: id, host, attempts, spoilt: 0, recipients }, due));
        }
        self.counts.open[self.class(stream) as usize] += open.len() as i64;
        self.messages.insert(id, MessageState { stream, accepted_at, expiry, awake: 0, open });
        for (item, due) in items {
            if due <= now {
                self.wake(now, item, actions);
            } else {
                self.sleepers.insert(due, item);
            }
        }
        if self.next_wake() < before || before.is_none() {
            actions.push(Action::Rearm);
        }
    }

    /// When [`tick`](Scheduler::tick) must be called next.
    pub(super) fn next_wake(&self) -> Option<u64> {
        match (self.sleepers.next_wake(), self.expiries.next_wake()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Wakes whoever is due, a bounded number at a time.
    pub(super) fn tick(&mut self, now: u64, actions: &mut Vec<Action>) {
        const LIMIT: usize = 4096;
        let mut expired = Vec::new();
        self.expiries.advance(now, LIMIT, |id| expired.push(id));
        for id in expired {
            let recipients = self.expired(id);
            if !recipients.is_empty() {
                actions.push(Action::Expire(id, recipients));
            }
        }
        // Behind the expiries, so that those who wake at theirs find that it has been.
        let mut due = Vec::new();
        self.sleepers.advance(now, LIMIT, |item| due.push(item));
        for item in due {
            self.wake(now, item, actions);
        }
    }

    /// The open recipients of an expired message that are neither in flight (their outcome decides) nor asleep (they wake
    /// about then, and [`wake`](Scheduler::wake) gives them up).
    fn expired(&mut self, id: MessageId) -> Vec<u32> {
        let Some(message) = self.messages.get_mut(&id) else { return Vec::new() };
        message.expiry = None;
        if message.awake == 0 {
            return Vec::new();
        }
        let mut recipients = message.open.list();
        if (message.awake as usize) < recipients.len() {
            let asleep: Vec<u32> = self.sleepers_of(id).into_iter().flat_map(|(_, item)| item.recipients).collect();
            recipients.retain(|r| !asleep.contains(r));
        }
        if let Some(flying) = self.in_flight.get(&id) {
            recipients.retain(|r| !flying.contains(r));
        }
        recipients
    }

    /// An item's time has come: on to its site, by way of a look-up if needed.
    fn wake(&mut self, now: u64, item: Item, actions: &mut Vec<Action>) {
        let Some(message) = self.messages.get_mut(&item.message) else { return self.drop_item(&item) };
        message.awake += item.recipients.len() as u32;
        let class = self.streams[message.stream as usize].class;
        self.counts.ready[class as usize] += item.recipients.len() as i64;
        if message.expiry.is_none() {
            actions.push(Action::Expire(item.message, item.recipients.to_vec()));
            return self.drop_item(&item);
        }
        self.forward(now, item, actions);
    }

    fn forward(&mut self, now: u64, item: Item, actions: &mut Vec<Action>) {
        let host = self.hosts[item.host as usize].as_mut().expect("an item keeps its host");
        match &mut host.route {
            HostRoute::Resolving(parked) => parked.push(item),
            HostRoute::Known(site, until) if now < *until => {
                let site = *site;
                self.enqueue(now, site, item, false, actions);
            }
            HostRoute::Dead(verdict, until) if now < *until => {
                let verdict = verdict.clone();
                self.turn_away(vec![item], verdict, actions);
            }
            HostRoute::Unknown | HostRoute::Known(..) | HostRoute::Dead(..) => {
                actions.push(Action::Resolve(item.host, host.host.clone()));
                host.route = HostRoute::Resolving(vec![item]);
            }
        }
    }

    /// The look-up for `host` ended: a site with its route, or why there is none, each good until the time given.
    pub(super) fn routed(
        &mut self,
        now: u64,
        host: HostId,
        found: Result<Arc<Route>, Verdict>,
        until: u64,
        actions: &mut Vec<Action>,
    ) {
        let route = match &found {
            Ok(route) => HostRoute::Known(self.site_id(route), until.max(now + 1)),
            Err(verdict) => HostRoute::Dead(verdict.clone(), until.max(now + 1)),
        };
        let Some(state) = self.hosts[host as usize].as_mut() else { return };
        let HostRoute::Resolving(parked) = std::mem::replace(&mut state.route, route) else { return };
        match found {
            Ok(_) => parked.into_iter().for_each(|item| self.forward(now, item, actions)),
            Err(verdict) => self.turn_away(parked, verdict, actions),
        }
    }

    /// Has items settled that will not be attempted now. Until then they count as in flight: only one of that settlement
    /// and the message's expiry may end a recipient.
    fn turn_away(&mut self, items: Vec<Item>, verdict: Verdict, actions: &mut Vec<Action>) {
        for item in &items {
            self.in_flight.entry(item.message).or_default().extend_from_slice(&item.recipients);
        }
        actions.push(Action::Settle(items, verdict));
    }

    /// Puts an item where the sessions of its site find it.
    fn enqueue(&mut self, now: u64, id: SiteId, item: Item, front: bool, actions: &mut Vec<Action>) {
        let Some(message) = self.messages.get(&item.message) else { return self.drop_item(&item) };
        let (stream, class) = (message.stream, self.streams[message.stream as usize].class);
        let site = &mut self.sites[id as usize];
        if let Some(failure) = site.health.closed(now) {
            let verdict = Verdict::Later(failure.clone());
            return self.turn_away(vec![item], verdict, actions);
        }
        match front {
            false => site.ready.push(class, stream, item),
            true => site.ready.push_front(class, stream, item),
        }
        self.staff(now, id, actions);
    }

    /// Sees to it that somebody works on the site's ready mail: an idle session, or a new one within the limits.
    pub(super) fn staff(&mut self, now: u64, id: SiteId, actions: &mut Vec<Action>) {
        let site = &mut self.sites[id as usize];
        if self.stopped || site.ready.is_empty() {
            return;
        }
        if let Some(session) = site.idle.pop() {
            return actions.push(Action::Wake(session));
        }
        let limit = site.health.sessions_max(now, self.limits.connections_per_site);
        if site.sessions >= limit || site.ready.len() <= site.connecting {
            return;
        }
        if self.connections >= self.limits.connections_max {
            let line = if site.sessions == 0 { Line::Starving } else { Line::Hungry };
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
        self.connections += 1;
        site.sessions += 1;
        site.connecting += 1;
        actions.push(Action::Connect(id));
    }

    /// An idle session of any site: it finds nothing to do and makes room.
    fn some_idle_session(&mut self) -> Option<Arc<Notify>> {
        self.sites.iter_mut().find_map(|site| site.idle.pop())
    }

    /// Whether a session that has had its share should close because a site has none. As many are told so as there are
    /// such sites: call [`yielded`](Scheduler::yielded) when it has closed.
    pub(super) fn must_yield(&mut self) -> bool {
        let must = self.starving.len() > self.yielding;
        self.yielding += usize::from(must);
        must
    }

    /// A session that was to make room is gone; call before [`session_ended`](Scheduler::session_ended).
    pub(super) fn yielded(&mut self) {
        self.yielding = self.yielding.saturating_sub(1);
    }

    /// Whether an idle connection is of more use elsewhere.
    pub(super) fn is_crowded(&self) -> bool {
        !self.starving.is_empty() || !self.hungry.is_empty()
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

    /// The connection of a session stands. Another one may follow: so the number of sessions grows as they succeed.
    pub(super) fn connected(&mut self, now: u64, id: SiteId, actions: &mut Vec<Action>) {
        let site = &mut self.sites[id as usize];
        site.connecting = site.connecting.saturating_sub(1);
        // Not proved yet: if it breaks before it delivers, the next pause is longer.
        if let Health::Shut { failures, .. } = site.health {
            site.health = Health::Open { failures };
        }
        if site.ready.len() > 1 {
            self.staff(now, id, actions);
        }
    }

    /// A session of the site delivered something: whatever was wrong is over.
    pub(super) fn proved(&mut self, id: SiteId) {
        if let Health::Open { failures } = &mut self.sites[id as usize].health {
            *failures = 0;
        }
    }

    /// No host of the site could be reached. While other sessions of it live, only this session is given up: the receiver
    /// wants no more of them. Otherwise the site closes for a pause and everything ready there waits by its schedule.
    pub(super) fn unreachable(&mut self, now: u64, id: SiteId, failure: &Failure, actions: &mut Vec<Action>) {
        let (min, max) = (self.limits.pause_min, self.limits.pause_max);
        let site = &mut self.sites[id as usize];
        let others = site.sessions.saturating_sub(1 + site.connecting);
        if others > 0 {
            site.health = site.health.clone().crowded(now, others, min);
        } else {
            site.health = site.health.clone().failed(now, failure.clone(), min, max);
            if site.health.closed(now).is_some() {
                let items = site.ready.drain();
                self.turn_away(items, Verdict::Later(failure.clone()), actions);
            }
        }
    }

    /// A session task is over; `connecting`: it never got so far as [`connected`](Scheduler::connected).
    pub(super) fn session_ended(&mut self, now: u64, id: SiteId, connecting: bool, actions: &mut Vec<Action>) {
        let site = &mut self.sites[id as usize];
        self.connections -= 1;
        site.sessions -= 1;
        site.connecting -= usize::from(connecting);
        // Sites that wait for room go first, in order of coming.
        while self.connections < self.limits.connections_max {
            let Some(next) = self.next_in_line() else { break };
            self.staff(now, next, actions);
        }
        self.staff(now, id, actions);
    }

    /// Work for a session of this site; or `None`, and then `idle` is notified when there is (never, once stopped).
    pub(super) fn next_batch(&mut self, id: SiteId, idle: &Arc<Notify>) -> Option<Batch> {
        loop {
            if self.stopped {
                return None;
            }
            let limit = self.limits.recipients_per_transaction;
            let site = &mut self.sites[id as usize];
            let limit = site.recipients_max.map_or(limit, |learned| learned.min(limit));
            let same = |picked: &[Item], next: &Item| {
                let total: usize = picked.iter().map(|item| item.recipients.len()).sum();
                picked[0].message == next.message && total + next.recipients.len() <= limit
            };
            let mut items = site.ready.pop(same);
            if items.is_empty() {
                site.idle.push(Arc::clone(idle));
                return None;
            }
            let message = items[0].message;
            self.drop_ended(&mut items);
            let (Some(state), false) = (self.messages.get(&message), items.is_empty()) else { continue };
            let stream = state.stream;
            if let Some(rest) = split(&mut items[0], limit) {
                let class = self.streams[stream as usize].class;
                self.share_host(&rest);
                self.sites[id as usize].ready.push_front(class, stream, rest);
            }
            let flying = items.iter().flat_map(|item| item.recipients.iter().copied());
            self.in_flight.entry(message).or_default().extend(flying);
            return Some(Batch { message, items });
        }
    }

    /// Takes out recipients that came to their end while they waited here.
    fn drop_ended(&mut self, items: &mut Vec<Item>) {
        items.retain_mut(|item| {
            let message = self.messages.get(&item.message);
            item.recipients.retain(|r| message.is_some_and(|message| message.open.has(*r)));
            if item.recipients.is_empty() {
                self.drop_item(item);
            }
            !item.recipients.is_empty()
        });
    }

    /// These are no longer in flight; call before their outcomes are settled.
    pub(super) fn landed(&mut self, items: &[Item]) {
        let Some(first) = items.first() else { return };
        let Some(flying) = self.in_flight.get_mut(&first.message) else { return };
        flying.retain(|r| !items.iter().any(|item| item.recipients.contains(r)));
        if flying.is_empty() {
            self.in_flight.remove(&first.message);
        }
    }

    /// A session stops waiting. False: work was handed to it in the meantime.
    pub(super) fn leave_idle(&mut self, id: SiteId, session: &Arc<Notify>) -> bool {
        let idle = &mut self.sites[id as usize].idle;
        let place = idle.iter().position(|other| Arc::ptr_eq(other, session));
        place.map(|place| idle.swap_remove(place)).is_some()
    }

    /// The receiver takes fewer recipients in a transaction than we gave it.
    pub(super) fn learn_recipients_max(&mut self, id: SiteId, taken: usize) {
        self.sites[id as usize].recipients_max = Some(taken.max(1));
    }

    /// Back to the front of its site's queue: the connection broke before a verdict.
    pub(super) fn put_back(&mut self, now: u64, id: SiteId, item: Item, actions: &mut Vec<Action>) {
        self.enqueue(now, id, item, true, actions);
    }

    /// The item waits until `due`. Recipients that came to their end meanwhile are left out.
    pub(super) fn sleep(&mut self, due: u64, mut item: Item, actions: &mut Vec<Action>) {
        let Some(message) = self.messages.get_mut(&item.message) else { return self.drop_item(&item) };
        item.recipients.retain(|r| message.open.has(*r));
        if item.recipients.is_empty() {
            return self.drop_item(&item);
        }
        message.awake = message.awake.saturating_sub(item.recipients.len() as u32);
        let class = self.streams[message.stream as usize].class;
        self.counts.ready[class as usize] -= item.recipients.len() as i64;
        let before = self.next_wake();
        self.sleepers.insert(due, item);
        if before.is_none_or(|before| due < before) {
            actions.push(Action::Rearm);
        }
    }

    /// Another item names the same host as this one.
    pub(super) fn share_host(&mut self, item: &Item) {
        self.host_mut(item.host).items += 1;
    }

    /// Takes an item out for good; its recipients are accounted for by [`end`](Scheduler::end).
    pub(super) fn drop_item(&mut self, item: &Item) {
        let id = item.host;
        let host = self.hosts[id as usize].as_mut().expect("an item keeps its host");
        host.items -= 1;
        if host.items == 0 && self.host_ids.len() > HOSTS_KEPT && !matches!(host.route, HostRoute::Resolving(_)) {
            let host = self.hosts[id as usize].take().expect("just seen");
            self.host_ids.remove(&host.host);
            self.hosts_free.push(id);
        }
    }

    /// Which of these recipients are still open.
    pub(super) fn is_open(&self, id: MessageId, recipient: u32) -> bool {
        self.messages.get(&id).is_some_and(|message| message.open.has(recipient))
    }

    /// The open recipients of a message; empty when it is finished.
    pub(super) fn open_of(&self, id: MessageId) -> Vec<u32> {
        self.messages.get(&id).map_or_else(Vec::new, |message| message.open.list())
    }

    /// A recipient comes to its end while it is `ready` (or not). `None`: it had come to it before, and whoever brought
    /// it there tells of it. Otherwise whether it was the message's last.
    pub(super) fn end(&mut self, id: MessageId, recipient: u32, ready: bool) -> Option<bool> {
        let message = self.messages.get_mut(&id)?;
        if !message.open.clear(recipient) {
            return None;
        }
        let class = self.streams[message.stream as usize].class as usize;
        let finished = message.open.is_empty();
        message.awake -= u32::from(ready && message.awake > 0);
        self.counts.open[class] -= 1;
        self.counts.ready[class] -= i64::from(ready);
        if finished {
            let message = self.messages.remove(&id).expect("just seen");
            message.expiry.map(|key| self.expiries.cancel(key));
        }
        Some(finished)
    }

    /// Wakes the sleepers that `select` picks, now. Returns how many recipients that were.
    pub(super) fn hurry(
        &mut self,
        now: u64,
        select: impl Fn(MessageId, &AddressHost) -> bool,
        actions: &mut Vec<Action>,
    ) -> usize {
        let hosts = &self.hosts;
        let picked = self
            .sleepers
            .extract(|item| hosts[item.host as usize].as_ref().is_some_and(|host| select(item.message, &host.host)));
        let recipients = picked.iter().map(|item| item.recipients.len()).sum();
        for item in picked {
            // The operator knows better than what we remember of it.
            self.host_mut(item.host).forget_dead();
            self.wake(now, item, actions);
        }
        recipients
    }

    /// Every host is looked up again before its next mail goes out: the configuration changed, or an operator wants it.
    pub(super) fn forget_routes(&mut self) {
        for host in self.hosts.iter_mut().flatten() {
            if !matches!(host.route, HostRoute::Resolving(_)) {
                host.route = HostRoute::Unknown;
            }
        }
    }

    /// Opens every site that was closed, for an operator's retry.
    pub(super) fn reopen_sites(&mut self) {
        self.sites.iter_mut().for_each(|site| site.health = Health::Open { failures: 0 });
    }

    pub(super) fn site(&self, id: SiteId) -> &SiteState {
        &self.sites[id as usize]
    }

    pub(super) fn sites(&self) -> &[SiteState] {
        &self.sites
    }

    /// Messages with open recipients: id, stream, acceptance, number of open recipients; in no order.
    pub(super) fn messages(&self) -> impl Iterator<Item = (MessageId, &Stream, Timestamp, usize)> {
        self.messages.iter().map(|(id, m)| (*id, &self.streams[m.stream as usize], m.accepted_at, m.open.len()))
    }

    /// When the sleepers of a message are due, with their recipients.
    pub(super) fn sleepers_of(&self, id: MessageId) -> Vec<(u64, Item)> {
        self.sleepers.iter().filter(|(_, item)| item.message == id).map(|(due, item)| (due, item.clone())).collect()
    }

    fn class(&self, stream: StreamId) -> Class {
        self.streams[stream as usize].class
    }

    fn stream_id(&mut self, stream: &Stream) -> StreamId {
        if let Some(id) = self.stream_ids.get(stream) {
            return *id;
        }
        self.streams.push(stream.clone());
        let id = (self.streams.len() - 1) as StreamId;
        self.stream_ids.insert(stream.clone(), id);
        id
    }

    fn host_id(&mut self, host: AddressHost) -> HostId {
        let id = match self.host_ids.get(&host) {
            Some(id) => *id,
            None => {
                let state = HostState { host: host.clone(), items: 0, route: HostRoute::Unknown };
                let id = self.hosts_free.pop().unwrap_or_else(|| {
                    self.hosts.push(None);
                    (self.hosts.len() - 1) as HostId
                });
                self.hosts[id as usize] = Some(state);
                self.host_ids.insert(host, id);
                id
            }
        };
        self.host_mut(id).items += 1;
        id
    }

    fn host_mut(&mut self, id: HostId) -> &mut HostState {
        self.hosts[id as usize].as_mut().expect("an item keeps its host")
    }

    fn site_id(&mut self, route: &Arc<Route>) -> SiteId {
        if let Some(id) = self.site_ids.get(&route.site) {
            self.sites[*id as usize].route = Arc::clone(route);
            return *id;
        }
        let id = self.sites.len() as SiteId;
        self.sites.push(SiteState::new(Arc::clone(route)));
        self.site_ids.insert(route.site.clone(), id);
        id
    }
}

impl HostState {
    fn forget_dead(&mut self) {
        if matches!(self.route, HostRoute::Dead(..)) {
            self.route = HostRoute::Unknown;
        }
    }
}

/// Cuts an item to `limit` recipients; the rest is returned as an item of its own.
fn split(item: &mut Item, limit: usize) -> Option<Item> {
    if item.recipients.len() <= limit {
        return None;
    }
    let rest = item.recipients.drain(limit..).collect();
    Some(Item { recipients: rest, ..item.clone() })
}

impl Open {
    fn none(recipients: usize) -> Open {
        Open::Bits(vec![0; recipients.div_ceil(64)].into())
    }

    fn set(&mut self, recipient: u32) {
        if let Open::Bits(bits) = self {
            bits[recipient as usize / 64] |= 1 << (recipient % 64);
        }
    }

    fn has(&self, recipient: u32) -> bool {
        match self {
            Open::Single => recipient == 0,
            Open::Bits(bits) => bits.get(recipient as usize / 64).is_some_and(|b| b >> (recipient % 64) & 1 == 1),
        }
    }

    /// False: it was not open. A single one is empty when its message is removed, so it may be cleared once only.
    fn clear(&mut self, recipient: u32) -> bool {
        if !self.has(recipient) {
            return false;
        }
        match self {
            Open::Single => *self = Open::Bits(Box::default()),
            Open::Bits(bits) => bits[recipient as usize / 64] &= !(1 << (recipient % 64)),
        }
        true
    }

    fn len(&self) -> usize {
        match self {
            Open::Single => 1,
            Open::Bits(bits) => bits.iter().map(|b| b.count_ones() as usize).sum(),
        }
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn list(&self) -> Vec<u32> {
        match self {
            Open::Single => vec![0],
            Open::Bits(bits) => (0..bits.len() as u32 * 64).filter(|r| self.has(*r)).collect(),
        }
    }
}
