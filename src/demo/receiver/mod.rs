//! A receiving mail server on loopback, with manners to choose: the peer of the demo, the tests and the benches.
//!
//! It takes a message in four steps: parse the dialogue with a reader of its own, judge each recipient as its
//! [`Behaviour`] says, write every delivery down ([`Keep`]), and only then answer the end of the content with 250. So
//! what it recorded is what the sender may call delivered, give or take a lost reply. It also watches the sender's
//! manners and notes each [violation](Receiver::violations) of the protocol. It shares no code with
//! `submission` or `delivery`: a mistake made twice would not show.

mod mailbox;
mod session;
mod wire;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::ServerConfig;
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

pub use mailbox::{Delivery, Keep};
use mailbox::{Greylist, Mailbox};

/// Violations kept; the first ones tell the story.
const VIOLATIONS_MAX: usize = 100;

/// How a receiver behaves. The default takes everything at once, over TLS, with all extensions.
#[derive(Debug, Clone)]
pub struct Behaviour {
    /// Its name in the banner and the certificate.
    pub hostname: String,
    /// What becomes of STARTTLS.
    pub tls: Tls,
    /// Offer PIPELINING (RFC 2920).
    pub pipelining: bool,
    /// Offer CHUNKING (RFC 3030).
    pub chunking: bool,
    /// Offer 8BITMIME (RFC 6152).
    pub eight_bit: bool,
    /// Offer SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// Offer DSN (RFC 3461).
    pub dsn: bool,
    /// Largest message in octets, offered as SIZE (RFC 1870).
    pub size_max: usize,
    /// Wait before each reply.
    pub reply_delay: Duration,
    /// Each (sender, recipient) gets 451 4.7.1 until this long after its first try.
    pub greylist: Option<Duration>,
    /// Which recipients get 550 5.1.1.
    pub refuse: Refuse,
    /// Cut the connection without a word.
    pub cut: Option<Cut>,
    /// Further connections get 421.
    pub connections_max: Option<usize>,
    /// After this many messages a connection gets 421.
    pub messages_per_connection: Option<u64>,
}

impl Default for Behaviour {
    fn default() -> Behaviour {
        Behaviour {
            hostname: "mx.posthaste.test".into(),
            tls: Tls::Offered,
            pipelining: true,
            chunking: true,
            eight_bit: true,
            smtputf8: true,
            dsn: true,
            size_max: 50 << 20,
            reply_delay: Duration::ZERO,
            greylist: None,
            refuse: Refuse::Nobody,
            cut: None,
            connections_max: None,
            messages_per_connection: None,
        }
    }
}

/// What becomes of STARTTLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// Offered, and it works, with a self-signed certificate.
    Offered,
    /// Not offered.
    Absent,
    /// Offered, then refused with 454.
    Refused,
    /// Offered and begun, but the handshake is answered with garbage.
    Garbage,
}

/// Which recipients are refused for good.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Refuse {
    /// None.
    Nobody,
    /// All.
    Everybody,
    /// About this share, 0.0..=1.0, chosen by the address: the same ones every time.
    Share(f64),
}

impl Refuse {
    pub(super) fn refuses(self, address: &str) -> bool {
        match self {
            Refuse::Nobody => false,
            Refuse::Everybody => true,
            Refuse::Share(share) => f64::from(crc32fast::hash(address.as_bytes())) < share * f64::from(u32::MAX),
        }
    }
}

/// Where and how often a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Where.
    pub phase: Phase,
    /// Every nth time that this point is reached; 1: always.
    pub every: u64,
}

/// A point of the dialogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Before the banner.
    Connect,
    /// After the banner.
    Banner,
    /// After MAIL, before its reply.
    Mail,
    /// After RCPT, before its reply.
    Rcpt,
    /// When the content begins.
    Content,
    /// After the content was written down, before the reply to it: the sender cannot know.
    End,
}

/// What a receiver has seen so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Connections.
    pub connections: u64,
    /// Connections that went over to TLS.
    pub tls: u64,
    /// Of these, those that resumed a session.
    pub tls_resumed: u64,
    /// Messages taken.
    pub messages: u64,
    /// Recipients refused for good.
    pub refused: u64,
    /// Recipients put off by greylisting.
    pub deferred: u64,
    /// Connections cut on purpose.
    pub cut: u64,
}

#[derive(Debug, Default)]
struct Counters {
    connections: AtomicU64,
    tls: AtomicU64,
    tls_resumed: AtomicU64,
    messages: AtomicU64,
    refused: AtomicU64,
    deferred: AtomicU64,
    cut: AtomicU64,
    cut_chances: AtomicU64,
}

/// A running receiver. Dropping it closes its port and cuts its connections.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
    _task: AbortOnDropHandle<()>,
}

