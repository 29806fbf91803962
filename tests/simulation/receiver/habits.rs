//! Habits of receivers, each a few fields. Combine them freely; order matters only where two answer at one step.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

use posthaste::clock::Timestamp;
use rand::RngExt;

use super::{Answer, Ask, Habit, Step};

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

/// One host, or all, cannot be reached for a while.
#[derive(Debug)]
pub struct Away {
    pub host: Option<usize>,
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
    pub step: Step,
    pub window: Window,
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
    pub wait: Duration,
    pub seen: HashMap<(Box<str>, Box<str>), Timestamp>,
}

impl Habit for Greylists {
    fn answer(&mut self, ask: &mut Ask<'_>) -> Option<Answer> {
        if ask.step != Step::Rcpt {
            return None;
        }
        let first = *self.seen.entry((ask.sender.into(), ask.recipient.into())).or_insert(ask.now);
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
    pub per_minute: f64,
    pub tokens: f64,
    pub filled_at: Timestamp,
}

impl Habit for RateMax {
    fn answer(&mut self, ask: &mut Ask<'_>) -> Option<Answer> {
        if ask.step != Step::Mail {
            return None;
        }
        let minutes = ask.now.since(self.filled_at).as_secs_f64() / 60.0;
        self.tokens = (self.tokens + minutes * self.per_minute).min(self.per_minute);
        self.filled_at = ask.now;
        if self.tokens < 1.0 {
            return Some(Answer::Say("451 4.7.28 rate limited, slow down".into()));
        }
        self.tokens -= 1.0;
        None
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

/// One of our addresses is not liked for a while.
#[derive(Debug)]
pub struct Blocks {
    pub source: Option<IpAddr>,
    pub window: Window,
}

impl Habit for Blocks {
    fn answer(&mut self, ask: &mut Ask<'_>) -> Option<Answer> {
        let meant = self.source.is_none() || self.source == ask.source;
        (ask.step == Step::Greeting && meant && self.window.contains(&ask.now))
            .then(|| Answer::Close("554 5.7.1 your address is blocked".into()))
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

/// Says nothing more now and then.
#[derive(Debug)]
pub struct Hangs {
    pub step: Step,
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
        if matches!(ask.step, Step::Connect | Step::Tls) || !ask.rng.random_bool(self.0) {
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

/// Takes its time at one step, or at all.
#[derive(Debug)]
pub struct Slow {
    pub step: Option<Step>,
    pub least: Duration,
    pub most: Duration,
}

impl Habit for Slow {
    fn delay(&mut self, ask: &mut Ask<'_>) -> Duration {
        match self.step.is_none_or(|step| step == ask.step) {
            true => ask.rng.random_range(self.least..=self.most),
            false => Duration::ZERO,
        }
    }
}
