//! Unsubscribing over the web (RFC 8058).
//!
//! | request | who sends it | does |
//! |---|---|---|
//! | `POST /TOKEN` with `List-Unsubscribe=One-Click` | a mailbox provider, when its user says so | unsubscribes |
//! | `GET /TOKEN` | a person who follows the link, or a scanner that looks at all links | shows a page with a button, changes nothing |
//! | `POST /TOKEN` with `confirm=yes` | that button | unsubscribes |
//!
//! The path in front of the token is the proxy's affair: only the last part counts. The token says who leaves what; without one of
//! ours nothing happens. The answer leaves once the entry is on disk; doing it twice is as good as once.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::Parts;
use super::desk::{Arrived, Desk};
use crate::events::{Feedback, FeedbackKind};
use crate::feedback::suppressed_line;
use crate::feedback::token::Subscription;
use crate::mail::header::{fields, section_len};
use crate::mail::{EnhancedCode, Reply};
use crate::submission::{Rejection, RejectionKind};
use crate::suppression::{Evidence, Reason};

/// Octets of a request's body that are looked at; honest ones have a few dozen.
const BODY_MAX: usize = 4 << 10;

/// Words of a subject that are looked at.
const WORDS_MAX: usize = 20;

impl Parts {
    /// Ends a subscription, by `way`: `one-click`, `page` or `mailto`. Durable when this resolves.
    ///
    /// # Errors
    /// It could not be written; nothing has changed.
    pub(super) async fn leave(&self, subscription: &Subscription, way: &'static str) -> anyhow::Result<()> {
        let Subscription { address, stream, list, message } = subscription;
        let (at, id) = (self.clock.timestamp(), self.queue.next_ids(1));
        let list = list.as_deref();
        let cause = Reason::Unsubscribe;
        let evidence = Evidence { cause, address, stream, list, evidence: id.to_string(), source: way, at };
        let told = Feedback {
            id: Some(id),
            message_id: Some(*message),
            recipient: &address.to_string(),
            tenant: &stream.tenant,
            class: stream.class.as_str(),
            campaign: &stream.campaign,
            list: list.unwrap_or_default(),
            ..Feedback::new(at, FeedbackKind::Unsubscribed, way)
        };
        let lines = |entry: &_| {
            let mut lines = Vec::new();
            told.write_line(&mut lines);
            lines.extend(suppressed_line(entry, *message, &stream.tenant));
            lines
        };
        // Who has left before and asks again has left.
        if self.suppressions.learn(evidence, lines).await?.is_some() {
            self.metrics.unsubscribes.with_label_values(&[way]).inc();
        }
        Ok(())
    }
}

impl Desk {
    /// A message to `unsubscribe@`: the word of its subject that is a token of ours says who leaves what.
    pub(super) async fn leave(&self, arrived: &Arrived) -> Result<(), Rejection> {
        let section = &arrived.content[..section_len(&arrived.content)];
        let subject = fields(section).find(|field| field.is("Subject")).map(|field| field.text());
        let words = subject.iter().flat_map(|subject| subject.split_whitespace()).take(WORDS_MAX);
        let Some(subscription) = words.filter_map(|word| self.parts.tokens.read_subscription(word).ok()).next() else {
            let why = "the subject must be the one that the message to unsubscribe from gives";
            let reply = Reply::ours(550, EnhancedCode(5, 7, 1), why);
            return Err(Rejection { kind: RejectionKind::Invalid, reply, violations: Vec::new(), retry_after: None });
        };
        let left = self.parts.leave(&subscription, "mailto").await;
        left.map_err(|error| {
            tracing::error!(%error, "an unsubscribe could not be written; its sender is told to try again");
            Rejection::trouble("it could not be stored, try again later")
        })
    }
}

/// The pages.
pub(super) fn router(leaving: Arc<Parts>) -> Router {
    Router::new().fallback(answer).with_state(leaving)
}

