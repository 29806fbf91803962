//! `posthaste shaping replay`: what other profiles would have made of what was recorded: of replies, and of the traffic itself.

mod flow;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Subcommand;
use humantime_serde::re::humantime::format_duration;
use serde::{Deserialize, Serialize};

use flow::{Attempt, Compared, Play};

use crate::clock::Timestamp;
use crate::mail::EnhancedCode;
use crate::shaping::provider::{Advice, Profiles};

#[derive(Debug, Subcommand)]
pub(super) enum ShapingCommand {
    /// Judge the replies in an event log by other provider profiles, and its traffic by their limits; print what would change.
    Replay {
        /// Event files: `events.jsonl`, and those set aside; oldest first.
        #[arg(required = true)]
        events: Vec<PathBuf>,
        /// The profiles to try: a folder of files, laid over those compiled in.
        #[arg(long, value_name = "DIR")]
        providers: Option<PathBuf>,
        /// Compare with these instead of those compiled in.
        #[arg(long, value_name = "DIR")]
        against: Option<PathBuf>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// What is read of an event.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Line {
    event: String,
    site: String,
    code: u16,
    enhanced: String,
    reply: String,
    command: Option<String>,
    time: String,
    source: String,
    message_id: String,
}

/// What came out.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Replayed {
    /// Attempts that were recorded.
    attempts: u64,
    /// Refusals that a receiver spoke.
    refusals: u64,
    /// Those that are judged otherwise.
    changed: u64,
    /// How, most frequent first.
    changes: Vec<Change>,
    /// What the rules that were tried ask for, by provider and action.
    actions: Vec<Asked>,
    /// What limits, paces and pauses make of the traffic, by provider and source.
    flow: Vec<Compared>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Change {
    provider: String,
    from: String,
    to: String,
    refusals: u64,
    /// The first of them.
    reply: String,
}

#[derive(Debug, PartialEq, Serialize)]
struct Asked {
    provider: String,
    action: String,
    refusals: u64,
    /// Of so many attempts at the provider.
    attempts: u64,
}

pub(super) fn run(command: ShapingCommand) -> anyhow::Result<ExitCode> {
    let ShapingCommand::Replay { events, providers, against, json } = command;
    let (old, new) = (profiles(against.as_deref())?, profiles(providers.as_deref())?);
    let mut tally = Tally::default();
    for path in &events {
        let file = File::open(path).with_context(|| path.display().to_string())?;
        for line in BufReader::new(file).lines() {
            let line = line.with_context(|| path.display().to_string())?;
            // A line may be torn by a crash, or be a notice.
            if let Ok(line) = serde_json::from_str::<Line>(&line) {
                tally.add(&line, &old, &new);
            }
        }
    }
    let replayed = tally.finish();
    match json {
        true => println!("{}", serde_json::to_string_pretty(&replayed)?),
        false => print!("{}", in_words(&replayed)),
    }
    Ok(ExitCode::SUCCESS)
}

/// Those compiled in, with the files of a folder over them.
fn profiles(dir: Option<&Path>) -> anyhow::Result<Profiles> {
    let mut files = Vec::new();
    if let Some(dir) = dir {
        let listed = std::fs::read_dir(dir).with_context(|| dir.display().to_string())?;
        let mut paths: Vec<PathBuf> = listed.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
        paths.sort();
        for file in paths {
            let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            files.push((file, text));
        }
    }
    let (problems, profiles) = match Profiles::read(&files) {
        Ok((profiles, problems)) => (problems, Some(profiles)),
        Err(problems) => (problems, None),
    };
    problems.iter().for_each(|problem| eprintln!("{problem}"));
    match profiles {
        Some(profiles) => Ok(profiles),
        None => bail!("these profiles cannot be used"),
    }
}

/// Counts, by provider and change, and by provider and action.
#[derive(Debug, Default)]
struct Tally {
    attempts: BTreeMap<String, u64>,
    refusals: u64,
    changes: BTreeMap<(String, String, String), (u64, String)>,
    actions: BTreeMap<(String, String), u64>,
    /// The one set of profiles at work, and the other.
    plays: (Play, Play),
}

impl Tally {
    fn add(&mut self, line: &Line, old: &Profiles, new: &Profiles) {
        if !matches!(line.event.as_str(), "delivered" | "deferred" | "bounced" | "expired") || line.site.is_empty() {
            return;
        }
        let provider = new.of_hosts(hosts(&line.site)).name.to_string();
        *self.attempts.entry(provider.clone()).or_default() += 1;
        let before = old.of_hosts(hosts(&line.site)).name.to_string();
        // What has no command was our own judgement.
        let spoke = line.event != "delivered" && line.command.is_some() && line.code >= 400;
        let enhanced: Option<EnhancedCode> = line.enhanced.parse().ok();
        let judged = spoke.then(|| (read(old, &before, line, enhanced), read(new, &provider, line, enhanced)));
        if let Some(at) = Timestamp::parse_rfc3339(&line.time) {
            let attempt = Attempt { at: at.0, source: &line.source, site: &line.site, message: &line.message_id };
            self.plays.0.add(attempt, old.get(&before), judged.as_ref().map(|(from, _)| from));
            self.plays.1.add(attempt, new.get(&provider), judged.as_ref().map(|(_, to)| to));
        }
        let Some((from, to)) = judged else { return };
        self.refusals += 1;
        *self.actions.entry((provider.clone(), to.action.as_str().to_owned())).or_default() += 1;
        let (from, to) = (advice(&before, &from), advice(&provider, &to));
        if from != to {
            let sample = || (0, format!("{} {} {}", line.code, line.enhanced, line.reply.replace('\n', " ")));
            self.changes.entry((provider, from, to)).or_insert_with(sample).0 += 1;
        }
    }

