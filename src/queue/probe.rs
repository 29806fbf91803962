//! Ways in for fuzz targets and benchmarks; see [`crate::probe`].

mod crowd;
mod routes;
mod settings;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use tokio::sync::Notify;

pub use super::keep::kept;
pub use crowd::Crowd;
use routes::ROUTES;
#[cfg(test)]
pub(super) use routes::{a_route, literals, relays};

use super::scheduler::{
    Action, Batch, Counts, Group, HostId, Item, Limits, Newcomer, PathId, Recipients, Scheduler, TakenBack, Verdict,
    Wish,
};
use crate::clock::Timestamp;
use crate::mail::{AddressHost, Blame, Class, EnhancedCode, Failure, MessageId, Stream};
use crate::routing::{Egress, Route};

const EXPIRY: u64 = 100_000;
/// What may happen to a queue, an octet or two at a time; behind the last one everybody is out of luck until all mail has
/// expired. Every recipient comes to exactly one end, nobody is forgotten, limits hold, and counts come back to zero.
pub fn schedule(octets: &[u8]) {
    let routes = ROUTES.with(Clone::clone);
    let mut world = World::new(octets, routes, 3);
    world.limited = octets.len() % 2 == 1;
    world.reloads = octets.len() % 3 == 2;
    world.limit();
    while !world.luck.is_empty() {
        world.step();
    }
    let last = world.now + EXPIRY + 1;
    let mut steps = 0;
    while world.now < last || world.is_busy() {
        steps += 1;
        assert!(steps < 100_000, "it does not come to rest: {:?}", world.busy());
        world.step();
        world.pass(5_000);
    }
    assert_eq!(world.ended, world.recipients, "a recipient is neither ended nor given up");
    assert_eq!(world.scheduler.open_recipients(), 0);
    assert_eq!(world.scheduler.counts, Counts::default());
    assert_eq!(world.scheduler.messages().count(), 0);
    assert_eq!(world.scheduler.census().wishes, 0);
}

/// For benchmarks: `messages` of one recipient each are added, picked by sessions and ended. Returns how many ended.
pub fn pass_through(messages: usize) -> usize {
    let mut world = World::new(&[], ROUTES.with(Clone::clone), 100);
    for serial in 0..messages {
        world.accept(serial, 1, 0);
        world.carry_out();
        while let Some((host, name)) = world.resolving.pop() {
            let route = Arc::clone(&world.routes[&name]);
            world.scheduler.routed(world.now, host, Ok(route), u64::MAX, &mut world.actions);
            world.carry_out();
        }
        while let Some(path) = world.connecting.pop() {
            world.scheduler.connected(world.now, path, &mut world.actions);
            world.sessions.push(Session { path, idle: Arc::default(), batch: None });
        }
        for place in 0..world.sessions.len() {
            let Session { path, idle, .. } = &world.sessions[place];
            while let Some(batch) = world.scheduler.next_batch(world.now, *path, idle, &mut world.actions) {
                world.scheduler.landed(&batch.items);
                for item in batch.items {
                    let claimed = world.scheduler.end(item.message, item.recipients[0]);
                    world.ended += usize::from(world.scheduler.recorded(item.message, claimed.into()));
                    world.scheduler.drop_item(&item);
                }
            }
        }
    }
    world.ended
}

/// Everything around the scheduler: look-ups, sessions, and the time.
struct World<'a> {
    scheduler: Scheduler,
    luck: &'a [u8],
    now: u64,
    actions: Vec<Action>,
    routes: HashMap<AddressHost, Arc<Route>>,
    hosts: Vec<AddressHost>,
    resolving: Vec<(HostId, AddressHost)>,
    connecting: Vec<PathId>,
    sessions: Vec<Session>,
    /// Which recipients of each message have ended, and when it expires.
    messages: HashMap<MessageId, (Vec<bool>, u64)>,
    /// Taken back, their ends still to be written.
    cancelling: Vec<TakenBack>,
    cancelled: HashSet<MessageId>,
    recipients: usize,
    ended: usize,
    steps: usize,
    /// Limits are in force.
    limited: bool,
    /// Sources come and go.
    reloads: bool,
    egress: Arc<Egress>,
    /// How often the configuration was another.
    reloaded: usize,
}

