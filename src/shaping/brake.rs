//! The reputation brake: a stream that earns complaints, or writes to addresses that do not exist, is slowed or stopped
//! before its receiver does it to everything that leaves the same source.
//!
//! For each stream and provider two sliding windows, an hour and a day, count what was delivered, what met an
//! unknown user, and what was complained of. A share is judged once its window has seen enough mail and enough of the
//! harm, so that one complaint among ten messages says nothing. Crossing a threshold is told once; it may be told again
//! after the share was below it, or after an operator let the stream go.
//!
//! Complaints come hours late and delivered mail is counted when it is delivered: the day's window is the one that matters
//! for them, the hour's catches a bad list while it is being mailed.

#[cfg(test)]
mod tests;
mod window;

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::index::folded;
use crate::clock::Timestamp;
use crate::mail::Stream;
use window::{FACTS, Parts, Window};

/// Streams times providers that are watched at once. One takes about 600 octets; of more, those that have sent least are
/// forgotten.
const WATCHED_MAX: usize = 50_000;

/// What is watched.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Watched {
    /// Whose mail, of which class and campaign.
    pub stream: Stream,
    /// Where to: a provider's name.
    pub provider: Arc<str>,
}

/// What became of mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fact {
    /// The receiver took it.
    Delivered,
    /// There is no such user (or no such domain).
    UnknownUser,
    /// Its recipient complained of it.
    Complaint,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    /// Complaints, of what was delivered.
    Complaints,
    /// Unknown users, of what came to a final verdict.
    UnknownUsers,
}

/// How bad it is; later is worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub enum Level {
    /// Nothing to say.
    #[default]
    Fine,
    /// Told, and no more.
    Warn,
    /// Slowed down.
    Slow,
    /// Stopped.
    Pause,
}

/// Thresholds as shares (0.001 is 0.1 %); infinite: never.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Steps {
    /// From here on it is told.
    pub warn: f64,
    /// From here on the stream is slowed down.
    pub slow: f64,
    /// From here on it is stopped.
    pub pause: f64,
    /// So much harm in a window before it is judged, at least 1.
    pub harm_min: u32,
}

/// When the brake acts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BrakePolicy {
    /// For complaints.
    pub complaints: Steps,
    /// For unknown users.
    pub unknown_users: Steps,
    /// So many recipients in a window before it is judged.
    pub recipients_min: u32,
}

/// A threshold was crossed.
#[derive(Debug, Clone, PartialEq)]
pub struct Crossed {
    /// By whom, where.
    pub watched: Watched,
    /// What goes wrong.
    pub harm: Harm,
    /// How bad it is.
    pub level: Level,
    /// The harm as a share.
    pub share: f64,
    /// Recipients with that harm, and of how many.
    pub counts: (u32, u32),
    /// Seconds of the window in which it happened.
    pub window: u64,
}

/// Counts and judges. Pure: acting on what it says is up to the caller.
#[derive(Debug)]
pub struct Brake {
    policy: BrakePolicy,
    watched: HashMap<Watched, Counts>,
    watched_max: usize,
    /// Their names, each stored once: there are as many as there are profiles.
    providers: Vec<Arc<str>>,
    /// Forgotten since what changed was asked for last.
    gone: Vec<Watched>,
}

#[derive(Debug)]
struct Counts {
    hour: Window,
    day: Window,
    /// What was told last, of complaints and of unknown users.
    told: [Level; 2],
    /// When something was counted last.
    at: Timestamp,
    /// Changed since that was asked for last.
    dirty: bool,
}

/// What is kept of one stream at one provider over restarts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub(super) watched: Watched,
    hour: Parts,
    day: Parts,
    told: [Level; 2],
    at: Timestamp,
}

/// A threshold that was crossed counts as crossed until the share is below this part of it: a share that wavers about the
/// threshold is told once.
const HOLD: f64 = 0.75;

/// The longest key of what is kept, in octets; the ledger takes 512.
const KEY_MAX: usize = 500;

