//! Counts how often we are right on mail whose meaning is known. The figures are those of the data's own scorer.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use super::{Incoming, Kind, read};
use crate::feedback::classify::{Class, Reason, classify_line};

/// A row of `expected.tsv` or `smtp-replies.tsv`: its columns by name.
pub type Row<'a> = BTreeMap<&'a str, &'a str>;

/// Reads a table of tab-separated columns with their names in the first line; quotes mean nothing.
pub fn rows(table: &str) -> Vec<Row<'_>> {
    let mut lines = table.lines();
    let names: Vec<&str> = lines.next().unwrap_or_default().split('\t').collect();
    lines.filter(|line| !line.is_empty()).map(|line| names.iter().copied().zip(line.split('\t')).collect()).collect()
}

/// Whether a sample was kept from those who wrote the rules: three in ten, by the hash of its name.
pub fn is_held_out(name: &str) -> bool {
    let name = ["sisimai:", "mdbp:", "flufl:"].iter().find_map(|source| name.strip_prefix(source)).unwrap_or(name);
    crc32fast::hash(name.as_bytes()) % 10 < 3
}

/// How many of how many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share {
    /// Those that are right, or that did happen.
    pub right: u32,
    /// All.
    pub all: u32,
}

impl Share {
    fn count(&mut self, right: bool) {
        self.right += u32::from(right);
        self.all += 1;
    }

    /// In percent; 100 of nothing.
    pub fn percent(self) -> f64 {
        if self.all == 0 { 100.0 } else { 100.0 * f64::from(self.right) / f64::from(self.all) }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} ({:.1} %)", self.right, self.all, self.percent())
    }
}

/// The figures of one set.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// Bounces seen to be bounces.
    pub detected: Share,
    /// Bounces of which every recipient was found.
    pub recipients: Share,
    /// Reasons as labelled.
    pub strict: Share,
    /// Reasons as labelled or as a careful human would accept.
    pub reason: Share,
    /// Hard or soft as labelled.
    pub class: Share,
    /// Judged hard among those labelled soft: a live address suppressed. Here `right` counts the errors.
    pub live_suppressed: Share,
    /// Ordinary mail taken for a bounce; `right` counts the errors.
    pub ordinary: Share,
    /// Auto-replies taken for a bounce; `right` counts the errors.
    pub auto_replies: Share,
    /// Reasons accepted, by the reason labelled.
    pub by_reason: BTreeMap<String, Share>,
    /// What went wrong, a line each.
    pub misses: Vec<String>,
}

impl Figures {
    fn count(&mut self, row: &Row<'_>, at: &str, reason: Reason, class: Class) {
        let (wanted, also) = (column(row, "reason"), column(row, "also_ok"));
        let accepted = wanted == reason.as_str() || also.split(',').any(|one| one == reason.as_str());
        self.strict.count(wanted == reason.as_str());
        self.reason.count(accepted);
        self.by_reason.entry(wanted.to_owned()).or_default().count(accepted);
        let either = wanted == "suspended" || column(row, "source_label") == "filtered";
        let right = either || column(row, "class") == class.as_str();
        self.class.count(right);
        if column(row, "class") == "soft" {
            self.live_suppressed.count(!right);
        }
        if !accepted || !right {
            self.misses.push(format!(
                "{at}: {wanted} {}, judged {} {}",
                column(row, "class"),
                reason.as_str(),
                class.as_str()
            ));
        }
    }

    fn count_missing(&mut self, row: &Row<'_>, at: &str) {
        self.strict.count(false);
        self.reason.count(false);
        self.class.count(false);
        if column(row, "class") == "soft" {
            self.live_suppressed.count(false);
        }
        self.by_reason.entry(column(row, "reason").to_owned()).or_default().count(false);
        self.misses.push(format!("{at}: {}, not found", column(row, "reason")));
    }
}

/// Judges every reply of a table (`reply`, `provider`, `class`, `reason`, `also_ok`, `source`) that `wanted` takes by name.
pub fn replies(table: &str, wanted: impl Fn(&str) -> bool) -> Figures {
    let mut figures = Figures::default();
    for row in rows(table).iter().filter(|row| wanted(column(row, "source")) && column(row, "reason") != "other") {
        let verdict = classify_line(column(row, "reply"), column(row, "provider"));
        let at = format!("{:.160} [{}]", column(row, "reply"), verdict.rule);
        figures.count(row, &at, verdict.reason, verdict.class);
    }
    figures
}

/// Reads every message of a table (`file`, `recipient`, … `class`, `reason`) that `wanted` takes by name.
pub fn bounces(
    table: &str,
    open: impl Fn(&str) -> std::io::Result<Vec<u8>>,
    wanted: impl Fn(&str) -> bool,
) -> std::io::Result<Figures> {
    let rows = rows(table);
    let mut files: Vec<&str> = rows.iter().map(|row| column(row, "file")).filter(|name| wanted(name)).collect();
    files.dedup();
    let mut figures = Figures::default();
    for file in files {
        let of_file: Vec<&Row<'_>> = rows.iter().filter(|row| column(row, "file") == file).collect();
        count_file(&mut figures, file, &of_file, &read(&open(file)?));
    }
    Ok(figures)
}

fn count_file(figures: &mut Figures, file: &str, rows: &[&Row<'_>], incoming: &Incoming) {
    let got: Vec<_> = incoming.recipients.iter().filter(|one| one.action.is_trouble()).collect();
    let taken = incoming.kind == Kind::Bounce && !got.is_empty();
    if column(rows[0], "class") == "none" {
        let share = match column(rows[0], "reason") {
            "not-bounce" => &mut figures.ordinary,
            "auto-reply" => &mut figures.auto_replies,
            _ => return,
        };
        share.count(taken);
        if taken {
            figures.misses.push(format!("{file}: no bounce, taken for one"));
        }
        return;
    }
    figures.detected.count(taken);
    let names: Vec<HashSet<String>> = rows.iter().map(|row| names(row)).collect();
    let found = |names: &HashSet<String>| got.iter().position(|one| names.contains(&low(&one.recipient)));
    if names.iter().any(|names| !names.is_empty()) {
        let all = names.iter().filter(|names| !names.is_empty()).all(|names| found(names).is_some());
        figures.recipients.count(all);
        if !all {
            let found: Vec<&str> = got.iter().map(|one| one.recipient.as_str()).collect();
            figures.misses.push(format!("{file}: recipients {names:?}, found {found:?}"));
        }
    }
    for (place, row) in rows.iter().enumerate() {
        if column(row, "reason") == "other" || column(row, "class") == "none" {
            continue;
        }
        match found(&names[place]).or((place < got.len()).then_some(place)) {
            None => figures.count_missing(row, file),
            Some(at) => {
                let one = got[at];
                let at = format!("{file} [{}] {:.160}", one.verdict.rule, one.diagnostic);
                figures.count(row, &at, one.verdict.reason, one.verdict.class);
            }
        }
    }
}

fn names(row: &Row<'_>) -> HashSet<String> {
    let alternatives = column(row, "recipient_alt").split(',').map(low);
    alternatives.chain([low(column(row, "recipient"))]).filter(|name| !name.is_empty()).collect()
}

fn low(address: &str) -> String {
    address.trim().trim_matches(['<', '>']).to_lowercase()
}

fn column<'a>(row: &Row<'a>, name: &str) -> &'a str {
    row.get(name).copied().unwrap_or_default()
}
