//! Habits of receivers, each a few fields. Combine them freely; order matters only where two answer at one step.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

use rand::RngExt;

use super::mind::{Answer, Ask, Habit, Step};
use crate::clock::Timestamp;

/// From when until when.
pub type Window = Range<Timestamp>;

/// Always.
pub fn always() -> Window {
    Timestamp(0)..Timestamp(u64::MAX)
}

/// Users whose names begin with `u` do not exist.
#[derive(Debug)]
pub struct UnknownUsers;

impl Habit for UnknownUsers {
    fn answer(&mut self, ask: &mut Ask<'_>) -> Option<Answer> {
        (ask.step == Step::Rcpt && ask.recipient.starts_with('u'))
            .then(|| Answer::Say("550 5.1.1 no such user here".into()))
    }
}

/// About this share of users, 0.0..=1.0, does not exist; chosen by the address: the same ones every time.
#[derive(Debug)]
pub struct Refuses(pub f64);

impl Refuses {
    /// Whether this user does not exist.
    pub fn refuses(&self, address: &str) -> bool {
        f64::from(crc32fast::hash(address.as_bytes())) < self.0 * 2f64.powi(32)
    }
}

impl Habit for Refuses {
    fn answer(&mut self, ask: &mut Ask<'_>) -> Option<Answer> {
        (ask.step == Step::Rcpt && self.refuses(ask.recipient)).then(|| Answer::Say("550 5.1.1 no such user".into()))
    }
}

/// One host, or all, cannot be reached for a while.
#[derive(Debug)]
pub struct Away {
    /// Which host; `None`: all.
    pub host: Option<usize>,
    /// When.
    pub window: Window,
    /// Does not even refuse.
    pub silent: bool,
}

impl Habit for Away {
    fn answer(&mut self, ask: &mut Ask<'_>) -> Option<Answer> {
        let struck = ask.step == Step::Connect && self.host.is_none_or(|host| host == ask.host);
        (struck && self.window.contains(&ask.now)).then_some(if self.silent { Answer::Hang } else { Answer::Cut })
    }
}

/// The same reply at one step for a while, whoever comes.
#[derive(Debug)]
pub struct Replies {
    /// Where.
    pub step: Step,
    /// When.
    pub window: Window,
    /// What.
    pub reply: &'static str,
}

impl Habit for Replies {
    fn answer(&mut self, ask: &mut Ask<'_>) -> Option<Answer> {
        (ask.step == self.step && self.window.contains(&ask.now)).then(|| Answer::Say(self.reply.into()))
    }
}

/// A sender and recipient never seen are told to come back after a while.
#[derive(Debug)]
pub struct Greylists {
    wait: Duration,
    seen: HashMap<(Box<str>, Box<str>), Timestamp>,
}

/// Pairs that greylisting remembers; beyond it strangers are let in, so that memory stays bounded.
const PAIRS_MAX: usize = 1_000_000;

impl Greylists {
    /// Strangers wait so long from their first try on.
    pub fn after(wait: Duration) -> Greylists {
        Greylists { wait, seen: HashMap::new() }
    }
}

impl Habit for Greylists {
    fn answer(&mut self, ask: &mut Ask<'_>) -> Option<Answer> {
        if ask.step != Step::Rcpt {
            return None;
        }
        let pair = (ask.sender.into(), ask.recipient.into());
        if self.seen.len() >= PAIRS_MAX && !self.seen.contains_key(&pair) {
            return None;
        }
        let first = *self.seen.entry(pair).or_insert(ask.now);
        (ask.now < first.after(self.wait)).then(|| Answer::Say("450 4.7.1 greylisted, come back later".into()))
    }
}

/// No more sessions than this at once.
#[derive(Debug)]
pub struct SessionsMax(pub usize);

impl Habit for SessionsMax {
    fn answer(&mut self, ask: &mut Ask<'_>) -> Option<Answer> {
        (ask.step == Step::Greeting && ask.sessions > self.0)
            .then(|| Answer::Close("421 4.7.0 too many connections from you".into()))
    }
}

/// No more transactions than this in one session.
#[derive(Debug)]
pub struct TransactionsMax(pub usize);

impl Habit for TransactionsMax {
    fn answer(&mut self, ask: &mut Ask<'_>) -> Option<Answer> {
        (ask.step == Step::Mail && ask.transactions > self.0)
            .then(|| Answer::Close("421 4.7.0 enough for one connection".into()))
    }
}

/// No more recipients than this in one transaction.
#[derive(Debug)]
pub struct RecipientsMax(pub usize);

impl Habit for RecipientsMax {
    fn answer(&mut self, ask: &mut Ask<'_>) -> Option<Answer> {
        (ask.step == Step::Rcpt && ask.recipients >= self.0)
            .then(|| Answer::Say("452 4.5.3 too many recipients".into()))
    }
}

/// So many transactions a minute, with as large a burst; more are told to slow down.
#[derive(Debug)]
pub struct RateMax {
    per_minute: f64,
    tokens: f64,
    filled_at: Option<Timestamp>,
}

impl RateMax {
    /// The bucket is full at first.
    pub fn per_minute(per_minute: f64) -> RateMax {
        RateMax { per_minute, tokens: per_minute, filled_at: None }
    }
}

impl Habit for RateMax {
    fn answer(&mut self, ask: &mut Ask<'_>) -> Option<Answer> {
        if ask.step != Step::Mail {
            return None;
        }
        let filled_at = self.filled_at.replace(ask.now).unwrap_or(ask.now);
        let minutes = ask.now.since(filled_at).as_secs_f64() / 60.0;
        self.tokens = (self.tokens + minutes * self.per_minute).min(self.per_minute);
        if self.tokens < 1.0 {
            return Some(Answer::Say("451 4.7.28 rate limited, slow down".into()));
        }
        self.tokens -= 1.0;
        None
    }
}

