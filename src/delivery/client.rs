//! From nothing to an open session.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use prometheus::Histogram;
use rustls::RootCertStore;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::auth;
use super::capabilities::Capabilities;
use super::connection::{Connection, SessionFacts};
use super::memory::{Memory, PathKey, Permit, Quirks};
use super::reply::{EHLO_TEXT_MAX, Garbage, ReplyRef, TEXT_MAX};
use super::tls::{self, Tls};
use super::wire::{Broken, Io, Stream, Wire};
use crate::clock::{Clock, Instant};
use crate::config::{Credentials, DeliveryConfig, TimeoutConfig, TlsPolicy};
use crate::mail::{Blame, Domain, EnhancedCode, Failure, Origin, TlsFacts};
use crate::telemetry::Metrics;

/// Too many open files, in the process and in the system.
const EMFILE: i32 = 24;
const ENFILE: i32 = 23;

/// Opens sessions, and remembers what went wrong with whom. Shared by all egress paths.
#[derive(Debug)]
pub struct Client {
    pub(super) shared: Arc<Shared>,
}

/// Where to connect and how.
#[derive(Debug, Clone)]
pub struct Target {
    /// The receiver's name: for TLS, events, and what is remembered about it.
    pub host: String,
    /// Its address.
    pub address: SocketAddr,
    /// Our address; `None`: the system chooses.
    pub source: Option<IpAddr>,
    /// What the session must have.
    pub tls: TlsPolicy,
    /// For AUTH; sent only over TLS or on loopback.
    pub credentials: Option<Arc<Credentials>>,
}

/// How far a connection got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// TCP.
    Connect,
    /// The first reply.
    Greeting,
    /// EHLO or HELO.
    Ehlo,
    /// STARTTLS and handshake.
    Tls,
    /// AUTH.
    Auth,
}

impl Stage {
    /// As a metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Connect => "connect",
            Stage::Greeting => "greeting",
            Stage::Ehlo => "ehlo",
            Stage::Tls => "tls",
            Stage::Auth => "auth",
        }
    }
}

/// No session. Says nothing about any message: try the next address, and later again, even after a 5yz.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} {host} [{address}]: {}", stage.as_str(), failure.reply)]
pub struct ConnectError {
    /// How far it got.
    pub stage: Stage,
    /// The receiver.
    pub host: String,
    /// Its address.
    pub address: SocketAddr,
    /// Our address, if one was asked for.
    pub source_address: Option<IpAddr>,
    /// Whose trouble it is, and the reply or our words.
    pub failure: Failure,
    /// How long it took; zero if the failure was remembered and nothing was tried.
    pub elapsed: Duration,
    /// When this address may be tried again.
    pub retry_at: Instant,
}

/// What client and connections have in common.
pub(super) struct Shared {
    pub(super) timeouts: TimeoutConfig,
    pub(super) metrics: Arc<Metrics>,
    pub(super) stages: Stages,
    ehlo: Domain,
    tls: Tls,
    tls_broken_ttl: Duration,
    memory: Mutex<Memory>,
}

/// Histograms looked up once.
pub(super) struct Stages {
    pub(super) data: Histogram,
    connect: Histogram,
    tls: Histogram,
}

/// What to do about TLS in one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Upgrade {
    Never,
    IfOffered,
    Always,
}

/// One attempt that failed.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) stage: Stage,
    pub(super) failure: Failure,
    /// The handshake broke; without TLS it may work.
    without_tls: bool,
}

impl Refusal {
    fn new(stage: Stage, failure: Failure) -> Refusal {
        Refusal { stage, failure, without_tls: false }
    }

    fn broken(stage: Stage) -> impl FnOnce(Broken) -> Refusal {
        move |broken| Refusal::new(stage, broken.into_failure())
    }
}

impl Client {
    /// A client that greets as `hostname` and trusts the public authorities where certificates are verified.
    pub fn new(config: &DeliveryConfig, hostname: &Domain, metrics: Arc<Metrics>) -> Client {
        Client::with_roots(config, hostname, metrics, tls::public_roots())
    }

