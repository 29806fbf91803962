//! What a session runs on: TCP, or a simulated network.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::client::Target;
use super::proxy::header;
use super::proxy::socks::{self, SocksError};
use super::wire::Io;
use crate::config::{Proxy, ProxyKind, ProxyUrl};

/// How long the proxy itself may take to let us connect: it is ours, and near. How long the receiver may take is
/// `delivery.timeout.connect`, with or without one.
const PROXY_ANSWERS_WITHIN: Duration = Duration::from_secs(10);

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

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    /// The system does not let us send from our address: most often it is not on this host.
    #[error("cannot send from {0}: {1}")]
    Address(IpAddr, io::Error),
    /// What should connect for us is not there.
    #[error("cannot connect to the proxy {0}: {1}")]
    Proxy(ProxyUrl, io::Error),
    /// It is, and does not do it.
    #[error("proxy {0}: {1}")]
    Refused(ProxyUrl, SocksError),
    /// The receiver, or our system.
    #[error("{0}")]
    Connect(#[from] io::Error),
}

/// A connection, and the address the receiver sees, if known.
pub(super) type Dialled = (Link, Option<IpAddr>);

impl Dialler {
    /// A connection to the target, from its source.
    pub(super) async fn dial(&self, target: &Target) -> Result<Dialled, DialError> {
        let local = &target.local;
        match &local.proxy {
            None => {
                let link = self.connect(local.address, target.address).await?;
                let address = link.address().map(|address| address.ip()).or(local.address);
                Ok((link, address))
            }
            Some(proxy) => self.dial_through(proxy, local.address, target.address).await,
        }
    }

    /// The same through a proxy, whose address `from` is, if it is to be a certain one.
    async fn dial_through(&self, proxy: &Proxy, from: Option<IpAddr>, to: SocketAddr) -> Result<Dialled, DialError> {
        let url = proxy.url;
        let mut link = match timeout(PROXY_ANSWERS_WITHIN, self.connect(None, url.address)).await {
            Ok(Ok(link)) => link,
            Ok(Err(DialError::Connect(error))) => return Err(DialError::Proxy(url, error)),
            Ok(Err(other)) => return Err(other),
            Err(_) => {
                let text = format!("no answer within {PROXY_ANSWERS_WITHIN:?}");
                return Err(DialError::Proxy(url, io::Error::new(io::ErrorKind::TimedOut, text)));
            }
        };
        match url.kind {
            ProxyKind::Socks5 => {
                let asked = socks::connect(&mut link, to, proxy.credentials.as_ref()).await;
                let bound = asked.map_err(|error| DialError::Refused(url, error))?;
                Ok((link, from.or(bound)))
            }
            ProxyKind::Haproxy => {
                let port = link.address().map_or(0, |address| address.port());
                let header = from.and_then(|from| header::header(from, port, to));
                let text = "the forwarder has no address of the receiver's family";
                let header = header.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, text))?;
                link.write_all(&header).await?;
                Ok((link, from))
            }
        }
    }

    async fn connect(&self, from: Option<IpAddr>, to: SocketAddr) -> Result<Link, DialError> {
        match self {
            Dialler::Tcp => tcp(from, to).await.map(Link::Tcp),
            Dialler::Simulated(network) => Ok(Link::Simulated(network.connect(from, to).await?)),
        }
    }
}

async fn tcp(from: Option<IpAddr>, to: SocketAddr) -> Result<TcpStream, DialError> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_nodelay(true)?;
    socket.set_keepalive(true)?;
    if let Some(from) = from {
        if from.is_ipv4() != to.is_ipv4() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{from} is of the other family")).into());
        }
        socket.bind(SocketAddr::new(from, 0)).map_err(|error| DialError::Address(from, error))?;
    }
    Ok(socket.connect(to).await?)
}

impl Link {
    /// Our end of it, if the system knows it.
    fn address(&self) -> Option<SocketAddr> {
        match self {
            Link::Tcp(stream) => stream.local_addr().ok(),
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
