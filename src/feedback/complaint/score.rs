//! Counts how often fields are read right in complaints whose fields are known.

use std::collections::BTreeMap;

use super::{Complaint, read};
use crate::feedback::bounce::score::{Row, Share, rows};

/// Columns of the table, in its order.
const FIELDS: [&str; 10] = [
    "feedback_type",
    "original_rcpt",
    "original_mail_from",
    "original_message_id",
    "source_ip",
    "arrival_date",
    "user_agent",
    "reported_domain",
    "auth_failure",
    "original_to",
];

/// The figures of one set.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// Complaints seen to be complaints, of the kind labelled.
    pub detected: Share,
    /// Fields as labelled, by name.
    pub by_field: BTreeMap<&'static str, Share>,
    /// What went wrong, a line each.
    pub misses: Vec<String>,
}

impl Figures {
    /// All fields together.
    pub fn fields(&self) -> Share {
        let sum = |share: Share, one: &Share| Share { right: share.right + one.right, all: share.all + one.all };
        self.by_field.values().fold(Share::default(), sum)
    }
}

/// Reads every message of a table (`file`, `standard`, and a column for each field; empty: the report does not say) whose
/// `standard` is that.
///
/// # Errors
/// A message cannot be read.
pub fn complaints(
    table: &str,
    open: impl Fn(&str) -> std::io::Result<Vec<u8>>,
    standard: bool,
) -> std::io::Result<Figures> {
    let mut figures = Figures::default();
    let wanted = if standard { "yes" } else { "no" };
    for row in rows(table).iter().filter(|row| row.get("standard") == Some(&wanted)) {
        let file = row.get("file").copied().unwrap_or_default();
        let found = read(&open(file)?);
        count(&mut figures, row, file, found);
    }
    Ok(figures)
}

fn count(figures: &mut Figures, row: &Row<'_>, file: &str, found: Option<Complaint>) {
    figures.detected.all += 1;
    figures.detected.right += u32::from(found.is_some());
    if found.is_none() {
        figures.misses.push(format!("{file}: not seen to be a complaint"));
    }
    let found = found.unwrap_or_default();
    for name in FIELDS {
        let wanted = row.get(name).copied().unwrap_or_default();
        if wanted.is_empty() {
            continue;
        }
        let got = value(&found, name);
        let right = low(wanted) == low(&got);
        let share = figures.by_field.entry(name).or_default();
        share.all += 1;
        share.right += u32::from(right);
        if !right {
            figures.misses.push(format!("{file}: {name} is {wanted:?}, read {got:?}"));
        }
    }
}

fn value(found: &Complaint, name: &str) -> String {
    match name {
        "feedback_type" => found.feedback_type.clone(),
        "original_rcpt" => found.original_rcpt.join(","),
        "original_mail_from" => found.original_mail_from.clone(),
        "original_message_id" => found.original_message_id.clone(),
        "source_ip" => found.source_ip.clone(),
        "arrival_date" => found.arrival_date.clone(),
        "user_agent" => found.user_agent.clone(),
        "reported_domain" => found.reported_domain.join(","),
        "auth_failure" => found.auth_failure.clone(),
        "original_to" => found.original_to.clone(),
        _ => String::new(),
    }
}

fn low(text: &str) -> String {
    text.trim().trim_matches(['<', '>']).to_lowercase()
}
