//! Ways in for fuzz targets: JSON, to a message read back; and what else clients say.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::Query;
use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri};
use bytes::Bytes;

use super::body::{Submission, json_rejection};
use super::lines::{Line, Lines};
use super::negotiate::{self, JSON, NDJSON, Refusal};
use super::shapes::Object;
use super::suppressions::Additions;
use super::take_back::what_to_cancel;
use super::{NAMES, place, query, suppressions};
use crate::access::Principal;
use crate::clock::Timestamp;
use crate::config::SuppressionConfig;
use crate::mail::{MessageId, Receipt, header};
use crate::submission::door::{Door, Handover};
use crate::submission::rejection::Rejection;
use crate::submission::request::{ApiCircumstances, ContentNames, Request, RequestContent, prepare};
use crate::submission::steer::Cancel;
use crate::suppression::{Defaults, EntryText, Reason};

/// When requests come.
const NOW: Timestamp = Timestamp(1_795_348_800_000);

/// Longest line of a batch.
const LINE_MAX: usize = 64;

/// A door that takes all and keeps nothing.
struct Open(AtomicU64);

impl Door for Open {
    fn next_ids(&self, count: u32) -> MessageId {
        MessageId(self.0.fetch_add(u64::from(count), Ordering::Relaxed))
    }

    fn ready(&self) -> Result<(), Rejection> {
        Ok(())
    }

    fn accept(&self, _: Handover) -> impl Future<Output = Result<Receipt, Rejection>> + Send + 'static {
        std::future::ready(Err(Rejection::closing()))
    }

    fn expire_after(&self) -> Duration {
        Duration::from_secs(3600)
    }
}

/// Reads foreign octets as the JSON of a submission and prepares it.
///
/// # Panics
/// What comes out could not be sent: a line too long, a bare CR or LF, a NUL, a header that is none.
pub fn submission(octets: &[u8]) {
    if let Ok(request) = Submission::read(octets) {
        prepared(request, NAMES);
    }
}

/// Prepares a request.
///
/// # Panics
/// As [`submission`].
pub(in crate::submission) fn prepared(request: Request, names: ContentNames) {
    let hostname = "mta.example".parse().expect("a domain");
    let circumstances = ApiCircumstances {
        principal: Principal::network(),
        client: None,
        protocol: "HTTP",
        hostname: &hostname,
        now: NOW,
        max_message_size: 1 << 20,
        recipients_max: 100,
        memory_max: 4 << 20,
        names,
    };
    let handover = match prepare(&Open(AtomicU64::new(1)), request, &circumstances) {
        Ok(handover) => handover,
        Err(rejection) => return assert!(!rejection.reply.text.is_empty()),
    };
    for message in &handover.messages {
        let content = &message.content;
        assert!(content.ends_with(b"\r\n"), "the last line has no end");
        for line in content[..content.len() - 2].split(|b| *b == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            assert!(line.len() <= 998 && !line.contains(&b'\r') && !line.contains(&0), "a line that cannot be sent");
        }
        let section = &content[..header::section_len(content)];
        let end = header::fields(section).last().map_or(0, |field| field.end);
        assert_eq!(end, section.len(), "a header line that is no field");
        assert!(message.envelope.smtputf8 || section.is_ascii(), "8-bit text in the header");
        assert!(!message.envelope.recipients.is_empty());
    }
}

/// What a client says beside the JSON of a submission, after an octet that says what it is: a query (for all that take one,
/// and behind an empty line the message beside it), header fields, a batch, or suppressions in JSON.
///
/// What is wrong is told by field, in words that can be shown. Orders that are right could be sent. However a batch is cut,
/// the same lines come out, and each of its octets is in one of them. What is put on the list of suppressions reads the same
/// when it is shown.
pub fn http(octets: &[u8]) {
    let Some((&kind, octets)) = octets.split_first() else { return };
    match kind % 4 {
        0 => orders(octets),
        1 => fields(octets),
        2 => batch(octets),
        _ => additions(octets),
    }
}

fn orders(octets: &[u8]) {
    let at = memchr::memmem::find(octets, b"\n\n");
    let (query, message) = at.map_or((octets, &[][..]), |at| (&octets[..at], &octets[at + 2..]));
    let Ok(uri) = Uri::try_from([b"/?", query].concat()) else { return };
    let Ok(Query(pairs)) = Query::<Vec<(String, String)>>::try_from_uri(&uri) else { return };
    match query::orders(pairs.clone()) {
        Ok(orders) => {
            let content = RequestContent::Raw(Bytes::copy_from_slice(message));
            prepared(Request { content, ..orders }, NAMES);
        }
        Err(rejection) => check_rejection(&rejection),
    }
    match what_to_cancel(pairs.clone()) {
        Ok(Cancel::Campaign { tenant, campaign }) => {
            assert!(!campaign.is_empty() && tenant.is_none_or(|tenant| !tenant.is_empty()));
        }
        Ok(Cancel::Key { key, .. }) => assert_eq!(key.to_string().parse(), Ok(key)),
        Ok(Cancel::Message(id)) => panic!("{id}: its id stands in the path"),
        Err(rejection) => check_rejection(&rejection),
    }
    suppressions::check_query(pairs);
}

