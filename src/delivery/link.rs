//! What a session runs on: TCP, or a simulated network.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};

use super::client::Target;
use super::wire::Io;

/// Stands in for the network in simulations.
pub trait Network: Send + Sync {
    /// Connects from `source`, if given, to `address`. Who refuses does so in time of its own; the client gives up after
    /// `delivery.timeout.connect`.
    fn connect(&self, source: Option<IpAddr>, address: SocketAddr) -> Dialling<'_>;
}

/// A simulated connection that is being made.
pub type Dialling<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send + 'a>>;

/// A connection. The real one costs no more than a jump beside a system call.
pub enum Link {
    /// The network's.
    Tcp(TcpStream),
    /// A simulated network's.
    Simulated(Box<dyn Io>),
}

/// Who connects.
#[derive(Clone, Default)]
pub(super) enum Dialler {
    #[default]
    Tcp,
    Simulated(Arc<dyn Network>),
}

impl Dialler {
    /// A connection to the target's address, from its source.
    pub(super) async fn dial(&self, target: &Target) -> io::Result<Link> {
        match self {
            Dialler::Tcp => tcp(target).await.map(Link::Tcp),
            Dialler::Simulated(network) => network.connect(target.source, target.address).await.map(Link::Simulated),
        }
    }
}

async fn tcp(target: &Target) -> io::Result<TcpStream> {
    let socket = if target.address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_nodelay(true)?;
    socket.set_keepalive(true)?;
    if let Some(source) = target.source {
        if source.is_ipv4() != target.address.is_ipv4() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{source} is of the other family")));
        }
        socket.bind(SocketAddr::new(source, 0))?;
    }
    socket.connect(target.address).await
}

impl Link {
    /// Our address, if the system knows it.
    pub(super) fn source(&self) -> Option<IpAddr> {
        match self {
            Link::Tcp(stream) => stream.local_addr().ok().map(|address| address.ip()),
            Link::Simulated(_) => None,
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Link::Tcp(stream) => stream.fmt(f),
            Link::Simulated(_) => f.write_str("Simulated"),
        }
    }
}

impl AsyncRead for Link {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Link::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Link::Simulated(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Link {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Link::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Link::Simulated(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Link::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Link::Simulated(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Link::Tcp(stream) => stream.is_write_vectored(),
            Link::Simulated(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Link::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Link::Simulated(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Link::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Link::Simulated(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
