//! From nothing to an open session.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use prometheus::Histogram;
use rustls::RootCertStore;
use tokio::time::timeout;

use super::connection::Connection;
use super::link::{DialError, Dialler, Network};
use super::memory::{Memory, PathKey, Permit, Quirks, Way};
use super::opening::{Refusal, Upgrade};
use super::tls::{self, Tls};
use crate::clock::{Clock, Instant};
use crate::config::{Credentials, DeliveryConfig, Proxy, TimeoutConfig, TlsPolicy};
use crate::mail::{Blame, Domain, EnhancedCode, Failure};
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
    /// Our end.
    pub local: Local,
    /// What the session must have.
    pub tls: TlsPolicy,
    /// For AUTH; sent only over TLS or on loopback.
    pub credentials: Option<Arc<Credentials>>,
}

/// Our end of a session: what a source is, as far as a session cares.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Local {
    /// The source's name, for events. What is remembered against a receiver is remembered for this source.
    pub source: Arc<str>,
    /// Its address; `None`: the system or the proxy chooses.
    pub address: Option<IpAddr>,
    /// Its name in EHLO; `None`: the client's.
    pub ehlo: Option<Domain>,
    /// What connects for it.
    pub proxy: Option<Arc<Proxy>>,
}

/// How far a connection got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Our own side: the address is not this host's, or the proxy cannot be reached. Nothing can be sent from this
    /// source now, to nobody.
    Source,
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
            Stage::Source => "source",
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
    pub local_address: Option<IpAddr>,
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
    pub(super) ehlo: Domain,
    pub(super) tls: Tls,
    tls_broken_ttl: Duration,
    memory: Mutex<Memory>,
    dialler: Dialler,
}