/// Lines `NAME: VALUE`.
fn fields(octets: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in octets.split(|octet| *octet == b'\n').take(50) {
        let Some(at) = memchr::memchr(b':', line) else { continue };
        let (name, value) = (HeaderName::from_bytes(&line[..at]), HeaderValue::from_bytes(line[at + 1..].trim_ascii()));
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    if let Ok(kind) = negotiate::kind(&headers, &[JSON, NDJSON]) {
        assert!([JSON, NDJSON].contains(&kind));
    }
    match query::idempotency_key(&headers) {
        Ok(Some(key)) => {
            let quoted = key.replace('\\', "\\\\").replace('"', "\\\"");
            let value = HeaderValue::from_str(&format!("\"{quoted}\"")).expect("it came in a header");
            headers.insert(query::IDEMPOTENCY_KEY, value);
            assert!(matches!(query::idempotency_key(&headers), Ok(Some(again)) if again == key));
        }
        Ok(None) => {}
        Err(rejection) => check_rejection(&rejection),
    }
    let acceptable = |headers: &HeaderMap| match negotiate::acceptable(headers, JSON) {
        Ok(()) => true,
        Err(Refusal::Plain(_)) => false,
        Err(Refusal::Rejected(rejection)) => panic!("{rejection:?}"),
    };
    assert!(acceptable(&headers) || headers.contains_key(ACCEPT), "who says nothing takes anything");
    // The last word is the most specific one: it decides.
    for (value, expected) in [("application/json", true), ("Application/JSON;q=0", false)] {
        headers.append(ACCEPT, HeaderValue::from_static(value));
        assert_eq!(acceptable(&headers), expected, "{headers:?}");
    }
}

/// After an octet that says how it is cut.
fn batch(octets: &[u8]) {
    let Some((&cut, body)) = octets.split_first() else { return };
    let read = |size: usize| {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        for piece in body.chunks(size.max(1)) {
            lines.push(piece);
            found.extend(std::iter::from_fn(|| lines.next(LINE_MAX)));
        }
        found.extend(lines.rest());
        (found, lines.shed)
    };
    let (lines, shed) = read(usize::from(cut));
    let mut octets = body.split_inclusive(|octet| *octet == b'\n');
    let mut too_long = 0;
    for (line, at) in lines.iter().zip(1..) {
        let said = octets.next().expect("no line that was not sent");
        let plain = said.strip_suffix(b"\n").unwrap_or(said);
        assert_eq!(line.number, at);
        match &line.octets {
            Ok(octets) => assert_eq!(octets, plain),
            Err(length) => {
                assert!(*length == said.len() && plain.len() > LINE_MAX, "{length} of {}", said.len());
                too_long += length;
            }
        }
        if let Ok(octets) = &line.octets {
            assert!(octets.len() <= LINE_MAX || at as usize == lines.len(), "a long line in the midst");
        }
    }
    assert!(octets.next().is_none(), "a line is missing");
    assert_eq!(shed, too_long, "memory that is not given back, or twice");
    let in_the_midst = |lines: &[Line]| lines.len().saturating_sub(1);
    let other = read(body.len()).0;
    assert_eq!(lines[..in_the_midst(&lines)], other[..in_the_midst(&other)], "it matters how it is cut");
}

fn additions(octets: &[u8]) {
    let additions = match serde_json::from_slice::<Object<Additions>>(octets) {
        Ok(Object(additions)) => additions,
        Err(error) => {
            let path = place::path(octets, error.line(), error.column());
            assert!(path.len() <= octets.len() * 8, "{} of {}", path.len(), octets.len());
            return check_rejection(&json_rejection(octets, &error));
        }
    };
    additions.texts().iter().take(100).for_each(check_entry);
}

/// What is wrong is told by field, in words that can be shown.
pub(in crate::submission) fn check_rejection(rejection: &Rejection) {
    let harmless = |text: &str| !text.is_empty() && !text.chars().any(char::is_control);
    assert!(harmless(&rejection.reply.text), "{:?}", rejection.reply.text);
    assert!(!rejection.violations.is_empty(), "{rejection:?} names no field");
    for violation in &rejection.violations {
        assert!(harmless(&violation.field), "{:?}", violation.field);
        assert!(!violation.why.is_empty());
    }
}

/// An entry that is taken, by anybody or for one tenant only, reads the same when it is shown; and that tenant makes none but
/// its own.
pub(in crate::submission) fn check_entry(text: &EntryText<'_>) {
    let rules = SuppressionConfig::default();
    for only in [None, Some("shop")] {
        let defaults = Defaults {
            tenant: only.map(Into::into),
            scope: None,
            reason: Reason::Manual,
            source: "probe".into(),
            since: NOW,
        };
        match text.entry(&defaults, &rules) {
            Ok(entry) => {
                let shown = EntryText::of(&entry);
                assert_eq!(shown.entry(&defaults, &rules).as_ref(), Ok(&entry), "{shown:?}");
                assert!(only.is_none() || entry.scope.tenant() == only, "{:?} is not its own", entry.scope);
                let named = text.scope.is_none().then_some(text.tenant.as_deref()).flatten();
                assert!(named.is_none() || named == entry.scope.tenant(), "{named:?} became {:?}", entry.scope);
            }
            Err(wrong) => assert!(!wrong.field.is_empty() && !wrong.why.is_empty()),
        }
    }
}
