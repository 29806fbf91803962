//! What the event log says when the suppression list changes.

use crate::clock::Timestamp;
use crate::events::{Feedback, FeedbackKind};
use crate::mail::MessageId;
use crate::suppression::{Change, Entry, Scope};

/// The line of a change. An import, or a merge that dropped what had ended, is one line with a count.
pub fn suppression_line(change: &Change<'_>) -> Vec<u8> {
    let subject = change.entry.map(|entry| entry.subject.to_string()).unwrap_or_default();
    let line = match change.entry {
        Some(entry) => about(entry, change.at, change.what.as_str(), &subject),
        None => Feedback {
            count: Some(change.count),
            tenant: change.tenant,
            ..Feedback::new(change.at, FeedbackKind::Suppression, change.what.as_str())
        },
    };
    written(Feedback { by: change.by, ..line })
}

/// The line of an entry that was made because of a message of this tenant: it is told of it, whosever mail the entry keeps away.
pub fn suppressed_line(entry: &Entry, message: MessageId, tenant: &str) -> Vec<u8> {
    let subject = entry.subject.to_string();
    let line = about(entry, entry.since, "added", &subject);
    written(Feedback { message_id: Some(message), by: &entry.source, tenant, ..line })
}

fn about<'a>(entry: &'a Entry, at: Timestamp, what: &'a str, subject: &'a str) -> Feedback<'a> {
    let (tenant, list) = match &entry.scope {
        Scope::Global => ("", ""),
        Scope::Tenant(tenant) => (&**tenant, ""),
        Scope::List { tenant, list } => (&**tenant, &**list),
    };
    let scope = match &entry.scope {
        Scope::Global => "global",
        Scope::Tenant(_) => "tenant",
        Scope::List { .. } => "list",
    };
    Feedback {
        recipient: subject,
        scope,
        tenant,
        list,
        reason: entry.reason.as_str(),
        evidence: &entry.evidence,
        until: entry.until,
        ..Feedback::new(at, FeedbackKind::Suppression, what)
    }
}

fn written(line: Feedback<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    line.write_line(&mut out);
    out
}
