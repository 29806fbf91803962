//! The message on stdin, made what the daemon takes: lines that end in CRLF, addresses with a domain, recipients known.

use std::io::{self, BufRead};
use std::ops::Range;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::addresses::addresses;
use super::{EX_DATAERR, EX_USAGE, Failure};
use crate::mail::header::{self, Field};
use crate::mail::{Domain, EnvelopeAddress, ReversePath};

/// Fields whose addresses get a domain if they have none, as cron's and mail(1)'s have.
const QUALIFIED: [&str; 10] = [
    "From",
    "Sender",
    "Reply-To",
    "To",
    "Cc",
    "Resent-From",
    "Resent-Sender",
    "Resent-To",
    "Resent-Cc",
    "Disposition-Notification-To",
];

/// A message and its envelope.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Letter {
    /// Where reports go.
    pub(super) sender: ReversePath,
    /// Who gets it; at least one.
    pub(super) recipients: Vec<EnvelopeAddress>,
    /// Lines that end in CRLF.
    pub(super) content: Vec<u8>,
    /// An address or the header has octets above 127.
    pub(super) needs_smtputf8: bool,
}

/// How to make one.
#[derive(Debug)]
pub(super) struct Making<'a> {
    /// The envelope's sender as given, or the user.
    pub(super) sender: &'a str,
    /// The author's name, if the message has no From.
    pub(super) full_name: Option<&'a str>,
    /// Recipients as given.
    pub(super) recipients: &'a [String],
    /// Whether the header names recipients.
    pub(super) from_header: bool,
    /// What an address without a domain gets.
    pub(super) domain: &'a Domain,
}

/// Reads a message: to the end, or to a line that is only a dot unless `dot_is_text`. Line ends become CRLF; an mbox line
/// in front is dropped.
pub(super) fn read(input: impl BufRead, dot_is_text: bool, size_max: u64) -> Result<Vec<u8>, Failure> {
    let failed = |error: io::Error| Failure { code: super::EX_IOERR, why: format!("cannot read the message: {error}") };
    let mut input = input.take(size_max.saturating_add(1));
    let (mut content, mut line) = (Vec::new(), Vec::new());
    loop {
        line.clear();
        if input.read_until(b'\n', &mut line).map_err(failed)? == 0 {
            break;
        }
        let end = line.iter().rposition(|b| !matches!(b, b'\r' | b'\n')).map_or(0, |at| at + 1);
        let text = &line[..end];
        if text == b"." && !dot_is_text {
            break;
        }
        let is_mbox_line = text.starts_with(b"From ") || text.starts_with(b">From ");
        if content.is_empty() && is_mbox_line && !text.trim_ascii_start()[4..].trim_ascii_start().starts_with(b":") {
            continue;
        }
        content.extend_from_slice(text);
        content.extend_from_slice(b"\r\n");
    }
    if input.limit() == 0 {
        let why = format!("the message is larger than {size_max} octets (submission.smtp.max_message_size)");
        return Err(Failure { code: EX_DATAERR, why });
    }
    Ok(content)
}

impl Letter {
    /// Finds the recipients, and completes the header.
    pub(super) fn new(content: Vec<u8>, making: &Making<'_>) -> Result<Letter, Failure> {
        let sender = match making.sender {
            "" | "<>" => ReversePath::Null,
            given => ReversePath::Address(one(given, "sender", making.domain)?),
        };
        let mut recipients = Vec::new();
        for given in making.recipients {
            recipients.extend(all(given.as_bytes(), "recipient", making.domain)?);
        }
        let section = &content[..header::section_len(&content)];
        if making.from_header {
            recipients.extend(named(section, making.domain)?);
        }
        if recipients.is_empty() {
            let why = match making.from_header {
                true => "no recipients: neither To, Cc nor Bcc names one",
                false => "no recipients: name them, or say -t to take them from the header",
            };
            return Err(Failure { code: EX_USAGE, why: why.into() });
        }
        let completed = completed(&content, section, &sender, making);
        let header_is_ascii = completed[..header::section_len(&completed)].is_ascii();
        let needs_smtputf8 = !header_is_ascii
            || sender.address().is_some_and(EnvelopeAddress::needs_smtputf8)
            || recipients.iter().any(EnvelopeAddress::needs_smtputf8);
        Ok(Letter { sender, recipients, content: completed, needs_smtputf8 })
    }
}

/// Those whom To, Cc and Bcc name; or, of a message sent on, the Resent- fields (RFC 5322 §3.6.6).
fn named(section: &[u8], domain: &Domain) -> Result<Vec<EnvelopeAddress>, Failure> {
    let names = |prefix: &str| ["To", "Cc", "Bcc"].map(|name| format!("{prefix}{name}"));
    let resent = header::fields(section).any(|field| names("Resent-").iter().any(|name| field.is(name)));
    let wanted = names(if resent { "Resent-" } else { "" });
    let mut found = Vec::new();
    for field in header::fields(section) {
        if let Some(name) = wanted.iter().find(|name| field.is(name)) {
            found.extend(all(field.value, name, domain)?);
        }
    }
    Ok(found)
}

