//! A [`Rejection`] in gRPC's words.

use std::borrow::Cow;
use std::collections::HashMap;

use prost::Message;
use prost_types::Any;
use tonic::{Code, Status};

use super::proto::google::rpc;
use crate::submission::rejection::{Rejection, RejectionKind, Violation};

/// Whose reasons they are.
const DOMAIN: &str = "posthaste";

/// Octets of text in a status that ends a call, and of the fields in its details. It travels in a header, encoded, and
/// clients take no more than 8 KiB of that.
const TEXT_MAX: usize = 500;
const FIELDS_MAX: usize = 2500;

/// The status that ends a call. Of many violations it names the first.
pub(super) fn status(rejection: &Rejection) -> Status {
    let whole = in_message(&short(rejection));
    let code = code(rejection.kind);
    Status::with_details(code, whole.message.clone(), whole.encode_to_vec().into())
}

/// A rejection that fits into a header.
fn short(rejection: &Rejection) -> Cow<'_, Rejection> {
    let length = |one: &Violation| one.field.len() + one.why.len() + 16;
    let fields: usize = rejection.violations.iter().map(length).sum();
    if rejection.reply.text.len() <= TEXT_MAX && fields <= FIELDS_MAX {
        return Cow::Borrowed(rejection);
    }
    let mut short = rejection.clone();
    let mut room = FIELDS_MAX;
    let fits = |one: &Violation| {
        let enough = room.checked_sub(length(one));
        room = enough.unwrap_or_default();
        enough.is_some()
    };
    short.violations = rejection.violations.iter().map(trimmed).take_while(fits).collect();
    let text = match &rejection.violations[..] {
        [first, _, ..] => format!("{} fields are wrong; first: {first}", rejection.violations.len()),
        _ => rejection.reply.text.to_string(),
    };
    short.reply.text = cut(&text, TEXT_MAX).to_owned().into();
    Cow::Owned(short)
}

fn trimmed(violation: &Violation) -> Violation {
    let short = |text: &str| cut(text, TEXT_MAX).to_owned().into();
    Violation { field: short(&violation.field), why: short(&violation.why) }
}

/// The beginning, of at most `max` octets.
fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

/// The same inside a message, for one request of a stream.
pub(super) fn in_message(rejection: &Rejection) -> rpc::Status {
    let reply = &rejection.reply;
    let enhanced = reply.enhanced.map(|enhanced| ("enhanced_code".to_owned(), enhanced.to_string()));
    let info = info(reason(rejection.kind), enhanced.into_iter().collect());
    let mut details = vec![info];
    if !rejection.violations.is_empty() {
        let violation = |violation: &crate::submission::Violation| rpc::bad_request::FieldViolation {
            field: violation.field.clone().into_owned(),
            description: violation.why.clone().into_owned(),
        };
        let bad = rpc::BadRequest { field_violations: rejection.violations.iter().map(violation).collect() };
        details.push(any("BadRequest", &bad));
    }
    if let Some(wait) = rejection.retry_after {
        let retry_delay = prost_types::Duration::try_from(wait).ok();
        details.push(any("RetryInfo", &rpc::RetryInfo { retry_delay }));
    }
    rpc::Status { code: code(rejection.kind) as i32, message: reply.text.replace(['\r', '\n'], " "), details }
}

/// A status of our own making, with a reason and what belongs to it.
pub(super) fn with_info(code: Code, message: &str, reason: &str, metadata: HashMap<String, String>) -> Status {
    let whole = rpc::Status { code: code as i32, message: message.to_owned(), details: vec![info(reason, metadata)] };
    Status::with_details(code, message, whole.encode_to_vec().into())
}

fn info(reason: &str, metadata: HashMap<String, String>) -> Any {
    any("ErrorInfo", &rpc::ErrorInfo { reason: reason.to_owned(), domain: DOMAIN.to_owned(), metadata })
}

fn any(name: &str, message: &impl Message) -> Any {
    Any { type_url: format!("type.googleapis.com/google.rpc.{name}"), value: message.encode_to_vec() }
}

/// What tonic says about a message it will not read, as we say it: too large is no reason to try again, as
/// RESOURCE_EXHAUSTED would mean. `None`: it is fine as it is.
pub(super) fn in_our_words(theirs: &Status) -> Option<Status> {
    let too_large = match theirs.code() {
        Code::OutOfRange => theirs.message().contains("message length too large"),
        Code::ResourceExhausted => theirs.message().contains("while decompressing"),
        _ => false,
    };
    too_large.then(|| status(&Rejection::too_large("the request is larger than allowed (max_message_size)")))
}

/// The `reason` of an ErrorInfo.
fn reason(kind: RejectionKind) -> &'static str {
    match kind {
        RejectionKind::Invalid => "INVALID",
        RejectionKind::TooLarge => "TOO_LARGE",
        RejectionKind::Unauthenticated => "UNAUTHENTICATED",
        RejectionKind::Forbidden => "FORBIDDEN",
        RejectionKind::KeyReused => "KEY_REUSED",
        RejectionKind::NotFound => "NOT_FOUND",
        RejectionKind::Quota => "QUOTA",
        RejectionKind::Full => "FULL",
        RejectionKind::Trouble => "TROUBLE",
        RejectionKind::Closing => "CLOSING",
    }
}

fn code(kind: RejectionKind) -> Code {
    match kind {
        RejectionKind::Invalid | RejectionKind::TooLarge => Code::InvalidArgument,
        RejectionKind::Unauthenticated => Code::Unauthenticated,
        RejectionKind::Forbidden => Code::PermissionDenied,
        RejectionKind::KeyReused => Code::FailedPrecondition,
        RejectionKind::NotFound => Code::NotFound,
        RejectionKind::Quota | RejectionKind::Full => Code::ResourceExhausted,
        RejectionKind::Trouble | RejectionKind::Closing => Code::Unavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(count: usize, why: &str, text: &str, named: std::ops::Range<usize>) {
        let violation = |n| Violation { field: format!("recipients[{n}]").into(), why: why.to_owned().into() };
        let status = status(&Rejection::violations((0..count).map(violation).collect()));
        assert!(status.message().starts_with(text), "{}", status.message());
        let http = status.into_http::<()>();
        let octets: usize = http.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
        assert!(octets < 8 << 10, "{octets} octets of header");
        let status = Status::from_header_map(http.headers()).expect("a status");
        let whole = rpc::Status::decode(status.details()).expect("details");
        let bad = rpc::BadRequest::decode(&*whole.details[1].value).expect("fields");
        assert!(named.contains(&bad.field_violations.len()), "{} named", bad.field_violations.len());
    }

    #[test]
    fn a_status_fits_into_a_header() {
        check(1, "is no address", "recipients[0]: is no address", 1..2);
        check(5, "is no address", "recipients[0]: is no address; recipients[1]", 5..6);
        check(50, &"no address ".repeat(10), "50 fields are wrong; first: recipients[0]: no address", 10..50);
        check(2, &"\u{fc}".repeat(10_000), "recipients[0]: \u{fc}", 1..3);
        check(20, &"\u{fc}".repeat(10_000), "20 fields are wrong", 1..20);
        check(1, &"\u{fc}".repeat(10_000), "recipients[0]", 1..2);
    }
}
