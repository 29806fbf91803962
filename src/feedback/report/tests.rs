use proptest::prelude::*;

use super::*;
use crate::mail::{Blame, EnhancedCode, Origin, Reply};

pub(in crate::feedback) const ACCEPTED: Timestamp = Timestamp(1_795_348_800_000);
const NOW: Timestamp = Timestamp(ACCEPTED.0 + 4 * 86_400_000);
const CONTENT: &str = "From: Ann <ann@us.example>\r\nTo: bob@them.example\r\nSubject: Hi\r\nMessage-ID: <1@us.example>\r\n\r\nHello Bob\r\n";

pub(in crate::feedback) fn envelope(sender: &str, recipients: Vec<Recipient>) -> Envelope {
    Envelope {
        reverse_path: sender.parse().expect("a sender"),
        recipients,
        stream: Stream { tenant: "acme".into(), class: Class::Bulk, campaign: "spring".into() },
        accepted_at: ACCEPTED,
        not_before: ACCEPTED,
        expires_at: ACCEPTED.after(Duration::from_secs(4 * 86_400)),
        delay_report_at: None,
        smtputf8: true,
        eight_bit: false,
        ret: None,
        envid: None,
        list: None,
        tags: Vec::new(),
        key: None,
    }
}

pub(in crate::feedback) fn recipient(address: &str) -> Recipient {
    Recipient::new(address.parse().expect("an address"))
}

fn refusal(code: u16, enhanced: EnhancedCode, text: &str) -> Failure {
    let reply = Reply { code, enhanced: Some(enhanced), text: text.to_owned().into() };
    Failure { blame: Blame::Recipient, origin: Origin::Remote { command: "RCPT" }, reply }
}

fn no_such_user() -> Failure {
    refusal(550, EnhancedCode(5, 1, 1), "no such user\nhere")
}

/// Reports that all recipients of `original` failed alike.
fn report(original: &Envelope, failure: &Failure, fate: Fate, content: &[u8]) -> Option<(Envelope, String)> {
    report_where(Reporting::default(), original, failure, fate, content)
}

fn report_where(
    reporting: Reporting,
    original: &Envelope,
    failure: &Failure,
    fate: Fate,
    content: &[u8],
) -> Option<(Envelope, String)> {
    let reported = |recipient| ReportedRecipient {
        recipient,
        failure,
        mx: Some("mx1.them.example"),
        last_attempt: ACCEPTED.after(Duration::from_secs(60)),
        fate,
    };
    let failed: Vec<_> = original.recipients.iter().map(reported).collect();
    let hostname = "mta1.us.example".parse().expect("a host");
    let reporter = Reporter { hostname: &hostname, reporting };
    let (envelope, bytes) = delivery_report(original, MessageId(7), content, &failed, reporter, MessageId(8), NOW)?;
    for line in bytes.split(|b| *b == b'\n') {
        assert!(line.len() <= 999 && line.last().is_none_or(|b| *b == b'\r') && !line.contains(&0), "{line:?}");
    }
    assert_eq!(envelope.eight_bit, !bytes.is_ascii());
    Some((envelope, String::from_utf8(bytes).expect("UTF-8")))
}

/// The header of the report and its three parts, each with the part's header.
fn parts(report: &str) -> Vec<&str> {
    let (head, body) = report.split_once("\r\n\r\n").expect("a header");
    let boundary = head.split("boundary=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a boundary");
    let (body, _) = body.split_once(&format!("\r\n--{boundary}--\r\n")).expect("a closed body");
    let delimiter = format!("--{boundary}\r\n");
    std::iter::once(head).chain(body.split(delimiter.as_str()).skip(1)).collect()
}

