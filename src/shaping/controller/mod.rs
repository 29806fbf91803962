//! Adaptive control: how fast, and over how many sessions, one egress path sends, found by itself.
//!
//! A path nobody complains about is not limited here. The first reply that says "slow down" gives it a [`pace`], the
//! first refused session a [`width`]; both go down at once and come back by trying.
//!
//! **Pace**, in messages a second:
//!
//! - *Down by evidence.* An epoch is everything begun since the last change. When one of `n + 1` messages of an epoch is
//!   throttled, `n + 1` of `n + 2` is our best guess of the share that would pass (Laplace's rule of succession), and the
//!   pace becomes that share of what was really sent. So a receiver that takes a tenth is met after three or four
//!   replies, and a lone reply among hundreds changes nothing. What was begun before the last change says nothing of it.
//! - *What is on its way is one signal.* When it says "slow down" nothing is sent until what was begun before is answered: that
//!   tells what passes at a pace that is too much, however far the receiver is away ([`pace`], `drain.rs`). And for what was
//!   refused, as much is not sent: some receivers count refused messages, too.
//! - *A lone reply is not a limit.* A receiver that is near is asked once more; of one that is far, one of all that was on its way
//!   does not count.
//! - *What others got through meanwhile counts.* Messages accepted during a second in which some were throttled are what
//!   the receiver takes; a pace that fell far below that is put right.
//! - *Up by payment.* Each throttling reply costs [`80`](pace) accepted messages before more is tried. That bounds
//!   throttling replies to little over 1 % of attempts for any receiver, without knowing its rule, and makes probes rare
//!   where they are dear. What would take too long to pay is forgiven, so that a rise is noticed; later if the receiver is
//!   far away, where each probe may cost all that is on its way. Below the pace that last held, it doubles every second; there it rests. Above, it first goes
//!   just beyond what was last too much, by less the more is on its way, and waits eight seconds for a no; then it grows by a
//!   cubic: hardly for some seconds, then by leaps. Ten times the pace takes about half a minute.
//! - *Closed is not slow.* If nothing at all passes, steps down become waits that double: one message at a time knocks.
//!   When the receiver opens again, we begin with the mean over the whole cycle (600 messages in the first ten seconds of
//!   each minute are 10 a second). Who refuses all that is on its way again and again counts by a window: what passed between
//!   two such times is its mean, and the next pace.
//! - Nothing grows while the pace is not what holds mail back.
//!
//! **Width**, in sessions: a refused session says exactly how many are wanted, those that stand. One more is tried after
//! as many messages as a throttling reply costs; if that stands, two, then four. Replies that take several times as long
//! as at the best of times close half of the sessions; if that does not help, the receiver is slow by itself, and
//! we get used to it. What is refused is not clocked: a no comes before the content, and much sooner than a yes.
//!
//! Others were tried against the same receivers ([`sim`]): multiplicative decrease by a fixed factor needs seven steps
//! for a receiver that takes a tenth, or wastes half of one that takes nine tenths; additive increase that is quick enough
//! for the one is too eager for the other; growth by the clock instead of by accepted messages probes a slow receiver
//! so often that 5 to 30 % of its replies are refusals; waits that double with each failed probe miss a recovery. A share of
//! replies that is thought to come by chance, since cuts do not help, or a floor by what passed of late, are found just when
//! a receiver takes less and less: both cost real receivers 3 to 10 % of refusals, and are not done. To count what passed between
//! two refusals as what a deep bucket takes, or with a drain what passed just before it, won at one shape what it lost at another.
//!
//! Pure. `now` is milliseconds on the caller's clock; nothing here allocates but the first time a path is throttled.

pub mod pace;
mod saved;
#[doc(hidden)]
pub mod sim;
#[cfg(test)]
mod tests;
pub mod width;

use std::num::NonZeroU32;

pub use saved::Saved;

use super::Gate;
use pace::{Meter, Pace};
use width::Width;

/// Milliseconds on the queue's clock.
pub type Millis = u64;

/// What a change must be at least to be told of: a fifth less or a quarter more.
const TELLING: f64 = 1.25;

/// What an operator or a profile allows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    /// Messages a second that are tried however often we are told to slow down; more than zero.
    pub rate_min: f64,
    /// Messages a second that are never passed once a pace has been found.
    pub rate_max: f64,
    /// Sessions that are tried however often they are refused.
    pub sessions_min: u32,
    /// Sessions that are never passed.
    pub sessions_max: u32,
}

impl Default for Bounds {
    /// One message a minute; no ceiling.
    fn default() -> Bounds {
        Bounds { rate_min: 1.0 / 60.0, rate_max: 1e6, sessions_min: 1, sessions_max: u32::MAX }
    }
}

/// Why a pace or a width changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The receiver said "slow down".
    Throttled,
    /// The receiver takes nothing for now.
    Closed,
    /// The receiver refused one more session.
    Refused,
    /// Replies take several times as long as they did.
    Latency,
    /// It took what it was given.
    Accepted,
}

impl Cause {
    /// As metrics and events say it.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Throttled => "throttled",
            Cause::Closed => "closed",
            Cause::Refused => "refused",
            Cause::Latency => "latency",
            Cause::Accepted => "accepted",
        }
    }
}

/// A change worth telling.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change {
    /// Why.
    pub cause: Cause,
    /// Less than before.
    pub slower: bool,
    /// Messages a second from now on; `None`: no limit.
    pub per_second: Option<f64>,
    /// Sessions from now on; `None`: no limit.
    pub sessions: Option<u32>,
}