/// The same of each address that calls.
#[derive(Debug)]
pub struct RateOfEach {
    per_minute: f64,
    of: HashMap<Option<IpAddr>, RateMax>,
}

impl RateOfEach {
    /// So many transactions a minute.
    pub fn per_minute(per_minute: f64) -> RateOfEach {
        RateOfEach { per_minute, of: HashMap::new() }
    }
}

impl Habit for RateOfEach {
    fn answer(&mut self, ask: &mut Ask<'_>) -> Option<Answer> {
        let per_minute = self.per_minute;
        self.of.entry(ask.source).or_insert_with(|| RateMax::per_minute(per_minute)).answer(ask)
    }
}

/// Mailboxes whose names begin with `f` are full for a while.
#[derive(Debug)]
pub struct MailboxesFull(pub Window);

impl Habit for MailboxesFull {
    fn answer(&mut self, ask: &mut Ask<'_>) -> Option<Answer> {
        (ask.step == Step::Rcpt && ask.recipient.starts_with('f') && self.0.contains(&ask.now))
            .then(|| Answer::Say("452 4.2.2 mailbox full".into()))
    }
}

/// A mailbox now and then takes no more for a while: this share of all tries.
#[derive(Debug)]
pub struct MailboxesBusy(pub f64);

impl Habit for MailboxesBusy {
    fn answer(&mut self, ask: &mut Ask<'_>) -> Option<Answer> {
        (ask.step == Step::Rcpt && ask.rng.random_bool(self.0))
            .then(|| Answer::Say("450 4.2.1 no more for now, later, please".into()))
    }
}

/// One of our addresses is not liked for a while.
#[derive(Debug)]
pub struct Blocks {
    /// Which; `None`: all.
    pub source: Option<IpAddr>,
    /// When.
    pub window: Window,
}

impl Habit for Blocks {
    fn answer(&mut self, ask: &mut Ask<'_>) -> Option<Answer> {
        let meant = self.source.is_none() || self.source == ask.source;
        (ask.step == Step::Greeting && meant && self.window.contains(&ask.now))
            .then(|| Answer::Close("554 5.7.1 your address is blocked".into()))
    }
}

/// Hangs up at one step, every so many times that a dialogue comes there; at [`Step::End`] it has kept the message.
#[derive(Debug)]
pub struct Cuts {
    step: Step,
    every: u64,
    chances: u64,
}

impl Cuts {
    /// Every nth time; 1: always.
    pub fn every(every: u64, step: Step) -> Cuts {
        Cuts { step, every: every.max(1), chances: 0 }
    }
}

impl Habit for Cuts {
    fn answer(&mut self, ask: &mut Ask<'_>) -> Option<Answer> {
        if ask.step != self.step {
            return None;
        }
        self.chances += 1;
        let cut = if ask.step == Step::End { Answer::TakeAndCut } else { Answer::Cut };
        self.chances.is_multiple_of(self.every).then_some(cut)
    }
}

/// Hangs up after the end of the content now and then; in half of these cases it has kept the message.
#[derive(Debug)]
pub struct DropsAfterDot(pub f64);

impl Habit for DropsAfterDot {
    fn answer(&mut self, ask: &mut Ask<'_>) -> Option<Answer> {
        (ask.step == Step::End && ask.rng.random_bool(self.0))
            .then(|| if ask.rng.random() { Answer::TakeAndCut } else { Answer::Cut })
    }
}

/// Says nothing more now and then: the connection is half open.
#[derive(Debug)]
pub struct Hangs {
    /// Where.
    pub step: Step,
    /// How often, as a share.
    pub share: f64,
}

impl Habit for Hangs {
    fn answer(&mut self, ask: &mut Ask<'_>) -> Option<Answer> {
        (ask.step == self.step && ask.rng.random_bool(self.share)).then_some(Answer::Hang)
    }
}

/// Does anything at any step now and then.
#[derive(Debug)]
pub struct Moody(pub f64);

impl Habit for Moody {
    fn answer(&mut self, ask: &mut Ask<'_>) -> Option<Answer> {
        if matches!(ask.step, Step::Connect | Step::Tls | Step::Content) || !ask.rng.random_bool(self.0) {
            return None;
        }
        Some(match ask.rng.random_range(0..9) {
            0 => Answer::Say("451 4.3.0 try again".into()),
            1 => Answer::Say("450-4.2.0 not\r\n450 4.2.0 now".into()),
            2 => Answer::Say("554 5.7.1 I do not like it".into()),
            3 => Answer::Close("421 4.3.2 going down".into()),
            4 => Answer::Say("what?".into()),
            5 => Answer::Say("999 out of range".into()),
            6 => Answer::Say("503 5.5.1 bad sequence".into()),
            7 => Answer::Hang,
            _ => Answer::Cut,
        })
    }
}

/// Takes its time at one step, or before each reply.
#[derive(Debug)]
pub struct Slow {
    /// Where; `None`: before each reply.
    pub step: Option<Step>,
    /// How long at least.
    pub least: Duration,
    /// And at most.
    pub most: Duration,
}

impl Habit for Slow {
    fn delay(&mut self, ask: &mut Ask<'_>) -> Duration {
        match self.step.map_or(ask.step != Step::Content, |step| step == ask.step) {
            true => ask.rng.random_range(self.least..=self.most),
            false => Duration::ZERO,
        }
    }
}