struct Shared {
    behaviour: Behaviour,
    acceptor: Option<TlsAcceptor>,
    mailbox: Mailbox,
    greylist: Greylist,
    counters: Counters,
    violations: Mutex<Vec<String>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("behaviour", &self.behaviour).finish_non_exhaustive()
    }
}

impl Receiver {
    /// Serves on `listener`; [`bind_together`] makes several on one port.
    ///
    /// # Errors
    /// When no certificate can be made or the file to record into cannot be opened.
    pub fn start(listener: TcpListener, behaviour: Behaviour, keep: Keep) -> io::Result<Receiver> {
        let address = listener.local_addr()?;
        let acceptor = match behaviour.tls {
            Tls::Offered => Some(acceptor(&behaviour.hostname).map_err(io::Error::other)?),
            Tls::Absent | Tls::Refused | Tls::Garbage => None,
        };
        let shared = Arc::new(Shared {
            acceptor,
            mailbox: Mailbox::open(&keep)?,
            behaviour,
            greylist: Greylist::default(),
            counters: Counters::default(),
            violations: Mutex::default(),
        });
        let task = tokio::spawn(serve(listener, Arc::clone(&shared)));
        Ok(Receiver { address, shared, _task: AbortOnDropHandle::new(task) })
    }

    /// Serves on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// As [`Receiver::start`], and when no port is free.
    pub async fn start_anywhere(behaviour: Behaviour, keep: Keep) -> io::Result<Receiver> {
        Receiver::start(TcpListener::bind("127.0.0.1:0").await?, behaviour, keep)
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// What it took so far, in the order of taking; empty when it records to a file.
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.shared.mailbox.all()
    }

    /// How many recipients it took so far.
    pub fn delivered(&self) -> usize {
        self.shared.mailbox.count()
    }

    /// Waits until it took `count` recipients in all. Cancel safe; put a time limit around it.
    pub async fn reach(&self, count: usize) {
        self.shared.mailbox.reach(count).await;
    }

    /// What it has seen.
    pub fn counts(&self) -> Counts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.shared.counters;
        Counts {
            connections: of(&counters.connections),
            tls: of(&counters.tls),
            tls_resumed: of(&counters.tls_resumed),
            messages: of(&counters.messages),
            refused: of(&counters.refused),
            deferred: of(&counters.deferred),
            cut: of(&counters.cut),
        }
    }

    /// What the sender did that the protocol forbids, at most the first 100.
    pub fn violations(&self) -> Vec<String> {
        self.shared.violations.lock().expect("no code panics under this lock").clone()
    }
}

impl Shared {
    fn violation(&self, what: String) {
        let mut violations = self.violations.lock().expect("no code panics under this lock");
        if violations.len() < VIOLATIONS_MAX {
            violations.push(what);
        }
    }

    /// Whether to cut here, this time.
    fn cuts(&self, phase: Phase) -> bool {
        let Some(cut) = self.behaviour.cut.filter(|cut| cut.phase == phase) else { return false };
        let chance = self.counters.cut_chances.fetch_add(1, Ordering::Relaxed) + 1;
        let now = chance.is_multiple_of(cut.every.max(1));
        if now {
            self.counters.cut.fetch_add(1, Ordering::Relaxed);
        }
        now
    }
}

/// Listeners on one free port of several addresses, as an MX set with one port needs.
///
/// # Errors
/// When an address cannot be bound at all, or no port was free on all of them.
pub async fn bind_together(addresses: &[IpAddr]) -> io::Result<Vec<TcpListener>> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    'port: for _ in 0..64 {
        let mut listeners: Vec<TcpListener> = Vec::with_capacity(addresses.len());
        for address in addresses {
            let port = match listeners.first() {
                Some(first) => first.local_addr()?.port(),
                None => 0,
            };
            match TcpListener::bind((*address, port)).await {
                Ok(listener) => listeners.push(listener),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    last = error;
                    continue 'port;
                }
                Err(error) => return Err(error),
            }
        }
        return Ok(listeners);
    }
    Err(last)
}

/// Stops when its task is aborted; the sessions are in its set and go with it.
async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut sessions = JoinSet::new();
    let mut number = 0;
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                number += 1;
                shared.counters.connections.fetch_add(1, Ordering::Relaxed);
                let crowded = shared.behaviour.connections_max.is_some_and(|max| sessions.len() >= max);
                sessions.spawn(session::run(stream, Arc::clone(&shared), number, crowded));
            }
            Some(_) = sessions.join_next() => {}
        }
    }
}

fn acceptor(hostname: &str) -> Result<TlsAcceptor, Box<dyn std::error::Error + Send + Sync>> {
    let certified = rcgen::generate_simple_self_signed([hostname.to_owned()])?;
    let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key.into())?;
    config.session_storage = rustls::server::ServerSessionMemoryCache::new(4096);
    Ok(TlsAcceptor::from(Arc::new(config)))
}

#[cfg(test)]
mod tests;
