//! How fast one path sends: messages a second, found by trying. The module above tells the idea.

mod drain;
mod history;

use super::{Bounds, Millis};
use drain::Drain;
pub use history::Meter;
use history::{History, QUIET};

/// Messages that pass and so pay for one throttling reply; until then the pace does not grow.
pub const PRICE: f64 = 80.0;
/// The first pace is at least this, in messages a second: what was sent in the first second says little.
const FIRST: f64 = 5.0;
/// A pace is kept for so long before it grows, in seconds at that pace.
const REST: f64 = 15.0;
/// The longest rest, at receivers that close.
const REST_MAX: f64 = 300.0;
/// What is owed beyond this is forgiven, in seconds at the pace, so that a receiver that recovers is noticed in time.
const DEBT_MAX: f64 = 26.0;
/// The same of a receiver that closes: each probe costs all that is on its way.
const CLOSER_MAX: f64 = 100.0;
/// And this is added for each second by which messages take longer than [`AWAY`]: all that is on its way may be refused.
const FAR: f64 = 36.0;
/// What messages take, in milliseconds, before a receiver counts as far away.
const AWAY: f64 = 300.0;
/// But so many messages are owed even if they take longer, up to [`REST_MAX`]: at a slow pace every probe is dear.
const DEBT_LEAST: f64 = 160.0;
/// Growth is cubic: the pace doubles in this time, in seconds at full use, but grows by 1 % in the first fifth of it.
const GROWTH: f64 = 15.0;
/// More is tried at first, as a share: so many milliseconds by what a message takes.
const STEP: f64 = 100.0;
/// No more than this, as a share.
const STEP_MAX: f64 = 4.0;
/// And for so long, in seconds at full use.
const PLATEAU: f64 = 8.0;
/// What it seemed to take is approached in one leap from no further below, as a share.
const CEILING_MAX: f64 = 1.5;
/// A throttling reply among so many that pass is chance, not the receiver's limit.
const ALONE: u32 = 25;
/// One more is asked for if the receiver is so near, in milliseconds; else it would be many more.
const NEAR: Millis = 150;
/// A cut leaves so much of the pace at most: less would not be noticed.
const CUT: f64 = 0.9;
/// A share of messages that pass above which throttling is chance.
const CHANCE: f64 = 0.99;
/// So many messages of an epoch are remembered at most; a good hour does not excuse a bad minute.
const MEMORY: u32 = 200;
/// Below the pace that held, it doubles once in so many milliseconds.
const ROUND: Millis = 1000;
/// Messages that pass are measured for so long after one was throttled, in milliseconds.
const MEASURED: Millis = 1500;
/// If nothing passed for so long, in milliseconds, the receiver is closed rather than slow.
const CLOSED: Millis = 5000;
/// What may be sent at once after a pause, in milliseconds at the pace; and for each message a second: a small bucket of a slow
/// receiver holds a single one.
const BURST: (f64, f64) = (50.0, 0.5);
/// A probe that failed below so many times the pace that held has found nothing of another order.
const ORDER: f64 = 2.0;

/// A limit and how it was found.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pace {
    /// What is tried now, messages a second.
    rate: f64,
    /// The pace that held.
    held: f64,
    /// What it seemed to take when it was last too much.
    ceiling: f64,
    /// Messages that must pass before it grows beyond that.
    debt: f64,
    /// How long it has grown, in seconds at full use.
    grown: f64,
    epoch: Epoch,
    measure: Measure,
    /// What was on its way when we were told to slow down.
    drain: Option<Drain>,
    /// When sending went on after the last such wait.
    resumed: Millis,
    /// What messages take, in milliseconds.
    latency: f64,
    /// When it last refused all that was on its way, and how long after the time before that; 0: it never did so twice.
    closed: Option<Millis>,
    window: Millis,
    history: History,
    /// A probe was throttled once: so many messages must pass before it goes on.
    suspicion: u32,
    /// It closes rather than slows: each probe costs all that is on its way.
    closes: bool,
    /// Since when nothing passes.
    shut: Option<Millis>,
    /// Since the receiver last opened: when that was, and what passed.
    cycle: (Millis, u32),
    /// Last time that this limit held mail back.
    wanted: Millis,
    /// When the next message may go.
    next: f64,
}

/// Messages begun since the last change of the pace.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Epoch {
    since: Millis,
    passed: u32,
    throttled: u32,
}

impl Epoch {
    fn new(since: Millis) -> Epoch {
        Epoch { since, passed: 0, throttled: 0 }
    }

    /// The share of messages that would pass, by the rule of succession.
    fn share(&self) -> f64 {
        let passed = f64::from(self.passed.min(MEMORY) + 1);
        passed / (passed + f64::from(self.throttled))
    }
}

