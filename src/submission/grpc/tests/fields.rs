//! What requests say, field by field.

use prost_types::Timestamp;
use tonic::Code;

use super::super::v1::submit_request::Content;
use super::super::v1::{CancelRequest, GetMessageRequest, WatchRequest, cancel_request};
use super::{World, built, check_status, raw, v1};
use crate::clock::Clock;
use crate::mail::{Class, Ret};

#[tokio::test]
async fn every_field_arrives() {
    let world = World::start(|_| {}).await;
    let now = Clock.timestamp().0 as i64 / 1000;
    let request = v1::SubmitRequest {
        tenant: "shop".into(),
        campaign: "spring".into(),
        class: v1::Class::Bulk.into(),
        tags: vec!["a".into(), "b c".into()],
        not_before: Some(Timestamp { seconds: now + 3600, nanos: 500_000_000 }),
        expires_at: Some(Timestamp { seconds: now + 7200, nanos: 0 }),
        idempotency_key: "key-1".into(),
        sender: Some("bounces@us.test".into()),
        recipients: vec!["x@them.test".into(), "y@them.test".into()],
        notify: Some(v1::Notify { success: true, failure: false, delay: true }),
        ret: v1::Ret::Headers.into(),
        envid: "order 7".into(),
        ..raw("", 100)
    };
    let receipt = world.client().submit(request.clone()).await.unwrap().into_inner();
    assert_eq!(receipt.message_ids, Vec::<String>::new());
    assert_eq!(receipt.accepted_at, Some(Timestamp { seconds: 1_795_348_800, nanos: 123_000_000 }));
    let stored = world.book.stored();
    let envelope = &stored[0].messages[0].envelope;
    assert_eq!(stored[0].messages[0].id.to_string(), receipt.message_id);
    let stream = &envelope.stream;
    assert_eq!((&*stream.tenant, stream.class, &*stream.campaign), ("shop", Class::Bulk, "spring"));
    assert_eq!(envelope.tags, ["a".into(), "b c".into()]);
    assert_eq!(envelope.not_before.0 as i64, (now + 3600) * 1000 + 500);
    assert_eq!(envelope.expires_at.0 as i64, (now + 7200) * 1000);
    assert_eq!(envelope.key.as_ref().unwrap().key.as_str(), "key-1");
    assert_eq!(envelope.reverse_path.to_string().trim_matches(['<', '>']), "bounces@us.test");
    let to: Vec<String> = envelope.recipients.iter().map(|one| one.address.to_string()).collect();
    assert_eq!(to, ["x@them.test", "y@them.test"]);
    let notify = envelope.recipients[0].notify.unwrap();
    assert_eq!((notify.success, notify.failure, notify.delay), (true, false, true));
    assert_eq!((envelope.ret, envelope.envid.as_deref()), (Some(Ret::Hdrs), Some("order+207")));
    let content = String::from_utf8_lossy(&stored[0].messages[0].content).into_owned();
    assert!(content.contains("with gRPC"), "{content}");

    // The same again is the same, and says so.
    let again = world.client().submit(request).await.unwrap().into_inner();
    assert_eq!(again, v1::Receipt { replayed: true, ..receipt });
    assert_eq!(world.book.stored().len(), 1);
    assert_eq!(world.metrics.messages_accepted.with_label_values(&["grpc"]).get(), 1);
}

#[tokio::test]
async fn parts_are_built_and_personal_requests_have_several_ids() {
    let world = World::start(|_| {}).await;
    let mut request = built();
    request.personal = true;
    request.recipients = vec!["x@them.test".into(), "y@them.test".into(), "z@them.test".into()];
    let receipt = world.client().submit(request).await.unwrap().into_inner();
    assert_eq!(receipt.message_ids.len(), 3);
    assert_eq!(receipt.message_ids[0], receipt.message_id);
    let stored = world.book.stored();
    let ids: Vec<String> = stored[0].messages.iter().map(|message| message.id.to_string()).collect();
    assert_eq!(ids, receipt.message_ids);
    assert_eq!(world.metrics.messages_accepted.with_label_values(&["grpc"]).get(), 3);
}

/// A request with a change, and the fields it is refused for.
async fn check(world: &World, change: impl FnOnce(&mut v1::SubmitRequest), fields: &[&str]) {
    let mut request = built();
    change(&mut request);
    let asked = format!("{request:?}");
    let status = world.client().submit(request).await.expect_err(&asked);
    let details = check_status(&status, Code::InvalidArgument);
    assert_eq!(
        (details.fields.iter().map(String::as_str).collect::<Vec<_>>().as_slice(), details.reason.as_str()),
        (fields, "INVALID"),
        "{asked}"
    );
    assert_eq!(details.retry_after, None);
    assert!(world.book.stored().is_empty(), "{asked}");
}

