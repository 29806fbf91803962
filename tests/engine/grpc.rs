//! The gRPC door with tonic's client: over TCP, TLS with and without a client certificate, and a Unix socket.

use std::net::SocketAddr;
use std::time::Duration;

use posthaste::submission::grpc::v1;
use posthaste::submission::grpc::v1::events_client::EventsClient;
use posthaste::submission::grpc::v1::submission_client::SubmissionClient;
use tokio_stream::StreamExt;
use tonic::transport::{Channel, Endpoint};

use crate::peer::Peer;
use crate::world::{World, listeners, zone};

async fn channel(address: SocketAddr) -> Channel {
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
    let channel = channel(world.daemon().grpc_addresses()[0]).await;
    let mut client = SubmissionClient::new(channel.clone());
    let receipt = client.submit(raw("u@one.test", 1000)).await.unwrap().into_inner();
    world.until("delivered", "u@one.test", 1).await;
    let asked = v1::GetMessageRequest { message_id: receipt.message_id.clone() };
    let known = client.get_message(asked).await.unwrap().into_inner();
    assert_eq!(known.message_id, receipt.message_id);
    let mut events = EventsClient::new(channel);
    let asked = v1::WatchRequest { start: v1::watch_request::Start::Oldest.into(), ..v1::WatchRequest::default() };
    let mut told = events.watch(asked).await.unwrap().into_inner();
    let first = tokio::time::timeout(Duration::from_secs(10), told.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(first.event.unwrap().message_id, receipt.message_id);
}
