//! The scheduler against a world made of dice: whatever happens, every recipient comes to exactly one end.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use smallvec::SmallVec;
use tokio::sync::Notify;

use super::scheduler::{Action, Batch, Group, HostId, Limits, Newcomer, Scheduler, SiteId, Verdict};
use crate::clock::{Clock, Timestamp};
use crate::config::{DeliveryConfig, DnsConfig, RouteConfig};
use crate::mail::{AddressHost, Blame, Class, EnhancedCode, Failure, MessageId, Stream};
use crate::routing::{Route, Router};

const EXPIRY: u64 = 200_000;

/// Sessions, look-ups and messages, all under way in one thread.
struct World {
    scheduler: Scheduler,
    dice: SmallRng,
    now: u64,
    actions: Vec<Action>,
    resolving: Vec<(HostId, AddressHost)>,
    connecting: Vec<SiteId>,
    sessions: Vec<(SiteId, Arc<Notify>, Option<Batch>)>,
    routes: HashMap<AddressHost, Arc<Route>>,
    /// Recipients per message, and which have ended.
    messages: HashMap<MessageId, Vec<bool>>,
    ended: usize,
}

fn failure() -> Failure {
    Failure::ours(Blame::Site, EnhancedCode(4, 4, 1), "dice")
}

/// Four hosts on three sites.
async fn routes() -> HashMap<AddressHost, Arc<Route>> {
    let relay = |pattern: &str, port: u16| RouteConfig {
        pattern: pattern.into(),
        relay: vec![format!("127.0.0.1:{port}")],
        tls: None,
        username: None,
        password_file: None,
    };
    let fixed = [relay("a.example", 1), relay("b.example", 1), relay("c.example", 2), relay("d.example", 3)];
    let dns = DnsConfig { nameservers: vec!["127.0.0.1:9".parse().unwrap()], ..DnsConfig::default() };
    let router = Router::new(&dns, &DeliveryConfig::default(), &fixed).unwrap();
    let mut routes = HashMap::new();
    for route in fixed {
        let host = AddressHost::Domain(route.pattern.parse().unwrap());
        routes.insert(host.clone(), router.route(&host).await.unwrap());
    }
    routes
}

impl World {
    fn new(seed: u64, routes: HashMap<AddressHost, Arc<Route>>) -> World {
        let mut scheduler = Scheduler::default();
        scheduler.limits = Limits {
            connections_max: 4,
            connections_per_site: 3,
            recipients_per_transaction: 3,
            pause_min: 1_000,
            pause_max: 8_000,
        };
        World {
            scheduler,
            dice: SmallRng::seed_from_u64(seed),
            now: 0,
            actions: Vec::new(),
            resolving: Vec::new(),
            connecting: Vec::new(),
            sessions: Vec::new(),
            routes,
            messages: HashMap::new(),
            ended: 0,
        }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.dice.random_range(0..100) < percent
    }

    fn accept(&mut self, serial: u64) {
        let id = MessageId(serial);
        let recipients = self.dice.random_range(1..8usize);
        let mut hosts: Vec<AddressHost> = self.routes.keys().cloned().collect();
        hosts.sort();
        let mut groups: BTreeMap<AddressHost, SmallVec<[u32; 2]>> = BTreeMap::new();
        for recipient in 0..recipients as u32 {
            let host = hosts[self.dice.random_range(0..hosts.len())].clone();
            groups.entry(host).or_default().push(recipient);
        }
        let due = self.now + if self.chance(20) { self.dice.random_range(0..50_000) } else { 0 };
        let class = Class::ALL[self.dice.random_range(0..3usize)];
        let stream = Stream { class, ..Stream::default() };
        self.messages.insert(id, vec![false; recipients]);
        let groups = groups.into_iter().map(|(host, recipients)| Group { host, attempts: 0, recipients, due });
        let (stream, accepted_at, expires) = (&stream, Timestamp(0), self.now + EXPIRY);
        let newcomer = Newcomer { id, stream, accepted_at, recipients, expires };
        self.scheduler.add(self.now, newcomer, groups, &mut self.actions);
    }