#[test]
fn tells_people_and_machines() {
    let mut original = envelope("ann+list@us.example", vec![recipient("bob@them.example")]);
    original.envid = Some("QQ+2B314".into());
    original.recipients[0].orcpt = Some("rfc822;Bob+2Bold@them.example".into());
    let (envelope, text) = report(&original, &no_such_user(), Fate::Failed, CONTENT.as_bytes()).expect("a report");
    let parts = parts(&text);
    assert_eq!(parts.len(), 4, "{text}");
    assert_eq!(
        parts[0],
        "Date: Thu, 26 Nov 2026 12:00:00 +0000\r\n\
         From: Mail Delivery System <MAILER-DAEMON@mta1.us.example>\r\n\
         To: <ann+list@us.example>\r\n\
         Subject: Your message could not be delivered\r\n\
         Message-ID: <0000000000008@mta1.us.example>\r\n\
         References: <1@us.example>\r\n\
         Auto-Submitted: auto-replied\r\n\
         MIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=\"delivery-status\";\r\n\
         \x20boundary=\"=_report-0000000000008\""
    );
    assert_eq!(
        parts[1],
        "Content-Type: text/plain; charset=\"utf-8\"\r\n\
         Content-Transfer-Encoding: 7bit\r\n\r\n\
         This is the mail system at mta1.us.example.\r\n\r\n\
         Your message of Sun, 22 Nov 2026 12:00:00 +0000 could not be delivered to\r\n\
         this recipient, and no more attempts will be made:\r\n\r\n  <bob@them.example>\r\n\r\n    \
         The receiving server mx1.them.example refused it for good. It said:\r\n\r\n        \
         550 5.1.1 no such user here\r\n\r\n    \
         Check the address for typing errors, or ask the recipient for another\r\n    one.\r\n\r\n\
         For questions, give your postmaster this report; the message is\r\n\
         0000000000007 there. The headers of the message are attached.\r\n\r\n"
    );
    assert_eq!(
        parts[2],
        "Content-Type: message/delivery-status\r\nContent-Transfer-Encoding: 7bit\r\n\r\n\
         Reporting-MTA: dns; mta1.us.example\r\n\
         Original-Envelope-Id: QQ+314\r\n\
         Arrival-Date: Sun, 22 Nov 2026 12:00:00 +0000\r\n\r\n\
         Original-Recipient: rfc822; Bob+old@them.example\r\n\
         Final-Recipient: rfc822; bob@them.example\r\n\
         Action: failed\r\n\
         Status: 5.1.1\r\n\
         Remote-MTA: dns; mx1.them.example\r\n\
         Diagnostic-Code: smtp; 550 5.1.1 no such user here\r\n\
         Last-Attempt-Date: Sun, 22 Nov 2026 12:01:00 +0000\r\n\
         Final-Log-ID: 0000000000007\r\n\r\n"
    );
    assert_eq!(
        parts[3],
        format!(
            "Content-Type: text/rfc822-headers\r\nContent-Transfer-Encoding: 7bit\r\n\r\n{}",
            CONTENT.split_once("\r\n\r\n").expect("a header").0.to_owned() + "\r\n"
        )
    );

    assert_eq!(envelope.reverse_path, ReversePath::Null);
    assert_eq!(envelope.recipients[0].address.to_string(), "ann+list@us.example");
    assert_eq!(envelope.recipients[0].notify, Some(Notify::default()));
    assert_eq!(envelope.stream, Stream { tenant: "acme".into(), class: Class::System, campaign: "spring".into() });
    assert_eq!((envelope.accepted_at, envelope.expires_at), (NOW, NOW.after(LIFETIME)));
    assert!(!envelope.smtputf8 && !envelope.eight_bit);
}

