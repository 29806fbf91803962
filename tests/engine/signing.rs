//! Nothing leaves unsigned while a key is configured; and what a reload changes.

use std::time::Duration;

use posthaste::config::{DkimConfig, TlsPolicy};

use crate::peer::{At, Do, Peer};
use crate::world::{World, listeners, zone};

fn key() -> String {
    rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap().serialize_pem()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_key_holds_mail_back_until_it_is_mended() {
    let host = Peer::good(listeners(1).await.remove(0));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("key.pem");
    std::fs::write(&file, "no key").unwrap();
    let dkim = DkimConfig { domain: "us.test".parse().unwrap(), selector: "s1".into(), key_file: file.clone() };
    let world = World::start(zone(&["them"]), host.address().port(), |config| config.dkim = vec![dkim]).await;
    world.send(&["b@them.test"]).await;
    let deferred = world.until("deferred", "them.test", 2).await;
    assert_eq!(deferred[0].verdict(), "deferred 451 4.7.0");
    assert_eq!(host.count(), 0);
    assert!(world.metric("posthaste_signing_failures_total", &[]).await >= 2.0);
    // A reload with the key still broken changes nothing.
    world.daemon().reload(&world.config).unwrap();
    let before = world.told("deferred", "them.test").len();
    world.until("deferred", "them.test", before + 1).await;
    assert_eq!(host.count(), 0);

    std::fs::write(&file, key()).unwrap();
    world.daemon().reload(&world.config).unwrap();
    world.until("delivered", "them.test", 1).await;
    let taken = host.taken();
    assert!(taken[0].content.starts_with("DKIM-Signature: "), "{}", taken[0].content);
    assert!(taken[0].content.contains("d=us.test") && taken[0].content.contains("s=s1"));

    // A key that breaks later holds back what comes later.
    std::fs::write(&file, "no key").unwrap();
    world.daemon().reload(&world.config).unwrap();
    world.send(&["c@them.test"]).await;
    world.until("deferred", "c@them.test", 1).await;
    assert_eq!(host.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_outlives_a_restart() {
    let host = Peer::start(listeners(1).await.remove(0), |ask| match ask.at {
        At::Rcpt => Do::Say("451 4.2.0 busy"),
        _ => Do::Take,
    });
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("key.pem");
    std::fs::write(&file, key()).unwrap();
    let dkim = DkimConfig { domain: "us.test".parse().unwrap(), selector: "s1".into(), key_file: file.clone() };
    let mut world = World::start(zone(&["them"]), host.address().port(), |config| config.dkim = vec![dkim]).await;
    world.send(&["b@them.test"]).await;
    world.until("deferred", "them.test", 1).await;
    assert!(world.stop(Duration::from_secs(5)).await);
    // Signed once: the key is no longer needed for it.
    std::fs::write(&file, "no key").unwrap();
    world.start_again().await;
    host.behave(|_| Do::Take);
    world.until("delivered", "them.test", 1).await;
    let content = host.taken()[0].content.clone();
    assert_eq!(content.matches("DKIM-Signature: ").count(), 1, "{content}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_puts_retries_and_limits_in_force() {
    let host = Peer::start(listeners(1).await.remove(0), |ask| match ask.at {
        At::Rcpt if ask.text.starts_with("later") => Do::Say("451 4.2.0 busy"),
        At::End => Do::After(Duration::from_millis(20)),
        _ => Do::Take,
    });
    let world = World::start(zone(&["them"]), host.address().port(), |config| {
        config.retry.delay_min = Duration::from_secs(600);
        config.retry.delay_max = Duration::from_secs(600);
        config.delivery.connections_per_site = 1;
    })
    .await;
    world.send(&["later1@them.test"]).await;
    world.until("deferred", "later1", 1).await;
    let mut config = world.config.clone();
    config.retry.delay_min = Duration::from_millis(100);
    config.retry.delay_max = Duration::from_millis(100);
    config.delivery.connections_per_site = 4;
    world.daemon().reload(&config).unwrap();
    world.send(&["later2@them.test"]).await;
    world.until("deferred", "later2", 3).await;
    assert_eq!(world.told("deferred", "later1").len(), 1);
    let mut door = world.door().await;
    for n in 0..60 {
        door.send("a@us.test", &[&format!("x{n}@them.test")], "").await;
    }
    world.until("delivered", "them.test", 60).await;
    assert!((2..=4).contains(&host.connections_at_once()), "{} at once", host.connections_at_once());
    // What cannot be used changes nothing.
    config.route = vec![posthaste::config::RouteConfig {
        pattern: "*".into(),
        relay: Vec::new(),
        tls: None,
        username: None,
        password_file: None,
    }];
    assert!(world.daemon().reload(&config).is_err());
    assert_eq!(world.metric("posthaste_config_last_reload_ok", &[]).await, 0.0);
    world.send(&["last@them.test"]).await;
    world.until("delivered", "last@them.test", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_connections_are_used_as_soon_as_they_are_allowed() {
    let host = Peer::start(listeners(1).await.remove(0), |ask| match ask.at {
        At::End => Do::After(Duration::from_millis(30)),
        _ => Do::Take,
    });
    let world =
        World::start(zone(&["them"]), host.address().port(), |config| config.delivery.connections_per_site = 1).await;
    let mut door = world.door().await;
    for n in 0..60 {
        door.send("a@us.test", &[&format!("x{n}@them.test")], "").await;
    }
    assert_eq!(host.connections_at_once(), 1);
    let mut config = world.config.clone();
    config.delivery.connections_per_site = 4;
    world.daemon().reload(&config).unwrap();
    world.until("delivered", "them.test", 60).await;
    assert_eq!(host.connections_at_once(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_that_a_reload_demands_holds_at_once() {
    // Knows no STARTTLS, and takes its time, so that a session is open and mail stands in line.
    let host = Peer::start(listeners(1).await.remove(0), |ask| match ask.at {
        At::End => Do::After(Duration::from_millis(50)),
        _ => Do::Take,
    });
    let world = World::start(zone(&["them"]), host.address().port(), |config| {
        config.delivery.connections_per_site = 1;
    })
    .await;
    let mut door = world.door().await;
    for n in 0..40 {
        door.send("a@us.test", &[&format!("before{n}@them.test")], "").await;
    }
    world.until("delivered", "before", 1).await;
    let mut config = world.config.clone();
    config.delivery.tls = TlsPolicy::Required;
    world.daemon().reload(&config).unwrap();
    // One may be in flight at the reload.
    let in_the_clear = host.count() + 1;
    door.send("a@us.test", &["after@them.test"], "").await;
    world.until("deferred", "after", 1).await;
    world.until("deferred", "before39", 1).await;
    assert!(host.count() <= in_the_clear, "{} after {in_the_clear}", host.count());
    assert!(world.told("deferred", "after")[0].verdict().contains(" 4.7."));
}
