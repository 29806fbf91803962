//! What came back: reads a message sent to an address of ours and says whether it is a bounce, whose, and why.
//!
//! [`read`] is pure and takes foreign octets. The steps:
//!
//! 1. The message is opened: its header, the words for people, the words for machines, what is left of the original
//!    (`parts.rs`). Only the front of a large message is looked at.
//! 2. A machine-readable report (RFC 3464, RFC 6533) names its recipients itself (`status.rs`).
//! 3. Anything else is weighed (`kind.rs`): sender, subject and text must look like a bounce; an auto-reply is none.
//! 4. Who failed is read from the text (`free.rs`): named failed recipients, addresses at the start of lines, the addressee
//!    of the original.
//! 5. Each recipient's text is judged as a reply is ([`super::classify`]).
//!
//! Whether the message may be believed (the token in its recipient) is not asked here.

mod free;
mod kind;
mod parts;
pub mod score;
mod status;
#[cfg(test)]
mod tests;

use serde::Serialize;

use super::classify::{Class, Reason, Verdict, classify_reply, codes};
use super::complaint::{self, Complaint};
use crate::mail::EnhancedCode;
use parts::Parts;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A report of delivery: failed, delayed or done, see [`Bounced::action`].
    Bounce,
    /// A complaint, see [`Incoming::complaint`].
    Complaint,
    /// A vacation notice, an acknowledgement, a challenge.
    AutoReply,
    /// Ordinary mail.
    Other,
}

/// What became of a recipient (RFC 3464 §2.3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It failed for good.
    Failed,
    /// The reporter still tries: no failure.
    Delayed,
    /// It arrived.
    Delivered,
    /// It was handed to a system that does not report.
    Relayed,
    /// It arrived at a list or alias.
    Expanded,
}

impl Action {
    /// Whether the recipient did not get the message so far.
    pub fn is_trouble(self) -> bool {
        matches!(self, Action::Failed | Action::Delayed)
    }
}

/// A recipient of a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bounced {
    /// The address that failed; empty when the report names none.
    pub recipient: String,
    /// The address as the sender gave it, when the report says another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original: Option<String>,
    /// What became of it.
    pub action: Action,
    /// The enhanced code.
    pub status: Option<EnhancedCode>,
    /// The reply code.
    pub reply: Option<u16>,
    /// What it means.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// The text that the verdict rests on, at most 2,000 bytes.
    pub diagnostic: String,
}

/// A message read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Incoming {
    /// What it is.
    pub kind: Kind,
    /// Of a bounce: whose. At most 1,000.
    pub recipients: Vec<Bounced>,
    /// Of a complaint: what it says.
    pub complaint: Option<Box<Complaint>>,
}

const RECIPIENTS_MAX: usize = 1_000;
const DIAGNOSTIC_MAX: usize = 2_000;

/// Below this a machine's text says too little, and the words for people are asked too.
const SAYS_LITTLE: u8 = 66;

/// Reads a message. Never fails: what is no bounce is [`Kind::Other`].
pub fn read(message: &[u8]) -> Incoming {
    if let Some(complaint) = complaint::read(message) {
        return Incoming { kind: Kind::Complaint, recipients: Vec::new(), complaint: Some(complaint.into()) };
    }
    let parts = Parts::open(message);
    let recipients = match kind::weigh(&parts) {
        kind::Weighed::Bounce => {
            let mut recipients = status::recipients(&parts.status);
            if recipients.is_empty() {
                recipients = free::recipients(&parts);
            }
            recipients.truncate(RECIPIENTS_MAX);
            recipients
        }
        kind::Weighed::Other(kind) => return Incoming { kind, recipients: Vec::new(), complaint: None },
    };
    let recipients = recipients.into_iter().map(|one| judged(one, &parts)).collect();
    Incoming { kind: Kind::Bounce, recipients, complaint: None }
}

/// A recipient as a report names it, before it is judged.
#[derive(Debug, Clone, Default)]
struct Named {
    recipient: String,
    original: Option<String>,
    action: Option<Action>,
    status: Option<EnhancedCode>,
    diagnostic: String,
    /// What follows it in the words for people, for reports that are nothing else.
    words: String,
    /// The receiver that said so, in lower case.
    host: String,
}

fn judged(one: Named, parts: &Parts) -> Bounced {
    let action = one.action.unwrap_or(Action::Failed);
    let (reply, enhanced) = codes(&one.diagnostic);
    let told = one.status.filter(|status| (status.1, status.2) != (0, 0));
    let mut status = told.or(enhanced).or(one.status);
    let mut reply = reply.filter(|code| *code != 250 || !action.is_trouble());
    let provider = one.host.as_str();
    let mut verdict = classify_reply(reply, enhanced.or(told).or(one.status), &one.diagnostic, provider);
    let mut diagnostic = one.diagnostic.clone();
    if verdict.confidence < SAYS_LITTLE {
        let words = if one.words.is_empty() { free::own_words(parts) } else { &one.words };
        let all = free::own_words(parts).to_owned();
        for words in free::candidates(words, &one.recipient).into_iter().chain([all]) {
            let (code, enhanced) = codes(&words);
            let code = reply.or(code.filter(|code| *code >= 400));
            let second = classify_reply(code, enhanced.or(told), &free::without_formulas(&words), provider);
            if second.confidence > verdict.confidence && second.reason != Reason::Other {
                verdict = second;
                status = status.filter(|status| (status.1, status.2) != (0, 0)).or(enhanced).or(status);
                reply = code;
                diagnostic = words;
            }
            if verdict.confidence >= SAYS_LITTLE {
                break;
            }
        }
        if diagnostic.is_empty() {
            diagnostic = one.words;
        }
    }
    if action == Action::Delayed {
        // Not a failure yet: nothing is dead.
        verdict.class = Class::Soft;
        if verdict.reason == Reason::Other {
            verdict.reason = Reason::Expired;
        }
    }
    diagnostic.truncate(diagnostic.floor_char_boundary(DIAGNOSTIC_MAX));
    Bounced { recipient: one.recipient, original: one.original, action, status, reply, verdict, diagnostic }
}
