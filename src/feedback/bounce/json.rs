//! Reads notifications that are JSON in a mail: what Amazon SES tells of a message, by SNS.

use serde::Deserialize;
use serde_json::Value;

use super::{Action, Named};

/// What a notification is of.
pub(super) enum Notified {
    /// Recipients that did not get the message.
    Bounce(Vec<Named>),
    /// A complaint; what it says is read with the others.
    Complaint,
}

/// The first object in the words, if it is a notification we know. serde_json goes no deeper than 128 levels, and the words
/// are cut before.
pub(super) fn notified(words: &str) -> Option<Notified> {
    let start = words.find('{')?;
    // Only at the start of a line: people write braces, too.
    let leads = words[..start].rsplit('\n').next().is_some_and(|lead| lead.trim().is_empty());
    // Mailers break long lines, with `!` or without, and JSON text holds no line ends.
    let whole = leads.then(|| words[start..].replace("!\n ", "").replace(['\r', '\n'], ""))?;
    let value = first_value(&whole)?;
    // As it comes over HTTP: the notification is text in another.
    match value.get("Message").and_then(Value::as_str) {
        Some(inner) => of(&first_value(inner)?),
        None => of(&value),
    }
}

fn first_value(text: &str) -> Option<Value> {
    Value::deserialize(&mut serde_json::Deserializer::from_str(text)).ok()
}

fn of(value: &Value) -> Option<Notified> {
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let kind = [text(value, "notificationType"), text(value, "eventType")].concat();
    if kind == "Complaint" {
        return Some(Notified::Complaint);
    }
    let (about, list) = match kind.as_str() {
        "Bounce" => (value.get("bounce")?, "bouncedRecipients"),
        "DeliveryDelay" => (value.get("deliveryDelay")?, "delayedRecipients"),
        _ => return None,
    };
    let sort = format!("{} {}", text(about, "bounceType"), text(about, "bounceSubType"));
    let named = |one: &Value| {
        let told = text(one, "diagnosticCode");
        let diagnostic = told.split_once(';').map_or(told.as_str(), |pair| pair.1).trim().to_owned();
        Named {
            recipient: text(one, "emailAddress"),
            action: Some(if kind == "Bounce" { Action::Failed } else { Action::Delayed }),
            status: text(one, "status").parse().ok(),
            words: usual_words(&sort).to_owned(),
            diagnostic,
            ..Named::default()
        }
    };
    Some(Notified::Bounce(about.get(list)?.as_array()?.iter().map(named).collect()))
}

/// What the sort of a bounce means, in words that the rules know; used when the receiver's own say little.
fn usual_words(sort: &str) -> &'static str {
    match sort {
        "Permanent NoEmail" | "Permanent General" => "no such recipient",
        "Permanent Suppressed" | "Permanent OnAccountSuppressionList" => {
            "suppressed: history of bouncing as an invalid address"
        }
        "Transient MailboxFull" => "mailbox full",
        "Transient MessageTooLarge" => "message too large",
        "Transient ContentRejected" => "message content rejected",
        "Transient AttachmentRejected" => "attachment rejected",
        _ => "delivery failed",
    }
}
