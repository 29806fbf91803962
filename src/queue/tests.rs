//! The scheduler against a world made of dice (the one the fuzz target plays with), and its clock.

mod held;
mod pace;
mod whole;
mod world;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::scheduler::{Action, Group, Limits, Newcomer, PathId, Scheduler, Verdict, Wish};
use super::{at, probe};
use crate::clock::{Clock, Timestamp};
use crate::config::Scope;
use crate::mail::{AddressHost, Blame, EnhancedCode, Failure, MessageId, Stream};
use crate::routing::{Egress, PoolId, SourceId};
use crate::shaping::orders::{Deed, Order, OrderId};

const EXPIRY: u64 = 200_000;

#[test]
fn every_recipient_comes_to_exactly_one_end() {
    for seed in 0..150 {
        let mut dice = SmallRng::seed_from_u64(seed);
        let octets: Vec<u8> = (0..dice.random_range(1..3000)).map(|_| dice.random()).collect();
        // Panics with the reason; the seed is in the loop's count.
        let outcome = std::panic::catch_unwind(|| probe::schedule(&octets));
        assert!(outcome.is_ok(), "seed {seed}");
    }
}

/// A scheduler with a message of three recipients at two hosts, whose look-ups are under way.
fn with_a_message(actions: &mut Vec<Action>) -> Scheduler {
    let mut scheduler = Scheduler::default();
    let stream = Stream::default();
    let newcomer = Newcomer {
        id: MessageId(7),
        stream: &stream,
        accepted_at: Timestamp(0),
        recipients: 3,
        size: 0,
        expires: EXPIRY,
        apart: false,
    };
    let [a, b] = ["a.example", "b.example"].map(|name| AddressHost::Domain(name.parse().unwrap()));
    let group = |host, places: &[u32]| Group {
        host,
        attempts: 0,
        late: false,
        recipients: places.iter().copied().collect(),
        due: 0,
        refused: false,
    };
    scheduler.add(0, newcomer, [group(&a, &[0, 2]), group(&b, &[1])], actions);
    scheduler
}

/// The recipients of the expiries asked for, ended and recorded.
fn expire(scheduler: &mut Scheduler, actions: &mut Vec<Action>) -> Vec<u32> {
    let mut expired = Vec::new();
    for action in std::mem::take(actions) {
        if let Action::Expire(id, recipients) = action {
            let claimed = recipients.iter().filter(|r| scheduler.end(id, **r)).count();
            scheduler.recorded(id, claimed as u32);
            expired.extend(recipients);
        }
    }
    expired.sort_unstable();
    expired
}

#[test]
fn mail_in_line_is_given_up_on_time() {
    let mut actions = Vec::new();
    let mut scheduler = with_a_message(&mut actions);
    scheduler.tick(EXPIRY - 1, &mut actions);
    assert!(expire(&mut scheduler, &mut actions).is_empty());
    scheduler.tick(EXPIRY, &mut actions);
    assert_eq!(expire(&mut scheduler, &mut actions), [0, 1, 2]);
    assert_eq!((scheduler.open_recipients(), scheduler.counts.ready), (0, [0; 3]));
    assert_eq!(scheduler.arm(), None);
}

#[test]
fn who_wakes_behind_his_expiry_is_given_up_at_once() {
    let mut actions = Vec::new();
    let mut scheduler = with_a_message(&mut actions);
    let hosts: Vec<_> =
        actions.drain(..).filter_map(|a| if let Action::Resolve(host, _) = a { Some(host) } else { None }).collect();
    for host in hosts {
        let failure = Failure::ours(Blame::Site, EnhancedCode(4, 4, 3), "no answer");
        scheduler.routed(0, host, Err(Verdict::Later(failure)), 1, &mut actions);
    }
    // Deferred to behind their expiry: two clocks were read one after the other, or nobody could read when it expires.
    for action in std::mem::take(&mut actions) {
        let Action::Settle(items, _) = action else { continue };
        scheduler.landed(&items);
        items.into_iter().for_each(|item| scheduler.sleep(EXPIRY + 3_000, item, &mut actions));
    }
    scheduler.tick(EXPIRY - 1, &mut actions);
    assert!(expire(&mut scheduler, &mut actions).is_empty());
    scheduler.tick(EXPIRY, &mut actions);
    assert_eq!(expire(&mut scheduler, &mut actions), [0, 1, 2]);
    assert_eq!((scheduler.open_recipients(), scheduler.counts.ready), (0, [0; 3]));
}

