//! Sites: domains that meet at one MX set, dead ones, and ones that come back.

use std::time::Duration;

use posthaste::clock::Clock;
use posthaste::demo::dns::Zone;
use posthaste::demo::receiver::habits::{SessionsMax, Slow};
use posthaste::demo::receiver::{Behaviour, Keep, Receiver};

use crate::peer::{At, Do, Peer};
use crate::world::{World, ip, listeners, zone};

#[tokio::test(flavor = "multi_thread")]
async fn domains_of_one_mx_set_share_its_connections() {
    let host = Peer::start(listeners(1).await.remove(0), |ask| match ask.at {
        At::End => Do::After(Duration::from_millis(5)),
        _ => Do::Take,
    });
    let mut zone = Zone::new();
    zone.address("mx.host.test", ip(0));
    for n in 0..10 {
        zone.mx(&format!("d{n}.test"), 10 + n, "mx.host.test");
    }
    let world = World::start(zone, host.address().port(), |config| config.delivery.connections_per_site = 3).await;
    let mut door = world.door().await;
    for n in 0..100 {
        door.send("a@us.test", &[&format!("b{n}@d{}.test", n % 10)], "").await;
    }
    world.until("delivered", "", 100).await;
    assert!(host.connections_at_once() <= 3, "{} at once", host.connections_at_once());
    assert!(host.connections() <= 6, "{} connections for 100 messages", host.connections());
    let sites: std::collections::HashSet<String> =
        world.events().iter().map(|event| event.text("site").to_owned()).collect();
    assert_eq!(sites.len(), 1, "{sites:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_site_costs_one_probe_and_comes_back_by_itself() {
    let host = listeners(1).await.remove(0);
    let address = host.local_addr().unwrap();
    drop(host);
    let world = World::start(zone(&["them"]), address.port(), |config| {
        config.delivery.site_pause_min = Duration::from_secs(1);
        config.retry.delay_min = Duration::from_secs(1);
    })
    .await;
    let mut door = world.door().await;
    let begun = Clock.instant();
    for n in 0..50 {
        door.send("a@us.test", &[&format!("b{n}@them.test")], "").await;
    }
    world.until("deferred", "them.test", 50).await;
    let probes = world.metric("posthaste_session_failures_total", &[]).await;
    // One, and one a pause on a machine that needs seconds for this.
    let most = 2.0 + (Clock.instant() - begun).as_secs_f64();
    assert!((1.0..=most).contains(&probes), "{probes} probes");
    let (_, sites) = world.http("GET", "/v1/sites", "").await;
    assert!(sites.contains("shut"), "{sites}");
    let back = Peer::good(tokio::net::TcpListener::bind(address).await.unwrap());
    world.until("delivered", "them.test", 50).await;
    assert_eq!(back.count(), 50);
    let verdict = world.told("deferred", "them.test")[0].verdict();
    assert!(verdict.starts_with("deferred 4"), "{verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_need_not_wait() {
    let host = listeners(1).await.remove(0);
    let address = host.local_addr().unwrap();
    drop(host);
    let world = World::start(zone(&["them"]), address.port(), |config| {
        config.delivery.site_pause_min = Duration::from_secs(600);
        config.delivery.site_pause_max = Duration::from_secs(600);
        config.retry.delay_min = Duration::from_secs(600);
        config.retry.delay_max = Duration::from_secs(600);
    })
    .await;
    let mut ids = Vec::new();
    for n in 0..20 {
        ids.push(world.send(&[&format!("b{n}@them.test")]).await);
    }
    world.until("deferred", "them.test", 20).await;
    let back = Peer::good(tokio::net::TcpListener::bind(address).await.unwrap());
    // One message, then the rest.
    let (status, answer) = world.http("POST", "/v1/queue/retry", &format!(r#"{{"message_id":"{}"}}"#, ids[7])).await;
    assert_eq!((status, answer.as_str()), (200, r#"{"recipients":1}"#));
    world.until("delivered", "b7@them.test", 1).await;
    let (_, waiting) = world.http("GET", "/v1/queue?domain=them.test", "").await;
    assert_eq!(waiting.matches("message_id").count(), 19, "{waiting}");
    let (status, answer) = world.http("POST", "/v1/queue/retry", "{}").await;
    assert_eq!((status, answer.as_str()), (200, r#"{"recipients":19}"#));
    world.until("delivered", "them.test", 20).await;
    assert_eq!(back.count(), 20);
    assert_eq!(world.http("GET", &format!("/v1/queue/{}", ids[0]), "").await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_greets_and_hangs_up_is_probed_rarely() {
    let host = Peer::start(listeners(1).await.remove(0), |ask| match ask.at {
        At::Mail => Do::Cut,
        _ => Do::Take,
    });
    let world = World::start(zone(&["them"]), host.address().port(), |config| {
        config.delivery.site_pause_min = Duration::from_secs(300);
    })
    .await;
    let mut door = world.door().await;
    for n in 0..50 {
        door.send("a@us.test", &[&format!("b{n}@them.test")], "").await;
    }
    world.until("deferred", "them.test", 50).await;
    assert!(host.connections() <= 20, "{} connections", host.connections());
}

/// A receiver that takes so many connections at once and sends others away with 421.
async fn check_crowded(connections: usize) {
    let slow = Slow { step: None, least: Duration::from_millis(2), most: Duration::from_millis(2) };
    let behaviour = Behaviour::default().habit(SessionsMax(connections)).habit(slow);
    let host = Receiver::start(listeners(1).await.remove(0), behaviour, Keep::Facts).unwrap();
    let world = World::start(zone(&["them"]), host.addr().port(), |config| {
        config.delivery.site_pause_min = Duration::from_secs(300);
        config.delivery.site_pause_max = Duration::from_secs(300);
    })
    .await;
    let mut door = world.door().await;
    for n in 0..100 {
        door.send("a@us.test", &[&format!("b{n}@them.test")], "").await;
    }
    world.until("delivered", "them.test", 100).await;
    assert_eq!((host.delivered(), host.violations()), (100, vec![]), "{connections}");
    assert_eq!(world.told("deferred", "").len(), 0, "{connections}");
    assert!(host.counts().connections <= 30, "{connections}: {:?}", host.counts());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_takes_few_connections_gets_few() {
    check_crowded(1).await;
    check_crowded(3).await;
}
