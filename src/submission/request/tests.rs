use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use mail_parser::{Message, MessageParser, MimeHeaders};
use proptest::prelude::*;

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

#[test]
fn a_plain_message() {
    let message = one(parts(|_| {}));
    let (trace, rest) = text(&message.content)
        .split_once("\r\nMessage-ID: ")
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .expect("added");
    assert_eq!(
        trace,
        "Received: from [192.0.2.1] ([192.0.2.1])\r\n\tby mta.example (posthaste) with HTTP\r\n\tid 0000000000001 for \
         <bob@b.example>;\r\n\tSun, 22 Nov 2026 12:00:00 +0000"
    );
    assert_eq!(
        rest,
        "<0000000000001@mta.example>\r\nDate: Sun, 22 Nov 2026 12:00:00 +0000\r\nFrom: \"Ann Lee\" <ann@shop.example>\r\n\
         To: \"Bob\" <bob@b.example>\r\nSubject: Hello\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; \
         charset=\"utf-8\"\r\nContent-Transfer-Encoding: 7bit\r\n\r\nHi Bob\r\n"
    );
    assert_eq!(message.envelope.reverse_path.to_string(), "ann@shop.example");
    assert_eq!(message.envelope.recipients, [Recipient::new("bob@b.example".parse().expect("an address"))]);
    assert_eq!(
        (message.envelope.accepted_at, message.envelope.expires_at),
        (NOW, NOW.after(Duration::from_secs(3600)))
    );
    assert!(!message.envelope.smtputf8 && !message.envelope.eight_bit && message.envelope.key.is_none());
}

#[test]
fn orders_are_obeyed() {
    let request = Request {
        tenant: Some("shop".into()),
        campaign: Some("spring".into()),
        list: Some("news".into()),
        class: Some("Bulk".into()),
        tags: texts(&["a", "b c"]),
        not_before: Some(When::Text("1h".into())),
        expires_at: Some(When::At(NOW.after(Duration::from_secs(7200)))),
        idempotency_key: Some("k-1".into()),
        sender: Some(String::new()),
        recipients: texts(&["x@c.example", "y@c.example", "x@C.example"]),
        notify: Some(Notify { failure: true, ..Notify::default() }),
        ret: Some(Ret::Hdrs),
        envid: Some("a b".into()),
        ..parts(|parts| parts.cc = vec![mailbox("cc@b.example")])
    };
    let again = one(request.clone()).envelope;
    let envelope = one(request).envelope;
    assert_eq!(envelope.stream, mail::Stream { tenant: "shop".into(), class: Class::Bulk, campaign: "spring".into() });
    assert_eq!((envelope.list.as_deref(), &envelope.tags[..]), (Some("news"), &["a".into(), "b c".into()][..]));
    assert_eq!((envelope.not_before.0 - NOW.0, envelope.expires_at.0 - NOW.0), (3_600_000, 7_200_000));
    assert_eq!(envelope.reverse_path, crate::mail::ReversePath::Null);
    let to: Vec<_> = envelope.recipients.iter().map(|recipient| recipient.address.to_string()).collect();
    assert_eq!(to, ["x@c.example", "y@c.example"]);
    assert!(envelope.recipients.iter().all(|recipient| recipient.notify.is_some_and(|notify| notify.failure)));
    assert_eq!((envelope.ret, envelope.envid.as_deref()), (Some(Ret::Hdrs), Some("a+20b")));
    let key = envelope.key.expect("given");
    assert_eq!((key.key.as_str(), key.messages), ("k-1", 1));
    assert_eq!(again.key.expect("given").fingerprint, key.fingerprint);
}

