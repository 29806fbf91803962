//! Warm-up: a new source earns its reputation at each provider by a little more mail every day.
//!
//! A plan says how many recipients of a provider a source may mail on its first day, its second, and so on; after the last
//! it is warm and the plan says nothing more. What does not fit goes by the warm sources of its pool; only where the pool
//! has none does it wait, until the next hour or day. (No hour takes more than an eighth of its day, so that the day's mail
//! is not one burst at midnight.)
//!
//! Days are those of UTC. A day counts as done when at least half of what it allows was mailed: reputation comes from mail,
//! not from the calendar. When too much is put off, or complained of, the day ends at once, and the next one is the step
//! before it.
//!
//! | today | tomorrow |
//! |---|---|
//! | half or more of the day's mail went | the next step |
//! | less than half | the same step |
//! | braked | the step before |

mod day;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
pub use day::Kept;
use day::{DAY, HOUR, in_hour};

/// How a source is warmed up.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Which source.
    pub source: String,
    /// At which provider; `None`: at each that has no plan of its own, each counted by itself.
    pub provider: Option<String>,
    /// Nothing is sent by it before; `None`: it may begin at once.
    pub start: Option<Timestamp>,
    /// Recipients on each day.
    pub per_day: Vec<u64>,
    /// The day ends when so large a share of attempts is put off for our sake.
    pub deferrals_max: f64,
    /// The day ends when so large a share of what was delivered is complained of.
    pub complaints_max: f64,
}

/// What a source may send to a provider now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// There is no plan, or it has ended: warm-up has no say.
    Warm,
    /// So many recipients, at least one.
    Left(u64),
    /// Nothing until then.
    Full(Timestamp),
}

/// What became of an attempt, as far as reputation goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// The receiver took it.
    Delivered,
    /// It was put off or refused because of us: too fast, blocked, a bad reputation.
    Refused,
    /// Its recipient complained.
    Complained,
}

/// A step was taken, or a day ended early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Which source.
    pub source: String,
    /// At which provider.
    pub provider: String,
    /// What happened.
    pub what: Stepped,
    /// The day of the plan it is at now, from 1.
    pub day: usize,
    /// What that day allows; 0 when the plan has ended.
    pub per_day: u64,
}

/// See [`Step`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stepped {
    /// On to the next day of the plan.
    Forward,
    /// A step back.
    Back,
    /// No more today.
    Braked,
    /// The plan has ended.
    Warm,
}

/// Where a source stands at a provider, as operators see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Which source.
    pub source: String,
    /// At which provider.
    pub provider: String,
    /// The day of the plan, from 1.
    pub day: usize,
    /// Days of the plan.
    pub days: usize,
    /// Recipients mailed today.
    pub sent: u64,
    /// Recipients it may mail today.
    pub per_day: u64,
    /// It may mail no more today: too much was put off or complained of.
    pub braked: bool,
    /// The plan has ended.
    pub warm: bool,
}

/// Counts what sources that are warmed up send.
#[derive(Debug, Default)]
pub struct Warmup {
    plans: Vec<Plan>,
    tracks: HashMap<String, HashMap<String, Track>>,
    /// What happened since it was last asked.
    steps: Vec<Step>,
}

/// One source at one provider.
#[derive(Debug, Clone)]
struct Track {
    plan: usize,
    kept: Kept,
    /// Changed since it was last kept.
    dirty: bool,
}

/// Attempts that must be refused before a share of them says something.
const REFUSED_MIN: u64 = 10;
/// The same for complaints.
const COMPLAINED_MIN: u64 = 2;

impl Warmup {
    /// With these plans, where they were left.
    pub fn new(plans: Vec<Plan>, kept: Vec<Kept>) -> Warmup {
        let mut warmup = Warmup { plans, ..Warmup::default() };
        warmup.restore(kept);
        warmup
    }

    /// There is nothing to warm up.
    pub fn is_empty(&self) -> bool {
        self.plans.is_empty()
    }

    /// Puts other plans in force; who is in the middle of one goes on at the same day.
    pub fn set_plans(&mut self, plans: Vec<Plan>) {
        let tracks = std::mem::take(&mut self.tracks);
        self.plans = plans;
        self.restore(tracks.into_values().flat_map(HashMap::into_values).map(|track| track.kept));
    }

    /// Goes on from what was kept.
    pub fn restore(&mut self, kept: impl IntoIterator<Item = Kept>) {
        for kept in kept {
            let Some(plan) = self.plan(&kept.source, &kept.provider) else { continue };
            let of_source = self.tracks.entry(kept.source.clone()).or_default();
            of_source.insert(kept.provider.clone(), Track { plan, kept, dirty: false });
        }
    }

    /// What the source may send to the provider now.
    pub fn room(&mut self, source: &str, provider: &str, now: Timestamp) -> Room {
        let Some((track, plan)) = self.track(source, provider, now) else { return Room::Warm };
        if let Some(start) = plan.start.filter(|start| now < *start) {
            return Room::Full(start);
        }
        let Some(per_day) = plan.per_day.get(track.kept.step) else { return Room::Warm };
        let kept = &track.kept;
        if kept.braked || kept.sent >= *per_day {
            return Room::Full(Timestamp((kept.today + 1) * DAY));
        }
        match in_hour(*per_day).saturating_sub(kept.sent_in_hour) {
            0 => Room::Full(Timestamp((kept.hour + 1) * HOUR)),
            left => Room::Left(left.min(per_day - kept.sent)),
        }
    }