/// The addresses of a list. `what` it is, for errors.
fn all(list: &[u8], what: &str, domain: &Domain) -> Result<Vec<EnvelopeAddress>, Failure> {
    let bad = |why: String| Failure {
        code: EX_DATAERR,
        why: format!("{what}: {:?}: {why}", String::from_utf8_lossy(list).replace("\r\n", "").trim()),
    };
    let ranges = addresses(list).map_err(|error| bad(error.to_string()))?;
    let parse = |range: Range<usize>| {
        let address = &list[range];
        let text = std::str::from_utf8(address).map_err(|_| bad("it is not UTF-8".into()))?;
        let qualified = if is_bare(address) { format!("{text}@{domain}") } else { text.to_owned() };
        qualified.parse::<EnvelopeAddress>().map_err(|error| bad(error.to_string()))
    };
    ranges.into_iter().map(parse).collect()
}

fn one(text: &str, what: &str, domain: &Domain) -> Result<EnvelopeAddress, Failure> {
    let mut found = all(text.as_bytes(), what, domain)?.into_iter();
    match (found.next(), found.next()) {
        (Some(only), None) => Ok(only),
        _ => Err(Failure { code: EX_USAGE, why: format!("{what}: {text:?} must be one address") }),
    }
}

/// The address has no domain.
fn is_bare(address: &[u8]) -> bool {
    !address.contains(&b'@') || address.starts_with(b"\"") && address.ends_with(b"\"")
}

/// The message without Bcc, with a domain behind every address of its header, and with From if a name was given for it. A
/// header that is none is left to the daemon.
fn completed(content: &[u8], section: &[u8], sender: &ReversePath, making: &Making<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 256);
    let has_from = header::fields(section).any(|field| field.is("From"));
    let from = making.full_name.filter(|_| !has_from).zip(sender.address());
    if let Some((name, address)) = from {
        out.extend_from_slice(format!("From: {} <{address}>\r\n", Phrase(name)).as_bytes());
    }
    let mut end = 0;
    for field in header::fields(section) {
        end = field.end;
        if !field.is("Bcc") && !field.is("Resent-Bcc") {
            copy(&mut out, section, field, making.domain);
        }
    }
    if end == 0 && from.is_some() && !content.starts_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(&content[end..]);
    out
}

fn copy(out: &mut Vec<u8>, section: &[u8], field: Field<'_>, domain: &Domain) {
    let value = field.end - field.value.len();
    let mut copied = field.start;
    if QUALIFIED.iter().any(|name| field.is(name)) {
        // What cannot be read is left as it is: the receiver may know better.
        for range in addresses(field.value).unwrap_or_default() {
            if is_bare(&field.value[range.clone()]) {
                out.extend_from_slice(&section[copied..value + range.end]);
                out.extend_from_slice(format!("@{domain}").as_bytes());
                copied = value + range.end;
            }
        }
    }
    out.extend_from_slice(&section[copied..field.end]);
}

/// A name in front of an address: as a quoted string, or encoded (RFC 2047) if it is not ASCII.
struct Phrase<'a>(&'a str);