    /// As [`Client::new`], trusting `roots` instead.
    pub fn with_roots(
        config: &DeliveryConfig,
        hostname: &Domain,
        metrics: Arc<Metrics>,
        roots: RootCertStore,
    ) -> Client {
        let histogram = |stage| metrics.stage.with_label_values(&[stage]);
        let stages = Stages { data: histogram("data"), connect: histogram("connect"), tls: histogram("tls") };
        let shared = Shared {
            timeouts: config.timeout.clone(),
            stages,
            metrics,
            ehlo: hostname.clone(),
            tls: Tls::new(roots),
            tls_broken_ttl: config.tls_broken_ttl,
            memory: Mutex::new(Memory::new(config.site_pause_min, config.site_pause_max)),
        };
        Client { shared: Arc::new(shared) }
    }

    /// Opens a session, or says why not. An address that failed lately is not tried: the remembered failure comes back
    /// at once; when its pause is over, the first who asks probes it. Where the handshake breaks and `target.tls` is
    /// opportunistic, connects once more in the clear and remembers that for `tls_broken_ttl`.
    ///
    /// # Errors
    /// See [`ConnectError`].
    ///
    /// # Cancel safety
    /// Safe; a probe that is dropped may be repeated a little later.
    pub async fn connect(&self, target: &Target) -> Result<Connection, ConnectError> {
        let start = Clock.instant();
        let permits = self.begin(target, start)?;
        let opened = match self.attempt(target, self.upgrade_for(target, start)).await {
            Err(refusal) if refusal.without_tls && target.tls == TlsPolicy::Opportunistic => {
                self.note_tls_broken(target);
                self.attempt(target, Upgrade::Never).await
            }
            opened => opened,
        };
        match opened {
            Ok(connection) => {
                let mut memory = self.shared.memory();
                memory.succeeded(any_source(target));
                memory.succeeded(this_source(target));
                Ok(connection)
            }
            Err(refusal) => Err(self.failed(target, refusal, &permits, start)),
        }
    }

    /// Until when, and why, `address` is left alone because it did not answer. `None`: it may be tried. Refusals that
    /// concern one of our addresses only are known to [`Client::connect`].
    pub fn unreachable(&self, address: SocketAddr, now: Instant) -> Option<(Instant, String)> {
        let memory = self.shared.memory();
        memory.unreachable((address, None), now).map(|(until, failure)| (until, failure.reply.to_string()))
    }

    /// Forgets which addresses did not answer: an operator wants them tried again.
    pub fn forget_unreachable(&self) {
        self.shared.memory().forget_unreachable();
    }

    fn begin(&self, target: &Target, now: Instant) -> Result<[(PathKey, Permit); 2], ConnectError> {
        let claim = self.shared.timeouts.connect + Duration::from_secs(30);
        let mut memory = self.shared.memory();
        let mut permits = [any_source(target), this_source(target)].map(|path| (path, Permit::Free));
        for (path, permit) in &mut permits {
            *permit = memory.begin(*path, now, claim);
            if let Permit::Refused { until, failure } = permit {
                return Err(ConnectError {
                    stage: Stage::Connect,
                    host: target.host.clone(),
                    address: target.address,
                    source_address: target.source,
                    failure: failure.clone(),
                    elapsed: Duration::ZERO,
                    retry_at: *until,
                });
            }
        }
        Ok(permits)
    }

    fn failed(
        &self,
        target: &Target,
        refusal: Refusal,
        permits: &[(PathKey, Permit); 2],
        start: Instant,
    ) -> ConnectError {
        let now = Clock.instant();
        self.shared.session_failed(refusal.stage.as_str());
        // Who does not answer is dead for all our addresses; who refuses may mean only this one.
        let dead = refusal.stage == Stage::Connect && refusal.failure.blame == Blame::Site;
        let (path, permit) = &permits[usize::from(!dead)];
        let mut memory = self.shared.memory();
        let retry_at = memory.failed(*path, permit, &refusal.failure, now);
        if !dead {
            memory.succeeded(any_source(target));
        }
        ConnectError {
            stage: refusal.stage,
            host: target.host.clone(),
            address: target.address,
            source_address: target.source,
            failure: refusal.failure,
            elapsed: now - start,
            retry_at,
        }
    }

