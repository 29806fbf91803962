//! Limits and fairness, on simulated time: the scheduler between senders and receivers that take a while.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::Notify;

use crate::clock::Timestamp;
use crate::config::LimitConfig;
use crate::mail::{AddressHost, Class, MessageId, Stream};
use crate::queue::probe;
use crate::queue::scheduler::{Action, Batch, Group, Limits, Newcomer, PathId, Scheduler};
use crate::routing::Route;
use crate::shaping::Rows;

const SECOND: u64 = 1_000;

/// Nobody's time is up here.
const NEVER: u64 = 1 << 40;

/// One transaction: when it began, at which site, for whom.
#[derive(Debug, Clone, Copy)]
struct Sent {
    at: u64,
    message: MessageId,
    site: u32,
    recipients: usize,
}

struct World {
    scheduler: Scheduler,
    now: u64,
    actions: Vec<Action>,
    routes: HashMap<AddressHost, Arc<Route>>,
    hosts: Vec<AddressHost>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    serial: u64,
    sessions: Vec<Session>,
    by_notify: HashMap<usize, usize>,
    sent: Vec<Sent>,
    messages: u64,
    /// How long it takes to connect, and to deliver.
    takes: (u64, u64),
    connections_most: usize,
    /// Times a session asked for work.
    asked: usize,
}

struct Session {
    path: PathId,
    wake: Arc<Notify>,
    batch: Option<Batch>,
    idle: bool,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Connected(u32, u16),
    Delivered(usize),
    IdledOut(usize, u64),
}

/// Rows as they are written in the file.
fn rows(text: &str) -> Rows {
    #[derive(serde::Deserialize)]
    struct File {
        limit: Vec<LimitConfig>,
    }
    Rows::new(&toml::from_str::<File>(text).expect("rows").limit)
}

fn stream(tenant: &str, class: Class) -> Stream {
    Stream { tenant: tenant.into(), class, campaign: "".into() }
}

impl World {
    fn new(sites: u16, limits: &str) -> World {
        let mut scheduler = Scheduler::default();
        scheduler.limits = Limits {
            connections_max: 1_000,
            connections_per_site: 20,
            recipients_per_transaction: 100,
            pause_min: 1_000,
            pause_max: 8_000,
            bounds: HashMap::new(),
        };
        scheduler.set_rows(0, rows(limits), &mut Vec::new());
        let hosts: Vec<AddressHost> =
            (1..=sites).map(|n| AddressHost::Domain(format!("h{n}.example").parse().expect("a domain"))).collect();
        World {
            scheduler,
            now: 0,
            actions: Vec::new(),
            routes: hosts.iter().cloned().zip(probe::relays(sites)).collect(),
            hosts,
            events: BinaryHeap::new(),
            serial: 0,
            sessions: Vec::new(),
            by_notify: HashMap::new(),
            sent: Vec::new(),
            messages: 0,
            takes: (50, 20),
            connections_most: 0,
            asked: 0,
        }
    }

    fn after(&mut self, ms: u64, event: Event) {
        self.serial += 1;
        self.events.push(Reverse((self.now + ms, self.serial, event)));
    }

    fn accept(&mut self, stream: &Stream, host: usize, size: u64) -> MessageId {
        self.accept_for(stream, host, size, 1)
    }

    fn accept_for(&mut self, stream: &Stream, host: usize, size: u64, recipients: u32) -> MessageId {
        self.messages += 1;
        let id = MessageId(self.messages);
        let host = self.hosts[host].clone();
        let groups = [Group {
            host: &host,
            attempts: 0,
            late: false,
            recipients: (0..recipients).collect(),
            due: self.now,
            refused: false,
        }];
        let recipients = recipients as usize;
        let newcomer = Newcomer { id, stream, accepted_at: Timestamp(0), recipients, size, expires: NEVER };
        self.scheduler.add(self.now, newcomer, groups, &mut self.actions);
        self.carry_out();
        id
    }

    fn carry_out(&mut self) {
        while !self.actions.is_empty() {
            for action in std::mem::take(&mut self.actions) {
                match action {
                    Action::Resolve(host, name) => {
                        let route = Arc::clone(&self.routes[&name]);
                        self.scheduler.routed(self.now, host, Ok(route), u64::MAX, &mut self.actions);
                    }
                    Action::Connect(path) => self.after(self.takes.0, Event::Connected(path.site, path.source.0)),
                    Action::Wake(session) => {
                        let place = self.by_notify[&(Arc::as_ptr(&session) as usize)];
                        self.sessions[place].idle = false;
                        self.pull(place);
                    }
                    other => panic!("nothing fails here: {other:?}"),
                }
            }
        }
        self.connections_most = self.connections_most.max(self.scheduler.connections);
    }

