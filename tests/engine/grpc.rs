//! The gRPC door of the whole daemon with tonic's client.

use std::net::SocketAddr;
use std::time::Duration;

use posthaste::config::ByteSize;
use posthaste::submission::grpc::v1;
use posthaste::submission::grpc::v1::events_client::EventsClient;
use posthaste::submission::grpc::v1::submission_client::SubmissionClient;
use posthaste::submission::grpc::v1::submit_result::Result as Outcome;
use tokio_stream::StreamExt;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use crate::peer::Peer;
use crate::world::{World, listeners, zone};

async fn channel(world: &World) -> Channel {
    let address: SocketAddr = world.daemon().grpc_addresses()[0];
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

/// A whole message of about this size, to this recipient.
fn raw(to: &str, size: usize) -> v1::SubmitRequest {
    let content = format!("From: A <a@us.test>\r\nTo: {to}\r\nSubject: hello\r\n\r\n{}", "Hello.\r\n".repeat(size / 8));
    v1::SubmitRequest {
        recipients: vec![to.to_owned()],
        content: Some(v1::submit_request::Content::Raw(content.into())),
        ..v1::SubmitRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_message_is_accepted_delivered_and_known() {
    let mut hosts = listeners(1).await;
    let peer = Peer::good(hosts.remove(0));
    let world = World::start(zone(&["one"]), peer.address().port(), |_| {}).await;
    let mut client = SubmissionClient::new(channel(&world).await);
    let receipt = client.submit(raw("u@one.test", 1000)).await.unwrap().into_inner();
    world.until("delivered", "u@one.test", 1).await;
    let asked = v1::GetMessageRequest { message_id: receipt.message_id.clone() };
    let known = client.get_message(asked).await.unwrap().into_inner();
    assert_eq!((known.message_id, known.waiting), (receipt.message_id, false));
    assert_eq!(known.recipients[0].state(), v1::recipient_status::State::Delivered);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_sent_again_is_accepted_once_and_events_are_told_once() {
    let mut hosts = listeners(1).await;
    let peer = Peer::good(hosts.remove(0));
    let change = |config: &mut posthaste::config::Config| {
        config.events.rotate_size = ByteSize(50_000);
        config.events.keep = 100;
    };
    let mut world = World::start(zone(&["one"]), peer.address().port(), change).await;
    let batch = || {
        let keyed =
            |n: u32| v1::SubmitRequest { idempotency_key: format!("k{n}"), ..raw(&format!("u{n}@one.test"), 500) };
        tokio_stream::iter((0..300).map(keyed))
    };
    let submit = async |world: &World| {
        let mut client = SubmissionClient::new(channel(world).await);
        let mut results = client.submit_stream(batch()).await.unwrap().into_inner();
        let mut receipts = Vec::new();
        while let Some(result) = results.next().await {
            match result.unwrap().result {
                Some(Outcome::Receipt(receipt)) => receipts.push(receipt),
                other => panic!("{other:?}"),
            }
        }
        receipts
    };
    let first = submit(&world).await;
    assert_eq!((first.len(), first.iter().filter(|one| one.replayed).count()), (300, 0));
    let again = submit(&world).await;
    assert!(again.iter().all(|one| one.replayed));
    assert!(again.iter().zip(&first).all(|(again, first)| again.message_id == first.message_id));
    let other = v1::SubmitRequest { idempotency_key: "k7".into(), ..raw("somebody@one.test", 500) };
    let status = SubmissionClient::new(channel(&world).await).submit(other).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    world.until_empty().await;
    assert_eq!(peer.taken().len(), 300);

    // Half the events; then a restart; then the rest, from the cursor.
    let mut told = Vec::new();
    let mut cursor = String::new();
    for _ in 0..2 {
        let asked = v1::WatchRequest {
            cursor: cursor.clone(),
            start: v1::watch_request::Start::Oldest.into(),
            kinds: vec![v1::event::Kind::Delivered.into()],
            ..v1::WatchRequest::default()
        };
        let mut watching = EventsClient::new(channel(&world).await).watch(asked).await.unwrap().into_inner();
        let wanted = if cursor.is_empty() { 150 } else { 300 };
        while told.len() < wanted {
            let next = tokio::time::timeout(Duration::from_secs(20), watching.next()).await;
            let response = next.expect("events").unwrap().unwrap();
            cursor = response.cursor;
            told.extend(response.event.map(|event| event.message_id));
        }
        drop(watching);
        assert!(world.stop(Duration::from_secs(10)).await);
        world.start_again().await;
    }
    let mut expected: Vec<String> = first.into_iter().map(|receipt| receipt.message_id).collect();
    expected.sort_unstable();
    told.sort_unstable();
    assert_eq!(told, expected);
}
