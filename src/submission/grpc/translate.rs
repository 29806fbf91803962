//! Between the messages of `proto/` and our own words. What cannot be translated is a violation like any other.

use super::v1;
use crate::clock::Timestamp;
use crate::events::Told;
use crate::mail::{Class, IdempotencyKey, MessageId, Notify, Receipt, Ret};
use crate::queue::{MessageStatus, RecipientStatus};
use crate::submission::rejection::{Rejection, Violation};
use crate::submission::request::{Attachment, Mailbox, Parts, Request, RequestContent, When};
use crate::submission::steer::Cancel;

/// What a client asks; beside it, what is wrong with the fields that have no text to be checked later.
pub(super) fn request(asked: v1::SubmitRequest) -> (Request, Vec<Violation>) {
    let mut violations = Vec::new();
    let content = match asked.content {
        Some(v1::submit_request::Content::Raw(raw)) => RequestContent::Raw(raw),
        Some(v1::submit_request::Content::Parts(built)) => RequestContent::Parts(Box::new(parts(built))),
        None => {
            violations.push(violation("content", "one of raw and parts must be set"));
            RequestContent::default()
        }
    };
    let ret = match v1::Ret::try_from(asked.ret) {
        Ok(v1::Ret::Unspecified) => None,
        Ok(v1::Ret::Full) => Some(Ret::Full),
        Ok(v1::Ret::Headers) => Some(Ret::Hdrs),
        Err(_) => {
            violations.push(violation("ret", "must be FULL or HEADERS"));
            None
        }
    };
    let notify = |v1::Notify { success, failure, delay }| Notify { success, failure, delay };
    let request = Request {
        tenant: said(asked.tenant),
        campaign: said(asked.campaign),
        list: said(asked.list),
        class: class_text(asked.class),
        tags: asked.tags,
        not_before: asked.not_before.map(when),
        expires_at: asked.expires_at.map(when),
        idempotency_key: said(asked.idempotency_key),
        sender: asked.sender,
        recipients: asked.recipients,
        personal: asked.personal,
        notify: asked.notify.map(notify),
        ret,
        envid: said(asked.envid),
        content,
    };
    (request, violations)
}

fn parts(built: v1::Parts) -> Parts {
    let mailbox = |one: v1::Mailbox| Mailbox { name: said(one.name), address: one.address };
    let mailboxes = |all: Vec<v1::Mailbox>| all.into_iter().map(mailbox).collect();
    let attachment = |file: v1::Attachment| Attachment {
        file_name: said(file.file_name),
        content_type: said(file.content_type),
        content: file.content,
        content_id: said(file.content_id),
        inline: file.inline,
    };
    Parts {
        from: built.from.map(mailbox),
        reply_to: mailboxes(built.reply_to),
        to: mailboxes(built.to),
        cc: mailboxes(built.cc),
        bcc: mailboxes(built.bcc),
        subject: said(built.subject),
        text: said(built.text),
        html: said(built.html),
        headers: built.headers.into_iter().map(|header| (header.name, header.value)).collect(),
        attachments: built.attachments.into_iter().map(attachment).collect(),
    }
}

/// proto3 does not tell an empty text from none.
fn said(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn violation(field: &'static str, why: &'static str) -> Violation {
    Violation { field: field.into(), why: why.into() }
}

/// The class by name; a number we do not know stays one, and is refused as a class.
fn class_text(number: i32) -> Option<String> {
    match v1::Class::try_from(number) {
        Ok(v1::Class::Unspecified) => None,
        Ok(v1::Class::Transactional) => Some(Class::Transactional.as_str().into()),
        Ok(v1::Class::Bulk) => Some(Class::Bulk.as_str().into()),
        Ok(v1::Class::System) => Some(Class::System.as_str().into()),
        Err(_) => Some(number.to_string()),
    }
}

/// A time; one that is none stays a text, and is refused as a time.
fn when(time: prost_types::Timestamp) -> When {
    let milliseconds = || {
        let nanos = u64::try_from(time.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
        u64::try_from(time.seconds).ok()?.checked_mul(1000)?.checked_add(nanos / 1_000_000)
    };
    match milliseconds() {
        Some(milliseconds) => When::At(Timestamp(milliseconds)),
        None => When::Text(format!("{} seconds and {} nanoseconds since 1970", time.seconds, time.nanos)),
    }
}

/// A time as RFC 3339; one that is none as another text, which is refused as a time.
pub(super) fn time_text(time: prost_types::Timestamp) -> String {
    match when(time) {
        When::At(time) => time.to_string(),
        When::Text(text) => text,
    }
}

/// The number of a class.
pub(super) fn class(class: Class) -> v1::Class {
    match class {
        Class::Transactional => v1::Class::Transactional,
        Class::Bulk => v1::Class::Bulk,
        Class::System => v1::Class::System,
    }
}

/// A time as protobuf has it.
pub(super) fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: (time.0 / 1000) as i64, nanos: (time.0 % 1000) as i32 * 1_000_000 }
}