    fn end(&mut self, id: MessageId, recipient: u32) {
        let open: usize = self.messages[&id].iter().filter(|ended| !**ended).count();
        let was_open = self.scheduler.is_open(id, recipient);
        let finished = self.scheduler.end(id, recipient, true);
        assert_eq!(finished.is_some(), was_open, "{id} {recipient}");
        if was_open {
            let ended = &mut self.messages.get_mut(&id).unwrap()[recipient as usize];
            assert!(!*ended, "{id} {recipient} ended twice");
            *ended = true;
            self.ended += 1;
            assert_eq!(finished, Some(open == 1), "{id} {recipient}");
        }
    }

    fn carry_out(&mut self) {
        let mut actions: VecDeque<Action> = std::mem::take(&mut self.actions).into();
        while let Some(action) = actions.pop_front() {
            match action {
                Action::Resolve(host, name) => self.resolving.push((host, name)),
                Action::Connect(site) => self.connecting.push(site),
                Action::Wake(session) => session.notify_one(),
                Action::Rearm => {}
                Action::Expire(id, recipients) => recipients.iter().for_each(|r| self.end(id, *r)),
                Action::Settle(items, Verdict::Later(_)) => {
                    for mut item in items {
                        self.scheduler.landed(std::slice::from_ref(&item));
                        item.recipients.retain(|r| self.scheduler.is_open(item.message, *r));
                        if item.recipients.is_empty() {
                            self.scheduler.drop_item(&item);
                        } else {
                            self.defer(item);
                        }
                    }
                }
                Action::Settle(items, Verdict::Never(_)) => {
                    for item in items {
                        self.scheduler.landed(std::slice::from_ref(&item));
                        item.recipients.iter().for_each(|r| self.end(item.message, *r));
                        self.scheduler.drop_item(&item);
                    }
                }
            }
            actions.extend(self.actions.drain(..));
        }
    }

    fn defer(&mut self, mut item: super::scheduler::Item) {
        // Everything accepted at time t expires at t + EXPIRY; a sleeper wakes no later, and is given up then.
        let expires = item.message.0 + EXPIRY;
        if self.now >= expires {
            item.recipients.iter().for_each(|r| self.end(item.message, *r));
            return self.scheduler.drop_item(&item);
        }
        item.attempts += 1;
        let due = (self.now + self.dice.random_range(500..60_000)).min(expires);
        self.scheduler.sleep(due, item, &mut self.actions);
    }

    fn step(&mut self) {
        match self.dice.random_range(0..6) {
            0 if !self.resolving.is_empty() => {
                let place = self.dice.random_range(0..self.resolving.len());
                let (host, name) = self.resolving.swap_remove(place);
                let found = match self.dice.random_range(0..20) {
                    0 => Err(Verdict::Later(failure())),
                    1 => Err(Verdict::Never(failure())),
                    _ => Ok(Arc::clone(&self.routes[&name])),
                };
                let until = self.now + 5_000;
                self.scheduler.routed(self.now, host, found, until, &mut self.actions);
            }
            1 if !self.connecting.is_empty() => {
                let site = self.connecting.remove(0);
                if self.chance(30) {
                    self.scheduler.unreachable(self.now, site, &failure(), &mut self.actions);
                    self.scheduler.session_ended(self.now, site, true, &mut self.actions);
                } else {
                    self.scheduler.connected(self.now, site, &mut self.actions);
                    self.sessions.push((site, Arc::default(), None));
                }
            }
            2 | 3 if !self.sessions.is_empty() => {
                let place = self.dice.random_range(0..self.sessions.len());
                self.turn(place);
            }
            _ => {
                self.now += self.dice.random_range(0..500);
                self.scheduler.tick(self.now, &mut self.actions);
            }
        }
        self.carry_out();
        assert!(self.scheduler.connections <= 4);
    }

    /// One session does its next thing.
    fn turn(&mut self, place: usize) {
        let (site, session, batch) = &mut self.sessions[place];
        let site = *site;
        let session = Arc::clone(session);
        if let Some(batch) = batch.take() {
            let broken = self.chance(10);
            for item in batch.items {
                self.scheduler.landed(std::slice::from_ref(&item));
                self.settle(site, item, broken);
            }
            if broken {
                self.sessions.remove(place);
                self.scheduler.session_ended(self.now, site, false, &mut self.actions);
            }
            return;
        }
        // As a session that idles out or was woken.
        if self.scheduler.leave_idle(site, &session) && self.chance(50) {
            self.sessions.remove(place);
            return self.scheduler.session_ended(self.now, site, false, &mut self.actions);
        }
        self.sessions[place].2 = self.scheduler.next_batch(site, &session);
    }

