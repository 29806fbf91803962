//! The routes, one function for each operation.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Extension, Path, Query, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, EXPECT, LOCATION};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;

use super::Shared;
use super::answer::{BatchLine, Cancellation, MessageReport, SubmissionReceipt};
use super::batch::Batch;
use super::body::Submission;
use super::negotiate::{JSON, NDJSON, Refusal, acceptable, kind, no_query};
use super::openapi::{self, Problems};
use super::problem::Problem;
use super::query::{self, Orders};
use super::suppressions;
use super::take_back::what_to_cancel;
use crate::access::Principal;
use crate::mail::MessageId;
use crate::submission::door::Door;
use crate::submission::rejection::Rejection;
use crate::submission::request::{Request, RequestContent};
use crate::submission::steer::Cancel;
use crate::submission::web::{self, Peer};

/// A submission takes about so many times its body in memory: decoded, built, and completed.
const COPIES: usize = 2;

/// All routes.
pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/messages", post(submit).delete(cancel_many))
        .route("/v1/messages:batch", post(batch))
        .route("/v1/messages/{id}", get(message).delete(cancel))
        .route("/v1/suppressions", get(suppressions::list).post(suppressions::add).delete(suppressions::remove))
        .route("/v1/openapi.json", get(document))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(shared)
}

impl Shared {
    /// Counts a refusal and makes it an answer.
    fn refuse(&self, refusal: Refusal) -> Response {
        match refusal {
            Refusal::Rejected(rejection) => {
                self.counts.refused(&rejection);
                Problem::from(&rejection).into_response()
            }
            Refusal::Plain(problem) => {
                self.counts.refused_as("http");
                problem.into_response()
            }
        }
    }

    /// The same where a body may be left unread: a small one is read first.
    pub(super) async fn answer_over(
        &self,
        unread: Option<Body>,
        headers: &HeaderMap,
        result: Result<Response, Refusal>,
    ) -> Response {
        // Who waits for our word before it sends the body need not send it.
        if let Some(unread) = unread.filter(|_| !headers.contains_key(EXPECT)) {
            web::pass_over(unread).await;
        }
        self.answer(result)
    }

    pub(super) fn answer(&self, result: Result<Response, Refusal>) -> Response {
        result.unwrap_or_else(|refusal| self.refuse(refusal))
    }

    /// Who asks, once it is known that we have an answer it takes.
    pub(super) async fn admit(
        &self,
        peer: &Peer,
        headers: &HeaderMap,
        offered: &str,
    ) -> Result<Arc<Principal>, Refusal> {
        let principal = self.principal(peer, headers).await?;
        acceptable(headers, offered)?;
        Ok(principal)
    }

    /// The answer in JSON to whom we know, made by `deed`.
    pub(super) async fn tell<T: Serialize>(
        &self,
        peer: &Peer,
        headers: &HeaderMap,
        deed: impl AsyncFnOnce(&Principal) -> Result<T, Rejection>,
    ) -> Response {
        let told = async {
            let principal = self.admit(peer, headers, JSON).await?;
            Ok(Json(deed(&principal).await?).into_response())
        };
        let told = told.await;
        self.answer(told)
    }

    /// Who asks.
    async fn principal(&self, peer: &Peer, headers: &HeaderMap) -> Result<Arc<Principal>, Rejection> {
        let authorization = headers.get(AUTHORIZATION).map(HeaderValue::to_str).transpose();
        let authorization =
            authorization.map_err(|_| Rejection::unauthenticated("the Authorization field is not readable"))?;
        let policy = self.policy.load_full();
        web::principal(self.gate.access(), &policy, peer, authorization).await
    }
}

/// Submit a message.
///
/// As JSON, or as a whole message (`message/rfc822`) with its orders as query parameters. The answer comes when the
/// message is on disk; a submission repeated with its idempotency key gets the receipt of the first.
#[utoipa::path(
    post,
    path = "/v1/messages",
    operation_id = "submitMessage",
    tag = "messages",
    params(
        Orders,
        ("Idempotency-Key" = Option<String>, Header, description = "Your name for this submission, with or without quotes.",
            max_length = 300, example = "order-4711"),
    ),
    request_body(content((Submission = "application/json"), (String = "message/rfc822"))),
    responses(
        (status = 201, description = "On disk.", body = SubmissionReceipt, content_type = "application/json",
            headers(("Location" = String, description = "Where to ask what becomes of it."))),
        (status = 200, description = "It had been accepted before; nothing was done now.", body = SubmissionReceipt,
            content_type = "application/json"),
        Problems,
    ),
)]
async fn submit(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Arc<Peer>>,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let mut body = Some(body);
    let result = submit_one(&shared, &peer, query.map(|query| query.0).ok(), &headers, &mut body).await;
    shared.answer_over(body, &headers, result).await
}