#[test]
fn tells_that_a_message_still_waits() {
    let mut original = envelope("ann@us.example", vec![recipient("bob@them.example"), recipient("eve@them.example")]);
    original.recipients[0].notify = Some(Notify { delay: true, ..Notify::default() });
    original.ret = Some(Ret::Full);
    let busy = refusal(451, EnhancedCode(4, 2, 0), "busy");
    let (_, text) = report(&original, &busy, Fate::Delayed, CONTENT.as_bytes()).expect("a report");
    let parts = parts(&text);
    assert!(parts[0].contains("Subject: Your message is delayed\r\n"), "{text}");
    let words = parts[1].split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        words.contains(
            "could not be delivered to this recipient yet. It is not lost: it will be tried until \
             Thu, 26 Nov 2026 12:00:00 +0000. <bob@them.example> \
             The receiving server mx1.them.example refused it for the moment. It said: 451 4.2.0 busy \
             There is nothing for you to do; do not send it again."
        ),
        "{words}"
    );
    let fields = "Final-Recipient: rfc822; bob@them.example\r\nAction: delayed\r\nStatus: 4.2.0\r\n";
    assert!(parts[2].contains(fields) && !parts[2].contains("Deliver-By-Date"), "{}", parts[2]);
    assert!(parts[2].contains("\r\nWill-Retry-Until: Thu, 26 Nov 2026 12:00:00 +0000\r\n"), "{}", parts[2]);
    assert!(parts[3].starts_with("Content-Type: text/rfc822-headers"), "RET is about failure: {}", parts[3]);
    // With a time of the client's own, who said nothing hears, too, and the status is that the time is over.
    original.delay_report_at = Some(ACCEPTED.after(Duration::from_secs(60)));
    original.recipients[0].notify = Some(Notify { delay: true, failure: true, success: false });
    let (_, text) = report(&original, &busy, Fate::Delayed, CONTENT.as_bytes()).expect("a report");
    for line in [
        "Deliver-By-Date: Sun, 22 Nov 2026 12:01:00 +0000\r\n",
        "eve@them.example",
        "Status: 4.4.7\r\n",
        "you will hear",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
}

#[test]
fn nobody_is_told_who_does_not_want_it() {
    let bob = || recipient("bob@them.example");
    let failure = no_such_user();
    let told = |original: &Envelope| report(original, &failure, Fate::Failed, CONTENT.as_bytes());
    assert!(told(&envelope("", vec![bob()])).is_none());
    let notify = |success, failure, delay| Some(Notify { success, failure, delay });
    let never = Recipient { notify: notify(false, false, false), ..bob() };
    let success = Recipient { notify: notify(true, false, true), ..recipient("sue@them.example") };
    let asks = Recipient { notify: notify(false, true, false), ..recipient("kim@them.example") };
    assert!(told(&envelope("ann@us.example", vec![never.clone(), success.clone()])).is_none());
    let (_, text) = told(&envelope("ann@us.example", vec![never, asks, success])).expect("one wants it");
    assert_eq!(text.matches("Final-Recipient:").count(), 1);
    assert!(text.contains("kim@them.example") && !text.contains("bob@them.example\r\nAction"), "{text}");
    assert!(text.contains("nothing about the other recipients"));
}

#[test]
fn a_stream_told_by_events_gets_the_mail_it_asked_for() {
    let with = |notify: Option<[bool; 3]>| {
        let notify = notify.map(|[success, failure, delay]| Notify { success, failure, delay });
        envelope("ann@us.example", vec![Recipient { notify, ..recipient("bob@them.example") }])
    };
    let failure = no_such_user();
    let (events, delays) = (Reporting { failures: false, delays: false }, Reporting { failures: true, delays: true });
    for (reporting, fate, notify, expected) in [
        (events, Fate::Failed, None, false),
        (events, Fate::Expired, None, false),
        (events, Fate::Returned, None, false),
        (events, Fate::Returned, Some([false, true, false]), true),
        (events, Fate::Failed, Some([false, true, false]), true),
        (events, Fate::Failed, Some([false, false, true]), false),
        (events, Fate::Delayed, None, false),
        (events, Fate::Delayed, Some([false, false, true]), true),
        (events, Fate::Relayed, Some([true, false, false]), true),
        (delays, Fate::Delayed, None, true),
        (delays, Fate::Delayed, Some([false, true, false]), false),
        (delays, Fate::Failed, None, true),
        (delays, Fate::Relayed, None, false),
    ] {
        let told = report_where(reporting, &with(notify), &failure, fate, CONTENT.as_bytes());
        assert_eq!(told.is_some(), expected, "{reporting:?} {fate:?} {notify:?}");
    }
    // Who is told of the delay only is not promised more.
    let mut original = with(None);
    original.delay_report_at = Some(NOW);
    let (_, text) = report_where(events, &original, &failure, Fate::Delayed, CONTENT.as_bytes()).expect("BY asks");
    assert!(text.contains("It is not lost") && !text.contains("hear of it"), "{text}");
}

