//! A [`Rejection`] in gRPC's words.

use std::collections::HashMap;

use prost::Message;
use prost_types::Any;
use tonic::{Code, Status};

use super::proto::google::rpc;
use crate::submission::rejection::{Rejection, RejectionKind};

/// Whose reasons they are.
const DOMAIN: &str = "posthaste";

/// The status that ends a call.
pub(super) fn status(rejection: &Rejection) -> Status {
    let whole = in_message(rejection);
    let code = code(rejection.kind);
    Status::with_details(code, whole.message.clone(), whole.encode_to_vec().into())
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

/// The `reason` label of metrics.
pub(super) fn label(kind: RejectionKind) -> &'static str {
    match kind {
        RejectionKind::Invalid => "invalid",
        RejectionKind::TooLarge => "size",
        RejectionKind::Unauthenticated => "unauthenticated",
        RejectionKind::Forbidden => "forbidden",
        RejectionKind::KeyReused => "key_reused",
        RejectionKind::NotFound => "not_found",
        RejectionKind::Quota => "quota",
        RejectionKind::Full => "full",
        RejectionKind::Trouble => "trouble",
        RejectionKind::Closing => "closing",
    }
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
