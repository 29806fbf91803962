//! A record of the log goes bad on disk under the running daemon.

use std::os::unix::fs::FileExt;
use std::time::Duration;

use crate::peer::{At, Do, Peer};
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