async fn submit_one(
    shared: &Arc<Shared>,
    peer: &Peer,
    query: Option<Vec<(String, String)>>,
    headers: &HeaderMap,
    body: &mut Option<Body>,
) -> Result<Response, Refusal> {
    let principal = shared.admit(peer, headers, JSON).await?;
    let kind = kind(headers, &[JSON, "message/rfc822"])?;
    let query = query.ok_or_else(|| Rejection::invalid("query", "is not well-formed"))?;
    shared.gate.ready()?;
    let max = if kind == JSON { shared.json_max() } else { shared.policy.load().max_message_size.bytes() };
    let body = body.take().unwrap_or_default();
    let (octets, memory) = web::read_body(body, &shared.budget, max).await?;
    memory.take(octets.len() * COPIES).await?;
    let mut request = if kind == JSON {
        if let Some((name, _)) = query.first() {
            return Err(Rejection::invalid(query::clean(name), "no query parameters beside JSON; say it there").into());
        }
        Submission::read(&octets)?
    } else {
        Request { content: RequestContent::Raw(octets), ..query::orders(query)? }
    };
    key_once(&mut request, query::idempotency_key(headers)?)?;
    let handover = shared.prepare(request, &principal, peer, &memory)?;
    let receipt = SubmissionReceipt::from(shared.accept(handover).await?);
    drop(memory);
    let status = if receipt.replayed { StatusCode::OK } else { StatusCode::CREATED };
    let location = format!("/v1/messages/{}", receipt.id);
    Ok((status, [(LOCATION, location)], Json(receipt)).into_response())
}

/// A key may stand in the header or in the body, or the same in both.
fn key_once(request: &mut Request, header: Option<String>) -> Result<(), Rejection> {
    match (&request.idempotency_key, header) {
        (Some(body), Some(header)) if *body != header => {
            Err(Rejection::invalid("idempotency_key", "is not that of the field Idempotency-Key; say it once"))
        }
        (_, None) => Ok(()),
        (_, header) => {
            request.idempotency_key = header;
            Ok(())
        }
    }
}

/// Submit many messages.
///
/// One JSON object a line, as for a single message; each gets its answer as a line, in order, as soon as it is on disk, while
/// further lines may still be on their way. A line that is refused does not keep the others. Read the answers while you
/// send: we stop reading when too many wait for you, and break off when none is taken for two minutes (`unread_timeout`);
/// what was accepted by then stays so.
#[utoipa::path(
    post,
    path = "/v1/messages:batch",
    operation_id = "submitBatch",
    tag = "messages",
    request_body(content((Submission = "application/x-ndjson"))),
    responses(
        (status = 200, description = "An answer for each line that is not empty.", body = BatchLine,
            content_type = "application/x-ndjson"),
        Problems,
    ),
)]
async fn batch(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Arc<Peer>>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let mut body = Some(body);
    let result = async {
        let principal = shared.admit(&peer, &headers, NDJSON).await?;
        kind(&headers, &[NDJSON, "application/ndjson", "application/jsonl"])?;
        no_query(&uri)?;
        if headers.contains_key(query::IDEMPOTENCY_KEY) {
            return Err(Rejection::invalid("Idempotency-Key", "each line has a key of its own").into());
        }
        shared.gate.ready()?;
        let mut answers = Batch::new(&shared, principal, Arc::clone(&peer), body.take().unwrap_or_default());
        if headers.contains_key(EXPECT) {
            answers.begin().await;
        }
        Ok(([(CONTENT_TYPE, NDJSON)], Body::new(answers)).into_response())
    };
    let result = result.await;
    shared.answer_over(body, &headers, result).await
}

