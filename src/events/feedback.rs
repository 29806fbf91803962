//! What came back after a message had left: bounces, complaints, unsubscribes, replies; and what it changed.

use serde::Serialize;

use super::event::{display, display_some};
use crate::clock::Timestamp;
use crate::mail::{EnhancedCode, MessageId};

/// What a [`Feedback`] line tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FeedbackKind {
    /// A bounce came back by mail (out of band) after the receiver had taken the message.
    Returned,
    /// The recipient called the message spam.
    Complained,
    /// The recipient left the list.
    Unsubscribed,
    /// A machine answered for the recipient: vacation, acknowledgement, challenge.
    Replied,
    /// Somebody was put on, or taken off, the suppression list.
    Suppression,
    /// A report on our domains: DMARC aggregate, TLSRPT.
    Report,
}

/// One line of the event log about what came back. It belongs to a message that may be long gone; the chain is told by
/// `message_id` (the message), `id` (this incoming item) and, at a suppression, `evidence` (the `id` of what led to it).
/// Fields that do not apply are left out.
#[derive(Debug, Serialize)]
pub struct Feedback<'a> {
    /// When, RFC 3339 with milliseconds.
    #[serde(serialize_with = "display")]
    pub time: Timestamp,
    /// What.
    pub event: FeedbackKind,
    /// What happened, in a word: `failed`, `abuse`, `one-click`, `added`.
    pub what: &'a str,
    /// Names what came in. Evidence of suppressions points to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<MessageId>,
    /// Of which message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<MessageId>,
    /// Its recipient.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub recipient: &'a str,
    /// Its envelope sender.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub sender: &'a str,
    /// Whose.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub tenant: &'a str,
    /// The class.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub class: &'a str,
    /// The campaign.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub campaign: &'a str,
    /// The list.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub list: &'a str,
    /// Our source that sent it.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub source: &'a str,
    /// The family of sites it went to.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub provider: &'a str,
    /// Who says so: the reporting host, the operator.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub by: &'a str,
    /// Why, in the words of [`crate::mail::Reason`].
    #[serde(skip_serializing_if = "str::is_empty")]
    pub reason: &'a str,
    /// `permanent` or `transient`.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub permanence: &'a str,
    /// The enhanced code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enhanced: Option<EnhancedCode>,
    /// The words it rests on.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub reply: &'a str,
    /// The message by which the sender is told of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report: Option<MessageId>,
    /// The `id` of what led to it.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub evidence: &'a str,
    /// Of a suppression: whose mail is kept away: `global`, `tenant` or `list`.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub scope: &'a str,
    /// More, by name: the sums of a report.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<&'a serde_json::Value>,
    /// Of how many, if not of one: an import.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Until when it holds; absent: for good.
    #[serde(serialize_with = "display_some", skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

impl<'a> Feedback<'a> {
    /// A line that says only what happened.
    pub fn new(time: Timestamp, event: FeedbackKind, what: &'a str) -> Feedback<'a> {
        Feedback {
            time,
            event,
            what,
            id: None,
            message_id: None,
            recipient: "",
            sender: "",
            tenant: "",
            class: "",
            campaign: "",
            list: "",
            source: "",
            provider: "",
            by: "",
            reason: "",
            permanence: "",
            enhanced: None,
            reply: "",
            report: None,
            evidence: "",
            scope: "",
            details: None,
            count: None,
            until: None,
        }
    }

    /// Appends it to `out` as one line.
    pub fn write_line(&self, out: &mut Vec<u8>) {
        serde_json::to_writer(&mut *out, self).expect("every field is plain text or a number");
        out.push(b'\n');
    }
}
