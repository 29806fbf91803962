//! What becomes of each recipient when receivers say no, not now, or nothing.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use posthaste::config::Config;
use posthaste::demo::receiver::habits::Greylists;
use posthaste::demo::receiver::{Behaviour, Keep, Offers, Receiver};

use tokio::task::JoinSet;

use crate::peer::{Ask, At, Do, Peer};
use crate::world::{World, listeners, zone};

/// Does `what` at this point the first `times` times, and takes everything after.
fn first_times(times: usize, at: At, what: Do) -> impl FnMut(&Ask<'_>) -> Do + Send {
    let mut left = times;
    move |ask| {
        if ask.at == at && left > 0 {
            left -= 1;
            return what.clone();
        }
        Do::Take
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn greylisted_then_taken() {
    let behaviour = Behaviour::default().habit(Greylists::after(Duration::from_millis(400)));
    let host = Receiver::start(listeners(1).await.remove(0), behaviour, Keep::Content).unwrap();
    let world = World::start(zone(&["them"]), host.addr().port(), |_| {}).await;
    let id = world.send(&["b@them.test"]).await;
    let delivered = world.until("delivered", "them.test", 1).await;
    let deferred = world.told("deferred", "them.test");
    assert!(!deferred.is_empty());
    assert_eq!(deferred[0].verdict(), "deferred 450 4.7.1");
    assert_eq!(delivered[0].number("attempt"), deferred.len() as u64 + 1);
    assert!(delivered.iter().chain(&deferred).all(|event| event.text("message_id") == id));
    assert_eq!((host.delivered(), host.violations()), (1, vec![]));
    assert!(host.deliveries()[0].tls);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_draws_one_report_and_a_report_draws_none() {
    let mut hosts = listeners(2).await.into_iter();
    let refusing = Peer::start(hosts.next().unwrap(), |ask| match ask.at {
        At::Rcpt => Do::Say("550 5.1.1 no such user"),
        _ => Do::Take,
    });
    // Senders live here; one of them refuses reports.
    let us = Peer::start(hosts.next().unwrap(), |ask| match ask.at {
        At::Rcpt if ask.text.starts_with("full") => Do::Say("552 5.2.2 mailbox full"),
        _ => Do::Take,
    });
    let world = World::start(zone(&["them", "us"]), us.address().port(), |_| {}).await;
    let mut door = world.door().await;
    let to = |notify: &str| [format!("<b@them.test>{notify}")];
    door.send_as("<a@us.test>", &to(""), "").await;
    door.send_as("<>", &to(""), "").await;
    door.send_as("<never@us.test>", &to(" NOTIFY=NEVER"), "").await;
    door.send_as("<full@us.test>", &to(""), "").await;
    door.send_as("<two@us.test>", &["<c@them.test>".into(), "<d@them.test>".into()], "").await;
    world.until("bounced", "them.test", 6).await;
    world.until("bounced", "full@us.test", 1).await;
    world.until("delivered", "two@us.test", 1).await;
    world.until_empty().await;
    assert_eq!(us.recipients(), ["a@us.test", "two@us.test"]);
    let reports = us.taken();
    let of = |who: &str| &reports.iter().find(|report| report.recipient == who).unwrap().content;
    assert!(of("a@us.test").contains("Final-Recipient: rfc822; b@them.test"), "{}", of("a@us.test"));
    assert!(of("two@us.test").contains("c@them.test") && of("two@us.test").contains("d@them.test"));
    let ends = world.events().iter().filter(|event| event.is_terminal()).count();
    assert_eq!((ends, refusing.count()), (6 + 3, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_recipient_has_its_own_fate() {
    let mut asked: HashMap<String, usize> = HashMap::new();
    let mut hosts = listeners(2).await.into_iter();
    let host = Peer::start(hosts.next().unwrap(), move |ask| {
        if ask.at != At::Rcpt {
            return Do::Take;
        }
        let times = asked.entry(ask.text.into()).or_default();
        *times += 1;
        match ask.text.split_at(2).0 {
            "no" => Do::Say("550 5.1.1 no such user"),
            "la" if *times < 3 => Do::Say("451 4.2.0 mailbox busy"),
            _ => Do::Take,
        }
    });
    let us = Peer::good(hosts.next().unwrap());
    let world = World::start(zone(&["them", "us"]), host.address().port(), |_| {}).await;
    world.send(&["yes1@them.test", "no1@them.test", "later@them.test", "no2@them.test", "yes2@them.test"]).await;
    world.until("delivered", "later@them.test", 1).await;
    world.until("delivered", "a@us.test", 1).await;
    world.until_empty().await;
    let mut told: Vec<String> = world
        .events()
        .iter()
        .filter(|event| event.recipient().ends_with("them.test"))
        .map(|event| format!("{} {} {}", event.recipient(), event.number("attempt"), event.verdict()))
        .collect();
    told.sort();
    assert_eq!(
        told,
        [
            "later@them.test 1 deferred 451 4.2.0",
            "later@them.test 2 deferred 451 4.2.0",
            "later@them.test 3 delivered 250 2.0.0",
            "no1@them.test 1 bounced 550 5.1.1",
            "no2@them.test 1 bounced 550 5.1.1",
            "yes1@them.test 1 delivered 250 2.0.0",
            "yes2@them.test 1 delivered 250 2.0.0",
        ]
    );
    // One transaction for all, then two more for the one that was put off.
    assert_eq!((host.mails(), host.asked().len()), (3, 7));
    assert_eq!(us.recipients(), ["a@us.test"]);
}

const EVERYWHERE: [At; 6] = [At::Connect, At::Ehlo, At::Mail, At::Rcpt, At::Data, At::End];

/// A receiver that does `what` at `at` a few times: everything is delivered at last, nothing is refused.
async fn check_broken(at: At, what: Do, copies: bool) -> World {
    let host = Peer::start(listeners(1).await.remove(0), first_times(3, at, what.clone()));
    let world = World::start(zone(&["them"]), host.address().port(), |config| {
        config.delivery.site_pause_min = Duration::from_millis(100);
        config.delivery.site_pause_max = Duration::from_millis(200);
    })
    .await;
    world.send(&["b@them.test", "c@them.test"]).await;
    world.send(&["d@them.test"]).await;
    world.until("delivered", "them.test", 3).await;
    world.until_empty().await;
    assert_eq!(world.told("bounced", "").len(), 0, "{at:?} {what:?}");
    let arrived: HashSet<String> = host.recipients().into_iter().collect();
    assert_eq!(arrived.len(), 3, "{at:?} {what:?}");
    assert!(copies || host.count() == 3, "{at:?} {what:?}: {:?}", host.recipients());
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_trouble_is_no_verdict() {
    let mut cases = JoinSet::new();
    for at in EVERYWHERE {
        cases.spawn(async move {
            let world = check_broken(at, Do::Cut, false).await;
            let unanswered = world.metric("posthaste_unanswered_content_total", &[]).await;
            assert_eq!(unanswered > 0.0, at == At::End, "{at:?}");
        });
    }
    cases.join_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn service_not_available_is_no_verdict() {
    let mut cases = JoinSet::new();
    for at in EVERYWHERE {
        cases.spawn(async move { drop(check_broken(at, Do::Close("421 4.3.2 shutting down"), false).await) });
    }
    cases.join_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_final_reply_is_counted_and_the_message_comes_again() {
    let world = check_broken(At::End, Do::TakeAndCut, true).await;
    assert!(world.metric("posthaste_unanswered_content_total", &[]).await >= 3.0);
    let deferred = world.told("deferred", "them.test");
    assert!(deferred.iter().any(|event| event.text("reply").contains("not answered")), "{deferred:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_recipients_every_time_is_no_loop() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let host = Peer::start(listeners(1).await.remove(0), move |ask| match ask.at {
        At::Rcpt => {
            counter.fetch_add(1, Ordering::Relaxed);
            Do::Say("452 4.5.3 too many recipients")
        }
        _ => Do::Take,
    });
    let world = World::start(zone(&["them"]), host.address().port(), |config| {
        config.retry.delay_min = Duration::from_secs(60);
        config.retry.delay_max = Duration::from_secs(60);
    })
    .await;
    let to: Vec<String> = (0..10).map(|n| format!("b{n}@them.test")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    world.send(&to).await;
    world.until("deferred", "them.test", 10).await;
    assert!(asked.load(Ordering::Relaxed) <= 40, "asked {} times", asked.load(Ordering::Relaxed));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_takes_few_at_a_time_gets_them_so() {
    let mut here = 0;
    let host = Peer::start(listeners(1).await.remove(0), move |ask| match ask.at {
        At::Mail => {
            here = 0;
            Do::Take
        }
        At::Rcpt => {
            here += 1;
            if here > 4 { Do::Say("452 4.5.3 too many recipients") } else { Do::Take }
        }
        _ => Do::Take,
    });
    // One session: the receiver counts for all of them together.
    let one = |config: &mut Config| config.delivery.connections_per_site = 1;
    let world = World::start(zone(&["them"]), host.address().port(), one).await;
    let to: Vec<String> = (0..50).map(|n| format!("b{n}@them.test")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    world.send(&to).await;
    world.until("delivered", "them.test", 50).await;
    assert_eq!(host.count(), 50);
    assert_eq!(world.told("deferred", "").len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_recipients_go_in_as_few_transactions_as_allowed() {
    let host = Peer::good(listeners(1).await.remove(0));
    let world = World::start(zone(&["them"]), host.address().port(), |config| {
        config.delivery.recipients_per_transaction = 30;
    })
    .await;
    let to: Vec<String> = (0..300).map(|n| format!("b{n}@them.test")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    world.send(&to).await;
    world.until("delivered", "them.test", 300).await;
    assert_eq!((host.count(), host.mails()), (300, 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn success_is_told_by_us_where_the_receiver_does_not() {
    let mut hosts = listeners(3).await.into_iter();
    let mut start = |dsn| {
        let behaviour = Behaviour::default().offering(Offers { dsn, ..Offers::default() });
        Receiver::start(hosts.next().unwrap(), behaviour, Keep::Content).unwrap()
    };
    let (silent, telling, us) = (start(false), start(true), start(true));
    let world = World::start(zone(&["silent", "telling", "us"]), us.addr().port(), |_| {}).await;
    let to = ["<b@silent.test> NOTIFY=SUCCESS", "<c@silent.test>", "<d@telling.test> NOTIFY=SUCCESS"];
    world.door().await.send_as("<a@us.test>", &to.map(str::to_owned), "").await;
    world.until("delivered", "silent.test", 2).await;
    world.until("delivered", "telling.test", 1).await;
    world.until("delivered", "us.test", 1).await;
    let reports = us.deliveries();
    let report = String::from_utf8_lossy(reports[0].content.as_deref().unwrap()).into_owned();
    assert!(report.contains("Action: relayed") && report.contains("b@silent.test"), "{report}");
    assert!(!report.contains("c@silent.test") && !report.contains("d@telling.test"), "{report}");
    assert_eq!((silent.delivered(), telling.delivered(), us.delivered()), (2, 1, 1));
}