#[test]
fn a_message_partly_asleep_is_given_up_at_once() {
    let (mut scheduler, mut actions) = (Scheduler::default(), Vec::new());
    let host = AddressHost::Domain("a.example".parse().unwrap());
    let group = |recipient, due| Group {
        host: &host,
        attempts: 1,
        late: false,
        recipients: [recipient].into_iter().collect(),
        due,
        refused: false,
    };
    let stream = Stream::default();
    let newcomer = Newcomer {
        id: MessageId(7),
        stream: &stream,
        accepted_at: Timestamp(0),
        recipients: 5001,
        size: 0,
        expires: EXPIRY,
        apart: false,
    };
    let asleep = (1..5001).map(|recipient| group(recipient, EXPIRY));
    scheduler.add(0, newcomer, std::iter::once(group(0, 0)).chain(asleep), &mut actions);
    // More sleepers are due than wake in one go.
    scheduler.tick(EXPIRY, &mut actions);
    let mut ended = 0;
    for action in std::mem::take(&mut actions) {
        let Action::Expire(id, recipients) = action else { continue };
        let claimed = recipients.iter().filter(|r| scheduler.end(id, **r)).count() as u32;
        scheduler.recorded(id, claimed);
        ended += claimed;
    }
    assert_eq!(ended, 5001, "nobody is left to wait for");
    // Who wakes behind that finds nothing to do.
    scheduler.tick(EXPIRY + 1, &mut actions);
    assert!(actions.is_empty(), "{actions:?}");
    let census = scheduler.census();
    assert_eq!((census.sleepers, census.messages.len()), (0, 0), "{census:?}");
    assert_eq!((scheduler.open_recipients(), scheduler.counts.ready), (0, [0; 3]));
}

#[test]
fn the_sleepers_of_what_is_taken_back_go_in_slices() {
    let (mut scheduler, mut actions) = (Scheduler::default(), Vec::new());
    for id in 1..=100 {
        let (id, stream, accepted_at) = (MessageId(id), &Stream::default(), Timestamp(0));
        let host = AddressHost::Domain("a.example".parse().unwrap());
        let group = Group {
            host: &host,
            attempts: 1,
            late: false,
            recipients: [0].into_iter().collect(),
            due: 50_000,
            refused: false,
        };
        scheduler.add(
            0,
            Newcomer { id, stream, accepted_at, recipients: 1, size: 0, expires: EXPIRY, apart: false },
            [group],
            &mut actions,
        );
    }
    let even: Vec<MessageId> = (1..=50).map(|n| MessageId(2 * n)).collect();
    assert_eq!(scheduler.cancel(&even).len(), 50);
    assert!(scheduler.sweep(0, 40), "there is more");
    assert_eq!(scheduler.census().sleepers, 80);
    assert!(!scheduler.sweep(40, 100));
    assert_eq!(scheduler.census().sleepers, 50);
}

#[test]
fn only_the_last_record_of_a_message_is_its_tombstone() {
    let mut scheduler = with_a_message(&mut Vec::new());
    let id = MessageId(7);
    // Two settlements claim ends in one order and record them in the other.
    assert!(scheduler.end(id, 0) && scheduler.end(id, 1) && scheduler.end(id, 2));
    assert!(!scheduler.end(id, 1), "nobody ends twice");
    assert!(!scheduler.recorded(id, 2));
    assert!(scheduler.recorded(id, 1));
}

#[test]
fn the_wall_clock_maps_onto_the_queues_clock() {
    // A time that has passed is now; another is as far ahead, and never early.
    let (now, wall) = (5_000, Clock.timestamp());
    let ahead = |ms: u64| at(now, wall, wall.after(Duration::from_millis(ms)));
    assert_eq!(at(now, wall, Timestamp(0)), now);
    assert_eq!(ahead(0), now);
    assert!((6_000..=6_001).contains(&ahead(1_000)));
}

/// The path of the first source to the first site.
const PATH: PathId = PathId { site: 0, source: SourceId(0) };

