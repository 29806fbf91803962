//! Whom the suppression list names is not mailed, whenever the entry comes; and a mailbox that does not exist gets there.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use posthaste::clock::{Clock, Timestamp};
use posthaste::submission::grpc::v1;
use posthaste::submission::grpc::v1::events_client::EventsClient;
use posthaste::submission::grpc::v1::submission_client::SubmissionClient;
use posthaste::suppression::{Batch, Entry, Reason, Scope, Subject, Suppressions};
use tokio_stream::StreamExt;
use tonic::transport::Endpoint;

use crate::peer::{At, Do, Peer};
use crate::world::{World, exchange, listeners, zone};

fn entry(address: &str, scope: Scope) -> Entry {
    Entry {
        subject: Subject::address(&address.parse().unwrap()),
        scope,
        reason: Reason::Complaint,
        evidence: "".into(),
        source: "a test".into(),
        since: Timestamp(1_700_000_000_000),
        until: None,
    }
}

async fn world(them: &Peer) -> (World, Arc<Suppressions>) {
    let world =
        World::start(zone(&["them", "us"]), them.address().port(), |config| config.suppression.hard_bounces = 1).await;
    let list = Arc::clone(world.daemon().suppressions());
    (world, list)
}

/// Theirs, and ours, where the reports go.
async fn good_peers() -> [Peer; 2] {
    listeners(2).await.into_iter().map(Peer::good).collect::<Vec<_>>().try_into().ok().unwrap()
}