    pub(super) fn upgrade_for(&self, target: &Target, now: Instant) -> Upgrade {
        match target.tls {
            TlsPolicy::None => Upgrade::Never,
            TlsPolicy::Opportunistic if self.shared.quirks(target, now).tls_broken => Upgrade::Never,
            TlsPolicy::Opportunistic => Upgrade::IfOffered,
            TlsPolicy::Required | TlsPolicy::Verified => Upgrade::Always,
        }
    }

    fn note_tls_broken(&self, target: &Target) {
        let host = self.shared.host_key(&target.host, target.address);
        self.shared.memory().note_tls_broken(&host, Clock.instant(), self.shared.tls_broken_ttl);
        tracing::info!(host = %target.host, address = %target.address, "TLS is broken there; speaking in the clear");
    }

    async fn attempt(&self, target: &Target, upgrade: Upgrade) -> Result<Connection, Refusal> {
        let start = Clock.instant();
        let stream = match timeout(self.shared.timeouts.connect, tcp(target)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(Refusal::new(Stage::Connect, no_tcp(target, &error))),
            Err(_) => {
                let text = format!("{} did not answer within {:?}", target.address, self.shared.timeouts.connect);
                return Err(Refusal::new(Stage::Connect, Failure::ours(Blame::Site, EnhancedCode(4, 4, 1), text)));
            }
        };
        let source = stream.local_addr().ok().map(|address| address.ip());
        self.open(stream, target, source, upgrade, start).await
    }

    /// The dialogue up to the first transaction, on any stream.
    pub(super) async fn open<S: Io>(
        &self,
        stream: S,
        target: &Target,
        source: Option<IpAddr>,
        upgrade: Upgrade,
        start: Instant,
    ) -> Result<Connection<S>, Refusal> {
        let mut wire = Wire::new(stream);
        let greeting = self.greeting(&mut wire).await?;
        let mut ehlo = self.ehlo(&mut wire).await?;
        let connect = Clock.instant() - start;
        let tls = self.upgrade(&mut wire, target, upgrade, &ehlo.capabilities).await?;
        let handshake = Clock.instant() - start - connect;
        if tls.is_some() {
            self.shared.stages.tls.observe(handshake.as_secs_f64());
            // RFC 3207 §4.2: what was said in the clear is forgotten.
            ehlo = self.ehlo(&mut wire).await?;
        }
        if let Some(credentials) = &target.credentials {
            self.log_in(&mut wire, target, credentials, &ehlo.capabilities, tls.is_some()).await?;
        }
        self.shared.stages.connect.observe(connect.as_secs_f64());
        let quirks = self.shared.quirks(target, Clock.instant());
        let facts = SessionFacts {
            host: target.host.clone(),
            address: target.address,
            source,
            tls,
            greeting,
            capabilities: ehlo.keywords,
            connect,
            handshake,
        };
        Ok(Connection::new(wire, without_quirks(ehlo.capabilities, quirks), facts, self.shared.clone()))
    }

    async fn greeting<S: Io>(&self, wire: &mut Wire<S>) -> Result<String, Refusal> {
        let mut nothing = super::data::Outbox::plain(&[]);
        let limit = self.shared.timeouts.greeting;
        let reply = wire.answer(&mut nothing, "CONNECT", limit, limit, TEXT_MAX).await;
        let reply = reply.map_err(Refusal::broken(Stage::Greeting))?;
        match reply.code {
            200..=299 => Ok(reply.text.to_owned()),
            _ => Err(Refusal::new(Stage::Greeting, remote("CONNECT", reply))),
        }
    }

