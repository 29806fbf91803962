//! The gRPC door: `posthaste.v1.Submission`, `posthaste.v1.Events` and `posthaste.v1.Suppressions`, with the standard health and reflection services.
//!
//! The promise: a receipt leaves only after its message is on disk; a stream's results come in the order of its requests,
//! one for each, until the client or the daemon ends it.
//!
//! 1. `front.rs` learns who asks ([`principal`](super::web::principal)) before it reads anything, gives the request's body
//!    its part of the memory (`reading.rs`, with `scan.rs` against what would grow there), and hands it to the services.
//! 2. `service.rs` answers the calls of the Submission service;
//!    `translate.rs` reads a message of ours into a [`Request`](super::request::Request).
//! 3. `stream.rs` is the pipeline of `SubmitStream`: it reads as long as memory and count allow, and answers as commits
//!    come. It runs in the task that writes the response: no task and no channel per message.
//! 4. `events.rs` follows the event log (`line.rs` reads its lines); `health.rs` says whether mail is taken now.
//! 5. `suppressions.rs` is the list of who is not mailed any more.
//! 6. `status.rs` says no in gRPC's words.
//!
//! The `.proto` files in `proto/` are the public surface; [`v1`] is what `build.rs` makes of them.

mod events;
mod front;
mod health;
mod line;
#[doc(hidden)]
pub mod probe;
mod reading;
mod scan;
mod service;
mod status;
mod stream;
mod suppressions;
#[cfg(test)]
mod tests;
mod translate;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::front::Front;
use super::SubmissionError;
use super::door::Door;
use super::gate::Gate;
use super::rejection::Rejection;
use super::steer::{Cancel, CancelReceipt};
use super::web::{Api, Budget, Counts};
use crate::access::{Access, Principal};
use crate::clock::Clock;
use crate::config::GrpcConfig;
use crate::events::EventLog;
use crate::mail::{Domain, MessageId};
use crate::queue::MessageStatus;
use crate::suppression::Suppressions;
use crate::telemetry::Metrics;

/// What `build.rs` made of `proto/`: messages, servers and clients. Its docs are those of the `.proto` files.
#[allow(missing_docs, missing_debug_implementations, clippy::all, clippy::unwrap_used, rustdoc::all)]
pub mod proto {
    tonic::include_proto!("proto");

    /// All of `proto/`, as reflection serves it.
    pub const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("descriptors");
}

pub use proto::posthaste::v1;

/// The `listener` label of metrics.
const LISTENER: &str = "grpc";

/// The running gRPC door. Dropped without [`Grpc::close`], it stops at once.
#[derive(Debug)]
pub struct Grpc {
    api: Api,
    front: Arc<Front>,
    policy: Arc<ArcSwap<GrpcConfig>>,
    closing: CancellationToken,
    _abort: DropGuard,
}

/// What the service needs of those behind it: a door, and answers. The daemon's is the [`Gate`]; tests make their own.
trait Desk: Door {
    fn access(&self) -> &Access;
    fn suppressions(&self) -> &Arc<Suppressions>;
    /// Why no mail is taken, if it is not.
    fn readiness(&self) -> Result<(), String>;
    fn status(&self, who: &Principal, id: MessageId) -> impl Future<Output = Result<MessageStatus, Rejection>> + Send;
    fn cancel(&self, who: &Principal, what: Cancel) -> impl Future<Output = Result<CancelReceipt, Rejection>> + Send;
}

impl Desk for Gate {
    fn access(&self) -> &Access {
        Gate::access(self)
    }

    fn suppressions(&self) -> &Arc<Suppressions> {
        Gate::suppressions(self)
    }

    fn readiness(&self) -> Result<(), String> {
        self.queue().readiness()
    }

    async fn status(&self, who: &Principal, id: MessageId) -> Result<MessageStatus, Rejection> {
        Gate::status(self, who, id).await
    }

    async fn cancel(&self, who: &Principal, what: Cancel) -> Result<CancelReceipt, Rejection> {
        Gate::cancel(self, who, what).await
    }
}

/// What all calls share.
#[derive(Debug)]
struct Shared<D> {
    desk: Arc<D>,
    hostname: Domain,
    policy: Arc<ArcSwap<GrpcConfig>>,
    events: Arc<EventLog>,
    /// Seats of those who watch events.
    watchers: Arc<Semaphore>,
    /// No new work: streams end when what they have read is answered.
    closing: CancellationToken,
    clock: Clock,
    counts: Counts,
}

impl<D> Shared<D> {
    /// Counts a refusal.
    fn refused(&self, rejection: &Rejection) {
        self.counts.refused(rejection);
    }
}

impl Grpc {
    /// Opens all listeners of `config` and begins to serve. Must be called in a tokio runtime; reads certificates from
    /// disk.
    ///
    /// # Errors
    /// A certificate cannot be used, or an address or Unix socket cannot be listened on; nothing is left open then.
    pub fn start(
        config: &GrpcConfig,
        hostname: Domain,
        gate: Arc<Gate>,
        events: Arc<EventLog>,
        metrics: Arc<Metrics>,
        clock: Clock,
    ) -> Result<Grpc, SubmissionError> {
        Grpc::start_at(config, hostname, gate, events, metrics, clock)
    }

    fn start_at<D: Desk>(
        config: &GrpcConfig,
        hostname: Domain,
        desk: Arc<D>,
        events: Arc<EventLog>,
        metrics: Arc<Metrics>,
        clock: Clock,
    ) -> Result<Grpc, SubmissionError> {
        let policy = Arc::new(ArcSwap::from_pointee(config.clone()));
        let closing = CancellationToken::new();
        let shared = Arc::new(Shared {
            desk,
            hostname,
            policy: Arc::clone(&policy),
            events,
            watchers: Arc::new(Semaphore::new(events::WATCHERS_MAX)),
            closing: closing.clone(),
            clock,
            counts: Counts::new(LISTENER, &metrics),
        });
        let front = Arc::new(Front::new(&shared, Budget::new(config.memory_max.bytes())));
        let api = Api::start(LISTENER, config, Front::router(&front), metrics)?;
        let abort = closing.clone().drop_guard();
        Ok(Grpc { api, front, policy, closing, _abort: abort })
    }

    /// Where it listens, in the order of `config.listen`; ports given as 0 are the real ones.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        self.api.local_addrs()
    }

    /// Puts another configuration in force: limits and who is trusted at once, certificates for new connections. `tls` is
    /// what [`web::tls`](super::web::tls) made of `config`.
    pub fn reload(&self, config: &GrpcConfig, tls: Option<Arc<ServerConfig>>) {
        self.policy.store(Arc::new(config.clone()));
        self.front.reload(config);
        self.api.reload(config, tls);
    }

    /// Stops: listeners close, streams read no more, answer what they have read, and end. What is still open after
    /// `grace` is cut off. Returns when all is over.
    ///
    /// # Cancel safety
    /// Can be dropped and called again; the stop goes on.
    pub async fn close(&self, grace: Duration) {
        self.closing.cancel();
        self.api.close(grace).await;
    }
}
