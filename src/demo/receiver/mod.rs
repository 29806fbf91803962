//! A receiving mail server, with manners to choose: the peer of the demo, the tests, the benches and the simulation.
//!
//! It takes a message in four steps: parse the dialogue with a reader of its own, ask at each step what its [`Habit`]s
//! make of it, write every delivery down ([`Books`]), and only then answer the end of the content with 250. So
//! what it recorded is what the sender may call delivered, give or take a lost reply. It also watches the sender's
//! manners and notes each violation of the protocol. It shares no code with `submission` or `delivery`: a mistake made
//! twice would not show.
//!
//! [`Receiver`] serves on loopback. The simulation calls [`run`] on pipes, with books and a clock of its own. How a
//! receiver behaves is the same in both: a new behaviour is a new struct in [`habits`].

pub mod habits;
mod mailbox;
mod mind;
mod record;
mod session;
mod transaction;
mod wire;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

pub use mailbox::{Delivery, Keep};
pub use mind::{Answer, Ask, Habit, Known, Mind, Step, Visit};
use record::Record;
pub use session::{Caller, Host, run};
pub use wire::Socket;

/// How a receiver behaves. The default takes everything at once, over TLS, with all extensions.
#[derive(Debug)]
pub struct Behaviour {
    /// Its name in the banner and the certificate.
    pub hostname: String,
    /// What it says it can do.
    pub offers: Offers,
    /// From a flight of commands to the first reply, beside what the network takes.
    pub rtt: Duration,
    /// What it does.
    pub habits: Vec<Box<dyn Habit>>,
    /// For what its habits leave to chance.
    pub seed: u64,
}

impl Default for Behaviour {
    fn default() -> Behaviour {
        let hostname = "mx.posthaste.test".into();
        Behaviour { hostname, offers: Offers::default(), rtt: Duration::ZERO, habits: Vec::new(), seed: 1 }
    }
}

impl Behaviour {
    /// With one more habit.
    pub fn habit(mut self, habit: impl Habit + 'static) -> Behaviour {
        self.habits.push(Box::new(habit));
        self
    }

    /// With other offers.
    pub fn offering(self, offers: Offers) -> Behaviour {
        Behaviour { offers, ..self }
    }
}

/// What a receiver says it can do. By default all of it.
#[derive(Debug, Clone, Copy)]
pub struct Offers {
    /// What becomes of STARTTLS.
    pub tls: Tls,
    /// PIPELINING (RFC 2920).
    pub pipelining: bool,
    /// CHUNKING (RFC 3030).
    pub chunking: bool,
    /// 8BITMIME (RFC 6152).
    pub eight_bit: bool,
    /// SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// DSN (RFC 3461).
    pub dsn: bool,
    /// Largest message in octets, as SIZE (RFC 1870).
    pub size_max: usize,
}

impl Default for Offers {
    fn default() -> Offers {
        Offers {
            tls: Tls::Offered,
            pipelining: true,
            chunking: true,
            eight_bit: true,
            smtputf8: true,
            dsn: true,
            size_max: 50 << 20,
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
    /// Offered and begun, but then the connection is dropped.
    Dropped,
}

/// A message that a receiver takes.
#[derive(Debug)]
pub struct Taken<'a> {
    /// The reverse path; empty when null.
    pub sender: &'a str,
    /// Addresses as given in RCPT.
    pub recipients: Vec<String>,
    /// Header and body.
    pub content: &'a [u8],
    /// It came over TLS.
    pub tls: bool,
    /// On which connection.
    pub session: u64,
}

/// Who writes down what happens at a receiver.
pub trait Books: Send + Sync + 'static {
    /// Names what was taken, for [`Books::answered`].
    type Receipt: Send;

    /// The habits of this host were asked, and this is the answer.
    fn happened(&self, host: &str, step: Step, recipient: &str, answer: &Answer);

    /// Somebody has mail for this recipient.
    fn asked(&self, _recipient: &str) {}

    /// This recipient was refused for good.
    fn refused(&self, _recipient: &str) {}

    /// Whatever this sender has was refused for good.
    fn refused_sender(&self, _sender: &str) {}

