//! What is held back, by limits and orders: who wakes it, and what that costs.

use std::sync::Arc;

use super::world::{SECOND, World, stream};
use crate::clock::Timestamp;
use crate::config::Scope;
use crate::mail::{Class, MessageId};
use crate::shaping::orders::{Deed, Order, OrderId};

fn order(id: u64, deed: Deed, scope: Scope) -> Order {
    let (reason, by, since) = (String::new(), "operator".into(), Timestamp(0));
    Order { id: OrderId(id), deed, scope, reason, by, since, until: None }
}

fn of_domain(domain: &str) -> Scope {
    Scope { domain: Some(domain.into()), ..Scope::default() }
}

#[test]
fn an_idle_session_gives_its_place_to_whoever_waits_for_it() {
    let mut world = World::new(3, r#"limit = [{ connections = 1 }]"#);
    for host in 0..3 {
        world.accept(&stream("shop", Class::Bulk), host, 10_000);
        world.run(world.now + SECOND);
    }
    // It would keep its connection for five seconds.
    let waits: Vec<u64> = world.sent.iter().zip(0..).map(|(sent, n)| sent.at - n * SECOND).collect();
    assert!(waits.len() == 3 && waits.iter().all(|wait| *wait <= 100), "{waits:?}");
    assert_eq!(world.connections_most, 1);
}

#[test]
fn an_idle_session_whose_place_nobody_needs_stays() {
    let mut world = World::new(2, r#"limit = [{ each = ["site"], connections = 1 }]"#);
    for host in 0..2 {
        world.accept(&stream("shop", Class::Bulk), host, 10_000);
        world.run(world.now + SECOND);
    }
    assert_eq!((world.sent.len(), world.scheduler.connections), (2, 2));
}

#[test]
fn a_path_is_listed_once_however_often_its_sessions_rest() {
    let mut world = World::new(3, "limit = []");
    for _ in 0..50 {
        for host in 0..3 {
            world.accept(&stream("shop", Class::Bulk), host, 10_000);
        }
        world.run(world.now + SECOND);
    }
    assert_eq!((world.sent.len(), world.scheduler.resting.len()), (150, 3));
    // All rest, so all can be found by whoever needs room, each once.
    let found: Vec<_> = std::iter::from_fn(|| world.scheduler.some_idle_session()).collect();
    assert_eq!((found.len(), world.scheduler.resting.len()), (world.scheduler.connections, 0));
}

#[test]
fn a_provider_that_a_reload_changes_brings_its_limits() {
    let mut world = World::new(1, r#"limit = [{ match = { provider = "slow" }, each = ["site"], messages = "1/s" }]"#);
    for _ in 0..50 {
        world.accept(&stream("shop", Class::Bulk), 0, 10_000);
    }
    world.run(5 * SECOND);
    assert_eq!(world.sent.len(), 50);
    for route in world.routes.values_mut() {
        Arc::make_mut(route).provider = "slow";
    }
    let now = world.now;
    world.scheduler.forget_routes(now, &mut world.actions);
    for _ in 0..50 {
        world.accept(&stream("shop", Class::Bulk), 0, 10_000);
    }
    world.run(now + 10 * SECOND);
    let sent = world.sent.len() - 50;
    assert!((10..=12).contains(&sent), "{sent} in ten seconds");
}

#[test]
fn nobody_is_woken_for_a_message_larger_than_what_is_left() {
    let mut world = World::new(1, r#"limit = [{ each = ["site"], bytes = "10KB/s burst 100KB" }]"#);
    let shop = stream("shop", Class::Bulk);
    world.accept(&shop, 0, 100_000);
    world.run(2 * SECOND);
    // 20 KB are there by now; each of these wants all of 100.
    let asked = world.asked;
    for _ in 0..20 {
        world.accept(&shop, 0, 100_000);
        world.run(world.now + 50);
    }
    assert_eq!(world.sent.len(), 1);
    assert!(world.asked - asked <= 2, "asked {} times in vain", world.asked - asked);
    world.run(12 * SECOND);
    assert_eq!(world.sent.len(), 2);
}

#[test]
fn a_lane_has_one_timer_however_often_it_is_looked_at() {
    let mut world = World::new(1, "limit = []");
    let pause = Order { until: Some(Timestamp(500 * SECOND)), ..order(1, Deed::Pause, Scope::default()) };
    let pause = Order { scope: Scope { tenant: Some("shop".into()), ..Scope::default() }, ..pause };
    world.scheduler.order(0, pause, &mut world.actions);
    world.accept(&stream("shop", Class::Bulk), 0, 10_000);
    for _ in 0..20 {
        world.run(world.now + SECOND);
        let now = world.now;
        world.scheduler.look_everywhere(now, &mut world.actions);
        world.carry_out();
    }
    assert_eq!((world.sent.len(), world.scheduler.census().held), (0, 1));
    world.run(501 * SECOND);
    assert_eq!((world.sent.len(), world.scheduler.census().held), (1, 0));
}

#[test]
fn what_is_taken_back_while_it_is_held_is_swept_out_of_the_line() {
    let mut world = World::new(2, r#"limit = [{ match = { tenant = "shop" }, messages = "1/h" }]"#);
    let ids: Vec<MessageId> = (0..40).map(|n| world.accept(&stream("shop", Class::Bulk), n % 2, 10_000)).collect();
    world.run(60 * SECOND);
    assert_eq!(world.scheduler.census().ready, 39);
    world.scheduler.cancel(&ids[10..]);
    let now = world.now;
    world.scheduler.sweep_lines(now, &mut world.actions);
    assert_eq!(world.scheduler.census().ready, 9);
}

#[test]
fn an_order_about_one_domain_looks_at_its_site_only() {
    let mut world = World::new(200, r#"limit = [{ match = { tenant = "shop" }, messages = "1/h" }]"#);
    for n in 0..400 {
        world.accept(&stream("shop", Class::Bulk), n % 200, 10_000);
    }
    world.run(60 * SECOND);
    let (now, looks) = (world.now, world.scheduler.looks);
    let about = order(1, Deed::Pause, of_domain("H7.example"));
    world.scheduler.order(now, about, &mut world.actions);
    world.scheduler.take_back_order(now, OrderId(1), &mut world.actions);
    world.scheduler.order(now, order(2, Deed::Pause, of_domain("elsewhere.example")), &mut world.actions);
    let looked = world.scheduler.looks - looks;
    assert!((1..=6).contains(&looked), "{looked} looks");
    assert_eq!(world.scheduler.census().ready, 399);
}

#[test]
fn an_order_about_one_domain_holds_what_stands_in_line_and_lets_it_go() {
    let mut world = World::new(2, "limit = []");
    // Both domains at one site, and nothing can go yet.
    let shared = Arc::clone(&world.routes[&world.hosts[0]]);
    world.routes.insert(world.hosts[1].clone(), shared);
    world.scheduler.order(0, order(1, Deed::Pause, Scope::default()), &mut world.actions);
    for n in 0..20 {
        world.accept(&stream("shop", Class::Bulk), n % 2, 10_000);
    }
    world.run(SECOND);
    world.scheduler.order(SECOND, order(2, Deed::Pause, of_domain("h1.example")), &mut world.actions);
    world.scheduler.take_back_order(SECOND, OrderId(1), &mut world.actions);
    world.carry_out();
    world.run(10 * SECOND);
    assert_eq!(world.sent.len(), 10);
    world.scheduler.take_back_order(world.now, OrderId(2), &mut world.actions);
    world.carry_out();
    world.run(20 * SECOND);
    assert_eq!(world.sent.len(), 20);
}

#[test]
fn a_thousand_paces_cost_a_message_no_more_than_its_own() {
    let mut world = World::new(1, "limit = []");
    let paces: Vec<Order> = (0..1_000)
        .map(|n| {
            let scope = Scope { tenant: Some(format!("t{n}")), campaign: Some(String::new()), ..Scope::default() };
            order(n + 1, Deed::Pace { per_second: 1_000.0 }, scope)
        })
        .collect();
    let rebuilt = world.scheduler.shaper.limits.work.rebuilt;
    world.scheduler.recall_orders(0, paces, &mut world.actions);
    assert_eq!(world.scheduler.shaper.limits.work.rebuilt - rebuilt, 1, "once for all of them");
    for n in 0..1_000 {
        world.accept(&stream(&format!("t{n}"), Class::Bulk), 0, 10_000);
    }
    world.run(60 * SECOND);
    assert_eq!(world.sent.len(), 1_000);
    let compared = world.scheduler.shaper.limits.work.compared;
    assert!((1_000..=10_000).contains(&compared), "{compared} rows for a thousand messages");
}
