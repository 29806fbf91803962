//! Hands a campaign over by gRPC, each message exactly once, however often this program is interrupted and run again.
//!
//! ```text
//! cargo run --example grpc -- spring-sale ada@example.com grace@example.com
//! POSTHASTE_GRPC=http://127.0.0.1:2580    where the daemon is
//! POSTHASTE_TOKEN=...                     who we are; not needed from a trusted network
//! ```
//!
//! Every request has a key made of what it is about: the campaign and the recipient. Whatever has no receipt is sent
//! again with the same key, and the daemon answers with the first receipt instead of mailing twice.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use posthaste::submission::grpc::proto::google::rpc;
use posthaste::submission::grpc::v1;
use posthaste::submission::grpc::v1::submission_client::SubmissionClient;
use posthaste::submission::grpc::v1::submit_result::Result as Outcome;
use prost::Message;
use tokio_stream::StreamExt;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

/// How often we begin anew before we give up.
const ROUNDS_MAX: u32 = 20;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let campaign = words.next().ok_or("usage: grpc CAMPAIGN RECIPIENT...")?;
    let server = std::env::var("POSTHASTE_GRPC").unwrap_or_else(|_| "http://127.0.0.1:2580".into());
    let token = std::env::var("POSTHASTE_TOKEN").ok();
    // Lazy: while the daemon restarts, calls fail as UNAVAILABLE and the next one connects again.
    let mut client = SubmissionClient::new(Endpoint::from_shared(server)?.connect_lazy());

    // What has no answer yet, in the order of sending.
    let mut open: BTreeMap<usize, v1::SubmitRequest> = words.map(|to| request(&campaign, &to)).enumerate().collect();
    let mut refused = 0;
    for round in 0..ROUNDS_MAX {
        let wait = match send(&mut client, token.as_deref(), &mut open, &mut refused).await {
            Ok(wait) => wait,
            // The stream broke. What had its receipt is no longer in `open`.
            Err(status) if matches!(status.code(), Code::Unavailable | Code::ResourceExhausted | Code::Unknown) => {
                eprintln!("{}: {}", status.code(), status.message());
                Duration::from_millis(200) * 2_u32.pow(round.min(8))
            }
            Err(status) => return Err(status.into()),
        };
        if open.is_empty() {
            return if refused == 0 { Ok(()) } else { Err(format!("{refused} refused").into()) };
        }
        tokio::time::sleep(wait).await;
    }
    Err(format!("{} have no receipt; run this again", open.len()).into())
}

/// One message. Its class is bulk, since nobody waits for it: password resets overtake it.
fn request(campaign: &str, to: &str) -> v1::SubmitRequest {
    let mailbox = |address: &str, name: &str| v1::Mailbox { address: address.into(), name: name.into() };
    let parts = v1::Parts {
        from: Some(mailbox("news@shop.test", "The shop")),
        to: vec![mailbox(to, "")],
        subject: "Spring sale".into(),
        text: "Everything must go.\n".into(),
        html: "<p>Everything <b>must</b> go.</p>".into(),
        ..v1::Parts::default()
    };
    v1::SubmitRequest {
        idempotency_key: format!("{campaign}/{to}"),
        campaign: campaign.into(),
        class: v1::Class::Bulk.into(),
        tags: vec!["example".into()],
        content: Some(v1::submit_request::Content::Parts(parts)),
        ..v1::SubmitRequest::default()
    }
}

/// Sends all that is open over one stream and takes out what has its answer. How long to wait before the rest.
async fn send(
    client: &mut SubmissionClient<Channel>,
    token: Option<&str>,
    open: &mut BTreeMap<usize, v1::SubmitRequest>,
    refused: &mut usize,
) -> Result<Duration, Status> {
    // The stream counts its requests; results name them by that.
    let sent: Vec<usize> = open.keys().copied().collect();
    let mut call = Request::new(tokio_stream::iter(open.values().cloned().collect::<Vec<_>>()));
    if let Some(token) = token {
        let bearer = MetadataValue::try_from(format!("Bearer {token}"));
        call.metadata_mut().insert("authorization", bearer.map_err(|_| Status::unauthenticated("no such token"))?);
    }
    let mut results = client.submit_stream(call).await?.into_inner();
    let mut wait = Duration::ZERO;
    while let Some(v1::SubmitResult { index, result }) = results.next().await.transpose()? {
        let which = sent[index as usize];
        let key = open.get(&which).map(|request| request.idempotency_key.clone()).unwrap_or_default();
        match result {
            Some(Outcome::Receipt(receipt)) => {
                let note = if receipt.replayed { " (accepted before)" } else { "" };
                println!("{key}: {}{note}", receipt.message_id);
                open.remove(&which);
            }
            Some(Outcome::Error(status))
                if matches!(status.code.into(), Code::ResourceExhausted | Code::Unavailable) =>
            {
                wait = wait.max(retry_delay(&status).unwrap_or(Duration::from_secs(1)));
            }
            Some(Outcome::Error(status)) => {
                // It would be refused every time: somebody must look at it.
                eprintln!("{key}: {}", status.message);
                *refused += 1;
                open.remove(&which);
            }
            None => {}
        }
    }
    Ok(wait)
}

/// When the daemon says there may be room.
fn retry_delay(status: &rpc::Status) -> Option<Duration> {
    let info = status.details.iter().find(|detail| detail.type_url.ends_with("/google.rpc.RetryInfo"))?;
    rpc::RetryInfo::decode(&*info.value).ok()?.retry_delay?.try_into().ok()
}
