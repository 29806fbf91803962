//! Header fields of a message that is built: which a client may give, and how they are written.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use mail_builder::headers::Header;
use mail_builder::headers::raw::Raw;
use mail_builder::headers::text::Text;

/// Longest further field, in octets.
const FIELD_MAX: usize = 8192;

/// Fields that have a place of their own, or are ours to write.
const OURS: [&str; 11] = [
    "From",
    "To",
    "Cc",
    "Bcc",
    "Reply-To",
    "Subject",
    "Date",
    "Return-Path",
    "Received",
    "MIME-Version",
    "DKIM-Signature",
];

/// The same for whole families.
const OURS_ALL: [&str; 4] = ["Content-", "X-Posthaste-", "Resent-", "ARC-"];

/// Fields that may stand only once (RFC 5322 §3.6), of those a client may give.
const ONCE: [&str; 4] = ["Message-ID", "In-Reply-To", "References", "Sender"];

/// What is wrong with a further field; `before` are those in front of it.
pub(super) fn field_problem(name: &str, value: &str, before: &[(String, String)]) -> Option<String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if !(1..=76).contains(&name.len()) || !name.bytes().all(good) {
        return Some("is no field name: 1 to 76 letters, digits, - and _".into());
    }
    if OURS.iter().any(|ours| ours.eq_ignore_ascii_case(name)) {
        return Some("must not be given here".into());
    }
    let family = |start: &&str| name.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start));
    if let Some(family) = OURS_ALL.iter().find(|start| family(start)) {
        return Some(format!("must not be given here: no field that begins with {family}"));
    }
    if ONCE.iter().any(|once| once.eq_ignore_ascii_case(name))
        && before.iter().any(|(n, _)| n.eq_ignore_ascii_case(name))
    {
        return Some("may be given only once (RFC 5322 §3.6)".into());
    }
    // A tab is white space like any other; all else could end the line or hide something.
    if value.len() > FIELD_MAX || value.chars().any(|c| c.is_control() && c != '\t') {
        return Some(format!("must be at most {FIELD_MAX} octets without control characters"));
    }
    let message_id = || {
        let inner = value.trim().strip_prefix('<').and_then(|rest| rest.strip_suffix('>'));
        inner.is_some_and(|id| {
            id.len() <= 250 && id.contains('@') && id.bytes().all(|b| b.is_ascii_graphic() && !b"<>".contains(&b))
        })
    };
    if name.eq_ignore_ascii_case("Message-ID") && !message_id() {
        return Some("must be <name@domain> (RFC 5322 §3.6.4)".into());
    }
    None
}

/// How violations name a further field.
pub(super) fn field_path(name: &str) -> String {
    let shown: String = name.chars().take(76).map(|c| if c.is_control() { '?' } else { c }).collect();
    format!("headers[{shown:?}]")
}

/// Writes an unstructured field. Text that is ASCII stays as it is, folded at white space: encoded, a field that has a
/// structure after all (List-Unsubscribe, References) would lose it.
pub(super) fn write_text(name: &str, value: &str, buffer: &mut Vec<u8>) {
    let value = value.trim();
    let looks_encoded = value.contains("=?");
    match value.is_ascii() {
        true if !looks_encoded => write_field(name, &Raw::new(value), buffer),
        true => write_field(name, &Raw::new(encoded_words(value)), buffer),
        false => write_field(name, &Text::new(value), buffer),
    }
}

/// ASCII that a reader would take for encoded, encoded (RFC 2047 §4.1).
fn encoded_words(value: &str) -> String {
    let words = value.as_bytes().chunks(45).map(|chunk| format!("=?us-ascii?B?{}?=", BASE64.encode(chunk)));
    words.collect::<Vec<_>>().join(" ")
}

/// Writes a field, folded.
pub(super) fn write_field(name: &str, value: &impl Header, buffer: &mut Vec<u8>) {
    buffer.extend_from_slice(name.as_bytes());
    buffer.extend_from_slice(b": ");
    value.write_header(buffer, name.len() + 2);
}
