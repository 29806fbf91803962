//! Who lives in the world: sites of every kind, and domains that lead to them, to the wrong place or nowhere.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use posthaste::clock::Timestamp;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::dns::{Mail, Names, Trouble};
use crate::receiver::habits::*;
use crate::receiver::{Habit, OFFERS, Offers, Site, Step, Tls};
use crate::world::{Place, World};

/// What a site is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Takes everything for users that exist.
    Good,
    /// The same, with TLS.
    Secure,
    /// Takes everything, at its own pace: mail in bulk has to stand in line.
    Steady,
    /// Takes its time.
    Slow,
    Greylisting,
    /// Its first host never answers.
    HalfDead,
    /// 4yz for hours at a time.
    Busy,
    /// Not there for a day.
    Away,
    /// Never there.
    Dead,
    DropsAfterDot,
    BreaksTls,
    /// 421 beyond a few sessions, and after a few transactions.
    Narrow,
    /// Mailboxes full for hours; few recipients at a time.
    Full,
    /// 451 beyond a rate.
    Paced,
    /// 554 at the greeting for hours.
    Blocking,
    Hanging,
    Moody,
}

/// Kind, sites of it, domains at each, weight of each domain.
const SITES: [(Kind, usize, usize, u32); 17] = [
    (Kind::Steady, 1, 2, 12),
    (Kind::Good, 5, 6, 30),
    (Kind::Secure, 1, 2, 12),
    (Kind::Slow, 2, 3, 12),
    (Kind::Greylisting, 2, 3, 12),
    (Kind::HalfDead, 1, 2, 10),
    (Kind::Busy, 2, 3, 10),
    (Kind::Away, 2, 2, 10),
    (Kind::Dead, 1, 2, 3),
    (Kind::DropsAfterDot, 1, 3, 12),
    (Kind::BreaksTls, 1, 3, 10),
    (Kind::Narrow, 2, 3, 12),
    (Kind::Full, 1, 3, 10),
    (Kind::Paced, 1, 3, 10),
    (Kind::Blocking, 1, 2, 8),
    (Kind::Hanging, 1, 2, 6),
    (Kind::Moody, 2, 2, 8),
];

const HOUR: u64 = 3_600_000;

/// A world by seed; `start` is when its troubles begin to come, within `days`.
pub fn world(seed: u64, start: Timestamp, days: u64) -> Arc<World> {
    let mut rng = SmallRng::seed_from_u64(seed ^ 0x77_6f72_6c64);
    let (mut places, mut sites, mut names) = (Vec::new(), Vec::new(), Names::default());
    for (kind, count, domains, weight) in SITES {
        for _ in 0..count {
            let number = sites.len();
            let site = site(kind, number, start, days, &mut rng);
            let hosts: Vec<String> = site.hosts.iter().map(|(name, _)| name.clone()).collect();
            for domain in 0..domains {
                let name = format!("d{domain}.{}.example", site.name);
                names.domain(&name, Mail::Hosts(hosts.clone()), None);
                let healthy = matches!(kind, Kind::Steady | Kind::Good | Kind::Secure);
                places.push(Place { name, weight, healthy, nowhere: false, site: Some(number) });
            }
            sites.push(site);
        }
    }
    odd_names(&mut places, &mut sites, &mut names, start, days, &mut rng);
    World::new(places, sites, names)
}

/// Domains whose names are the trouble.
fn odd_names(
    places: &mut Vec<Place>,
    sites: &mut Vec<Site>,
    names: &mut Names,
    start: Timestamp,
    days: u64,
    rng: &mut SmallRng,
) {
    let hosts = |site: &Site| site.hosts.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let (first, second) = (hosts(&sites[1]), hosts(&sites[2]));
    let moves_at = somewhere(start, days, 1, rng).start;
    let (itself, backup) = (address(sites.len(), 0), address(sites.len() + 1, 0));
    let mut window = |hours| somewhere(start, days, hours, rng);
    let odd = [
        ("null.example", Mail::NullMx, None, true),
        ("nobody.example", Mail::Nobody, None, true),
        ("servfail.example", Mail::Hosts(first.clone()), Some(Trouble::ServFail(window(10))), false),
        ("silent-dns.example", Mail::Hosts(second.clone()), Some(Trouble::Silent(window(6))), false),
        ("moving.example", Mail::Moves(first.clone(), moves_at, second), None, false),
        ("unresolved.example", Mail::Hosts(vec!["gone.example".into()]), None, true),
        ("backup.example", Mail::Hosts(vec!["gone.example".into(), "second.example".into()]), None, false),
        ("itself.example", Mail::Itself(itself), None, false),
    ];
    for (name, mail, trouble, nowhere) in odd {
        names.domain(name, mail, trouble);
        places.push(Place { name: name.into(), weight: 3, healthy: false, nowhere, site: None });
    }
    for (name, address) in [("itself.example", itself), ("second.example", backup)] {
        let hosts = vec![(name.to_owned(), address)];
        sites.push(Site::new(name.into(), hosts, offers(rng, Tls::Absent), RTT, vec![Box::new(UnknownUsers)], 1));
    }
}