/// Histograms looked up once.
pub(super) struct Stages {
    pub(super) data: Histogram,
    pub(super) connect: Histogram,
    pub(super) tls: Histogram,
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
            dialler: Dialler::Tcp,
        };
        Client { shared: Arc::new(shared) }
    }

    /// Makes the client connect through a simulated network. Call it before the client is used.
    pub fn simulated(mut self, network: Arc<dyn Network>) -> Client {
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.dialler = Dialler::Simulated(network);
        }
        self
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
        let permits = self.begin(target, start).map_err(|(retry_at, failure)| ConnectError {
            stage: Stage::Connect,
            host: target.host.clone(),
            address: target.address,
            local_address: target.local.address,
            failure,
            elapsed: Duration::ZERO,
            retry_at,
        })?;
        let opened = match self.attempt(target, self.upgrade_for(target, start)).await {
            Err(refusal) if refusal.without_tls && target.tls == TlsPolicy::Opportunistic => {
                let opened = self.attempt(target, Upgrade::Never).await;
                // A host that does not answer now says nothing about its TLS.
                if opened.is_ok() {
                    self.note_tls_broken(target);
                }
                opened
            }
            opened => opened,
        };
        match opened {
            Ok(connection) => {
                let mut memory = self.shared.memory();
                paths(target).iter().for_each(|path| memory.succeeded(path));
                Ok(connection)
            }
            Err(refusal) => Err(self.failed(target, refusal, &permits, start)),
        }
    }

    /// Forgets which addresses did not answer: an operator wants them tried again.
    pub fn forget_unreachable(&self) {
        self.shared.memory().forget_unreachable();
    }

    /// Until when, and why, `address` is left alone by this source because it did not answer. `None`: it may be tried.
    /// Refusals that concern only some of those who connect (one of the source's addresses, one policy) are known to
    /// [`Client::connect`].
    pub fn unreachable(&self, source: &Arc<str>, address: SocketAddr, now: Instant) -> Option<(Instant, String)> {
        let path = PathKey { address, source: Arc::clone(source), way: None };
        let memory = self.shared.memory();
        memory.unreachable(&path, now).map(|(until, failure)| (until, failure.reply.to_string()))
    }

    /// Leave to try, or the remembered failure and when to come back.
    fn begin(&self, target: &Target, now: Instant) -> Result<[Permit; 2], (Instant, Failure)> {
        let claim = self.shared.timeouts.connect + Duration::from_secs(30);
        let mut memory = self.shared.memory();
        // Both are asked before either is claimed for a probe.
        for path in &paths(target) {
            if let Some((until, failure)) = memory.unreachable(path, now) {
                return Err((until, failure.clone()));
            }
        }
        Ok(paths(target).map(|path| memory.begin(&path, now, claim)))
    }

    fn failed(&self, target: &Target, refusal: Refusal, permits: &[Permit; 2], start: Instant) -> ConnectError {
        let now = Clock.instant();
        self.shared.session_failed(refusal.stage.as_str());
        let [all, ours] = paths(target);
        let mut memory = self.shared.memory();
        // Who does not answer is dead for the source; who refuses, or what we could not even try, concerns only this way.
        // What is wrong with the source says nothing of the receiver.
        let retry_at = match (refusal.stage, refusal.failure.blame) {
            (Stage::Source, _) => now,
            (Stage::Connect, Blame::Site) => memory.failed(all, &permits[0], &refusal.failure, now),
            (Stage::Connect, _) => memory.failed(ours, &permits[1], &refusal.failure, now),
            (Stage::Greeting | Stage::Ehlo | Stage::Tls | Stage::Auth, _) => {
                memory.succeeded(&all);
                memory.failed(ours, &permits[1], &refusal.failure, now)
            }
        };
        ConnectError {
            stage: refusal.stage,
            host: target.host.clone(),
            address: target.address,
            local_address: target.local.address,
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

    pub(super) fn note_tls_broken(&self, target: &Target) {
        let host = self.shared.host_key(&target.host, target.address);
        self.shared.memory().note_tls_broken(&host, Clock.instant(), self.shared.tls_broken_ttl);
        tracing::info!(host = %target.host, address = %target.address, "TLS is broken there; speaking in the clear");
    }

    async fn attempt(&self, target: &Target, upgrade: Upgrade) -> Result<Connection, Refusal> {
        let start = Clock.instant();
        let (stream, address) = match timeout(self.shared.timeouts.connect, self.shared.dialler.dial(target)).await {
            Ok(Ok(dialled)) => dialled,
            Ok(Err(error)) => return Err(no_connection(target, &error)),
            Err(_) => {
                let text = format!("{} did not answer within {:?}", target.address, self.shared.timeouts.connect);
                return Err(Refusal::new(Stage::Connect, Failure::ours(Blame::Site, EnhancedCode(4, 4, 1), text)));
            }
        };
        self.open(stream, target, address, upgrade, start).await
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

/// The two things that may be known against a target: for whoever comes from this source, and for who comes as we do.
fn paths(target: &Target) -> [PathKey; 2] {
    let way = Way { local: target.local.address, tls: target.tls, credentials: target.credentials.is_some() };
    [None, Some(way)].map(|way| PathKey { address: target.address, source: Arc::clone(&target.local.source), way })
}

/// Whose fault it is that there is no connection.
fn no_connection(target: &Target, error: &DialError) -> Refusal {
    let (stage, blame) = match error {
        // The address is there, and the system has no port left, or forbids it: that will be tried again, but nobody
        // need look for the address.
        DialError::Address(_, error) if error.kind() != io::ErrorKind::AddrNotAvailable => {
            (Stage::Connect, Blame::EgressPath)
        }
        DialError::Address(..) => (Stage::Source, Blame::EgressPath),
        DialError::Proxy(_, error) if is_ours(error) => (Stage::Connect, Blame::EgressPath),
        DialError::Proxy(..) => (Stage::Source, Blame::EgressPath),
        DialError::Refused(_, error) if error.is_of_the_receiver() => (Stage::Connect, Blame::Site),
        DialError::Refused(..) => (Stage::Connect, Blame::EgressPath),
        DialError::Connect(error) if is_ours(error) => (Stage::Connect, Blame::EgressPath),
        DialError::Connect(_) => (Stage::Connect, Blame::Site),
    };
    let text = format!("cannot connect to {}: {error}", target.address);
    Refusal::new(stage, Failure::ours(blame, EnhancedCode(4, 4, 1), text))
}

/// What is wrong on our side is the egress path's trouble, all else the site's.
fn is_ours(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(error.kind(), Kind::AddrNotAvailable | Kind::AddrInUse | Kind::PermissionDenied)
        || matches!(error.kind(), Kind::InvalidInput | Kind::QuotaExceeded | Kind::OutOfMemory)
        || matches!(error.raw_os_error(), Some(EMFILE | ENFILE))
}
