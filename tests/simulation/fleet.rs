//! Three days of several sources in two pools, between receivers with the manners of large providers: limits, warm-up, weights,
//! a blocked source, one that disappears, an order, and a kill in the midst.
//!
//! The books hold what they always hold (nothing lost, nothing twice, transactional mail not late). Beside that, receivers
//! count what comes from which source, and what was promised of it is asserted at the end.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use posthaste::clock::{Simulated, Timestamp};
use posthaste::config::{ByteSize, Config, Scope};
use posthaste::log::sim::SimFiles;
use posthaste::mail::{Class, Stream};
use posthaste::queue::NewOrder;
use posthaste::shaping::orders::Deed;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::time::sleep;

use crate::books::Pace;
use crate::dns::{Mail, Names};
use crate::engine::{Ending, Engine, EventBook};
use crate::receiver::habits::*;
use crate::receiver::{Answer, Ask, Habit, OFFERS, Offers, Site, Step, Tls};
use crate::traffic::{self, Arrival};
use crate::week::Outcome;
use crate::world::{Place, World};

/// A Monday, at midnight.
const START: Timestamp = Timestamp(1_767_571_200_000);
const HOUR: u64 = 3_600_000;
const DAYS: u64 = 3;
/// When it is killed.
const KILLED: u64 = 40 * HOUR + 17 * 60_000;

/// Our addresses: of `a`, `b`, and `new`.
const SOURCES: [IpAddr; 3] = [ip(11), ip(12), ip(13)];

const fn ip(last: u8) -> IpAddr {
    IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, last))
}

/// The places, each a site of its own.
const OPEN: usize = 0;
const STEADY: usize = 1;
const EVEN: usize = 2;
const BLOCKING: usize = 3;
const NAMES: [&str; 9] = ["open", "steady", "even", "blocking", "narrow", "grey", "slow-tls", "drops", "mailboxes"];

const CONFIG: &str = r#"
    hostname = "mta.sim.example"
    [brake]
    enabled = false
    [[source]]
    name = "a"
    addresses = ["127.0.0.11"]
    [[source]]
    name = "b"
    addresses = ["127.0.0.12"]
    [[source]]
    name = "new"
    addresses = ["127.0.0.13"]
    [[pool]]
    name = "default"
    sources = { a = 2, b = 1, new = 1 }
    [[pool]]
    name = "news"
    sources = { a = 1, b = 3 }
    [[egress]]
    match = { tenant = "news" }
    pool = "news"
    [[limit]]
    match = { site = "mx.steady.example" }
    each = ["source"]
    messages = "5/s burst 10"
    [[warmup]]
    source = "new"
    recipients_per_day = [60, 120, 240, 480, 960]
"#;

/// One source is left at times, and sends five a second at most.
const PACE: Pace = Pace { first: Duration::from_secs(10), each: Duration::from_millis(250) };

/// What receivers saw: when, at which place, from which source, a recipient.
type Seen = Arc<Mutex<Vec<(Timestamp, usize, Option<IpAddr>)>>>;

/// Writes down every recipient asked for.
#[derive(Debug)]
struct Watches(usize, Seen);

impl Habit for Watches {
    fn answer(&mut self, ask: &mut Ask<'_>) -> Option<Answer> {
        // Reports to senders go by the same ways, and count for warm-up, too.
        if ask.step == Step::Rcpt {
            self.1.lock().unwrap().push((ask.now, self.0, ask.source));
        }
        None
    }
}