impl Crossed {
    /// In a sentence, for events and orders.
    pub fn cause(&self) -> String {
        let (harm, all) = self.counts;
        let what = match self.harm {
            Harm::Complaints => "complaints of",
            Harm::UnknownUsers => "unknown users among",
        };
        let within = if self.window >= 86_400 { "a day" } else { "an hour" };
        format!(
            "{harm} {what} {all} recipients at {} within {within}: {:.2} %",
            self.watched.provider,
            self.share * 100.0
        )
    }
}

impl Level {
    /// In a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Fine => "fine",
            Level::Warn => "warned",
            Level::Slow => "slowed",
            Level::Pause => "paused",
        }
    }
}

impl Steps {
    fn judge(&self, share: f64) -> Level {
        match share {
            share if share >= self.pause => Level::Pause,
            share if share >= self.slow => Level::Slow,
            share if share >= self.warn => Level::Warn,
            _ => Level::Fine,
        }
    }
}

impl Brake {
    /// A brake that has seen nothing.
    pub fn new(policy: BrakePolicy) -> Brake {
        Brake { policy, watched: HashMap::new(), watched_max: WATCHED_MAX, providers: Vec::new(), gone: Vec::new() }
    }

    /// Puts other thresholds in force; what was counted stays.
    pub fn set_policy(&mut self, policy: BrakePolicy) {
        self.policy = policy;
    }

    /// How many are watched.
    pub fn len(&self) -> usize {
        self.watched.len()
    }

    /// Nothing is watched.
    pub fn is_empty(&self) -> bool {
        self.watched.is_empty()
    }

    /// The stream at the provider, as what is watched.
    pub fn watched(&mut self, stream: &Stream, provider: &str) -> Watched {
        let known = self.providers.iter().find(|known| ***known == *provider).map(Arc::clone);
        let provider = known.unwrap_or_else(|| {
            self.providers.push(provider.into());
            provider.into()
        });
        Watched { stream: stream.clone(), provider }
    }

    /// Counts what became of so many recipients. What is said then is new: each threshold once.
    pub fn count(&mut self, watched: &Watched, fact: Fact, recipients: u32, now: Timestamp) -> SmallVec<[Crossed; 1]> {
        let counts = match self.watched.get_mut(watched) {
            Some(counts) => counts,
            None => {
                self.make_room(now);
                self.watched.entry(watched.clone()).or_insert_with(|| Counts::new(now))
            }
        };
        counts.at = counts.at.max(now);
        counts.dirty = true;
        counts.hour.add(fact, recipients, now);
        counts.day.add(fact, recipients, now);
        let policy = &self.policy;
        let mut crossed = SmallVec::new();
        for (harm, steps) in [(Harm::Complaints, &policy.complaints), (Harm::UnknownUsers, &policy.unknown_users)] {
            let level_of =
                |worst: Option<(Level, f64, (u32, u32), u64)>| worst.map_or(Level::Fine, |(level, ..)| level);
            let worst = counts.worst(harm, steps, policy.recipients_min, 1.0);
            let held = level_of(counts.worst(harm, steps, policy.recipients_min, HOLD));
            let level = level_of(worst);
            let told = &mut counts.told[harm as usize];
            let risen = level > *told;
            *told = level.max(held.min(*told));
            if let Some((level, share, counts, window)) = worst.filter(|_| risen) {
                crossed.push(Crossed { watched: watched.clone(), harm, level, share, counts, window });
            }
        }
        crossed
    }

    /// Begins anew for all that `which` picks: an operator lets them go on.
    pub fn forgive(&mut self, which: impl Fn(&Watched) -> bool) {
        let gone: Vec<Watched> = self.watched.keys().filter(|watched| which(watched)).cloned().collect();
        self.forget(gone);
    }

    fn forget(&mut self, gone: Vec<Watched>) {
        gone.iter().for_each(|watched| _ = self.watched.remove(watched));
        self.gone.extend(gone);
        // Nobody asks for them: what is a day old is not restored, so they need not all be named.
        self.gone.truncate(self.watched_max);
    }

