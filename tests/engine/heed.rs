//! What receivers ask for in their replies: waits, one mailbox alone, "never" that means "later".

use std::time::Duration;

use posthaste::config::Config;
use posthaste::demo::receiver::habits::RateMax;
use posthaste::demo::receiver::{Behaviour, Keep, Receiver};

use crate::peer::{At, Do, Peer};
use crate::world::{Event, World, listeners, time, zone};

/// The schedule alone would bring nobody back within a test.
fn patient(config: &mut Config) {
    config.retry.delay_min = Duration::from_secs(3600);
    config.retry.delay_max = Duration::from_secs(3600);
}

/// Says this to the first RCPT, then takes everybody.
fn once(reply: &'static str) -> impl FnMut(&crate::peer::Ask<'_>) -> Do + Send + 'static {
    let mut said = false;
    move |ask| match ask.at {
        At::Rcpt if !said => {
            said = true;
            Do::Say(reply)
        }
        _ => Do::Take,
    }
}

/// Seconds from an event to the next attempt that it tells of.
fn wait(event: &Event) -> f64 {
    let at = |field: &str| humantime_seconds(event.text(field));
    at("next_attempt") - at("time")
}

/// Seconds of the day of `2026-11-22T20:00:00.123Z`.
fn humantime_seconds(time: &str) -> f64 {
    let clock = time.split('T').nth(1).unwrap().trim_end_matches('Z');
    clock.split(':').fold(0.0, |sum, part| sum * 60.0 + part.parse::<f64>().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_the_reply_names_is_kept() {
    let mut hosts = listeners(1).await.into_iter();
    let grey = Peer::start(hosts.next().unwrap(), once("450 4.7.1 Greylisted, please try again in 2 seconds"));
    let world = World::start(zone(&["them"]), grey.address().port(), patient).await;
    let took = time(async {
        world.send(&["b@them.test"]).await;
        world.until("delivered", "b@them.test", 1).await;
    })
    .await;
    assert!(took >= Duration::from_secs(2), "{took:?}");
    let counted = world.metric("posthaste_refusals_total", &["provider=\"default\"", "action=\"greylist\""]).await;
    assert_eq!(counted, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_mailbox_waits_alone() {
    let mut hosts = listeners(1).await.into_iter();
    let host = Peer::start(hosts.next().unwrap(), |ask| match ask.at {
        At::Rcpt if ask.text.contains("full@") => Do::Say("452 4.2.2 Over quota"),
        At::Rcpt if ask.text.contains("busy@") => Do::Say("451 4.3.0 come back in 600 seconds"),
        At::Rcpt if ask.text.contains("odd@") => Do::Say("451 4.3.0 no luck"),
        _ => Do::Take,
    });
    let world = World::start(zone(&["them"]), host.address().port(), |config| {
        config.retry.delay_min = Duration::from_secs(60);
    })
    .await;
    world.send(&["full@them.test", "busy@them.test", "odd@them.test", "good@them.test"]).await;
    world.until("deferred", "them.test", 3).await;
    world.until("delivered", "good@them.test", 1).await;
    // `delay_max` is a second at first, but never under `delay_min`.
    for (who, least, most) in [("full@", 60.0, 67.0), ("busy@", 600.0, 661.0), ("odd@", 60.0, 76.0)] {
        let told = world.told("deferred", who);
        let wait = wait(&told[0]).rem_euclid(86_400.0);
        assert!((least - 0.1..=most).contains(&wait), "{who} waits {wait} s");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_of_ones_own_is_heeded() {
    let mut hosts = listeners(1).await.into_iter();
    let host = Peer::start(hosts.next().unwrap(), once("550 slower, please: frequency limited"));
    let profiles = tempfile::tempdir().unwrap();
    let profile = r#"
        name = "tiny"
        mx = ["them.test"]
        [[rule]]
        name = "slower"
        reason = "rate-limit"
        action = "mailbox-wait"
        wait = "1s"
        transient = true
        any = ["frequency limited"]
        sample = ["550 frequency limited"]
    "#;
    std::fs::write(profiles.path().join("tiny.toml"), profile).unwrap();
    let world = World::start(zone(&["them"]), host.address().port(), |config| {
        patient(config);
        config.shaping.providers_dir = Some(profiles.path().to_owned());
    })
    .await;
    world.send(&["b@them.test"]).await;
    world.until("delivered", "b@them.test", 1).await;
    assert_eq!(world.told("bounced", "b@them.test").len(), 0);
    assert_eq!(world.metric("posthaste_attempts_total", &["provider=\"tiny\""]).await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn pauses_are_orders_that_an_operator_sees() {
    let mut hosts = listeners(1).await.into_iter();
    let host = Peer::start(hosts.next().unwrap(), |ask| match ask.at {
        At::Rcpt if ask.text.contains("letter") => Do::Say("451 4.7.0 [tiny-content] looks like spam"),
        At::Rcpt if ask.text.contains("reset") => Do::Say("451 4.7.0 [tiny-content] looks like spam"),
        At::Rcpt if ask.text.contains("source") => Do::Say("451 4.7.0 [tiny-address] no more from you"),
        _ => Do::Take,
    });
    let profiles = tempfile::tempdir().unwrap();
    let profile = r#"
        name = "tiny"
        mx = ["them.test"]
        [[rule]]
        name = "content"
        reason = "spam-block"
        action = "pause-stream"
        any = ["[tiny-content]"]
        sample = ["451 4.7.0 [tiny-content] looks like spam"]
        [[rule]]
        name = "address"
        reason = "blocked-ip"
        action = "pause-source"
        wait = "30m"
        any = ["[tiny-address]"]
        sample = ["451 4.7.0 [tiny-address] no more from you"]
    "#;
    std::fs::write(profiles.path().join("tiny.toml"), profile).unwrap();
    let world = World::start(zone(&["them"]), host.address().port(), |config| {
        patient(config);
        config.shaping.providers_dir = Some(profiles.path().to_owned());
    })
    .await;
    // One reply must not stop mail that nobody called a campaign.
    world.send(&["reset@them.test"]).await;
    world.until("deferred", "reset@them.test", 1).await;
    let orders =
        async || -> serde_json::Value { serde_json::from_str(&world.http("GET", "/v1/orders", "").await.1).unwrap() };
    assert_eq!(orders().await, serde_json::json!([]));
    world.send_with(&["letter@them.test"], "X-Posthaste-Campaign: spring\r\n").await;
    world.until("deferred", "letter@them.test", 1).await;
    world.send(&["source@them.test"]).await;
    world.until("deferred", "source@them.test", 1).await;
    let told = orders().await;
    let told: Vec<String> = told.as_array().unwrap().iter().map(|o| format!("{} {}", o["by"], o["scope"])).collect();
    let expected = [
        r#""profile tiny" {"campaign":"spring","class":"transactional","provider":"tiny","tenant":""}"#,
        r#""profile tiny" {"site":"mx.them.test","source":"default"}"#,
    ];
    assert_eq!(told, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_names_the_pace_that_was_found() {
    let behaviour = Behaviour::default().habit(RateMax::per_minute(6.0));
    let host = Receiver::start(listeners(1).await.remove(0), behaviour, Keep::Facts).unwrap();
    let world = World::start(zone(&["them"]), host.addr().port(), |config| {
        config.retry.delay_min = Duration::from_millis(50);
        config.retry.delay_max = Duration::from_millis(200);
    })
    .await;
    for n in 0..30 {
        world.send(&[&format!("b{n}@them.test")]).await;
    }
    // It takes six, and then nothing: sooner or later the path knocks now and then.
    let paced = async {
        loop {
            let (_, answer) = world.http("GET", "/v1/explain?address=x@them.test", "").await;
            let explained: serde_json::Value = serde_json::from_str(&answer).unwrap();
            let verdict = explained["verdict"].as_str().unwrap().to_owned();
            if verdict.contains("paced at") && verdict.contains("next slot in") {
                return (verdict, explained["paths"][0]["per_second"].as_f64());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (verdict, rate) = tokio::time::timeout(Duration::from_secs(60), paced).await.expect("a pace is found");
    assert!(verdict.starts_with("would wait until"), "{verdict}");
    let rate = rate.expect("the path has a pace");
    assert!(rate > 0.0 && rate <= 30.0, "{rate}");
    assert_eq!((host.delivered() >= 6, host.violations()), (true, vec![]));
}
