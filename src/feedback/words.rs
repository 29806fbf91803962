//! The part of a report for people: plain words, no jargon, the receiver's own text kept apart.

use std::fmt::Write;

use crate::clock::Timestamp;
use crate::mail::{EnhancedCode, Envelope, MessageId, Origin};

use super::report::{Fate, ReportedRecipient, Reporter};
use super::status;

const COLUMNS: usize = 76;

/// The whole part, lines ending in CRLF. UTF-8 where addresses or replies are; no control characters.
pub(super) fn for_people(
    original: &Envelope,
    id: MessageId,
    failed: &[&ReportedRecipient<'_>],
    reporter: Reporter<'_>,
    returned: &str,
) -> String {
    let mut out = String::new();
    paragraph(&mut out, "", &format!("This is the mail system at {}.", reporter.hostname));
    let whom = if failed.len() == 1 { "this recipient" } else { "these recipients" };
    let date = original.accepted_at.rfc5322();
    let news = match failed.first().map(|reported| reported.fate) {
        Some(Fate::Confirmed("delivered")) => format!("Your message of {date} was delivered to {whom}:"),
        Some(Fate::Relayed | Fate::Confirmed(_)) => format!("Your message of {date} was handed on for {whom}:"),
        Some(Fate::Returned) => {
            format!("Your message of {date} was handed over for {whom}, and came back later. It was not delivered:")
        }
        Some(Fate::Delayed) => {
            let until = original.expires_at.rfc5322();
            let hears = |one: &&ReportedRecipient<'_>| one.hears_of_failure(reporter.reporting);
            let then = if failed.iter().all(hears) { ", and if that is in vain, you will hear of it" } else { "" };
            format!(
                "Your message of {date} could not be delivered to {whom} yet. It is not lost: it will be tried until \
                 {until}{then}."
            )
        }
        _ => format!("Your message of {date} could not be delivered to {whom}, and no more attempts will be made:"),
    };
    paragraph(&mut out, "", &news);
    for reported in failed {
        let _ = write!(out, "  <{}>\r\n\r\n", reported.recipient.address);
        paragraph(&mut out, "    ", &reason(original, reported));
        for line in status::said(reported).lines() {
            paragraph(&mut out, "        ", line);
        }
        paragraph(&mut out, "    ", advice(reported));
    }
    if failed.len() < original.recipients.len() {
        paragraph(&mut out, "", "This report says nothing about the other recipients of the message.");
    }
    let reference = format!("For questions, give your postmaster this report; the message is {id} there. {returned}");
    paragraph(&mut out, "", &reference);
    out.truncate(out.len() - 2);
    out
}

/// What happened, leading to the reply below it.
fn reason(original: &Envelope, reported: &ReportedRecipient<'_>) -> String {
    let who = match (reported.failure.origin, reported.mx) {
        (Origin::Remote { .. }, Some(mx)) => format!("The receiving server {mx}"),
        (Origin::Remote { .. }, None) => "The receiving server".to_owned(),
        (Origin::Local, _) => String::new(),
    };
    match (reported.fate, reported.failure.origin) {
        (Fate::Failed, Origin::Remote { .. }) => format!("{who} refused it for good. It said:"),
        (Fate::Relayed, _) => format!("{who} took it. It sends no reports itself, so this is the last word. It said:"),
        (Fate::Failed, Origin::Local) => "It cannot be sent there:".to_owned(),
        (Fate::Returned | Fate::Confirmed(_), _) => match reported.mx {
            Some(mx) => format!("That is what the receiver reports. The server {mx} said:"),
            None => "That is what the receiver reports. It says:".to_owned(),
        },
        (Fate::Delayed, Origin::Remote { .. }) => format!("{who} refused it for the moment. It said:"),
        (Fate::Delayed, Origin::Local) => "The last attempt failed:".to_owned(),
        (Fate::Expired, origin) => {
            let waited = words_for(original.lifetime().as_secs());
            let last = match reported.last_attempt {
                Timestamp(0) => "The last word on it:".to_owned(),
                at => match origin {
                    Origin::Remote { .. } => {
                        format!("{who} refused the last attempt, on {}, for the moment:", at.rfc5322())
                    }
                    Origin::Local => format!("The last attempt, on {}, failed:", at.rfc5322()),
                },
            };
            format!("It could not be delivered within {waited}. {last}")
        }
    }
}

/// `4 days`, `90 minutes`: the largest unit that says it exactly.
fn words_for(seconds: u64) -> String {
    let (count, unit) = match seconds {
        s if s >= 86_400 && s.is_multiple_of(86_400) => (s / 86_400, "day"),
        s if s >= 3_600 && s.is_multiple_of(3_600) => (s / 3_600, "hour"),
        s if s >= 60 => (s / 60, "minute"),
        s => (s, "second"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

/// What the sender can do, from the status code (RFC 3463 §3).
fn advice(reported: &ReportedRecipient<'_>) -> &'static str {
    match reported.fate {
        Fate::Relayed | Fate::Confirmed(_) => return "There is nothing for you to do.",
        Fate::Delayed => return "There is nothing for you to do; do not send it again.",
        Fate::Failed | Fate::Expired | Fate::Returned => {}
    }
    let EnhancedCode(_, subject, detail) = reported.failure.reply.enhanced_or_general();
    match (subject, detail) {
        (1, 2 | 10) => "The domain takes no mail. Check the part of the address behind the @.",
        (1, _) => "Check the address for typing errors, or ask the recipient for another one.",
        (2, 2) => "The mailbox is full. Reach the recipient another way, or send again later.",
        (2, 1) => "The mailbox is closed or blocked. Reach the recipient another way.",
        (2, 3) | (3, 4) => "The message is too large for the receiver. Send less, or a link to it.",
        (4, _) => "The receiver could not be reached. Check the domain of the address, or send again later.",
        (6, _) => "The receiver cannot take a message of this form. Send it in plain ASCII.",
        (7, 1) if matches!(reported.failure.origin, Origin::Local) => {
            "This server does not mail that address any more. Take it off your lists, or ask the operator to lift the entry."
        }
        (7, _) => {
            "The receiver refuses such mail by its rules. Its reply is the best hint; if it makes no sense to you, \
             show it to your postmaster."
        }
        _ if reported.fate == Fate::Expired => "Send the message again later, or reach the recipient another way.",
        _ => "The reply above says why. If it makes no sense to you, show it to your postmaster.",
    }
}

/// Appends `text` broken at spaces, each line behind `indent`, and an empty line.
fn paragraph(out: &mut String, indent: &str, text: &str) {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut column = 0;
    for word in text.split_ascii_whitespace() {
        if column > 0 && column + 1 + word.len() > COLUMNS {
            out.push_str("\r\n");
            column = 0;
        }
        let before = if column == 0 { indent } else { " " };
        out.push_str(before);
        out.push_str(word);
        column += before.len() + word.len();
    }
    out.push_str("\r\n\r\n");
}
