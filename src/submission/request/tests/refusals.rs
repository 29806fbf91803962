//! What is refused, and which field is named.

use super::*;

#[test]
fn every_bad_field_is_named_at_once() {
    let request = Request {
        tenant: Some(String::new()),
        campaign: Some("x".repeat(129)),
        class: Some("system".into()),
        tags: texts(&["good", "a,b"]),
        not_before: Some(When::Text("soon".into())),
        expires_at: Some(When::At(Timestamp(1))),
        idempotency_key: Some("a b".into()),
        sender: Some("nobody".into()),
        recipients: texts(&["a@b.example", "a@", "x"]),
        envid: Some("\n".into()),
        ..parts(|parts| {
            parts.from = Some(mailbox("Ann\r\nBcc: x <ann@shop.example>"));
            parts.to = vec![mailbox("a@b.example"), mailbox("b@")];
            parts.bcc = vec![mailbox("c d")];
            parts.subject = Some("a\nb".into());
            parts.text = Some("a\0".into());
            parts.headers = vec![("X-A".into(), "b\r\nBcc: c".into()), ("bad name".into(), "b".into())];
            parts.attachments = vec![Attachment {
                file_name: Some("a\"\r\n".into()),
                content_type: Some("image".into()),
                content_id: Some("a b".into()),
                ..Attachment::default()
            }];
        })
    };
    check_refused(
        request,
        &[
            ("from", "without control characters"),
            ("to[1]", "the domain is empty"),
            ("bcc[0]", "the address has no @"),
            ("subject", "without control characters"),
            ("headers[\"X-A\"]", "without control characters"),
            ("headers[\"bad name\"]", "is no field name"),
            ("text", "must not hold NUL"),
            ("attachments[0].content_type", "must be a media type"),
            ("attachments[0].file_name", "without control characters"),
            ("attachments[0].content_id", "printable ASCII"),
            ("idempotency_key", "printable ASCII"),
            ("envid", "printable ASCII"),
            ("tenant", "1 to 128"),
            ("campaign", "1 to 128"),
            ("class", "kept for our own reports"),
            ("not_before", "must be a time"),
            ("tags[1]", "without a comma"),
            ("sender", "no @"),
            ("recipients[1]", "domain is empty"),
            ("recipients[2]", "no @"),
            ("bcc", "beside recipients"),
            ("expires_at", "has passed"),
        ],
    );
}

/// Requests with one wrong field: its name, and what is said of it.
type Cases = Vec<(Request, &'static str, &'static str)>;

#[track_caller]
fn check_each(cases: Cases) {
    for (request, field, why) in cases {
        check_refused(request, &[(field, why)]);
    }
}

#[test]
fn bad_envelopes_and_parts() {
    let many: Vec<String> = (0..6).map(|n| format!("r{n}@b.example")).collect();
    check_each(vec![
        (parts(|parts| parts.from = None), "from", "must be given"),
        (parts(|parts| parts.to = Vec::new()), "recipients", "must name somebody, or to, cc or bcc must"),
        (parts(|parts| parts.text = None), "text", "must be given, or html"),
        (parts(|parts| parts.subject = Some("x".repeat(999))), "subject", "at most 998"),
        (parts(|parts| parts.subject = Some("x".repeat(998))), "subject", "too long to be folded"),
        (parts(|parts| parts.from = Some(mailbox("a@c d"))), "from", "is not a domain"),
        (Request { recipients: many, ..parts(|_| {}) }, "recipients", "are more than 5"),
        (Request { tags: texts(&[""]), ..parts(|_| {}) }, "tags[0]", "1 to 128"),
        (Request { tags: vec!["x".into(); 33], ..parts(|_| {}) }, "tags", "at most 32"),
        (
            Request {
                not_before: Some(When::Text("2h".into())),
                expires_at: Some(When::Text("1h".into())),
                ..parts(|_| {})
            },
            "expires_at",
            "not after not_before",
        ),
        (Request { not_before: Some(When::At(Timestamp(u64::MAX))), ..parts(|_| {}) }, "not_before", ""),
    ]);
}

