//! What came back: reads a message sent to an address of ours and says whether it is a bounce, whose, and why.
//!
//! [`read`] is pure and takes foreign octets. The steps:
//!
//! 1. The message is opened: its header, the words for people, the words for machines, what is left of the original
//!    (`parts.rs`). Only the front of a large message is looked at.
//! 2. A machine-readable report (RFC 3464, RFC 6533) names its recipients itself (`status.rs`).
//! 3. So does a notification in JSON (`json.rs`).
//! 4. Anything else is weighed (`kind.rs`): sender, subject and text must look like a bounce; an auto-reply is none.
//! 5. Who failed is read from the text (`free.rs`): named failed recipients, addresses at the start of lines, the addressee
//!    of the original; and which of the words are about each (`words.rs`).
//! 6. Each recipient's text is judged as a reply is ([`super::classify`]).
//!
//! Whether the message may be believed (the token in its recipient) is not asked here.

mod free;
mod json;
mod kind;
mod parts;
pub mod score;
mod status;
#[cfg(test)]
mod tests;
mod words;

use std::cell::OnceCell;

use serde::Serialize;

use super::classify::{Class, Permanence, Reason, Verdict, classify_reply, codes};
use super::complaint::{self, Complaint};
use crate::mail::EnhancedCode;
use parts::Parts;
use words::Words;

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
    /// The server that said so, in lower case, if the report names it.
    #[serde(skip)]
    pub host: String,
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
    /// Of a bounce: the header of the message it is about, as far as it came back, at most 16 KiB.
    #[serde(skip)]
    pub original: String,
}

impl Incoming {
    /// Something of that kind that names nobody.
    pub fn of(kind: Kind) -> Incoming {
        Incoming { kind, recipients: Vec::new(), complaint: None, original: String::new() }
    }
}

const RECIPIENTS_MAX: usize = 1_000;
const DIAGNOSTIC_MAX: usize = 2_000;
const ORIGINAL_MAX: usize = 16 << 10;

/// Below this a machine's text says too little, and the words for people are asked too.
const SAYS_LITTLE: u8 = 66;

/// The same of a receiver's own line among words for people.
const REPLY_SAYS_LITTLE: u8 = 60;

/// From here on words are believed wherever they stand.
const SURE: u8 = 80;

/// By so much less are weak words believed that no receiver said as a reply.
const PROSE_SAYS_LESS: u8 = 15;

/// Reads a message. Never fails: what is no bounce is [`Kind::Other`].
pub fn read(message: &[u8]) -> Incoming {
    if let Some(complaint) = complaint::read(message) {
        return Incoming { complaint: Some(complaint.into()), ..Incoming::of(Kind::Complaint) };
    }
    let mut parts = Parts::open(message);
    let words = Words::of(&parts);
    let named = match kind::weigh(&parts, &words) {
        kind::Weighed::Bounce => named(&parts, &words),
        kind::Weighed::Other(kind) => return Incoming::of(kind),
    };
    let reader = Reader { words: &words, all: OnceCell::new(), alone: named.len() == 1 };
    let recipients = named.into_iter().enumerate().map(|(at, one)| reader.judged(one, at)).collect();
    let mut original = std::mem::take(&mut parts.original);
    original.truncate(original.floor_char_boundary(ORIGINAL_MAX));
    Incoming { recipients, original, ..Incoming::of(Kind::Bounce) }
}

/// Who failed, as whatever part of the message says it best.
fn named(parts: &Parts, words: &Words) -> Vec<Named> {
    let mut named = status::recipients(&parts.status);
    if named.is_empty()
        && let Some(json::Notified::Bounce(notified)) = json::notified(&parts.human)
    {
        named = notified;
    }
    if named.is_empty() {
        named = free::recipients(parts, words);
        if kind::is_delayed(parts, words) {
            named.iter_mut().for_each(|one| one.action = Some(Action::Delayed));
        }
    }
    named.truncate(RECIPIENTS_MAX);
    named
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

/// Judges the recipients of one message. What all its words say is judged once.
struct Reader<'a> {
    words: &'a Words,
    all: OnceCell<Judged>,
    /// There is one recipient.
    alone: bool,
}

/// What some words say.
#[derive(Debug, Clone)]
struct Judged {
    verdict: Verdict,
    reply: Option<u16>,
    enhanced: Option<EnhancedCode>,
    text: String,
}