impl std::fmt::Display for Phrase<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let clean: String = self.0.chars().filter(|c| !c.is_control()).collect();
        if clean.is_ascii() {
            return write!(f, "\"{}\"", clean.replace('\\', "\\\\").replace('"', "\\\""));
        }
        // An encoded word has at most 75 octets.
        let mut rest = clean.as_str();
        while !rest.is_empty() {
            let cut = (0..=rest.len().min(42)).rev().find(|at| rest.is_char_boundary(*at)).unwrap_or(rest.len());
            let (word, behind) = rest.split_at(cut);
            write!(f, "=?utf-8?B?{}?=", BASE64_STANDARD.encode(word))?;
            if !behind.is_empty() {
                f.write_str("\r\n ")?;
            }
            rest = behind;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn making<'a>(recipients: &'a [String], from_header: bool, domain: &'a Domain) -> Making<'a> {
        Making { sender: "root", full_name: None, recipients, from_header, domain }
    }

    fn make(content: &str, recipients: &[&str], from_header: bool) -> Result<Letter, String> {
        let domain = "mta.example".parse().expect("a domain");
        let recipients: Vec<String> = recipients.iter().map(|to| (*to).to_owned()).collect();
        let making = making(&recipients, from_header, &domain);
        Letter::new(content.as_bytes().to_vec(), &making).map_err(|failure| format!("{} {}", failure.code, failure.why))
    }

    #[track_caller]
    fn check(content: &str, recipients: &[&str], from_header: bool, to: &[&str], expected: &str) {
        let letter = make(content, recipients, from_header).expect("a letter");
        let got: Vec<String> = letter.recipients.iter().map(ToString::to_string).collect();
        assert_eq!(
            (got.iter().map(String::as_str).collect::<Vec<_>>(), letter.sender.to_string()),
            (to.to_vec(), "root@mta.example".into())
        );
        assert_eq!(String::from_utf8_lossy(&letter.content), expected);
    }

    #[test]
    fn reads_any_line_ends() {
        let check = |input: &str, dot_is_text, expected: &str| {
            let content = read(input.as_bytes(), dot_is_text, 1000).expect("small");
            assert_eq!(String::from_utf8_lossy(&content), expected, "{input:?}");
        };
        check("A: b\n\nc", false, "A: b\r\n\r\nc\r\n");
        check("A: b\r\n\r\r\nc\r\n", false, "A: b\r\n\r\nc\r\n");
        check("a\n.\nb\n", false, "a\r\n");
        check("a\n.\nb\n", true, "a\r\n.\r\nb\r\n");
        check("a\n..\n. \n", false, "a\r\n..\r\n. \r\n");
        check("From a@b Mon Nov 23\nTo: c\n", false, "To: c\r\n");
        check(">From a@b Mon\nTo: c\nFrom here\n", false, "To: c\r\nFrom here\r\n");
        check("From : a@b\n", false, "From : a@b\r\n");
        check("", false, "");
        assert_eq!(read(&[b'x'; 1001][..], true, 1000).expect_err("large").code, EX_DATAERR);
        assert!(read(&[b'x'; 1000][..], true, 1000).is_ok());
    }

    #[test]
    fn finds_recipients_and_hides_the_blind() {
        let message = "To: Ann <a@b.example>,\r\n c@d.example\r\nBcc: hidden@e.example\r\nCc: f@g.example\r\nSubject: s\r\n\r\nBcc: x\r\n";
        let without = message.replace("Bcc: hidden@e.example\r\n", "");
        let all = ["a@b.example", "c@d.example", "hidden@e.example", "f@g.example"];
        check(message, &[], true, &all, &without);
        check(message, &["x@y.example, z"], false, &["x@y.example", "z@mta.example"], &without);
        let resent = format!("Resent-To: r@s.example\r\n{message}");
        let expected = format!("Resent-To: r@s.example\r\n{without}");
        check(&resent, &["x@y.example"], true, &["x@y.example", "r@s.example"], &expected);
    }

    #[test]
    fn addresses_get_a_domain() {
        check(
            "From: root (Cron Daemon)\r\nTo: ann, \"Bob\" <bob>,\r\n c@d.example\r\nSubject: root\r\n\r\nTo: x\r\n",
            &["ann"],
            false,
            &["ann@mta.example"],
            "From: root@mta.example (Cron Daemon)\r\nTo: ann@mta.example, \"Bob\" <bob@mta.example>,\r\n c@d.example\r\n\
             Subject: root\r\n\r\nTo: x\r\n",
        );
        check("To: Ann Smith\r\n\r\n", &["a"], false, &["a@mta.example"], "To: Ann Smith\r\n\r\n");
        check("just text\r\n", &["a"], false, &["a@mta.example"], "just text\r\n");
    }

    #[test]
    fn a_name_makes_a_from() {
        let domain = "mta.example".parse().expect("a domain");
        let recipients = ["a@b.example".to_owned()];
        let check = |name, content: &str, expected: &str| {
            let making = Making { full_name: Some(name), ..making(&recipients, false, &domain) };
            let letter = Letter::new(content.as_bytes().to_vec(), &making).expect("a letter");
            assert_eq!(String::from_utf8_lossy(&letter.content), expected);
        };
        check("A \"B\"\r\nX: y", "S: t\r\n\r\n", "From: \"A \\\"B\\\"X: y\" <root@mta.example>\r\nS: t\r\n\r\n");
        check("J\u{fc}rgen", "S: t\r\n\r\n", "From: =?utf-8?B?SsO8cmdlbg==?= <root@mta.example>\r\nS: t\r\n\r\n");
        check("A", "text\r\n", "From: \"A\" <root@mta.example>\r\n\r\ntext\r\n");
        check("A", "From: b@c\r\n\r\n", "From: b@c\r\n\r\n");
        let long = Phrase(&"\u{fc}".repeat(60)).to_string();
        assert!(long.split("\r\n ").all(|word| word.len() <= 75), "{long}");
    }

    #[test]
    fn says_what_is_wrong() {
        assert_eq!(
            make("S: t\r\n", &[], false),
            Err("64 no recipients: name them, or say -t to take them from the header".into())
        );
        assert_eq!(make("S: t\r\n", &[], true), Err("64 no recipients: neither To, Cc nor Bcc names one".into()));
        assert_eq!(
            make("To: Ann Smith\r\n", &[], true),
            Err("65 To: \"Ann Smith\": an address is missing, or stands without its brackets".into())
        );
        let bad = make("S: t\r\n", &["a@b..c"], false).expect_err("no domain");
        assert!(bad.starts_with("65 recipient: \"a@b..c\": "), "{bad}");
        assert!(make("Subject: \u{fc}\r\n\r\n", &["a"], false).expect("a letter").needs_smtputf8);
        assert!(!make("Subject: x\r\n\r\n\u{fc}\r\n", &["a"], false).expect("a letter").needs_smtputf8);
    }
}