async fn answer(State(leaving): State<Arc<Parts>>, request: Request) -> Response {
    let token = request.uri().path().rsplit('/').next().unwrap_or_default();
    let Ok(subscription) = leaving.tokens.read_subscription(token) else {
        return page(
            StatusCode::NOT_FOUND,
            "Not found",
            "This link is not valid. Please use the whole link from the message.",
            "",
        );
    };
    match *request.method() {
        Method::GET | Method::HEAD => {
            let form = "<form method=\"post\"><button name=\"confirm\" value=\"yes\">Unsubscribe</button></form>";
            page(
                StatusCode::OK,
                "Unsubscribe",
                &format!("Do you want to unsubscribe {}?", subject(&subscription)),
                form,
            )
        }
        Method::POST => post(&leaving, &subscription, request.into_body()).await,
        _ => {
            let allow = [(header::ALLOW, HeaderValue::from_static("GET, HEAD, POST"))];
            (StatusCode::METHOD_NOT_ALLOWED, allow).into_response()
        }
    }
}

async fn post(leaving: &Parts, subscription: &Subscription, body: Body) -> Response {
    let Ok(body) = axum::body::to_bytes(body, BODY_MAX).await else {
        return page(StatusCode::PAYLOAD_TOO_LARGE, "Too large", "The request is too large.", "");
    };
    let Some(way) = way(&body) else {
        let why = "The request says neither List-Unsubscribe=One-Click (RFC 8058) nor confirm=yes.";
        return page(StatusCode::BAD_REQUEST, "Not understood", why, "");
    };
    match leaving.leave(subscription, way).await {
        Ok(()) => {
            let done = format!("{} will get no more of this mail.", subject(subscription));
            page(StatusCode::OK, "Unsubscribed", &done, "")
        }
        Err(error) => {
            tracing::error!(%error, "an unsubscribe could not be written; whoever asked is told to try again");
            let later = [(header::RETRY_AFTER, HeaderValue::from_static("60"))];
            let page = page(StatusCode::SERVICE_UNAVAILABLE, "Later", "Please try again in a minute.", "");
            (later, page).into_response()
        }
    }
}

/// What a body asks for: one pair of a form, URL-encoded or multipart (RFC 8058 §3.1 allows both).
fn way(body: &[u8]) -> Option<&'static str> {
    let body = String::from_utf8_lossy(body);
    let squeezed: String = body.chars().filter(|c| !c.is_whitespace()).collect();
    let multipart = |name: &str, value: &str| squeezed.contains(&format!("name=\"{name}\"{value}--"));
    let encoded = |pair: &str| body.trim().split('&').any(|other| other.trim().eq_ignore_ascii_case(pair));
    if encoded("List-Unsubscribe=One-Click") || multipart("List-Unsubscribe", "One-Click") {
        return Some("one-click");
    }
    (encoded("confirm=yes") || multipart("confirm", "yes")).then_some("page")
}

/// Who leaves what, for people.
fn subject(subscription: &Subscription) -> String {
    let address = escape(&subscription.address.to_string());
    match &subscription.list {
        Some(list) => format!("<b>{address}</b> from <b>{}</b>", escape(list)),
        None => format!("<b>{address}</b>"),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

/// A page that loads nothing and tells no search engine and no other site where it was.
fn page(status: StatusCode, title: &str, text: &str, more: &str) -> Response {
    let html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title}</title><style>body{{font:1.1em sans-serif;max-width:30em;margin:15vh auto;padding:0 1em}}\
         button{{font:inherit;padding:.5em 1em}}</style><h1>{title}</h1><p>{text}</p>{more}</html>\n"
    );
    let fields = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'"),
        (header::HeaderName::from_static("x-robots-tag"), "noindex"),
    ];
    (status, fields, html).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_body_asks_for() {
        let multipart =
            "--b\r\nContent-Disposition: form-data; name=\"List-Unsubscribe\"\r\n\r\nOne-Click\r\n--b--\r\n";
        for (body, way_of_it) in [
            ("List-Unsubscribe=One-Click", Some("one-click")),
            ("list-unsubscribe=one-click\r\n", Some("one-click")),
            ("a=b&List-Unsubscribe=One-Click", Some("one-click")),
            (multipart, Some("one-click")),
            ("confirm=yes", Some("page")),
            ("", None),
            ("List-Unsubscribe=No", None),
            ("xList-Unsubscribe=One-Click", None),
            ("confirm=no", None),
        ] {
            assert_eq!(way(body.as_bytes()), way_of_it, "{body:?}");
        }
        assert_eq!(way(b"\xff\xfe"), None);
    }

    #[test]
    fn names_cannot_write_into_the_page() {
        assert_eq!(escape("<b>\"&'"), "&lt;b&gt;&quot;&amp;&#39;");
    }
}
