//! What a receiver does at each step of a dialogue: the sum of its [`Habit`]s.
//!
//! The habits of a [`Mind`] share their state over all hosts and sessions of a site. Each is asked in turn; the first that
//! answers decides, and what all of them take in time adds up. Who has none takes everything. All chance comes from one
//! seed and all time from [`Clock`], so on paused time a receiver does the same again.

use std::borrow::Cow;
use std::fmt::Debug;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::clock::{Clock, Timestamp};

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
    /// The content begins, by DATA or BDAT. No reply is due here: whatever the answer is but [`Answer::Take`], it is the end.
    Content,
    /// The end of the content, by dot or `BDAT … LAST`.
    End,
}

/// What a habit is asked.
#[derive(Debug)]
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

impl Answer {
    /// It is a reply that ends a recipient.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Answer::Say(reply) | Answer::Close(reply) if reply.starts_with('5'))
    }
}

/// One trait of a receiver's behaviour.
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

/// What is known of a dialogue; the rest of an [`Ask`] the mind knows itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Known<'a> {
    /// Which of the site's hosts was called.
    pub host: usize,
    /// Who calls.
    pub source: Option<IpAddr>,
    /// The address of MAIL.
    pub sender: &'a str,
    /// The address of RCPT.
    pub recipient: &'a str,
    /// Recipients taken in this transaction so far.
    pub recipients: usize,
    /// Transactions of this session, this one included.
    pub transactions: usize,
}

/// The habits of a site, with what they remember.
#[derive(Debug)]
pub struct Mind {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    habits: Vec<Box<dyn Habit>>,
    rng: SmallRng,
    sessions: usize,
}

impl Mind {
    /// A mind of these habits; the seed is for its moods.
    pub fn new(habits: Vec<Box<dyn Habit>>, seed: u64) -> Arc<Mind> {
        Arc::new(Mind { state: Mutex::new(State { habits, rng: SmallRng::seed_from_u64(seed), sessions: 0 }) })
    }

    /// What happens here, and after how long.
    pub fn ask(&self, step: Step, known: &Known<'_>) -> (Duration, Answer) {
        let mut state = self.state();
        let State { habits, rng, sessions } = &mut *state;
        let mut ask = Ask {
            step,
            now: Clock.timestamp(),
            host: known.host,
            source: known.source,
            sessions: *sessions,
            sender: known.sender,
            recipient: known.recipient,
            recipients: known.recipients,
            transactions: known.transactions,
            rng,
        };
        let delay = habits.iter_mut().map(|habit| habit.delay(&mut ask)).sum();
        let answer = habits.iter_mut().find_map(|habit| habit.answer(&mut ask));
        (delay, answer.unwrap_or(Answer::Take))
    }

    /// A session begins; it counts until what is returned is dropped.
    pub fn visit(self: &Arc<Mind>) -> Visit {
        self.state().sessions += 1;
        Visit(Arc::clone(self))
    }

    /// Chance for the session itself: true in half of all cases.
    pub(super) fn coin(&self) -> bool {
        self.state().rng.random()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no habit panics")
    }
}

/// A session at a site, for as long as it lives.
#[derive(Debug)]
pub struct Visit(Arc<Mind>);

impl Drop for Visit {
    fn drop(&mut self) {
        self.0.state().sessions -= 1;
    }
}