    fn finish(self) -> Replayed {
        let change = |((provider, from, to), (refusals, reply))| Change { provider, from, to, refusals, reply };
        let mut changes: Vec<Change> = self.changes.into_iter().map(change).collect();
        changes.sort_by_key(|change| std::cmp::Reverse(change.refusals));
        let asked = |((provider, action), refusals): ((String, String), u64)| {
            let attempts = self.attempts.get(&provider).copied().unwrap_or(0);
            Asked { provider, action, refusals, attempts }
        };
        Replayed {
            attempts: self.attempts.values().sum(),
            refusals: self.refusals,
            changed: changes.iter().map(|change| change.refusals).sum(),
            changes,
            actions: self.actions.into_iter().map(asked).collect(),
            flow: flow::compare(self.plays.0, self.plays.1),
        }
    }
}

/// What the profile makes of a refusal.
fn read<'a>(profiles: &'a Profiles, provider: &str, line: &Line, enhanced: Option<EnhancedCode>) -> Advice<'a> {
    profiles.advise_text(provider, Some(line.code), enhanced, &line.reply)
}

/// The hosts in a site's name, without ports, preferences and policies.
fn hosts(site: &str) -> impl Iterator<Item = &str> {
    let names = site.split(';').next().unwrap_or_default();
    names.split([',', '|']).map(|host| host.split(':').next().unwrap_or(host))
}

/// `google/unsolicited: slow for 5m`.
fn advice(provider: &str, advice: &Advice<'_>) -> String {
    let rule = if advice.rule.is_empty() { "no rule" } else { advice.rule };
    let wait = advice.wait.map_or_else(String::new, |wait| format!(" for {}", format_duration(wait)));
    format!("{provider}/{rule}: {}{wait}", advice.action.as_str())
}

fn in_words(replayed: &Replayed) -> String {
    let Replayed { attempts, refusals, changed, changes, actions, flow } = replayed;
    let mut text = format!("{attempts} attempts, {refusals} refused by their receivers, {changed} judged otherwise\n");
    for Change { from, to, refusals, reply, .. } in changes {
        text.push_str(&format!("{refusals:>8}  {from}  ->  {to}\n          {reply}\n"));
    }
    if !actions.is_empty() {
        text.push_str("what these rules ask for:\n");
    }
    for Asked { provider, action, refusals, attempts } in actions {
        let share = *refusals as f64 * 100.0 / (*attempts).max(1) as f64;
        text.push_str(&format!("{refusals:>8}  {provider}: {action}, {share:.1} % of its attempts\n"));
    }
    if !flow.is_empty() {
        text.push_str(&flow::in_words(flow));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_receivers_said() {
        let profiles = Profiles::built_in();
        let mut tally = Tally::default();
        let line = |event: &str, site: &str, code, reply: &str| Line {
            event: event.into(),
            site: site.into(),
            code,
            enhanced: "4.7.0".into(),
            reply: reply.into(),
            command: Some("MAIL".into()),
            ..Line::default()
        };
        for line in [
            line("delivered", "mx1.example.net,mx2.example.net", 250, "ok"),
            line("deferred", "mx1.example.net,mx2.example.net", 451, "try again in 300 seconds"),
            line("deferred", "gmail-smtp-in.l.google.com", 421, "4.7.28 unusual rate of unsolicited mail"),
            line("cancelled", "mx1.example.net", 250, "taken back"),
            Line { command: None, ..line("deferred", "mx1.example.net", 451, "no answer") },
        ] {
            tally.add(&line, &profiles, &profiles);
        }
        let replayed = tally.finish();
        assert_eq!((replayed.attempts, replayed.refusals, replayed.changed), (4, 2, 0));
        let providers: Vec<&str> = replayed.actions.iter().map(|asked| asked.provider.as_str()).collect();
        assert_eq!(providers, ["default", "google"]);
    }

    #[test]
    fn hosts_are_found_in_any_site() {
        let of = |site| hosts(site).collect::<Vec<&str>>();
        assert_eq!(of("mx1.a,mx2.a|mx3.a;tls=required"), ["mx1.a", "mx2.a", "mx3.a"]);
        assert_eq!(of("relay.b:587;tls=verified;user=x"), ["relay.b"]);
    }
}
