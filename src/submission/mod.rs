//! Accepts mail: listeners in front, one [`Door`] behind.
//!
//! The promise: a client hears `250` only after the door has said that the message is durable, and whatever was not
//! understood whole is refused whole. On the way in
//!
//! 1. a listener speaks its protocol and gathers an envelope and content (`smtp` so far);
//! 2. [`message`] reads the header, takes out what must not leave, adds what is missing, writes the trace field
//!    ([`received`]) and obeys the client's orders to us ([`options`]);
//! 3. the [`Door`] takes responsibility, for several messages of one session at a time; replies keep their order.
//!
//! Foreign octets end here: what passes has parsed addresses, lines that end in CRLF and nothing else (SMTP smuggling),
//! no NUL, and a header section made of fields.

pub mod certificate;
mod door;
pub mod fingerprint;
mod gate;
pub mod grpc;
pub mod http;
pub mod message;
pub mod options;
pub mod received;
mod rejection;
pub mod request;
mod smtp;
mod steer;
mod suppressions;
mod tls;
pub mod ways_back;
pub mod web;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio_util::sync::DropGuard;
use tokio_util::task::TaskTracker;

pub use door::{Door, Handover, NewMessage, Service};
pub use gate::Gate;
pub use rejection::{Rejection, RejectionKind, Violation};
#[doc(hidden)]
pub use smtp::probe;
pub use steer::{Cancel, CancelReceipt};
pub use tls::{TlsError, load_tls};

use self::smtp::{Controls, Opening, Policy, Shared};
use crate::access::Access;
use crate::clock::Clock;
use crate::config::SmtpConfig;
use crate::mail::Domain;
use crate::telemetry::Metrics;

/// The SMTP listeners and their sessions. Dropped without [`Submission::close`], they stop at once.
#[derive(Debug)]
pub struct Submission {
    controls: Arc<Controls>,
    tasks: TaskTracker,
    local_addrs: Vec<SocketAddr>,
    listener: &'static str,
    _abort: DropGuard,
}

/// Why the listeners could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum SubmissionError {
    /// An address of `listen` or `listen_tls` is taken, not ours, or not allowed.
    #[error("listen on {address} ({}listen)", table_of(.door))]
    Bind {
        /// Of which door: smtp, grpc, http or inbound.
        door: &'static str,
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A path of `listen_unix` is taken, too long, or not allowed.
    #[error("listen on {} (submission.{door}.listen_unix)", path.display())]
    BindUnix {
        /// Of which door: grpc or http.
        door: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A certificate or key cannot be used.
    #[error(transparent)]
    Tls(TlsError),
}

impl Submission {
    /// Opens all listeners of `config` and begins to accept. `hostname` is what we call ourselves; without `tls`
    /// STARTTLS is not offered, and nothing is heard on `config.listen_tls`. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// An address cannot be listened on; no listener is left open then.
    pub fn start<D: Door>(
        config: SmtpConfig,
        hostname: Domain,
        tls: Option<Arc<ServerConfig>>,
        door: Arc<D>,
        access: Arc<Access>,
        metrics: Arc<Metrics>,
        clock: Clock,
    ) -> Result<Submission, SubmissionError> {
        let mut listeners = Vec::new();
        let mut local_addrs = Vec::new();
        let clear = config.listen.iter().map(|address| (*address, Opening::InTheClear));
        let all: Vec<_> = clear.chain(config.listen_tls.iter().map(|address| (*address, Opening::Tls))).collect();
        for &(address, opening) in &all {
            let error = |source| SubmissionError::Bind { door: D::SERVICE.listener(), address, source };
            // Alone, [::] also serves IPv4; beside 0.0.0.0 it must not, or the second bind fails.
            let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
            let listener = smtp::bind(address, all.iter().any(|(other, _)| *other == v4)).map_err(error)?;
            local_addrs.push(listener.local_addr().map_err(error)?);
            listeners.push((listener, opening));
        }
        let controls = Arc::new(Controls::new(Policy { config, tls }));
        let shared = Arc::new(Shared::new(hostname, door, access, controls.clone(), metrics, clock));
        let tasks = TaskTracker::new();
        for (listener, opening) in listeners {
            tasks.spawn(smtp::accept(listener, opening, shared.clone(), tasks.clone()));
        }
        let abort = controls.aborting.clone().drop_guard();
        if !local_addrs.is_empty() {
            tracing::info!(listen = ?local_addrs, listener = D::SERVICE.listener(), "accepting mail by SMTP");
        }
        Ok(Submission { controls, tasks, local_addrs, listener: D::SERVICE.listener(), _abort: abort })
    }

    /// Where it listens, in the order of `config.listen` and then `config.listen_tls`; ports given as 0 are the real ones.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.local_addrs
    }

    /// Puts another configuration in force: at once for new sessions, from the next MAIL on for open ones (networks and
    /// limits; what EHLO announced stays said). The addresses listened on cannot change while we run; other ones are
    /// ignored with a warning.
    pub fn reload(&self, config: SmtpConfig, tls: Option<Arc<ServerConfig>>) {
        let policy = self.controls.policy.load();
        if (&config.listen, &config.listen_tls) != (&policy.config.listen, &policy.config.listen_tls) {
            tracing::warn!("{}listen or listen_tls has changed; this needs a restart", table_of(self.listener));
        }
        self.controls.change(Policy { config, tls });
    }

    /// Stops: listeners close, sessions that receive nothing get `421 4.3.2`, the others may finish the message they
    /// are receiving. What is still open after `grace` is cut off. Returns when all is over.
    ///
    /// # Cancel safety
    /// Can be dropped and called again; the stop goes on.
    pub async fn close(&self, grace: Duration) {
        self.controls.closing.cancel();
        self.tasks.close();
        if tokio::time::timeout(grace, self.tasks.wait()).await.is_err() {
            tracing::warn!(sessions = self.tasks.len(), "cutting off sessions that did not end within the grace");
        }
        self.controls.aborting.cancel();
        self.tasks.wait().await;
    }
}

/// The table of the configuration that a door is set up in, with the dot behind it.
pub(in crate::submission) fn table_of(door: &str) -> String {
    if matches!(door, "inbound" | "unsubscribe") { format!("{door}.") } else { format!("submission.{door}.") }
}
