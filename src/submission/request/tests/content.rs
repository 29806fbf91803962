//! What is built of parts.

use mail_parser::MimeHeaders;

use super::*;

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