    fn pull(&mut self, place: usize) {
        let session = &mut self.sessions[place];
        self.asked += 1;
        let (path, wake) = (session.path, Arc::clone(&session.wake));
        let must = self.scheduler.must_hand_on(path);
        let batch = if must { None } else { self.scheduler.next_batch(self.now, path, &wake, &mut self.actions) };
        if let Some(batch) = batch {
            let recipients = batch.items.iter().map(|item| item.recipients.len()).sum();
            self.sent.push(Sent { at: self.now, message: batch.message, site: path.site, recipients });
            self.sessions[place].batch = Some(batch);
            self.after(self.takes.1, Event::Delivered(place));
        } else if must || self.scheduler.is_crowded(path) {
            self.scheduler.leave_idle(path, &wake);
            self.scheduler.session_ended(self.now, path, false, &mut self.actions);
        } else {
            self.sessions[place].idle = true;
            self.after(5 * SECOND, Event::IdledOut(place, self.asked as u64));
        }
    }

    /// Lets time pass until then, by steps to whatever happens next.
    fn run(&mut self, until: u64) {
        loop {
            let timer = self.scheduler.arm().unwrap_or(u64::MAX);
            let event = self.events.peek().map_or(u64::MAX, |Reverse((at, ..))| *at);
            let next = timer.min(event);
            if next > until {
                self.now = until;
                return;
            }
            self.now = self.now.max(next);
            if timer <= event {
                self.scheduler.tick(self.now, &mut self.actions);
            } else if let Some(Reverse((.., event))) = self.events.pop() {
                self.happens(event);
            }
            self.carry_out();
        }
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Connected(site, source) => {
                let path = PathId { site, source: crate::routing::SourceId(source) };
                self.scheduler.connected(self.now, path, &mut self.actions);
                let wake: Arc<Notify> = Arc::default();
                self.by_notify.insert(Arc::as_ptr(&wake) as usize, self.sessions.len());
                self.sessions.push(Session { path, wake, batch: None, idle: false });
                self.pull(self.sessions.len() - 1);
            }
            Event::Delivered(place) => {
                let path = self.sessions[place].path;
                if let Some(batch) = self.sessions[place].batch.take() {
                    self.scheduler.landed(&batch.items);
                    for item in batch.items {
                        let ended = item.recipients.iter().filter(|r| self.scheduler.end(item.message, **r)).count();
                        self.scheduler.recorded(item.message, ended as u32);
                        self.scheduler.drop_item(&item);
                    }
                }
                self.scheduler.proved(path);
                self.pull(place);
            }
            Event::IdledOut(place, asked) => {
                let session = &self.sessions[place];
                let (path, wake) = (session.path, Arc::clone(&session.wake));
                if session.idle && asked <= self.asked as u64 && self.scheduler.leave_idle(path, &wake) {
                    self.sessions[place].idle = false;
                    self.scheduler.session_ended(self.now, path, false, &mut self.actions);
                }
            }
        }
    }

    fn sent_between(&self, from: u64, to: u64) -> usize {
        self.sent.iter().filter(|sent| (from..to).contains(&sent.at)).map(|sent| sent.recipients).sum()
    }

    /// The longest wait of these, but for the longest hundredth.
    fn p99(&self, accepted: &HashMap<MessageId, u64>) -> u64 {
        let mut waits: Vec<u64> =
            self.sent.iter().filter_map(|sent| Some(sent.at - accepted.get(&sent.message)?)).collect();
        assert_eq!(waits.len(), accepted.len(), "all of them went");
        waits.sort_unstable();
        waits[waits.len() * 99 / 100 - 1]
    }
}

/// Transactional mail arrives at random, so many a second for so long; when, by message.
fn trickle(world: &mut World, per_second: f64, seconds: u64, host: impl Fn(u64) -> usize) -> HashMap<MessageId, u64> {
    let mut dice = SmallRng::seed_from_u64(7);
    let mut accepted = HashMap::new();
    let (mut at, end) = (world.now as f64, world.now + seconds * SECOND);
    loop {
        at -= (1.0 - dice.random::<f64>()).ln() * 1e3 / per_second;
        if at as u64 >= end {
            world.run(end + 10 * SECOND);
            return accepted;
        }
        world.run(at as u64);
        let host = host(world.messages);
        accepted.insert(world.accept(&stream("club", Class::Transactional), host, 10_000), world.now);
    }
}