#[test]
fn success_is_told_to_who_asked_for_it() {
    let yes = Failure {
        blame: Blame::Recipient,
        origin: Origin::Remote { command: "." },
        reply: Reply { code: 250, enhanced: Some(EnhancedCode(2, 0, 0)), text: "queued as 77".into() },
    };
    let asked =
        Recipient { notify: Some(Notify { success: true, ..Notify::default() }), ..recipient("b@them.example") };
    let original = envelope("a@us.example", vec![asked]);
    let (_, text) = report(&original, &yes, Fate::Relayed, b"Subject: hi\r\n\r\nhello\r\n").unwrap();
    for part in ["Action: relayed\r\n", "Status: 2.0.0\r\n", "handed on", "for you to do", "queued as 77"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(report(&original, &no_such_user(), Fate::Failed, b"").is_none());
    let silent = envelope("a@us.example", vec![recipient("b@them.example")]);
    assert!(report(&silent, &yes, Fate::Relayed, b"").is_none());
}

#[test]
fn what_came_back_is_told_in_its_own_words() {
    let original = envelope("ann@us.example", vec![recipient("bob@them.example")]);
    let returned = |code, enhanced, text: &'static str| {
        let reply = Reply { code, enhanced, text: text.into() };
        Failure { blame: Blame::Recipient, origin: Origin::Remote { command: "." }, reply }
    };
    for (fate, failure, expected) in [
        (
            Fate::Returned,
            returned(550, Some(EnhancedCode(5, 1, 1)), "550 5.1.1 <bob>: unknown\r\nX-Evil: 1"),
            &["came back later", "Action: failed\r\nStatus: 5.1.1\r\n", "smtp; 550 5.1.1 <bob>: unknown X-Evil: 1\r\n"]
                [..],
        ),
        (
            Fate::Returned,
            returned(550, None, "the box is full"),
            &["Status: 5.0.0\r\n", "x-posthaste; the box is full\r\n"],
        ),
        (
            Fate::Confirmed("delivered"),
            returned(250, None, ""),
            &[
                "Subject: Your message was delivered\r\n",
                "Action: delivered\r\nStatus: 2.0.0\r\n",
                "nothing for you to do",
            ],
        ),
        (Fate::Confirmed("expanded"), returned(250, None, "250 ok"), &["was handed on", "Action: expanded\r\n"]),
    ] {
        let mut original = original.clone();
        let success = matches!(fate, Fate::Confirmed(_));
        original.recipients[0].notify = success.then(|| Notify { success, ..Notify::default() });
        let (_, text) = report(&original, &failure, fate, b"").expect("a report");
        assert!(expected.iter().all(|part| text.contains(part)), "{expected:?}: {text}");
        // Nothing is left of the message, so there is no third part.
        assert_eq!((parts(&text).len(), text.contains("attached")), (3, false), "{text}");
        assert!(failure.reply.text.is_empty() != text.contains("Diagnostic-Code"), "{text}");
    }
    assert!(report(&original, &returned(250, None, ""), Fate::Confirmed("delivered"), b"").is_none());
}

