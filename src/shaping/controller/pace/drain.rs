//! What was on its way when the receiver said "slow down" is one signal: its answers tell what passes at the pace that was too
//! much, so that the next pace is right at once, however far the receiver is away.

use super::{ALONE, CUT, Epoch, Millis, PRICE, Pace};

/// Answers that tell what passes of what was on its way; how long they are waited for, in milliseconds.
const DRAINED_MIN: u32 = 8;
const DRAINED_MAX: Millis = 5000;
/// No shorter time is taken for a window, in milliseconds: what passes in several of them is the same.
const WINDOW_MIN: Millis = 20_000;
/// Closings that are so far apart are two, and of one kind, in milliseconds.
const CLOSINGS: (Millis, Millis) = (1500, 70_000);
/// Nothing is sent for so long at most because of what was refused, in milliseconds.
const PAUSE_MAX: f64 = 5000.0;

/// Answers to what was on its way when the receiver said "slow down": they tell what it takes at the pace that was too
/// much. Nothing is sent until they are here.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Drain {
    /// What was begun before this is meant.
    pub(super) cut: Millis,
    /// By then they are here.
    until: Millis,
    /// How long it took to send them, in milliseconds.
    lasted: f64,
    /// The pace that was too much.
    sent: f64,
    /// The pace that held before, if more was tried; 0: none is known to hold.
    held: f64,
    /// How long that had grown.
    grown: f64,
    pub(super) passed: u32,
    pub(super) throttled: u32,
}

impl Pace {
    /// Nothing is sent until the answers to what is on its way are here.
    pub(super) fn drain(&mut self, now: Millis, started: Millis, sent: f64, held: f64) {
        let took = now.saturating_sub(started).min(DRAINED_MAX);
        let until = now + took + 1;
        let lasted = now.saturating_sub(self.resumed.max(started)).max(1) as f64;
        let grown = self.grown;
        self.drain = Some(Drain { cut: now, until, lasted, sent, held, grown, passed: 0, throttled: 1 });
        self.next = self.next.max(until as f64);
        self.resumed = until;
    }

    /// What was on its way has been answered.
    pub(super) fn drained(&mut self, now: Millis) {
        let Some(drain) = self.drain.filter(|drain| now >= drain.until) else { return };
        self.drain = None;
        let all = drain.passed + drain.throttled;
        if all < DRAINED_MIN {
            self.rest(now, drain.throttled);
            return;
        }
        if all >= ALONE && drain.throttled == 1 && self.window == 0 {
            // It was alone.
            self.rate = drain.sent.max(self.rate);
            self.held = if drain.held > 0.0 { drain.held } else { self.rate };
            self.grown = drain.grown;
            self.debt = (self.debt - PRICE * f64::from(drain.throttled)).max(0.0);
            self.epoch = Epoch::new(now);
            return;
        }
        let passed = f64::from(drain.passed) * 1000.0;
        let took = 0.95 * passed / drain.lasted;
        if drain.held > 0.0 {
            // What passed in a whole second, with what was sent before: less than that may be one side of its clock.
            let before = drain.sent * (1000.0 - drain.lasted).max(0.0);
            let second = 0.95 * (before + passed) / drain.lasted.max(1000.0);
            self.held = second.max(0.95 * (drain.held * drain.sent).sqrt()).min(CUT * drain.sent);
        } else if drain.passed > 0 {
            // After a pause the meter has not seen yet how fast that was.
            let sent = drain.sent.max(f64::from(all) * 1000.0 / drain.lasted);
            self.held = took.min(CUT * sent);
        }
        self.ceiling = (took / 0.95).clamp(self.held, drain.sent.max(self.held));
        if drain.passed == 0 {
            self.closes(drain.cut);
        }
        self.rate = match (drain.passed, drain.held > 0.0) {
            (0, _) => self.rate.min(self.held / 16.0),
            // What passed meanwhile was not there before: no need to come near it by doubling.
            (_, true) => self.rate.max(0.8 * took).min(self.held),
            (_, false) => self.rate.min(took.max(self.held / 16.0)).min(self.held),
        };
        self.owe(0.0);
        self.rest(now, drain.throttled);
        self.epoch = Epoch::new(now);
    }

    /// What it had to refuse in vain is not sent now, for some count that, too.
    fn rest(&mut self, now: Millis, refused: u32) {
        let pause = (f64::from(refused) * 1000.0 / self.held).min(PAUSE_MAX);
        self.next = self.next.max(now as f64 + pause);
        self.resumed = self.next as Millis;
    }

    /// It takes nothing that was on its way. Who does that again and again counts by a window of time, and the time between
    /// tells which: what passed in one of them is what it takes.
    pub(super) fn closes(&mut self, now: Millis) {
        let since = now.saturating_sub(self.closed.unwrap_or(0));
        if since < CLOSINGS.0.max(self.window / 2) {
            return;
        }
        if self.closed.is_some() && since <= CLOSINGS.1 {
            self.window = since.max(WINDOW_MIN);
        }
        self.closed = Some(now);
        if self.window > 0 {
            let took = 0.95 * self.history.per_second(now, self.window);
            self.held = took.max(0.8 * self.held);
            self.ceiling = took / 0.95;
        }
    }
}
