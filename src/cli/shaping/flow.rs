//! What limits, paces and pauses would have made of the traffic that an event log tells of.
//!
//! Each attempt is taken at the time it was recorded at, and asks the limits of its provider's profile when it could have gone;
//! each refusal moves a controller as the profile reads it. What the receiver would have said to another pace, nobody knows:
//! paces and pauses follow what it said to the one that was kept.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::config::RateLimit;
use crate::shaping::bucket::{Bucket, Rate};
use crate::shaping::controller::Controller;
use crate::shaping::provider::{Action, Advice, Profile};

/// An attempt for one recipient.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt<'a> {
    /// Milliseconds since 1970.
    pub(super) at: u64,
    pub(super) source: &'a str,
    pub(super) site: &'a str,
    pub(super) message: &'a str,
}

/// What would have become of the mail of one source to one provider.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Flow {
    /// Attempts.
    pub(super) attempts: u64,
    /// Those that limits would have held back, and the longest of these waits, in seconds.
    pub(super) held: u64,
    pub(super) longest_wait: f64,
    /// Replies that slow the source down, and the slowest pace that comes of them, in messages a second.
    pub(super) slowed: u64,
    pub(super) slowest: Option<f64>,
    /// Pauses of the source, and how long they last together, in seconds.
    pub(super) pauses: u64,
    pub(super) paused: f64,
}

/// One set of profiles at work.
#[derive(Debug, Default)]
pub(super) struct Play {
    paths: HashMap<(String, String), Path>,
    flows: BTreeMap<(String, String), Flow>,
    /// Logs may be given in any order; time does not go back for that.
    now: u64,
}

/// A source at a site.
#[derive(Debug, Default)]
struct Path {
    messages: Bucket,
    recipients: Bucket,
    control: Controller,
    message: String,
    paused_until: u64,
}

impl Play {
    /// An attempt, and what the profile makes of the reply; `None`: nothing.
    pub(super) fn add(&mut self, attempt: Attempt<'_>, profile: &Profile, advice: Option<&Advice<'_>>) {
        self.now = self.now.max(attempt.at);
        let now = self.now;
        let flow = self.flows.entry((profile.name.to_owned(), attempt.source.to_owned())).or_default();
        let path = self.paths.entry((attempt.source.to_owned(), attempt.site.to_owned())).or_default();
        flow.attempts += 1;
        // Recipients of one message behind one another went in one transaction, or could have.
        let is_new = path.message != attempt.message;
        let mut ready = path.recipients_at(profile.limits.recipients, now);
        if is_new {
            path.message = attempt.message.to_owned();
            ready = ready.max(take(&mut path.messages, profile.limits.messages, now));
        }
        if ready > now {
            flow.held += 1;
            flow.longest_wait = flow.longest_wait.max((ready - now) as f64 / 1000.0);
        }
        let bounds = profile.control();
        match advice.map(|advice| advice.action) {
            Some(Action::Slow) => {
                flow.slowed += 1;
                path.control.throttled(now, now, &bounds);
            }
            _ => _ = path.control.passed(now, now, 1, &bounds),
        }
        let pace = path.control.per_second();
        flow.slowest = [flow.slowest, pace].into_iter().flatten().reduce(f64::min);
        if let Some(advice) = advice.filter(|advice| advice.action == Action::PauseSource)
            && now >= path.paused_until
        {
            let lasts = advice.wait.map_or(900_000, |wait| wait.as_millis() as u64);
            path.paused_until = now + lasts;
            (flow.pauses, flow.paused) = (flow.pauses + 1, flow.paused + lasts as f64 / 1000.0);
        }
    }

    /// By provider and source.
    pub(super) fn finish(self) -> BTreeMap<(String, String), Flow> {
        self.flows
    }
}

impl Path {
    fn recipients_at(&mut self, limit: Option<RateLimit>, now: u64) -> u64 {
        take(&mut self.recipients, limit, now)
    }
}

/// Takes a token, waiting for it if there is none: when that is over.
fn take(bucket: &mut Bucket, limit: Option<RateLimit>, now: u64) -> u64 {
    let Some(limit) = limit else { return now };
    let amount = limit.amount as f64;
    let a_second = amount / limit.period.as_secs_f64();
    let rate = Rate::new(amount, limit.period, limit.burst.map_or(a_second, |burst| burst as f64));
    let ready = bucket.ready_at(rate, now, 1.0);
    bucket.charge(rate, ready, 1.0);
    ready
}

