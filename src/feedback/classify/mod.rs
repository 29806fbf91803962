//! What a refusal means: its class, its reason, whose fault it is.
//!
//! [`classify_reply`] takes what a receiver said and gives a [`Verdict`]. Pure: no clock, no network, no disk. In order:
//!
//! 1. Enhanced codes that say one thing only (`5.2.2`, `5.7.515`).
//! 2. What single providers write (`config/replies/providers.toml`).
//! 3. What servers write everywhere (`config/replies/texts.toml`): texts go before general codes, since receivers send
//!    `5.7.1` and `5.1.1` with everything.
//! 4. General enhanced codes (`5.1.1`), then reply codes.
//!
//! A wrong *hard* costs the sender a live address, so only two reasons are hard, only from text that says one thing or a code that
//! says so (X.1.n), and never from a transient reply. A text is searched once, for all rules together.

mod rules;
mod taxonomy;
#[cfg(test)]
mod tests;
mod unknown;

pub use taxonomy::{Class, Permanence};
pub use unknown::{Cluster, Unknown};

pub use crate::mail::wording::codes;
pub use crate::mail::{Fault, Reason};

use serde::Serialize;

use crate::mail::EnhancedCode;
use crate::mail::wording::comparable;
use rules::RULES;

/// From this confidence on a text says by itself that an address is dead.
const CLEAR: u8 = 70;

/// What a refusal means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Whether the address is dead.
    pub class: Class,
    /// Whether the receiver would take it later.
    pub permanence: Permanence,
    /// Why.
    pub reason: Reason,
    /// Whose fault.
    pub blame: Fault,
    /// Out of a hundred: how much the text said.
    pub confidence: u8,
    /// What decided: the name of a rule, or `code:5.1.1`.
    pub rule: String,
}

/// Judges what a receiver said. `text` may hold the codes or not, and any number of lines; `provider` is a hint, a name
/// (`google`) or the receiver's host in lower case; empty when nobody knows.
pub fn classify_reply(code: Option<u16>, enhanced: Option<EnhancedCode>, text: &str, provider: &str) -> Verdict {
    let permanence = match (enhanced.map(|code| u16::from(code.0)), code.map(|code| code / 100)) {
        (_, Some(5)) | (Some(5), None) => Permanence::Permanent,
        (_, Some(4)) | (Some(4), None) => Permanence::Transient,
        (Some(5), _) => Permanence::Permanent,
        (Some(4), _) => Permanence::Transient,
        _ => Permanence::Unknown,
    };
    // Codes that say that it is the sender's address (RFC 3463 §3.2), whatever words stand beside them.
    let of_sender = enhanced.is_some_and(|code| code.1 == 1 && matches!(code.2, 7 | 8));
    let verdict = |reason: Reason, confidence: u8, rule: String, soft: bool| {
        let reason = if of_sender && reason.is_lasting() { Reason::Policy } else { reason };
        // What is unknown for now may be known again: greylists, directories and name servers that are down.
        let passing = permanence == Permanence::Transient;
        // Words that stand for a refusal by policy as well are believed only beside a code that says that the address is bad.
        let clear = confidence >= CLEAR || enhanced.is_some_and(|code| code.0 == 5 && code.1 == 1);
        let class = if reason.is_lasting() && clear && !soft && !passing { Class::Hard } else { Class::Soft };
        Verdict { class, permanence, reason, blame: reason.fault(), confidence, rule }
    };
    if let Some((enhanced, reason)) = enhanced.and_then(|code| Some((code, RULES.sure(code)?))) {
        return verdict(reason, 95, format!("code:{enhanced}"), false);
    }
    if let Some(rule) = RULES.first(&comparable(text), code, provider) {
        return verdict(rule.reason, rule.confidence, rule.name.clone(), rule.soft);
    }
    if let Some((enhanced, reason)) = enhanced.and_then(|code| Some((code, RULES.likely(code)?))) {
        // X.n.0 is "other" (RFC 3463 §3): what mailers say that know no better.
        return verdict(reason, if enhanced.2 == 0 { 45 } else { 60 }, format!("code:{enhanced}"), false);
    }
    let reason = code.map_or(Reason::Other, by_reply_code);
    let rule = code.filter(|_| reason != Reason::Other).map_or(String::new(), |code| format!("code:{code}"));
    verdict(reason, if reason == Reason::Other { 0 } else { 35 }, rule, true)
}

/// Judges one line as logs show it: `550 5.1.1 no such user`, codes of further lines still in it.
pub fn classify_line(line: &str, provider: &str) -> Verdict {
    let (code, enhanced) = codes(line);
    classify_reply(code, enhanced, line, provider)
}

/// The little that three digits say (RFC 5321 §4.2.3).
fn by_reply_code(code: u16) -> Reason {
    match code {
        421 | 451 | 452 | 454 | 432 | 471 | 500..=504 => Reason::SystemError,
        441..=447 => Reason::NetworkError,
        523 => Reason::MessageTooBig,
        552 => Reason::MailboxFull,
        521 | 556 => Reason::HostUnknown,
        530..=538 | 550 | 553 | 554 | 571 => Reason::Policy,
        551 => Reason::UserUnknown,
        _ => Reason::Other,
    }
}
