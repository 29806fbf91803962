//! What comes out of a message that goes in.

use super::super::received::{HelloName, Protocol};
use super::*;
use crate::mail::{Class, Domain, MessageId};

const NOW: Timestamp = Timestamp(1_795_348_800_000); // 2026-11-22T12:00:00Z
const DATE: &str = "Sun, 22 Nov 2026 12:00:00 +0000";

struct Case {
    reverse_path: &'static str,
    smtputf8: bool,
}

const PLAIN: Case = Case { reverse_path: "a@b.example", smtputf8: false };

impl Case {
    fn run(&self, message: &[u8]) -> Result<Completed, MessageError> {
        let hello = HelloName::read(b"app.example");
        let by: Domain = "mta.example".parse().expect("a domain");
        let reverse_path = self.reverse_path.parse().expect("a path");
        let mut buffer = vec![0; HEADROOM];
        buffer.extend_from_slice(message);
        complete(
            buffer,
            &Circumstances {
                received: Received {
                    hello: Some(&hello),
                    client: Some([192, 0, 2, 1].into()),
                    by: &by,
                    protocol: Protocol { extended: true, tls: false, auth: false, smtputf8: self.smtputf8 }.name(),
                    id: MessageId(1),
                    recipient: None,
                    at: NOW,
                },
                reverse_path: &reverse_path,
                recipients: &[],
                asked: Asked::default(),
                said: "",
                tenant: None,
                ways_back: None,
                smtputf8: self.smtputf8,
                eight_bit: !message.is_ascii(),
                expire_after: Duration::from_secs(3600),
            },
        )
    }

    /// Checks what comes out behind our Received field.
    #[track_caller]
    fn check(&self, message: &str, expected: &str) {
        let completed = self.run(message.as_bytes()).expect("accepted");
        let text = String::from_utf8_lossy(&completed.content).into_owned();
        assert!(text.starts_with("Received: from app.example ([192.0.2.1])\r\n\tby mta.example"), "{text}");
        let rest = text.split_once(&format!("{DATE}\r\n")).expect("the field's date").1;
        assert_eq!(rest, expected);
    }

    #[track_caller]
    fn check_refused(&self, message: &[u8], expected: &str) {
        assert_eq!(self.run(message).map_err(|e| e.reply().to_string()), Err(expected.to_owned()));
    }
}

const ALL: &str = "Date: x\r\nMessage-ID: <y>\r\nFrom: z\r\n";

#[test]
fn leaves_a_complete_message_alone() {
    PLAIN.check(&format!("{ALL}\r\nbody\r\n"), &format!("{ALL}\r\nbody\r\n"));
    PLAIN.check(ALL, ALL);
}

#[test]
fn adds_what_is_missing() {
    let added = format!("Message-ID: <0000000000001@mta.example>\r\nDate: {DATE}\r\nFrom: a@b.example\r\n");
    PLAIN.check("Subject: s\r\n\r\nbody\r\n", &format!("{added}Subject: s\r\n\r\nbody\r\n"));
    PLAIN.check("", &added);
    PLAIN.check("\r\nbody\r\n", &format!("{added}\r\nbody\r\n"));
    PLAIN.check("no header here\r\n\r\nbody\r\n", &format!("{added}\r\nno header here\r\n\r\nbody\r\n"));
    let long = "no header ".repeat(200_000);
    PLAIN.check(&long, &format!("{added}\r\n{long}"));
    PLAIN.check(" X: folded into ours?\r\n\r\n", &format!("{added}\r\n X: folded into ours?\r\n\r\n"));
    let null = Case { reverse_path: "", smtputf8: false };
    null.check(
        "Date: x\r\nMessage-Id: y\r\n\r\n",
        "From: MAILER-DAEMON@mta.example\r\nDate: x\r\nMessage-Id: y\r\n\r\n",
    );
    let dots = Case { reverse_path: "a..b@c.example", smtputf8: false };
    dots.check("Date: x\r\nMessage-Id: y\r\n\r\n", "From: \"a..b\"@c.example\r\nDate: x\r\nMessage-Id: y\r\n\r\n");
}

#[test]
fn takes_out_what_must_not_leave() {
    PLAIN.check(
        &format!("BCC: a,\r\n b\r\n{ALL}Bcc : c\r\nReturn-Path: <q>\r\nTo: t\r\nResent-Bcc: r\r\n\r\nBcc: body\r\n"),
        &format!("{ALL}To: t\r\n\r\nBcc: body\r\n"),
    );
    PLAIN.check(&format!("From a@b Mon Nov 23\r\nBcc: x\r\n{ALL}\r\n"), &format!("{ALL}\r\n"));
    PLAIN.check(&format!(">From a@b Mon\r\n{ALL}"), ALL);
}