fn ends(world: &World) -> usize {
    world.events().iter().filter(|event| event.is_terminal()).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_to_whom_the_list_names() {
    let [them, us] = good_peers().await;
    let (world, list) = world(&them).await;
    let shop = Scope::Tenant("shop".into());
    let past = Entry { until: Some(Clock.timestamp()), ..entry("back@them.test", Scope::Global) };
    let domain = Entry { subject: Subject::Domain("gone.test".parse().unwrap()), ..entry("a@b.test", Scope::Global) };
    let new = vec![entry("No@THEM.test", Scope::Global), entry("not-shop@them.test", shop), past, domain];
    list.add(new).await.unwrap();
    // Of one message the others are mailed; a message without others is not routed at all.
    world.send(&["yes@them.test", "no@them.test", "back@them.test"]).await;
    world.send(&["someone@gone.test"]).await;
    world.send_with(&["not-shop@them.test"], "X-Posthaste-Tenant: shop\r\n").await;
    world.send_with(&["not-shop@them.test"], "X-Posthaste-Tenant: press\r\n").await;
    for (name, who) in [("delivered", "yes@"), ("delivered", "back@"), ("delivered", "not-shop@")] {
        world.until(name, who, 1).await;
    }
    world.until("suppressed", "", 3).await;
    world.until_empty().await;
    let told = world.told("suppressed", "no@them.test");
    assert_eq!(told[0].0["reply"], "suppressed: complaint by a test, since 2023-11-14T22:13:20.000Z");
    assert_eq!(world.told("suppressed", "not-shop@")[0].0["tenant"], "shop");
    assert_eq!(world.told("suppressed", "someone@gone.test").len(), 1);
    assert_eq!(world.told("delivered", "not-shop@")[0].0["tenant"], "press");
    // The sender is told of each of the three.
    assert_eq!(ends(&world), 6 + 3, "{:?}", world.events());
    assert_eq!(world.told("delivered", "a@us.test").len(), 3);
    assert!(us.taken().iter().all(|taken| taken.content.contains("does not mail that address any more")));
    assert!(!them.recipients().iter().any(|recipient| recipient == "no@them.test"));
    assert_eq!(world.metric("posthaste_recipients_total", &["suppressed"]).await, 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_comes_while_mail_waits_counts() {
    let [them, us] = good_peers().await;
    let (mut world, list) = world(&them).await;
    let later = "X-Posthaste-Not-Before: 3s\r\n";
    world.send_with(&["no@them.test"], later).await;
    world.send_with(&["yes@them.test", "no@them.test"], later).await;
    list.add(vec![entry("no@them.test", Scope::Global)]).await.unwrap();
    world.until("suppressed", "no@them.test", 2).await;
    world.until("delivered", "yes@them.test", 1).await;
    world.until_empty().await;
    assert_eq!(them.recipients(), ["yes@them.test"]);
    assert_eq!(us.recipients(), ["a@us.test"; 2], "two reports");
    // Their ends are on disk.
    world.stop(std::time::Duration::from_secs(5)).await;
    world.start_again().await;
    world.until_empty().await;
    assert_eq!(ends(&world), 3 + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mailbox_that_does_not_exist_is_not_mailed_again() {
    let them = Peer::start(listeners(1).await.pop().unwrap(), |ask| match ask.at {
        At::Rcpt if ask.text.contains("nobody") => Do::Say("550 5.1.1 no such user here"),
        At::Rcpt if ask.text.contains("blocked") => Do::Say("550 5.7.1 your address is on a blocklist"),
        _ => Do::Take,
    });
    let (world, list) = world(&them).await;
    world.send(&["nobody@them.test", "blocked@them.test", "yes@them.test"]).await;
    world.until("bounced", "nobody@them.test", 1).await;
    world.until("bounced", "blocked@them.test", 1).await;
    let stream = posthaste::mail::Stream::default();
    let held = |address: &str| list.check(&stream, None, &address.parse().unwrap(), Clock.timestamp()).unwrap();
    world.see("an entry", || held("nobody@them.test")).await;
    world.send(&["nobody@them.test", "blocked@them.test"]).await;
    world.until("suppressed", "nobody@them.test", 1).await;
    world.until("bounced", "blocked@them.test", 2).await;
    assert!(held("blocked@them.test").is_none() && held("yes@them.test").is_none());
    assert_eq!(held("nobody@them.test").unwrap().reason, Reason::HardBounce);
}

/// Flips an octet of `what` wherever it stands in a file below `dir`; how often.
fn damage(dir: &std::path::Path, what: &[u8]) -> usize {
    let mut flipped = 0;
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            flipped += damage(&entry.path(), what);
            continue;
        }
        let octets = std::fs::read(entry.path()).unwrap();
        let places = octets.windows(what.len()).enumerate().filter(|(_, found)| *found == what);
        let places: Vec<usize> = places.map(|(at, _)| at).collect();
        let file = std::fs::OpenOptions::new().write(true).open(entry.path()).unwrap();
        places.iter().for_each(|at| file.write_all_at(&[octets[at + 1] ^ 1], *at as u64 + 1).unwrap());
        flipped += places.len();
    }
    flipped
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_waits_while_the_list_cannot_be_read() {
    let [them, us] = good_peers().await;
    let (world, list) = world(&them).await;
    // An import is kept in blocks that only the log has.
    let mut batch = Batch::default();
    (0..1000).for_each(|n| batch.push(&entry(&format!("nobody-{n:04}@them.test"), Scope::Global)));
    let import = Arc::clone(&list);
    tokio::task::spawn_blocking(move || import.add_run(batch, "a test")).await.unwrap().unwrap();
    let ledger = world.path("ledger");
    assert!(damage(&ledger, b"nobody-0500@") > 0);
    world.send(&["nobody-0500@them.test", "yes@them.test"]).await;
    world.send(&["also@them.test"]).await;
    // Whom the filters in memory know not to be there is mailed; of the others nobody is, nor of their messages.
    world.until("delivered", "also@them.test", 1).await;
    let waits = world.until("deferred", "nobody-0500@", 2).await;
    assert_eq!(waits[0].verdict(), "deferred 451 4.3.0");
    assert!(waits[0].text("reply").contains("the suppression list cannot be asked"), "{}", waits[0].0);
    assert_eq!(them.recipients(), ["also@them.test"]);
    assert!(damage(&ledger, b"nnbody-0500@") > 0);
    world.until("suppressed", "nobody-0500@", 1).await;
    world.until("delivered", "yes@them.test", 1).await;
    world.until_empty().await;
    assert!(!them.recipients().iter().any(|recipient| recipient.contains("nobody")));
    assert_eq!(us.recipients(), ["a@us.test"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_takes_mail_begins_anew() {
    let gone = |ask: &crate::peer::Ask<'_>| match ask.at {
        At::Rcpt => Do::Say("550 5.1.1 no such user here"),
        _ => Do::Take,
    };
    let them = Peer::start(listeners(1).await.pop().unwrap(), gone);
    let world =
        World::start(zone(&["them"]), them.address().port(), |config| config.suppression.hard_bounces = 2).await;
    let list = world.daemon().suppressions();
    let (stream, bob) = (posthaste::mail::Stream::default(), "bob@them.test".parse().unwrap());
    let held = || list.check(&stream, None, &bob, Clock.timestamp()).unwrap().is_some();
    world.send(&["bob@them.test"]).await;
    world.until("bounced", "bob@", 1).await;
    world.see("a failure that counts", || (list.failures(&bob).unwrap() == 1).then_some(())).await;
    them.behave(|_| Do::Take);
    world.send(&["bob@them.test"]).await;
    world.until("delivered", "bob@", 1).await;
    world.see("no failure", || (list.failures(&bob).unwrap() == 0).then_some(())).await;
    them.behave(gone);
    world.send(&["bob@them.test"]).await;
    world.until("bounced", "bob@", 2).await;
    world.see("one failure", || (list.failures(&bob).unwrap() == 1).then_some(())).await;
    assert!(!held(), "one failure since it took mail");
    world.send(&["bob@them.test"]).await;
    world.see("an entry", || held().then_some(())).await;
}

/// What a client of this tenant is told of the list; `None`: one bound to none.
async fn told_of(world: &World, token: Option<&str>) -> Vec<v1::Event> {
    let address = world.daemon().grpc_addresses()[0];
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let mut asked = tonic::Request::new(v1::WatchRequest {
        start: v1::watch_request::Start::Oldest.into(),
        kinds: vec![v1::event::Kind::Suppression.into()],
        ..v1::WatchRequest::default()
    });
    if let Some(token) = token {
        asked.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    let mut watching = EventsClient::new(channel).watch(asked).await.unwrap().into_inner();
    let mut seen = Vec::new();
    loop {
        let next = tokio::time::timeout(std::time::Duration::from_secs(20), watching.next()).await;
        let response = next.expect("events").unwrap().unwrap();
        seen.extend(response.event);
        if response.caught_up {
            return seen;
        }
    }
}

/// A tenant's client hears of everybody's entry if it was made because of that tenant's own message, and of no other.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_told_of_what_its_own_mail_led_to() {
    let them = Peer::start(listeners(1).await.pop().unwrap(), |ask| match ask.at {
        At::Rcpt if ask.text.contains("gone") => Do::Say("550 5.1.1 no such user here"),
        _ => Do::Take,
    });
    let (world, list) = world(&them).await;
    let mut tokens = Vec::new();
    for tenant in ["shop", "press"] {
        let (status, answer) = world.http("POST", "/v1/tenants", &format!(r#"{{"name":"{tenant}"}}"#)).await;
        assert_eq!(status, 201, "{answer}");
        let path = format!("/v1/tenants/{tenant}/credentials");
        let (status, answer) = world.http("POST", &path, r#"{"label":"web"}"#).await;
        assert_eq!(status, 201, "{answer}");
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        tokens.push(answer["token"].as_str().unwrap().to_owned());
    }
    let id = world.send_with(&["gone-shop@them.test"], "X-Posthaste-Tenant: shop\r\n").await;
    world.send_with(&["gone-press@them.test"], "X-Posthaste-Tenant: press\r\n").await;
    list.add(vec![entry("by-hand@them.test", Scope::Global)]).await.unwrap();
    list.add(vec![entry("by-shop@them.test", Scope::Tenant("shop".into()))]).await.unwrap();
    world.until("suppression", "gone-shop@", 1).await;
    world.until("suppression", "gone-press@", 1).await;
    world.until("suppression", "by-shop@", 1).await;
    let names = async |token: Option<&str>| {
        let mut names: Vec<String> = told_of(&world, token).await.into_iter().map(|event| event.recipient).collect();
        names.sort_unstable();
        names
    };
    assert_eq!(names(Some(&tokens[0])).await, ["by-shop@them.test", "gone-shop@them.test"]);
    assert_eq!(names(Some(&tokens[1])).await, ["gone-press@them.test"]);
    let all = ["by-hand@them.test", "by-shop@them.test", "gone-press@them.test", "gone-shop@them.test"];
    assert_eq!(names(None).await, all);
    let events = told_of(&world, Some(&tokens[0])).await;
    let own = events.iter().find(|event| event.recipient == "gone-shop@them.test").unwrap();
    assert_eq!((&*own.scope, &*own.tenant, &*own.message_id, &*own.reason), ("global", "shop", &*id, "hard-bounce"));
    assert_eq!(events.iter().find(|event| event.recipient == "by-shop@them.test").unwrap().scope, "tenant");
}

/// At every door: who is on the list comes to his end while an order holds all mail, so nobody looks at it before it is sent.
#[tokio::test(flavor = "multi_thread")]
async fn every_door_asks_the_list() {
    let [them, _us] = good_peers().await;
    let (world, list) = world(&them).await;
    list.add(vec![entry("no@them.test", Scope::Global)]).await.unwrap();
    let (status, answer) = world.http("POST", "/v1/orders", r#"{"deed":"pause","scope":{"domain":"them.test"}}"#).await;
    assert_eq!(status, 201, "{answer}");
    world.send(&["no@them.test", "yes@them.test"]).await;
    let body = r#"{"from":"a@us.test","to":["no@them.test","yes@them.test"],"subject":"s","text":"t"}"#;
    let http = world.daemon().http_addresses()[0];
    let (status, answer) = exchange(http, "POST", "/v1/messages", "application/json", body).await;
    assert_eq!(status, 201, "{answer}");
    let address = world.daemon().grpc_addresses()[0];
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let request = v1::SubmitRequest {
        sender: Some("a@us.test".into()),
        recipients: vec!["no@them.test".into(), "yes@them.test".into()],
        content: Some(v1::submit_request::Content::Raw(b"From: a@us.test\r\n\r\nhello\r\n".to_vec().into())),
        ..v1::SubmitRequest::default()
    };
    SubmissionClient::new(channel).submit(request).await.unwrap();
    world.until("suppressed", "no@them.test", 3).await;
    let waits = |address: &str| world.events().iter().all(|event| event.recipient() != address);
    assert!(waits("yes@them.test") && them.recipients().is_empty(), "{:?}", world.events());
}