/// The same from RFC 3339, as events and views have it.
pub(super) fn timestamp_of(text: &str) -> Option<prost_types::Timestamp> {
    Timestamp::parse_rfc3339(text).map(timestamp)
}

/// A receipt. The ids are spelt out only where there are several.
pub(super) fn receipt(receipt: Receipt) -> v1::Receipt {
    let message_ids = if receipt.messages > 1 { receipt.ids().map(|id| id.to_string()).collect() } else { Vec::new() };
    v1::Receipt {
        message_id: receipt.id.to_string(),
        message_ids,
        accepted_at: Some(timestamp(receipt.accepted_at)),
        replayed: receipt.replayed,
    }
}

/// What is known of a message.
pub(super) fn message(found: MessageStatus) -> v1::Message {
    v1::Message {
        message_id: found.message_id.to_string(),
        tenant: found.tenant.to_string(),
        campaign: found.campaign,
        class: class(found.class).into(),
        sender: found.sender,
        accepted_at: timestamp_of(&found.accepted_at),
        expires_at: found.expires_at.as_deref().and_then(timestamp_of),
        waiting: found.waiting,
        recipients: found.recipients.into_iter().map(recipient).collect(),
        events_unknown: !found.events_known,
    }
}

fn recipient(status: RecipientStatus) -> v1::RecipientStatus {
    use v1::recipient_status::State;
    let RecipientStatus { view, events } = status;
    let state = match view.state.as_str() {
        "waiting" => State::Waiting,
        "delivered" => State::Delivered,
        "bounced" => State::Bounced,
        "expired" => State::Expired,
        "suppressed" => State::Suppressed,
        "cancelled" => State::Cancelled,
        _ => State::Unspecified,
    };
    v1::RecipientStatus {
        address: view.address,
        state: state.into(),
        attempts: view.attempts,
        next_attempt: view.next_attempt.as_deref().and_then(timestamp_of),
        reply: view.reply.unwrap_or_default(),
        events: events.into_iter().map(recipient_event).collect(),
    }
}

fn recipient_event(told: Told) -> v1::RecipientEvent {
    v1::RecipientEvent {
        time: timestamp_of(&told.time),
        event: told.event,
        attempt: told.attempt,
        next_attempt: timestamp_of(&told.next_attempt),
        code: told.code.into(),
        enhanced_code: told.enhanced,
        reply: told.reply,
        mx_host: told.mx_host,
        source: told.source,
        what: told.what,
        by: told.by,
        reason: told.reason,
    }
}

/// A message's id.
pub(super) fn message_id(text: &str) -> Result<MessageId, Rejection> {
    text.parse().map_err(|error: crate::mail::MessageIdError| Rejection::invalid("message_id", error.to_string()))
}

/// What is to be taken back.
pub(super) fn cancel(asked: v1::CancelRequest) -> Result<Cancel, Rejection> {
    use v1::cancel_request::What;
    let tenant = said(asked.tenant).map(Into::into);
    match asked.what {
        Some(What::MessageId(_)) if tenant.is_some() => {
            Err(Rejection::invalid("tenant", "goes with idempotency_key or campaign only; an id says it all"))
        }
        Some(What::MessageId(id)) => Ok(Cancel::Message(message_id(&id)?)),
        Some(What::IdempotencyKey(key)) => {
            let bad =
                |error: crate::mail::IdempotencyKeyError| Rejection::invalid("idempotency_key", error.to_string());
            Ok(Cancel::Key { tenant, key: key.parse::<IdempotencyKey>().map_err(bad)? })
        }
        Some(What::Campaign(campaign)) if campaign.is_empty() => {
            Err(Rejection::invalid("campaign", "must not be empty"))
        }
        Some(What::Campaign(campaign)) => Ok(Cancel::Campaign { tenant, campaign: campaign.into() }),
        None => Err(Rejection::invalid("what", "one of message_id, idempotency_key and campaign must be set")),
    }
}
