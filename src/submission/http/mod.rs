//! The HTTP door: `/v1/messages`, in JSON or as whole messages, one at a time or as a stream of lines.
//!
//! The promise: a 201 means on disk; whatever is wrong with a request is said at once, field by field, as a problem
//! (RFC 9457), and nothing of it is kept.
//!
//! 1. `routes.rs` learns who asks ([`principal`](super::web::principal)) and answers each request (`negotiate.rs`: in a form
//!    that the client takes).
//! 2. `body.rs` is the JSON of a submission (`shapes.rs`: what its values look like), `query.rs` the same orders as query parameters beside a whole message; both
//!    become a `Request`. `place.rs` finds the field that JSON stumbles over.
//! 3. `batch.rs` is the pipeline of `POST /v1/messages:batch`: it reads (`lines.rs`) as long as memory and count allow, and
//!    answers as commits come, in order. It runs in the task that writes the response: no task and no channel per message.
//! 4. `suppressions.rs` is the list of who is not mailed any more, and the files it is filled from.
//! 5. `answer.rs` is what clients get, `problem.rs` how they hear no.
//! 6. `openapi.rs` is the document of all this, made from these types, and a test holds it to what we answer.

mod answer;
mod batch;
mod body;
mod lines;
mod negotiate;
mod openapi;
mod place;
#[doc(hidden)]
pub mod probe;
mod problem;
mod query;
mod routes;
mod shapes;
mod suppressions;
mod take_back;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::SubmissionError;
use super::door::{Door, Handover};
use super::gate::Gate;
use super::rejection::Rejection;
use super::request::{self, ApiCircumstances, ContentNames, Request};
use super::web::{Api, Budget, Committing, Counts, Peer, Share};
use crate::access::Principal;
use crate::clock::Clock;
use crate::config::HttpConfig;
use crate::mail::Domain;
use crate::telemetry::Metrics;

/// The `listener` label of metrics.
const LISTENER: &str = "http";

/// What the fields of content are called here.
const NAMES: ContentNames = ContentNames { raw: "raw", parts: "" };

/// The running HTTP door. Dropped without [`Http::close`], it stops at once.
#[derive(Debug)]
pub struct Http {
    api: Api,
    shared: Arc<Shared>,
    _abort: DropGuard,
}

/// What all requests share.
#[derive(Debug)]
struct Shared {
    gate: Arc<Gate>,
    hostname: Domain,
    policy: ArcSwap<HttpConfig>,
    budget: Arc<Budget>,
    /// No new work: batches end when what they have read is answered.
    closing: CancellationToken,
    clock: Clock,
    counts: Counts,
}

impl Http {
    /// Opens all listeners of `config` and begins to serve. Must be called in a tokio runtime; reads certificates from
    /// disk.
    ///
    /// # Errors
    /// A certificate cannot be used, or an address or Unix socket cannot be listened on; nothing is left open then.
    pub fn start(
        config: &HttpConfig,
        hostname: Domain,
        gate: Arc<Gate>,
        metrics: Arc<Metrics>,
        clock: Clock,
    ) -> Result<Http, SubmissionError> {
        let closing = CancellationToken::new();
        let shared = Arc::new(Shared {
            gate,
            hostname,
            policy: ArcSwap::from_pointee(config.clone()),
            budget: Budget::new(config.memory_max.bytes()),
            closing: closing.clone(),
            clock,
            counts: Counts::new(LISTENER, &metrics),
        });
        let api = Api::start(LISTENER, config, routes::router(Arc::clone(&shared)), metrics)?;
        Ok(Http { api, shared, _abort: closing.drop_guard() })
    }

    /// Where it listens, in the order of `config.listen`; ports given as 0 are the real ones.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        self.api.local_addrs()
    }

    /// Puts another configuration in force: limits and who is trusted at once, certificates for new connections. `tls` is
    /// what [`web::tls`](super::web::tls) made of `config`.
    pub fn reload(&self, config: &HttpConfig, tls: Option<Arc<ServerConfig>>) {
        self.shared.policy.store(Arc::new(config.clone()));
        self.shared.budget.set_max(config.memory_max.bytes());
        self.api.reload(config, tls);
    }

    /// Stops: listeners close, batches read no more, answer what they have read, and end. What is still open after
    /// `grace` is cut off. Returns when all is over.
    ///
    /// # Cancel safety
    /// Can be dropped and called again; the stop goes on.
    pub async fn close(&self, grace: Duration) {
        self.shared.closing.cancel();
        self.api.close(grace).await;
    }
}

impl Shared {
    /// Makes a request into what the gate takes. The memory of personal copies is taken into `share`.
    fn prepare(
        &self,
        request: Request,
        principal: &Arc<Principal>,
        peer: &Peer,
        share: &Share,
    ) -> Result<Handover, Rejection> {
        let policy = self.policy.load();
        let circumstances = ApiCircumstances {
            principal: Arc::clone(principal),
            client: peer.address,
            protocol: if peer.tls { "HTTPS" } else { "HTTP" },
            hostname: &self.hostname,
            now: self.clock.timestamp(),
            max_message_size: policy.max_message_size.bytes(),
            recipients_max: policy.recipients_max,
            memory_max: policy.memory_max.bytes(),
            names: NAMES,
        };
        request::prepare_within(&*self.gate, request, &circumstances, |octets| share.try_take(octets))
    }

    /// Hands over; the work starts with the call. What becomes of it is counted when the future ends.
    fn accept(&self, handover: Handover) -> Committing {
        let (accepting, counts) = (self.gate.accept(handover), self.counts.clone());
        Box::pin(async move { accepting.await.inspect(|receipt| counts.accepted(receipt)) })
    }

    /// Octets of a JSON submission: base64 takes four for three, and addresses come on top.
    fn json_max(&self) -> usize {
        let message = self.policy.load().max_message_size.bytes();
        message.saturating_add(message / 3).saturating_add(4 << 20)
    }
}
