//! Receivers: sites of several hosts that speak SMTP over a simulated network, each with habits of its own.
//!
//! A [`Site`] is a set of hosts with one mind: its [`Habit`]s share their state over all hosts and sessions. At every
//! step of every dialogue each habit is asked in turn; the first that answers decides, and what all of them take in time
//! adds up. A site without habits takes everything. New behaviour is a new struct in `habits.rs`.

pub mod habits;
mod session;

use std::borrow::Cow;
use std::fmt::Debug;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use posthaste::clock::Timestamp;
use posthaste::delivery::Io;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::world::World;

/// Where a dialogue is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// TCP.
    Connect,
    /// The first line.
    Greeting,
    /// EHLO, HELO.
    Ehlo,
    /// The handshake.
    Tls,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA.
    Data,
    /// The end of the content, by dot or `BDAT … LAST`.
    End,
}

/// What a habit is asked.
pub struct Ask<'a> {
    /// Where the dialogue is.
    pub step: Step,
    /// When.
    pub now: Timestamp,
    /// Which of the site's hosts was called.
    pub host: usize,
    /// Who calls.
    pub source: Option<IpAddr>,
    /// Sessions at this site, this one included.
    pub sessions: usize,
    /// The address of MAIL; empty before it and for reports.
    pub sender: &'a str,
    /// The address of RCPT; empty elsewhere.
    pub recipient: &'a str,
    /// Recipients taken in this transaction so far.
    pub recipients: usize,
    /// Transactions of this session, this one included.
    pub transactions: usize,
    /// Chance.
    pub rng: &'a mut SmallRng,
}

/// What a receiver does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// What a willing receiver says here.
    Take,
    /// This reply, without its line end.
    Say(Cow<'static, str>),
    /// This reply, then close.
    Close(Cow<'static, str>),
    /// Close without a word; at [`Step::Connect`]: refuse.
    Cut,
    /// At [`Step::End`]: keep the message, then close without a word.
    TakeAndCut,
    /// Nothing more, until the client gives up.
    Hang,
}

/// One trait of a site's behaviour.
pub trait Habit: Send + Debug {
    /// What it does here; `None`: nothing against it.
    fn answer(&mut self, _ask: &mut Ask<'_>) -> Option<Answer> {
        None
    }

    /// What it takes in time, whatever the answer.
    fn delay(&mut self, _ask: &mut Ask<'_>) -> Duration {
        Duration::ZERO
    }
}

/// What a site does about TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsOffer {
    /// Does not offer it.
    None,
    /// Offers it, and it works.
    Works,
    /// Offers it and drops the connection in the handshake.
    Breaks,
}

/// What a site says it can do.
#[derive(Debug, Clone, Copy)]
pub struct Offers {
    pub pipelining: bool,
    pub chunking: bool,
    pub tls: TlsOffer,
}

/// A set of hosts with one mind.
#[derive(Debug)]
pub struct Site {
    /// What it is, for reports of what went wrong.
    pub name: String,
    /// Names and addresses of its hosts, best preference first.
    pub hosts: Vec<(String, IpAddr)>,
    /// Extensions.
    pub offers: Offers,
    /// Time from a flight of commands to the first reply.
    pub rtt: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    habits: Vec<Box<dyn Habit>>,
    rng: SmallRng,
    sessions: usize,
}

/// Counts a session of a site for as long as it lives.
struct Visit(Arc<Site>);

impl Drop for Visit {
    fn drop(&mut self) {
        self.0.state.lock().unwrap().sessions -= 1;
    }
}

impl Site {
    /// A site with these habits; the seed is for its moods.
    pub fn new(
        name: String,
        hosts: Vec<(String, IpAddr)>,
        offers: Offers,
        rtt: Duration,
        habits: Vec<Box<dyn Habit>>,
        seed: u64,
    ) -> Site {
        let state = State { habits, rng: SmallRng::seed_from_u64(seed), sessions: 0 };
        Site { name, hosts, offers, rtt, state: Mutex::new(state) }
    }

    /// What happens here, and after how long.
    fn ask(&self, world: &World, step: Step, host: usize, visit: &session::Known<'_>) -> (Duration, Answer) {
        let mut state = self.state.lock().unwrap();
        let State { habits, rng, sessions } = &mut *state;
        let mut ask = Ask {
            step,
            now: world.now(),
            host,
            source: visit.source,
            sessions: *sessions,
            sender: visit.sender,
            recipient: visit.recipient,
            recipients: visit.recipients,
            transactions: visit.transactions,
            rng,
        };
        let delay = habits.iter_mut().map(|habit| habit.delay(&mut ask)).sum();
        let answer = habits.iter_mut().find_map(|habit| habit.answer(&mut ask));
        (delay, answer.unwrap_or(Answer::Take))
    }

    /// Somebody calls: whether he is let in, and then the dialogue, which runs by itself.
    ///
    /// # Errors
    /// He is not let in.
    pub async fn call(
        self: &Arc<Site>,
        world: &Arc<World>,
        host: usize,
        source: Option<IpAddr>,
    ) -> std::io::Result<Box<dyn Io>> {
        tokio::time::sleep(self.rtt).await;
        let (delay, answer) = self.ask(world, Step::Connect, host, &session::Known { source, ..Default::default() });
        tokio::time::sleep(delay).await;
        match answer {
            Answer::Take => {}
            Answer::Hang => std::future::pending().await,
            _ => return Err(std::io::ErrorKind::ConnectionRefused.into()),
        }
        let (theirs, ours) = tokio::io::duplex(64 << 10);
        self.state.lock().unwrap().sessions += 1;
        let visit = Visit(Arc::clone(self));
        tokio::spawn(session::run(Arc::clone(world), visit, host, source, Box::new(ours)));
        Ok(Box::new(theirs))
    }

    /// Chance for the session itself: true in half of all cases.
    fn coin(&self) -> bool {
        self.state.lock().unwrap().rng.random()
    }
}
