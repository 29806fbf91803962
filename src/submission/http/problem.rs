//! How a client hears no: problem details (RFC 9457).

use std::time::Duration;

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::submission::rejection::{Rejection, RejectionKind};

/// Why a request was not obeyed (RFC 9457). Nothing of it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(example = json!({
    "type": "urn:posthaste:problem:invalid",
    "title": "The request is not well-formed or cannot be obeyed",
    "status": 400,
    "detail": "to[0]: the address has no @",
    "violations": [{"field": "to[0]", "why": "the address has no @"}],
    "smtp_reply": "550 5.6.0 to[0]: the address has no @",
}))]
pub(super) struct Problem {
    /// The kind of problem; stays the same for as long as there is a version 1.
    #[serde(rename = "type")]
    #[schema(pattern = "^urn:posthaste:problem:[a-z-]+$")]
    kind: String,
    /// The kind of problem in words.
    title: &'static str,
    /// The status code of the response, or of the line of a batch.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What was wrong with this request.
    detail: String,
    /// The fields to blame and what is wrong with each.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    violations: Vec<FieldViolation>,
    /// The reply an SMTP client would have got.
    #[serde(skip_serializing_if = "Option::is_none")]
    smtp_reply: Option<String>,
    /// Seconds after which it may be worth trying again, as in Retry-After.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
}

/// A field and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct FieldViolation {
    /// Its path, as `to[3]`.
    field: String,
    /// What is wrong and what would be right.
    why: String,
}

impl Problem {
    /// One that HTTP knows and SMTP does not.
    pub(super) fn plain(status: StatusCode, kind: &str, title: &'static str, detail: impl Into<String>) -> Problem {
        Problem {
            kind: format!("urn:posthaste:problem:{kind}"),
            title,
            status: status.as_u16(),
            detail: detail.into(),
            violations: Vec::new(),
            smtp_reply: None,
            retry_after: None,
        }
    }

    /// The status code.
    pub(super) fn status(&self) -> u16 {
        self.status
    }
}

impl From<&Rejection> for Problem {
    fn from(rejection: &Rejection) -> Problem {
        let (status, kind, title) = terms(rejection.kind);
        let violations = rejection.violations.iter();
        let violations = violations.map(|v| FieldViolation { field: v.field.to_string(), why: v.why.to_string() });
        Problem {
            violations: violations.collect(),
            smtp_reply: Some(rejection.reply.to_string()),
            retry_after: rejection.retry_after.map(whole_seconds),
            ..Problem::plain(status, kind, title, rejection.reply.text.clone())
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let json = serde_json::to_vec(&self).expect("a Problem is plain data");
        let mut response = (status, json).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if status == StatusCode::UNAUTHORIZED {
            for scheme in ["Bearer realm=\"posthaste\"", "Basic realm=\"posthaste\", charset=\"UTF-8\""] {
                headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
            }
        }
        response
    }
}

/// Rounded up, and at least one: zero would invite to try at once.
fn whole_seconds(wait: Duration) -> u64 {
    (wait.as_millis().div_ceil(1000) as u64).max(1)
}

/// The status, name and title of each kind.
fn terms(kind: RejectionKind) -> (StatusCode, &'static str, &'static str) {
    match kind {
        RejectionKind::Invalid => {
            (StatusCode::BAD_REQUEST, "invalid", "The request is not well-formed or cannot be obeyed")
        }
        RejectionKind::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too-large", "The message is larger than allowed"),
        RejectionKind::Unauthenticated => (StatusCode::UNAUTHORIZED, "unauthenticated", "We do not know who this is"),
        RejectionKind::Forbidden => (StatusCode::FORBIDDEN, "forbidden", "This client may not do that"),
        RejectionKind::KeyReused => {
            (StatusCode::CONFLICT, "key-reused", "The idempotency key stands for a different submission")
        }
        RejectionKind::NotFound => (StatusCode::NOT_FOUND, "not-found", "There is no such thing"),
        RejectionKind::Quota => (StatusCode::TOO_MANY_REQUESTS, "quota", "The tenant has used up what it may"),
        RejectionKind::Full => (StatusCode::SERVICE_UNAVAILABLE, "full", "There is no room now"),
        RejectionKind::Trouble => (StatusCode::SERVICE_UNAVAILABLE, "trouble", "It could not be done now"),
        RejectionKind::Closing => (StatusCode::SERVICE_UNAVAILABLE, "closing", "The daemon is shutting down"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejection_keeps_all_it_says() {
        let response = Problem::from(&Rejection::quota("enough", Some(Duration::from_millis(1500)))).into_response();
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()[RETRY_AFTER], "2");
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        let response = Problem::from(&Rejection::unauthenticated("who?")).into_response();
        assert_eq!(response.headers().get_all(WWW_AUTHENTICATE).iter().count(), 2);
        let json = serde_json::to_value(Problem::from(&Rejection::invalid("to[3]", "no"))).expect("data");
        let expected = serde_json::json!({
            "type": "urn:posthaste:problem:invalid",
            "title": "The request is not well-formed or cannot be obeyed",
            "status": 400,
            "detail": "to[3]: no",
            "violations": [{"field": "to[3]", "why": "no"}],
            "smtp_reply": "550 5.6.0 to[3]: no",
        });
        assert_eq!(json, expected);
    }
}
