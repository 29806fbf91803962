//! `[brake]` and `[[warmup]]`: what keeps a sender's name good.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::problem::Severity;
use crate::clock::Timestamp;
use crate::mail::Class;

/// `[brake]`: when a stream is slowed or stopped at a provider. Shares in percent; 0: never.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BrakeConfig {
    /// Off: nothing is counted.
    pub enabled: bool,
    /// Complaints, of what was delivered: from here on it is told.
    pub complaints_warn_percent: f64,
    /// From here on the stream is slowed down.
    pub complaints_slow_percent: f64,
    /// From here on it is stopped.
    pub complaints_pause_percent: f64,
    /// So many complaints before they are judged.
    pub complaints_min: u32,
    /// Unknown users, of what came to a verdict: from here on it is told.
    pub unknown_users_warn_percent: f64,
    /// From here on the stream is slowed down.
    pub unknown_users_slow_percent: f64,
    /// From here on it is stopped.
    pub unknown_users_pause_percent: f64,
    /// So many unknown users before they are judged.
    pub unknown_users_min: u32,
    /// So many recipients within the hour, or the day, before they are judged.
    pub recipients_min: u32,
    /// A stream slowed down sends so many recipients a second to the provider.
    pub slow_per_second: f64,
    /// How long a stream is slowed or stopped; 0s: until an operator lets it go.
    #[serde(with = "humantime_serde")]
    pub lasts: Duration,
    /// Classes that are slowed and stopped; of the others it is only told.
    pub classes: Vec<Class>,
}

impl Default for BrakeConfig {
    fn default() -> BrakeConfig {
        BrakeConfig {
            enabled: true,
            complaints_warn_percent: 0.1,
            complaints_slow_percent: 0.0,
            complaints_pause_percent: 0.3,
            complaints_min: 3,
            unknown_users_warn_percent: 5.0,
            unknown_users_slow_percent: 0.0,
            unknown_users_pause_percent: 10.0,
            unknown_users_min: 10,
            recipients_min: 100,
            slow_per_second: 0.1,
            lasts: Duration::from_secs(86_400),
            classes: vec![Class::Bulk],
        }
    }
}

/// One `[[warmup]]`: a source that earns its reputation by a little more mail every day.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WarmupConfig {
    /// The source's name.
    pub source: String,
    /// At which provider; not said: at each, counted apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// The first day, as `2026-12-01`, in UTC; not said: at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// Recipients on the first day, the second, and so on.
    pub recipients_per_day: Vec<u64>,
    /// The day ends, and the next is a step back, when so many percent are put off or refused because of us.
    #[serde(default = "deferrals")]
    pub deferrals_max_percent: f64,
    /// The same for complaints.
    #[serde(default = "complaints")]
    pub complaints_max_percent: f64,
}

fn deferrals() -> f64 {
    10.0
}

fn complaints() -> f64 {
    0.2
}

impl WarmupConfig {
    /// When it may begin.
    ///
    /// # Errors
    /// `start` is no date.
    pub fn start(&self) -> Result<Option<Timestamp>, String> {
        let Some(day) = &self.start else { return Ok(None) };
        let time = Timestamp::parse_rfc3339(&format!("{day}T00:00:00Z"));
        time.map(Some).ok_or_else(|| format!("{day:?} is no date"))
    }
}

