//! Where mail goes: MX, preference, what DNS says or does not say.

use std::collections::HashSet;
use std::time::Duration;

use posthaste::demo::dns::Zone;

use crate::peer::{At, Do, Peer};
use crate::world::{World, ip, listeners, logged, zone};

#[tokio::test(flavor = "multi_thread")]
async fn the_best_preference_first_then_the_next_that_answers() {
    let mut hosts = listeners(3).await.into_iter();
    let (first, second, third) =
        (hosts.next().unwrap(), Peer::good(hosts.next().unwrap()), Peer::good(hosts.next().unwrap()));
    let port = second.address().port();
    drop(first);
    let mut zone = Zone::new();
    // mx1 has a dead address and a live one, mx0 is dead altogether.
    zone.mx("them.test", 10, "mx0.them.test").mx("them.test", 20, "mx1.them.test").mx("them.test", 30, "mx2.them.test");
    zone.address("mx0.them.test", ip(0)).address("mx1.them.test", ip(90)).address("mx1.them.test", ip(1));
    zone.address("mx2.them.test", ip(2));
    let world = World::start(zone, port, |_| {}).await;
    world.send(&["b@them.test"]).await;
    let events = world.until("delivered", "them.test", 1).await;
    assert_eq!((second.count(), third.count()), (1, 0));
    assert_eq!(events[0].text("mx_host"), "mx1.them.test");
    assert_eq!(events[0].number("attempt"), 1);
    // The last host is asked once the others are gone.
    drop(second);
    world.send(&["c@them.test"]).await;
    world.until("delivered", "c@them.test", 1).await;
    assert_eq!(third.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_of_one_preference_share_the_load() {
    let hosts: Vec<Peer> = listeners(4).await.into_iter().map(Peer::good).collect();
    let mut zone = Zone::new();
    for (n, preference) in [(0, 10), (1, 10), (2, 10), (3, 20)] {
        let name = format!("mx{n}.them.test");
        zone.mx("them.test", preference, &name).address(&name, ip(n));
    }
    // Each message a connection of its own.
    let world =
        World::start(zone, hosts[0].address().port(), |config| config.delivery.messages_per_connection = 1).await;
    let mut door = world.door().await;
    for n in 0..40 {
        door.send("a@us.test", &[&format!("b{n}@them.test")], "").await;
    }
    world.until("delivered", "them.test", 40).await;
    let counts: Vec<usize> = hosts.iter().map(Peer::count).collect();
    assert!(counts[..3].iter().all(|count| *count >= 3) && counts[3] == 0, "{counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_dns_says_for_good_bounces_at_once() {
    let host = Peer::good(listeners(1).await.remove(0));
    let mut zone = zone(&["us"]);
    zone.null_mx("null.test").empty("nothing.test").mx("odd.test", 10, "10.0.0.1");
    let world = World::start(zone, host.address().port(), |_| {}).await;
    world.send(&["b@null.test", "b@gone.test", "b@nothing.test"]).await;
    let bounced = world.until("bounced", "", 3).await;
    let mut verdicts: Vec<String> =
        bounced.iter().map(|event| format!("{} {}", event.recipient(), event.verdict())).collect();
    verdicts.sort();
    assert_eq!(
        verdicts,
        ["b@gone.test bounced 550 5.1.2", "b@nothing.test bounced 550 5.4.4", "b@null.test bounced 556 5.1.10",]
    );
    // A report each, as they fail one by one; and nobody else hears of it.
    world.until("delivered", "a@us.test", 3).await;
    world.until_empty().await;
    assert_eq!(host.recipients(), ["a@us.test"; 3]);
    assert!(host.taken().iter().all(|taken| taken.sender.is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_name_server_defers_until_it_heals() {
    let host = Peer::good(listeners(1).await.remove(0));
    let mut sick = Zone::new();
    sick.servfail("them.test");
    let world = World::start(sick, host.address().port(), |_| {}).await;
    world.send(&["b@them.test", "c@them.test"]).await;
    let deferred = world.until("deferred", "them.test", 2).await;
    assert_eq!(deferred[0].verdict(), "deferred 451 4.4.3");
    world.dns.change(|zone| *zone = crate::world::zone(&["them"]));
    // The daemon asks no more than every so often by itself; an operator can.
    world.http("POST", "/v1/queue/retry", r#"{"domain":"them.test"}"#).await;
    world.until("delivered", "them.test", 2).await;
    assert_eq!(host.recipients(), ["b@them.test", "c@them.test"]);
    assert_eq!(world.told("bounced", "").len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_domain_without_mx_an_international_one_and_a_literal() {
    let host = Peer::good(listeners(1).await.remove(0));
    let mut zone = Zone::new();
    zone.address("plain.test", ip(0));
    zone.mx("xn--bcher-kva.test", 10, "mx.buecher.test").address("mx.buecher.test", ip(0));
    let world = World::start(zone, host.address().port(), |_| {}).await;
    let to = ["b@plain.test".to_owned(), format!("b@[{}]", ip(0)), "b@b\u{fc}cher.test".to_owned()];
    let mut door = world.door().await;
    for to in &to {
        let parameters = if to.is_ascii() { "" } else { " SMTPUTF8" };
        door.send_as(&format!("<a@us.test>{parameters}"), &[format!("<{to}>")], "").await;
    }
    world.until("delivered", "", 3).await;
    let domains: HashSet<String> =
        host.recipients().iter().map(|to| to.split_once('@').unwrap().1.to_owned()).collect();
    let international = domains.contains("xn--bcher-kva.test") || domains.contains("b\u{fc}cher.test");
    assert!(international && domains.len() == 3, "{domains:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn loopback_is_refused_where_it_is_not_allowed() {
    let host = Peer::good(listeners(1).await.remove(0));
    let world =
        World::start(zone(&["them"]), host.address().port(), |config| config.delivery.allow_loopback = false).await;
    world.send(&["b@them.test"]).await;
    let literal = format!("b@[{}]", ip(0));
    world.send(&[&literal]).await;
    let said = world
        .see("both were judged", || {
            let events = world.events();
            let by_dns = events.iter().find(|event| event.recipient() == "b@them.test")?.clone();
            let by_literal = events.iter().find(|event| event.recipient() == literal)?.clone();
            Some([by_dns, by_literal])
        })
        .await;
    for event in &said {
        assert!(matches!(event.name(), "deferred" | "bounced"), "{event:?}");
        assert!(event.text("reply").contains("public"), "{event:?}");
    }
    assert_eq!(host.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_hangs_does_not_hold_up_the_next() {
    let mut hosts = listeners(2).await.into_iter();
    let hung = Peer::start(hosts.next().unwrap(), |ask| if ask.at == At::Connect { Do::Hang } else { Do::Take });
    let good = Peer::good(hosts.next().unwrap());
    let mut zone = Zone::new();
    zone.mx("them.test", 10, "mx0.them.test").mx("them.test", 20, "mx1.them.test");
    zone.address("mx0.them.test", ip(0)).address("mx1.them.test", ip(1));
    let world = World::start(zone, good.address().port(), |config| {
        config.delivery.timeout.greeting = Duration::from_millis(300);
    })
    .await;
    world.send(&["b@them.test"]).await;
    world.until("delivered", "them.test", 1).await;
    // The second connection knows better than to ask it again.
    world.send(&["c@them.test"]).await;
    world.until("delivered", "c@them.test", 1).await;
    assert_eq!((hung.connections(), good.count()), (1, 2));
    assert!(!logged(&["panicked"]));
}