    /// So many recipients go by the source now.
    pub fn take(&mut self, source: &str, provider: &str, recipients: u64, now: Timestamp) {
        if let Some((track, _)) = self.track(source, provider, now) {
            track.kept.sent = track.kept.sent.saturating_add(recipients);
            track.kept.sent_in_hour = track.kept.sent_in_hour.saturating_add(recipients);
            track.dirty = true;
        }
    }

    /// What became of some of it.
    pub fn sign(&mut self, source: &str, provider: &str, sign: Sign, recipients: u64, now: Timestamp) {
        let Some((track, plan)) = self.track(source, provider, now) else { return };
        let kept = &mut track.kept;
        let counted = match sign {
            Sign::Delivered => &mut kept.delivered,
            Sign::Refused => &mut kept.refused,
            Sign::Complained => &mut kept.complained,
        };
        *counted = counted.saturating_add(recipients);
        track.dirty = true;
        let share = |part: u64, of: u64| part as f64 / of.max(1) as f64;
        let refused = kept.refused >= REFUSED_MIN
            && share(kept.refused, kept.refused.saturating_add(kept.delivered)) >= plan.deferrals_max;
        let complained =
            kept.complained >= COMPLAINED_MIN && share(kept.complained, kept.delivered) >= plan.complaints_max;
        if (refused || complained) && !kept.braked && kept.step < plan.per_day.len() {
            kept.braked = true;
            let step = kept.told(Stepped::Braked, plan);
            self.steps.push(step);
        }
    }

    /// What happened since the last call.
    pub fn steps(&mut self) -> Vec<Step> {
        std::mem::take(&mut self.steps)
    }

    /// What changed since the last call, to be kept.
    pub fn changed(&mut self) -> Vec<Kept> {
        let tracks = self.tracks.values_mut().flat_map(HashMap::values_mut);
        tracks.filter_map(|track| std::mem::take(&mut track.dirty).then(|| track.kept.clone())).collect()
    }

    /// Where all stand, by source and provider.
    pub fn progress(&mut self, now: Timestamp) -> Vec<Progress> {
        let known: Vec<(String, String)> = self.tracks.values().flat_map(HashMap::values).map(Track::names).collect();
        let mut told: Vec<Progress> =
            known.iter().filter_map(|(source, provider)| self.progress_of(source, provider, now)).collect();
        told.sort_by(|a, b| (&a.source, &a.provider).cmp(&(&b.source, &b.provider)));
        told
    }

    /// Where one stands; `None`: there is no plan for it.
    pub fn progress_of(&mut self, source: &str, provider: &str, now: Timestamp) -> Option<Progress> {
        let (track, plan) = self.track(source, provider, now)?;
        let kept = &track.kept;
        let (warm, per_day) = (kept.step >= plan.per_day.len(), plan.per_day.get(kept.step).copied().unwrap_or(0));
        Some(Progress {
            source: source.into(),
            provider: provider.into(),
            day: kept.step.saturating_add(1).min(plan.per_day.len()),
            days: plan.per_day.len(),
            sent: kept.sent,
            per_day,
            braked: kept.braked,
            warm,
        })
    }

    /// The plan for a source at a provider: its own, or else the one for all.
    fn plan(&self, source: &str, provider: &str) -> Option<usize> {
        let place = |wanted: Option<&str>| {
            self.plans.iter().position(|plan| plan.source == source && plan.provider.as_deref() == wanted)
        };
        place(Some(provider)).or_else(|| place(None))
    }

    /// The track at today, begun if there is a plan for it.
    fn track(&mut self, source: &str, provider: &str, now: Timestamp) -> Option<(&mut Track, &Plan)> {
        if self.plans.is_empty() {
            return None;
        }
        let known = self.tracks.get(source).is_some_and(|of_source| of_source.contains_key(provider));
        if !known {
            let plan = self.plan(source, provider)?;
            let kept = Kept {
                source: source.into(),
                provider: provider.into(),
                today: now.0 / DAY,
                hour: now.0 / HOUR,
                ..Kept::default()
            };
            self.tracks.entry(source.into()).or_default().insert(provider.into(), Track { plan, kept, dirty: true });
        }
        let track = self.tracks.get_mut(source)?.get_mut(provider)?;
        let plan = &self.plans[track.plan];
        if let Some(stepped) = track.kept.turn(plan, now) {
            track.dirty = true;
            self.steps.push(track.kept.told(stepped, plan));
        }
        Some((track, plan))
    }
}

impl Track {
    fn names(&self) -> (String, String) {
        (self.kept.source.clone(), self.kept.provider.clone())
    }
}

impl Stepped {
    /// In a word, as events say it.
    pub fn as_str(self) -> &'static str {
        match self {
            Stepped::Forward => "forward",
            Stepped::Back => "back",
            Stepped::Braked => "braked",
            Stepped::Warm => "warm",
        }
    }
}
