//! The door with tonic's client over TCP, and a desk that commits when it is told to.

#![allow(clippy::unwrap_used, reason = "a test")]

mod desk;
mod fields;
mod limits;
mod streams;
mod transports;

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use self::desk::Book;
use super::proto::google::rpc;
use super::v1::events_client::EventsClient;
use super::v1::submission_client::SubmissionClient;
use super::{Grpc, v1};
use crate::clock::Clock;
use crate::config::{EventsConfig, GrpcConfig};
use crate::events::EventLog;
use crate::telemetry::Metrics;

/// How long a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running door, its desk, and a client.
struct World {
    grpc: Grpc,
    book: Arc<Book>,
    events: Arc<EventLog>,
    metrics: Arc<Metrics>,
    channel: Channel,
    config: GrpcConfig,
    _folder: TempDir,
}

impl World {
    async fn start(change: impl FnOnce(&mut GrpcConfig)) -> World {
        let mut config = GrpcConfig { listen: vec!["127.0.0.1:0".parse().unwrap()], ..GrpcConfig::default() };
        change(&mut config);
        let (folder, book, metrics) = (tempfile::tempdir().unwrap(), Book::new(), Arc::new(Metrics::new()));
        let (events, _) = EventLog::open(folder.path(), &EventsConfig::default(), Arc::clone(&metrics)).unwrap();
        let events = Arc::new(events);
        let hostname = "mta.us.test".parse().unwrap();
        let (desk, log, counts) = (Arc::clone(&book), Arc::clone(&events), Arc::clone(&metrics));
        let grpc = Grpc::start_at(&config, hostname, desk, log, counts, Clock).unwrap();
        let endpoint = Endpoint::from_shared(format!("http://{}", grpc.local_addrs()[0])).unwrap();
        let channel = endpoint.connect().await.unwrap();
        World { grpc, book, events, metrics, channel, config, _folder: folder }
    }

    fn client(&self) -> SubmissionClient<Channel> {
        SubmissionClient::new(self.channel.clone())
    }

    fn events_client(&self) -> EventsClient<Channel> {
        EventsClient::new(self.channel.clone())
    }

    fn refused(&self, reason: &str) -> u64 {
        self.metrics.submissions_refused.with_label_values(&["grpc", reason]).get()
    }
}

/// A whole message of about this size, to `to`.
fn raw(to: &str, size: usize) -> v1::SubmitRequest {
    let content = format!("From: a@us.test\r\nSubject: hello\r\n\r\n{}", "Hello.\r\n".repeat(size / 8));
    v1::SubmitRequest {
        recipients: vec![to.to_owned()],
        content: Some(v1::submit_request::Content::Raw(content.into())),
        ..v1::SubmitRequest::default()
    }
}

/// A message to be built.
fn built() -> v1::SubmitRequest {
    let mailbox = |address: &str| v1::Mailbox { address: address.to_owned(), name: String::new() };
    let parts = v1::Parts {
        from: Some(mailbox("a@us.test")),
        to: vec![mailbox("b@them.test")],
        subject: "hello".into(),
        text: "Hello.".into(),
        ..v1::Parts::default()
    };
    let content = Some(v1::submit_request::Content::Parts(parts));
    v1::SubmitRequest { content, ..v1::SubmitRequest::default() }
}

/// What a status says in its details.
#[derive(Debug, Default)]
struct Details {
    reason: String,
    fields: Vec<String>,
    retry_after: Option<Duration>,
    metadata: std::collections::HashMap<String, String>,
}

fn details(whole: &rpc::Status) -> Details {
    let mut details = Details::default();
    for any in &whole.details {
        match any.type_url.as_str() {
            "type.googleapis.com/google.rpc.ErrorInfo" => {
                let info = rpc::ErrorInfo::decode(&*any.value).unwrap();
                assert_eq!(info.domain, "posthaste");
                (details.reason, details.metadata) = (info.reason, info.metadata);
            }
            "type.googleapis.com/google.rpc.BadRequest" => {
                let bad = rpc::BadRequest::decode(&*any.value).unwrap();
                assert!(bad.field_violations.iter().all(|one| !one.description.is_empty()), "{bad:?}");
                details.fields = bad.field_violations.into_iter().map(|one| one.field).collect();
            }
            "type.googleapis.com/google.rpc.RetryInfo" => {
                let retry = rpc::RetryInfo::decode(&*any.value).unwrap();
                details.retry_after = Some(retry.retry_delay.unwrap().try_into().unwrap());
            }
            other => panic!("{other}"),
        }
    }
    details
}

/// The details of a status, which must have this code.
#[track_caller]
fn check_status(status: &Status, code: Code) -> Details {
    assert_eq!(status.code(), code, "{status:?}");
    let whole = rpc::Status::decode(status.details()).unwrap();
    assert_eq!((whole.code, whole.message.as_str()), (code as i32, status.message()));
    details(&whole)
}

/// Looks until it is so.
async fn until(what: &str, mut look: impl FnMut() -> bool) {
    let looking = async {
        while !look() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("did not see: {what}"));
}
