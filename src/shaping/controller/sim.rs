//! Receivers to try a controller against, on simulated time: the tests and the plots of `docs/traffic.md` use them.
//!
//! One path, more mail than it can send, and a receiver with one [`Rule`] and a capacity that changes by steps. Every
//! message takes the receiver's latency, half of it on the way there. Deterministic: the same scenario gives the same
//! trace.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::{Bounds, Change, Controller, Millis};

/// What a receiver takes. Its capacity is in messages a second, or in sessions for [`Rule::Sessions`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// A token bucket that holds so many seconds of its rate.
    Bucket(f64),
    /// The same, but a refused message costs a token, too: who does not slow down gets nothing.
    Charging(f64),
    /// So many in each window of so many seconds, by the receiver's clock.
    Window(f64),
    /// So many in the last so many seconds.
    Sliding(f64),
    /// No more sessions at once: 421 at the greeting.
    Sessions,
    /// No limit that it tells of: all messages in work share what it can do, and take longer the more there are.
    Overload,
    /// No limit. (Greylisting looks like that, too: it puts messages off, but tells nobody to slow down.)
    Open,
}

/// A receiver and how it is met.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// What it takes.
    pub rule: Rule,
    /// From when on, in seconds, it has which capacity; the first from 0.
    pub capacity: Vec<(u64, f64)>,
    /// Milliseconds a message takes when nothing is in its way, and a connection.
    pub latency: Millis,
    /// The share of messages that are throttled without a reason.
    pub noise: f64,
    /// The share that is put off for a reason that has nothing to do with our pace, and says so.
    pub other: f64,
    /// Sessions the operator allows.
    pub sessions: u32,
    /// Messages we have for it a second; none: more than it can take.
    pub demand: Option<f64>,
    /// Senders that share what it takes and know nothing of one another, each with a controller; at least 1.
    pub daemons: usize,
    /// Seconds it lasts.
    pub seconds: u64,
}

impl Scenario {
    /// 100 messages a second for four minutes, 10 for three, and 100 for three.
    pub fn steps(rule: Rule, latency: Millis) -> Scenario {
        let capacity = vec![(0, 100.0), (240, 10.0), (420, 100.0)];
        Scenario {
            rule,
            capacity,
            latency,
            noise: 0.0,
            other: 0.0,
            sessions: 200,
            demand: None,
            daemons: 1,
            seconds: 600,
        }
    }
}

/// What happened in one second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Second {
    /// What the receiver could take.
    pub capacity: f64,
    /// Messages answered and not throttled.
    pub passed: u32,
    /// Messages throttled.
    pub throttled: u32,
    /// Sessions refused.
    pub refused: u32,
    /// The pace at its end; `None`: no limit.
    pub per_second: Option<f64>,
    /// Sessions at its end.
    pub sessions: u32,
    /// The mean time of a message, in milliseconds.
    pub latency: f64,
}

/// Everything that happened.
#[derive(Debug, Default)]
pub struct Trace {
    /// Second by second.
    pub seconds: Vec<Second>,
    /// Changes the controller told, and when.
    pub changes: Vec<(Millis, Change)>,
}

impl Trace {
    /// The share of attempts, sessions included, that the receiver told to slow down between two seconds.
    pub fn refusals(&self, from: usize, until: usize) -> f64 {
        let (mut bad, mut all) = (0, 0);
        for second in &self.seconds[from..until] {
            bad += second.throttled + second.refused;
            all += second.passed + second.throttled + second.refused;
        }
        f64::from(bad) / f64::from(all.max(1))
    }

    /// Messages that passed a second, in the mean between two seconds.
    pub fn passed(&self, from: usize, until: usize) -> f64 {
        let passed: u32 = self.seconds[from..until].iter().map(|second| second.passed).sum();
        f64::from(passed) / (until - from) as f64
    }