#[test]
fn what_a_request_says_is_in_its_fingerprint() {
    type Change<'a> = &'a dyn Fn(&mut Request, &mut Parts);
    let with = |change: Change<'_>| {
        let mut parts = Parts {
            from: Some(mailbox("a@b.example")),
            to: vec![mailbox("c@d.example")],
            text: Some("t".into()),
            attachments: vec![Attachment { content: Bytes::from_static(b"x"), ..Attachment::default() }],
            ..Parts::default()
        };
        let mut request = Request { idempotency_key: Some("k".into()), ..Request::default() };
        change(&mut request, &mut parts);
        request.content = RequestContent::Parts(Box::new(parts));
        prepared(request).expect("good").messages[0].envelope.key.clone().expect("given").fingerprint
    };
    let changes: [Change<'_>; 15] = [
        &|_, _| {},
        &|request, _| request.campaign = Some("c".into()),
        &|request, _| request.tenant = Some("c".into()),
        &|request, _| request.class = Some("bulk".into()),
        &|request, _| request.tags = texts(&["c"]),
        &|request, _| request.personal = true,
        &|request, _| request.sender = Some("z@b.example".into()),
        &|request, _| request.expires_at = Some(When::Text("1h".into())),
        &|_, parts| parts.subject = Some(String::new()),
        &|_, parts| parts.text = Some("u".into()),
        &|_, parts| parts.html = Some("t".into()),
        &|_, parts| parts.cc = vec![mailbox("e@d.example")],
        &|_, parts| parts.to[0].name = Some("C".into()),
        &|_, parts| parts.headers = vec![("X-A".into(), "b".into())],
        &|_, parts| parts.attachments[0].content = Bytes::from_static(b"y"),
    ];
    let prints: std::collections::HashSet<_> = changes.iter().map(|change| with(*change)).collect();
    assert_eq!(prints.len(), changes.len());
    let message_id = with(&|_, parts| parts.headers = vec![("Message-ID".into(), "<x@y>".into())]);
    assert!(prints.contains(&message_id));
}

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

#[test]
fn what_goes_without_saying_is_the_same_said() {
    let tenant = Tenant { name: "shop".into(), ..Tenant::default() };
    let how = How::Credential("c".into());
    let shop = Arc::new(Principal { tenant: Some(Arc::new(tenant)), how });
    let with = |tenant: Option<&str>, class: Option<&str>| {
        let request = Request {
            tenant: tenant.map(str::to_owned),
            class: class.map(str::to_owned),
            idempotency_key: Some("k".into()),
            ..parts(|_| {})
        };
        let handover = prepared_for(Arc::clone(&shop), request, |_| true).expect("good");
        handover.messages[0].envelope.key.clone().expect("given").fingerprint
    };
    let first = with(None, None);
    assert_eq!((with(Some("shop"), None), with(None, Some("Transactional"))), (first, first));
    assert!(with(None, Some("bulk")) != first && with(Some("other"), None) != first);
}

#[test]
fn personal_copies_are_accounted_before_they_are_made() {
    let request = Request { personal: true, recipients: texts(&["a@b", "c@b", "d@b"]), ..parts(|_| {}) };
    let mut taken = 0;
    let mut take = |octets| {
        taken += octets;
        true
    };
    let handover = prepared_for(Principal::network(), request.clone(), &mut take).expect("good");
    let sum: usize = handover.messages.iter().map(|message| message.content.len()).sum();
    assert!(taken > sum, "{taken}, {sum}");
    let refused = prepared_for(Principal::network(), request, |_| false).expect_err("no memory");
    assert_eq!(refused.kind, crate::submission::RejectionKind::Full);
    assert!(prepared_for(Principal::network(), parts(|_| {}), |_| false).is_ok(), "the body is accounted already");
}

#[test]
fn with_a_key_times_are_wrong_only_for_what_is_new() {
    let passed = |key: Option<&str>, subject: &str| Request {
        expires_at: Some(When::At(NOW)),
        idempotency_key: key.map(str::to_owned),
        ..parts(|parts| parts.subject = Some(subject.into()))
    };
    let told = |rejection: &Rejection| rejection.violations.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(prepared(passed(None, "s")).map_err(|r| told(&r)).err(), Some(vec!["expires_at: has passed".into()]));
    let handover = prepared(passed(Some("k"), "s")).expect("perhaps it is known");
    assert_eq!(handover.overdue.as_deref().map(told), Some(vec!["expires_at: has passed".into()]));
    let other = prepared(passed(Some("k"), "\n")).expect_err("that is wrong in any case");
    assert_eq!(other.violations.len(), 2);
    let raw = |key: Option<&str>| Request {
        idempotency_key: key.map(str::to_owned),
        ..raw("From: a@b.example\r\nX-Posthaste-Expires: 2026-11-22T11:00:00Z\r\n\r\n")
    };
    assert!(prepared(raw(None)).expect_err("passed").reply.text.contains("has passed"));
    assert!(prepared(raw(Some("k"))).expect("perhaps it is known").overdue.is_some());
}

