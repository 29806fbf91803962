//! `SubmitStream` and `Watch`.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::super::v1::submit_result::Result as Outcome;
use super::{PATIENCE, World, built, check_status, details, raw, until, v1};
use crate::log::{Position, SegmentId};

/// Opens a stream: where to put requests, and the results.
async fn open(world: &World) -> (mpsc::Sender<v1::SubmitRequest>, Streaming<v1::SubmitResult>) {
    let (sender, requests) = mpsc::channel(10);
    let results = world.client().submit_stream(ReceiverStream::new(requests)).await.unwrap();
    (sender, results.into_inner())
}

async fn result(results: &mut Streaming<v1::SubmitResult>) -> Option<Result<v1::SubmitResult, Status>> {
    tokio::time::timeout(PATIENCE, results.next()).await.expect("a result")
}

fn receipt(result: v1::SubmitResult) -> v1::Receipt {
    match result.result {
        Some(Outcome::Receipt(receipt)) => receipt,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_thousand_in_order_with_hundreds_in_flight() {
    let world = World::start(|_| {}).await;
    world.book.allow(0);
    let (sender, mut results) = open(&world).await;
    let feeding = tokio::spawn(async move {
        for n in 0..1000 {
            sender.send(raw(&format!("u{n}@them.test"), 2000)).await.unwrap();
        }
    });
    // Nothing is durable yet, and still they come.
    until("hundreds in flight", || world.book.begun() >= 500).await;
    assert!(world.book.stored().is_empty());
    for commits in [1, 2, 10, 500, u64::MAX] {
        world.book.allow(commits);
    }
    for n in 0..1000 {
        let one = result(&mut results).await.unwrap().unwrap();
        assert_eq!(one.index, n);
        let id = receipt(one).message_id;
        let stored = &world.book.stored()[n as usize].messages[0];
        assert_eq!(
            (stored.id.to_string(), stored.envelope.recipients[0].address.to_string()),
            (id, format!("u{n}@them.test"))
        );
    }
    feeding.await.unwrap();
    assert!(result(&mut results).await.is_none());
    assert_eq!(world.metrics.messages_accepted.with_label_values(&["grpc"]).get(), 1000);
}

#[tokio::test]
async fn a_receipt_comes_only_after_its_commit() {
    let world = World::start(|_| {}).await;
    world.book.allow(3);
    let (sender, mut results) = open(&world).await;
    for n in 0..6 {
        sender.send(raw(&format!("u{n}@them.test"), 100)).await.unwrap();
    }
    for _ in 0..3 {
        receipt(result(&mut results).await.unwrap().unwrap());
    }
    until("all six begun", || world.book.begun() == 6).await;
    let early = tokio::time::timeout(Duration::from_millis(100), results.next()).await;
    assert!(early.is_err(), "{early:?}");
    world.book.allow(6);
    receipt(result(&mut results).await.unwrap().unwrap());
}

#[tokio::test]
async fn a_bad_request_has_its_own_error_in_its_place() {
    let world = World::start(|_| {}).await;
    let (sender, mut results) = open(&world).await;
    let bad = v1::SubmitRequest { recipients: vec!["nobody".into()], ..built() };
    for request in [raw("a@them.test", 100), bad, v1::SubmitRequest::default(), raw("b@them.test", 100)] {
        sender.send(request).await.unwrap();
    }
    drop(sender);
    receipt(result(&mut results).await.unwrap().unwrap());
    for (index, field) in [(1, "recipients[0]"), (2, "content")] {
        let one = result(&mut results).await.unwrap().unwrap();
        assert_eq!(one.index, index);
        let Some(Outcome::Error(status)) = one.result else { panic!("accepted") };
        assert_eq!(status.code, Code::InvalidArgument as i32);
        assert_eq!(details(&status).fields[0], field);
    }
    let last = result(&mut results).await.unwrap().unwrap();
    assert_eq!(last.index, 3);
    receipt(last);
    assert!(result(&mut results).await.is_none());
    assert_eq!(world.book.stored().len(), 2);
}

#[tokio::test]
async fn a_client_that_goes_away_takes_back_nothing() {
    let world = World::start(|_| {}).await;
    world.book.allow(0);
    let (sender, results) = open(&world).await;
    for n in 0..5 {
        sender.send(raw(&format!("u{n}@them.test"), 100)).await.unwrap();
    }
    until("five begun", || world.book.begun() == 5).await;
    drop((sender, results));
    // Its memory and its place come back, and others are served.
    world.book.allow(u64::MAX);
    let receipt = world.client().submit(raw("x@them.test", 100)).await.unwrap().into_inner();
    assert!(!receipt.message_id.is_empty());
    until("memory free", || world.grpc.front.budget().used() == 0).await;
}

#[tokio::test]
async fn a_shutdown_gives_receipts_for_what_is_durable_and_ends_the_stream() {
    let world = World::start(|_| {}).await;
    world.book.allow(4);
    let (sender, mut results) = open(&world).await;
    for n in 0..8 {
        sender.send(raw(&format!("u{n}@them.test"), 100)).await.unwrap();
    }
    until("eight begun", || world.book.begun() == 8).await;
    let mut seen = Vec::new();
    let mut watching = world.events_client().watch(v1::WatchRequest::default()).await.unwrap().into_inner();
    let (closed, ended) = tokio::join!(world.grpc.close(Duration::from_secs(10)), async {
        let mut ended = None;
        while let Some(next) = result(&mut results).await {
            match next {
                Ok(one) => seen.push(receipt(one).message_id),
                Err(status) => ended = Some(status),
            }
            if seen.len() == 4 {
                // Read before, and no more than that.
                let late = sender.try_send(raw("late@them.test", 100));
                drop(late);
                world.book.allow(8);
            }
        }
        ended.expect("not a good end")
    });
    let () = closed;
    let details = check_status(&ended, Code::Unavailable);
    assert!(details.retry_after.is_some() && details.reason == "CLOSING");
    let stored: Vec<String> = world.book.stored().iter().map(|one| one.messages[0].id.to_string()).collect();
    assert_eq!(seen, stored);
    assert_eq!(stored.len(), 8);
    // Whoever watches is told as well.
    let end = loop {
        match watching.next().await {
            Some(Ok(_)) => {}
            Some(Err(status)) => break status,
            None => panic!("no status"),
        }
    };
    assert_eq!(check_status(&end, Code::Unavailable).reason, "CLOSING");
}

#[tokio::test]
async fn what_does_not_become_durable_within_the_grace_has_no_receipt() {
    let world = World::start(|_| {}).await;
    world.book.allow(2);
    let (sender, mut results) = open(&world).await;
    for n in 0..4 {
        sender.send(raw(&format!("u{n}@them.test"), 100)).await.unwrap();
    }
    until("four begun", || world.book.begun() == 4).await;
    world.grpc.close(Duration::from_millis(200)).await;
    let mut receipts = 0;
    while let Some(Ok(one)) = result(&mut results).await {
        receipt(one);
        receipts += 1;
    }
    assert_eq!((receipts, world.book.stored().len()), (2, 2));
}

/// A line of the event log.
pub(super) fn write(world: &World, n: u32, event: &str, tenant: &str, campaign: &str) {
    let id = crate::mail::MessageId(u64::from(n));
    let line = format!(
        "{{\"time\":\"2026-11-22T12:00:00.000Z\",\"event\":\"{event}\",\"message_id\":\"{id}\",\"tenant\":\"{tenant}\",\
         \"campaign\":\"{campaign}\",\"class\":\"bulk\",\"recipient\":\"\u{fc}@them.test\",\"code\":250,\
         \"reply\":\"say \\\"ok\\\"\",\"timings_ms\":{{\"queue\":1,\"data\":2}}}}\n"
    );
    world.events.write(Position { segment: SegmentId(1), offset: n }, line.into());
}

async fn next(told: &mut Streaming<v1::WatchResponse>) -> v1::WatchResponse {
    tokio::time::timeout(PATIENCE, told.next()).await.expect("an event").unwrap().unwrap()
}

/// The events told until everything is, as numbers of messages.
async fn told(world: &World, asked: v1::WatchRequest) -> Vec<u32> {
    let number = |event: v1::Event| event.message_id.parse::<crate::mail::MessageId>().unwrap().0 as u32;
    events(world, asked).await.into_iter().map(number).collect()
}

/// The events told until everything is.
async fn events(world: &World, asked: v1::WatchRequest) -> Vec<v1::Event> {
    let asked = v1::WatchRequest { start: v1::watch_request::Start::Oldest.into(), ..asked };
    let mut watching = world.events_client().watch(asked).await.unwrap().into_inner();
    let mut seen = Vec::new();
    loop {
        let response = next(&mut watching).await;
        seen.extend(response.event);
        if response.caught_up {
            return seen;
        }
    }
}

#[tokio::test]
async fn changes_of_the_suppression_list_are_told_to_whom_they_concern() {
    let world = World::start(|_| {}).await;
    let told = |n: u32, event: &str, rest: &str| {
        let line =
            format!("{{\"time\":\"2026-11-22T12:00:00.000Z\",\"event\":\"{event}\",\"what\":\"added\"{rest}}}\n");
        world.events.write(Position { segment: SegmentId(1), offset: n }, line.into());
    };
    told(1, "suppression", ",\"recipient\":\"all@them.test\",\"by\":\"operator\",\"reason\":\"manual\"");
    told(2, "suppression", ",\"recipient\":\"shop@them.test\",\"tenant\":\"shop\",\"list\":\"news\"");
    told(3, "suppression", ",\"recipient\":\"\",\"count\":70000,\"by\":\"crm\"");
    // Notices stay with the operator.
    told(4, "pace", ",\"tenant\":\"shop\"");
    told(5, "report", "");
    // Everybody's entry, by mail of one tenant.
    told(
        6,
        "suppression",
        ",\"recipient\":\"own@them.test\",\"scope\":\"global\",\"tenant\":\"shop\",\"message_id\":\"0000000000007\"",
    );
    write(&world, 7, "delivered", "shop", "spring");
    world.events.progress().caught_up().await;
    let all = v1::WatchRequest::default;
    let suppression = vec![v1::event::Kind::Suppression.into()];
    for (asked, expected) in [
        (all(), vec!["all@them.test", "shop@them.test", "", "own@them.test", "\u{fc}@them.test"]),
        (
            v1::WatchRequest { kinds: suppression.clone(), ..all() },
            vec!["all@them.test", "shop@them.test", "", "own@them.test"],
        ),
        (
            v1::WatchRequest { tenant: "shop".into(), ..all() },
            vec!["shop@them.test", "own@them.test", "\u{fc}@them.test"],
        ),
        (
            v1::WatchRequest { tenant: "shop".into(), kinds: suppression.clone(), ..all() },
            vec!["shop@them.test", "own@them.test"],
        ),
        (v1::WatchRequest { tenant: "press".into(), kinds: suppression, ..all() }, vec![]),
        (v1::WatchRequest { kinds: vec![1], ..all() }, vec!["\u{fc}@them.test"]),
        (v1::WatchRequest { campaign: "spring".into(), ..all() }, vec!["\u{fc}@them.test"]),
    ] {
        let events = events(&world, asked.clone()).await;
        let recipients: Vec<&str> = events.iter().map(|event| event.recipient.as_str()).collect();
        assert_eq!(recipients, expected, "{asked:?}");
    }
    assert_eq!(events(&world, all()).await.remove(3).scope, "global");
    let imported = events(&world, all()).await.remove(2);
    assert_eq!((imported.kind(), imported.count, &*imported.by), (v1::event::Kind::Suppression, 70_000, "crm"));
}

#[tokio::test]
async fn events_pass_filters_and_go_on_behind_a_cursor() {
    let world = World::start(|_| {}).await;
    let mut live = world.events_client().watch(v1::WatchRequest::default()).await.unwrap().into_inner();
    assert!(next(&mut live).await.caught_up);
    write(&world, 1, "delivered", "shop", "spring");
    let first = next(&mut live).await;
    let event = first.event.unwrap();
    assert_eq!((event.kind(), event.class(), event.code), (v1::event::Kind::Delivered, v1::Class::Bulk, 250));
    assert_eq!((event.recipient.as_str(), event.reply.as_str()), ("\u{fc}@them.test", "say \"ok\""));
    assert_eq!(event.timings.unwrap().data_ms, 2);
    write(&world, 2, "deferred", "shop", "autumn");
    write(&world, 3, "bounced", "other", "spring");
    while next(&mut live).await.event.is_none_or(|event| event.kind() != v1::event::Kind::Bounced) {}
    let all = v1::WatchRequest::default;
    assert_eq!(told(&world, all()).await, [1, 2, 3]);
    assert_eq!(told(&world, v1::WatchRequest { tenant: "shop".into(), ..all() }).await, [1, 2]);
    assert_eq!(told(&world, v1::WatchRequest { campaign: "spring".into(), ..all() }).await, [1, 3]);
    let id = crate::mail::MessageId(2).to_string();
    assert_eq!(told(&world, v1::WatchRequest { message_id: id, ..all() }).await, [2]);
    assert_eq!(told(&world, v1::WatchRequest { kinds: vec![1, 3], ..all() }).await, [1, 3]);
    assert_eq!(told(&world, v1::WatchRequest { tenant: "none".into(), ..all() }).await, [0u32; 0]);
    let asked = v1::WatchRequest { cursor: first.cursor, ..all() };
    assert_eq!(told(&world, asked).await, [2, 3]);
}