#[test]
fn bad_header_fields() {
    let field =
        |name: &'static str, value: &'static str| parts(|parts| parts.headers = vec![(name.into(), value.into())]);
    let twice = vec![("References".into(), "<a@b>".into()), ("references".into(), "<c@d>".into())];
    check_each(vec![
        (field("Bcc", "a@b"), "headers[\"Bcc\"]", "must not be given"),
        (field("received", "x"), "headers[\"received\"]", "must not be given"),
        (field("RETURN-PATH", "x"), "headers[\"RETURN-PATH\"]", "must not be given"),
        (field("Content-Type", "x"), "headers[\"Content-Type\"]", "begins with Content-"),
        (field("content-id", "x"), "headers[\"content-id\"]", "begins with Content-"),
        (field("MIME-Version", "2"), "headers[\"MIME-Version\"]", "must not be given"),
        (field("DKIM-Signature", "x"), "headers[\"DKIM-Signature\"]", "must not be given"),
        (field("X-Posthaste-Class", "bulk"), "headers[\"X-Posthaste-Class\"]", "begins with X-Posthaste-"),
        (field("X:Y", "x"), "headers[\"X:Y\"]", "no field name"),
        (field("", "x"), "headers[\"\"]", "no field name"),
        (field("X-\u{fc}", "x"), "headers[\"X-\u{fc}\"]", "no field name"),
        (field("X-A", "a\u{85}b"), "headers[\"X-A\"]", "control characters"),
        (field("Message-ID", "x"), "headers[\"Message-ID\"]", "name@domain"),
        (parts(|parts| parts.headers = twice), "headers[\"references\"]", "only once"),
        (
            parts(|parts| parts.headers = vec![("X-A".into(), "x".repeat(1200))]),
            "headers[\"X-A\"]",
            "too long to be folded",
        ),
    ]);
}

#[test]
fn bad_attachments() {
    let attached = |content_type: &'static str, content: &'static [u8]| {
        parts(|parts| {
            let (content_type, content) = (Some(content_type.into()), Bytes::from_static(content));
            parts.attachments = vec![Attachment { content_type, content, ..Attachment::default() }];
        })
    };
    let cid = Attachment { content_id: Some("x@y".into()), ..Attachment::default() };
    check_each(vec![
        (attached("multipart/mixed", b""), "attachments[0].content_type", "must not be multipart"),
        (attached("message/rfc822", b"a\rb"), "attachments[0].content", "line 1 holds a bare CR"),
        (parts(|parts| parts.attachments = vec![cid.clone(), cid]), "attachments[1].content_id", "another attachment"),
    ]);
}

#[test]
fn bad_raw_messages() {
    check_each(vec![
        (Request { recipients: Vec::new(), ..raw("From: a@b.example\n\nx") }, "recipients", "where there is raw"),
        (raw("Subject: s\n\nx"), "sender", "no address can be read"),
        (raw("From: a@b.example\n\nx\0"), "raw", "line 3 holds a NUL"),
        (raw("From: a@b.example\n\nx\ry"), "raw", "line 3 holds a bare CR"),
        (raw(&format!("From: a@b.example\n\n{}", "x".repeat(999))), "raw", "line 3 is 999 octets long"),
        (raw("From: a@b.example\nSubject: \u{fc}\n\nx"), "raw", "field Subject holds 8-bit text"),
        (raw("From: a@b.example\nno field\n\nx"), "raw", "line 2 of the header is no field"),
        (raw("From: a@b.example\nX-Posthaste-Class: x\n\nx"), "raw", "X-Posthaste-Class: \"x\": must be"),
        (
            Request { class: Some("bulk".into()), ..raw("From: a@b.example\nx-posthaste-class: bulk\n\nx") },
            "class",
            "is given by X-Posthaste-Class in raw, too",
        ),
        (raw("From: a@b.example\nX-Posthaste-Idempotency-Key: k\n\nx"), "raw", "say it as idempotency_key"),
        (
            Request {
                sender: Some("a@b.example".into()),
                ..raw("From a@b Sun Nov 22 12:00:00 2026\nX-Posthaste-Idempotency-Key: k\n\nx")
            },
            "raw",
            "say it as idempotency_key",
        ),
    ]);
}

#[test]
fn what_is_too_large_is_refused_as_that() {
    let kind = |request| prepared(request).expect_err("refused").kind;
    use crate::submission::RejectionKind::{Invalid, TooLarge};
    assert_eq!(kind(raw(&"x\n".repeat(6000))), TooLarge);
    assert_eq!(kind(parts(|parts| parts.text = Some("text\n".repeat(2000)))), TooLarge);
    let personal = Request { personal: true, recipients: texts(&["a@b", "c@b", "d@b", "e@b"]), ..parts(|_| {}) };
    assert!(prepared(personal.clone()).is_ok());
    let long = parts(|parts| parts.text = Some("text\n".repeat(1600)));
    assert_eq!(kind(Request { content: long.content, ..personal }), TooLarge);
    let all: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
    let rejection = prepared(Request { recipients: all, ..parts(|_| {}) }).expect_err("refused");
    assert_eq!((rejection.kind, rejection.violations.len()), (Invalid, VIOLATIONS_MAX));
}