    /// EHLO; HELO where the server does not know it (RFC 5321 §3.2).
    async fn ehlo<S: Io>(&self, wire: &mut Wire<S>) -> Result<Ehlo, Refusal> {
        let limit = self.shared.timeouts.ehlo;
        let line = format!("EHLO {}\r\n", self.shared.ehlo);
        let reply = wire.command(line.as_bytes(), "EHLO", limit, EHLO_TEXT_MAX).await;
        let reply = reply.map_err(Refusal::broken(Stage::Ehlo))?;
        match reply.code {
            200..=299 => return Ok(Ehlo::read(reply)),
            500 | 502 | 504 => {}
            _ => return Err(Refusal::new(Stage::Ehlo, remote("EHLO", reply))),
        }
        let line = format!("HELO {}\r\n", self.shared.ehlo);
        let reply = wire.command(line.as_bytes(), "HELO", limit, TEXT_MAX).await;
        let reply = reply.map_err(Refusal::broken(Stage::Ehlo))?;
        match reply.code {
            // Whatever its lines look like, HELO offers nothing.
            200..=299 => Ok(Ehlo { capabilities: Capabilities::default(), keywords: String::new() }),
            _ => Err(Refusal::new(Stage::Ehlo, remote("HELO", reply))),
        }
    }

    /// STARTTLS and the handshake, if wanted and possible. `None`: the session stays in the clear, as it may.
    async fn upgrade<S: Io>(
        &self,
        wire: &mut Wire<S>,
        target: &Target,
        upgrade: Upgrade,
        capabilities: &Capabilities,
    ) -> Result<Option<TlsFacts>, Refusal> {
        match (upgrade, capabilities.starttls) {
            (Upgrade::Never, _) | (Upgrade::IfOffered, false) => return Ok(None),
            (Upgrade::Always, false) => {
                let text = "TLS is required and the receiver does not offer STARTTLS";
                return Err(Refusal::new(Stage::Tls, Failure::ours(Blame::Site, EnhancedCode(4, 7, 4), text)));
            }
            (Upgrade::IfOffered | Upgrade::Always, true) => {}
        }
        let limit = self.shared.timeouts.tls;
        let reply = wire.command(b"STARTTLS\r\n", "STARTTLS", limit, TEXT_MAX).await;
        let reply = reply.map_err(Refusal::broken(Stage::Tls))?;
        match (reply.code, upgrade) {
            (220, _) => {}
            // It offers and refuses. The session stands, so it goes on in the clear (RFC 3207 §4).
            (400..=420 | 422..=599, Upgrade::IfOffered) => {
                self.note_tls_broken(target);
                return Ok(None);
            }
            _ => return Err(Refusal::new(Stage::Tls, remote("STARTTLS", reply))),
        }
        // Octets behind the 220 came in the clear, and would be read as if they had come inside TLS: somebody in
        // between may have put them there. No retry in the clear, which is what he would want.
        if !wire.replies.is_empty() {
            let broken = Broken::Garbage { command: "STARTTLS", garbage: Garbage::OutOfTurn };
            return Err(Refusal::new(Stage::Tls, broken.into_failure()));
        }
        self.handshake(wire, target, limit).await.map(Some)
    }