#[test]
fn bad_requests_one_by_one() {
    let field =
        |name: &'static str, value: &'static str| parts(|parts| parts.headers = vec![(name.into(), value.into())]);
    let attached = |content_type: &'static str, content: &'static [u8]| {
        parts(|parts| {
            let (content_type, content) = (Some(content_type.into()), Bytes::from_static(content));
            parts.attachments = vec![Attachment { content_type, content, ..Attachment::default() }];
        })
    };
    let many: Vec<String> = (0..6).map(|n| format!("r{n}@b.example")).collect();
    let twice = vec![("References".into(), "<a@b>".into()), ("references".into(), "<c@d>".into())];
    let cid = Attachment { content_id: Some("x@y".into()), ..Attachment::default() };
    let cases: Vec<(Request, &str, &str)> = vec![
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
        (attached("multipart/mixed", b""), "attachments[0].content_type", "must not be multipart"),
        (attached("message/rfc822", b"a\rb"), "attachments[0].content", "line 1 holds a bare CR"),
        (parts(|parts| parts.attachments = vec![cid.clone(), cid]), "attachments[1].content_id", "another attachment"),
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
    ];
    for (request, field, why) in cases {
        check_refused(request, &[(field, why)]);
    }
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

#[test]
fn raw_content_goes_as_it_is() {
    let message =
        one(raw("X-Posthaste-Campaign: c\nFrom: Ann <a@b.example>\nDate: d\nMessage-ID: m\nBcc: x@y\n\n\u{fc}\n.\n"));
    assert!(
        text(&message.content)
            .ends_with("+0000\r\nFrom: Ann <a@b.example>\r\nDate: d\r\nMessage-ID: m\r\n\r\n\u{fc}\r\n.\r\n")
    );
    assert_eq!(message.envelope.reverse_path.to_string(), "a@b.example");
    assert_eq!(&*message.envelope.stream.campaign, "c");
    assert!(message.envelope.eight_bit && !message.envelope.smtputf8);
    let utf8 =
        Request { recipients: texts(&["j\u{fc}rgen@b.example"]), ..raw("From: a@b.example\nSubject: \u{fc}\n\nx") };
    assert!(one(utf8).envelope.smtputf8);
}

#[test]
fn a_personal_request_becomes_a_message_for_each() {
    let request = Request {
        personal: true,
        idempotency_key: Some("k".into()),
        ..parts(|parts| {
            parts.to = vec![mailbox("Bob <bob@b.example>")];
            parts.cc = vec![mailbox("Zo\u{eb} <zoe@c.example>")];
            parts.bcc = vec![mailbox("j\u{fc}rgen@b\u{fc}cher.example")];
        })
    };
    let handover = prepared(request).expect("good");
    let keys: Vec<_> = handover.messages.iter().map(|m| m.envelope.key.as_ref().map(|key| key.messages)).collect();
    assert_eq!(keys, [Some(3), None, None]);
    for (n, (to, utf8)) in
        [("bob@b.example", false), ("zoe@c.example", false), ("j\u{fc}rgen@xn--bcher-kva.example", true)]
            .into_iter()
            .enumerate()
    {
        let message = &handover.messages[n];
        assert_eq!(message.id, MessageId(1 + n as u64));
        assert_eq!(message.envelope.recipients.len(), 1);
        assert_eq!(message.envelope.smtputf8, utf8);
        let parsed = parse(&message.content);
        assert_eq!(parsed.to().and_then(|to| to.first()).and_then(|to| to.address()), Some(to));
        assert!(parsed.cc().is_none());
        assert!(parsed.message_id().is_some_and(|id| id.starts_with(&message.id.to_string())));
        assert!(text(&message.content).contains(&format!("for <{to}>")));
    }
    let zoe = parse(&handover.messages[1].content);
    assert_eq!(zoe.to().and_then(|to| to.first()).and_then(|to| to.name()), Some("Zo\u{eb}"));
}

#[test]
fn parts_take_their_places() {
    let file = |name: &str, content_type: &str, content: &'static [u8]| Attachment {
        file_name: Some(name.into()),
        content_type: Some(content_type.into()),
        content: Bytes::from_static(content),
        ..Attachment::default()
    };
    let image =
        Attachment { content_id: Some("logo@x".into()), inline: true, ..file("logo.png", "image/png", b"\x89PNG\r\n") };
    let message = one(parts(|parts| {
        parts.html = Some("<img src=\"cid:logo@x\">".into());
        parts.attachments = vec![
            file("na\u{ef}ve \"plan\".csv", "text/csv; charset=utf-8", b"a,b\rc\nd\0\xc3\xa9"),
            image,
            file("mail.eml", "message/rfc822", b"Subject: inner\n\ntext\n"),
        ];
    }));
    let shape = text(&message.content).replace("\r\n", "\n");
    let kinds: Vec<&str> = shape
        .lines()
        .filter_map(|line| line.strip_prefix("Content-Type: "))
        .map(|kind| kind.split(';').next().unwrap_or(""))
        .collect();
    assert_eq!(
        kinds,
        [
            "multipart/mixed",
            "multipart/alternative",
            "text/plain",
            "multipart/related",
            "text/html",
            "image/png",
            "text/csv",
            "message/rfc822"
        ]
    );
    let parsed = parse(&message.content);
    assert_eq!(parsed.body_text(0).as_deref(), Some("Hi Bob\r\n"));
    assert_eq!(parsed.body_html(0).as_deref(), Some("<img src=\"cid:logo@x\">"));
    let attachments: Vec<_> = parsed.attachments().collect();
    let found = |name: &str| attachments.iter().find(|part| part.attachment_name() == Some(name)).expect("there");
    assert_eq!(found("na\u{ef}ve \"plan\".csv").contents(), b"a,b\rc\nd\0\xc3\xa9");
    assert_eq!(found("logo.png").contents(), b"\x89PNG\r\n");
    assert_eq!(found("logo.png").content_id(), Some("logo@x"));
    assert!(shape.contains("Content-Disposition: inline; filename=\"logo.png\""));
    assert_eq!(found("mail.eml").message().and_then(|inner| inner.subject()), Some("inner"));
}