    /// What changed since the last call, by a key; `None`: it is forgotten.
    pub fn changed(&mut self) -> Vec<(Vec<u8>, Option<Kept>)> {
        let mut changed: Vec<_> = self.gone.drain(..).map(|watched| (key(&watched), None)).collect();
        for (watched, counts) in self.watched.iter_mut().filter(|(_, counts)| counts.dirty) {
            counts.dirty = false;
            let Counts { hour, day, told, at, .. } = &*counts;
            let (hour, day) = (hour.parts().clone(), day.parts().clone());
            changed.push((key(watched), Some(Kept { watched: watched.clone(), hour, day, told: *told, at: *at })));
        }
        changed
    }

    /// Goes on from what was kept, but for what is a day old.
    pub fn restore(&mut self, kept: impl IntoIterator<Item = Kept>, now: Timestamp) {
        for Kept { watched, hour, day, told, at } in kept {
            let watched = self.watched(&watched.stream, &watched.provider);
            if now.since(at).as_secs() >= 86_400 {
                self.gone.push(watched);
                continue;
            }
            let mut counts = Counts { told, at: at.min(now), ..Counts::new(now) };
            counts.hour.restore(hour, now);
            counts.day.restore(day, now);
            self.make_room(now);
            self.watched.insert(watched, counts);
        }
    }

    /// The shares of a day: complaints and unknown users; `None` where nothing is known.
    pub fn shares(&self, watched: &Watched) -> Option<(f64, f64)> {
        let sums = self.watched.get(watched)?.day.sums;
        Some((share(Harm::Complaints, sums)?.0, share(Harm::UnknownUsers, sums)?.0))
    }

    /// Keeps the table within its bound: what is a day old goes, and if that is not enough, a quarter of the rest, those
    /// that have sent least first.
    fn make_room(&mut self, now: Timestamp) {
        if self.watched.len() < self.watched_max {
            return;
        }
        let old = self.watched.iter().filter(|(_, counts)| now.since(counts.at).as_secs() >= 86_400);
        let old = old.map(|(watched, _)| watched.clone()).collect();
        self.forget(old);
        if self.watched.len() < self.watched_max {
            return;
        }
        let mut sizes: Vec<(u64, Watched)> =
            self.watched.iter().map(|(watched, counts)| (counts.day.size(), watched.clone())).collect();
        sizes.sort_unstable();
        self.forget(sizes.into_iter().take(self.watched_max / 4).map(|(_, watched)| watched).collect());
    }
}

/// Names what is watched in the ledger.
fn key(watched: &Watched) -> Vec<u8> {
    let Watched { stream: Stream { tenant, class, campaign }, provider } = watched;
    let mut key = format!("{provider}\0{tenant}\0{}\0{campaign}", class.as_str()).into_bytes();
    if key.len() > KEY_MAX {
        let rest = folded(&String::from_utf8_lossy(&key[KEY_MAX - 8..]));
        key.truncate(KEY_MAX - 8);
        key.extend(rest.to_le_bytes());
    }
    key
}

/// The share, and the two counts it is made of.
fn share(harm: Harm, sums: [u32; FACTS]) -> Option<(f64, (u32, u32))> {
    let [delivered, unknown, complaints] = sums;
    let counts = match harm {
        Harm::Complaints => (complaints, delivered),
        Harm::UnknownUsers => (unknown, delivered.saturating_add(unknown)),
    };
    (counts.1 > 0).then(|| (f64::from(counts.0) / f64::from(counts.1), counts))
}

impl Counts {
    fn new(now: Timestamp) -> Counts {
        Counts { hour: Window::new(300, 12), day: Window::new(3600, 24), told: [Level::Fine; 2], at: now, dirty: false }
    }

    /// The worst of both windows, with thresholds taken `times`.
    fn worst(
        &self,
        harm: Harm,
        steps: &Steps,
        recipients_min: u32,
        times: f64,
    ) -> Option<(Level, f64, (u32, u32), u64)> {
        let judged = [&self.hour, &self.day].into_iter().filter_map(|window| {
            let (share, counts) = share(harm, window.sums)?;
            let enough = counts.1 >= recipients_min && counts.0 >= steps.harm_min;
            enough.then(|| (steps.judge(share / times), share, counts, window.seconds()))
        });
        judged.max_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))).filter(|(level, ..)| *level > Level::Fine)
    }
}