    async fn handshake<S: Io>(
        &self,
        wire: &mut Wire<S>,
        target: &Target,
        limit: Duration,
    ) -> Result<TlsFacts, Refusal> {
        let Stream::Plain(stream) = std::mem::replace(&mut wire.stream, Stream::Gone) else {
            unreachable!("STARTTLS is said once, in the clear");
        };
        let name = tls::server_name(&target.host, target.address.ip());
        let connector = self.shared.tls.connector(target.tls);
        let why = match timeout(limit, connector.connect(name, stream)).await {
            Ok(Ok(stream)) => {
                let facts = tls::facts(&stream, target.tls);
                wire.stream = Stream::Tls(Box::new(stream));
                return Ok(facts);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no end within {limit:?}"),
        };
        let failure = Failure::ours(Blame::Site, EnhancedCode(4, 7, 5), format!("TLS handshake failed: {why}"));
        Err(Refusal { stage: Stage::Tls, failure, without_tls: true })
    }

    async fn log_in<S: Io>(
        &self,
        wire: &mut Wire<S>,
        target: &Target,
        credentials: &Credentials,
        capabilities: &Capabilities,
        encrypted: bool,
    ) -> Result<(), Refusal> {
        if !encrypted && !target.address.ip().is_loopback() {
            let text = "no TLS, so the password was not sent";
            return Err(Refusal::new(Stage::Auth, Failure::ours(Blame::EgressPath, EnhancedCode(4, 7, 0), text)));
        }
        let limit = self.shared.timeouts.ehlo;
        let done = auth::authenticate(wire, credentials, capabilities, limit).await;
        done.map_err(|failure| Refusal::new(Stage::Auth, failure))
    }
}

impl Shared {
    pub(super) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().expect("no code panics under this lock")
    }

    /// What is remembered about a host belongs to its name and port.
    pub(super) fn host_key(&self, host: &str, address: SocketAddr) -> String {
        format!("{host}:{}", address.port())
    }

    pub(super) fn session_failed(&self, stage: &str) {
        self.metrics.session_failures.with_label_values(&[stage]).inc();
    }

    pub(super) fn quirks(&self, target: &Target, now: Instant) -> Quirks {
        self.memory().quirks(&self.host_key(&target.host, target.address), now)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("ehlo", &self.ehlo).finish_non_exhaustive()
    }
}

/// A reply to EHLO, read.
struct Ehlo {
    capabilities: Capabilities,
    keywords: String,
}

impl Ehlo {
    fn read(reply: ReplyRef<'_>) -> Ehlo {
        let keywords = reply.text.split('\n').skip(1).filter_map(|line| line.split(' ').next());
        let keywords = keywords.take(40).collect::<Vec<_>>().join(" ");
        Ehlo { capabilities: Capabilities::parse(reply.text), keywords }
    }
}

fn any_source(target: &Target) -> PathKey {
    (target.address, None)
}

/// Without a source asked for, the unspecified address stands for "whichever the system takes".
fn this_source(target: &Target) -> PathKey {
    (target.address, Some(target.source.unwrap_or(IpAddr::from([0, 0, 0, 0]))))
}

fn without_quirks(mut capabilities: Capabilities, quirks: Quirks) -> Capabilities {
    capabilities.chunking &= !quirks.no_chunking;
    capabilities.pipelining &= !quirks.no_pipelining;
    capabilities.recipients_max = match (capabilities.recipients_max, quirks.recipients_max) {
        (Some(said), Some(learned)) => Some(said.min(learned)),
        (said, learned) => said.or(learned),
    };
    capabilities
}

async fn tcp(target: &Target) -> io::Result<TcpStream> {
    let socket = if target.address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_nodelay(true)?;
    socket.set_keepalive(true)?;
    if let Some(source) = target.source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    socket.connect(target.address).await
}

/// What is wrong on our side is the egress path's trouble, all else the site's.
fn no_tcp(target: &Target, error: &io::Error) -> Failure {
    use io::ErrorKind as Kind;
    let ours = matches!(error.kind(), Kind::AddrNotAvailable | Kind::AddrInUse | Kind::PermissionDenied)
        || matches!(error.kind(), Kind::InvalidInput | Kind::QuotaExceeded | Kind::OutOfMemory)
        || matches!(error.raw_os_error(), Some(EMFILE | ENFILE));
    let blame = if ours { Blame::EgressPath } else { Blame::Site };
    Failure::ours(blame, EnhancedCode(4, 4, 1), format!("cannot connect to {}: {error}", target.address))
}

fn remote(command: &'static str, reply: ReplyRef<'_>) -> Failure {
    Failure { blame: Blame::EgressPath, origin: Origin::Remote { command }, reply: reply.to_reply() }
}
