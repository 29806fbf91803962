//! What senders may know of a message: where each recipient stands, also after its end.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::Queue;
use super::view::{MessageView, RecipientView};
use crate::events::{ArchiveError, Told};
use crate::mail::{Class, MessageId};
use crate::spool::SpoolError;

/// Messages looked at in one go: some tens of microseconds.
pub(super) const SLICE: usize = 4096;

/// How long the event log may take to write the end of a message. It is a matter of milliseconds if its disk is well.
pub(super) const TOLD_WITHIN: Duration = Duration::from_secs(10);
/// Messages older than this do not end any more, or hardly ever.
const LIVED_AT_MOST: Duration = Duration::from_secs(7 * 86_400);

/// Events of a recipient that are told, at most.
const EVENTS_MAX: usize = 10;
/// They are among so many last ones of the whole message: that bounds what is read, and what is answered.
const EVENTS_LOOKED_AT: usize = 1000;

/// A question about a message could not be answered.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QueryError {
    /// The spool cannot be read or written.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The event log cannot be read.
    #[error("the event log: {0}")]
    Events(String),
    /// Too many ask after messages that are finished.
    #[error("too many look for finished messages at once; ask again later")]
    Busy,
    /// The daemon is shutting down.
    #[error("shutting down")]
    Closing,
}

impl From<ArchiveError> for QueryError {
    fn from(error: ArchiveError) -> QueryError {
        match error {
            ArchiveError::Busy => QueryError::Busy,
            ArchiveError::Read(error) => QueryError::Events(error.to_string()),
        }
    }
}

/// What is known of a message.
#[derive(Debug, Clone)]
pub struct MessageStatus {
    /// Its name.
    pub message_id: MessageId,
    /// A recipient is not at its end.
    pub waiting: bool,
    /// The envelope sender; empty: null.
    pub sender: String,
    /// The tenant, if said.
    pub tenant: Arc<str>,
    /// The class.
    pub class: Class,
    /// The campaign, if said.
    pub campaign: String,
    /// RFC 3339.
    pub accepted_at: String,
    /// When it is given up, RFC 3339; `None`: finished.
    pub expires_at: Option<String>,
    /// Its recipients, in the order of the envelope; of a finished message in the order of their ends.
    pub recipients: Vec<RecipientStatus>,
    /// The event log could be read. Of a finished message it always can: there is nothing else to know it from.
    pub events_known: bool,
}

/// What is known of a recipient.
#[derive(Debug, Clone)]
pub struct RecipientStatus {
    /// Where it stands.
    pub view: RecipientView,
    /// Its last events, at most ten of the last thousand of the message, oldest first. They may lag a little behind.
    pub events: Vec<Told>,
}

