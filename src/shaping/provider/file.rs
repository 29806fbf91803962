//! What a profile file may say, and how files are laid over one another.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::Profile;
use crate::config::{Dimension, LimitConfig, Places, Problem, RateLimit, Scope, Severity, read_table};
use crate::mail::Reason;

/// What a reply asks of us beside trying again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// This source goes slower at this site.
    Slow,
    /// This source sends nothing more to this site for the wait; others may.
    PauseSource,
    /// This stream sends nothing more to this provider for the wait; others may.
    PauseStream,
    /// Only this mailbox waits: it is full, or gets too much. Says nothing of the site.
    MailboxWait,
    /// These recipients wait, and come again from the same source: the receiver knows them by it.
    Greylist,
    /// Another source may have more luck: this recipient tries one, if there is one.
    Elsewhere,
    /// Nothing.
    None,
}

impl Action {
    /// How long when neither the reply nor the rule says; `None`: by the retry schedule.
    pub fn usual_wait(self) -> Option<Duration> {
        match self {
            Action::PauseSource => Some(Duration::from_secs(15 * 60)),
            Action::PauseStream | Action::MailboxWait => Some(Duration::from_secs(3600)),
            Action::Greylist => Some(Duration::from_secs(300)),
            Action::Slow | Action::Elsewhere | Action::None => None,
        }
    }

    /// As files spell it: `pause-source`.
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Slow => "slow",
            Action::PauseSource => "pause-source",
            Action::PauseStream => "pause-stream",
            Action::MailboxWait => "mailbox-wait",
            Action::Greylist => "greylist",
            Action::Elsewhere => "elsewhere",
            Action::None => "none",
        }
    }
}

/// What a provider takes from one source at one site, as in `[[limit]]`. `None`: as `[delivery]` and `[[limit]]` say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections at once.
    pub connections: Option<u32>,
    /// New connections.
    pub connection_rate: Option<RateLimit>,
    /// Transactions.
    pub messages: Option<RateLimit>,
    /// Recipients.
    pub recipients: Option<RateLimit>,
    /// Recipients in one transaction.
    pub recipients_per_transaction: Option<u32>,
    /// Messages on one connection before it is closed.
    pub messages_per_connection: Option<u32>,
}

impl Limits {
    /// The row that says the same of this provider; `None` if nothing is limited.
    pub(super) fn row(self, provider: &str) -> Option<LimitConfig> {
        (self != Limits::default()).then(|| LimitConfig {
            scope: Scope { provider: Some(provider.to_owned()), ..Scope::default() },
            each: vec![Dimension::Source, Dimension::Site],
            connections: self.connections,
            connection_rate: self.connection_rate,
            messages: self.messages,
            recipients: self.recipients,
            bytes: None,
            recipients_per_transaction: self.recipients_per_transaction,
            messages_per_connection: self.messages_per_connection,
        })
    }
}

/// Between what the adaptive control of one source at one site may move. `None`: as it does by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bounds {
    /// Never fewer connections at once, but for a site that does not answer.
    pub connections_floor: Option<u32>,
    /// Never more.
    pub connections_ceiling: Option<u32>,
    /// Never slower, in messages.
    pub rate_floor: Option<RateLimit>,
    /// Never faster.
    pub rate_ceiling: Option<RateLimit>,
}

/// One file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ProfileFile {
    /// The provider.
    name: String,
    /// Forget what was known of it before; else what is said here is laid over that.
    replace: bool,
    mx: Option<Vec<String>>,
    limits: Limits,
    controller: Bounds,
    rule: Vec<RuleFile>,
}

/// One `[[rule]]`: replies that mean one thing. Of the conditions given all must hold, of each list one.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RuleFile {
    /// Unique in its profile.
    pub(super) name: String,
    pub(super) reason: Reason,
    pub(super) action: Action,
    /// Where the reply names none.
    #[serde(default, with = "humantime_serde")]
    pub(super) wait: Option<Duration>,
    /// Means "later", though the code may say "never".
    #[serde(default)]
    pub(super) transient: bool,
    /// Reply codes, or how they begin: `421`, `4`.
    #[serde(default)]
    pub(super) code: Vec<String>,
    /// Enhanced codes: `4.7.28`, `x.2.2`, `4.7.650-652`.
    #[serde(default)]
    pub(super) enhanced: Vec<String>,
    /// Texts of which one must stand there; `a & b` wants both.
    #[serde(default)]
    pub(super) any: Vec<String>,
    /// Texts that must not.
    #[serde(default)]
    pub(super) unless: Vec<String>,
    /// Replies that it is for, each as a line.
    pub(super) sample: Vec<String>,
}

/// A rule, and where it stands.
#[derive(Debug, Clone)]
pub(super) struct OwnedRule {
    pub(super) rule: RuleFile,
    origin: Arc<Origin>,
    /// Of the rules in its file.
    index: usize,
}

/// A file: for the problems found in it later.
#[derive(Debug)]
pub(super) struct Origin {
    file: PathBuf,
    places: Places,
    /// Later files are laid over earlier ones.
    layer: usize,
}