    /// Seconds after `from` until what passes in ten seconds is within a fifth of the capacity, and not a tenth of all is
    /// throttled; `None`: never before `until`.
    pub fn followed(&self, from: usize, until: usize) -> Option<usize> {
        let capacity = self.seconds[from].capacity;
        (from..until - 10)
            .find(|at| {
                let passed = self.passed(*at, at + 10);
                (0.8 * capacity..1.2 * capacity).contains(&passed) && self.refusals(*at, at + 10) < 0.1
            })
            .map(|at| at - from)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A connection reaches the receiver.
    Knock(usize),
    /// And its answer us.
    Opened(usize, bool),
    /// A message reaches the receiver; when it was begun, how long the way back is, how many its session had before.
    Arrives(usize, Millis, Millis, u32),
    /// And its answer us.
    Answered(usize, Millis, bool, u32),
    /// Sessions that wait may have something to do.
    Wake(usize),
}

/// Messages a session is good for.
const PER_SESSION: u32 = 100;

struct Sim {
    scenario: Scenario,
    bounds: Bounds,
    daemons: Vec<Daemon>,
    rng: SmallRng,
    events: BinaryHeap<Reverse<(Millis, u64, Event)>>,
    sequence: u64,
    now: Millis,
    /// Sessions as the receiver counts.
    let_in: u32,
    rule: State,
    trace: Trace,
    /// Sum of the times of this second's messages.
    took: u64,
}

/// One sender.
#[derive(Default)]
struct Daemon {
    control: Controller,
    /// Sessions on their way, standing, and of these waiting (how many messages each had).
    connecting: u32,
    standing: u32,
    waiting: VecDeque<u32>,
    wake: Option<Millis>,
    sent: u64,
}

/// What the receiver remembers.
#[derive(Default)]
struct State {
    tokens: f64,
    at: Millis,
    window: u64,
    count: f64,
    recent: VecDeque<Millis>,
}

/// Plays a scenario to its end.
pub fn run(scenario: &Scenario) -> Trace {
    let bounds = Bounds { sessions_max: scenario.sessions, ..Bounds::default() };
    let mut sim = Sim {
        scenario: scenario.clone(),
        bounds,
        daemons: (0..scenario.daemons.max(1)).map(|_| Daemon::default()).collect(),
        rng: SmallRng::seed_from_u64(5),
        events: BinaryHeap::new(),
        sequence: 0,
        now: 0,
        let_in: 0,
        rule: State::default(),
        trace: Trace::default(),
        took: 0,
    };
    sim.trace.seconds.resize(scenario.seconds as usize, Second::default());
    sim.play();
    sim.trace
}

impl Sim {
    fn play(&mut self) {
        for daemon in 0..self.daemons.len() {
            self.work(daemon);
        }
        let mut second = 0;
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            while second < (at / 1000).min(self.scenario.seconds) {
                self.close_second(second as usize);
                second += 1;
            }
            if at >= self.scenario.seconds * 1000 {
                return;
            }
            self.now = at;
            let daemon = self.happens(event);
            self.work(daemon);
        }
    }

    fn close_second(&mut self, second: usize) {
        let capacity = self.capacity(second as u64);
        let done = &mut self.trace.seconds[second];
        done.capacity = capacity;
        done.per_second = self.daemons.iter().map(|daemon| daemon.control.per_second()).sum();
        done.sessions = self.daemons.iter().map(|daemon| daemon.standing).sum();
        done.latency = self.took as f64 / f64::from((done.passed + done.throttled).max(1));
        self.took = 0;
    }

    fn capacity(&self, second: u64) -> f64 {
        let steps = self.scenario.capacity.iter().rev();
        steps.into_iter().find(|(from, _)| *from <= second).map_or(0.0, |(_, capacity)| *capacity)
    }

