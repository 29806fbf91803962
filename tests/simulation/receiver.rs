//! Receivers: sites of several hosts that speak SMTP over a simulated network, each with habits of its own.
//!
//! They are those of the demo (`posthaste::demo::receiver`), on pipes instead of sockets and on paused time. A [`Site`] is a
//! set of hosts with one mind: its habits share their state over all hosts and sessions. A site without habits takes
//! everything. What is seen is entered in the books of the [`World`].

use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use posthaste::delivery::Io;
pub use posthaste::demo::receiver::{Answer, Ask, Habit, Offers, Step, Tls, habits};
use posthaste::demo::receiver::{Caller, Host, Known, Mind, acceptor, run};
use tokio_rustls::TlsAcceptor;

use crate::world::World;

/// What receivers of a simulation offer, beside what differs.
pub const OFFERS: Offers = Offers {
    tls: Tls::Absent,
    pipelining: true,
    chunking: true,
    eight_bit: true,
    smtputf8: false,
    dsn: false,
    size_max: 50_000_000,
};

/// A set of hosts with one mind.
#[derive(Debug)]
pub struct Site {
    /// What it is, for reports of what went wrong.
    pub name: String,
    /// Names and addresses of its hosts, best preference first.
    pub hosts: Vec<(String, IpAddr)>,
    doors: Vec<Arc<Host>>,
    callers: AtomicU64,
}

impl Site {
    /// A site with these habits; the seed is for its moods, `rtt` the time from a flight of commands to the first reply.
    pub fn new(
        name: String,
        hosts: Vec<(String, IpAddr)>,
        offers: Offers,
        rtt: Duration,
        habits: Vec<Box<dyn Habit>>,
        seed: u64,
    ) -> Site {
        let mind = Mind::new(habits, seed);
        let door = |(number, (name, _)): (usize, &(String, IpAddr))| {
            let acceptor = (offers.tls == Tls::Offered).then(|| ACCEPTOR.clone());
            Arc::new(Host { name: name.clone(), number, offers, rtt, mind: Arc::clone(&mind), acceptor })
        };
        let doors = hosts.iter().enumerate().map(door).collect();
        Site { name, hosts, doors, callers: AtomicU64::new(0) }
    }

    /// Somebody calls: whether he is let in, and then the dialogue, which runs by itself.
    ///
    /// # Errors
    /// He is not let in.
    pub async fn call(&self, world: &Arc<World>, host: usize, source: Option<IpAddr>) -> io::Result<Box<dyn Io>> {
        let door = &self.doors[host];
        tokio::time::sleep(door.rtt).await;
        let (delay, answer) = door.mind.ask(Step::Connect, &Known { host, source, ..Known::default() });
        tokio::time::sleep(delay).await;
        match answer {
            Answer::Take => {}
            Answer::Hang => std::future::pending().await,
            _ => return Err(io::ErrorKind::ConnectionRefused.into()),
        }
        let (theirs, ours) = tokio::io::duplex(64 << 10);
        let number = self.callers.fetch_add(1, Ordering::Relaxed) + 1;
        let caller = Caller { source, number, visit: door.mind.visit() };
        tokio::spawn(run(Arc::clone(door), Arc::clone(world), caller, Box::new(ours)));
        Ok(Box::new(theirs))
    }
}

/// Made once a process, since it costs more than a handshake.
static ACCEPTOR: LazyLock<TlsAcceptor> = LazyLock::new(|| acceptor("mx.sim.example").unwrap());