#[test]
fn reads_orders_and_takes_them_out() {
    let message = format!(
        "X-Posthaste-Tenant: t1\r\n{ALL}x-posthaste-class:\r\n bulk\r\nX-Posthaste-Tags: a,b\r\n\
         X-Posthaste-Expires: 2h\r\nX-Posthaste-Not-Before: 2026-11-22T13:00:00Z\r\nX-Other: o\r\n\r\n"
    );
    let completed = PLAIN.run(message.as_bytes()).expect("accepted");
    assert!(completed.content.ends_with(format!("+0000\r\n{ALL}X-Other: o\r\n\r\n").as_bytes()));
    assert_eq!(completed.stream, Stream { tenant: "t1".into(), class: Class::Bulk, campaign: "".into() });
    assert_eq!(completed.tags, ["a".into(), "b".into()]);
    assert_eq!((completed.not_before.0 - NOW.0, completed.expires_at.0 - NOW.0), (3_600_000, 7_200_000));
}

#[test]
fn refuses_headers_not_fit_to_be_sent() {
    let utf8 = Case { reverse_path: "a@b.example", smtputf8: true };
    PLAIN.check_refused(b"A: b\r\n c\r\nno field\r\nC: d\r\n\r\n", "550 5.6.0 line 3 of the header is no field");
    PLAIN.check_refused(
        "A: b\r\nSubject: \u{fc}\r\n\r\n".as_bytes(),
        "550 5.6.7 field Subject holds 8-bit text, which needs SMTPUTF8 or encoding (RFC 2047)",
    );
    utf8.check_refused(b"Subject: \xfc\r\n\r\n", "550 5.6.7 field Subject is not valid UTF-8");
    utf8.check(&format!("{ALL}Subject: \u{fc}\r\n\r\n"), &format!("{ALL}Subject: \u{fc}\r\n\r\n"));
    PLAIN.check(&format!("{ALL}\r\n\u{fc}\r\n"), &format!("{ALL}\r\n\u{fc}\r\n"));
    PLAIN.check_refused(
        "Received: x\r\n".repeat(101).as_bytes(),
        "554 5.4.6 101 Received fields, more than 100: the message is in a loop",
    );
    PLAIN.check_refused("A:\r\n".repeat(300_000).as_bytes(), "552 5.3.4 the header is longer than 1048576 octets");
    PLAIN.check_refused(
        b"X-Posthaste-Class: system\r\n\r\n",
        "550 5.6.0 X-Posthaste-Class: \"system\": is kept for our own reports; say transactional or bulk",
    );
}

#[test]
fn wrong_times_are_told_beside_the_message() {
    for key in ["", "X-Posthaste-Idempotency-Key: k\r\n"] {
        let message = format!("{key}X-Posthaste-Expires: 1h\r\nX-Posthaste-Not-Before: 2h\r\n\r\n");
        let completed = PLAIN.run(message.as_bytes()).expect("whoever asked decides");
        let told = completed.overdue.map(|error| error.to_string());
        let expected = "X-Posthaste-Expires: \"2026-11-22T13:00:00.000Z\": is not after X-Posthaste-Not-Before";
        assert_eq!((told.as_deref(), completed.key.is_some()), (Some(expected), !key.is_empty()));
    }
}

#[test]
fn the_longest_prefix_fits_the_headroom() {
    let label = "l".repeat(61);
    let domain: Domain = format!("{label}.{label}.{label}.{label}.e").parse().expect("long, but a domain");
    let address = |n: usize| -> EnvelopeAddress { format!("{}@{domain}", "x".repeat(n)).parse().expect("long") };
    let hello = HelloName::Odd("h".repeat(255).into());
    let (short, long) = (address(1), address(255));
    for recipient in [&short, &long] {
        let circumstances = Circumstances {
            received: Received {
                hello: Some(&hello),
                client: Some("1111:2222:3333:4444:5555:6666:7777:8888".parse().expect("an address")),
                by: &domain,
                protocol: Protocol { extended: true, tls: true, auth: true, smtputf8: true }.name(),
                id: MessageId(1),
                recipient: Some(recipient),
                at: NOW,
            },
            reverse_path: &ReversePath::Address(address(255)),
            recipients: &[],
            asked: Asked::default(),
            said: "",
            tenant: None,
            ways_back: None,
            smtputf8: true,
            eight_bit: false,
            expire_after: Duration::from_secs(1),
        };
        let facts = Facts { headless: true, ..Facts::default() };
        assert!(facts.prefix(&circumstances).len() <= HEADROOM);
    }
}

#[test]
fn content_takes_no_more_memory_than_it_needs() {
    let fit = |buffer: Vec<u8>| {
        let octets = buffer.capacity();
        let (content, capacity) = fitted(buffer, HEADROOM - 300);
        assert!(content.iter().all(|octet| *octet == 7), "{octets}");
        (content.len(), capacity)
    };
    for (content, room, occupied) in
        [(10_000, 16_384, 10_300), (2_000, 16_384, 2_300), (10_000, 12_048, 12_048), (100_000, 131_072, 102_048)]
    {
        let mut buffer = Vec::with_capacity(room);
        buffer.resize(HEADROOM + content, 7);
        assert_eq!(fit(buffer), (content + 300, occupied));
    }
}
