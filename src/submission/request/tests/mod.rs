//! Requests as the doors hand them in, against a door that takes all.

mod content;
mod copies;
mod keys;
mod properties;
mod refusals;

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use mail_parser::{Message, MessageParser};

use super::*;
use crate::access::{How, Tenant};
use crate::mail::{Class, Notify, Receipt, Ret};

const NOW: Timestamp = Timestamp(1_795_348_800_000); // 2026-11-22T12:00:00Z

/// A door that takes all.
struct Open(AtomicU64);

impl Door for Open {
    fn next_ids(&self, count: u32) -> MessageId {
        MessageId(self.0.fetch_add(u64::from(count), Ordering::Relaxed))
    }

    fn ready(&self) -> Result<(), Rejection> {
        Ok(())
    }

    fn accept(&self, handover: Handover) -> impl Future<Output = Result<Receipt, Rejection>> + Send + 'static {
        let (id, messages) = (handover.messages[0].id, handover.messages.len() as u32);
        std::future::ready(Ok(Receipt { id, messages, accepted_at: NOW, replayed: false }))
    }

    fn expire_after(&self) -> Duration {
        Duration::from_secs(3600)
    }
}

fn prepared(request: Request) -> Result<Handover, Rejection> {
    prepared_for(Principal::network(), request, |_| true)
}

fn prepared_for(
    principal: Arc<Principal>,
    request: Request,
    take: impl FnOnce(usize) -> bool,
) -> Result<Handover, Rejection> {
    let hostname = "mta.example".parse().expect("a domain");
    let circumstances = ApiCircumstances {
        principal,
        client: Some([192, 0, 2, 1].into()),
        protocol: "HTTP",
        hostname: &hostname,
        now: NOW,
        max_message_size: 10_000,
        recipients_max: 5,
        memory_max: 40_000,
        names: ContentNames { raw: "raw", parts: "" },
    };
    prepare_within(&Open(AtomicU64::new(1)), request, &circumstances, take)
}

fn mailbox(text: &str) -> Mailbox {
    match text.split_once('<') {
        Some((name, address)) => {
            Mailbox { name: Some(name.trim().into()), address: address.trim_end_matches('>').into() }
        }
        None => Mailbox { name: None, address: text.into() },
    }
}

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

/// A request that is good.
fn parts(change: impl FnOnce(&mut Parts)) -> Request {
    let mut parts = Parts {
        from: Some(mailbox("Ann Lee <ann@shop.example>")),
        to: vec![mailbox("Bob <bob@b.example>")],
        subject: Some("Hello".into()),
        text: Some("Hi Bob\n".into()),
        ..Parts::default()
    };
    change(&mut parts);
    Request { content: RequestContent::Parts(Box::new(parts)), ..Request::default() }
}

fn raw(content: &str) -> Request {
    let content = RequestContent::Raw(Bytes::copy_from_slice(content.as_bytes()));
    Request { recipients: texts(&["r@b.example"]), content, ..Request::default() }
}

/// Checks that exactly these fields are blamed.
#[track_caller]
fn check_refused(request: Request, expected: &[(&str, &str)]) {
    let rejection = prepared(request).expect_err("refused");
    let got: Vec<_> = rejection.violations.iter().map(|v| (v.field.to_string(), v.why.to_string())).collect();
    let got: Vec<_> = got.iter().map(|(field, why)| (field.as_str(), why.as_str())).collect();
    assert_eq!(got.len(), expected.len(), "{got:#?}");
    for ((field, why), (expected_field, expected_why)) in got.iter().zip(expected) {
        assert!(
            field == expected_field && why.contains(expected_why),
            "{field}: {why}, not {expected_field}: {expected_why}"
        );
    }
}

fn one(request: Request) -> NewMessage {
    let mut handover = prepared(request).expect("good");
    assert_eq!(handover.messages.len(), 1);
    handover.messages.remove(0)
}

fn text(content: &[u8]) -> String {
    String::from_utf8(content.to_vec()).expect("UTF-8")
}

fn parse(content: &[u8]) -> Message<'_> {
    check_lines(content);
    MessageParser::default().parse(content).expect("a message")
}

/// What SMTP demands of every content.
fn check_lines(content: &[u8]) {
    assert!(content.ends_with(b"\r\n"));
    for line in text(content).split("\r\n") {
        assert!(line.len() <= 998 && !line.contains(['\r', '\n', '\0']), "{line:?}");
    }
}