const RTT: Duration = Duration::from_millis(20);

fn site(kind: Kind, number: usize, start: Timestamp, days: u64, rng: &mut SmallRng) -> Site {
    let count = rng.random_range(1..=3).max(if kind == Kind::HalfDead { 2 } else { 1 });
    let name = format!("{kind:?}{number}").to_lowercase();
    let hosts = (0..count).map(|host| (format!("mx{host}.{name}.example"), address(number, host))).collect();
    let tls = match kind {
        Kind::Secure => Tls::Offered,
        Kind::BreaksTls => Tls::Dropped,
        _ => Tls::Absent,
    };
    let rtt = Duration::from_millis(rng.random_range(5..150));
    let habits = habits(kind, start, days, rng);
    Site::new(name, hosts, offers(rng, tls), rtt, habits, rng.random())
}

fn offers(rng: &mut SmallRng, tls: Tls) -> Offers {
    Offers { pipelining: rng.random_bool(0.8), chunking: rng.random_bool(0.5), tls, ..OFFERS }
}

fn habits(kind: Kind, start: Timestamp, days: u64, rng: &mut SmallRng) -> Vec<Box<dyn Habit>> {
    let mut window = |hours| somewhere(start, days, hours, rng);
    let seconds = Duration::from_secs;
    let mut habits: Vec<Box<dyn Habit>> = match kind {
        Kind::Good | Kind::Secure | Kind::BreaksTls => vec![],
        Kind::Steady => {
            let (least, most) = (Duration::from_millis(300), Duration::from_millis(700));
            vec![Box::new(Slow { step: Some(Step::End), least, most })]
        }
        Kind::Slow => vec![Box::new(Slow { step: None, least: seconds(1), most: seconds(8) })],
        Kind::Greylisting => vec![Box::new(Greylists::after(seconds(600)))],
        Kind::HalfDead => vec![Box::new(Away { host: Some(0), window: always(), silent: true })],
        Kind::Busy => {
            let busy = |step, window, reply| Box::new(Replies { step, window, reply }) as Box<dyn Habit>;
            vec![
                busy(Step::Mail, window(5), "451 4.3.2 too busy"),
                busy(Step::Rcpt, window(4), "450 4.2.1 later, please"),
                busy(Step::End, window(3), "452 4.3.1 disk full"),
            ]
        }
        Kind::Away => vec![Box::new(Away { host: None, window: window(24), silent: true })],
        Kind::Dead => vec![Box::new(Away { host: None, window: always(), silent: false })],
        Kind::DropsAfterDot => vec![Box::new(DropsAfterDot(0.1))],
        Kind::Narrow => vec![Box::new(SessionsMax(3)), Box::new(TransactionsMax(20))],
        Kind::Full => vec![Box::new(MailboxesFull(window(30))), Box::new(RecipientsMax(3))],
        Kind::Paced => vec![Box::new(RateMax::per_minute(20.0))],
        Kind::Blocking => vec![Box::new(Blocks { source: None, window: window(8) })],
        Kind::Hanging => vec![
            Box::new(Hangs { step: Step::Ehlo, share: 0.01 }),
            Box::new(Hangs { step: Step::Rcpt, share: 0.02 }),
            Box::new(Hangs { step: Step::End, share: 0.02 }),
        ],
        Kind::Moody => vec![Box::new(Moody(0.04))],
    };
    habits.push(Box::new(UnknownUsers));
    habits
}

/// A window of so many hours, anywhere in these days.
fn somewhere(start: Timestamp, days: u64, hours: u64, rng: &mut SmallRng) -> Window {
    let length = (hours * HOUR).min(days * 24 * HOUR / 2);
    let from = rng.random_range(0..days * 24 * HOUR - length);
    Timestamp(start.0 + from)..Timestamp(start.0 + from + length)
}

fn address(site: usize, host: usize) -> IpAddr {
    Ipv4Addr::new(11, 0, site as u8 + 1, host as u8 + 1).into()
}
