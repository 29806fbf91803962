//! How long mail stood in line at places that take everything, against what limits allow: nobody starves.
//!
//! At such a place only the mail before one's own can hold it up. So for each recipient there, of every class, it is
//! asked what its site was given while it stood in line: work went on there all the time, no other stream of its class
//! got more than its own beyond a few turns, and no class more than its weight. Who expired in line is asked the same up
//! to his expiry: that his time was short is no excuse, that so much fair work came before him is.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use posthaste::clock::Timestamp;
use posthaste::mail::Class;

use super::events::Kind;
use super::{Books, Line};

/// What limits allow where a run checks its waits.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// To the first attempt, if nobody else is there: names, a connection, and the place it needs among all.
    pub first: Duration,
    /// For each recipient that the site is given, by the fewest connections and the slowest receiver.
    pub each: Duration,
}

/// As `WEIGHTS` in the queue, in the order of [`Class::ALL`].
const WEIGHTS: [usize; 3] = [16, 4, 2];

/// Recipients that a stream may be ahead by: a turn of 16 each, and one transaction that was larger than its turn.
const AHEAD: usize = 3 * 16 + 100;

/// A stream, as far as waits go.
type Stream<'a> = (Class, &'a str);

/// One recipient's time in line.
struct Wait<'a> {
    line: &'a Line,
    stream: Stream<'a>,
    /// When its turn could come, and when it came, or its time was over.
    from: Timestamp,
    until: Timestamp,
}

/// What one site was given: when, by stream, in order.
#[derive(Default)]
struct Site<'a> {
    all: Vec<Timestamp>,
    streams: BTreeMap<Stream<'a>, Vec<Timestamp>>,
}

impl Site<'_> {
    fn sort(&mut self) {
        self.all.sort_unstable();
        self.streams.values_mut().for_each(|times| times.sort_unstable());
    }
}

/// How many of these, in order, lie between the two.
fn between(times: &[Timestamp], from: Timestamp, until: Timestamp) -> usize {
    times.partition_point(|at| *at <= until).saturating_sub(times.partition_point(|at| *at < from))
}

impl Books {
    /// An operator holds a tenant's mail back.
    pub fn paused(&mut self, tenant: &str, from: Timestamp, until: Timestamp) {
        self.pauses.push((tenant.into(), from, until));
    }

    /// Nobody waited longer than limits allow.
    pub(super) fn check_waits(&mut self, pace: Pace) {
        let mut sites: HashMap<usize, Site<'_>> = HashMap::new();
        let mut waits = Vec::new();
        for line in &self.lines {
            let (message, site) = (&self.messages[line.message], line.site);
            let stream = (message.class, &*message.stream);
            let (Some(site), Some((end, _))) = (site, line.end) else { continue };
            let turn = line.begun.filter(|_| end != Kind::Expired);
            if let Some(begun) = turn {
                let site = sites.entry(site).or_default();
                site.all.push(begun);
                site.streams.entry(stream).or_default().push(begun);
            }
            let until = turn.unwrap_or(message.expires_at);
            if line.healthy {
                waits.push((site, Wait { line, stream, from: message.not_before, until }));
            }
        }
        sites.values_mut().for_each(Site::sort);
        let (mut wrong, nothing) = (Vec::new(), Site::default());
        let mut slowest = [Duration::ZERO; 3];
        for (site, wait) in &waits {
            let waited = self.stood(wait);
            let slowest = &mut slowest[wait.stream.0 as usize];
            *slowest = (*slowest).max(waited);
            let site = sites.get(site).unwrap_or(&nothing);
            wrong.extend(self.unfair(wait, waited, site, pace).map(|why| format!("{}: {why}", wait.line.address)));
        }
        let starved = waits.iter().filter(|(_, wait)| wait.line.end.is_some_and(|(end, _)| end == Kind::Expired));
        self.tally.expired_in_line = starved.count();
        self.tally.slowest = slowest;
        wrong.into_iter().for_each(|wrong| self.fault(wrong));
    }

    /// How long it stood in line while the engine was there and nobody held it back.
    fn stood(&self, wait: &Wait<'_>) -> Duration {
        let tenant = &*self.messages[wait.line.message].tenant;
        let held = self.pauses.iter().filter(|(of, ..)| **of == *tenant);
        let held = held.map(|(_, from, until)| (*until).min(wait.until).since((*from).max(wait.from)));
        self.waited(wait.from, wait.until).saturating_sub(held.sum())
    }

    /// What was not as it should have been while it waited.
    fn unfair(&self, wait: &Wait<'_>, waited: Duration, site: &Site<'_>, pace: Pace) -> Option<String> {
        let given = |times: &[Timestamp]| between(times, wait.from, wait.until);
        let before = given(&site.all);
        let most = pace.first + pace.each * before as u32;
        if waited > most {
            return Some(format!("{:?} stood in line for {waited:?}, with {before} given before it", wait.stream));
        }
        // Who was ahead is forgotten with each life.
        let begun = |(_, back, _): &&(Timestamp, Timestamp, _)| (wait.from..wait.until).contains(back);
        let ahead = AHEAD * (1 + self.outages.iter().filter(begun).count());
        let own = site.streams.get(&wait.stream).map_or(0, |times| given(times));
        let (mine, mut by_class) = (wait.stream.0, [0; 3]);
        for (stream, times) in &site.streams {
            let theirs = given(times);
            by_class[stream.0 as usize] += theirs;
            if stream.0 == mine && theirs > own + ahead {
                return Some(format!("{stream:?} got {theirs} while {:?} waited {waited:?} for {own}", wait.stream));
            }
        }
        let share = |class: usize| by_class[class] / WEIGHTS[class];
        let most = share(mine as usize) + 1 + ahead / WEIGHTS[mine as usize];
        let greedy = (0..3).find(|class| share(*class) > most)?;
        Some(format!("{:?} got {by_class:?} by class while {:?} waited {waited:?}", Class::ALL[greedy], wait.stream))
    }
}