/// Messages that pass while others are throttled: what the receiver takes.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Measure {
    since: Millis,
    passed: u32,
    /// The pace when it began; no more than a part of it is believed.
    before: f64,
    /// The last throttling reply.
    last: Millis,
}

impl Pace {
    /// The first limit of a path that sent `sent` messages a second when one was throttled.
    pub(super) fn new(now: Millis, started: Millis, sent: f64, meter: &Meter, bounds: &Bounds) -> Pace {
        let mut pace = Pace::resumed(now, sent.max(FIRST), bounds);
        pace.cycle = meter.cycle;
        pace.owe(PRICE);
        // So much may have been on its way that no measure is too large.
        pace.measure = Measure { since: now, passed: 0, before: f64::INFINITY, last: now };
        pace.drain(now, started, sent.max(1.0), 0.0);
        pace
    }

    /// A limit that is known from before.
    pub(super) fn resumed(now: Millis, rate: f64, bounds: &Bounds) -> Pace {
        let rate = rate.clamp(bounds.rate_min, bounds.rate_max.max(bounds.rate_min));
        Pace {
            rate,
            held: rate,
            ceiling: rate,
            debt: REST * rate,
            grown: 0.0,
            epoch: Epoch::new(now),
            measure: Measure { since: 0, passed: 0, before: 0.0, last: 0 },
            drain: None,
            resumed: 0,
            latency: 0.0,
            closed: None,
            suspicion: 0,
            window: 0,
            history: History::default(),
            closes: false,
            shut: None,
            cycle: (now, 0),
            wanted: now,
            next: now as f64 + 1000.0 / rate,
        }
    }

    pub(super) fn per_second(&self) -> f64 {
        self.rate
    }

    /// The pace that held, which is what is worth remembering.
    pub(super) fn held(&self) -> f64 {
        self.held
    }

    /// Nothing passes, and has not for a while.
    pub(super) fn is_closed(&self, now: Millis) -> bool {
        self.shut.is_some_and(|since| now.saturating_sub(since) > CLOSED)
    }

    /// When a message may go: `now`, or the instant.
    pub(super) fn ready_at(&mut self, now: Millis) -> Millis {
        self.drained(now);
        if self.next <= now as f64 {
            return now;
        }
        self.wanted = now;
        self.next.ceil() as Millis
    }

    /// The same, for whoever only looks.
    pub(super) fn next_at(&self, now: Millis) -> Millis {
        now.max(self.next.ceil() as Millis)
    }

    /// A message goes.
    pub(super) fn send(&mut self, now: Millis) {
        self.next = self.next.max(now as f64 - BURST.0.min(BURST.1 * self.rate)) + 1000.0 / self.rate;
    }

    /// What was begun at `started` was not throttled.
    pub(super) fn passed(&mut self, now: Millis, started: Millis, bounds: &Bounds) {
        self.drained(now);
        self.debt = (self.debt - 1.0).max(0.0);
        self.cycle.1 = self.cycle.1.saturating_add(1);
        self.latency += (now.saturating_sub(started) as f64 - self.latency) / 16.0;
        self.history.count(now);
        self.measure(now);
        if started < self.epoch.since {
            if let Some(drain) = self.drain.as_mut().filter(|drain| started < drain.cut) {
                drain.passed += 1;
            }
            return;
        }
        if self.is_closed(now) {
            self.reopen(now, bounds);
        }
        self.shut = None;
        self.suspicion = self.suspicion.saturating_sub(1);
        self.epoch.passed = self.epoch.passed.saturating_add(1);
        // Nothing is learned of a limit that nobody ran into.
        if now.saturating_sub(self.wanted) as f64 > 1000.0 + 2000.0 / self.rate {
            return;
        }
        if self.rate < self.held {
            if now >= self.epoch.since + ROUND.max((2.0 * self.latency) as Millis) {
                self.set(now, (2.0 * self.rate).min(self.held));
                self.epoch = Epoch::new(now);
            }
        } else if self.debt == 0.0 && self.suspicion == 0 {
            self.grown += 1.0 / self.rate;
            let growth = self.growth();
            self.set(now, (self.held * growth).min(bounds.rate_max.max(self.held)));
            if growth > 1.5 {
                self.closes = false;
            }
        }
    }

