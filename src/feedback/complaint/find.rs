//! Finds what might be ours in a report: tokens, and ids in trace fields. Linear, and bounded in what it keeps.

use super::super::mime::{NamedValue, Opened};
use super::Complaint;
use super::arf::Original;

/// Letters of a message's token.
const TOKEN: usize = 36;

/// Texts that might be tokens; each costs an HMAC to try.
const TOKENS_MAX: usize = 32;

/// The shortest subscription's token, in letters.
const SUBSCRIPTION_MIN: usize = 40;

/// As much of the message's body is looked through, in octets.
const BODY_MAX: usize = 64 * 1024;

/// Letters of one of our message ids.
const ID: usize = 13;

/// Gathers from the report, what came with it and what is left of the message, the likeliest places first.
pub(super) fn all(complaint: &mut Complaint, opened: &Opened<'_>, report: &[NamedValue], original: &Original) {
    let named = |header: &[NamedValue], names: &[&str], into: &mut Complaint| {
        for (name, value) in header.iter().filter(|field| names.contains(&field.0.as_str())) {
            // White space means nothing in it (RFC 9477 §4.2), nor in what was folded.
            tokens(&mut into.tokens, &value.split_ascii_whitespace().collect::<String>());
            if name == "list-unsubscribe" {
                subscriptions(&mut into.subscriptions, value);
            }
        }
    };
    let likely = ["cfbl-feedback-id", "return-path", "original-mail-from", "original-envelope-id", "list-unsubscribe"];
    named(&original.header, &likely, complaint);
    named(report, &likely, complaint);
    tokens(&mut complaint.tokens, &complaint.original_mail_from.clone());
    for (_, value) in report.iter().chain(&original.header).chain(&opened.header) {
        tokens(&mut complaint.tokens, value);
    }
    for part in opened.parts.iter().filter(|part| part.kind.starts_with("text/") && part.body.len() <= BODY_MAX) {
        tokens(&mut complaint.tokens, &part.text());
    }
    let body = &original.body[..original.body.len().min(BODY_MAX)];
    tokens(&mut complaint.tokens, &String::from_utf8_lossy(body).replace("=\r\n", "").replace("=\n", ""));
    ids(complaint, original);
}

/// Runs of exactly as many letters and digits as a token has.
fn tokens(found: &mut Vec<String>, text: &str) {
    // `I`, `L`, `O` and `U` are no digits (Crockford's base 32).
    let is_digit = |c: char| c.is_ascii_alphanumeric() && !"iloILOuU".contains(c);
    for run in text.split(|c: char| !c.is_ascii_alphanumeric()) {
        if found.len() == TOKENS_MAX {
            return;
        }
        if run.len() == TOKEN && run.chars().all(is_digit) {
            let run = run.to_ascii_lowercase();
            if !found.contains(&run) {
                found.push(run);
            }
        }
    }
}

/// Long runs of base64url within angle brackets.
fn subscriptions(found: &mut Vec<String>, value: &str) {
    let value: String = value.split_ascii_whitespace().collect();
    let is_digit = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    for run in value.split(|c: char| !is_digit(c)) {
        if run.len() >= SUBSCRIPTION_MIN && found.len() < TOKENS_MAX && !found.iter().any(|one| one == run) {
            found.push(run.to_owned());
        }
    }
}

/// `by HOST … id ID` of trace fields, and `ID@HOST` of the Message-ID.
fn ids(complaint: &mut Complaint, original: &Original) {
    let is_id = |text: &str| text.len() == ID && text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase());
    if let Some((id, host)) = complaint.original_message_id.split_once('@')
        && is_id(id)
    {
        complaint.ids.push((host.to_ascii_lowercase(), id.to_owned()));
    }
    for (_, value) in original.header.iter().filter(|field| field.0 == "received").take(TOKENS_MAX) {
        let mut words = value.split_ascii_whitespace();
        let (mut host, mut before) = ("", "");
        for word in words.by_ref() {
            match before {
                "by" if host.is_empty() => host = word,
                "id" if !host.is_empty() && is_id(word.trim_end_matches(';')) => {
                    let found = (host.to_ascii_lowercase(), word.trim_end_matches(';').to_owned());
                    if !complaint.ids.contains(&found) {
                        complaint.ids.push(found);
                    }
                    break;
                }
                _ => {}
            }
            before = word;
        }
    }
}