#[test]
fn expiry_names_the_time_and_the_last_word() {
    let original = envelope("ann@us.example", vec![recipient("bob@them.example")]);
    let busy = refusal(451, EnhancedCode(4, 3, 2), "busy");
    let (_, text) = report(&original, &busy, Fate::Expired, CONTENT.as_bytes()).expect("a report");
    assert!(text.contains("It could not be delivered within 4 days. The receiving server"), "{text}");
    assert!(text.contains("Status: 4.4.7\r\n") && text.contains("smtp; 451 4.3.2 busy\r\n"), "{text}");

    let unreachable = Failure::ours(Blame::Site, EnhancedCode(4, 4, 1), "no host answers");
    let (_, text) = report(&original, &unreachable, Fate::Expired, CONTENT.as_bytes()).expect("a report");
    assert!(text.contains("Diagnostic-Code: x-posthaste; 451 4.4.1 no host answers\r\n"), "{text}");
    assert!(!text.contains("Remote-MTA"), "{text}");
}

#[test]
fn ret_says_what_goes_back() {
    let mut original = envelope("ann@us.example", vec![recipient("bob@them.example")]);
    let mut returned = |ret, content: &[u8]| {
        original.ret = ret;
        let (_, text) = report(&original, &no_such_user(), Fate::Failed, content).expect("a report");
        parts(&text)[3]
            .split_once("\r\n\r\n")
            .map(|(head, body)| (head.replace("\r\n", "; "), body.to_owned()))
            .expect("a part")
    };
    let seven = "; Content-Transfer-Encoding: 7bit";
    let headers = |kind: &str| format!("Content-Type: text/rfc822-headers{kind}");
    let small = CONTENT.as_bytes();
    let large = [small, &b"line\r\n".repeat(20_000)].concat();
    let umlaut = CONTENT.replace("Hello", "Grüße");
    let utf8 = CONTENT.replace("Subject: Hi", "Subject: Grüße");
    let long = format!("{CONTENT}{}\r\n", "x".repeat(2000));
    assert_eq!(returned(None, small).0, headers(seven));
    assert_eq!(returned(Some(Ret::Hdrs), small).0, headers(seven));
    assert_eq!(returned(Some(Ret::Full), small), (format!("Content-Type: message/rfc822{seven}"), CONTENT.to_owned()));
    assert_eq!(returned(Some(Ret::Full), &large).0, headers(seven));
    assert_eq!(returned(Some(Ret::Full), long.as_bytes()).0, headers(seven));
    assert_eq!(
        returned(Some(Ret::Full), umlaut.as_bytes()),
        ("Content-Type: message/rfc822; Content-Transfer-Encoding: 8bit".into(), umlaut.clone())
    );
    assert_eq!(
        returned(Some(Ret::Full), utf8.as_bytes()).0,
        "Content-Type: message/global; Content-Transfer-Encoding: 8bit"
    );
    let (head, body) = returned(None, utf8.as_bytes());
    assert_eq!(head, headers("; charset=\"utf-8\"; Content-Transfer-Encoding: quoted-printable"));
    assert!(body.contains("Subject: Gr=C3=BC=C3=9Fe"), "{body}");
    let huge = format!("X-Huge: {}\r\nSubject: x\r\n\r\n", "word\r\n ".repeat(20_000));
    assert!(returned(None, huge.as_bytes()).1.len() <= RETURN_MAX);
    let one_line = format!("X: {}", "y".repeat(100_000));
    assert_eq!(returned(None, one_line.as_bytes()).1, "");
}

