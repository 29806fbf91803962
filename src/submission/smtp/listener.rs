//! Listening sockets and the accept loop.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::super::door::Door;
use super::refusal::Refusal;
use super::replies::Replies;
use super::serve::Opening;
use super::{Shared, serve};

/// Connections the kernel keeps for us; it takes the lesser of this and `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Pause after a failed accept (out of file descriptors, most likely).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Opens a listening socket. `v6_only`: leave the IPv4 side of `[::]` to another listener.
///
/// # Errors
/// The system's.
pub(in super::super) fn bind(address: SocketAddr, v6_only: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(v6_only)?;
    }
    // A restart must not wait for connections of its predecessor to fade.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Takes connections until the shutdown begins. Sessions run as tasks of `sessions` and begin with `opening`.
pub(in super::super) async fn accept<D: Door>(
    listener: TcpListener,
    opening: Opening,
    shared: Arc<Shared<D>>,
    sessions: TaskTracker,
) {
    let closing = shared.controls.closing.clone();
    let run = async {
        loop {
            match listener.accept().await {
                Ok((stream, client)) => admit(stream, client, opening, &shared, &sessions),
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

fn admit<D: Door>(
    stream: TcpStream,
    client: SocketAddr,
    opening: Opening,
    shared: &Arc<Shared<D>>,
    sessions: &TaskTracker,
) {
    let client = client.ip().to_canonical();
    let policy = shared.controls.policy.load();
    let seat = match shared.clients.admit(client, &policy.config) {
        Ok(seat) => seat,
        Err(refusal) => {
            tracing::debug!(%client, reply = %refusal.reply, "refused");
            shared.refused(refusal.reason);
            // Over TLS it would be said to nobody: a handshake is what we have no room for.
            return if opening == Opening::InTheClear {
                turn_away(stream, &refusal)
            };
        }
    };
    let _ = stream.set_nodelay(true);
    let span = tracing::info_span!("submission.session", %client);
    let (shared, open) = (shared.clone(), shared.connections.clone());
    let session = async move {
        open.inc();
        let aborting = shared.controls.aborting.clone();
        aborting.run_until_cancelled(serve::serve(stream, client, opening, shared)).await;
        open.dec();
        drop(seat);
    };
    sessions.spawn(session.instrument(span));
}

/// Tells a client why it is not let in. One small write into a fresh socket's empty buffer does not block.
fn turn_away(stream: TcpStream, refusal: &Refusal) {
    let mut replies = Replies::default();
    replies.push(&refusal.reply);
    if let Ok(mut stream) = stream.into_std() {
        let _ = stream.write(replies.ready());
        let _ = stream.shutdown(std::net::Shutdown::Write);
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
