//! What a complaint says: reads a message sent to our address for complaints.
//!
//! [`read`] is pure and takes foreign octets. The steps:
//!
//! 1. The message is opened within bounds (`mime.rs`). Only the front of a large one is looked at.
//! 2. A machine-readable part (RFC 5965, and RFC 6591 for failures of authentication) speaks for itself (`arf.rs`), whatever it
//!    calls itself and even where the MIME around it is broken.
//! 3. Otherwise the forms of those who have their own are tried (`foreign.rs`): Microsoft's old one, Amazon's notifications,
//!    plain words, requests to unsubscribe.
//! 4. What might be a token of ours is gathered wherever it stands (`find.rs`): receivers redact addresses, but seldom all of
//!    the message.
//!
//! Nothing here is believed. Whether a token is ours, and what follows, the handler of incoming mail says.

mod arf;
pub mod cfbl;

mod find;
mod foreign;
pub mod score;
#[cfg(test)]
mod tests;

use serde::Serialize;

use super::mime::{Opened, first, kind_of, param};

/// As much of a message is looked at, in octets.
const LOOKED_AT: usize = 512 * 1024;

/// Reports within forwarded messages are followed so deep.
const FORWARDS_MAX: usize = 2;

/// Addresses, domains and the like of one report.
const MANY_MAX: usize = 200;

/// What a report says. Texts are as written, unfolded, without angle brackets; empty where it says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Complaint {
    /// Whether it has a machine-readable part (RFC 5965).
    pub standard: bool,
    /// `abuse`, `fraud`, `virus`, `not-spam`, `opt-out`, `auth-failure`, … in lower case.
    pub feedback_type: String,
    /// The program that made it.
    pub user_agent: String,
    /// The version of the format.
    pub version: String,
    /// Whose complaint: every Original-Rcpt-To, else Removal-Recipient, else what the provider's own form says.
    pub original_rcpt: Vec<String>,
    /// The envelope sender of the message; where the report does not say, its Return-Path.
    pub original_mail_from: String,
    /// ENVID of the message.
    pub original_envelope_id: String,
    /// Message-ID of the message.
    pub original_message_id: String,
    /// To of the message.
    pub original_to: String,
    /// Subject of the message.
    pub original_subject: String,
    /// Where the message came from.
    pub source_ip: String,
    /// When it arrived: Arrival-Date, else Received-Date.
    pub arrival_date: String,
    /// The domains it is about.
    pub reported_domain: Vec<String>,
    /// URIs found in it.
    pub reported_uri: Vec<String>,
    /// The reporter's findings of authentication.
    pub authentication_results: Vec<String>,
    /// How many complaints it stands for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incidents: Option<u64>,
    /// What failed (RFC 6591 §3.2.1): `dkim`, `spf`, `dmarc`, `bodyhash`, …
    pub auth_failure: String,
    /// What became of the message (RFC 6591 §3.2.2).
    pub delivery_result: String,
    /// Feedback-ID of the message.
    pub feedback_id: String,
    /// Further fields of the machine-readable part: names in lower case.
    pub other: Vec<(String, String)>,
    /// What has the form of a message's token ([`Sent`](super::token::Sent)), the likeliest first.
    pub tokens: Vec<String>,
    /// What has the form of a subscription's token ([`Subscription`](super::token::Subscription)).
    pub subscriptions: Vec<String>,
    /// Hosts in the message's trace and Message-ID with what they call it, where that has the form of our ids.
    pub ids: Vec<(String, String)>,
}

impl Complaint {
    /// Whether its kind is one that a recipient's mail is to stop for: somebody does not want it. Not so for what was no
    /// spam, failed authentication, or is something else.
    pub fn is_against_sender(&self) -> bool {
        matches!(
            self.feedback_type.as_str(),
            "abuse" | "fraud" | "virus" | "opt-out" | "opt-out-list" | "miscategorized"
        )
    }

    /// The kind as metrics know it: one of a few words.
    pub fn kind(&self) -> &'static str {
        const KINDS: [&str; 7] = ["abuse", "fraud", "virus", "not-spam", "opt-out", "auth-failure", "opt-out-list"];
        KINDS.into_iter().find(|kind| *kind == self.feedback_type).unwrap_or("other")
    }
}

/// Reads a message; `None`: it is no complaint.
pub fn read(message: &[u8]) -> Option<Complaint> {
    read_within(&message[..message.len().min(LOOKED_AT)], FORWARDS_MAX)
}

fn read_within(message: &[u8], forwards: usize) -> Option<Complaint> {
    let opened = Opened::of(message);
    if let Some(complaint) = arf::read(&opened) {
        return Some(complaint);
    }
    let is_report_of_delivery =
        |kind: &str| kind.contains("delivery-status") || kind.contains("disposition-notification");
    if opened.parts.iter().any(|part| is_report_of_delivery(&part.kind)) {
        return None;
    }
    if let Some(complaint) = foreign::read(&opened) {
        return Some(complaint);
    }
    // A report forwarded as it is.
    let inner = opened.parts.iter().filter(|part| part.kind == "message/rfc822").find_map(|part| {
        let octets = part.decoded();
        let header = super::mime::fields(super::mime::head(&octets));
        let kind = first(&header, "content-type");
        let reports =
            kind_of(kind) == "multipart/report" && param(kind, "report-type").is_some_and(|t| is_feedback(&t));
        (reports && forwards > 0).then(|| read_within(&octets, forwards - 1)).flatten()
    });
    inner.or_else(|| arf::empty_report(&opened))
}

/// Whether a report-type or subtype is that of RFC 5965.
fn is_feedback(text: &str) -> bool {
    text.to_ascii_lowercase().contains("feedback-report")
}

/// Without angle brackets and white space around it.
fn bare(text: &str) -> String {
    text.trim().trim_start_matches('<').trim_end_matches('>').trim().to_owned()
}