fn world(seed: u64, seen: &Seen) -> Arc<World> {
    let (mut places, mut sites, mut names) = (Vec::new(), Vec::new(), Names::default());
    for (number, name) in NAMES.into_iter().enumerate() {
        let host = format!("mx.{name}.example");
        let domain = format!("{name}.example");
        names.domain(&domain, Mail::Hosts(vec![host.clone()]), None);
        places.push(Place { name: domain, weight: 1, healthy: number <= EVEN, nowhere: false, site: Some(number) });
        let mut habits: Vec<Box<dyn Habit>> = vec![Box::new(Watches(number, Arc::clone(seen)))];
        match name {
            "blocking" => {
                let window = Timestamp(START.0 + 5 * HOUR)..Timestamp(START.0 + 20 * HOUR);
                habits.push(Box::new(Blocks { source: Some(SOURCES[0]), window }));
            }
            "narrow" => {
                habits.push(Box::new(SessionsMax(4)));
                habits.push(Box::new(RateOfEach::per_minute(30.0)));
            }
            "grey" => habits.push(Box::new(Greylists::after(Duration::from_secs(240)))),
            "slow-tls" => {
                let (least, most) = (Duration::from_secs(2), Duration::from_secs(9));
                habits.push(Box::new(Slow { step: Some(Step::Tls), least, most }));
            }
            "drops" => {
                habits.push(Box::new(Hangs { step: Step::Mail, share: 0.01 }));
                habits.push(Box::new(DropsAfterDot(0.01)));
            }
            "mailboxes" => habits.push(Box::new(MailboxesBusy(0.05))),
            _ => {}
        }
        let tls = if name == "slow-tls" { Tls::Offered } else { Tls::Absent };
        let offers = Offers { tls, ..OFFERS };
        let hosts = vec![(host, format!("11.0.7.{}", number + 1).parse().unwrap())];
        sites.push(Site::new(name.into(), hosts, offers, Duration::from_millis(15), habits, seed + number as u64));
    }
    let world = World::new(places, sites, names);
    // While mail in bulk stands in line.
    world.takes_away(SOURCES[1], Timestamp(START.0 + 30 * HOUR)..Timestamp(START.0 + 31 * HOUR));
    world
}

fn stream(tenant: &str, class: Class) -> Stream {
    Stream { tenant: tenant.into(), class, campaign: "".into() }
}

fn arrivals(seed: u64) -> Vec<Arrival> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut all = Vec::new();
    let mut many = |hour: f64, pace: u64, count: u64, tenant: &str, place: usize| {
        let at = START.0 + (hour * HOUR as f64) as u64;
        let one = |number| traffic::single(Timestamp(at + pace * number), stream(tenant, Class::Bulk), place);
        all.extend((0..count).map(one));
    };
    // A large campaign, and a minute later a small one, where the operator has set a limit.
    many(29.8, 1, 6000, "big", STEADY);
    many(29.9, 1, 300, "small", STEADY);
    many(10.0, 1, 2000, "news", EVEN);
    many(12.2, 1000, 20, "held", OPEN);
    many(6.0, 60_000, 200, "blocked", BLOCKING);
    for minute in 0..DAYS * 24 * 60 {
        let at = Timestamp(START.0 + minute * 60_000 + rng.random_range(0..60_000));
        let place = rng.random_range(0..NAMES.len());
        all.push(traffic::single(at, stream("shop", Class::Transactional), place));
    }
    // Somebody waits for these, behind six thousand others.
    for number in 0..300 {
        let at = Timestamp(START.0 + 30 * HOUR + number * 2_000 + rng.random_range(0..2_000));
        all.push(traffic::single(at, stream("shop", Class::Transactional), STEADY));
    }
    all.sort_by_key(|arrival| arrival.at);
    all
}

/// Plays it to the last message.
pub fn run(seed: u64) -> Outcome {
    let seen = Seen::default();
    let world = world(seed, &seen);
    let (files, events) = (SimFiles::new(seed), Arc::<Mutex<EventBook>>::default());
    let ledger = Arc::default();
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut arrivals = arrivals(seed).into_iter().peekable();
    let mut now = START;
    for until in [Some(Timestamp(START.0 + KILLED)), None] {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let clock = Simulated::from(now);
            let engine = Engine::start(&world, &files, &events, &config(), Some(&ledger), rng.random());
            let mut ordered = until.is_none();
            while let Some(arrival) = arrivals.next_if(|arrival| until.is_none_or(|until| arrival.at < until)) {
                sleep(arrival.at.since(world.now())).await;
                if !ordered && world.now() >= Timestamp(START.0 + 12 * HOUR) {
                    hold(&engine).await;
                    ordered = true;
                }
                arrival.submit(&engine, &world);
            }
            match until {
                Some(until) => {
                    sleep(until.since(world.now())).await;
                    check(&engine, &world);
                    engine.crash(&files, Ending::Kill, &mut rng);
                    now = until.after(Duration::from_secs(20));
                    world.books().outage(until, now, Ending::Kill);
                }
                None => {
                    while engine.queue.open_recipients() > 0 {
                        sleep(Duration::from_secs(3600)).await;
                        check(&engine, &world);
                    }
                    engine.close(Duration::from_secs(60)).await;
                }
            }
            drop(clock);
        });
    }
    let mut books = world.books();
    books.finish(PACE);
    let promises = promises(&books, &seen.lock().unwrap());
    promises.into_iter().for_each(|broken| books.fault(broken));
    Outcome { digest: books.digest.sum(), tally: books.tally.clone(), faults: books.faults().to_vec() }
}