/// Ask what became of a message.
///
/// Finished messages are known for as long as the event log keeps them.
#[utoipa::path(
    get,
    path = "/v1/messages/{id}",
    operation_id = "getMessage",
    tag = "messages",
    params(("id" = String, Path, description = "The message.", pattern = "^[0-9A-HJKMNP-TV-Z]{13}$", example = "1D1JZ3G000001")),
    responses(
        (status = 200, description = "What is known of it.", body = MessageReport, content_type = "application/json"),
        Problems,
    ),
)]
async fn message(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Arc<Peer>>,
    id: Result<Path<String>, PathRejection>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let look = async |principal: &Principal| {
        no_query(&uri)?;
        shared.gate.status(principal, message_id(id)?).await.map(MessageReport::from)
    };
    shared.tell(&peer, &headers, look).await
}

/// Take a message back.
///
/// What is not being sent right now never will be.
#[utoipa::path(
    delete,
    path = "/v1/messages/{id}",
    operation_id = "cancelMessage",
    tag = "messages",
    params(("id" = String, Path, description = "The message.", pattern = "^[0-9A-HJKMNP-TV-Z]{13}$", example = "1D1JZ3G000001")),
    responses(
        (status = 200, description = "What was taken back, durably.", body = Cancellation,
            content_type = "application/json"),
        Problems,
    ),
)]
async fn cancel(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Arc<Peer>>,
    id: Result<Path<String>, PathRejection>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let cancel = async |principal: &Principal| {
        no_query(&uri)?;
        shared.gate.cancel(principal, Cancel::Message(message_id(id)?)).await.map(Cancellation::from)
    };
    shared.tell(&peer, &headers, cancel).await
}

/// Take many messages back.
///
/// Those of one submission, by its idempotency key, or all that wait of a campaign.
#[utoipa::path(
    delete,
    path = "/v1/messages",
    operation_id = "cancelMessages",
    tag = "messages",
    params(
        ("campaign" = Option<String>, Query, description = "All waiting messages of this campaign.", min_length = 1,
            max_length = 128),
        ("idempotency_key" = Option<String>, Query, description = "The messages of the submission with this key.",
            min_length = 1, max_length = 255, pattern = "^[!-~]+$"),
        ("tenant" = Option<String>, Query, description = "Whose; for clients that may name any.", min_length = 1,
            max_length = 128),
    ),
    responses(
        (status = 200, description = "What was taken back, durably.", body = Cancellation,
            content_type = "application/json"),
        Problems,
    ),
)]
async fn cancel_many(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Arc<Peer>>,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
    headers: HeaderMap,
) -> Response {
    let cancel = async |principal: &Principal| {
        let query = query.map_err(|_| Rejection::invalid("query", "is not well-formed"))?;
        shared.gate.cancel(principal, what_to_cancel(query.0)?).await.map(Cancellation::from)
    };
    shared.tell(&peer, &headers, cancel).await
}

/// This document.
#[utoipa::path(
    get,
    path = "/v1/openapi.json",
    operation_id = "getDocument",
    tag = "document",
    security(()),
    responses((status = 200, description = "OpenAPI 3.1.", content_type = "application/json")),
)]
async fn document() -> Response {
    ([(CONTENT_TYPE, JSON)], openapi::json()).into_response()
}

async fn not_found(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Body) -> Response {
    let (kind, title) = ("not-found", "There is no such thing");
    let why = "no such path; /v1/openapi.json tells which there are";
    let refusal = Refusal::plain(StatusCode::NOT_FOUND, kind, title, why);
    shared.answer_over(Some(body), &headers, Err(refusal)).await
}

async fn method_not_allowed(
    State(shared): State<Arc<Shared>>,
    method: Method,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let (kind, title) = ("method-not-allowed", "This cannot be done there");
    let why = format!("{method} is not what this path is for; the field Allow tells what is");
    let refusal = Refusal::plain(StatusCode::METHOD_NOT_ALLOWED, kind, title, why);
    shared.answer_over(Some(body), &headers, Err(refusal)).await
}

/// No message has another id, so there is none.
fn message_id(id: Result<Path<String>, PathRejection>) -> Result<MessageId, Rejection> {
    let Path(text) = id.map_err(|_| Rejection::not_found("no message id"))?;
    text.parse().map_err(|error: crate::mail::MessageIdError| Rejection::not_found(query::clean(&error.to_string())))
}
