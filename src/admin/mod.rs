//! Steer: the HTTP surface for monitoring and operators. Listens on loopback unless told otherwise; whoever reaches it may
//! steer the queue.
//!
//! | path | answers |
//! |---|---|
//! | `GET /metrics` | Prometheus text |
//! | `GET /healthz` | 200 while the process can answer |
//! | `GET /readyz` | 200 while new mail is taken, else 503 and why |
//! | `GET /v1/queue?limit=&domain=` | waiting messages, oldest first |
//! | `GET /v1/queue/{id}` | one of them, with every recipient |
//! | `POST /v1/queue/retry` | makes recipients due now: `{"message_id": …}`, `{"domain": …}` or `{}` for all |
//! | `POST /v1/queue/cancel` | takes back what is not being sent: `{"message_id": …}` or `{"campaign": …, "tenant": …}` |
//! | `GET /v1/sites` | sites with mail, sessions or trouble |

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::mail::{AddressHost, MessageId};
use crate::queue::Queue;
use crate::spool::SpoolError;
use crate::telemetry::Metrics;

/// The address could not be listened on.
#[derive(Debug, thiserror::Error)]
#[error("admin.listen: {address}")]
pub struct AdminError {
    address: SocketAddr,
    source: std::io::Error,
}

/// The running surface.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

#[derive(Clone)]
struct Parts {
    queue: Arc<Queue>,
    metrics: Arc<Metrics>,
}

impl Admin {
    /// Listens and serves.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start(address: SocketAddr, queue: Arc<Queue>, metrics: Arc<Metrics>) -> Result<Admin, AdminError> {
        let failed = |source| AdminError { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (stop, stopped) = oneshot::channel();
        let served = axum::serve(listener, routes(Parts { queue, metrics }));
        let task = tokio::spawn(async move {
            let ended = served.with_graceful_shutdown(async {
                let _ = stopped.await;
            });
            if let Err(error) = ended.await {
                tracing::error!(error = %error, "admin surface stopped");
            }
        });
        Ok(Admin { address, stop, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops listening; requests under way have a second to end.
    pub async fn close(self) {
        let _ = self.stop.send(());
        let abort = self.task.abort_handle();
        if tokio::time::timeout(std::time::Duration::from_secs(1), self.task).await.is_err() {
            abort.abort();
        }
    }
}

fn routes(parts: Parts) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/v1/queue", get(list))
        .route("/v1/queue/retry", post(retry))
        .route("/v1/queue/cancel", post(cancel))
        .route("/v1/queue/{id}", get(show))
        .route("/v1/sites", get(sites))
        .with_state(parts)
}

async fn metrics(State(parts): State<Parts>) -> Response {
    parts.queue.observe();
    ([("content-type", "text/plain; version=0.0.4")], parts.metrics.render()).into_response()
}

async fn ready(State(parts): State<Parts>) -> Response {
    match parts.queue.readiness() {
        Ok(()) => "ready\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")).into_response(),
    }
}

/// What `GET /v1/queue` may be asked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
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
}

async fn list(State(parts): State<Parts>, Query(query): Query<ListQuery>) -> Result<Response, Problem> {
    let host = query.domain.as_deref().map(host).transpose()?;
    Ok(Json(parts.queue.list(query.limit.min(10_000), host.as_ref()).await?).into_response())
}

async fn show(State(parts): State<Parts>, Path(id): Path<String>) -> Result<Response, Problem> {
    let id: MessageId = id.parse().map_err(|error| Problem::bad(&error))?;
    Ok(Json(parts.queue.view(id).await?).into_response())
}

async fn retry(State(parts): State<Parts>, Json(request): Json<RetryRequest>) -> Result<Response, Problem> {
    let host = request.domain.as_deref().map(host).transpose()?;
    let recipients = parts.queue.retry(request.message_id, host.as_ref());
    Ok(Json(RetryAnswer { recipients }).into_response())
}

async fn cancel(State(parts): State<Parts>, Json(request): Json<CancelRequest>) -> Result<Response, Problem> {
    let bad = |detail: &str| Problem { status: StatusCode::BAD_REQUEST, detail: detail.into() };
    let ids = match (request.message_id, request.campaign) {
        (Some(id), None) if parts.queue.tenant_of(id).is_none() => return Err(SpoolError::Unknown(id).into()),
        (Some(id), None) => vec![id],
        (None, Some(campaign)) if !campaign.is_empty() => parts.queue.messages_of(&request.tenant, &campaign),
        (Some(_), Some(_)) => return Err(bad("message_id and campaign: say one of them")),
        (None, _) => return Err(bad("say message_id or campaign")),
    };
    let cancelled = parts.queue.cancel(ids).await;
    Ok(Json(cancelled.map_err(|error| Problem::trouble(&error))?).into_response())
}

async fn sites(State(parts): State<Parts>) -> Response {
    Json(parts.queue.sites()).into_response()
}

fn host(domain: &str) -> Result<AddressHost, Problem> {
    domain.parse().map(AddressHost::Domain).map_err(|error| Problem::bad(&error))
}

/// An error as `application/problem+json` (RFC 9457).
#[derive(Debug)]
struct Problem {
    status: StatusCode,
    detail: String,
}

impl Problem {
    fn bad(error: &dyn std::error::Error) -> Problem {
        Problem { status: StatusCode::BAD_REQUEST, detail: error.to_string() }
    }

    fn trouble(error: &dyn std::error::Error) -> Problem {
        Problem { status: StatusCode::INTERNAL_SERVER_ERROR, detail: error.to_string() }
    }
}

impl From<SpoolError> for Problem {
    fn from(error: SpoolError) -> Problem {
        let status = match error {
            SpoolError::Unknown(_) => StatusCode::NOT_FOUND,
            SpoolError::Log(_) | SpoolError::Damaged { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Problem { status, detail: error.to_string() }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::json!({ "status": self.status.as_u16(), "detail": self.detail });
        (self.status, [("content-type", "application/problem+json")], body.to_string()).into_response()
    }
}
