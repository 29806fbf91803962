//! The sender of a message hears what came back of it, as he hears what failed in a session: by a report of ours (RFC 3464) to
//! his own envelope sender, if his stream is told by mail or he asked for it.
//!
//! What came back itself is not sent on: its words stand in the report as a diagnostic, and of what it says is the header of the
//! message only the fields that tell one message from another.
//!
//! Once for each recipient of a message: of what was noted ([`Seen`](super::seen::Seen)) nothing is told again. The report is on disk
//! before that is noted, and its key with it: after a crash between the two it is known by its key.

use std::sync::Arc;

use smallvec::smallvec;

use super::bounce::Finding;
use super::desk::Desk;
use crate::events::Kind;
use crate::feedback::Fate;
use crate::feedback::bounce::Action;
use crate::feedback::token::{RecipientHash, Sent};
use crate::ledger::{Begun, Ticket};
use crate::mail::{Fingerprint, Keyed, MessageId, header};
use crate::queue::{Queue, Returned};
use crate::spool::Message;
use crate::submission::Rejection;

/// Fields of the message that go into the report. Not those with a token of ours in them, which would let the sender speak for
/// the recipient; nor what hosts on the way wrote.
const FIELDS: [&str; 10] =
    ["Date", "From", "Sender", "Reply-To", "To", "Cc", "Subject", "Message-ID", "In-Reply-To", "References"];

/// Octets of them.
const HEADER_MAX: usize = 8 << 10;

/// What the sender is told.
#[derive(Default)]
pub(super) struct Told {
    /// Of which recipient, and by which message.
    recipients: Vec<(RecipientHash, MessageId)>,
    /// What is to be sent for that.
    reports: Vec<(Message, Ticket)>,
}

impl Told {
    /// The message by which the sender hears of it.
    pub(super) fn of(&self, finding: &Finding<'_>) -> Option<MessageId> {
        let hash = RecipientHash::of(finding.address.as_ref()?);
        self.recipients.iter().find(|(known, _)| *known == hash).map(|(_, report)| *report)
    }

    /// Sends it. It is on disk when this resolves.
    pub(super) async fn send(self, queue: &Arc<Queue>) -> Result<(), Rejection> {
        for (report, ticket) in self.reports {
            let kept = queue.accept(smallvec![Arc::new(report)]);
            ticket.hand_over();
            kept.await.map_err(Rejection::from_queue)?;
        }
        Ok(())
    }
}

impl Desk {
    /// What the sender is to hear of this: what is new, and what he wants. `original` is the message's header as it came back.
    pub(super) fn for_sender(&self, sent: Sent, findings: &[Finding<'_>], original: &str) -> Result<Told, Rejection> {
        let mut told = Told::default();
        for (recipient, returned) in findings.iter().filter_map(for_sender) {
            let id = self.parts.queue.next_ids(1);
            let key = key(sent.message, recipient, returned.fate);
            let header = identity(original);
            let Some(report) = self.parts.queue.report_of_returned(sent.message, returned, &header, (id, key)) else {
                continue;
            };
            let trouble = || Rejection::trouble("its sender cannot be told now, try again later");
            let envelope = &report.envelope;
            let keyed = envelope.key.as_deref().ok_or_else(trouble)?;
            let id = match self.parts.ledger.begin(&envelope.stream.tenant, keyed) {
                Begun::New(ticket) => {
                    told.reports.push((report, ticket));
                    id
                }
                Begun::Known(receipt) => receipt.id,
                // The tenant took our name for it, and with that its own report.
                Begun::Contradicts => continue,
                Begun::UnderWay(_) | Begun::Unreadable(_) | Begun::Crowded => return Err(trouble()),
            };
            told.recipients.push((recipient, id));
        }
        Ok(told)
    }
}

/// What the sender may hear of a finding; `None`: it came before, is about nobody we know, is no news of an end, or he has heard of
/// another end.
fn for_sender<'a>(finding: &'a Finding<'_>) -> Option<(RecipientHash, Returned<'a>)> {
    let (address, mailed) = (finding.address.as_ref()?, finding.mailed.as_ref()?);
    let bounced = finding.said.bounced;
    let fate = match bounced.action {
        Action::Failed => Fate::Returned,
        Action::Delivered => Fate::Confirmed("delivered"),
        Action::Relayed => Fate::Confirmed("relayed"),
        Action::Expanded => Fate::Confirmed("expanded"),
        Action::Delayed => return None,
    };
    if finding.before > 0 || mailed.end.is_some_and(|end| end != Kind::Delivered) {
        return None;
    }
    let said = match bounced.diagnostic.trim() {
        "" if fate == Fate::Returned => bounced.verdict.reason.as_str(),
        said => said,
    };
    let host = Some(&*bounced.host).filter(|host| !host.is_empty());
    Some((RecipientHash::of(address), Returned { mailed, fate, status: bounced.status, said, host }))
}

/// What the report about this is known by.
fn key(message: MessageId, recipient: RecipientHash, fate: Fate) -> Keyed {
    let what = if fate == Fate::Returned { "returned" } else { "confirmed" };
    let hash = u32::from_be_bytes(recipient.octets());
    let key = format!("posthaste:{what}:{message}:{hash:08x}").parse().expect("letters, digits and colons");
    Keyed::new(key, Fingerprint::UNKNOWN, 1)
}

/// The fields by which the sender knows the message. Whoever returned it may have written anything there.
fn identity(original: &str) -> Vec<u8> {
    let clean = |c: char| if c.is_control() && c != '\n' && c != '\t' { ' ' } else { c };
    let text: String = original.replace("\r\n", "\n").chars().map(clean).collect();
    let text = text.replace('\n', "\r\n").into_bytes();
    let mut out = Vec::new();
    for field in header::fields(&text[..header::section_len(&text)]) {
        let Some(name) = FIELDS.into_iter().find(|name| field.is(name)) else { continue };
        let line = format!("{name}: {}\r\n", field.text());
        if out.len() + line.len() <= HEADER_MAX {
            out.extend_from_slice(line.as_bytes());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(original: &str, expected: &str) {
        assert_eq!(String::from_utf8(identity(original)).unwrap(), expected);
    }

    #[test]
    fn of_the_header_only_what_names_the_message_is_passed_on() {
        check(
            "Return-Path: <b+token@b.us.test>\nReceived: from a\n\tby b for <b+token@b.us.test>\nsubject: one\n two\n\
             CFBL-Feedback-ID: token\nMessage-Id: <1@us.test>\nX-Envelope-From: b+token@b.us.test\n\nTo: body",
            "Subject: one two\r\nMessage-ID: <1@us.test>\r\n",
        );
        check("Subject: a\0b\rBcc: x\r\nFrom: a\u{85}b\r\n", "Subject: a b Bcc: x\r\nFrom: a b\r\n");
        check("", "");
        check("no header at all\n\nSubject: x\n", "");
        check(&format!("Subject: {}\nFrom: a\n", "x".repeat(HEADER_MAX)), "From: a\r\n");
    }
}