    fn at(&mut self, at: Millis, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((at, self.sequence, event)));
    }

    /// Returns whose event it was.
    fn happens(&mut self, event: Event) -> usize {
        let (now, half) = (self.now, self.scenario.latency / 2);
        let second = (now / 1000) as usize;
        match event {
            Event::Wake(who) => {
                self.daemons[who].wake = None;
                who
            }
            Event::Knock(who) => {
                let capacity = self.capacity(second as u64);
                let full = self.scenario.rule == Rule::Sessions && f64::from(self.let_in) >= capacity;
                self.let_in += u32::from(!full);
                self.at(now + half, Event::Opened(who, !full));
                who
            }
            Event::Opened(who, true) => {
                let daemon = &mut self.daemons[who];
                daemon.connecting -= 1;
                daemon.standing += 1;
                daemon.control.connected(daemon.standing);
                daemon.waiting.push_back(0);
                who
            }
            Event::Opened(who, false) => {
                let daemon = &mut self.daemons[who];
                daemon.connecting -= 1;
                self.trace.seconds[second].refused += 1;
                let change = daemon.control.refused(now, daemon.standing.max(1));
                self.note(change);
                who
            }
            Event::Arrives(who, started, back, served) => {
                let passes = self.ask();
                self.at(now + back, Event::Answered(who, started, passes, served));
                who
            }
            Event::Answered(who, started, passes, served) => {
                self.answered(who, started, passes, served);
                who
            }
        }
    }

    fn answered(&mut self, who: usize, started: Millis, passes: bool, served: u32) {
        let (now, daemon) = (self.now, &mut self.daemons[who]);
        self.took += now - started;
        let change = match passes {
            true => daemon.control.passed(now, started, daemon.standing, &self.bounds),
            false => daemon.control.throttled(now, started, &self.bounds),
        };
        let done = &mut self.trace.seconds[(now / 1000) as usize];
        (done.passed, done.throttled) = (done.passed + u32::from(passes), done.throttled + u32::from(!passes));
        let too_many = daemon.standing as usize > daemon.control.sessions_max();
        match served + 1 >= PER_SESSION || too_many {
            true => (daemon.standing, self.let_in) = (daemon.standing - 1, self.let_in - 1),
            false => daemon.waiting.push_back(served + 1),
        }
        self.note(change);
    }

    fn note(&mut self, change: Option<Change>) {
        self.trace.changes.extend(change.map(|change| (self.now, change)));
    }

    /// Sessions that wait send if they may; another one is opened if none waits.
    fn work(&mut self, who: usize) {
        let (now, share) = (self.now, self.daemons.len() as f64);
        let demand = self.scenario.demand.map(|demand| demand / share);
        let daemon = &mut self.daemons[who];
        let due = demand.map(|demand| (daemon.sent as f64 / demand * 1000.0) as Millis);
        let ready = daemon.control.ready_at(now).max(due.unwrap_or(0));
        if ready > now {
            if daemon.wake.is_none_or(|wake| ready < wake) {
                daemon.wake = Some(ready);
                self.at(ready, Event::Wake(who));
            }
            return;
        }
        if let Some(served) = daemon.waiting.pop_back() {
            daemon.control.sends(now);
            daemon.sent += 1;
            let busy = f64::from(daemon.standing - daemon.waiting.len() as u32);
            let latency = match self.scenario.rule {
                Rule::Overload => {
                    let shared = busy / self.capacity(now / 1000) * 1000.0;
                    self.scenario.latency.max(shared as Millis)
                }
                _ => self.scenario.latency,
            };
            let there = latency / 2;
            self.at(now + there, Event::Arrives(who, now, latency - there, served));
            return self.work(who);
        }
        let limit = daemon.control.sessions_max().min(self.scenario.sessions as usize);
        if daemon.connecting < daemon.standing.max(1) && ((daemon.standing + daemon.connecting) as usize) < limit {
            daemon.connecting += 1;
            let half = self.scenario.latency - self.scenario.latency / 2;
            self.at(now + half, Event::Knock(who));
            self.work(who);
        }
    }

    /// Whether the receiver takes a message now.
    fn ask(&mut self) -> bool {
        let (now, state) = (self.now, &mut self.rule);
        if self.scenario.noise > 0.0 && self.rng.random_bool(self.scenario.noise) {
            return false;
        }
        if self.scenario.other > 0.0 && self.rng.random_bool(self.scenario.other) {
            return true;
        }
        let steps = self.scenario.capacity.iter().rev();
        let capacity = steps.into_iter().find(|(from, _)| from * 1000 <= now).map_or(0.0, |(_, capacity)| *capacity);
        match self.scenario.rule {
            Rule::Sessions | Rule::Overload | Rule::Open => true,
            Rule::Bucket(seconds) | Rule::Charging(seconds) => {
                let most = (capacity * seconds).max(1.0);
                let filled = (now - state.at) as f64 / 1000.0 * capacity;
                (state.tokens, state.at) = ((state.tokens + filled).min(most), now);
                let takes = state.tokens >= 1.0;
                if takes || matches!(self.scenario.rule, Rule::Charging(_)) {
                    state.tokens = (state.tokens - 1.0).max(-most);
                }
                takes
            }
            Rule::Window(seconds) => {
                let window = (now as f64 / 1000.0 / seconds) as u64;
                if window != state.window {
                    (state.window, state.count) = (window, 0.0);
                }
                let takes = state.count + 1.0 <= capacity * seconds;
                state.count += f64::from(u8::from(takes));
                takes
            }
            Rule::Sliding(seconds) => {
                let from = now.saturating_sub((seconds * 1000.0) as Millis);
                while state.recent.front().is_some_and(|at| *at < from) {
                    state.recent.pop_front();
                }
                let takes = state.recent.len() as f64 + 1.0 <= capacity * seconds;
                if takes {
                    state.recent.push_back(now);
                }
                takes
            }
        }
    }
}
