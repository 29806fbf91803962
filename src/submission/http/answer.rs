//! What clients get.

use serde::Serialize;
use utoipa::ToSchema;

use super::problem::Problem;
use crate::mail::Receipt;
use crate::queue::MessageStatus;
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
}

impl From<MessageStatus> for MessageReport {
    fn from(status: MessageStatus) -> MessageReport {
        let recipients = status.recipients.into_iter().map(|recipient| RecipientReport {
            address: recipient.address,
            state: recipient.state,
            attempts: recipient.attempts,
            next_attempt: recipient.next_attempt,
            reply: recipient.reply,
        });
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
