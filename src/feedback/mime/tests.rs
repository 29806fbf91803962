//! Messages as they are, broken ones among them.

use super::*;

#[track_caller]
fn check(message: &str, expected: &[(&str, &str)]) {
    for message in [message.to_owned(), message.replace('\n', "\r\n")] {
        let opened = Opened::of(message.as_bytes());
        let found: Vec<_> =
            opened.parts.iter().map(|p| (p.kind.clone(), p.text().replace('\r', "").trim().to_owned())).collect();
        let expected: Vec<_> = expected.iter().map(|(kind, text)| (kind.to_string(), text.to_string())).collect();
        assert_eq!(found, expected, "{message}");
    }
}

#[test]
fn opens_what_is_there() {
    check("Subject: x\n\nhello\n", &[("text/plain", "hello")]);
    check("", &[("text/plain", "")]);
    check(
        "Content-Type: multipart/report; report-type=x;\n boundary=\"a b=;c\"\n\npreamble\n--a b=;c\n\none\n--a b=;c \nContent-Type: Text/HTML; charset=x\n\ntwo\n--a b=;c--\nend",
        &[("text/plain", "one"), ("text/html", "two")],
    );
    // No end, an inner one without its own end, a boundary that is another's beginning.
    check(
        "Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: multipart/mixed; boundary=bb\n\n--bb\n\none\n--b\n\ntwo",
        &[("text/plain", "one"), ("text/plain", "two")],
    );
    // The header names another boundary than the body has, or none.
    for boundary in ["boundary=other", ""] {
        let text =
            format!("Content-Type: multipart/mixed; {boundary}\n\n--really\nContent-Type: a/b\n\none\n--really--\n");
        check(&text, &[("a/b", "one")]);
    }
}

#[test]
fn decodes() {
    let part = |encoding: &str, body: &str| {
        let message = format!("Content-Transfer-Encoding: {encoding}\n\n{body}");
        Opened::of(message.as_bytes()).parts[0].text()
    };
    assert_eq!(part("BASE64", "aGVs\r\nbG8=\nSome list's footer"), "hello");
    assert_eq!(part("base64", "aGVsb"), "hel");
    assert_eq!(part("quoted-printable", "a=3Db=\nc=\r\nd=zz="), "a=bcd=zz=");
    assert_eq!(part("8bit", "plain"), "plain");
    assert_eq!(param("a/b; x=1; NAME=\"q\\\"; y=z\" ; z=2", "name").as_deref(), Some("q\"; y=z"));
    assert_eq!(param("a/b; x=1; z=2", "z").as_deref(), Some("2"));
    assert_eq!(param("a/b; x", "x"), None);
}

#[test]
fn the_library_is_not_given_bombs() {
    for (level, encoded) in [
        ("Content-Type: message/rfc822\n\n", false),
        ("Content-Type: MESSAGE (x) /rfc822\n\n", false),
        ("Content-Type: message\n /rfc822\n\n", false),
        ("Content-Type: multipart/digest; boundary=b\n\n--b\n\n", false),
        ("Content-Transfer-Encoding: base64\nContent-Type: message/rfc822\n\n", true),
    ] {
        let bomb = level.repeat(60) + &"x".repeat(2 * ENCODED_MAX);
        assert_eq!(for_library(bomb.as_bytes()).len(), if encoded { ENCODED_MAX } else { bomb.len() }, "{level}");
        assert_eq!(for_library(level.repeat(100).as_bytes()), b"", "{level}");
    }
    let honest = "Message-ID: <x>\nContent-Transfer-Encoding: base64\n\n".repeat(2_000);
    assert_eq!(for_library(honest.as_bytes()).len(), honest.len());
}

#[test]
fn a_bomb_stays_closed() {
    let mut deep = String::new();
    for level in 0..20_000 {
        deep.push_str(&format!("Content-Type: multipart/mixed; boundary=b{level}\n\n--b{level}\n"));
    }
    let opened = Opened::of(deep.as_bytes());
    assert!(opened.cut && opened.parts.len() == 1);
    let rfc822 = "Content-Type: message/rfc822\n\n".repeat(20_000);
    assert_eq!(Opened::of(rfc822.as_bytes()).parts.len(), 1);
    let many = format!("Content-Type: multipart/mixed; boundary=b\n\n{}", "--b\n\nx\n".repeat(50_000));
    let opened = Opened::of(many.as_bytes());
    assert!(opened.cut && opened.parts.len() == PARTS_MAX);
    assert_eq!(fields("a: b\n".repeat(100_000).as_bytes()).len(), FIELDS_MAX);
}
