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

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::index::folded;
use crate::clock::Timestamp;
use crate::mail::Stream;

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
    watched: Watched,
    hour: Parts,
    day: Parts,
    told: [Level; 2],
    at: Timestamp,
}

/// Steps of a window that are not empty, by number since 1970.
type Parts = VecDeque<(u64, [u32; FACTS])>;

/// The longest key of what is kept, in octets; the ledger takes 512.
const KEY_MAX: usize = 500;

const FACTS: usize = 3;

/// A sliding count in steps; the step that is counted now is the last.
#[derive(Debug)]
struct Window {
    /// Milliseconds of a step.
    step: u64,
    steps: u64,
    parts: Parts,
    sums: [u32; FACTS],
}

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
            let worst = counts.worst(harm, steps, policy.recipients_min);
            let told = &mut counts.told[harm as usize];
            let level = worst.map_or(Level::Fine, |(level, ..)| level);
            let risen = level > *told;
            *told = level;
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
            let (hour, day) = (hour.parts.clone(), day.parts.clone());
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
            let mut counts = Counts { told, at, ..Counts::new(now) };
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
        let window = |step: u64, steps| Window { step: step * 1000, steps, parts: VecDeque::new(), sums: [0; FACTS] };
        Counts { hour: window(300, 12), day: window(3600, 24), told: [Level::Fine; 2], at: now, dirty: false }
    }

    fn worst(&self, harm: Harm, steps: &Steps, recipients_min: u32) -> Option<(Level, f64, (u32, u32), u64)> {
        let judged = [&self.hour, &self.day].into_iter().filter_map(|window| {
            let (share, counts) = share(harm, window.sums)?;
            let enough = counts.1 >= recipients_min && counts.0 >= steps.harm_min;
            enough.then(|| (steps.judge(share), share, counts, window.step * window.steps / 1000))
        });
        judged.max_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))).filter(|(level, ..)| *level > Level::Fine)
    }
}

impl Window {
    fn add(&mut self, fact: Fact, n: u32, now: Timestamp) {
        // A clock set back counts into the step that is open.
        let newest = self.parts.back().map_or(0, |(number, _)| *number);
        let number = (now.0 / self.step).max(newest);
        self.slide(number);
        if newest != number || self.parts.is_empty() {
            self.parts.push_back((number, [0; FACTS]));
        }
        let part = self.parts.back_mut().map(|(_, counts)| &mut counts[fact as usize]);
        part.into_iter().for_each(|count| *count = count.saturating_add(n));
        self.sums[fact as usize] = self.sums[fact as usize].saturating_add(n);
    }

    /// What lies before the window that ends with that step is forgotten.
    fn slide(&mut self, number: u64) {
        while self.parts.front().is_some_and(|(oldest, _)| number.saturating_sub(*oldest) >= self.steps) {
            let (_, gone) = self.parts.pop_front().unwrap_or_default();
            self.sums.iter_mut().zip(gone).for_each(|(sum, gone)| *sum = sum.saturating_sub(gone));
        }
    }

    /// These were counted before.
    fn restore(&mut self, parts: Parts, now: Timestamp) {
        for (number, counts) in parts.into_iter().take(self.steps as usize) {
            // In order, as they were written.
            if self.parts.back().is_none_or(|(newest, _)| *newest < number) {
                self.sums.iter_mut().zip(counts).for_each(|(sum, n)| *sum = sum.saturating_add(n));
                self.parts.push_back((number, counts));
            }
        }
        self.slide(now.0 / self.step);
    }