    fn settle(&mut self, site: SiteId, item: super::scheduler::Item, broken: bool) {
        let mut waits = super::scheduler::Item { recipients: SmallVec::new(), ..item.clone() };
        for recipient in &item.recipients {
            if !self.scheduler.is_open(item.message, *recipient) {
                continue;
            }
            match broken || self.chance(30) {
                true => waits.recipients.push(*recipient),
                false => self.end(item.message, *recipient),
            }
        }
        if waits.recipients.is_empty() {
            self.scheduler.drop_item(&item);
        } else if broken && item.spoilt < 2 && self.now < item.message.0 + EXPIRY {
            waits.spoilt += 1;
            self.scheduler.put_back(self.now, site, waits, &mut self.actions);
        } else {
            self.defer(waits);
        }
    }
}

#[tokio::test]
async fn every_recipient_comes_to_exactly_one_end() {
    let routes = routes().await;
    for seed in 0..100 {
        let mut world = World::new(seed, routes.clone());
        let mut serial = 0;
        for _ in 0..300 {
            // Ids carry the time of acceptance, for `defer`.
            world.now += 1;
            serial = world.now.max(serial + 1);
            world.now = serial;
            world.accept(serial);
            world.carry_out();
            (0..5).for_each(|_| world.step());
        }
        let last = world.now + EXPIRY + 1;
        while world.now < last || world.sessions.iter().any(|s| s.2.is_some()) {
            world.step();
        }
        let recipients: usize = world.messages.values().map(Vec::len).sum();
        assert_eq!(world.ended, recipients, "seed {seed}: a recipient is neither ended nor given up");
        assert_eq!(world.scheduler.open_recipients(), 0, "seed {seed}");
        assert_eq!(world.scheduler.counts.ready, [0; 3], "seed {seed}");
    }
}

#[tokio::test]
async fn mail_in_line_is_given_up_on_time() {
    let mut world = World::new(1, routes().await);
    world.accept(7);
    world.carry_out();
    // Nobody answers the look-up.
    let expires = EXPIRY;
    world.scheduler.tick(expires - 1, &mut world.actions);
    world.carry_out();
    assert_eq!(world.ended, 0);
    world.now = expires;
    world.scheduler.tick(expires, &mut world.actions);
    let open = world.scheduler.open_recipients();
    world.carry_out();
    assert_eq!((world.ended, world.scheduler.open_recipients()), (open, 0));
}

#[tokio::test]
async fn who_wakes_behind_his_expiry_is_given_up_at_once() {
    let mut world = World::new(1, routes().await);
    world.accept(7);
    world.carry_out();
    while let Some((host, _)) = world.resolving.pop() {
        let later = Err(Verdict::Later(failure()));
        world.scheduler.routed(world.now, host, later, world.now + 1, &mut world.actions);
    }
    // Deferred to just behind their expiry: two clocks were read one after the other.
    for action in std::mem::take(&mut world.actions) {
        let Action::Settle(items, _) = action else { continue };
        world.scheduler.landed(&items);
        items.into_iter().for_each(|item| world.scheduler.sleep(EXPIRY + 3, item, &mut world.actions));
    }
    for now in [EXPIRY, EXPIRY + 3] {
        world.now = now;
        world.scheduler.tick(now, &mut world.actions);
        world.carry_out();
    }
    assert_eq!((world.scheduler.open_recipients(), world.scheduler.counts.ready), (0, [0; 3]));
    assert!(world.resolving.is_empty());
}

#[test]
fn the_wall_clock_maps_onto_the_queues_clock() {
    // A time that has passed is now; another is as far ahead, and never early.
    let (now, wall) = (5_000, Clock.timestamp());
    let ahead = |ms: u64| super::at(now, wall, wall.after(Duration::from_millis(ms)));
    assert_eq!(super::at(now, wall, Timestamp(0)), now);
    assert_eq!(ahead(0), now);
    assert!((6_000..=6_001).contains(&ahead(1_000)));
}
