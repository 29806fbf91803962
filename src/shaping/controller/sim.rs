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
    /// Sessions the operator allows.
    pub sessions: u32,
    /// Messages we have for it a second; none: more than it can take.
    pub demand: Option<f64>,
    /// Seconds it lasts.
    pub seconds: u64,
}

impl Scenario {
    /// 100 messages a second for four minutes, 10 for three, and 100 for three.
    pub fn steps(rule: Rule, latency: Millis) -> Scenario {
        let capacity = vec![(0, 100.0), (240, 10.0), (420, 100.0)];
        Scenario { rule, capacity, latency, noise: 0.0, sessions: 200, demand: None, seconds: 600 }
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
    Knock,
    /// And its answer us.
    Opened(bool),
    /// A message reaches the receiver; when it was begun, how long the way back is, how many its session had before.
    Arrives(Millis, Millis, u32),
    /// And its answer us.
    Answered(Millis, bool, u32),
    /// Sessions that wait may have something to do.
    Wake,
}

/// Messages a session is good for.
const PER_SESSION: u32 = 100;

struct Sim {
    scenario: Scenario,
    bounds: Bounds,
    control: Controller,
    rng: SmallRng,
    events: BinaryHeap<Reverse<(Millis, u64, Event)>>,
    sequence: u64,
    now: Millis,
    /// Sessions on their way, standing, of these waiting (how many messages each had), and as the receiver counts.
    connecting: u32,
    standing: u32,
    waiting: VecDeque<u32>,
    let_in: u32,
    wake: Option<Millis>,
    sent: u64,
    rule: State,
    trace: Trace,
    /// Sum of the times of this second's messages.
    took: u64,
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
        control: Controller::default(),
        rng: SmallRng::seed_from_u64(5),
        events: BinaryHeap::new(),
        sequence: 0,
        now: 0,
        connecting: 0,
        standing: 0,
        waiting: VecDeque::new(),
        let_in: 0,
        wake: None,
        sent: 0,
        rule: State::default(),
        trace: Trace::default(),
        took: 0,
    };
    sim.trace.seconds.resize(scenario.seconds as usize, Second::default());
    sim.work();
    sim.play();
    sim.trace
}

impl Sim {
    fn play(&mut self) {
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
            self.happens(event);
            self.work();
        }
    }

    fn close_second(&mut self, second: usize) {
        let capacity = self.capacity(second as u64);
        let done = &mut self.trace.seconds[second];
        done.capacity = capacity;
        done.per_second = self.control.per_second();
        done.sessions = self.standing;
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

    fn happens(&mut self, event: Event) {
        let (now, half) = (self.now, self.scenario.latency / 2);
        let second = (now / 1000) as usize;
        match event {
            Event::Wake => self.wake = None,
            Event::Knock => {
                let capacity = self.capacity(second as u64);
                let full = self.scenario.rule == Rule::Sessions && f64::from(self.let_in) >= capacity;
                self.let_in += u32::from(!full);
                self.at(now + half, Event::Opened(!full));
            }
            Event::Opened(true) => {
                self.connecting -= 1;
                self.standing += 1;
                self.control.connected(self.standing);
                self.waiting.push_back(0);
            }
            Event::Opened(false) => {
                self.connecting -= 1;
                self.trace.seconds[second].refused += 1;
                let change = self.control.refused(now, self.standing.max(1));
                self.note(change);
            }
            Event::Arrives(started, back, served) => {
                let passes = self.ask();
                self.at(now + back, Event::Answered(started, passes, served));
            }
            Event::Answered(started, passes, served) => {
                self.took += now - started;
                let change = match passes {
                    true => self.control.passed(now, started, self.standing, &self.bounds),
                    false => self.control.throttled(now, started, &self.bounds),
                };
                self.note(change);
                let done = &mut self.trace.seconds[second];
                (done.passed, done.throttled) = (done.passed + u32::from(passes), done.throttled + u32::from(!passes));
                let too_many = self.standing as usize > self.control.sessions_max();
                match served + 1 >= PER_SESSION || too_many {
                    true => (self.standing, self.let_in) = (self.standing - 1, self.let_in - 1),
                    false => self.waiting.push_back(served + 1),
                }
            }
        }
    }

    fn note(&mut self, change: Option<Change>) {
        self.trace.changes.extend(change.map(|change| (self.now, change)));
    }

    /// Sessions that wait send if they may; another one is opened if none waits.
    fn work(&mut self) {
        let now = self.now;
        let due = self.scenario.demand.map(|demand| (self.sent as f64 / demand * 1000.0) as Millis);
        let ready = self.control.ready_at(now).max(due.unwrap_or(0));
        if ready > now {
            if self.wake.is_none_or(|wake| ready < wake) {
                self.wake = Some(ready);
                self.at(ready, Event::Wake);
            }
            return;
        }
        if let Some(served) = self.waiting.pop_back() {
            self.control.sends(now);
            self.sent += 1;
            let busy = f64::from(self.standing - self.waiting.len() as u32);
            let latency = match self.scenario.rule {
                Rule::Overload => {
                    let shared = busy / self.capacity(now / 1000) * 1000.0;
                    self.scenario.latency.max(shared as Millis)
                }
                _ => self.scenario.latency,
            };
            let there = latency / 2;
            self.at(now + there, Event::Arrives(now, latency - there, served));
            return self.work();
        }
        let limit = self.control.sessions_max().min(self.scenario.sessions as usize);
        if self.connecting < self.standing.max(1) && ((self.standing + self.connecting) as usize) < limit {
            self.connecting += 1;
            let half = self.scenario.latency - self.scenario.latency / 2;
            self.at(now + half, Event::Knock);
            self.work();
        }
    }

    /// Whether the receiver takes a message now.
    fn ask(&mut self) -> bool {
        let (now, state) = (self.now, &mut self.rule);
        if self.scenario.noise > 0.0 && self.rng.random_bool(self.scenario.noise) {
            return false;
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
