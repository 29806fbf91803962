//! Reads the machine-readable part of a report (RFC 3464 §2, RFC 6533 §3).

use super::parts::fields;
use super::{Action, Named};

/// The recipients of a report, in order; groups that name none are left out.
pub(super) fn recipients(status: &str) -> Vec<Named> {
    let status = status.replace('\r', "");
    let mut named: Vec<Named> = Vec::new();
    for group in status.split("\n\n").take(2 * super::RECIPIENTS_MAX) {
        for group in by_recipient(group) {
            if named.len() < super::RECIPIENTS_MAX
                && let Some(one) = recipient(group)
                && !named
                    .iter()
                    .any(|other| other.recipient.eq_ignore_ascii_case(&one.recipient) && !one.recipient.is_empty())
            {
                named.push(one);
            }
        }
    }
    named
}

/// A group that lost its empty line: a second `Final-Recipient` begins another recipient.
fn by_recipient(group: &str) -> Vec<&str> {
    let low = group.to_ascii_lowercase();
    let mut starts: Vec<usize> = low.match_indices("final-recipient:").map(|found| found.0).collect();
    if starts.len() < 2 {
        return vec![group];
    }
    starts[0] = 0;
    starts.push(group.len());
    starts.windows(2).map(|pair| &group[pair[0]..pair[1]]).collect()
}

fn recipient(group: &str) -> Option<Named> {
    let fields = fields(group);
    let all =
        |name: &str| fields.iter().filter(|field| field.0 == name).map(|field| field.1.as_str()).collect::<Vec<_>>();
    let first = |name: &str| all(name).first().copied();
    let of = |name: &str| first(name).map(address).filter(|address| !address.is_empty());
    let (last, original) = (of("final-recipient"), of("original-recipient"));
    let named = last
        .clone()
        .filter(|address| address.contains('@'))
        .or(original.clone())
        .or(last)
        .or(of("x-actual-recipient"))?;
    let named = if named.contains('@') { named } else { of("x-actual-recipient").unwrap_or(named) };
    let word = first("action").unwrap_or_default().to_ascii_lowercase();
    let word = word.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
    let action = match word {
        "delayed" => Action::Delayed,
        "delivered" | "deliverable" => Action::Delivered,
        "relayed" => Action::Relayed,
        "expanded" => Action::Expanded,
        _ => Action::Failed,
    };
    let status = first("status")
        .and_then(|text| text.split(|c: char| !(c.is_ascii_digit() || c == '.')).find_map(|word| word.parse().ok()));
    let diagnostic = all("diagnostic-code").into_iter().map(without_type).collect::<Vec<_>>().join(" ");
    let host = of("remote-mta").unwrap_or_default().to_ascii_lowercase();
    let more = all("x-supplementary-info").join(" ");
    let diagnostic = if diagnostic.is_empty() { more } else { diagnostic };
    let original = original.filter(|address| *address != named);
    Some(Named { recipient: named, original, action: Some(action), status, diagnostic, words: String::new(), host })
}

/// `rfc822; <a@b>` gives `a@b`.
fn address(value: &str) -> String {
    let text = value.split_once(';').map_or(value, |pair| pair.1).trim();
    let text = text.rsplit_once('<').map_or(text, |pair| pair.1.split('>').next().unwrap_or_default());
    text.split_whitespace().next().unwrap_or_default().trim_matches(['<', '>', '\'', ',']).to_owned()
}

/// `smtp; 550 no` gives `550 no`.
fn without_type(value: &str) -> &str {
    match value.split_once(';') {
        Some((kind, text)) if kind.len() < 30 && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') => {
            text.trim()
        }
        _ => value,
    }
}