    /// What was begun at `started` was told to slow down, while `sent` messages a second went.
    pub(super) fn throttled(&mut self, now: Millis, started: Millis, sent: f64, bounds: &Bounds) {
        self.drained(now);
        self.owe(PRICE);
        let sent = self.rate.min(1.25 * sent + 1.0);
        if now > self.measure.last + MEASURED {
            self.measure = Measure { since: now, passed: 0, before: sent, last: now };
        }
        self.measure.last = now;
        if started < self.epoch.since {
            if let Some(drain) = self.drain.as_mut().filter(|drain| started < drain.cut) {
                drain.throttled += 1;
            }
            return;
        }
        self.epoch.throttled += 1;
        let (probing, share) = (self.grown > 0.0, self.epoch.share());
        if share > CHANCE && !probing {
            return;
        }
        let took = now.saturating_sub(started);
        if probing && self.suspicion == 0 && took < NEAR && self.window == 0 {
            // One more must say so.
            self.suspicion = ALONE;
            self.debt = (self.debt - PRICE).max(0.0);
            return;
        }
        self.suspicion = 0;
        let rate = (sent * share.min(CUT)).max(bounds.rate_min);
        let held = self.held;
        if self.epoch.passed > 0 {
            let between = if probing && sent < ORDER * held { 0.95 * (held * sent).sqrt() } else { rate };
            self.held = rate.min(between);
        } else {
            // Closed rather than slow: what held before still counts for something.
            self.held = (0.9 * held).max(rate);
            if self.shut.is_none() {
                self.closes(now);
                self.shut = Some(now);
            }
        }
        // A probe that failed goes back to where it came from, and from there quickly to just below what was too much.
        self.set(now, if probing { rate.min(held) } else { rate });
        if self.epoch.passed > 0 {
            self.drain(now, started, sent, if probing { held } else { 0.0 });
        }
        if !probing || self.epoch.passed < MEMORY / 2 {
            self.debt = self.debt.max(REST * self.held);
        }
        self.owe(0.0);
        self.grown = 0.0;
        self.epoch = Epoch::new(now);
    }

    /// By how much the pace that held is exceeded. First as little as does no harm with so much on its way, in case that the
    /// receiver still takes what it took; then more and more.
    fn growth(&self) -> f64 {
        let (step, plateau) = if self.window > 0 { (STEP / 3.0, 1.5 * PLATEAU) } else { (STEP, PLATEAU) };
        let step = (step / self.latency.max(1.0)).min(STEP_MAX);
        let cubic = |seconds: f64| (seconds / GROWTH).powi(3);
        let seconds = self.grown;
        let level = (1.0 + step) * (self.ceiling / self.held).clamp(1.0, CEILING_MAX) - 1.0;
        1.0 + cubic(seconds.min(plateau)).min(level) + cubic((seconds - plateau).max(0.0))
    }

    /// The receiver takes something again after it took nothing: the mean over the cycle is what it takes in the long run.
    fn reopen(&mut self, now: Millis, bounds: &Bounds) {
        let (since, passed) = self.cycle;
        let mean = f64::from(passed) * 1000.0 / now.saturating_sub(since).max(1) as f64;
        if self.window == 0 {
            self.held = self.held.min(0.95 * mean).max(bounds.rate_min);
        }
        self.cycle = (now, 0);
        self.closes = true;
        self.debt = self.debt.max(REST * self.held);
        if self.shut.is_some_and(|shut| now.saturating_sub(shut) > QUIET) {
            // Its knocks were few, and are paid by the time that they took.
            self.debt = REST * self.held;
        }
        self.owe(0.0);
        self.set(now, (self.held / 8.0).max(self.rate).min(self.held));
        self.epoch = Epoch::new(now);
    }

    /// Counts what passes soon after something was throttled. A pace that fell below half of what it was, and below what
    /// the receiver has shown to take, was cut too much.
    fn measure(&mut self, now: Millis) {
        if now > self.measure.last + MEASURED {
            return;
        }
        self.measure.passed += 1;
        let took = now.saturating_sub(self.measure.since);
        if took < ROUND {
            return;
        }
        let measured = 0.95 * f64::from(self.measure.passed) * 1000.0 / took as f64;
        if self.held < 0.5 * self.measure.before && measured > self.held {
            self.held = measured.min(0.7 * self.measure.before);
            self.owe(0.0);
        }
        (self.measure.since, self.measure.passed) = (now, 0);
    }

    /// So many messages more must pass before the pace grows.
    fn owe(&mut self, messages: f64) {
        let most = if self.closes { CLOSER_MAX } else { DEBT_MAX };
        let far = FAR * ((self.latency - AWAY) / 1000.0).clamp(0.0, 2.0);
        let seconds = (DEBT_LEAST / self.held).clamp(most + far, REST_MAX);
        self.debt = (self.debt + messages).min((seconds * self.held).max(1.0));
    }

    /// Changes the pace. A slower one holds from now on; a faster one cuts short the wait for the next message.
    fn set(&mut self, now: Millis, rate: f64) {
        let now = now as f64;
        if rate < self.rate {
            self.next = now + 1000.0 / rate;
        } else if self.next > now {
            self.next = now + (self.next - now) * self.rate / rate;
        }
        self.rate = rate;
    }
}
