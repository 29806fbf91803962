//! The part of a report for machines: `message/delivery-status` (RFC 3464 §2).
//!
//! Always ASCII: an address that is not is written as RFC 6533 §3 provides for this part, so that the report needs
//! SMTPUTF8 only when the sender's own address does.

use crate::clock::Timestamp;
use crate::mail::{Domain, EnhancedCode, Envelope, MessageId, Origin};

use super::field;
use super::report::{Fate, ReportedRecipient};

/// The whole part: fields about the message, then an empty line and fields for each recipient.
pub(super) fn delivery_status(
    original: &Envelope,
    id: MessageId,
    failed: &[&ReportedRecipient<'_>],
    hostname: &Domain,
) -> String {
    let mut out = String::new();
    field::push(&mut out, "Reporting-MTA", &format!("dns; {hostname}"));
    if let Some(envid) = &original.envid {
        field::push(&mut out, "Original-Envelope-Id", &field::from_xtext(envid));
    }
    field::push(&mut out, "Arrival-Date", &original.accepted_at.rfc5322());
    // RFC 2852 §5.
    if let Some(by) = original.delay_report_at {
        field::push(&mut out, "Deliver-By-Date", &by.rfc5322());
    }
    for recipient in failed {
        out.push_str("\r\n");
        push_recipient(&mut out, original, id, recipient);
    }
    out
}

fn push_recipient(out: &mut String, original: &Envelope, id: MessageId, reported: &ReportedRecipient<'_>) {
    if let Some(orcpt) = &reported.recipient.orcpt {
        field::push(out, "Original-Recipient", &original_recipient(orcpt));
    }
    let address = reported.recipient.address.to_string();
    let last = match address.is_ascii() {
        true => format!("rfc822; {address}"),
        false => format!("utf-8; {}", field::to_utf8_xtext(&address)),
    };
    field::push(out, "Final-Recipient", &last);
    let action = match reported.fate {
        Fate::Failed | Fate::Expired | Fate::Returned => "failed",
        Fate::Relayed => "relayed",
        Fate::Delayed => "delayed",
        Fate::Confirmed(word) => word,
    };
    field::push(out, "Action", action);
    field::push(out, "Status", &status(original, reported).to_string());
    let said = said(reported);
    if let (Origin::Remote { .. }, Some(mx)) = (reported.failure.origin, reported.mx) {
        field::push(out, "Remote-MTA", &format!("dns; {mx}"));
    }
    if !said.is_empty() {
        let is_reply = said.as_bytes().first_chunk::<3>().is_some_and(|code| code.iter().all(u8::is_ascii_digit));
        let kind = match reported.failure.origin {
            Origin::Remote { .. } if is_reply => "smtp",
            Origin::Remote { .. } | Origin::Local => "x-posthaste",
        };
        field::push(out, "Diagnostic-Code", &format!("{kind}; {said}"));
    }
    let Timestamp(last_attempt) = reported.last_attempt;
    if last_attempt > 0 {
        field::push(out, "Last-Attempt-Date", &reported.last_attempt.rfc5322());
    }
    field::push(out, "Final-Log-ID", &id.to_string());
    // RFC 3464 §2.3.9: for what is delayed only.
    if reported.fate == Fate::Delayed {
        field::push(out, "Will-Retry-Until", &original.expires_at.rfc5322());
    }
}

/// What was said of it: a reply, or what the report that came back rests on, in its own words.
pub(super) fn said(reported: &ReportedRecipient<'_>) -> String {
    let reply = &reported.failure.reply;
    match reported.fate {
        Fate::Returned | Fate::Confirmed(_) => reply.text.to_string(),
        Fate::Failed | Fate::Expired | Fate::Relayed | Fate::Delayed => reply.to_string(),
    }
}

/// ORCPT is `type;xtext`; the field has it decoded (RFC 3464 §2.3.1). The type `utf-8` has an encoding of its own, which
/// stays (RFC 6533 §3).
fn original_recipient(orcpt: &str) -> String {
    match orcpt.split_once(';') {
        Some((kind, address)) if !kind.eq_ignore_ascii_case("utf-8") => {
            format!("{kind}; {}", field::from_xtext(address))
        }
        _ => orcpt.to_owned(),
    }
}

/// The receiver's word, except that giving up is ours, and that a time the client set has passed (RFC 2852 §4): 4.4.7,
/// delivery time expired (RFC 3463 §3.5).
fn status(original: &Envelope, reported: &ReportedRecipient<'_>) -> EnhancedCode {
    match reported.fate {
        Fate::Failed | Fate::Relayed | Fate::Returned | Fate::Confirmed(_) => {
            reported.failure.reply.enhanced_or_general()
        }
        Fate::Delayed if original.delay_report_at.is_none() => reported.failure.reply.enhanced_or_general(),
        Fate::Expired | Fate::Delayed => EnhancedCode(4, 4, 7),
    }
}
