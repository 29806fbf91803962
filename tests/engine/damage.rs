//! A record of the log goes bad on disk under the running daemon.

use std::os::unix::fs::FileExt;
use std::time::Duration;

use crate::peer::{At, Do, Peer};
use crate::submission::answer;
use crate::world::{World, listeners, logged, zone};

/// Overwrites `what` in a segment file.
fn spoil(world: &World, what: &[u8]) {
    for entry in std::fs::read_dir(world.path("spool")).unwrap() {
        let path = entry.unwrap().path();
        let Ok(octets) = std::fs::read(&path) else { continue };
        if let Some(at) = octets.windows(what.len()).position(|window| window == what) {
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            return file.write_all_at(b"#####", at as u64).unwrap();
        }
    }
    panic!("not found on disk");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_whose_envelope_is_damaged_holds_up_nobody_and_comes_to_an_end() {
    let host = Peer::start(listeners(1).await.remove(0), |ask| match ask.at {
        At::Rcpt => Do::Say("451 4.2.0 busy"),
        _ => Do::Take,
    });
    let world = World::start(zone(&["them"]), host.address().port(), |_| {}).await;
    let bad = world.send_with(&["broken-head@them.test"], "X-Posthaste-Expires: 2s\r\n").await;
    world.send(&["good@them.test"]).await;
    world.until("deferred", "them.test", 2).await;
    spoil(&world, b"broken-head@them.test");
    host.behave(|_| Do::Take);
    world.until("delivered", "good@", 1).await;
    world.until_empty().await;
    assert!(logged(&[bad.as_str(), "ERROR"]));
    assert_eq!(world.metric("posthaste_recipients_total", &["expired"]).await, 1.0);
    assert_eq!(host.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_message_holds_up_nobody() {
    let host = Peer::start(listeners(1).await.remove(0), |ask| match ask.at {
        At::Rcpt => Do::Say("451 4.2.0 busy"),
        _ => Do::Take,
    });
    let mut world =
        World::start(zone(&["them"]), host.address().port(), |config| config.delivery.connections_per_site = 1).await;
    let bad = world.send_with(&["bad@them.test"], "X-Poison: mark-of-the-bad-one\r\nX-Posthaste-Expires: 4s\r\n").await;
    for n in 0..5 {
        world.send(&[&format!("good{n}@them.test")]).await;
    }
    world.until("deferred", "bad@", 1).await;
    world.until("deferred", "good", 5).await;
    spoil(&world, b"mark-of-the-bad-one");
    host.behave(|_| Do::Take);
    world.until("delivered", "good", 5).await;
    world.send(&["after@them.test"]).await;
    world.until("delivered", "after@", 1).await;
    world.see("an error in the log", || logged(&[bad.as_str(), "ERROR"]).then_some(())).await;
    assert!(host.taken().iter().all(|taken| taken.recipient != "bad@them.test"));

    let mut bodies = 0;
    let report = posthaste::log::verify(&world.path("spool"), &mut |record| bodies += usize::from(!record.body_intact));
    let report = report.unwrap();
    assert_eq!((report.damaged.len(), bodies), (1, 1), "{report:?}");
    assert!(world.metric("posthaste_spool_damaged_total", &[]).await >= 1.0);
    // It comes to its end, told like any other: the envelope is intact.
    world.until_empty().await;
    world.until("expired", "bad@them.test", 1).await;
    assert_eq!(world.metric("posthaste_recipients_total", &["expired"]).await, 1.0);
    // Nothing comes back with a restart.
    assert!(world.stop(Duration::from_secs(5)).await);
    world.start_again().await;
    assert_eq!(world.daemon().queue().open_recipients(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_ledger_is_told_of_and_forgets_no_key_that_the_spool_has() {
    let host = Peer::good(listeners(1).await.remove(0));
    let mut world = World::start(zone(&["them"]), host.address().port(), |_| {}).await;
    assert_eq!(world.http("GET", "/readyz", "").await, (200, "ready\n".into()));
    let order = "X-Posthaste-Not-Before: 1h\r\nX-Posthaste-Idempotency-Key: order-1\r\n";
    let id = world.send_with(&["b@them.test"], order).await;
    world.stop(Duration::from_secs(5)).await;
    // Whichever segments there are.
    for entry in std::fs::read_dir(world.path("ledger/receipts")).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with("seg-") {
            let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
            file.write_all_at(b"#####", 4096 + 50).unwrap();
        }
    }
    world.start_again().await;
    assert!(world.metric("posthaste_ledger_damaged", &["receipts"]).await > 0.0);
    let (status, told) = world.http("GET", "/readyz", "").await;
    assert!(status == 200 && told.starts_with("ready\n") && told.contains("receipts is damaged"), "{status} {told}");
    // The key is known all the same.
    assert_eq!(answer(&world, order).await, format!("250 2.0.0 ok, queued as {id} (accepted before)"));
}