impl Queue {
    /// Where a message stands, from the spool or, when it is finished, from the event log; `None`: not known, or not any
    /// more.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub async fn status(self: &Arc<Queue>, id: MessageId) -> Result<Option<MessageStatus>, QueryError> {
        match self.view(id).await {
            Ok(view) => {
                let archive = self.parts.load().archive.clone();
                // Where it stands is known without.
                let lines = archive.last(id, EVENTS_LOOKED_AT).await;
                let lines =
                    lines.inspect_err(|error| tracing::debug!(message_id = %id, %error, "events not found")).ok();
                Ok(Some(waiting(view, lines)))
            }
            Err(SpoolError::Unknown(_)) => {
                let told = tokio::time::timeout(TOLD_WITHIN, self.until_told(id)).await.is_ok();
                let archive = self.parts.load().archive.clone();
                let lines = archive.find(id).await?;
                let status = from_events(id, lines);
                if !told && self.may_have_ended_now(id) && status.as_ref().is_none_or(|status| status.waiting) {
                    return Err(QueryError::Events(
                        "it is behind with what became of messages; ask again later".into(),
                    ));
                }
                Ok(status)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Until the last event of a message that is not waiting any more is in the event log.
    pub(super) async fn until_told(&self, id: MessageId) {
        self.spool.until_told(id).await;
        if let Some(events) = self.events.get() {
            events.caught_up().await;
        }
    }

    /// Whether the last event of a message that is not waiting may still be on its way to an event log that is behind: its
    /// time is one in which messages may have been accepted that end now.
    fn may_have_ended_now(&self, id: MessageId) -> bool {
        let now = self.clock.timestamp();
        id.time() <= now && now.since(id.time()) < LIVED_AT_MOST
    }

    /// The tenant of a message that is not finished.
    pub fn tenant_of(&self, id: MessageId) -> Option<Arc<str>> {
        self.lock().about(id).map(|(stream, _)| stream.tenant)
    }

    /// The waiting messages of a campaign, oldest first. Walks all that wait, if any of them is of the campaign, and lets
    /// others do their work in between; what is accepted meanwhile may be among them or not.
    pub fn messages_of(&self, tenant: &str, campaign: &str) -> Vec<MessageId> {
        let (tenant, campaign) = (Arc::from(tenant), Arc::from(campaign));
        let (mut ids, mut from, mut more) = (Vec::new(), 0, true);
        while more {
            let (found, behind) = self.lock().messages_of((&tenant, &campaign), (from, from + SLICE));
            ids.extend(found);
            (from, more) = (from + SLICE, behind);
        }
        ids.sort_unstable();
        ids
    }

    /// Recipients of a tenant that are not at their end.
    pub fn waiting_of(&self, tenant: &str) -> u64 {
        self.lock().waiting_of(tenant)
    }
}

/// What is known of a message that is not finished; without `lines` nothing of its events.
fn waiting(view: MessageView, lines: Option<Vec<Told>>) -> MessageStatus {
    let events_known = lines.is_some();
    let mut events = events_of(&view.tenant, lines.unwrap_or_default());
    let recipients = view.recipients.into_iter().map(|view| {
        let events = events.remove(&view.address).unwrap_or_default().into();
        RecipientStatus { view, events }
    });
    MessageStatus {
        message_id: view.listed.message_id,
        waiting: true,
        sender: view.listed.sender,
        recipients: recipients.collect(),
        tenant: view.tenant.into(),
        class: view.listed.class,
        campaign: view.campaign,
        accepted_at: view.listed.accepted_at,
        expires_at: Some(view.expires_at),
        events_known,
    }
}

/// The last events of each recipient. What is not the tenant's own, an operator's suppression say, is not for its eyes.
fn events_of(tenant: &str, mut lines: Vec<Told>) -> HashMap<String, VecDeque<Told>> {
    let mut events: HashMap<String, VecDeque<Told>> = HashMap::new();
    let last = lines.split_off(lines.len().saturating_sub(EVENTS_LOOKED_AT));
    for line in last.into_iter().filter(|line| line.tenant == tenant) {
        let those = events.entry(line.recipient.clone()).or_default();
        if those.len() == EVENTS_MAX {
            those.pop_front();
        }
        those.push_back(line);
    }
    events
}

/// The last word on each recipient. What came back later changes nothing of how it ended.
fn from_events(id: MessageId, lines: Vec<Told>) -> Option<MessageStatus> {
    let states = lines.iter().filter(|line| line.kind().is_some());
    let last = states.clone().next_back()?.clone();
    let mut recipients: BTreeMap<&str, (usize, RecipientView)> = BTreeMap::new();
    for (place, line) in states.enumerate() {
        let view = RecipientView {
            address: line.recipient.clone(),
            state: if line.event == "deferred" { "waiting".into() } else { line.event.clone() },
            attempts: line.attempt,
            next_attempt: None,
            reply: Some(format!("{} {} {}", line.code, line.enhanced, line.reply.replace('\n', " "))),
        };
        recipients.insert(&line.recipient, (place, view));
    }
    let mut recipients: Vec<(usize, RecipientView)> = recipients.into_values().collect();
    recipients.sort_by_key(|(place, _)| *place);
    let mut events = events_of(&last.tenant, lines);
    let recipients = recipients.into_iter().map(|(_, view)| {
        let events = events.remove(&view.address).unwrap_or_default().into();
        RecipientStatus { view, events }
    });
    let recipients: Vec<RecipientStatus> = recipients.collect();
    Some(MessageStatus {
        message_id: id,
        waiting: recipients.iter().any(|recipient| recipient.view.state == "waiting"),
        sender: last.sender,
        tenant: last.tenant.into(),
        class: Class::parse(&last.class).unwrap_or_default(),
        campaign: last.campaign,
        accepted_at: last.accepted_at,
        expires_at: None,
        recipients,
        events_known: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_back_later_is_no_state() {
        let told = |event: &str, recipient: &str| Told {
            event: event.into(),
            recipient: recipient.into(),
            class: "bulk".into(),
            ..Told::default()
        };
        let lines = vec![
            told("deferred", "a@x.test"),
            told("delivered", "b@x.test"),
            told("delivered", "a@x.test"),
            told("complained", "a@x.test"),
            told("unsubscribed", "c@x.test"),
        ];
        let status = from_events(MessageId(7), lines).unwrap();
        let states = status.recipients.iter().map(|one| (one.view.address.as_str(), one.view.state.as_str()));
        assert_eq!(states.collect::<Vec<_>>(), [("b@x.test", "delivered"), ("a@x.test", "delivered")]);
        let events = status.recipients.iter().map(|one| one.events.iter().map(|event| event.event.as_str()).collect());
        assert_eq!(events.collect::<Vec<Vec<_>>>(), [vec!["delivered"], vec!["deferred", "delivered", "complained"]]);
        assert!(from_events(MessageId(7), vec![told("complained", "a@x.test")]).is_none());
    }

    #[test]
    fn of_many_events_the_last_are_told_and_only_the_tenants_own() {
        let told = |number: usize, tenant: &str| Told {
            event: "deferred".into(),
            recipient: format!("{}@x.test", number % 2),
            tenant: tenant.into(),
            attempt: number as u32,
            ..Told::default()
        };
        let mut lines: Vec<Told> = (0..3000).map(|number| told(number, "shop")).collect();
        lines.push(told(3000, "other"));
        let events = events_of("shop", lines);
        let attempts = |recipient: &str| events[recipient].iter().map(|told| told.attempt).collect::<Vec<_>>();
        assert_eq!(attempts("0@x.test"), (2980..=2998).step_by(2).collect::<Vec<_>>());
        assert_eq!(attempts("1@x.test").len(), EVENTS_MAX);
        let rare = events_of("shop", [vec![told(1, "shop")], vec![told(0, "shop"); EVENTS_LOOKED_AT]].concat());
        assert!(!rare.contains_key("1@x.test"), "too long ago");
    }
}
