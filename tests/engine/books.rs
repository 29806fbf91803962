//! A mixed run; at every moment what was accepted is what ended and what waits.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use posthaste::clock::Clock;
use posthaste::demo::receiver::habits::{Cuts, Greylists, Refuses, SessionsMax, TransactionsMax};
use posthaste::demo::receiver::{Behaviour, Keep, Receiver, Step};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::peer::{At, Do, Peer};
use crate::world::{Event, World, listeners, zone};

#[tokio::test(flavor = "multi_thread")]
async fn the_books_agree_after_a_mixed_run() {
    let given = std::env::var("POSTHASTE_SEED").ok().and_then(|text| text.parse().ok());
    let seed: u64 = given.unwrap_or(Clock.timestamp().0);
    println!("POSTHASTE_SEED={seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let names = ["good", "grey", "cutting", "some", "rude", "us", "dead"];
    let mut hosts = listeners(6).await.into_iter();
    let mut receiver = |behaviour| Receiver::start(hosts.next().unwrap(), behaviour, Keep::Facts).unwrap();
    let good = receiver(Behaviour::default());
    let grey = receiver(Behaviour::default().habit(Greylists::after(Duration::from_millis(300))));
    let cutting = receiver(Behaviour::default().habit(TransactionsMax(5)).habit(Cuts::every(7, Step::Rcpt)));
    let some = receiver(Behaviour::default().habit(SessionsMax(2)).habit(Refuses(0.3)));
    let mut manners = SmallRng::seed_from_u64(seed ^ 1);
    let rude = Peer::start(hosts.next().unwrap(), move |ask| match (ask.at, manners.random_range(0..20)) {
        (At::Rcpt, 0) => Do::Say("550 5.1.1 no such user"),
        (At::Rcpt, 1..4) => Do::Say("451 4.2.0 busy"),
        (At::Mail, 0) => Do::Close("421 4.3.2 bye"),
        (At::End, 0) => Do::Say("554 5.7.1 no"),
        (At::End, 1) => Do::Cut,
        (At::Data, 0) => Do::Say("451 4.3.0 not now"),
        _ => Do::Take,
    });
    let us = Peer::good(hosts.next().unwrap());
    let world = World::start(zone(&names), us.address().port(), |config| {
        config.retry.delay_min = Duration::from_millis(100);
        config.retry.delay_max = Duration::from_millis(500);
    })
    .await;

    let mut door = world.door().await;
    let mut handed_over = HashSet::new();
    for n in 0..300 {
        let count = rng.random_range(1..6);
        let to: HashSet<String> =
            (0..count).map(|k| format!("r{n}x{k}@{}.test", names[rng.random_range(0..names.len())])).collect();
        let to: Vec<&str> = to.iter().map(String::as_str).collect();
        let sender = if rng.random_bool(0.2) { "" } else { "a@us.test" };
        let headers = match rng.random_range(0..3) {
            0 => "X-Posthaste-Class: bulk\r\nX-Posthaste-Expires: 5s\r\n",
            _ => "X-Posthaste-Expires: 5s\r\n",
        };
        let id = door.send(sender, &to, headers).await;
        handed_over.extend(to.iter().map(|to| (id.clone(), (*to).to_owned())));
        if n % 50 == 0 {
            check_counters(&world).await;
        }
    }
    world.until_empty().await;
    let terminal = settled(&world).await;
    let mut ends: HashMap<(String, String), usize> = HashMap::new();
    for event in &terminal {
        *ends.entry((event.text("message_id").to_owned(), event.recipient().to_owned())).or_default() += 1;
    }
    assert!(ends.values().all(|count| *count == 1));
    assert!(handed_over.iter().all(|recipient| ends.contains_key(recipient)));
    let delivered = |name: &str| world.told("delivered", &format!("@{name}.test")).len();
    assert_eq!(delivered("good"), good.delivered());
    assert_eq!(delivered("grey"), grey.delivered());
    assert_eq!(delivered("cutting"), cutting.delivered());
    assert_eq!(delivered("some"), some.delivered());
    assert_eq!(delivered("us"), us.count());
    assert_eq!(delivered("rude"), rude.count());
    let violations = [&good, &grey, &cutting, &some].map(Receiver::violations);
    assert!(violations.iter().all(Vec::is_empty), "{violations:?}");
}

/// Waits until the queue is empty and the event log has as many ends as recipients were accepted: reports of what just
/// failed are accepted a moment later.
async fn settled(world: &World) -> Vec<Event> {
    let deadline = Clock.instant() + Duration::from_secs(20);
    loop {
        world.until_empty().await;
        let accepted = check_counters(world).await;
        let ends: Vec<Event> = world.events().into_iter().filter(Event::is_terminal).collect();
        if ends.len() as f64 == accepted && world.daemon().queue().open_recipients() == 0 {
            return ends;
        }
        assert!(Clock.instant() < deadline, "{accepted} accepted, {} ends", ends.len());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Accepted is what ended and what waits. How many were accepted.
async fn check_counters(world: &World) -> f64 {
    let (status, text) = world.http("GET", "/metrics", "").await;
    assert_eq!(status, 200);
    let sum = |name: &str| -> f64 {
        let samples = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
        samples.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
    };
    let accepted = sum("posthaste_recipients_accepted_total");
    let (ended, waiting) = (sum("posthaste_recipients_total"), sum("posthaste_queue_recipients"));
    // A scrape is no snapshot: what moves while it is taken may be counted in neither or both.
    assert!((accepted - ended - waiting).abs() <= 40.0, "{accepted} accepted, {ended} ended, {waiting} waiting");
    check_samples(&text);
    accepted
}

/// It is Prometheus' text format, and no label names a person or a domain.
fn check_samples(text: &str) {
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (sample, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        assert!(value.parse::<f64>().is_ok(), "{line}");
        let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'), "{line}");
        let labels = labels.strip_suffix('}').unwrap_or_else(|| panic!("{line}"));
        assert!(!labels.contains('@') && !labels.contains(".test"), "{line}");
        assert_eq!(labels.matches('"').count() % 2, 0, "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_readiness() {
    let host = Peer::good(listeners(1).await.remove(0));
    let world = World::start(zone(&["them"]), host.address().port(), |config| config.spool.recipients_max = 1).await;
    assert_eq!(world.http("GET", "/healthz", "").await.0, 200);
    assert_eq!(world.http("GET", "/readyz", "").await.0, 200);
    world.send_with(&["b@them.test"], "X-Posthaste-Not-Before: 1h\r\n").await;
    let (status, why) = world.http("GET", "/readyz", "").await;
    assert_eq!(status, 503);
    assert!(why.contains("queue is full"), "{why}");
    assert_eq!(world.http("POST", "/v1/queue/retry", "nonsense").await.0, 400);
    assert_eq!(world.http("GET", "/v1/queue/nonsense", "").await.0, 400);
}
