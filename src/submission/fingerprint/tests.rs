use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::mail::Notify;

fn of(sender: &str, recipients: &[&str], content: &str) -> Fingerprint {
    let recipients: Vec<Recipient> =
        recipients.iter().map(|r| Recipient::new(r.parse().expect("an address"))).collect();
    fingerprint(&sender.parse().expect("a path"), &recipients, content.as_bytes())
}

fn content(content: &str) -> Fingerprint {
    of("s@a.example", &["r@b.example"], content)
}

/// As a client library would build it, with what it makes anew.
fn multipart(date: &str, boundary: &str, text: &str) -> String {
    format!(
        "Date: {date}\r\nMessage-ID:\r\n <{boundary}@x>\r\nSubject: s\r\n\
         Content-Type: multipart/mixed;\r\n\tBoundary=\"{boundary}\"; charset=utf-8\r\n\r\npreamble\r\n\
         --{boundary}\r\nContent-Type: multipart/alternative; boundary=in-{boundary}\r\n\r\n\
         --in-{boundary}\r\nContent-Type: text/plain\r\n\r\n{text}\r\n\
         --in-{boundary}--\r\n\
         --{boundary}  \r\n\r\nsecond\r\n--{boundary}--\r\n"
    )
}

#[test]
fn what_is_made_anew_does_not_count() {
    let first = multipart("Sun, 22 Nov 2026 12:00:00 +0000", "abc", "hello\r\n-- \r\nAnn");
    let again = multipart("Sun, 22 Nov 2026 12:00:09 +0000", "xyz=_1", "hello\r\n-- \r\nAnn");
    assert_eq!(content(&first), content(&again));
    assert_eq!(
        content("Received: a\r\n b\r\nDKIM-Signature: x;\r\n\tb=1\r\nTo: t\r\n\r\nb\r\n"),
        content("To: t\r\nx-posthaste-idempotency-key: k\r\n\r\nb\r\n")
    );
    assert_eq!(of("", &["a@b", "c@d"], "x"), of("", &["c@d", "a@b", "a@b"], "x"));
    assert_eq!(
        content("From a@b Sun Nov 22 12:00:00 2026\r\nDate: x\r\nTo: t\r\n\r\nb\r\n"),
        content("From a@b Sun Nov 22 12:00:09 2026\r\nDate: y\r\nTo: t\r\n\r\nb\r\n"),
    );
}

/// When this fails, [`FUNCTION`] is to be raised.
#[test]
fn the_function_is_the_one_it_says() {
    let Fingerprint(octets) = of("s@a.example", &["r@b.example"], &multipart("date", "abc", "hello"));
    assert_eq!(u128::from_be_bytes(octets), 0x02bc_21ae_f30e_2a24_eb5a_94e1_4a5d_be93);
}

#[test]
fn what_was_said_counts() {
    let base = multipart("d", "abc", "hello");
    let differing = [
        multipart("d", "abc", "hullo"),
        multipart("d", "abc", "hello\r\n--"),
        multipart("d", "abc", "hello\r\n--other"),
        multipart("d", "abc", "hello\r\n--abc\r\n\r\nmore"),
        multipart("d", "abc", "hello\r\n--abc--"),
        multipart("d", "abc", "hello\r\n--abcd"),
        base.replace("preamble", "Preamble"),
        base.replace("second", "Date: x\r\nsecond"),
        base.replace("Subject: s", "Subject: t"),
        base.replace("Subject: s", "Subject: s\r\nX-Posthaste-Class: bulk"),
    ];
    let mut seen = vec![content(&base)];
    for message in &differing {
        let print = content(message);
        assert!(!seen.contains(&print), "{message}");
        seen.push(print);
    }
    assert_ne!(of("a@b", &["c@d"], "x"), of("a@c", &["c@d"], "x"));
    assert_ne!(of("a@b", &["c@d"], "x"), of("a@b", &["c@d", "e@f"], "x"));
    assert_ne!(of("a@b", &["c@d"], "x"), of("", &["a@b", "c@d"], "x"));
    let with = |pieces: &[&[u8]]| fingerprint_with(&ReversePath::Null, &[], pieces, b"x");
    let pieces: [&[&[u8]]; 5] = [&[], &[b""], &[b"ab"], &[b"a", b"b"], &[b"b", b"a"]];
    let prints: HashSet<Fingerprint> = pieces.into_iter().map(with).collect();
    assert_eq!(prints.len(), pieces.len());
}

#[test]
fn what_mail_and_rcpt_order_counts() {
    let with = |said: &str, recipients: &[(&str, Option<Notify>, Option<&str>)]| {
        let recipients: Vec<Recipient> = recipients
            .iter()
            .map(|(address, notify, orcpt)| Recipient {
                address: address.parse().expect("an address"),
                notify: *notify,
                orcpt: orcpt.map(Box::from),
            })
            .collect();
        fingerprint_of_mail(&ReversePath::Null, &recipients, said, b"x\r\n")
    };
    let (never, orcpt) = (Some(Notify::default()), Some("rfc822;a@b"));
    let prints = [
        with("", &[("a@b", None, None)]),
        with(" HOLDFOR=60", &[("a@b", None, None)]),
        with(" HOLDFOR=61", &[("a@b", None, None)]),
        with("", &[("a@b", never, None)]),
        with("", &[("a@b", None, orcpt)]),
        with("", &[("a@b", never, orcpt)]),
        with("", &[("a@b", never, None), ("c@d", None, None)]),
        with("", &[("a@b", None, None), ("c@d", never, None)]),
    ];
    assert_eq!(prints.iter().collect::<HashSet<_>>().len(), prints.len());
    assert_eq!(prints[0], of("", &["a@b"], "x\r\n"), "as it was before these counted");
    let again = with("", &[("c@d", never, None), ("a@b", None, None), ("c@d", never, None)]);
    assert_eq!(again, prints[7], "order and repetition do not count");
}

#[test]
fn a_date_in_the_text_counts() {
    assert_ne!(content("A: b\r\n\r\nDate: x\r\n"), content("A: b\r\n\r\nDate: y\r\n"));
    let part =
        |date: &str| format!("Content-Type: multipart/mixed; boundary=q\r\n\r\n--q\r\nDate: {date}\r\n\r\n--q--\r\n");
    assert_ne!(content(&part("x")), content(&part("y")));
}

#[test]
fn hostile_content_is_read_in_linear_time() {
    let header = "Content-Type: multipart/mixed; boundary=q\r\n\r\n";
    for line in ["--q\r\n", "--q\r\na:\r\n", "--\r\n", "--q--", "--q\r\nContent-Type: x; boundary=q\r\n"] {
        content(&format!("{header}{}", line.repeat(300_000)));
    }
    content(&"boundary=".repeat(100_000));
}

proptest! {
    #[test]
    fn any_octets_can_be_read(octets in "(Content-Type:|Date:|;| |boundary=|\"|q|--|\r\n){0,40}") {
        prop_assert_eq!(content(&octets), content(&octets));
    }
}
