//! Messages that go as they are, and those of which each recipient gets one.

use super::*;

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
