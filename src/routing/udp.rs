//! Questions over UDP: a pool of sockets in place of hickory's new one for each question.
//!
//! Making, registering and closing a socket costs more than asking over it, and hickory hands each question through a
//! task of its own. What protects against forged answers stays (RFC 5452):
//!
//! - A socket has one question at a time, with a random id, on a port the system picks at random (RFC 6056 §3.2), and
//!   serves at most [`USES_MAX`] questions and [`AGE_MAX`]. An answer that does not come spoils it.
//! - It is connected, so the kernel drops what does not come from the server's address and port.
//! - Answers waiting before the question is asked were not asked for: the socket is thrown away.
//! - An answer counts only with the question's id and the question itself; others are ignored, not taken for failures. But
//!   somebody may be trying ids: a socket that got one is not used again, and after [`STRAYS_MAX`] the question moves to
//!   another port, [`MOVES_MAX`] times at most.
//!
//! And an answer that is only about other names than the question says nothing.
//!
//! Everything else is hickory's: caching, choosing a server, TCP after a truncated answer.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, ProtocolConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::{DnsExchange, DnsHandle, DnsResponseStream, FirstAnswer};
use hickory_resolver::proto::op::{DEFAULT_RETRY_FLOOR, DnsRequest, DnsResponse, ResponseCode};
use hickory_resolver::{ConnectionProvider, PoolContext};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::clock::{Clock, Instant};

/// Questions one socket serves.
const USES_MAX: u32 = 256;

/// How long one socket serves. Whoever wants to find its port by trying has this long.
const AGE_MAX: Duration = Duration::from_secs(2);

/// Answers with the wrong id or question that one socket takes in silence.
const STRAYS_MAX: u32 = 16;

/// Ports a question moves to because of such answers.
const MOVES_MAX: u32 = 4;

/// Idle sockets kept for one server.
const IDLE_MAX: usize = 64;

/// The longest answer read: more than any EDNS size we announce.
const ANSWER_MAX: usize = 4096;

/// Makes hickory's connections: UDP by us, all else by hickory.
#[derive(Clone, Default)]
pub(super) struct Connections {
    runtime: TokioRuntimeProvider,
}

/// A way to one name server.
#[derive(Clone)]
pub(super) enum Channel {
    Udp(Arc<Sockets>),
    Stream(DnsExchange<TokioRuntimeProvider>),
}

impl ConnectionProvider for Connections {
    type Conn = Channel;
    type FutureConn = Pin<Box<dyn Future<Output = Result<Channel, NetError>> + Send + 'static>>;
    type RuntimeProvider = TokioRuntimeProvider;

    fn new_connection(
        &self,
        ip: IpAddr,
        config: &ConnectionConfig,
        context: &PoolContext,
    ) -> Result<Self::FutureConn, NetError> {
        if !matches!(config.protocol, ProtocolConfig::Udp) {
            let stream = self.runtime.new_connection(ip, config, context)?;
            return Ok(Box::pin(async move { stream.await.map(Channel::Stream) }));
        }
        let server = SocketAddr::new(ip, config.port);
        let sockets = Sockets::new(server, config.bind_addr, context.options.timeout);
        Ok(Box::pin(async move { Ok(Channel::Udp(Arc::new(sockets))) }))
    }

    fn runtime_provider(&self) -> &TokioRuntimeProvider {
        &self.runtime
    }
}

impl DnsHandle for Channel {
    type Response = DnsResponseStream;
    type Runtime = TokioRuntimeProvider;

    fn send(&self, request: DnsRequest) -> DnsResponseStream {
        match self.clone() {
            Channel::Udp(sockets) => Box::pin(async move { to_the_point(sockets.ask(&request).await?) }).into(),
            Channel::Stream(stream) => {
                Box::pin(async move { to_the_point(stream.send(request).first_answer().await?) }).into()
            }
        }
    }
}

