//! Pace: what may go now, and when the rest may.
//!
//! Pure: no clock, no network, no disk. `now` is milliseconds on the queue's clock. The queue asks before it opens a
//! connection and before it hands out a batch, and is told to go on, the exact instant at which to ask again, or in which
//! line to stand; nothing polls.
//!
//! - **Limits** (`rows`): what the configuration and the profiles allow. Each message finds its buckets (`limits`, `bucket`);
//!   several may apply, and then all of them hold. Who waits for the same tokens stands in line (`line`), so that a token
//!   costs one look, however many wait for it.
//! - **Steering** (`steering`): what people order (`orders`), what a bad name costs (`brake`), what a new source may (`warmup`).
//!
//! A limit on paths (provider, site, source, pool) holds back a path; its mail may go by another. One on mail (domain,
//! tenant, class, campaign) holds back that mail at one site, and the site goes on with other mail.

pub mod brake;
pub mod bucket;
pub mod controller;
mod index;
mod limits;
mod line;
pub mod orders;
#[doc(hidden)]
pub mod probe;
pub mod provider;
mod rows;
pub mod steering;
pub mod warmup;

pub use limits::{BucketId, Buckets, Fill, FillName, Held, InForce, Limits, Load, PathLimits, Taken};
pub use line::Waiter;
pub use rows::{Allowed, Cap, Counted, Row, Rows, Sizes};

use crate::config::Subject;
use steering::Steering;

/// No instant of the queue's clock.
pub const NEVER: u64 = u64::MAX;

/// Whether something may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Now.
    Go,
    /// Not before this instant, in milliseconds on the queue's clock; later than the `now` it was asked with. [`NEVER`]: not
    /// before somebody says so; nobody is to be woken for it.
    Later(u64),
    /// Not before those who stand in line there: join them with [`Limits::join`].
    Behind(BucketId),
}

/// What is known of the pace of one egress path.
#[derive(Debug, Default)]
pub struct Pace {
    limits: PathLimits,
}

impl Pace {
    /// Its limits.
    pub fn limits(&self) -> &PathLimits {
        &self.limits
    }
}

/// Everything that limits the flow.
#[derive(Debug, Default)]
pub struct Shaper {
    /// The limits in force.
    pub limits: Limits,
    /// Those of the configuration; orders add theirs.
    configured: Rows,
    /// Orders, the reputation brake, warm-up.
    pub steering: Steering,
}

/// What limits say of mail that is to be picked.
#[derive(Debug)]
pub struct Pick {
    /// Whether it may go.
    pub gate: Gate,
    /// Where its tokens are taken from, beside those of the path.
    pub buckets: Buckets,
    /// Recipients it may have in one transaction.
    pub recipients_max: u32,
}

impl Shaper {
    /// Puts other limits of the configuration in force. Those of orders stay.
    pub fn set_rows(&mut self, now: u64, rows: Rows) {
        self.configured = rows;
        self.add_paces(now);
    }

    /// Paces were ordered, changed or taken back: they are limits.
    pub fn add_paces(&mut self, now: u64) {
        let mut rows = self.configured.clone();
        rows.rows.extend(self.steering.orders.rows());
        self.limits.set_rows(now, rows);
    }

    /// Whether orders and warm-up let anything go on a path; of the subject only the path is looked at.
    pub fn may_use<'a>(&mut self, now: u64, path: impl FnOnce() -> Subject<'a>) -> Gate {
        if self.steering.is_idle() {
            return Gate::Go;
        }
        self.steering.gate_path(now, &path())
    }

    /// What is known of a path with so many connections; of the subject only the path is looked at.
    pub fn enter(&mut self, now: u64, path: &Subject<'_>, connections: u32) -> Pace {
        Pace { limits: self.limits.path(now, path, connections) }
    }

    /// The path is gone.
    pub fn leave(&mut self, path: &Pace) {
        self.limits.leave(&path.limits);
    }

    /// Whether a connection may be opened on this path. `senior`: it was let go from a line.
    pub fn may_connect(&mut self, now: u64, path: &mut Pace, senior: bool) -> Gate {
        Gate::of(self.limits.may_connect(now, &path.limits, senior))
    }

    /// A connection is being opened on this path.
    pub fn connecting(&mut self, now: u64, path: &mut Pace) {
        self.limits.connecting(now, &path.limits);
    }

    /// A connection of this path is over. The lines in which somebody waits for its place are returned.
    pub fn disconnected(&mut self, path: &mut Pace) -> Buckets {
        self.limits.disconnected(&path.limits)
    }

    /// Whether a message may be sent on this path. `senior`: it was let go from a line.
    pub fn may_send(&mut self, now: u64, path: &mut Pace, load: Load, senior: bool) -> Gate {
        Gate::of(self.limits.held(now, path.limits.send(), load, senior))
    }

    /// Whether mail may be picked for a path that may send. `senior`: it was let go from a line.
    pub fn may_pick(&mut self, now: u64, mail: &Subject<'_>, load: Load, senior: bool) -> Pick {
        let (buckets, most) = self.limits.mail(now, mail);
        let ordered = self.steering.gate_mail(now, mail);
        let gate = ordered.and(Gate::of(self.limits.held(now, &buckets, load, senior)));
        let warm = u32::try_from(self.steering.recipients_max(now, mail)).unwrap_or(u32::MAX);
        let recipients_max = most.min(self.limits.recipients(now, &buckets)).min(warm);
        Pick { gate, buckets, recipients_max }
    }

    /// Whether nothing is asked of mail by [`may_pick`](Shaper::may_pick) that is not asked of its path.
    pub fn is_blind_to_mail(&self) -> bool {
        self.limits.is_blind_to_mail() && self.steering.is_idle()
    }

    /// Recipients a transaction on this path may have.
    pub fn recipients_max(&self, now: u64, path: &Pace) -> u32 {
        let sizes = path.limits.sizes();
        sizes.recipients_per_transaction.min(self.limits.recipients(now, path.limits.send()))
    }

    /// Messages a connection on this path may carry.
    pub fn messages_per_connection(&self, path: &Pace) -> u32 {
        path.limits.sizes().messages_per_connection
    }

    /// Takes the tokens of a transaction on this path, with those of its mail.
    pub fn take(&mut self, now: u64, path: &mut Pace, mail: &[BucketId], load: Load) -> Option<Taken> {
        self.limits.take(now, &path.limits, mail, load)
    }

    /// Whether somebody waits for the place of a connection on this path.
    pub fn is_wanted(&self, path: &Pace) -> bool {
        self.limits.is_wanted(&path.limits)
    }

    /// Whether a connection on this path should close because somebody has none; as many are told so as there are of
    /// those.
    pub fn must_yield(&mut self, path: &Pace) -> bool {
        self.limits.must_yield(&path.limits)
    }
}

impl Gate {
    /// Both must let it through. Who waits for a time does not stand in line meanwhile.
    pub fn and(self, other: Gate) -> Gate {
        match (self, other) {
            (Gate::Go, gate) | (gate, Gate::Go) => gate,
            (Gate::Later(one), Gate::Later(other)) => Gate::Later(one.max(other)),
            (later @ Gate::Later(_), Gate::Behind(_)) | (Gate::Behind(_), later @ Gate::Later(_)) => later,
            (Gate::Behind(line), Gate::Behind(_)) => Gate::Behind(line),
        }
    }

    fn of(held: Option<Held>) -> Gate {
        match held {
            None => Gate::Go,
            Some(Held::Until(until)) => Gate::Later(until),
            Some(Held::Behind(line)) => Gate::Behind(line),
        }
    }
}
