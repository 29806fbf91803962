//! The SMTP listener: an ESMTP server of our own (RFC 5321) with PIPELINING, SIZE, 8BITMIME, SMTPUTF8,
//! ENHANCEDSTATUSCODES, CHUNKING, STARTTLS, AUTH, DSN, FUTURERELEASE, DELIVERBY and MT-PRIORITY; implicit TLS on
//! addresses of its own (RFC 8314 §3.3).
//!
//! 1. [`listener`] accepts connections and turns away what is too many.
//! 2. [`serve`] owns a connection: it reads into [`input`], lets the session take what it can, writes all replies that
//!    are ready in one go, and waits.
//! 3. [`session`] is the dialogue, without I/O. [`command`], [`parameters`] and [`orders`] read its lines, [`sasl`] learns
//!    who the client is, [`transaction`] gathers, [`data`] finds the end of content, [`content`] checks and keeps it.
//! 4. A complete message goes to the [`Door`](super::Door), and the session reads on. [`replies`] keeps the order:
//!    nothing is said before everything older has been.

mod command;
mod content;
mod data;
mod input;
mod limits;
mod listener;
mod orders;
mod parameters;
pub mod probe;
mod refusal;
mod replies;
mod sasl;
mod serve;
mod session;
#[cfg(test)]
mod tests;
mod transaction;

use std::sync::Arc;

use arc_swap::ArcSwap;
use prometheus::{IntCounter, IntGauge};
use tokio_util::sync::CancellationToken;

use self::limits::{Clients, Memory};
use self::refusal::Reason;
use self::sasl::Authority;
use super::door::{Door, Service};
use crate::access::Principal;
use crate::clock::Clock;
use crate::config::SmtpConfig;
use crate::mail::Domain;
use crate::telemetry::Metrics;

pub(super) use self::listener::{accept, bind};
pub(super) use self::serve::Opening;

/// What an operator may change while the daemon runs.
#[derive(Debug)]
pub(super) struct Policy {
    /// `[submission.smtp]`.
    pub(super) config: SmtpConfig,
    /// For STARTTLS; `None`: not offered.
    pub(super) tls: Option<Arc<rustls::ServerConfig>>,
}

/// What steers the sessions from outside.
#[derive(Debug)]
pub(super) struct Controls {
    /// In force for new sessions and new transactions.
    pub(super) policy: ArcSwap<Policy>,
    /// Bounds content being received.
    memory: Arc<Memory>,
    /// No new mail: listeners stop, sessions end when they can.
    pub(super) closing: CancellationToken,
    /// The grace is over: sessions end at once. Implies `closing`.
    pub(super) aborting: CancellationToken,
}

impl Controls {
    /// Begins with `policy`.
    pub(super) fn new(policy: Policy) -> Controls {
        let memory = Memory::new(policy.config.memory_max.bytes());
        let aborting = CancellationToken::new();
        let closing = aborting.child_token();
        Controls { policy: ArcSwap::from_pointee(policy), memory, closing, aborting }
    }

    /// Puts `policy` in force.
    pub(super) fn change(&self, policy: Policy) {
        self.memory.set_max(policy.config.memory_max.bytes());
        self.policy.store(Arc::new(policy));
    }
}

/// What all sessions share.
#[derive(Debug)]
pub(super) struct Shared<D> {
    hostname: Domain,
    door: Arc<D>,
    authority: Arc<dyn Authority>,
    /// Who submits from `trusted_networks` without AUTH.
    network: Arc<Principal>,
    controls: Arc<Controls>,
    clients: Arc<Clients>,
    clock: Clock,
    metrics: Arc<Metrics>,
    /// Messages that are to be sent.
    accepted: Option<IntCounter>,
    connections: IntGauge,
}

impl<D: Door> Shared<D> {
    /// Sessions that speak as `hostname`, ask `authority` who their clients are, and hand to `door`.
    pub(super) fn new(
        hostname: Domain,
        door: Arc<D>,
        authority: Arc<dyn Authority>,
        controls: Arc<Controls>,
        metrics: Arc<Metrics>,
        clock: Clock,
    ) -> Shared<D> {
        let accepted = match D::SERVICE {
            Service::Submission => Some(metrics.messages_accepted.with_label_values(&[D::SERVICE.listener()])),
            // Counted by what they are, when that is known.
            Service::Inbound => None,
        };
        let state = match D::SERVICE {
            Service::Submission => "submission",
            Service::Inbound => "inbound",
        };
        let connections = metrics.connections.with_label_values(&["", state]);
        let clients = Arc::new(Clients::default());
        let network = Principal::network();
        Shared { hostname, door, authority, network, controls, clients, clock, metrics, accepted, connections }
    }

    fn refused(&self, reason: Reason) {
        self.metrics.submissions_refused.with_label_values(&[D::SERVICE.listener(), reason.as_str()]).inc();
    }
}
