//! The listener that gRPC and HTTP share: connections in, requests out to a router.
//!
//! 1. `accept` takes connections from TCP and Unix sockets, up to `connections_max` and
//!    `connections_per_client_max`, and shakes hands where there is TLS.
//! 2. `connection` serves HTTP/1.1 and HTTP/2 on each. Every request carries who is at the other end, as an extension of
//!    type `Arc<Peer>`.
//! 3. The service asks [`principal`] who that is to us, and takes the memory for what it reads from a [`Budget`].
//! 4. Where one request brings many submissions, they go through a [`Pipeline`], and the response is [`Attended`]: memory
//!    comes back as they become durable, and who takes no answers is given up. [`Standing`] says whether the client may go on.
//!
//! What a connection may make us hold is bounded before anybody reads: HTTP/2 windows come out of a quarter of
//! `memory_max`, and shrink as connections become many.

mod accept;
mod attended;
mod budget;
mod connection;
mod counts;
mod identity;
mod pipeline;
#[doc(hidden)]
pub mod probe;
mod socket;
#[cfg(test)]
mod tests;
mod tls;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use rustls::ServerConfig;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

pub use attended::{Answers, Attended};
pub use budget::{Budget, IDLE_MAX, Metered, Share, next_octets, pass_over, read_body};
pub use counts::Counts;
pub use identity::{Standing, principal, stands};
pub use pipeline::{Committing, Pipeline};
pub use tls::tls;

use self::accept::{Listener, Shared};
use super::{SubmissionError, TlsError, table_of};
use crate::config::{self, ApiConfig};
use crate::telemetry::Metrics;

/// Who is at the other end of a connection, as far as the connection tells. A request carries it as an extension,
/// `Arc<Peer>`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Peer {
    /// Its canonical address; `None` over a Unix socket.
    pub address: Option<IpAddr>,
    /// Over a Unix socket, the user it runs as (SO_PEERCRED).
    pub user: Option<u32>,
    /// That user's name, if this machine knows one.
    pub user_name: Option<Box<str>>,
    /// It showed a certificate from an authority of `tls_client_ca_file`.
    pub certificate: bool,
    /// What its certificate, from an authority of `tls_client_ca_file`, calls it: DNS names, then the common name. Empty
    /// when it showed none.
    pub names: Vec<String>,
    /// The connection is TLS.
    pub tls: bool,
}

/// The listeners of one service and their connections. Dropped without [`Api::close`], they stop at once.
#[derive(Debug)]
pub struct Api {
    controls: Arc<Controls>,
    tasks: TaskTracker,
    local_addrs: Vec<SocketAddr>,
    sockets: Vec<socket::SocketFile>,
    listen: (Vec<SocketAddr>, Vec<PathBuf>),
    label: &'static str,
    _abort: DropGuard,
}

/// What may change while the listeners are open.
#[derive(Debug)]
struct Settings {
    /// `None`: in the clear.
    tls: Option<Arc<ServerConfig>>,
    connections_max: usize,
    connections_per_client_max: usize,
    /// A client that takes nothing of what we write for so long has gone, or means to hold what we keep for it.
    unread_timeout: Duration,
}

impl Settings {
    fn new<A>(config: &ApiConfig<A>, tls: Option<Arc<ServerConfig>>) -> Settings {
        Settings {
            tls,
            connections_max: config.connections_max,
            connections_per_client_max: config.connections_per_client_max,
            unread_timeout: config.unread_timeout,
        }
    }
}

/// What steers the connections from outside.
#[derive(Debug)]
struct Controls {
    settings: ArcSwap<Settings>,
    /// Lends HTTP/2 windows.
    windows: Arc<Budget>,
    /// No new connections, no new requests.
    closing: CancellationToken,
    /// The grace is over. Implies `closing`.
    aborting: CancellationToken,
}

/// The part of `memory_max` that HTTP/2 windows may take together, as a divisor.
const WINDOWS_PART: usize = 4;

impl Api {
    /// Opens all listeners of `config` and gives their requests to `router`. `label` is the service's name in metrics and
    /// log lines. Must be called in a tokio runtime; reads certificates from disk.
    ///
    /// # Errors
    /// A certificate cannot be used, or an address or Unix socket cannot be listened on; nothing is left open then.
    pub fn start<A: config::Api>(
        label: &'static str,
        config: &ApiConfig<A>,
        router: Router,
        metrics: Arc<Metrics>,
    ) -> Result<Api, SubmissionError> {
        let tls = tls(config)?;
        let mut listeners = Vec::new();
        let mut local_addrs = Vec::new();
        for &address in &config.listen {
            let listener = socket::bind_tcp(A::NAME, address, &config.listen)?;
            local_addrs.push(listener.local_addr().map_err(|source| socket::not_bound(A::NAME, address, source))?);
            listeners.push(Listener::Tcp(listener));
        }
        let mut sockets = Vec::new();
        for path in &config.listen_unix {
            let (listener, file) = socket::bind_unix(A::NAME, path)?;
            listeners.push(Listener::Unix(listener));
            sockets.push(file);
        }
        let aborting = CancellationToken::new();
        let controls = Arc::new(Controls {
            settings: ArcSwap::from_pointee(Settings::new(config, tls)),
            windows: Budget::new(config.memory_max.bytes() / WINDOWS_PART),
            closing: aborting.child_token(),
            aborting,
        });
        let tasks = TaskTracker::new();
        let shared = Arc::new(Shared::new(label, Arc::clone(&controls), router, tasks.clone(), metrics));
        for listener in listeners {
            tasks.spawn(accept::accept(listener, Arc::clone(&shared)));
        }
        let abort = controls.aborting.clone().drop_guard();
        if !(local_addrs.is_empty() && sockets.is_empty()) {
            tracing::info!(service = label, listen = ?local_addrs, listen_unix = ?config.listen_unix, "accepting requests");
        }
        let listen = (config.listen.clone(), config.listen_unix.clone());
        Ok(Api { controls, tasks, local_addrs, sockets, listen, label, _abort: abort })
    }

    /// Where it listens, in the order of `config.listen`; ports given as 0 are the real ones.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.local_addrs
    }

    /// Puts limits and certificates in force, for new connections; `tls` is what [`tls`] made of `config`. Addresses
    /// cannot change while we run; other ones are ignored with a warning.
    pub fn reload<A: config::Api>(&self, config: &ApiConfig<A>, tls: Option<Arc<ServerConfig>>) {
        if config.listen != self.listen.0 || config.listen_unix != self.listen.1 {
            tracing::warn!("{}listen or listen_unix has changed; this needs a restart", table_of(A::NAME));
        }
        self.controls.windows.set_max(config.memory_max.bytes() / WINDOWS_PART);
        self.controls.settings.store(Arc::new(Settings::new(config, tls)));
    }

    /// Stops: listeners close, idle connections end, requests under way may come to their end. What is still open after
    /// `grace` is cut off. Returns when all is over and the Unix sockets are removed.
    ///
    /// # Cancel safety
    /// Can be dropped and called again; the stop goes on.
    pub async fn close(&self, grace: Duration) {
        self.controls.closing.cancel();
        self.tasks.close();
        if tokio::time::timeout(grace, self.tasks.wait()).await.is_err() {
            tracing::warn!(service = self.label, "cutting off connections that did not end within the grace");
        }
        self.controls.aborting.cancel();
        self.tasks.wait().await;
        self.sockets.iter().for_each(socket::SocketFile::remove);
    }
}

impl From<TlsError> for SubmissionError {
    fn from(error: TlsError) -> SubmissionError {
        SubmissionError::Tls(error)
    }
}