/// A scheduler whose one site has one session, busy with message 1, at `now`.
fn with_a_busy_session(now: u64) -> Scheduler {
    let (mut scheduler, mut actions) = (Scheduler::default(), Vec::new());
    scheduler.limits = Limits {
        connections_max: 100,
        connections_per_site: 20,
        recipients_per_transaction: 1,
        pause_min: 1_000,
        pause_max: 1_000,
        bounds: HashMap::new(),
    };
    scheduler.tick(now, &mut actions);
    add_one(&mut scheduler, now, 1, &mut actions);
    let [Action::Resolve(host, _), ..] = &actions[..] else { panic!("no look-up: {actions:?}") };
    let host = *host;
    scheduler.routed(now, host, Ok(probe::a_route().1), EXPIRY, &mut actions);
    assert_eq!(connects(&actions), 1, "the first is opened at once");
    scheduler.connected(now, PATH, &mut actions);
    assert!(scheduler.next_batch(now, PATH, &Arc::default(), &mut actions).is_some());
    scheduler
}

/// One more message for that site.
fn add_one(scheduler: &mut Scheduler, now: u64, id: u64, actions: &mut Vec<Action>) {
    let (id, stream, accepted_at) = (MessageId(id), &Stream::default(), Timestamp(0));
    let group = Group {
        host: &probe::a_route().0,
        attempts: 0,
        late: false,
        recipients: [0].into_iter().collect(),
        due: now,
        refused: false,
    };
    scheduler.add(
        now,
        Newcomer { id, stream, accepted_at, recipients: 1, size: 0, expires: EXPIRY, apart: false },
        [group],
        actions,
    );
}

fn connects(actions: &[Action]) -> usize {
    actions.iter().filter(|action| matches!(action, Action::Connect(_))).count()
}

#[test]
fn a_busy_session_is_waited_for_but_not_for_long() {
    let (now, mut actions) = (60_000, Vec::new());
    let mut scheduler = with_a_busy_session(now);
    add_one(&mut scheduler, now, 2, &mut actions);
    scheduler.tick(now + 19, &mut actions);
    assert_eq!(connects(&actions), 0, "the session may be free in a moment");
    scheduler.tick(now + 20, &mut actions);
    assert_eq!(connects(&actions), 1, "it is not");
    scheduler.connected(now + 30, PATH, &mut actions);
    assert!(scheduler.next_batch(now + 30, PATH, &Arc::default(), &mut actions).is_some());
    // What is taken in time is no reason for another.
    actions.clear();
    add_one(&mut scheduler, now + 40, 3, &mut actions);
    assert!(scheduler.next_batch(now + 40, PATH, &Arc::default(), &mut actions).is_some());
    scheduler.tick(now + 1_000, &mut actions);
    assert_eq!((connects(&actions), scheduler.connections), (0, 2));
}

#[test]
fn a_long_line_gets_another_session_at_once() {
    let (now, mut actions) = (60_000, Vec::new());
    let mut scheduler = with_a_busy_session(now);
    for (id, opened) in [(2, 0), (3, 0), (4, 0), (5, 0), (6, 1), (7, 1)] {
        add_one(&mut scheduler, now, id, &mut actions);
        assert_eq!(connects(&actions), opened, "message {id}");
    }
}

#[test]
fn sites_that_nothing_leads_to_are_forgotten() {
    let mut actions = Vec::new();
    let mut scheduler = with_a_message(&mut actions);
    let routes: Vec<_> = probe::relays(3_000);
    let hosts: Vec<_> =
        actions.drain(..).filter_map(|a| if let Action::Resolve(host, _) = a { Some(host) } else { None }).collect();
    // One host stays where it is, the other one moves on and on.
    scheduler.routed(0, hosts[0], Ok(routes[0].clone()), u64::MAX, &mut actions);
    for route in &routes[1..] {
        scheduler.routed(0, hosts[1], Ok(route.clone()), u64::MAX, &mut actions);
        scheduler.site_id(0, route, PoolId(0));
    }
    let census = scheduler.census();
    assert!((2..=1024).contains(&census.sites), "{census:?}");
    assert_eq!(scheduler.sites().filter(|site| site.route.site == routes[0].site).count(), 1);
    assert_eq!(scheduler.site_id(0, &routes[0], PoolId(0)), 0);
    // Those that have a session or mail waiting stay, and their numbers are theirs alone.
    assert_eq!(census.ready, 2);
}