#[test]
fn nobody_is_shown_who_is_not_to_be() {
    let message = one(parts(|parts| {
        parts.bcc = std::mem::take(&mut parts.to);
    }));
    let content = text(&message.content);
    assert!(content.contains("\r\nTo: undisclosed-recipients:;\r\n"));
    assert!(!content.split_once("Message-ID").expect("there").1.contains("bob@"), "{content}");
}

#[test]
fn smtputf8_only_when_an_address_needs_it() {
    let needs = |change: &dyn Fn(&mut Parts)| one(parts(|parts| change(parts))).envelope.smtputf8;
    assert!(!needs(&|parts| parts.subject = Some("\u{fc}".into())));
    assert!(!needs(&|parts| parts.to = vec![mailbox("J\u{fc}rgen <j@b\u{fc}cher.example>")]));
    assert!(needs(&|parts| parts.to = vec![mailbox("j\u{fc}@b.example")]));
    assert!(needs(&|parts| parts.reply_to = vec![mailbox("j\u{fc}@b.example")]));
    assert!(needs(&|parts| parts.from = Some(mailbox("j\u{fc}@b.example"))));
}

#[test]
fn fields_with_a_structure_keep_it() {
    let long = format!("<https://shop.example/{}>, <mailto:u@shop.example?subject=x>", "u".repeat(300));
    let message = one(parts(|parts| {
        parts.headers = vec![("List-Unsubscribe".into(), long.clone()), ("X-Word".into(), "Gr\u{fc}\u{df}e".into())];
    }));
    let content = text(&message.content);
    assert!(content.replace("\r\n ", " ").contains(&format!("List-Unsubscribe: {long}\r\n")), "{content}");
    assert!(content.contains("X-Word: =?utf-8?"), "{content}");
}

fn name() -> impl Strategy<Value = String> {
    "[ -~äöü–€😀漢\u{200f}]{1,80}"
        .prop_map(|name| name.trim().to_owned())
        .prop_filter("said", |name| !name.is_empty() && !name.contains("=?"))
}

