//! What a request and its answer may look like, by its header; and how HTTP says no.

use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode, Uri};

use super::problem::Problem;
use crate::submission::rejection::Rejection;

/// The types of bodies.
pub(super) const JSON: &str = "application/json";
pub(super) const NDJSON: &str = "application/x-ndjson";

/// Why a request is answered with a problem.
pub(super) enum Refusal {
    Rejected(Rejection),
    /// HTTP knows it, SMTP does not.
    Plain(Box<Problem>),
}

impl Refusal {
    pub(super) fn plain(status: StatusCode, kind: &str, title: &'static str, detail: impl Into<String>) -> Refusal {
        Refusal::Plain(Box::new(Problem::plain(status, kind, title, detail)))
    }
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Refusal {
        Refusal::Rejected(rejection)
    }
}

/// Which of `known` the body is.
pub(super) fn kind(headers: &HeaderMap, known: &[&'static str]) -> Result<&'static str, Refusal> {
    let said = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = said.split(';').next().unwrap_or_default().trim();
    if let Some(kind) = known.iter().find(|kind| kind.eq_ignore_ascii_case(essence)) {
        return Ok(kind);
    }
    let why = format!("the Content-Type must be {}", known.join(" or "));
    let (kind, title) = ("unsupported-media-type", "The body is of a kind we do not read");
    Err(Refusal::plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, kind, title, why))
}

/// Whether the client takes what we answer with (RFC 9110 §12.5.1).
pub(super) fn acceptable(headers: &HeaderMap, offered: &str) -> Result<(), Refusal> {
    let mut said = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).peekable();
    if said.peek().is_none() {
        return Ok(());
    }
    // The most specific range that fits decides.
    let mut best: Option<(usize, bool)> = None;
    for range in said.flat_map(|value| value.split(',')) {
        let mut pieces = range.split(';').map(str::trim);
        let kind = pieces.next().unwrap_or_default().to_ascii_lowercase();
        let specific = match kind.as_str() {
            "*/*" => 0,
            "application/*" => 1,
            _ if kind == offered => 2,
            _ => continue,
        };
        let refused = pieces.any(|piece| piece.strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0)));
        if best.is_none_or(|(known, _)| known <= specific) {
            best = Some((specific, !refused));
        }
    }
    if best.is_some_and(|(_, welcome)| welcome) {
        return Ok(());
    }
    let why = format!("the answer is {offered}, which the field Accept does not allow");
    let (kind, title) = ("not-acceptable", "We have no answer of the kind asked for");
    Err(Refusal::plain(StatusCode::NOT_ACCEPTABLE, kind, title, why))
}

/// An operation without parameters.
pub(super) fn no_query(uri: &Uri) -> Result<(), Rejection> {
    match uri.query() {
        None | Some("") => Ok(()),
        Some(_) => Err(Rejection::invalid("query", "takes no parameters")),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn the_most_specific_range_decides() {
        let accepts = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            values.iter().for_each(|value| _ = headers.append(ACCEPT, HeaderValue::from_static(value)));
            acceptable(&headers, JSON).is_ok()
        };
        for good in [
            &[][..],
            &["*/*"],
            &["application/json"],
            &["text/html, application/*;q=0.1"],
            &["text/html", "Application/JSON; charset=utf-8"],
            &["*/*;q=0, application/json"],
            &["application/json;q=0.5, */*;q=0"],
        ] {
            assert!(accepts(good), "{good:?}");
        }
        for bad in [&["text/html"][..], &["application/json;q=0"], &["*/*, application/json;q=0.000"], &[""]] {
            assert!(!accepts(bad), "{bad:?}");
        }
    }
}
