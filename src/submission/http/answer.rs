//! What clients get.

use serde::Serialize;
use utoipa::ToSchema;

use super::problem::Problem;
use crate::events::Told;
use crate::mail::Receipt;
use crate::queue::{MessageStatus, RecipientStatus, RecipientView};
use crate::submission::steer::CancelReceipt;

/// A submission that is on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(example = json!({
    "id": "1D1JZ3G000001", "ids": ["1D1JZ3G000001"], "accepted_at": "2026-11-22T12:00:00.000Z", "replayed": false,
}))]
pub(super) struct SubmissionReceipt {
    /// The message; of several, the first.
    #[schema(pattern = "^[0-9A-HJKMNP-TV-Z]{13}$")]
    pub(super) id: String,
    /// All messages: one, or one for each recipient of a personal submission.
    #[schema(min_items = 1)]
    ids: Vec<String>,
    /// When it was accepted.
    #[schema(format = DateTime)]
    accepted_at: String,
    /// This submission had been accepted before, and nothing was done now.
    pub(super) replayed: bool,
}

impl From<Receipt> for SubmissionReceipt {
    fn from(receipt: Receipt) -> SubmissionReceipt {
        SubmissionReceipt {
            id: receipt.id.to_string(),
            ids: receipt.ids().map(|id| id.to_string()).collect(),
            accepted_at: receipt.accepted_at.to_string(),
            replayed: receipt.replayed,
        }
    }
}

/// What became of one line of a batch: a receipt or a problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct BatchLine {
    /// The line of the request, from 1; empty lines count.
    #[schema(minimum = 1)]
    pub(super) line: u64,
    /// As a request of its own would have been answered.
    #[schema(minimum = 200, maximum = 599)]
    pub(super) status: u16,
    /// It is on disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) receipt: Option<SubmissionReceipt>,
    /// It is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) problem: Option<Problem>,
}

/// What is known of a message.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct MessageReport {
    /// Its id.
    #[schema(pattern = "^[0-9A-HJKMNP-TV-Z]{13}$")]
    id: String,
    /// A recipient is not at its end.
    waiting: bool,
    /// The envelope sender; empty: the null path.
    sender: String,
    /// The tenant; empty: not said.
    tenant: String,
    /// The class: `transactional`, `bulk` or `system`.
    class: &'static str,
    /// The campaign; empty: not said.
    campaign: String,
    /// When it was accepted.
    #[schema(format = DateTime)]
    accepted_at: String,
    /// When it is given up; absent: it is finished.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime, nullable = false)]
    expires_at: Option<String>,
    /// Its recipients.
    recipients: Vec<RecipientReport>,
}

/// Where a recipient stands.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct RecipientReport {
    /// The address.
    address: String,
    /// `waiting`, or its end: `delivered`, `bounced`, `expired`, `suppressed`, `cancelled`.
    state: String,
    /// Attempts so far.
    attempts: u32,
    /// When the next attempt is due; absent: now, or never.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    next_attempt: Option<String>,
    /// The last reply of the receiver.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reply: Option<String>,
    /// The last events, the newest last: at most ten, of the last thousand of the message. Absent: the event log cannot be
    /// read at present.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, max_items = 10)]
    events: Option<Vec<EventReport>>,
}

/// What happened to a recipient. What does not apply is absent.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(example = json!({
    "time": "2026-11-22T12:00:01.250Z", "event": "delivered", "attempt": 1, "code": 250, "enhanced": "2.0.0",
    "reply": "queued as 4711", "mx_host": "mx1.example.com", "source": "a",
}))]
pub(super) struct EventReport {
    /// When.
    #[schema(format = DateTime)]
    time: String,
    /// `deferred`, an end (`delivered`, `bounced`, `expired`, `suppressed`, `cancelled`), or what came back later:
    /// `returned`, `complained`, `unsubscribed`, `replied`, `suppression`.
    event: String,
    /// Number of the attempt, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    attempt: Option<u32>,
    /// When it is due again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime, nullable = false)]
    next_attempt: Option<String>,
    /// The reply's code.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    code: Option<u16>,
    /// Its enhanced code.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    enhanced: Option<String>,
    /// Its text.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reply: Option<String>,
    /// The host spoken to.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    mx_host: Option<String>,
    /// Our source, by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    source: Option<String>,
    /// Of what came back: what happened, in a word, such as `abuse`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    what: Option<String>,
    /// Of what came back: who says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    by: Option<String>,
    /// Of what came back: why.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reason: Option<String>,
}

impl From<Told> for EventReport {
    fn from(told: Told) -> EventReport {
        let said = |text: String| (!text.is_empty()).then_some(text);
        EventReport {
            time: told.time,
            event: told.event,
            attempt: (told.attempt > 0).then_some(told.attempt),
            next_attempt: said(told.next_attempt),
            code: (told.code > 0).then_some(told.code),
            enhanced: said(told.enhanced),
            reply: said(told.reply),
            mx_host: said(told.mx_host),
            source: said(told.source),
            what: said(told.what),
            by: said(told.by),
            reason: said(told.reason),
        }
    }
}

impl RecipientReport {
    fn new(status: RecipientStatus, events_known: bool) -> RecipientReport {
        let RecipientStatus { view, events } = status;
        let RecipientView { address, state, attempts, next_attempt, reply } = view;
        let events = events_known.then(|| events.into_iter().map(EventReport::from).collect());
        RecipientReport { address, state, attempts, next_attempt, reply, events }
    }
}

impl From<MessageStatus> for MessageReport {
    fn from(status: MessageStatus) -> MessageReport {
        let recipients = status.recipients.into_iter().map(|one| RecipientReport::new(one, status.events_known));
        MessageReport {
            id: status.message_id.to_string(),
            waiting: status.waiting,
            sender: status.sender,
            tenant: status.tenant.to_string(),
            class: status.class.as_str(),
            campaign: status.campaign,
            accepted_at: status.accepted_at,
            expires_at: status.expires_at,
            recipients: recipients.collect(),
        }
    }
}

/// What was taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(example = json!({"messages": 1, "recipients": 2, "in_flight": 0}))]
pub(super) struct Cancellation {
    /// Messages of which at least one recipient was taken back.
    messages: u64,
    /// Recipients that will not be mailed.
    recipients: u64,
    /// Recipients being mailed right now: they end as delivered or bounced, or else as cancelled.
    in_flight: u64,
}

impl From<CancelReceipt> for Cancellation {
    fn from(receipt: CancelReceipt) -> Cancellation {
        let CancelReceipt { messages, recipients, in_flight } = receipt;
        Cancellation { messages, recipients, in_flight }
    }
}
