//! The queue: what waits, make it go now, take it back.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::Parts;
use super::problem::{Asked, Problem};
use crate::config::Scope;
use crate::mail::{AddressHost, MessageId};
use crate::spool::SpoolError;

/// What `GET /v1/queue` may be asked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    #[serde(default = "page")]
    limit: usize,
    domain: Option<String>,
}

fn page() -> usize {
    100
}

/// What `POST /v1/queue/retry` takes.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetryRequest {
    /// Only this message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<MessageId>,
    /// Only recipients at this domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
pub struct RetryAnswer {
    /// Recipients made due.
    pub recipients: usize,
}

/// What `POST /v1/queue/cancel` takes: a message, or a campaign with its tenant.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CancelRequest {
    /// This message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<MessageId>,
    /// All waiting messages of this campaign.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub campaign: Option<String>,
    /// The campaign's tenant, if it has one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tenant: String,
    /// All waiting mail that is about this; not the source: what waits has none yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
}

pub(super) async fn list(State(parts): State<Parts>, Query(query): Query<ListQuery>) -> Result<Response, Problem> {
    let host = query.domain.as_deref().map(host).transpose()?;
    Ok(Json(parts.queue.list(query.limit.min(10_000), host.as_ref()).await?).into_response())
}

pub(super) async fn show(State(parts): State<Parts>, Path(id): Path<String>) -> Result<Response, Problem> {
    let id: MessageId = id.parse().map_err(Problem::bad)?;
    Ok(Json(parts.queue.view(id).await?).into_response())
}

pub(super) async fn retry(
    State(parts): State<Parts>,
    Asked(request): Asked<RetryRequest>,
) -> Result<Response, Problem> {
    let host = request.domain.as_deref().map(host).transpose()?;
    let recipients = parts.queue.retry(request.message_id, host.as_ref());
    Ok(Json(RetryAnswer { recipients }).into_response())
}

pub(super) async fn cancel(
    State(parts): State<Parts>,
    Asked(request): Asked<CancelRequest>,
) -> Result<Response, Problem> {
    if let Some(scope) = &request.scope {
        if request.message_id.is_some() || request.campaign.is_some() || !request.tenant.is_empty() {
            return Err(Problem::bad("say what is meant in scope, and nothing beside it"));
        }
        if scope.source.is_some() {
            return Err(Problem::field("scope.source", "mail that waits has no source yet; name its pool"));
        }
        if *scope == Scope::default() {
            return Err(Problem::field("scope", "name something: this would take everything back"));
        }
        let cancelled = parts.queue.cancel_scope(scope).await;
        return Ok(Json(cancelled.map_err(Problem::trouble)?).into_response());
    }
    let ids = match (request.message_id, request.campaign) {
        (Some(id), None) if parts.queue.tenant_of(id).is_none() => return Err(SpoolError::Unknown(id).into()),
        (Some(id), None) => vec![id],
        (None, Some(campaign)) if !campaign.is_empty() => parts.queue.messages_of(&request.tenant, &campaign),
        (Some(_), Some(_)) => return Err(Problem::bad("message_id and campaign: say one of them")),
        (None, _) => return Err(Problem::bad("say message_id, campaign or scope")),
    };
    let cancelled = parts.queue.cancel(ids).await;
    Ok(Json(cancelled.map_err(Problem::trouble)?).into_response())
}

pub(super) async fn sites(State(parts): State<Parts>) -> Response {
    Json(parts.queue.sites()).into_response()
}

fn host(domain: &str) -> Result<AddressHost, Problem> {
    domain.parse().map(AddressHost::Domain).map_err(Problem::bad)
}
