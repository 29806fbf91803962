//! Stopping and starting again on the same data.

use std::collections::HashMap;
use std::time::Duration;

use crate::peer::{At, Do, Peer};
use crate::world::{Event, World, listeners, time, zone};

const GRACE: Duration = Duration::from_secs(10);

/// Positions rise, and each recipient of each message comes to its end once.
fn check_books(events: &[Event]) {
    let mut ends: HashMap<(&str, &str), usize> = HashMap::new();
    let mut last = (0, 0);
    for event in events {
        let (segment, offset) = event.text("position").trim_end_matches('+').split_once('-').unwrap();
        let position: (u64, u64) = (segment.parse().unwrap(), offset.parse().unwrap());
        assert!(position >= last, "{position:?} behind {last:?}");
        last = position;
        if event.is_terminal() {
            *ends.entry((event.text("message_id"), event.recipient())).or_default() += 1;
        }
    }
    assert!(ends.values().all(|count| *count == 1), "{ends:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn states_attempts_and_due_times_survive() {
    let mut hosts = listeners(2).await.into_iter();
    let host = Peer::start(hosts.next().unwrap(), |ask| match ask.at {
        At::Rcpt if ask.text.starts_with("later") => Do::Say("451 4.2.0 busy"),
        At::Rcpt if ask.text.starts_with("no") => Do::Say("550 5.1.1 no such user"),
        _ => Do::Take,
    });
    let us = Peer::good(hosts.next().unwrap());
    let mut world = World::start(zone(&["them", "us"]), host.address().port(), |config| {
        config.retry.delay_min = Duration::from_secs(600);
        config.retry.delay_max = Duration::from_secs(600);
        config.delivery.connections_per_site = 1;
    })
    .await;
    // 50 recipients, partly done.
    let to: Vec<String> = (0..50).map(|n| format!("{}{n}@them.test", ["yes", "later", "no"][n % 3])).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    let id = world.send(&to).await;
    let held = world.send_with(&["held@them.test"], "X-Posthaste-Not-Before: 1h\r\n").await;
    world.until("deferred", "them.test", 17).await;
    world.until("delivered", "a@us.test", 1).await;
    let before = world.http("GET", &format!("/v1/queue/{id}"), "").await.1;

    for round in 0..2 {
        assert!(world.stop(GRACE).await);
        world.start_again().await;
        let after = world.http("GET", &format!("/v1/queue/{id}"), "").await.1;
        check_same_view(&before, &after, round);
        assert_eq!(world.http("GET", &format!("/v1/queue/{held}"), "").await.0, 200);
    }
    assert_eq!(world.daemon().queue().open_recipients(), 18);
    host.behave(|_| Do::Take);
    let (_, answer) = world.http("POST", "/v1/queue/retry", "{}").await;
    assert_eq!(answer, r#"{"recipients":18}"#);
    world.until_empty().await;
    world.until("delivered", "them.test", 17 + 17 + 1).await;
    let second = world.told("delivered", "later");
    assert!(second.iter().all(|event| event.number("attempt") == 2), "{second:?}");
    assert_eq!((host.count(), us.count()), (17 + 17 + 1, 1));
    check_books(&world.events());
}

/// The same recipients in the same states, due within a second of the same time.
fn check_same_view(before: &str, after: &str, round: usize) {
    let read = |text: &str| -> serde_json::Value { serde_json::from_str(text).unwrap() };
    let (before, after) = (read(before), read(after));
    let (old, new) = (before["recipients"].as_array().unwrap(), after["recipients"].as_array().unwrap());
    assert_eq!(old.len(), new.len());
    for (old, new) in old.iter().zip(new) {
        for field in ["address", "state", "attempts", "reply"] {
            assert_eq!(old[field], new[field], "round {round}: {old} {new}");
        }
        let seconds = |view: &serde_json::Value| view["next_attempt"].as_str().map(|time| time[..19].to_owned());
        let minutes = |text: Option<String>| text.map(|text| text[..16].to_owned());
        assert_eq!(seconds(old).is_some(), seconds(new).is_some(), "round {round}: {old} {new}");
        if !matches!(seconds(old).as_deref().map(|t| &t[17..]), Some("59" | "00")) {
            assert_eq!(minutes(seconds(old)), minutes(seconds(new)), "round {round}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_waits_is_delivered_once() {
    let mut hosts = listeners(2).await.into_iter();
    let slow = Peer::start(hosts.next().unwrap(), |ask| match ask.at {
        At::End => Do::After(Duration::from_millis(10)),
        _ => Do::Take,
    });
    let mut door_shut = true;
    let deferring = Peer::start(hosts.next().unwrap(), move |ask| {
        if ask.at != At::Rcpt {
            return Do::Take;
        }
        door_shut = !door_shut;
        if door_shut { Do::Say("451 4.2.0 busy") } else { Do::Take }
    });
    let mut world = World::start(zone(&["slow", "defer"]), slow.address().port(), |config| {
        config.delivery.connections_per_site = 2;
    })
    .await;
    let mut door = world.door().await;
    for n in 0..200 {
        door.send("a@us.test", &[&format!("x{n}@slow.test"), &format!("x{n}@defer.test")], "").await;
    }
    drop(door);
    // Stopped three times in the middle of it.
    for round in 1..4 {
        world.see("some were delivered", || (slow.count() >= round * 40).then_some(())).await;
        assert!(world.stop(GRACE).await);
        world.start_again().await;
    }
    world.until_empty().await;
    world.until("delivered", "", 400).await;
    assert_eq!((slow.count(), deferring.count()), (200, 200));
    let mut slow = slow.recipients();
    slow.dedup();
    assert_eq!(slow.len(), 200);
    check_books(&world.events());
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_does_not_wait_for_a_receiver_that_never_greets() {
    let mut hosts = listeners(2).await.into_iter();
    let hung = Peer::start(hosts.next().unwrap(), |ask| if ask.at == At::Connect { Do::Hang } else { Do::Take });
    let mut world = World::start(zone(&["them"]), hung.address().port(), |_| {}).await;
    world.send(&["b@them.test"]).await;
    world.see("a connection", || (hung.connections() == 1).then_some(())).await;
    let mut drained = false;
    let took = time(async { drained = world.stop(GRACE).await }).await;
    assert!(drained && took < Duration::from_secs(3), "{took:?}");
    hung.behave(|_| Do::Take);
    world.start_again().await;
    world.until("delivered", "them.test", 1).await;
    assert_eq!(hung.count(), 1);
    check_books(&world.events());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_name_server_does_not_hold_up_the_stop() {
    let hosts = listeners(1).await;
    let port = hosts[0].local_addr().unwrap().port();
    let mut zone = zone(&[]);
    zone.silent("them.test");
    let mut world = World::start(zone, port, |config| config.dns.timeout = Duration::from_secs(30)).await;
    world.send(&["b@them.test"]).await;
    world.see("a question", || (world.dns.questions_total() > 0).then_some(())).await;
    let mut drained = false;
    let took = time(async { drained = world.stop(GRACE).await }).await;
    assert!(drained && took < Duration::from_secs(3), "{took:?}");
}