#[test]
fn utf8_addresses_are_told_in_ascii_where_the_sender_is() {
    let original = envelope("ann@us.example", vec![recipient("jürgen@them.example")]);
    let (envelope, text) = report(&original, &no_such_user(), Fate::Failed, CONTENT.as_bytes()).expect("a report");
    assert!(text.contains("Final-Recipient: utf-8; j\\x{FC}rgen@them.example\r\n"), "{text}");
    assert!(text.is_ascii() && !envelope.smtputf8);

    let original = self::envelope("änne@us.example", vec![recipient("bob@them.example")]);
    let (envelope, text) = report(&original, &no_such_user(), Fate::Failed, CONTENT.as_bytes()).expect("a report");
    assert!(text.contains("To: <änne@us.example>\r\n"), "{text}");
    assert!(envelope.smtputf8 && envelope.recipients[0].address.needs_smtputf8());
}

#[test]
fn foreign_words_stay_in_their_place() {
    let mut original = envelope("ann@us.example", vec![recipient("bob@them.example")]);
    original.envid = Some("x+0D+0AX-Evil:+201+00".into());
    original.recipients[0].orcpt = Some("rfc822;b+0D+0A+0D+0AAction:+20delivered".into());
    let reply =
        "\r\n\r\nAction: delivered\r\n\r\n--=_report-0000000000008\r\nContent-Type: text/html\r\n\r\n\u{1b}[2J\0";
    let failure = refusal(550, EnhancedCode(5, 7, 1), reply);
    let content = "Message-ID: <a\r\n b>\r\nX: --=_report-0000000000008\r\nX: --=_report-0000000000008x\r\n\r\n";
    let (_, text) = report(&original, &failure, Fate::Failed, content.as_bytes()).expect("a report");
    let parts = parts(&text);
    assert_eq!(parts.len(), 4, "{text}");
    assert!(text.contains("boundary=\"=_report-0000000000008xx\""), "{text}");
    assert!(!parts[0].contains("References"), "{text}");
    let lines: Vec<&str> = parts[2].split("\r\n").collect();
    assert_eq!(lines.iter().filter(|line| line.starts_with("Action:")).collect::<Vec<_>>(), [&"Action: failed"]);
    assert!(!lines.iter().any(|line| line.starts_with("X-Evil")), "{text}");
    assert!(text.chars().all(|c| !c.is_control() || "\r\n\t".contains(c)), "{text}");
}

proptest! {
    #[test]
    fn holds_together_whatever_is_inside(
        reply in "(\\PC|[\r\n\0\t -]){0,60}", long in 0usize..2500, content in proptest::collection::vec(any::<u8>(), 0..300),
        envid in "[!-~]{0,40}", full in any::<bool>(),
    ) {
        let mut original = envelope("ann@us.example", vec![recipient("bob@them.example"), recipient("sue@them.example")]);
        original.envid = Some(envid.clone().into());
        original.recipients[1].orcpt = Some(format!("rfc822;{envid}").into());
        original.ret = full.then_some(Ret::Full);
        let failure = refusal(554, EnhancedCode(5, 0, 0), &format!("{reply}{}", "z".repeat(long)));
        // What the door lets in: no bare line ends, no NUL.
        let content: Vec<u8> = content.into_iter().filter(|b| !matches!(b, 0 | b'\r' | b'\n')).collect();
        let content = [CONTENT.as_bytes(), &content, b"\r\n"].concat();
        let failed: Vec<_> = original.recipients.iter().map(|recipient| ReportedRecipient {
            recipient, failure: &failure, mx: None, last_attempt: NOW, fate: Fate::Failed,
        }).collect();
        let hostname = "mta1.us.example".parse().expect("a host");
        let reporter = Reporter { hostname: &hostname, reporting: Reporting::default() };
        let (_, bytes) = delivery_report(&original, MessageId(7), &content, &failed, reporter, MessageId(8), NOW).expect("one");
        prop_assert!(bytes.split(|b| *b == b'\n').all(|line| line.len() <= 999));
        let text = String::from_utf8_lossy(&bytes);
        prop_assert_eq!(parts(&text).len(), 4);
        prop_assert_eq!(parts(&text)[2].matches("\r\nAction: failed\r\n").count(), 2);
    }
}