/// What the one set of profiles makes of the traffic, and the other.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Compared {
    provider: String,
    source: String,
    before: Flow,
    after: Flow,
}

/// All that attempted anything, side by side.
pub(super) fn compare(before: Play, after: Play) -> Vec<Compared> {
    let (mut before, mut after) = (before.finish(), after.finish());
    let mut names: Vec<(String, String)> = before.keys().chain(after.keys()).cloned().collect();
    names.sort();
    names.dedup();
    let one = |name: (String, String)| {
        let (before, after) = (before.remove(&name).unwrap_or_default(), after.remove(&name).unwrap_or_default());
        Compared { provider: name.0, source: name.1, before, after }
    };
    names.into_iter().map(one).collect()
}

/// As a table: each cell is what it was, and what it would be if that differs.
pub(super) fn in_words(compared: &[Compared]) -> String {
    let mut rows =
        vec![["provider", "source", "attempts", "held", "longest wait", "slowest pace", "paused"].map(String::from)];
    for Compared { provider, source, before, after } in compared {
        let both = |of: &dyn Fn(&Flow) -> String| match (of(before), of(after)) {
            (before, after) if before == after => before,
            (before, after) => format!("{before} -> {after}"),
        };
        let pace = |flow: &Flow| flow.slowest.map_or("-".to_owned(), |pace| format!("{pace:.2}/s"));
        rows.push([
            provider.clone(),
            source.clone(),
            both(&|flow| flow.attempts.to_string()),
            both(&|flow| flow.held.to_string()),
            both(&|flow| format!("{:.1} s", flow.longest_wait)),
            both(&pace),
            both(&|flow| format!("{:.0} s", flow.paused)),
        ]);
    }
    let mut text = String::from("what limits, paces and pauses make of this traffic:\n");
    for row in &rows {
        for (column, cell) in row.iter().enumerate() {
            let width = rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
            text.push_str(&format!("  {cell:<width$}"));
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shaping::provider::Profiles;

    fn profiles(text: &str) -> Profiles {
        Profiles::read(&[("own.toml".into(), text.into())]).expect("profiles").0
    }

    #[test]
    fn limits_hold_back_what_came_too_fast() {
        let own = profiles("name = \"own\"\nmx = [\"them.example\"]\n[limits]\nmessages = \"2/s burst 4\"\n");
        let mut play = Play::default();
        let messages: Vec<String> = (0..10).map(|number| number.to_string()).collect();
        for message in &messages {
            for _ in 0..3 {
                let attempt = Attempt { at: 1_000_000, source: "a", site: "mx.them.example", message };
                play.add(attempt, own.get("own"), None);
            }
        }
        let flows = play.finish();
        let flow = &flows[&("own".to_owned(), "a".to_owned())];
        assert_eq!((flow.attempts, flow.held), (30, 6), "of ten messages four go at once");
        assert!((flow.longest_wait - 3.0).abs() < 0.01, "{}", flow.longest_wait);
        assert_eq!((flow.slowest, flow.pauses), (None, 0));
    }

    #[test]
    fn replies_slow_and_pause_as_the_profile_says() {
        let own = Profiles::built_in();
        let slow = own.advise_text("google", Some(421), None, "4.7.28 unusual rate of unsolicited mail");
        let mut play = Play::default();
        for number in 0..100_u64 {
            let message = number.to_string();
            let attempt = Attempt { at: 1_000_000 + 100 * number, source: "a", site: "s", message: &message };
            let advice = (number % 10 == 9).then_some(&slow);
            play.add(attempt, own.get("google"), advice);
        }
        let flows = play.finish();
        let flow = &flows[&("google".to_owned(), "a".to_owned())];
        match slow.action {
            Action::Slow => assert!(flow.slowed == 10 && flow.slowest.is_some_and(|pace| pace < 10.0), "{flow:?}"),
            Action::PauseSource => assert!(flow.pauses >= 1 && flow.paused > 0.0, "{flow:?}"),
            other => panic!("{other:?}"),
        }
        assert!(in_words(&compare(Play::default(), Play::default())).starts_with("what limits"));
    }
}