/// White space as a reader shows it.
fn shown(text: &str) -> String {
    text.split([' ', '\t']).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_goes_in_is_what_a_reader_sees(
        from in name(),
        to in name(),
        subject in "[ -~äöü–€😀漢]{0,200}",
        body in "([ -~äöü😀\t]{0,120}(\r\n|\n|\r)){0,20}[ -~]{0,300}",
        html in proptest::option::of("[ -~äöü\n]{0,300}"),
        file in "[ -~äöü😀]{1,60}",
        octets in proptest::collection::vec(any::<u8>(), 0..300),
        kind in prop_oneof![Just("text/plain"), Just("application/pdf"), Just("image/png")],
    ) {
        // The parser makes text of text.
        let mask = if kind == "text/plain" { 0x7f } else { 0xff };
        let octets: Vec<u8> = octets.iter().map(|octet| octet & mask).collect();
        let message = one(parts(|parts| {
            parts.from = Some(Mailbox { name: Some(from.clone()), address: "a@b.example".into() });
            parts.to = vec![Mailbox { name: Some(to.clone()), address: "c@d.example".into() }];
            parts.subject = Some(subject.clone());
            parts.text = Some(body.clone());
            parts.html = html.clone();
            parts.attachments = vec![Attachment {
                file_name: Some(file.clone()),
                content_type: Some(kind.into()),
                content: octets.clone().into(),
                ..Attachment::default()
            }];
        }));
        let parsed = parse(&message.content);
        let first = |list: Option<&mail_parser::Address<'_>>| {
            list.and_then(|list| list.first()).and_then(|who| who.name()).map(shown)
        };
        prop_assert_eq!(first(parsed.from()), Some(shown(&from)));
        prop_assert_eq!(first(parsed.to()), Some(shown(&to)));
        prop_assert_eq!(shown(parsed.subject().unwrap_or_default()), shown(&subject));
        let lines = |text: &str| text.replace("\r\n", "\n").replace('\r', "\n");
        prop_assert_eq!(lines(&parsed.body_text(0).unwrap_or_default()), lines(&body));
        if let Some(html) = &html {
            prop_assert_eq!(lines(&parsed.body_html(0).unwrap_or_default()), lines(html));
        }
        let attached = parsed.attachments().next().expect("there");
        prop_assert_eq!(attached.attachment_name(), Some(&*file));
        prop_assert_eq!(attached.contents(), &octets[..]);
    }

    #[test]
    fn nothing_becomes_a_field_or_a_part(
        a in "(\r\n|\r|\n|\t| |\0|Bcc: x@y|--|=\\?utf-8\\?Q\\?|\\?=|=0A|\u{85}|\u{2028}|\"|<|>|,|;|:|b@c.example){0,12}",
        which in 0..8,
    ) {
        let request = parts(|parts| match which {
            0 => parts.subject = Some(a.clone()),
            1 => parts.from = Some(Mailbox { name: Some(a.clone()), address: "a@b.example".into() }),
            2 => parts.to = vec![Mailbox { name: None, address: a.clone() }],
            3 => parts.headers = vec![("X-A".into(), a.clone())],
            4 => parts.headers = vec![(a.clone(), "v".into())],
            5 => parts.attachments = vec![Attachment { file_name: Some(a.clone()), ..Attachment::default() }],
            6 => parts.attachments = vec![Attachment { content_id: Some(a.clone()), ..Attachment::default() }],
            _ => parts.attachments = vec![Attachment { content_type: Some(a.clone()), ..Attachment::default() }],
        });
        if let Ok(handover) = prepared(request) {
            let content = &handover.messages[0].content;
            check_lines(content);
            let section = &content[..header::section_len(content)];
            let names: Vec<String> = header::fields(section).map(|field| text(field.name)).collect();
            let known = ["Received", "Message-ID", "Date", "From", "To", "Subject", "X-A", "MIME-Version", "Content-Type", "Content-Transfer-Encoding"];
            let stray = names.iter().any(|name| !known.contains(&name.as_str()) && *name != a);
            prop_assert!(!stray, "{names:?}");
            prop_assert!(header::fields(section).last().is_some_and(|field| field.end == section.len()));
            prop_assert!(parse(content).parts.len() <= 3);
        }
    }
}
