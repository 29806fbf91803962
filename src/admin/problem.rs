//! What is wrong with a request, and how that is told.

use std::fmt::Display;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;

use crate::access::{BadField, ChangeError};
use crate::queue::OrderError;
use crate::spool::SpoolError;

/// An error as `application/problem+json` (RFC 9457), with the fields to blame if there are any.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    detail: String,
    violations: Vec<BadField>,
}

impl Problem {
    fn new(status: StatusCode, error: impl Display) -> Problem {
        Problem { status, detail: error.to_string(), violations: Vec::new() }
    }

    pub(super) fn bad(error: impl Display) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, error)
    }

    /// A field is to blame.
    pub(super) fn field(field: &'static str, why: &str) -> Problem {
        let violations = vec![BadField { field: field.into(), why: why.into() }];
        Problem { violations, ..Problem::bad(format!("{field}: {why}")) }
    }

    pub(super) fn missing(error: impl Display) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, error)
    }

    pub(super) fn trouble(error: impl Display) -> Problem {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error)
    }
}

impl From<SpoolError> for Problem {
    fn from(error: SpoolError) -> Problem {
        let status = match error {
            SpoolError::Unknown(_) => StatusCode::NOT_FOUND,
            SpoolError::Log(_) | SpoolError::Damaged { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Problem::new(status, error)
    }
}

impl From<ChangeError> for Problem {
    fn from(error: ChangeError) -> Problem {
        let status = match error {
            ChangeError::Bad(_) => StatusCode::BAD_REQUEST,
            ChangeError::Exists(_) => StatusCode::CONFLICT,
            ChangeError::NoTenant(_) | ChangeError::NoCredential(_) => StatusCode::NOT_FOUND,
            ChangeError::Ledger(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let problem = Problem::new(status, &error);
        match error {
            ChangeError::Bad(violations) => Problem { violations, ..problem },
            _ => problem,
        }
    }
}

impl From<OrderError> for Problem {
    fn from(error: OrderError) -> Problem {
        match error {
            OrderError::Bad { field, why } => Problem::field(field, &why),
            OrderError::Full => Problem::new(StatusCode::CONFLICT, error),
            OrderError::Ledger(_) => Problem::trouble(error),
        }
    }
}

impl From<JsonRejection> for Problem {
    /// axum says `…: FIELD: WHY` where the text is JSON and a field has the wrong type or is unknown. That is a bad request
    /// like any other.
    fn from(rejection: JsonRejection) -> Problem {
        // It may name a field as the client wrote it.
        let text = rejection.body_text().replace(char::is_control, "?");
        let (status, detail) = match &rejection {
            JsonRejection::JsonDataError(_) => {
                let detail = text.split_once(": ").map_or(text.as_str(), |(_, detail)| detail);
                // Where the field has no name.
                (StatusCode::BAD_REQUEST, detail.trim_start_matches(": "))
            }
            _ => (rejection.status(), text.as_str()),
        };
        let field = detail.split_once(": ").filter(|(field, _)| !field.contains(' '));
        let violations = field.map(|(field, why)| BadField { field: field.into(), why: why.into() });
        Problem { violations: violations.into_iter().collect(), ..Problem::new(status, detail) }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = serde_json::json!({ "status": self.status.as_u16(), "detail": self.detail });
        if !self.violations.is_empty() {
            body["violations"] = serde_json::json!(self.violations);
        }
        (self.status, [("content-type", "application/problem+json")], body.to_string()).into_response()
    }
}

/// A body of JSON; if it is not what it must be, a [`Problem`] says so.
#[derive(Debug)]
pub(super) struct Asked<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Asked<T>, Problem> {
        Ok(Asked(Json::from_request(request, state).await?.0))
    }
}