struct Session {
    path: PathId,
    idle: Arc<Notify>,
    batch: Option<Batch>,
}

fn failure() -> Failure {
    Failure::ours(Blame::Site, EnhancedCode(4, 4, 1), "out of luck")
}

impl<'a> World<'a> {
    fn new(luck: &'a [u8], routes: HashMap<AddressHost, Arc<Route>>, per_transaction: usize) -> World<'a> {
        let limits = Limits {
            connections_max: 4,
            connections_per_site: 3,
            recipients_per_transaction: per_transaction,
            pause_min: 1_000,
            pause_max: 8_000,
            bounds: HashMap::new(),
        };
        let mut scheduler = Scheduler::default();
        scheduler.limits = limits;
        let mut hosts: Vec<AddressHost> = routes.keys().cloned().collect();
        hosts.sort();
        World {
            scheduler,
            luck,
            now: 1,
            actions: Vec::new(),
            routes,
            hosts,
            resolving: Vec::new(),
            connecting: Vec::new(),
            sessions: Vec::new(),
            messages: HashMap::new(),
            cancelling: Vec::new(),
            cancelled: HashSet::new(),
            recipients: 0,
            ended: 0,
            steps: 0,
            limited: false,
            reloads: false,
            egress: Arc::default(),
            reloaded: 0,
        }
    }

    /// The next octet; 0 behind the last.
    fn draw(&mut self) -> usize {
        let Some((first, rest)) = self.luck.split_first() else { return 0 };
        self.luck = rest;
        usize::from(*first)
    }

    /// What is under way: look-ups, connections, sessions, ends to be written.
    fn busy(&self) -> [usize; 4] {
        [self.resolving.len(), self.connecting.len(), self.sessions.len(), self.cancelling.len()]
    }

    fn is_busy(&self) -> bool {
        self.busy() != [0; 4]
    }

    fn pass(&mut self, ms: u64) {
        self.now += ms;
        self.scheduler.tick(self.now, &mut self.actions);
        self.carry_out();
    }

    fn accept(&mut self, seed: usize, recipients: usize, delay: u64) {
        let id = MessageId(self.messages.len() as u64 + 1);
        let mut groups: BTreeMap<AddressHost, Recipients> = BTreeMap::new();
        for recipient in 0..recipients {
            let host = &self.hosts[(seed + recipient * (seed >> 2)) % self.hosts.len()];
            groups.entry(host.clone()).or_default().push(recipient as u32);
        }
        let due = self.now + delay;
        let groups = groups.iter().map(|(host, recipients)| Group {
            host,
            attempts: 0,
            late: false,
            recipients: recipients.clone(),
            due,
            refused: false,
        });
        let stream = Stream { class: Class::ALL[seed % 3], ..Stream::default() };
        let (stream, accepted_at, expires) = (&stream, Timestamp(0), self.now + EXPIRY);
        self.messages.insert(id, (vec![false; recipients], expires));
        self.recipients += recipients;
        let newcomer = Newcomer { id, stream, accepted_at, recipients, size: 0, expires, apart: false };
        self.scheduler.add(self.now, newcomer, groups, &mut self.actions);
    }

    fn end(&mut self, id: MessageId, recipient: u32) {
        let was_open = self.scheduler.is_open(id, recipient);
        let claimed = self.scheduler.end(id, recipient);
        assert_eq!(claimed, was_open, "{id} {recipient}");
        let finished = self.scheduler.recorded(id, claimed.into());
        if was_open {
            let ends = &mut self.messages.get_mut(&id).expect("accepted").0;
            assert!(!std::mem::replace(&mut ends[recipient as usize], true), "{id} {recipient} ended twice");
            assert_eq!(finished, ends.iter().all(|ended| *ended), "{id} {recipient}");
            self.ended += 1;
        }
    }

    fn end_all(&mut self, item: &Item) {
        item.recipients.iter().for_each(|recipient| self.end(item.message, *recipient));
        self.scheduler.drop_item(item);
    }

    fn carry_out(&mut self) {
        let mut actions: VecDeque<Action> = std::mem::take(&mut self.actions).into();
        while let Some(action) = actions.pop_front() {
            match action {
                Action::Resolve(host, name) => self.resolving.push((host, name)),
                Action::Connect(path) => {
                    self.must_be_there(path);
                    self.connecting.push(path);
                }
                Action::Wake(session) => session.notify_one(),
                Action::Paced(..) => {}
                Action::Expire(id, recipients) | Action::Cancel(id, recipients) => {
                    recipients.iter().for_each(|r| self.end(id, *r))
                }
                // Nobody gives any.
                Action::OrderEnded(_) | Action::Braked(_) => {}
                Action::Settle(items, verdict) => items.into_iter().for_each(|item| {
                    self.scheduler.landed(std::slice::from_ref(&item));
                    match verdict {
                        Verdict::Later(_) => self.defer(item),
                        Verdict::Never(_) | Verdict::Refused => self.end_all(&item),
                    }
                }),
            }
            actions.extend(self.actions.drain(..));
        }
        assert!(self.scheduler.connections <= if self.limited { 2 } else { 4 });
        assert_eq!(self.scheduler.connections, self.connecting.len() + self.sessions.len());
    }

    /// The item's open recipients sleep until the next attempt, or end if there is no time for one.
    fn defer(&mut self, mut item: Item) {
        item.recipients.retain(|r| self.scheduler.is_open(item.message, r));
        let expires = self.messages[&item.message].1;
        if item.recipients.is_empty() || self.now >= expires {
            return self.end_all(&item);
        }
        item.attempts += 1;
        let due = (self.now + 500 + 200 * self.draw() as u64).min(expires);
        self.scheduler.sleep(due, item, &mut self.actions);
    }

    fn step(&mut self) {
        // Out of luck, look-ups, connections and sessions have their turns in order, so that none starves another.
        let chosen = if self.luck.is_empty() { self.steps & 3 } else { self.draw() };
        self.steps += 1;
        // Which of those under way.
        let which = chosen >> 3;
        match chosen & 7 {
            0 | 1 if !self.resolving.is_empty() => self.resolve(which),
            0 | 2 if !self.connecting.is_empty() => self.connect(which),
            0 | 3 if !self.sessions.is_empty() => self.turn(which % self.sessions.len()),
            0 | 5 if !self.cancelling.is_empty() => self.end_cancelled(),
            4 | 5 if !self.luck.is_empty() => {
                let seed = self.draw();
                let delay = if seed & 0x80 == 0 { 0 } else { 150 * self.draw() as u64 };
                self.accept(seed, which % 7 + 1, delay);
            }
            6 if which & 3 == 3 => self.cancel(which >> 2),
            6 if which & 7 == 5 => self.limit(),
            6 if which & 15 == 9 && self.reloads => self.change_sources(which >> 4 == 1),
            6 => self.hurry(which),
            7 => self.pass(50 << (which % 12)),
            _ => self.pass(100),
        }
        self.carry_out();
    }

    fn resolve(&mut self, which: usize) {
        let (host, name) = self.resolving.swap_remove(which % self.resolving.len());
        let found = match self.draw() % 16 {
            1 => Err(Verdict::Later(failure())),
            2 => Err(Verdict::Never(failure())),
            _ => Ok(Arc::clone(&self.routes[&name])),
        };
        let until = self.now + 100 * self.draw() as u64;
        self.scheduler.routed(self.now, host, found, until, &mut self.actions);
    }

    fn connect(&mut self, which: usize) {
        let path = self.connecting.swap_remove(which % self.connecting.len());
        if self.draw() & 3 == 0 {
            self.scheduler.unreachable(self.now, path, false, &failure(), &mut self.actions);
            self.scheduler.session_ended(self.now, path, true, &mut self.actions);
        } else {
            self.scheduler.connected(self.now, path, &mut self.actions);
            self.sessions.push(Session { path, idle: Arc::default(), batch: None });
        }
    }

    /// One session does its next thing.
    fn turn(&mut self, place: usize) {
        let Session { path, idle, batch } = &mut self.sessions[place];
        let (path, idle) = (*path, Arc::clone(idle));
        if let Some(batch) = batch.take() {
            return self.settle(place, path, batch);
        }
        // As a session that idled out or was woken.
        if self.scheduler.leave_idle(path, &idle) && self.draw() & 1 == 0 {
            self.sessions.remove(place);
            return self.scheduler.session_ended(self.now, path, false, &mut self.actions);
        }
        self.sessions[place].batch = self.scheduler.next_batch(self.now, path, &idle, &mut self.actions);
        if let Some(batch) = &self.sessions[place].batch {
            let recipients: usize = batch.items.iter().map(|item| item.recipients.len()).sum();
            assert_eq!(batch.taken.is_some(), self.limited);
            assert!((1..=self.scheduler.limits.recipients_per_transaction).contains(&recipients));
            assert!(batch.items.iter().all(|item| item.message == batch.message));
            assert!(!self.cancelled.contains(&batch.message), "a message that was taken back goes out");
        }
    }

    fn settle(&mut self, place: usize, path: PathId, batch: Batch) {
        let luck = self.draw();
        let broken = luck & 7 == 1;
        if luck & 7 == 2 {
            self.scheduler.learn_recipients_max(path.site, luck >> 6);
        }
        self.scheduler.landed(&batch.items);
        for item in batch.items {
            let (mut waits, mut ends) = (item.clone(), item.clone());
            waits.recipients.retain(|r| broken || luck >> (r % 5 + 3) & 1 == 1);
            ends.recipients.retain(|r| !waits.recipients.contains(&r));
            ends.recipients.iter().for_each(|recipient| self.end(item.message, *recipient));
            waits.recipients.retain(|r| self.scheduler.is_open(item.message, r));
            if waits.recipients.is_empty() {
                self.scheduler.drop_item(&item);
            } else if broken && item.spoilt < 2 && self.now < self.messages[&item.message].1 {
                waits.spoilt += 1;
                self.scheduler.put_back(self.now, path.site, waits, &mut self.actions);
            } else {
                // As who was greylisted, was sent elsewhere, or was told nothing of the kind.
                let wish = match luck >> 6 {
                    1 => Some(Wish::Keep(path.source)),
                    2 => Some(Wish::Leave(path.source)),
                    _ => None,
                };
                self.scheduler.wish(&waits, wish);
                self.defer(waits);
            }
        }
        if broken {
            self.sessions.remove(place);
            self.scheduler.session_ended(self.now, path, false, &mut self.actions);
        } else {
            self.scheduler.proved(path);
        }
    }

    /// The sender takes back one message, or every third.
    fn cancel(&mut self, which: usize) {
        let all = self.messages.len() as u64;
        let picked =
            |id: &u64| if which & 1 == 0 { *id == which as u64 % all.max(1) + 1 } else { id.is_multiple_of(3) };
        let ids: Vec<MessageId> = (1..=all).filter(picked).map(MessageId).collect();
        let taken = self.scheduler.cancel(&ids);
        self.cancelled.extend(taken.iter().map(|taken| taken.id));
        self.cancelling.extend(taken);
    }

    /// The ends of a message that was taken back are written.
    fn end_cancelled(&mut self) {
        if let Some(TakenBack { id, recipients, .. }) = self.cancelling.pop() {
            recipients.iter().for_each(|recipient| self.end(id, *recipient));
        }
    }

    /// An operator asks for an attempt at once.
    fn hurry(&mut self, which: usize) {
        if which & 1 == 1 {
            self.scheduler.reopen_sites();
        }
        let host = self.hosts[which % self.hosts.len()].clone();
        self.scheduler.hurry(self.now, |_, name| *name == host, &mut self.actions);
    }
}
