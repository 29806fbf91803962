//! The accept loops, and who is let in.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use prometheus::{IntCounter, IntGauge};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::super::certificate;
use super::connection;
use super::identity::user_name;
use super::{Controls, Peer};
use crate::telemetry::Metrics;

/// Pause after a failed accept (out of file descriptors, most likely).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A TLS handshake that takes longer is given up.
const HANDSHAKE_MAX: Duration = Duration::from_secs(30);

/// Where connections come from.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A connection as accepted.
enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

/// What all connections share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) label: &'static str,
    pub(super) controls: Arc<Controls>,
    pub(super) router: Router,
    pub(super) tasks: TaskTracker,
    open: Arc<Mutex<Open>>,
    gauge: IntGauge,
    too_many: IntCounter,
    insecure: IntCounter,
}

impl Shared {
    pub(super) fn new(
        label: &'static str,
        controls: Arc<Controls>,
        router: Router,
        tasks: TaskTracker,
        metrics: Arc<Metrics>,
    ) -> Shared {
        let gauge = metrics.submission_connections.with_label_values(&[label]);
        let too_many = metrics.submissions_refused.with_label_values(&[label, "connections"]);
        let insecure = metrics.submissions_refused.with_label_values(&[label, "tls"]);
        Shared { label, controls, router, tasks, open: Arc::default(), gauge, too_many, insecure }
    }

    /// A seat, unless all are taken, or all of this client.
    ///
    /// # Errors
    /// The limit that is reached.
    fn seat(&self, client: Option<IpAddr>) -> Result<Seat, &'static str> {
        let settings = self.controls.settings.load();
        let mut open = self.open.lock().expect("no code panics under this lock");
        if open.total >= settings.connections_max {
            return Err("connections_max");
        }
        if let Some(client) = client {
            let count = open.by_client.entry(client).or_default();
            // A limit of 0 does not pass the check of the configuration, so there is no empty entry.
            if *count >= settings.connections_per_client_max.max(1) {
                return Err("connections_per_client_max");
            }
            *count += 1;
        }
        open.total += 1;
        self.gauge.inc();
        Ok(Seat { open: Arc::clone(&self.open), client, gauge: self.gauge.clone() })
    }
}

/// Connections that are open.
#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_client: HashMap<IpAddr, usize>,
}

/// A connection's place among those allowed; free again when dropped.
struct Seat {
    open: Arc<Mutex<Open>>,
    client: Option<IpAddr>,
    gauge: IntGauge,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.open.lock().expect("no code panics under this lock");
        open.total -= 1;
        if let Some(Entry::Occupied(mut count)) = self.client.map(|client| open.by_client.entry(client)) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        self.gauge.dec();
    }
}

/// Takes connections until the shutdown begins.
pub(super) async fn accept(listener: Listener, shared: Arc<Shared>) {
    let closing = shared.controls.closing.clone();
    let run = async {
        loop {
            let accepted = match &listener {
                Listener::Tcp(listener) => listener.accept().await.map(|(stream, from)| Accepted::Tcp(stream, from)),
                Listener::Unix(listener) => listener.accept().await.map(|(stream, _)| Accepted::Unix(stream)),
            };
            match accepted {
                Ok(accepted) => admit(accepted, &shared),
                Err(error) if is_of_one_connection(&error) => tracing::debug!(%error, "connection lost in accept"),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections, trying on");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    closing.run_until_cancelled(run).await;
}

/// One too many is closed without a word: before TLS and HTTP there is none that it would understand.
fn admit(accepted: Accepted, shared: &Arc<Shared>) {
    let client = match &accepted {
        Accepted::Tcp(_, from) => Some(from.ip().to_canonical()),
        Accepted::Unix(_) => None,
    };
    let seat = match shared.seat(client) {
        Ok(seat) => seat,
        Err(limit) => {
            shared.too_many.inc();
            return tracing::debug!(
                service = shared.label,
                ?client,
                limit,
                "refused a connection: the limit is reached"
            );
        }
    };
    let span = tracing::info_span!("submission.connection", service = shared.label);
    let serving = Arc::clone(shared);
    let connection = async move {
        let aborting = serving.controls.aborting.clone();
        aborting.run_until_cancelled(serve(accepted, &serving)).await;
        drop(seat);
    };
    shared.tasks.spawn(connection.instrument(span));
}

async fn serve(accepted: Accepted, shared: &Arc<Shared>) {
    match accepted {
        Accepted::Tcp(stream, from) => {
            let _ = stream.set_nodelay(true);
            let peer = Peer { address: Some(from.ip().to_canonical()), ..Peer::default() };
            let tls = shared.controls.settings.load().tls.clone();
            match tls {
                None => connection::serve(stream, peer, shared).await,
                Some(config) => secured(stream, TlsAcceptor::from(config), peer, shared).await,
            }
        }
        Accepted::Unix(stream) => {
            let user = stream.peer_cred().ok().map(|credentials| credentials.uid());
            let peer = Peer { user, user_name: user.and_then(user_name), ..Peer::default() };
            connection::serve(stream, peer, shared).await;
        }
    }
}

/// Shakes hands first.
async fn secured(stream: TcpStream, acceptor: TlsAcceptor, peer: Peer, shared: &Arc<Shared>) {
    let client = peer.address;
    let stream = match tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            shared.insecure.inc();
            return tracing::debug!(?client, %error, "TLS handshake failed");
        }
        Err(_) => {
            shared.insecure.inc();
            return tracing::debug!(?client, "TLS handshake took too long");
        }
    };
    let shown = certificate::shown(stream.get_ref().1);
    let peer = Peer { certificate: shown.is_some(), names: shown.unwrap_or_default(), tls: true, ..peer };
    connection::serve(stream, peer, shared).await;
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
