//! Orders: what is paused waits, and goes on when it is let go; what is paced goes slowly; a bad stream is stopped.

use std::time::Duration;

use posthaste::clock::Timestamp;
use serde_json::{Value, json};

use crate::peer::{At, Do, Peer};
use crate::world::{Event, World, listeners, zone};

const SHOP: &str = "X-Posthaste-Tenant: shop\r\nX-Posthaste-Campaign: spring\r\nX-Posthaste-Class: bulk\r\n";

async fn ask(world: &World, method: &str, path: &str, body: Value) -> (u16, Value) {
    let (status, answer) = world.http(method, path, &body.to_string()).await;
    (status, serde_json::from_str(&answer).unwrap_or(Value::Null))
}

async fn order(world: &World, order: Value) -> u64 {
    let (status, answer) = ask(world, "POST", "/v1/orders", order).await;
    assert_eq!(status, 201, "{answer}");
    answer["id"].as_u64().unwrap()
}

/// `what` of all notices of this kind.
fn notices(world: &World, kind: &str) -> Vec<String> {
    let events = world.events();
    events.iter().filter(|event| event.name() == kind).map(|event| event.text("what").to_owned()).collect()
}

async fn explain(world: &World, query: &str) -> Value {
    let (status, answer) = ask(world, "GET", &format!("/v1/explain?{query}"), json!({})).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_paused_waits_through_a_restart_and_then_goes() {
    let mut hosts = listeners(1).await.into_iter();
    let them = Peer::good(hosts.next().unwrap());
    let mut world = World::start(zone(&["them"]), them.address().port(), |_| {}).await;
    let pause = json!({"deed": "pause", "scope": {"tenant": "shop"}, "reason": "unpaid", "by": "ann"});
    let id = order(&world, pause).await;
    world.send_with(&["held@them.test"], SHOP).await;
    world.send(&["free@them.test"]).await;
    world.until("delivered", "free@them.test", 1).await;

    // It says so wherever somebody may look.
    let (_, listed) = ask(&world, "GET", "/v1/queue", json!({})).await;
    assert_eq!(listed[0]["held"], format!("paused by ann (order {id}): unpaid"), "{listed}");
    let explained = explain(&world, "address=held@them.test&tenant=shop").await;
    let verdict = explained["verdict"].as_str().unwrap();
    assert!(verdict.contains("would wait until") && verdict.contains("unpaid"), "{verdict}");
    let explained = explain(&world, "address=held@them.test&tenant=club").await;
    assert_eq!(explained["verdict"], "would go now, by default");
    assert_eq!(explained["route"]["site"], "mx.them.test");
    assert_eq!(world.metric("posthaste_orders", &[]).await, 1.0);

    world.stop(Duration::from_secs(5)).await;
    world.start_again().await;
    world.send_with(&["too@them.test"], SHOP).await;
    world.send(&["also-free@them.test"]).await;
    world.until("delivered", "also-free@them.test", 1).await;
    let (_, orders) = ask(&world, "GET", "/v1/orders", json!({})).await;
    assert_eq!((&orders[0]["id"], &orders[0]["by"]), (&json!(id), &json!("ann")), "{orders}");
    assert_eq!(world.daemon().queue().open_recipients(), 2);

    let lift = json!({"scope": {"tenant": "shop"}, "by": "bob"});
    let (status, lifted) = ask(&world, "POST", "/v1/orders/resume", lift.clone()).await;
    assert_eq!((status, &lifted[0]["id"]), (200, &json!(id)), "{lifted}");
    world.until_empty().await;
    let (status, _) = ask(&world, "POST", "/v1/orders/resume", lift).await;
    assert_eq!(status, 404, "it is lifted already");
    world.see("both notices", || Some(notices(&world, "order")).filter(|n| *n == ["paused", "lifted"])).await;
    assert_eq!(them.recipients().len(), 4);

    // It is forgotten for good.
    world.stop(Duration::from_secs(5)).await;
    world.start_again().await;
    let (_, orders) = ask(&world, "GET", "/v1/orders", json!({})).await;
    assert_eq!(orders, json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_ends_by_itself() {
    let mut hosts = listeners(2).await.into_iter();
    let (one, two) = (Peer::good(hosts.next().unwrap()), Peer::good(hosts.next().unwrap()));
    let world = World::start(zone(&["one", "two"]), one.address().port(), |_| {}).await;
    let pause = |scope: Value| json!({"deed": "pause", "scope": scope, "for": "1s"});
    order(&world, pause(json!({"site": "mx.one.test"}))).await;
    order(&world, pause(json!({"domain": "two.test", "class": "transactional"}))).await;
    world.send(&["a@one.test", "b@two.test"]).await;
    world.until("delivered", "", 2).await;
    for event in world.told("delivered", "") {
        let waited = event.0["timings_ms"]["queue"].as_u64().unwrap();
        assert!(waited >= 800, "{} went after {waited} ms", event.recipient());
    }
    let told = || Some(notices(&world, "order")).filter(|told| told.len() == 4);
    let told = world.see("their ends", told).await;
    assert_eq!(told, ["paused", "paused", "ended", "ended"]);
    assert_eq!((one.connections(), two.connections()), (1, 1), "nobody knocked at a door in vain");
    assert_eq!(world.metric("posthaste_orders", &[]).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_paced_goes_no_faster() {
    let mut hosts = listeners(1).await.into_iter();
    let them = Peer::good(hosts.next().unwrap());
    let world = World::start(zone(&["them"]), them.address().port(), |_| {}).await;
    order(&world, json!({"deed": "pace", "per_second": 5.0, "scope": {"campaign": "spring"}})).await;
    for n in 0..12 {
        world.send_with(&[&format!("slow{n}@them.test")], SHOP).await;
    }
    world.send(&["fast@them.test"]).await;
    world.until("delivered", "slow", 12).await;
    // Five at once, then one each fifth of a second: 1.4 s from the first to the last, but for what starting takes.
    let began = |event: &Event| {
        let accepted = Timestamp::parse_rfc3339(event.text("accepted_at")).unwrap();
        accepted.0 + event.0["timings_ms"]["queue"].as_u64().unwrap()
    };
    let mut began: Vec<u64> = world.told("delivered", "slow").iter().map(began).collect();
    began.sort_unstable();
    assert!(began[11] - began[0] >= 1000, "{began:?}");
    assert_eq!(world.told("delivered", "fast").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_is_taken_back_by_where_it_goes() {
    let mut hosts = listeners(2).await.into_iter();
    let (one, two) = (Peer::good(hosts.next().unwrap()), Peer::good(hosts.next().unwrap()));
    let world = World::start(zone(&["one", "two"]), one.address().port(), |_| {}).await;
    order(&world, json!({"deed": "pause", "scope": {}})).await;
    world.send_with(&["a@one.test", "b@two.test"], SHOP).await;
    world.send_with(&["later@one.test"], "X-Posthaste-Not-Before: 1h\r\n").await;
    world.send(&["c@one.test", "d@one.test"]).await;
    let cancel = |scope: Value| json!({ "scope": scope });
    let (status, _) = ask(&world, "POST", "/v1/queue/cancel", cancel(json!({}))).await;
    assert_eq!(status, 400, "everything must not be taken back by a slip");
    let (_, answer) = ask(&world, "POST", "/v1/queue/cancel", cancel(json!({"domain": "ONE.test"}))).await;
    assert_eq!(answer, json!({"messages": 3, "recipients": 4, "in_flight": 0}));
    let (_, answer) = ask(&world, "POST", "/v1/queue/cancel", cancel(json!({"tenant": "club"}))).await;
    assert_eq!(answer["recipients"], 0);
    let (_, _) = ask(&world, "POST", "/v1/orders/resume", json!({"all": true})).await;
    world.until_empty().await;
    assert_eq!((one.recipients().len(), two.recipients()), (0, vec!["b@two.test".to_owned()]));
    let ends = world.events();
    assert_eq!(ends.iter().filter(|event| event.name() == "cancelled").count(), 4);
    assert_eq!(world.metric("posthaste_queue_recipients", &[]).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waited_behind_mail_that_is_taken_back_goes_on() {
    let mut hosts = listeners(1).await.into_iter();
    let them = Peer::good(hosts.next().unwrap());
    let mut zone = zone(&["one"]);
    zone.mx("two.test", 10, "mx.one.test");
    let world = World::start(zone, them.address().port(), |config| {
        config.delivery.idle_timeout = Duration::from_millis(200);
        let scope = posthaste::config::Scope { tenant: Some("shop".into()), ..Default::default() };
        let messages = Some("30/m burst 1".parse().unwrap());
        config.limit = vec![posthaste::config::LimitConfig { scope, messages, ..Default::default() }];
    })
    .await;
    for n in 0..4 {
        world.send_with(&[&format!("a{n}@one.test")], SHOP).await;
    }
    world.send_with(&["b@two.test"], SHOP).await;
    world.until("delivered", "a0@one.test", 1).await;
    // Its session has idled out; nobody is there who could look at the line by himself.
    tokio::time::sleep(Duration::from_millis(600)).await;
    let (_, answer) = ask(&world, "POST", "/v1/queue/cancel", json!({"scope": {"domain": "one.test"}})).await;
    assert_eq!(answer["recipients"], 3, "{answer}");
    world.until("delivered", "b@two.test", 1).await;
    world.until_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_with_many_unknown_users_is_stopped_until_it_is_let_go() {
    let mut hosts = listeners(1).await.into_iter();
    let them = Peer::start(hosts.next().unwrap(), |ask| match ask.at {
        At::Rcpt if ask.text.starts_with("nobody") => Do::Say("550 5.1.1 no such user"),
        _ => Do::Take,
    });
    let change = |config: &mut posthaste::config::Config| {
        config.brake.recipients_min = 20;
        config.brake.unknown_users_min = 3;
    };
    let world = World::start(zone(&["them"]), them.address().port(), change).await;
    // Others each time: who is unknown once is not mailed again.
    let list = |from: usize| -> Vec<String> {
        let name = |n| if n % 4 == 0 { format!("nobody{n}@them.test") } else { format!("user{n}@them.test") };
        (from..from + 24).map(name).collect()
    };
    let send = async |list: Vec<String>| {
        world.send_with(&list.iter().map(String::as_str).collect::<Vec<_>>(), SHOP).await;
    };
    send(list(0)).await;
    world.until("bounced", "nobody", 6).await;
    world.see("the brake", || Some(notices(&world, "brake")).filter(|told| told.iter().any(|w| w == "paused"))).await;
    world.send_with(&["behind@them.test"], SHOP).await;
    let quick = SHOP.replace("bulk", "transactional");
    world.send_with(&["quick@them.test"], &quick).await;
    world.until("delivered", "quick@them.test", 1).await;
    let explained = explain(&world, "address=behind@them.test&tenant=shop&campaign=spring&class=bulk").await;
    assert!(explained["verdict"].as_str().unwrap().contains("paused by brake"), "{explained}");
    assert_eq!(explained["reputation"]["unknown_users_percent"], 25.0);
    assert_eq!(world.told("delivered", "behind").len(), 0);

    // An operator lets it go, and keeps the brake away.
    order(&world, json!({"deed": "exempt", "scope": {"campaign": "spring"}, "reason": "a list of old"})).await;
    let (_, orders) = ask(&world, "GET", "/v1/orders", json!({})).await;
    let brake = orders.as_array().unwrap().iter().find(|order| order["by"] == "brake").unwrap();
    let (status, _) = ask(&world, "DELETE", &format!("/v1/orders/{}", brake["id"]), json!({})).await;
    assert_eq!(status, 200);
    world.until("delivered", "behind@them.test", 1).await;
    send(list(100)).await;
    world.until("bounced", "nobody", 12).await;
    world.until_empty().await;
    let (_, orders) = ask(&world, "GET", "/v1/orders", json!({})).await;
    assert_eq!(orders.as_array().unwrap().len(), 1, "{orders}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_gives_back_no_tokens_of_a_daily_limit() {
    let mut hosts = listeners(1).await.into_iter();
    let them = Peer::good(hosts.next().unwrap());
    let mut world = World::start(zone(&["them"]), them.address().port(), |config| {
        let scope = posthaste::config::Scope { tenant: Some("shop".into()), ..Default::default() };
        let messages = Some("10/d burst 10".parse().unwrap());
        config.limit = vec![posthaste::config::LimitConfig { scope, messages, ..Default::default() }];
    })
    .await;
    for n in 0..15 {
        world.send_with(&[&format!("shop{n}@them.test")], SHOP).await;
    }
    world.until("delivered", "shop", 10).await;
    world.stop(Duration::from_secs(5)).await;
    world.start_again().await;
    let explained = explain(&world, "address=x@them.test&tenant=shop").await;
    let left = explained["limits"].to_string() + &explained["paths"].to_string();
    world.send_with(&["shop-again@them.test"], SHOP).await;
    world.send(&["free@them.test"]).await;
    world.until("delivered", "free@them.test", 1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(world.told("delivered", "shop").len(), 10, "{left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_brake_goes_on_counting_after_a_restart() {
    let mut hosts = listeners(1).await.into_iter();
    let them = Peer::start(hosts.next().unwrap(), |ask| match ask.at {
        At::Rcpt if ask.text.starts_with("nobody") => Do::Say("550 5.1.1 no such user"),
        _ => Do::Take,
    });
    let mut world = World::start(zone(&["them"]), them.address().port(), |config| {
        config.brake.recipients_min = 20;
        config.brake.unknown_users_min = 3;
    })
    .await;
    // One less than would be judged, before and after.
    let list = |from: usize| -> Vec<String> {
        let name = |n| if n % 5 == 0 { format!("nobody{n}@them.test") } else { format!("user{n}@them.test") };
        (from..from + 19).map(name).collect()
    };
    let send = async |world: &World, list: Vec<String>| {
        world.send_with(&list.iter().map(String::as_str).collect::<Vec<_>>(), SHOP).await;
        world.until_empty().await;
    };
    send(&world, list(0)).await;
    assert_eq!(notices(&world, "brake"), Vec::<String>::new());
    world.stop(Duration::from_secs(5)).await;
    world.start_again().await;
    send(&world, list(100)).await;
    world.see("the brake", || Some(notices(&world, "brake")).filter(|told| told.iter().any(|w| w == "paused"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_makes_no_sense_is_refused() {
    let mut hosts = listeners(1).await.into_iter();
    let them = Peer::good(hosts.next().unwrap());
    let world = World::start(zone(&["them"]), them.address().port(), |_| {}).await;
    for (bad, field) in [
        (json!({"deed": "stop", "scope": {}}), "deed"),
        (json!({"deed": "pace", "scope": {}}), "per_second"),
        (json!({"deed": "pace", "per_second": 0.0, "scope": {}}), "per_second"),
        (json!({"deed": "pause", "per_second": 1.0, "scope": {}}), "per_second"),
        (json!({"deed": "exempt", "scope": {"domain": "a.example"}}), "scope"),
        (json!({"deed": "pause", "scope": {}, "for": "0s"}), "for"),
    ] {
        let (status, problem) = ask(&world, "POST", "/v1/orders", bad.clone()).await;
        let blamed = problem["violations"][0]["field"].as_str().unwrap_or_default();
        assert_eq!((status, blamed), (400, field), "{bad}: {problem}");
    }
    for bad in [json!({"deed": "pause"}), json!({"deed": "pause", "scope": {"colour": "red"}})] {
        let (status, problem) = ask(&world, "POST", "/v1/orders", bad.clone()).await;
        assert!(matches!(status, 400 | 422), "{bad}: {status} {problem}");
    }
    assert_eq!(ask(&world, "DELETE", "/v1/orders/99", json!({})).await.0, 404);
    assert_eq!(ask(&world, "GET", "/v1/orders", json!({})).await.1, json!([]));
}