/// The controller of one egress path. See the module's story.
#[derive(Debug, Clone, Default)]
pub struct Controller {
    meter: Meter,
    pace: Option<Box<Pace>>,
    width: Width,
    /// The pace and width that were told last.
    told: (Option<f64>, Option<NonZeroU32>),
}

impl Controller {
    /// Whether a message may be sent now, or when. O(1), like everything here.
    pub fn may_send(&mut self, now: Millis) -> Gate {
        let ready = self.ready_at(now);
        if ready > now { Gate::Later(ready) } else { Gate::Go }
    }

    /// When a message may be sent: `now`, or later.
    fn ready_at(&mut self, now: Millis) -> Millis {
        self.pace.as_mut().map_or(now, |pace| pace.ready_at(now))
    }

    /// When a message may be sent, as far as is known now; changes nothing.
    pub fn next_at(&self, now: Millis) -> Millis {
        self.pace.as_ref().map_or(now, |pace| pace.next_at(now))
    }

    /// A message goes. Whoever asked [`may_send`](Controller::may_send) and then sends must say so.
    pub fn sends(&mut self, now: Millis) {
        if let Some(pace) = &mut self.pace {
            pace.send(now);
        }
    }

    /// A message begun at `started` was taken by the receiver; `sessions` stand.
    pub fn passed(&mut self, now: Millis, started: Millis, sessions: u32, bounds: &Bounds) -> Option<Change> {
        self.answered(now, started, Some(now.saturating_sub(started)), sessions, bounds)
    }

    /// A message begun at `started` was refused for a reason of its own; `sessions` stand. For the pace that is as good as a yes.
    pub fn turned_down(&mut self, now: Millis, started: Millis, sessions: u32, bounds: &Bounds) -> Option<Change> {
        self.answered(now, started, None, sessions, bounds)
    }

    fn answered(
        &mut self,
        now: Millis,
        started: Millis,
        took: Option<Millis>,
        sessions: u32,
        bounds: &Bounds,
    ) -> Option<Change> {
        self.meter.count(now, true);
        if let Some(pace) = &mut self.pace {
            pace.passed(now, started, bounds);
        }
        let cause = self.width.answered(now, took, sessions, bounds).unwrap_or(Cause::Accepted);
        self.tell(cause)
    }

    /// A message begun at `started` was told to slow down.
    pub fn throttled(&mut self, now: Millis, started: Millis, bounds: &Bounds) -> Option<Change> {
        self.meter.count(now, false);
        let sent = self.meter.per_second(now);
        match &mut self.pace {
            Some(pace) => pace.throttled(now, started, sent, bounds),
            none => *none = Some(Box::new(Pace::new(now, started, sent, &self.meter, bounds))),
        }
        let closed = self.pace.as_ref().is_some_and(|pace| pace.is_closed(now));
        self.tell(if closed { Cause::Closed } else { Cause::Throttled })
    }

    /// A message was sent and nobody knows what the receiver thinks of it: the connection broke.
    pub fn lost(&mut self, now: Millis) {
        self.meter.count(now, false);
    }

    /// A session was refused while `sessions` others stood; at least one.
    pub fn refused(&mut self, now: Millis, sessions: u32) -> Option<Change> {
        self.width.refused(now, sessions);
        self.tell(Cause::Refused)
    }

    /// A session came to stand; `sessions` with it.
    pub fn connected(&mut self, sessions: u32) {
        self.width.connected(sessions);
    }

    /// Sessions this path may have.
    pub fn sessions_max(&self) -> usize {
        self.width.max().map_or(usize::MAX, |max| max.get() as usize)
    }

    /// Messages a second; `None`: no limit.
    pub fn per_second(&self) -> Option<f64> {
        self.pace.as_ref().map(|pace| pace.per_second())
    }

    /// Nothing was found out that would be lost if it were forgotten.
    pub fn is_free(&self) -> bool {
        self.pace.is_none() && self.width.max().is_none()
    }

    /// No limit any more, for an operator's order.
    pub fn release(&mut self) {
        *self = Controller { meter: self.meter, ..Controller::default() };
    }

    /// What is worth keeping over a restart; `None`: nothing was found out.
    pub fn save(&self) -> Option<Saved> {
        let sessions = self.width.max().map(NonZeroU32::get);
        (!self.is_free()).then(|| Saved { per_second: self.pace.as_ref().map(|pace| pace.held()), sessions })
    }

    /// Goes on from what was [saved](Controller::save).
    pub fn restore(&mut self, now: Millis, saved: Saved, bounds: &Bounds) {
        self.pace = saved.per_second.map(|rate| Box::new(Pace::resumed(now, rate, bounds)));
        self.width = Width::resumed(now, saved.sessions);
        self.told = (self.per_second(), self.width.max());
    }

    /// The change since it was told last, if it is large enough.
    fn tell(&mut self, cause: Cause) -> Option<Change> {
        let (rate, sessions) = (self.per_second(), self.width.max());
        let (rate_told, sessions_told) = self.told;
        let moved = |(old, new): (f64, f64)| new > old * TELLING || new < old / TELLING;
        if rate_told.is_some() == rate.is_some() && !rate_told.zip(rate).is_some_and(moved) && sessions_told == sessions
        {
            return None;
        }
        self.told = (rate, sessions);
        let slower = cause != Cause::Accepted;
        Some(Change { cause, slower, per_second: rate, sessions: sessions.map(NonZeroU32::get) })
    }
}