/// At noon of the first day, for an hour.
async fn hold(engine: &Engine) {
    let scope = Scope { tenant: Some("held".into()), ..Scope::default() };
    let lasts = Some(Duration::from_secs(3600));
    let new = NewOrder { deed: Deed::Pause, scope, reason: "a test".into(), by: "a test".into(), lasts };
    engine.queue.order(new).await.unwrap();
    let now = engine.world.now();
    engine.world.books().paused("held", now, now.after(Duration::from_secs(3600)));
}

fn check(engine: &Engine, world: &World) {
    engine.settle();
    let census = engine.queue.census();
    let mut books = world.books();
    books.adopt(&census.messages);
    books.compare(&census.messages, world.now());
}

/// What was promised and not kept.
fn promises(books: &crate::books::Books, seen: &[(Timestamp, usize, Option<IpAddr>)]) -> Vec<String> {
    let mut broken = Vec::new();
    let mut check = |held: bool, what: String| {
        println!("{what}");
        if !held {
            broken.push(what);
        }
    };
    let from = |source: usize| seen.iter().filter(move |(_, _, ip)| *ip == Some(SOURCES[source]));
    // It is killed on the second day, when that day's mail has gone: nothing more goes then, and the third has its own.
    for (day, planned) in [(0, 60), (1, 120), (2, 240)] {
        let until = START.0 + (day + 1) * 24 * HOUR;
        let sent = from(2).filter(|(at, ..)| (START.0 + day * 24 * HOUR..until).contains(&at.0)).count();
        check(sent == planned, format!("warm-up, day {}: {sent} of {planned}", day + 1));
    }
    for (source, address) in SOURCES.iter().enumerate() {
        // The burst of the row, and one for the time that a session takes to say MAIL.
        let (mut tokens, mut last, mut least) = (11.0_f64, START, 11.0_f64);
        for (at, ..) in from(source).filter(|(_, place, _)| *place == STEADY) {
            tokens = (tokens + 5.0 * at.since(last).as_secs_f64()).min(11.0) - 1.0;
            (last, least) = (*at, least.min(tokens));
        }
        check(least >= 0.0, format!("limit: of 10 at once {:.1} came from {address}", 11.0 - least));
    }
    let even: Vec<usize> = [0, 1].map(|source| from(source).filter(|(_, place, _)| *place == EVEN).count()).into();
    // Some mail of the other pool goes there, too: 160 or so a day by other weights.
    let share = even[1] as f64 / (even[0] + even[1]) as f64;
    check((0.66..0.76).contains(&share), format!("weights: {share:.3} of the mail of `news` and some more by `b`"));
    let mut urgent = books.urgent.clone();
    urgent.sort();
    let p99 = urgent[urgent.len() * 99 / 100];
    check(p99 <= Duration::from_secs(1), format!("transactional: p99 of {} is {p99:?}", urgent.len()));
    let last = |tenant: &str| books.delivered(tenant).iter().filter_map(|(_, end)| *end).max().unwrap_or_default();
    let took = |tenant: &str| last(tenant).since(books.delivered(tenant)[0].0);
    let (big, small) = (took("big"), took("small"));
    check(small < big / 4, format!("fairness: 300 beside 6,000 took {small:?}, those {big:?}"));
    let early =
        books.delivered("held").iter().filter(|(_, end)| end.is_none_or(|at| at.0 < START.0 + 13 * HOUR)).count();
    check(early == 0, format!("order: {early} of 20 went in the hour for which they were held"));
    let blocked = books.delivered("blocked");
    let late = |(came, end): &&(Timestamp, Option<Timestamp>)| {
        end.is_none_or(|end| end.since(*came) > Duration::from_secs(60))
    };
    let late = blocked.iter().filter(late).count();
    check(late == 0, format!("block: {late} of {} waited for the source that is blocked", blocked.len()));
    let hour = START.0 + 30 * HOUR + 1_000..START.0 + 31 * HOUR;
    let ghosts = from(1).filter(|(at, ..)| hour.contains(&at.0)).count();
    check(ghosts < 50, format!("{ghosts} recipients on sessions of the address that had gone"));
    broken
}

fn config() -> Config {
    let mut config: Config = toml::from_str(CONFIG).unwrap();
    config.spool.segment_size = ByteSize(1 << 20);
    config.spool.disk_free_min = ByteSize(1 << 20);
    config
}