impl Reader<'_> {
    /// The recipient at that place of the report.
    fn judged(&self, one: Named, at: usize) -> Bounced {
        let action = one.action.unwrap_or(Action::Failed);
        let (reply, enhanced) = codes(&one.diagnostic);
        let told = one.status.filter(|status| (status.1, status.2) != (0, 0));
        let mut status = told.or(enhanced).or(one.status);
        let mut reply = reply.filter(|code| *code != 250 || !action.is_trouble());
        let mut verdict = classify_reply(reply, enhanced.or(told).or(one.status), &one.diagnostic, &one.host);
        let mut diagnostic = one.diagnostic.clone();
        if verdict.confidence < SAYS_LITTLE && action.is_trouble() {
            if let Some(better) = self.better(&one, at, (reply, told), &verdict) {
                status = status.filter(|status| (status.1, status.2) != (0, 0)).or(better.enhanced).or(status);
                (verdict, reply, diagnostic) = (better.verdict, better.reply, better.text);
            }
            if diagnostic.is_empty() {
                diagnostic = one.words;
            }
        }
        if verdict.class == Class::Hard
            && self.alone
            && let Some(alive) = self.contradiction()
        {
            (verdict, diagnostic) = (alive.verdict.clone(), alive.text.clone());
        }
        if action == Action::Delayed {
            // Not a failure yet: nothing is dead.
            verdict.class = Class::Soft;
            if verdict.reason == Reason::Other {
                verdict.reason = Reason::Expired;
            }
        }
        diagnostic.truncate(diagnostic.floor_char_boundary(DIAGNOSTIC_MAX));
        let Named { recipient, original, host, .. } = one;
        Bounced { recipient, original, action, status, reply, verdict, diagnostic, host }
    }

    /// What the words for people say of the only recipient, if it is that the mailbox is there. A mailer that put its own
    /// words before a report of another's knows more; and a live address suppressed costs more than a dead one kept.
    fn contradiction(&self) -> Option<&Judged> {
        let all = self.all();
        (all.verdict.reason == Reason::MailboxFull && all.verdict.confidence >= SURE).then_some(all)
    }

    /// What the words for people say of a recipient, if that is more than is known.
    fn better(
        &self,
        one: &Named,
        at: usize,
        codes: (Option<u16>, Option<EnhancedCode>),
        known: &Verdict,
    ) -> Option<Judged> {
        let mut best: Option<Judged> = None;
        let is_better = |judged: &Judged, best: &Option<Judged>| {
            let known = best.as_ref().map_or(known.confidence, |best| best.verdict.confidence);
            judged.verdict.confidence > known && judged.verdict.reason != Reason::Other
        };
        if at < words::SEARCHED_MAX {
            let own = if one.words.is_empty() { Vec::new() } else { words::own_candidates(&one.words, &one.recipient) };
            let transcript = self.words.transcript(&one.recipient);
            let shared = if own.is_empty() { self.words.candidates(&one.recipient) } else { Vec::new() };
            for text in transcript.into_iter().chain(own.iter().map(String::as_str)).chain(shared) {
                let judged = judge(text, codes, &one.host);
                // Prose around a reply that a rule knows says nothing better.
                let judged_reply = words::is_reply(text) && !judged.verdict.rule.starts_with("code:");
                if is_better(&judged, &best) {
                    best = Some(judged);
                }
                let enough = if judged_reply { REPLY_SAYS_LITTLE } else { SAYS_LITTLE };
                if best.as_ref().is_some_and(|best| best.verdict.confidence >= enough) {
                    return best;
                }
            }
        }
        let all = self.all();
        if !is_better(all, &best) {
            return best;
        }
        let mut all = all.clone();
        if known.permanence != Permanence::Unknown {
            all.verdict.permanence = known.permanence;
        }
        if known.permanence == Permanence::Transient {
            all.verdict.class = Class::Soft;
        }
        all.reply = codes.0.or(all.reply);
        Some(all)
    }

    /// What all the words say, whoever is meant.
    fn all(&self) -> &Judged {
        self.all.get_or_init(|| judge(self.words.text(), (None, None), ""))
    }
}

/// What some words say; `codes` are what is known of the reply before.
fn judge(text: &str, (reply, told): (Option<u16>, Option<EnhancedCode>), provider: &str) -> Judged {
    let (code, enhanced) = codes(text);
    let reply = reply.or(code.filter(|code| *code >= 400));
    let mut verdict = classify_reply(reply, enhanced.or(told), &words::without_formulas(text), provider);
    if !words::is_reply(text) && verdict.confidence < SURE && !verdict.rule.starts_with("code:") {
        // People are told of policies, contents and servers whatever went wrong: less than a code says.
        verdict.confidence = verdict.confidence.saturating_sub(PROSE_SAYS_LESS);
    }
    let text = text[..text.floor_char_boundary(DIAGNOSTIC_MAX)].to_owned();
    Judged { verdict, reply, enhanced, text }
}
