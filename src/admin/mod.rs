//! Steer: the HTTP surface for monitoring and operators. Listens on loopback unless told otherwise; whoever reaches it may
//! steer the queue and make credentials for any tenant.
//!
//! | path | answers |
//! |---|---|
//! | `GET /metrics` | Prometheus text |
//! | `GET /healthz` | 200 while the process can answer |
//! | `GET /readyz` | 200 while new mail is taken, with what is wrong all the same, else 503 and why |
//! | `GET /v1/queue?limit=&domain=` | waiting messages, oldest first |
//! | `GET /v1/queue/{id}` | one of them, with every recipient |
//! | `POST /v1/queue/retry` | makes recipients due now: `{"message_id": …}`, `{"domain": …}` or `{}` for all |
//! | `POST /v1/queue/cancel` | takes back what is not being sent: `{"message_id": …}` or `{"campaign": …, "tenant": …}` or `{"scope": …}` |
//! | `GET`, `POST /v1/orders` | orders in force; gives one: `{"deed": "pause", "scope": {"tenant": …}, "for": "2h", "reason": …}` |
//! | `POST /v1/orders/resume` | lifts those named: `{"id": …}`, `{"scope": …}` or `{"all": true}` |
//! | `DELETE /v1/orders/{id}` | lifts one |
//! | `GET /v1/warmup` | how far sources are warmed up |
//! | `GET /v1/explain?address=&tenant=&class=&campaign=` | where mail to an address would go now, at what pace, and why |
//! | `GET /v1/sites` | sites with mail, sessions or trouble |
//! | `GET /v1/suppressions?subject=&scope=&tenant=&reason=&limit=&cursor=` | entries of the suppression list, in no order |
//! | `POST /v1/suppressions` | adds some: `{"entries": [{"address": …, "scope": "tenant:shop"}]}` |
//! | `POST /v1/suppressions/remove` | takes out: `{"subject": …}`, of one scope with `"scope"` |
//! | `POST /v1/suppressions/import?format=&scope=&reason=&source=&dry_run=` | adds all of a file, CSV or NDJSON, of any length |
//! | `GET /v1/suppressions/export?format=&scope=&tenant=&reason=` | all of them as such a file |
//! | `GET`, `POST /v1/tenants` | all tenants; registers one |
//! | `GET`, `PATCH`, `DELETE /v1/tenants/{name}` | one of them, changes what it may, removes it |
//! | `POST /v1/tenants/{name}/credentials` | a new credential, with its token: shown now and never again |
//! | `DELETE /v1/tenants/{name}/credentials/{id}` | removes one |
//!
//! Errors are `application/problem+json` and name the fields to blame. No endpoint but the one that makes a token tells a
//! secret.

mod orders;
#[doc(hidden)]
pub mod probe;
mod problem;
mod queue;
mod suppressions;
mod tenants;

pub use orders::{OrderRequest, OrderView, ResumeRequest};
pub use queue::{CancelRequest, RetryAnswer, RetryRequest};
pub use suppressions::{AddAnswer, AddRequest, RemoveRequest, SuppressionList, SuppressionQuery};
pub use tenants::{CredentialRequest, QuotaRequest, TenantRequest};

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use self::problem::Problem;
use crate::access::Access;
use crate::queue::Queue;
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
    access: Arc<Access>,
    metrics: Arc<Metrics>,
}

impl Admin {
    /// Listens and serves.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start(
        address: SocketAddr,
        queue: Arc<Queue>,
        access: Arc<Access>,
        metrics: Arc<Metrics>,
    ) -> Result<Admin, AdminError> {
        let failed = |source| AdminError { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (stop, stopped) = oneshot::channel();
        let served = axum::serve(listener, routes(Parts { queue, access, metrics }));
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
        .fallback(|| async { Problem::missing("no such path; /metrics, /healthz and /readyz are for monitoring") })
        .route("/readyz", get(ready))
        .route("/v1/queue", get(queue::list))
        .route("/v1/queue/retry", post(queue::retry))
        .route("/v1/queue/cancel", post(queue::cancel))
        .route("/v1/queue/{id}", get(queue::show))
        .route("/v1/sites", get(queue::sites))
        .route("/v1/orders", get(orders::list).post(orders::give))
        .route("/v1/orders/resume", post(orders::resume))
        .route("/v1/orders/{id}", delete(orders::take_back))
        .route("/v1/warmup", get(orders::warmup))
        .route("/v1/explain", get(orders::explain))
        .route("/v1/suppressions", get(suppressions::list).post(suppressions::add))
        .route("/v1/suppressions/remove", post(suppressions::remove))
        // A file may have any length: it is never in memory as a whole.
        .route("/v1/suppressions/import", post(suppressions::import).layer(DefaultBodyLimit::disable()))
        .route("/v1/suppressions/export", get(suppressions::export_all))
        .route("/v1/tenants", get(tenants::list).post(tenants::create))
        .route("/v1/tenants/{name}", get(tenants::show).patch(tenants::change).delete(tenants::remove))
        .route("/v1/tenants/{name}/credentials", post(tenants::issue))
        .route("/v1/tenants/{name}/credentials/{id}", delete(tenants::revoke))
        .with_state(parts)
}

async fn metrics(State(parts): State<Parts>) -> Response {
    parts.queue.observe();
    ([("content-type", "text/plain; version=0.0.4")], parts.metrics.render()).into_response()
}

/// What is wrong though mail is taken, a line each.
fn doubts(metrics: &Metrics) -> String {
    let mut doubts = String::new();
    for log in ["receipts", "facts"] {
        if metrics.ledger_readonly.with_label_values(&[log]).get() > 0 {
            doubts += &format!("but the ledger's log of {log} takes nothing: look at its disk\n");
        }
        if metrics.ledger_damaged.with_label_values(&[log]).get() > 0 {
            doubts += &format!("but the ledger's log of {log} is damaged: run `posthaste spool verify`\n");
        }
    }
    doubts
}

async fn ready(State(parts): State<Parts>) -> Response {
    match parts.queue.readiness() {
        // What keeps some mail from going out is no reason to take none.
        Ok(()) => {
            let sources = parts.queue.sources_trouble().unwrap_or_default();
            format!("ready\n{}{sources}", doubts(&parts.metrics)).into_response()
        }
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")).into_response(),
    }
}
