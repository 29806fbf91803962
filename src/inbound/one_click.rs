//! Unsubscribing over the web (RFC 8058).
//!
//! | request | who sends it | does |
//! |---|---|---|
//! | `POST /TOKEN` with `List-Unsubscribe=One-Click` | a mailbox provider, when its user says so | unsubscribes |
//! | `GET /TOKEN` | a person who follows the link, or a scanner that looks at all links | shows a page (`page/`) with a button, changes nothing |
//! | `POST /TOKEN` with `confirm=yes` | that button | unsubscribes |
//!
//! The path in front of the token is the proxy's affair: only the last part counts. The token says who leaves what; without one of
//! ours nothing happens. The answer leaves once the entry is on disk; doing it twice is as good as once.

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::Parts;
use super::desk::{Arrived, Desk};
use super::page::{Pages, Say, guards};
use crate::config::PageTemplate;
use crate::events::{Feedback, FeedbackKind};
use crate::feedback::suppressed_line;
use crate::feedback::token::Subscription;
use crate::mail::header::{fields, section_len};
use crate::mail::{EnhancedCode, Reply};
use crate::submission::{Rejection, RejectionKind};
use crate::suppression::{Evidence, Reason};

/// Octets of a request's body that are looked at; honest ones have a few dozen.
pub(super) const BODY_MAX: usize = 4 << 10;

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

/// What requests are answered with.
#[derive(Debug)]
pub(super) struct Leaving {
    parts: Parts,
    pages: ArcSwap<Pages>,
}

impl Leaving {
    /// With the operator's page, if there is one.
    pub(super) fn new(parts: Parts, page: Option<PageTemplate>) -> Leaving {
        Leaving { parts, pages: ArcSwap::from_pointee(Pages::new(page)) }
    }

    /// Puts another page in force.
    pub(super) fn reload(&self, page: Option<PageTemplate>) {
        self.pages.store(Arc::new(Pages::new(page)));
    }
}

/// The pages.
pub(super) fn router(leaving: Arc<Leaving>) -> Router {
    Router::new().fallback(answer).with_state(leaving)
}

async fn answer(State(leaving): State<Arc<Leaving>>, request: Request) -> Response {
    let page = |say: Say<'_>| leaving.pages.load().answer(request.headers(), say);
    let token = request.uri().path().rsplit('/').next().unwrap_or_default();
    let Ok(subscription) = leaving.parts.tokens.read_subscription(token) else { return page(Say::Invalid) };
    match *request.method() {
        Method::GET | Method::HEAD => page(Say::Ask(&subscription)),
        Method::POST => {
            let (head, body) = request.into_parts();
            let page = |say: Say<'_>| leaving.pages.load().answer(&head.headers, say);
            post(&leaving.parts, &subscription, body, page).await
        }
        _ => {
            let allow = [(header::ALLOW, HeaderValue::from_static("GET, HEAD, POST"))];
            (StatusCode::METHOD_NOT_ALLOWED, allow).into_response()
        }
    }
}

async fn post(
    leaving: &Parts,
    subscription: &Subscription,
    body: Body,
    page: impl Fn(Say<'_>) -> Response,
) -> Response {
    // No person sees these two: our form does not bring them about.
    let refusal = |status: StatusCode, why: &'static str| (status, guards(), why).into_response();
    let Ok(body) = axum::body::to_bytes(body, BODY_MAX).await else {
        return refusal(StatusCode::PAYLOAD_TOO_LARGE, "the request is too large\n");
    };
    let Some(way) = way(&body) else {
        let why = "the request says neither List-Unsubscribe=One-Click (RFC 8058) nor confirm=yes\n";
        return refusal(StatusCode::BAD_REQUEST, why);
    };
    match leaving.leave(subscription, way).await {
        Ok(()) => page(Say::Left(subscription)),
        Err(error) => {
            tracing::error!(%error, "an unsubscribe could not be written; whoever asked is told to try again");
            ([(header::RETRY_AFTER, HeaderValue::from_static("60"))], page(Say::Later)).into_response()
        }
    }
}

/// What a body asks for: one pair of a form, URL-encoded or multipart (RFC 8058 §3.1 allows both).
pub(super) fn way(body: &[u8]) -> Option<&'static str> {
    let body = String::from_utf8_lossy(body);
    let squeezed: String = body.chars().filter(|c| !c.is_whitespace()).collect();
    let multipart = |name: &str, value: &str| squeezed.contains(&format!("name=\"{name}\"{value}--"));
    let encoded = |pair: &str| body.trim().split('&').any(|other| other.trim().eq_ignore_ascii_case(pair));
    if encoded("List-Unsubscribe=One-Click") || multipart("List-Unsubscribe", "One-Click") {
        return Some("one-click");
    }
    (encoded("confirm=yes") || multipart("confirm", "yes")).then_some("page")
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
}