/// Sorts out answers whose records are all about names that nobody asked for. hickory would read "no such records" out of
/// them, for which mail is returned, and they say nothing about the name. Records of the name asked for, of another type, are
/// such a no: some servers answer whatever they are asked with an address.
///
/// # Errors
/// Such an answer, as an error of this server: others are asked.
fn to_the_point(answer: DnsResponse) -> Result<DnsResponse, NetError> {
    let is_asked_for = |name| answer.queries.iter().any(|query| query.name() == name);
    if answer.answers.is_empty() || answer.answers.iter().any(|record| is_asked_for(&record.name)) {
        return Ok(answer);
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is about other names than the question").into())
}

/// The sockets to one server.
pub(super) struct Sockets {
    server: SocketAddr,
    bind: SocketAddr,
    timeout: Duration,
    /// The one used last is taken first, so that those too many grow old.
    idle: Mutex<VecDeque<Socket>>,
    clock: Clock,
}

struct Socket {
    socket: UdpSocket,
    /// For what comes; as long as the longest answer.
    buffer: Box<[u8]>,
    born: Instant,
    uses: u32,
    /// What came that was no answer to its question.
    strays: u32,
}

impl Sockets {
    /// To `server`, from `bind` or any address; a question has so long.
    pub(super) fn new(server: SocketAddr, bind: Option<SocketAddr>, timeout: Duration) -> Sockets {
        let any = match server {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        Sockets { server, bind: bind.unwrap_or(any), timeout, idle: Mutex::default(), clock: Clock }
    }

    /// One question: asked again after a third of a second (or somewhat longer than this server's answers take), then
    /// ever more rarely until the time is up. A server that cannot be reached may be starting: that is no answer either.
    pub(super) async fn ask(&self, request: &DnsRequest) -> Result<DnsResponse, NetError> {
        let question = request.to_vec()?;
        let end = self.clock.instant() + self.timeout;
        let mut interval = request.options().retry_interval.max(DEFAULT_RETRY_FLOOR);
        let mut socket = self.take().await?;
        let mut moves = 0;
        loop {
            let again = (self.clock.instant() + interval).min(end);
            let answer = tokio::time::timeout_at(again, socket.exchange(&question, request)).await;
            match answer {
                Ok(Ok(None)) if moves < MOVES_MAX => {
                    socket = self.fresh().await?;
                    moves += 1;
                    continue;
                }
                Ok(Ok(None)) => return Err(NetError::Timeout),
                Ok(Ok(Some(answer))) => {
                    self.give_back(socket);
                    return Ok(answer);
                }
                Ok(Err(NetError::Io(error))) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    tokio::time::sleep_until(again).await;
                }
                Ok(Err(error)) => return Err(error),
                Err(_) => {}
            }
            if again == end {
                return Err(NetError::Timeout);
            }
            interval *= 2;
            socket.uses = USES_MAX;
        }
    }

    /// An idle socket that may serve on, or a new one.
    async fn take(&self) -> io::Result<Socket> {
        let now = self.clock.instant();
        loop {
            let socket = self.idle.lock().expect("no code panics under this lock").pop_back();
            let Some(mut socket) = socket else { break };
            if socket.may_serve(now) && socket.is_quiet() {
                socket.uses += 1;
                return Ok(socket);
            }
        }
        self.fresh().await
    }

    async fn fresh(&self) -> io::Result<Socket> {
        let socket = UdpSocket::bind(self.bind).await?;
        socket.connect(self.server).await?;
        let buffer = vec![0; ANSWER_MAX].into();
        Ok(Socket { socket, buffer, born: self.clock.instant(), uses: 1, strays: 0 })
    }

    fn give_back(&self, socket: Socket) {
        let now = self.clock.instant();
        let mut idle = self.idle.lock().expect("no code panics under this lock");
        if socket.may_serve(now) && idle.len() < IDLE_MAX {
            idle.push_back(socket);
        }
        while idle.front().is_some_and(|oldest| !oldest.may_serve(now)) {
            idle.pop_front();
        }
    }
}

impl Socket {
    fn may_serve(&self, now: Instant) -> bool {
        self.uses < USES_MAX && self.strays == 0 && now.saturating_duration_since(self.born) < AGE_MAX
    }

    /// Nothing has come that was not asked for. Asks the system: tokio knows of what came only after its next turn. It is no
    /// extra work where tokio still takes the socket for readable, as it does after an answer: it learns here that it is
    /// not, and the read after the question waits at once.
    fn is_quiet(&self) -> bool {
        let socket = socket2::SockRef::from(&self.socket);
        let read = || socket.recv(&mut [std::mem::MaybeUninit::uninit()]);
        let mut asked = false;
        let first = self.socket.try_io(Interest::READABLE, || {
            asked = true;
            read()
        });
        let found = if asked { first } else { read() };
        matches!(found, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Asks and waits for the answer, for as long as it takes; `None`: too much came that was none.
    async fn exchange(&mut self, question: &[u8], request: &DnsRequest) -> Result<Option<DnsResponse>, NetError> {
        self.socket.send(question).await?;
        loop {
            let length = self.socket.recv(&mut self.buffer).await?;
            if let Some(answer) = answer_to(request, &self.buffer[..length])? {
                return Ok(Some(answer));
            }
            self.strays += 1;
            if self.strays > STRAYS_MAX {
                return Ok(None);
            }
        }
    }
}

/// The answer in `octets`; `None` if it is not one to this question.
///
/// # Errors
/// It has the question's id and is not DNS.
pub(super) fn answer_to(request: &DnsRequest, octets: &[u8]) -> Result<Option<DnsResponse>, NetError> {
    if !octets.starts_with(&request.id.to_be_bytes()) {
        return Ok(None);
    }
    let answer = DnsResponse::from_buffer(octets.to_vec())?;
    // An error may come without the question (RFC 1035 §4.1.1: a server that could not read it has none to repeat).
    let could_not = matches!(
        answer.response_code,
        ResponseCode::FormErr | ResponseCode::NotImp | ResponseCode::ServFail | ResponseCode::Refused
    );
    let repeated = answer.queries.len() == request.queries.len() || answer.queries.is_empty() && could_not;
    let same = repeated && answer.queries.iter().all(|query| request.queries.contains(query));
    Ok(same.then_some(answer))
}

#[cfg(test)]
mod tests;