/// A pool of two sources, one of them held by an order: the other one is tried again as soon as its pause is over.
#[test]
fn a_path_that_opens_again_is_used_though_the_others_are_held() {
    let (now, mut actions) = (60_000, Vec::new());
    let config = toml::from_str("[[source]]\nname = \"a\"\n[[source]]\nname = \"b\"\n").expect("well formed");
    let mut scheduler = Scheduler::default();
    scheduler.limits = with_a_busy_session(now).limits;
    scheduler.set_egress(Arc::new(Egress::new(&config, None).expect("nothing to read")));
    let order = Order {
        id: OrderId(1),
        deed: Deed::Pause,
        scope: Scope { source: Some("b".into()), ..Scope::default() },
        reason: String::new(),
        by: "operator".into(),
        since: Timestamp(0),
        until: None,
    };
    scheduler.order(now, order, &mut actions);
    scheduler.tick(now, &mut actions);
    add_one(&mut scheduler, now, 1, &mut actions);
    let found = actions.iter().find_map(|a| if let Action::Resolve(host, _) = a { Some(*host) } else { None });
    let host = found.expect("a look-up");
    scheduler.routed(now, host, Ok(probe::a_route().1), EXPIRY, &mut actions);
    let dialled = |actions: &[Action]| {
        let paths = actions.iter().filter_map(|a| if let Action::Connect(path) = a { Some(path.source) } else { None });
        paths.collect::<Vec<_>>()
    };
    let [free] = dialled(&actions)[..] else { panic!("{actions:?}") };
    let path = PathId { site: 0, source: free };
    let failure = Failure::ours(Blame::Site, EnhancedCode(4, 4, 1), "no answer");
    actions.clear();
    scheduler.unreachable(now, path, false, &failure, &mut actions);
    scheduler.session_ended(now, path, true, &mut actions);
    scheduler.tick(now + 999, &mut actions);
    assert!(actions.is_empty(), "it is shut, and its mail waits for it: {actions:?}");
    scheduler.tick(now + 1_000, &mut actions);
    assert_eq!(dialled(&actions), [free]);
}

/// A source that is configured no more: its path is not dialled any more, and mail that wishes for it goes by others.
#[test]
fn a_source_removed_by_a_reload_does_not_send() {
    let (now, mut actions) = (60_000, Vec::new());
    let egress = |text: &str, before: Option<&Egress>| {
        let config = toml::from_str(text).expect("well formed");
        Arc::new(Egress::new(&config, before).expect("nothing to read"))
    };
    let both = egress("[[source]]\nname = \"a\"\n[[source]]\nname = \"b\"\n", None);
    let only_b = egress("[[source]]\nname = \"b\"\n", Some(&both));
    let (a, b) = (both.source_named("a").unwrap(), both.source_named("b").unwrap());
    let mut scheduler = Scheduler::default();
    scheduler.limits = with_a_busy_session(now).limits;
    scheduler.set_egress(both);
    scheduler.tick(now, &mut actions);
    // One has a session, which is busy.
    add_one(&mut scheduler, now, 1, &mut actions);
    let found = actions.iter().find_map(|a| if let Action::Resolve(host, _) = a { Some(*host) } else { None });
    let host = found.expect("a look-up");
    scheduler.routed(now, host, Ok(probe::a_route().1), u64::MAX, &mut actions);
    let path = actions.iter().find_map(|a| if let Action::Connect(path) = a { Some(*path) } else { None });
    assert_eq!(path.expect("a session").source, a);
    scheduler.connected(now, PathId { site: 0, source: a }, &mut actions);
    let batch = scheduler.next_batch(now, PathId { site: 0, source: a }, &Arc::default(), &mut actions).unwrap();
    scheduler.landed(&batch.items);
    scheduler.wish(&batch.items[0], Some(Wish::Keep(a)));
    batch.items.into_iter().for_each(|item| scheduler.sleep(now + 50, item, &mut actions));
    actions.clear();
    scheduler.set_egress(only_b);
    scheduler.forget_routes(now, &mut actions);
    assert_eq!(scheduler.census().wishes, 0);
    scheduler.tick(now + 50, &mut actions);
    scheduler.routed(now + 50, host, Ok(probe::a_route().1), u64::MAX, &mut actions);
    for n in 2..30 {
        add_one(&mut scheduler, now + 50, n, &mut actions);
    }
    scheduler.tick(now + 100, &mut actions);
    let dialled = actions.iter().filter_map(|a| if let Action::Connect(path) = a { Some(path.source) } else { None });
    let dialled: Vec<SourceId> = dialled.collect();
    assert!(!dialled.is_empty() && dialled.iter().all(|source| *source == b), "{dialled:?}");
}