#[test]
fn transactional_mail_does_not_wait_for_a_million_others() {
    // By the rate its limits allow, and by what it takes of itself: 20 sessions of 200 ms each.
    for (limits, takes, arrivals) in [
        (r#"limit = [{ each = ["site"], messages = "20/s burst 5" }]"#, 50, 5.0),
        (r#"limit = [{ each = ["site"], messages = "4/s burst 1" }]"#, 50, 1.0),
        ("limit = []", 200, 20.0),
    ] {
        let mut world = World::new(1, limits);
        world.takes = (100, takes);
        let campaigns: Vec<Stream> = (0..10).map(|n| stream(&format!("shop {n}"), Class::Bulk)).collect();
        for n in 0..50_000 {
            world.accept_for(&campaigns[n % campaigns.len()], 0, 10_000, 20);
        }
        assert_eq!(world.scheduler.open_recipients(), 1_000_000);
        world.run(10 * SECOND);
        let accepted = trickle(&mut world, arrivals, 60, |_| 0);
        let p99 = world.p99(&accepted);
        assert!(p99 <= SECOND, "{limits}: {p99} ms");
        assert!(world.sent.len() > 2 * accepted.len(), "bulk mail goes, too");
    }
}

#[test]
fn a_rate_is_kept_over_a_thousand_sites_and_each_token_costs_one_look() {
    let mut world = World::new(1_000, r#"limit = [{ match = { class = "bulk" }, messages = "50/s burst 10" }]"#);
    let shop = stream("shop", Class::Bulk);
    for n in 0..20_000 {
        world.accept(&shop, n % 1_000, 10_000);
    }
    world.run(10 * SECOND);
    let (sent, asked) = (world.sent.len(), world.asked);
    world.run(70 * SECOND);
    let taken = world.sent.len() - sent;
    assert!(taken.abs_diff(3_000) <= 30, "{taken} in a minute");
    assert!(world.asked - asked <= 3 * taken, "{} looks for {taken} tokens", world.asked - asked);
    for window in world.sent.windows(60) {
        assert!(window[59].at - window[0].at >= 970, "50 in a second and a burst of 10: {window:?}");
    }
    // All sites have had their share.
    let mut by_site = HashMap::new();
    world.sent.iter().for_each(|sent| *by_site.entry(sent.site).or_insert(0) += 1);
    assert_eq!(by_site.len(), 1_000);
    let (least, most) = (by_site.values().min(), by_site.values().max());
    assert!(most <= least.map(|least| least + 4).as_ref(), "{least:?} {most:?}");
}

#[test]
fn one_tenant_s_limit_holds_up_nobody_else_and_not_his_own_transactional_mail() {
    let mut world =
        World::new(200, r#"limit = [{ match = { tenant = "shop" }, each = ["tenant"], messages = "10/s" }]"#);
    for n in 0..20_000 {
        world.accept(&stream("shop", Class::Bulk), n % 200, 10_000);
    }
    for n in 0..2_000 {
        world.accept(&stream("club", Class::Bulk), n % 200, 10_000);
    }
    world.run(5 * SECOND);
    let of_club = world.sent.iter().filter(|sent| sent.message.0 > 20_000).count();
    assert_eq!(of_club, 2_000);
    // A hundred more for the limited tenant, transactional: half of what the limit allows.
    let mut accepted = HashMap::new();
    for n in 0..100 {
        world.run(world.now + 200);
        accepted.insert(world.accept(&stream("shop", Class::Transactional), n * 7 % 200, 10_000), world.now);
    }
    world.run(world.now + 10 * SECOND);
    assert!(world.p99(&accepted) <= SECOND, "{}", world.p99(&accepted));
}

#[test]
fn connections_are_shared_by_sites() {
    let mut world = World::new(100, r#"limit = [{ connections = 5, connection_rate = "20/s burst 2" }]"#);
    for n in 0..5_000 {
        world.accept(&stream("shop", Class::Bulk), n % 100, 10_000);
    }
    world.run(120 * SECOND);
    assert!(world.connections_most <= 5, "{}", world.connections_most);
    assert_eq!(world.sent.len(), 5_000);
}

#[test]
fn octets_and_recipients_have_rates() {
    let mut world = World::new(1, r#"limit = [{ each = ["site"], bytes = "1MB/s burst 100KB" }]"#);
    for _ in 0..2_000 {
        world.accept(&stream("shop", Class::Bulk), 0, 100_000);
    }
    world.run(10 * SECOND);
    let before = world.sent.len();
    world.run(70 * SECOND);
    let taken = world.sent.len() - before;
    assert!(taken.abs_diff(600) <= 6, "{taken} of 100 KB in a minute");
    let mut world = World::new(1, r#"limit = [{ match = { class = "bulk" }, recipients = "30/s burst 30" }]"#);
    for _ in 0..5_000 {
        world.accept(&stream("shop", Class::Bulk), 0, 1_000);
    }
    world.run(10 * SECOND);
    let from = world.now;
    world.run(from + 60 * SECOND);
    let taken = world.sent_between(from, world.now);
    assert!(taken.abs_diff(1_800) <= 18, "{taken} recipients in a minute");
}

#[test]
fn a_domain_s_limit_holds_up_no_other_domain_of_the_site() {
    let mut world = World::new(2, r#"limit = [{ match = { domain = "h1.example" }, messages = "1/s" }]"#);
    // Both domains at one site.
    let shared = Arc::clone(&world.routes[&world.hosts[0]]);
    world.routes.insert(world.hosts[1].clone(), shared);
    for n in 0..2_000 {
        world.accept(&stream("shop", Class::Bulk), n % 2, 10_000);
    }
    world.run(10 * SECOND);
    let odd = world.sent.iter().filter(|sent| sent.message.0 % 2 == 1).count();
    assert_eq!(world.sent.len() - odd, 1_000);
    assert!(odd.abs_diff(11) <= 1, "{odd}");
}

#[test]
fn a_reload_lets_go_what_was_held() {
    let mut world = World::new(10, r#"limit = [{ match = { tenant = "shop" }, messages = "1/h" }]"#);
    for n in 0..1_000 {
        world.accept(&stream("shop", Class::Bulk), n % 10, 10_000);
    }
    world.run(60 * SECOND);
    assert_eq!(world.sent.len(), 1);
    world.scheduler.set_rows(world.now, Rows::default(), &mut world.actions);
    world.carry_out();
    world.run(120 * SECOND);
    assert_eq!(world.sent.len(), 1_000);
}

#[test]
fn picking_goes_on_however_many_streams_there_are() {
    for limits in [false, true] {
        assert_eq!(probe::Crowd::new(500, limits).pick(2_000), 2_000);
    }
}

/// Memory of this process, in octets.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    pages.split(' ').nth(1).expect("resident pages").parse::<u64>().expect("a number") * 4096
}

/// Run alone: what others take meanwhile would be counted.
#[test]
#[ignore = "measures the memory of the whole process"]
fn a_hundred_thousand_sites_and_a_million_streams_take_less_than_a_gibibyte() {
    let mut world = World::new(
        1,
        r#"limit = [{ each = ["source", "site"], connections = 10, messages = "100/s" }, { each = ["tenant"], messages = "100/h" }]"#,
    );
    let before = resident();
    (world.hosts, world.routes) = (Vec::new(), HashMap::new());
    for (host, route) in probe::literals(100_000) {
        world.hosts.push(host.clone());
        world.routes.insert(host, route);
    }
    let with_routes = resident();
    for n in 0..1_000_000 {
        let stream =
            Stream { tenant: format!("t{}", n / 100).into(), class: Class::Bulk, campaign: format!("c{n}").into() };
        world.accept(&stream, n % 100_000, 10_000);
    }
    let full = resident();
    // Sessions come and find the mail of most tenants held back.
    world.run(30 * SECOND);
    let census = world.scheduler.census();
    assert_eq!((census.sites, census.streams), (100_000, 1_000_000 - world.sent.len()));
    let (held, mib) = (resident(), |octets: u64| octets >> 20);
    println!(
        "routes {} MiB; all in line {} MiB; {} sent, the rest held {} MiB; {} buckets",
        mib(with_routes - before),
        mib(full - before),
        world.sent.len(),
        mib(held - before),
        world.scheduler.shaper.limits.len()
    );
    assert!(held.max(full) - before <= 1 << 30);
}
