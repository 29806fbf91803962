//! What must happen at its time: not before, and not after.

use std::time::Duration;

use crate::peer::{At, Do, Peer};
use crate::world::{World, listeners, time, zone};

#[tokio::test(flavor = "multi_thread")]
async fn a_message_always_put_off_expires_on_time() {
    let mut hosts = listeners(2).await.into_iter();
    let busy = Peer::start(hosts.next().unwrap(), |ask| match ask.at {
        At::Rcpt => Do::Say("451 4.2.0 busy"),
        _ => Do::Take,
    });
    let us = Peer::good(hosts.next().unwrap());
    let world = World::start(zone(&["them", "us"]), busy.address().port(), |_| {}).await;
    let took = time(async {
        world.send_with(&["b@them.test"], "X-Posthaste-Expires: 1500ms\r\n").await;
        world.until("expired", "b@them.test", 1).await;
    })
    .await;
    assert!((1450..2500).contains(&took.as_millis()), "{took:?}");
    world.until("delivered", "a@us.test", 1).await;
    assert!(us.taken()[0].content.contains("4.2.0 busy"), "{}", us.taken()[0].content);
    world.until_empty().await;
    assert_eq!(
        world.events().iter().filter(|event| event.recipient() == "b@them.test" && event.is_terminal()).count(),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_in_line_at_a_hung_site_expires_on_time() {
    let mut hosts = listeners(2).await.into_iter();
    let hung = Peer::start(hosts.next().unwrap(), |ask| if ask.at == At::Connect { Do::Hang } else { Do::Take });
    let us = Peer::good(hosts.next().unwrap());
    let world = World::start(zone(&["them", "us"]), hung.address().port(), |_| {}).await;
    let took = time(async {
        world.send_with(&["b@them.test", "c@them.test"], "X-Posthaste-Expires: 1s\r\n").await;
        world.until("expired", "them.test", 2).await;
    })
    .await;
    assert!((950..2000).contains(&took.as_millis()), "{took:?}");
    world.until("delivered", "a@us.test", 1).await;
    world.until_empty().await;
    assert_eq!(us.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_wakes_at_a_hung_site_expires_on_time() {
    let mut hosts = listeners(2).await.into_iter();
    let mut connections = 0;
    // The first connection puts off, all others hang.
    let host = Peer::start(hosts.next().unwrap(), move |ask| match ask.at {
        At::Connect => {
            connections += 1;
            if connections > 1 { Do::Hang } else { Do::Take }
        }
        At::Rcpt => Do::Close("451 4.2.0 busy"),
        _ => Do::Take,
    });
    let _us = Peer::good(hosts.next().unwrap());
    let world = World::start(zone(&["them", "us"]), host.address().port(), |config| {
        // The next attempt would be later than the expiry, so it is at the expiry.
        config.retry.delay_min = Duration::from_secs(60);
        config.retry.delay_max = Duration::from_secs(60);
    })
    .await;
    let took = time(async {
        for n in 0..20 {
            world.send_with(&[&format!("b{n}@them.test")], "X-Posthaste-Expires: 2s\r\n").await;
            // Keeps the site known and its next connection hanging.
        }
        world.until("deferred", "them.test", 1).await;
        world.until("expired", "them.test", 20).await;
    })
    .await;
    assert!(took.as_millis() < 4000, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_held_back_until_its_time_and_tells_whose_it_is() {
    let host = Peer::good(listeners(1).await.remove(0));
    let world = World::start(zone(&["them"]), host.address().port(), |_| {}).await;
    let headers = "X-Posthaste-Not-Before: 1200ms\r\nX-Posthaste-Class: bulk\r\nX-Posthaste-Tenant: shop\r\n\
                   X-Posthaste-Campaign: spring\r\nX-Posthaste-Tags: one, two\r\n";
    let took = time(async {
        world.send_with(&["b@them.test"], headers).await;
        assert_eq!(world.metric("posthaste_queue_recipients", &["bulk", "waiting"]).await, 1.0);
        world.until("delivered", "them.test", 1).await;
    })
    .await;
    assert!((1150..2500).contains(&took.as_millis()), "{took:?}");
    let event = &world.told("delivered", "them.test")[0];
    let words = ["class", "tenant", "campaign"].map(|field| event.text(field));
    assert_eq!(words, ["bulk", "shop", "spring"]);
    assert_eq!(event.0["tags"], serde_json::json!(["one", "two"]));
    assert!(event.0["timings_ms"]["queue"].as_u64().unwrap() < 1000, "{event:?}");
    assert!(!host.taken()[0].content.contains("X-Posthaste"));
}