    /// A handshake succeeded; perhaps by resuming a session.
    fn secured(&self, _resumed: bool) {}

    /// A message is kept. The reply that says so has not left.
    ///
    /// # Errors
    /// It cannot be kept: the sender is told to come again.
    fn took(&self, taken: Taken<'_>) -> io::Result<Self::Receipt>;

    /// The reply that says so is on its way, and the client must take it for one if `heard`.
    fn answered(&self, _receipt: Self::Receipt, _heard: bool) {}

    /// The sender did what the protocol forbids.
    fn violation(&self, what: String);
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
    /// Recipients put off, as by greylisting.
    pub deferred: u64,
    /// Connections cut on purpose.
    pub cut: u64,
}

/// A running receiver. Dropping it closes its port and cuts its connections.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    record: Arc<Record>,
    _task: AbortOnDropHandle<()>,
}

impl Receiver {
    /// Serves on `listener`; [`bind_together`] makes several on one port.
    ///
    /// # Errors
    /// When no certificate can be made or the file to record into cannot be opened.
    pub fn start(listener: TcpListener, behaviour: Behaviour, keep: Keep) -> io::Result<Receiver> {
        let address = listener.local_addr()?;
        let Behaviour { hostname, offers, rtt, habits, seed } = behaviour;
        let acceptor = if offers.tls == Tls::Offered { Some(acceptor(&hostname)?) } else { None };
        let host = Host { name: hostname, number: 0, offers, rtt, mind: Mind::new(habits, seed), acceptor };
        let record = Arc::new(Record::open(&keep)?);
        let task = tokio::spawn(serve(listener, Arc::new(host), Arc::clone(&record)));
        Ok(Receiver { address, record, _task: AbortOnDropHandle::new(task) })
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
        self.record.mailbox.all()
    }

    /// How many recipients it took so far.
    pub fn delivered(&self) -> usize {
        self.record.mailbox.count()
    }

    /// Waits until it took `count` recipients in all. Cancel safe; put a time limit around it.
    pub async fn reach(&self, count: usize) {
        self.record.mailbox.reach(count).await;
    }

    /// What it has seen.
    pub fn counts(&self) -> Counts {
        self.record.counts()
    }

    /// What the sender did that the protocol forbids, at most the first 100.
    pub fn violations(&self) -> Vec<String> {
        self.record.violations()
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
async fn serve(listener: TcpListener, host: Arc<Host>, record: Arc<Record>) {
    let mut sessions = JoinSet::new();
    let mut number = 0;
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, peer)) = accepted else { continue };
                number += 1;
                record.connected();
                let caller = Caller { source: Some(peer.ip()), number, visit: host.mind.visit() };
                sessions.spawn(answer(stream, Arc::clone(&host), Arc::clone(&record), caller));
            }
            Some(_) = sessions.join_next() => {}
        }
    }
}

/// Takes a connection, if the habits want it to.
async fn answer(stream: TcpStream, host: Arc<Host>, record: Arc<Record>, caller: Caller) {
    let _ = stream.set_nodelay(true);
    let known = Known { host: host.number, source: caller.source, ..Known::default() };
    let (delay, answer) = host.mind.ask(Step::Connect, &known);
    tokio::time::sleep(delay).await;
    record.happened(&host.name, Step::Connect, "", &answer);
    match answer {
        Answer::Take => run(host, record, caller, Box::new(stream)).await,
        Answer::Hang => std::future::pending().await,
        Answer::Say(_) | Answer::Close(_) | Answer::Cut | Answer::TakeAndCut => {}
    }
}

/// For handshakes by a fresh self-signed certificate.
///
/// # Errors
/// When none can be made.
pub fn acceptor(hostname: &str) -> io::Result<TlsAcceptor> {
    let certified = rcgen::generate_simple_self_signed([hostname.to_owned()]).map_err(io::Error::other)?;
    let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder.with_no_client_auth().with_single_cert(vec![certified.cert.der().clone()], key.into())
        })
        .map_err(io::Error::other)?;
    config.session_storage = rustls::server::ServerSessionMemoryCache::new(4096);
    Ok(TlsAcceptor::from(Arc::new(config)))
}

#[cfg(test)]
mod tests;