/// All that the files say of one provider.
#[derive(Debug, Clone)]
pub(super) struct Merged {
    pub(super) name: String,
    pub(super) mx: Vec<String>,
    pub(super) limits: Limits,
    pub(super) bounds: Bounds,
    pub(super) rules: Vec<OwnedRule>,
    /// The file that spoke of it last.
    pub(super) origin: Arc<Origin>,
}

impl Origin {
    pub(super) fn error(&self, key: &str, why: impl Into<String>, remedy: &str) -> Problem {
        self.problem(Severity::Error, key, why.into(), remedy)
    }

    pub(super) fn warning(&self, key: &str, why: impl Into<String>, remedy: &str) -> Problem {
        self.problem(Severity::Warning, key, why.into(), remedy)
    }

    fn problem(&self, severity: Severity, key: &str, why: String, remedy: &str) -> Problem {
        let (file, line) = (self.file.clone(), self.places.line(key));
        Problem { file, line, severity, key: key.into(), why, remedy: remedy.into() }
    }
}

impl OwnedRule {
    /// Whether it was laid over `other` by a later file: then it is meant to take what that one took.
    pub(super) fn is_over(&self, other: &OwnedRule) -> bool {
        self.origin.layer > other.origin.layer
    }

    /// A problem of one of its keys (`any[2]`); of the whole rule if that is empty.
    pub(super) fn problem(&self, severity: Severity, key: &str, why: String, remedy: &str) -> Problem {
        let key = format!("rule[{}]{}{key}", self.index, if key.is_empty() { "" } else { "." });
        let mut problem = self.origin.problem(severity, &key, why, remedy);
        problem.key = format!("{} ({key})", self.rule.name);
        problem
    }
}

impl Merged {
    pub(super) fn into_profile(self) -> Profile {
        let Merged { name, mx, limits, bounds, .. } = self;
        Profile { name: name.into(), mx, limits, bounds }
    }

    /// Lays a newer file over what is known.
    fn lay(&mut self, newer: Merged, mx_given: bool) {
        if mx_given {
            self.mx = newer.mx;
        }
        let (old, new) = (self.limits, newer.limits);
        self.limits = Limits {
            connections: new.connections.or(old.connections),
            connection_rate: new.connection_rate.or(old.connection_rate),
            messages: new.messages.or(old.messages),
            recipients: new.recipients.or(old.recipients),
            messages_per_connection: new.messages_per_connection.or(old.messages_per_connection),
            recipients_per_transaction: new.recipients_per_transaction.or(old.recipients_per_transaction),
        };
        let (old, new) = (self.bounds, newer.bounds);
        self.bounds = Bounds {
            connections_floor: new.connections_floor.or(old.connections_floor),
            connections_ceiling: new.connections_ceiling.or(old.connections_ceiling),
            rate_floor: new.rate_floor.or(old.rate_floor),
            rate_ceiling: new.rate_ceiling.or(old.rate_ceiling),
        };
        // A rule of a known name takes that one's place; others are asked before all that was known.
        let mut front = Vec::new();
        for rule in newer.rules {
            match self.rules.iter_mut().find(|old| old.rule.name == rule.rule.name) {
                Some(old) => *old = rule,
                None => front.push(rule),
            }
        }
        front.append(&mut self.rules);
        self.rules = front;
        self.origin = newer.origin;
    }
}

/// Reads all files, later ones over earlier ones of the same name. What cannot be read is told and left out.
pub(super) fn merge<'a>(files: impl Iterator<Item = (PathBuf, &'a str)>) -> (Vec<Merged>, Vec<Problem>) {
    let mut merged: Vec<Merged> = Vec::new();
    let mut problems = Vec::new();
    for (layer, (file, text)) in files.enumerate() {
        let Some((newer, replace, mx_given)) = read(&file, text, layer, &mut problems) else { continue };
        match merged.iter_mut().find(|known| known.name == newer.name) {
            Some(known) if replace => *known = newer,
            Some(known) => known.lay(newer, mx_given),
            None => merged.push(newer),
        }
    }
    (merged, problems)
}

/// One file; whether it replaces what is known, and whether it says whose hosts are meant.
fn read(file: &Path, text: &str, layer: usize, problems: &mut Vec<Problem>) -> Option<(Merged, bool, bool)> {
    let (table, places, found) = read_table::<ProfileFile>(text, file);
    let unreadable = !found.is_empty();
    problems.extend(found);
    let origin = Arc::new(Origin { file: file.to_owned(), places, layer });
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let name = table.name;
    if name.is_empty() || name.len() > 32 || !name.chars().all(plain) || name == "none" {
        // Not said of a file that could not be read at all.
        if !unreadable || !name.is_empty() {
            let why = format!("{name:?} is no name of a provider");
            let remedy = "write name = \"…\" with at most 32 letters in lower case, digits and hyphens; not \"none\"";
            problems.push(origin.error("name", why, remedy));
        }
        return None;
    }
    let rules = table.rule.into_iter().enumerate();
    let rules = rules.map(|(index, rule)| OwnedRule { rule, origin: Arc::clone(&origin), index }).collect();
    let mx_given = table.mx.is_some();
    let mx = table.mx.unwrap_or_default();
    let merged = Merged { name, mx, limits: table.limits, bounds: table.controller, rules, origin };
    Some((merged, table.replace, mx_given))
}
