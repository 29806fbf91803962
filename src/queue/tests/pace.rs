//! Limits and fairness, on simulated time.

use std::collections::HashMap;
use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::world::{SECOND, World, stream};
use crate::mail::{Class, MessageId, Stream};
use crate::queue::probe;
use crate::shaping::Rows;

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