/// Severity, key, what is wrong, and the remedy.
type Found = (Severity, String, String, &'static str);

/// What is wrong with `[brake]`.
pub(super) fn brake_problems(brake: &BrakeConfig) -> Vec<Found> {
    let mut found = Vec::new();
    let mut error = |key: &str, why: String, remedy| {
        found.push((Severity::Error, format!("brake.{key}"), why, remedy));
    };
    let steps = [
        ("complaints", brake.complaints_warn_percent, brake.complaints_slow_percent, brake.complaints_pause_percent),
        (
            "unknown_users",
            brake.unknown_users_warn_percent,
            brake.unknown_users_slow_percent,
            brake.unknown_users_pause_percent,
        ),
    ];
    for (harm, warn, slow, pause) in steps {
        for (step, percent) in [("warn", warn), ("slow", slow), ("pause", pause)] {
            if !(0.0..=100.0).contains(&percent) {
                error(&format!("{harm}_{step}_percent"), format!("{percent} is no share"), "write 0 to 100");
            }
        }
        let said: Vec<(&str, f64)> =
            [("warn", warn), ("slow", slow), ("pause", pause)].into_iter().filter(|(_, p)| *p > 0.0).collect();
        if let Some(pair) = said.windows(2).find(|pair| pair[0].1 > pair[1].1) {
            let why = format!("{} is more than {harm}_{}_percent ({})", pair[0].1, pair[1].0, pair[1].1);
            error(&format!("{harm}_{}_percent", pair[0].0), why, "what warns comes before what slows and stops");
        }
    }
    if !(brake.slow_per_second.is_finite() && brake.slow_per_second > 0.0) {
        let why = format!("{} lets nothing through", brake.slow_per_second);
        error("slow_per_second", why, "write a number above 0; 0.1 is six a minute");
    }
    for (key, least) in [
        ("complaints_min", brake.complaints_min),
        ("unknown_users_min", brake.unknown_users_min),
        ("recipients_min", brake.recipients_min),
    ] {
        if least == 0 {
            error(key, "0 judges by nothing".into(), "write at least 1");
        }
    }
    found
}

/// What is wrong with the `[[warmup]]` plans.
pub(super) fn warmup_problems(plans: &[WarmupConfig]) -> Vec<Found> {
    let mut found = Vec::new();
    for (index, plan) in plans.iter().enumerate() {
        let mut add = |severity, key: &str, why: String, remedy| {
            found.push((severity, format!("warmup[{index}].{key}"), why, remedy));
        };
        if let Err(why) = plan.start() {
            add(Severity::Error, "start", why, "write it as \"2026-12-01\"");
        }
        let days = &plan.recipients_per_day;
        if days.is_empty() {
            add(Severity::Error, "recipients_per_day", "no day is planned".into(), "write as in [50, 100, 200, 400]");
        }
        if let Some(place) = days.iter().position(|day| *day == 0) {
            let why = format!("nothing is sent on day {}, and so it never ends", place + 1);
            add(Severity::Error, "recipients_per_day", why, "write at least 1 for each day");
        }
        if let Some(place) = days.windows(2).position(|pair| pair[0] > pair[1]) {
            let why = format!("day {} allows less than the day before", place + 2);
            add(Severity::Warning, "recipients_per_day", why, "let it rise");
        }
        for (key, percent) in [
            ("deferrals_max_percent", plan.deferrals_max_percent),
            ("complaints_max_percent", plan.complaints_max_percent),
        ] {
            if !(percent > 0.0 && percent <= 100.0) {
                add(Severity::Error, key, format!("{percent} is no share of anything"), "write more than 0, up to 100");
            }
        }
        let same = |other: &&WarmupConfig| other.source == plan.source && other.provider == plan.provider;
        if plans[..index].iter().any(|other| same(&other)) {
            let why = format!("the plan above says how {:?} is warmed up here", plan.source);
            add(Severity::Error, "source", why, "remove one of the two");
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::Config;

    /// Key and beginning of why, of each problem.
    fn check(text: &str) -> Vec<String> {
        let text = format!("hostname = \"mta.example.net\"\n{text}\n[[source]]\nname = \"new\"\n");
        let problems = match Config::parse(&text, Path::new("f.toml")) {
            Ok((_, warnings)) => warnings,
            Err(problems) => problems,
        };
        problems.iter().map(|problem| format!("{}: {}", problem.key, problem.why)).collect()
    }

    #[test]
    fn finds_what_makes_no_sense() {
        let plan = "[[warmup]]\nsource = \"new\"\nrecipients_per_day = [50, 100]\n";
        for (text, problems) in [
            (plan.to_owned(), vec![]),
            (plan.to_owned() + "start = \"2026-12-01\"", vec![]),
            (plan.replace("new", "nwe"), vec!["warmup[0].source: there is no source \"nwe\""]),
            (plan.to_owned() + "start = \"tomorrow\"", vec!["warmup[0].start: \"tomorrow\" is no date"]),
            (plan.repeat(2), vec!["warmup[1].source: the plan above says how \"new\" is warmed up here"]),
            (
                plan.replace("50, 100", "100, 0"),
                vec![
                    "warmup[0].recipients_per_day: nothing is sent on day 2, and so it never ends",
                    "warmup[0].recipients_per_day: day 2 allows less than the day before",
                ],
            ),
            (plan.replace("50, 100", ""), vec!["warmup[0].recipients_per_day: no day is planned"]),
            (
                plan.to_owned() + "complaints_max_percent = 0.0",
                vec!["warmup[0].complaints_max_percent: 0 is no share of anything"],
            ),
            ("[brake]\ncomplaints_pause_percent = 0.0".into(), vec![]),
            (
                "[brake]\ncomplaints_warn_percent = 0.5".into(),
                vec!["brake.complaints_warn_percent: 0.5 is more than complaints_pause_percent (0.3)"],
            ),
            (
                "[brake]\nunknown_users_slow_percent = 101.0".into(),
                vec![
                    "brake.unknown_users_slow_percent: 101 is no share",
                    "brake.unknown_users_slow_percent: 101 is more than unknown_users_pause_percent (10)",
                ],
            ),
            ("[brake]\nslow_per_second = 0.0".into(), vec!["brake.slow_per_second: 0 lets nothing through"]),
            ("[brake]\nrecipients_min = 0".into(), vec!["brake.recipients_min: 0 judges by nothing"]),
        ] {
            assert_eq!(check(&text), problems, "{text}");
        }
    }
}