fn parts(request: &mut v1::SubmitRequest) -> &mut v1::Parts {
    match &mut request.content {
        Some(Content::Parts(parts)) => parts,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_bad_field_is_named_and_nothing_is_stored() {
    let world = World::start(|config| config.recipients_max = 3).await;
    let w = &world;
    let mailbox = |address: &str| v1::Mailbox { address: address.into(), name: String::new() };
    check(w, |r| r.tenant = "a\tb".into(), &["tenant"]).await;
    check(w, |r| r.campaign = "x".repeat(129), &["campaign"]).await;
    check(w, |r| r.class = v1::Class::System.into(), &["class"]).await;
    check(w, |r| r.class = 77, &["class"]).await;
    check(w, |r| r.tags = vec!["ok".into(), "a,b".into()], &["tags[1]"]).await;
    check(w, |r| r.tags = vec!["x".repeat(129)], &["tags"]).await;
    check(w, |r| r.not_before = Some(Timestamp { seconds: -1, nanos: 0 }), &["not_before"]).await;
    check(w, |r| r.not_before = Some(Timestamp { seconds: i64::MAX, nanos: 0 }), &["not_before"]).await;
    check(w, |r| r.not_before = Some(Timestamp { seconds: 1, nanos: -1 }), &["not_before"]).await;
    check(w, |r| r.expires_at = Some(Timestamp { seconds: 1000, nanos: 0 }), &["expires_at"]).await;
    check(w, |r| r.idempotency_key = "two words".into(), &["idempotency_key"]).await;
    check(w, |r| r.idempotency_key = "x".repeat(256), &["idempotency_key"]).await;
    check(w, |r| r.sender = Some("nobody".into()), &["sender"]).await;
    check(w, |r| r.recipients = vec!["a@b.test".into(), "a b".into()], &["recipients[1]"]).await;
    let many = || (0..4).map(|n| format!("u{n}@them.test")).collect::<Vec<_>>();
    check(w, |r| r.recipients = many(), &["recipients"]).await;
    check(w, |r| r.ret = 9, &["ret"]).await;
    check(w, |r| r.envid = "\u{fc}".into(), &["envid"]).await;
    check(w, |r| r.content = None, &["content", "recipients"]).await;
    check(w, |r| r.content = Some(Content::Raw("From: a@us.test\r\n\r\na\0b\r\n".into())), &["raw", "recipients"])
        .await;
    check(w, |r| parts(r).from = None, &["parts.from"]).await;
    check(w, |r| parts(r).to = vec![mailbox("b@them.test"), mailbox("b")], &["parts.to[1]"]).await;
    check(w, |r| parts(r).subject = "a\r\nBcc: x@y".into(), &["parts.subject"]).await;
    let header = |name: &str, value: &str| v1::Header { name: name.into(), value: value.into() };
    check(w, |r| parts(r).headers = vec![header("X: y", "z")], &["parts.headers[\"X: y\"]"]).await;
    let file = v1::Attachment { content_type: "nonsense".into(), ..v1::Attachment::default() };
    check(w, |r| parts(r).attachments = vec![file], &["parts.attachments[0].content_type"]).await;
    // All at once.
    let several = |r: &mut v1::SubmitRequest| {
        r.ret = 9;
        r.tenant = "a\tb".into();
        r.sender = Some("nobody".into());
    };
    check(w, several, &["ret", "tenant", "sender"]).await;
    assert!(world.refused("invalid") > 20);
}

#[tokio::test]
async fn questions_and_cancels_are_checked() {
    let world = World::start(|_| {}).await;
    let mut client = world.client();
    let status = client.get_message(GetMessageRequest { message_id: "x".into() }).await.unwrap_err();
    assert_eq!(check_status(&status, Code::InvalidArgument).fields, ["message_id"]);
    let id = crate::mail::MessageId(7).to_string();
    let status = client.get_message(GetMessageRequest { message_id: id.clone() }).await.unwrap_err();
    assert_eq!(check_status(&status, Code::NotFound).reason, "NOT_FOUND");
    let what = |what| CancelRequest { what, tenant: String::new() };
    for (request, field) in [
        (what(None), "what"),
        (what(Some(cancel_request::What::MessageId("x".into()))), "message_id"),
        (what(Some(cancel_request::What::IdempotencyKey("two words".into()))), "idempotency_key"),
        (what(Some(cancel_request::What::Campaign(String::new()))), "campaign"),
        (CancelRequest { tenant: "t".into(), ..what(Some(cancel_request::What::MessageId(id))) }, "tenant"),
    ] {
        let status = client.cancel(request).await.unwrap_err();
        assert_eq!(check_status(&status, Code::InvalidArgument).fields, [field]);
    }
    let request = what(Some(cancel_request::What::Campaign("spring".into())));
    let done = client.cancel(request).await.unwrap().into_inner();
    assert_eq!((done.messages, done.recipients, done.in_flight), (4, 5, 6));
    let asked = WatchRequest { cursor: "x".into(), message_id: "y".into(), kinds: vec![1, 99], ..Default::default() };
    let status = world.events_client().watch(asked).await.unwrap_err();
    assert_eq!(check_status(&status, Code::InvalidArgument).fields, ["cursor", "kinds[1]", "message_id"]);
}