    fn size(&self) -> u64 {
        self.sums.iter().map(|sum| u64::from(*sum)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Timestamp = Timestamp(1_795_348_800_000);

    fn at(minutes: u64) -> Timestamp {
        Timestamp(NOON.0 + minutes * 60_000)
    }

    fn policy() -> BrakePolicy {
        BrakePolicy {
            complaints: Steps { warn: 0.001, slow: f64::INFINITY, pause: 0.003, harm_min: 3 },
            unknown_users: Steps { warn: 0.05, slow: 0.08, pause: 0.1, harm_min: 10 },
            recipients_min: 100,
        }
    }

    fn watched(campaign: &str) -> Watched {
        let stream = Stream { tenant: "shop".into(), campaign: campaign.into(), ..Stream::default() };
        Watched { stream, provider: "google".into() }
    }

    fn levels(crossed: &[Crossed]) -> Vec<(Harm, Level)> {
        crossed.iter().map(|crossed| (crossed.harm, crossed.level)).collect()
    }

    #[test]
    fn each_threshold_is_told_once() {
        let mut brake = Brake::new(policy());
        let list = watched("spring");
        assert_eq!(levels(&brake.count(&list, Fact::Delivered, 2000, at(0))), []);
        let mut told = Vec::new();
        for minute in 0..10 {
            told.extend(levels(&brake.count(&list, Fact::Complaint, 1, at(minute))));
        }
        assert_eq!(told, [(Harm::Complaints, Level::Warn), (Harm::Complaints, Level::Pause)]);
        let mut told = Vec::new();
        for minute in 10..30 {
            told.extend(levels(&brake.count(&list, Fact::UnknownUser, 12, at(minute))));
        }
        let expected = [Level::Warn, Level::Slow, Level::Pause].map(|level| (Harm::UnknownUsers, level));
        assert_eq!(told, expected);
    }

    #[test]
    fn little_mail_says_nothing() {
        let mut brake = Brake::new(policy());
        let list = watched("spring");
        // Every second user is unknown, but it is only 99 of them; every mail is complained of, but only twice.
        assert_eq!(levels(&brake.count(&list, Fact::Delivered, 49, at(0))), []);
        assert_eq!(levels(&brake.count(&list, Fact::UnknownUser, 50, at(0))), []);
        assert_eq!(levels(&brake.count(&list, Fact::Complaint, 2, at(0))), []);
        assert_eq!(levels(&brake.count(&list, Fact::Delivered, 1, at(1))), [(Harm::UnknownUsers, Level::Pause)]);
    }

    #[test]
    fn the_cause_can_be_read() {
        let mut brake = Brake::new(policy());
        let list = watched("spring");
        brake.count(&list, Fact::Delivered, 1000, at(0));
        let crossed = brake.count(&list, Fact::Complaint, 4, at(120));
        let causes: Vec<String> = crossed.iter().map(Crossed::cause).collect();
        assert_eq!(causes, ["4 complaints of 1000 recipients at google within a day: 0.40 %"]);
        assert_eq!(brake.shares(&list), Some((0.004, 0.0)));
    }

    #[test]
    fn windows_slide_and_a_new_offence_is_told_again() {
        let mut brake = Brake::new(policy());
        let list = watched("spring");
        brake.count(&list, Fact::Delivered, 800, at(0));
        let bad = |brake: &mut Brake, minute| levels(&brake.count(&list, Fact::UnknownUser, 100, at(minute)));
        assert_eq!(bad(&mut brake, 1), [(Harm::UnknownUsers, Level::Pause)]);
        assert_eq!(bad(&mut brake, 2), [], "it is known");
        // A day later all of it is forgotten; good mail comes, then bad again.
        assert_eq!(levels(&brake.count(&list, Fact::Delivered, 800, at(26 * 60))), []);
        assert_eq!(brake.shares(&list), Some((0.0, 0.0)));
        assert_eq!(bad(&mut brake, 26 * 60 + 1), [(Harm::UnknownUsers, Level::Pause)]);
        // An operator who lets it go on begins with a clean slate.
        brake.forgive(|watched| &*watched.stream.campaign == "spring");
        assert_eq!(bad(&mut brake, 26 * 60 + 2), [(Harm::UnknownUsers, Level::Pause)]);
    }

    #[test]
    fn campaigns_are_judged_apart() {
        let mut brake = Brake::new(policy());
        brake.count(&watched("good"), Fact::Delivered, 1000, at(0));
        let crossed = brake.count(&watched("bad"), Fact::UnknownUser, 100, at(0));
        assert_eq!(crossed.iter().map(|c| &*c.watched.stream.campaign).collect::<Vec<_>>(), ["bad"]);
        assert!(brake.count(&watched("good"), Fact::Delivered, 1, at(1)).is_empty());
    }

    #[test]
    fn memory_is_bounded_and_the_large_are_kept() {
        let mut brake = Brake { watched_max: 1000, ..Brake::new(policy()) };
        brake.count(&watched("large"), Fact::Delivered, 5000, at(0));
        for n in 0..10_000 {
            brake.count(&watched(&format!("small{n}")), Fact::Delivered, 1, at(n / 100));
            assert!(brake.len() <= 1000);
        }
        assert!(brake.shares(&watched("large")).is_some());
        // A day later the old ones go first, whatever their size.
        for n in 0..2000 {
            brake.count(&watched(&format!("new{n}")), Fact::Delivered, 1, at(3000));
        }
        assert!(brake.shares(&watched("large")).is_none());
    }

    #[test]
    fn a_restart_is_no_clean_slate() {
        let mut brake = Brake::new(policy());
        let list = watched("spring");
        brake.count(&list, Fact::Delivered, 90, at(0));
        brake.count(&list, Fact::UnknownUser, 9, at(100));
        brake.count(&watched("long".repeat(200).as_str()), Fact::Delivered, 1, at(100));
        let kept = |brake: &mut Brake| -> Vec<Kept> {
            let changed = brake.changed();
            assert!(changed.iter().all(|(key, _)| key.len() <= KEY_MAX));
            let kept = changed.into_iter().filter_map(|(_, kept)| kept);
            kept.map(|kept| serde_json::from_str(&serde_json::to_string(&kept).unwrap()).unwrap()).collect()
        };
        let before = kept(&mut brake);
        assert_eq!((before.len(), brake.changed().len()), (2, 0));
        let mut after = Brake::new(policy());
        after.restore(before.clone(), at(110));
        assert_eq!(after.shares(&list), brake.shares(&list));
        let told = levels(&after.count(&list, Fact::UnknownUser, 1, at(111)));
        assert_eq!(told, [(Harm::UnknownUsers, Level::Pause)]);
        // What was told stays told; what was let go stays forgotten.
        let mut again = Brake::new(policy());
        again.restore(kept(&mut after), at(112));
        assert_eq!(levels(&again.count(&list, Fact::UnknownUser, 1, at(112))), []);
        again.forgive(|_| true);
        assert!(again.changed().iter().all(|(_, kept)| kept.is_none()));
        let mut late = Brake::new(policy());
        late.restore(before, at(100 + 24 * 60));
        assert!(late.is_empty());
    }

    #[test]
    fn a_clock_set_back_breaks_nothing() {
        let mut brake = Brake::new(policy());
        let list = watched("spring");
        for minute in [0, 5000, 3, u64::from(u32::MAX), 0] {
            brake.count(&list, Fact::Delivered, u32::MAX, at(minute));
            brake.count(&list, Fact::Complaint, 1, at(minute));
        }
        assert_eq!(brake.len(), 1);
    }
}
