//! Nothing goes to whom the suppression list names: asked when a message is accepted, so that it does not wait for nothing,
//! and again right before it is sent, because much may come back in between. Such a recipient ends as `suppressed`.
//!
//! Our own reports are not asked after: they answer somebody who sent through us, and are never answered themselves.
//!
//! In the other direction, a receiver that says for good that there is no such mailbox is evidence for the list.

use std::sync::Arc;

use super::Queue;
use super::scheduler::{Item, Recipients};
use super::settlement::Settlement;
use crate::clock::Timestamp;
use crate::feedback::suppressed_line;
use crate::ledger::LedgerError;
use crate::mail::{Blame, Class, EnhancedCode, Envelope, Failure};
use crate::spool::Message;
use crate::suppression::{Entry, Evidence, Reason};

impl Queue {
    /// The recipients that a new message must not go to. If the list cannot be asked, nobody: it is asked again.
    pub(super) fn refused_at_the_door(&self, message: &Message) -> Recipients {
        let (envelope, now) = (&message.envelope, self.clock.timestamp());
        let places = 0..envelope.recipients.len() as u32;
        places.filter(|place| matches!(self.entry_against(envelope, *place, now), Ok(Some(_)))).collect()
    }

    /// The entry that keeps the message from one of its recipients.
    fn entry_against(
        &self,
        envelope: &Envelope,
        place: u32,
        now: Timestamp,
    ) -> Result<Option<Arc<Entry>>, LedgerError> {
        if envelope.stream.class == Class::System {
            return Ok(None);
        }
        let address = &envelope.recipients[place as usize].address;
        self.suppressions.check(&envelope.stream, envelope.list.as_deref(), address, now)
    }

    /// What may be sent of items in flight, all of one message; recipients that must not be mailed come to their end here.
    ///
    /// # Errors
    /// The list cannot be asked: nothing may be sent, nothing was changed.
    pub(super) fn refuse(
        self: &Arc<Queue>,
        message: &Arc<Message>,
        mut items: Vec<Item>,
    ) -> Result<Vec<Item>, (Vec<Item>, Failure)> {
        let now = self.clock.timestamp();
        let mut refused: Vec<(u32, u16, Arc<Entry>)> = Vec::new();
        for item in &items {
            for place in item.recipients.iter() {
                match self.entry_against(&message.envelope, *place, now) {
                    Ok(None) => {}
                    Ok(Some(entry)) => refused.push((*place, item.attempts, entry)),
                    Err(error) => {
                        tracing::error!(message_id = %message.id, %error, "the suppression list cannot be asked; mail waits");
                        let why = format!("the suppression list cannot be asked: {error}");
                        return Err((items, Failure::ours(Blame::Message, EnhancedCode(4, 3, 0), why)));
                    }
                }
            }
        }
        if refused.is_empty() {
            return Ok(items);
        }
        let mut settlement = Settlement::new(message, now);
        for (place, attempts, entry) in &refused {
            settlement.suppressed(self, *place, u32::from(*attempts), entry);
        }
        {
            let mut scheduler = self.lock();
            items.retain_mut(|item| {
                let mut gone = item.with_none(item.attempts, item.spoilt);
                gone.recipients = item.recipients.iter().copied().filter(|place| is_among(&refused, *place)).collect();
                scheduler.landed(std::slice::from_ref(&gone));
                item.recipients.retain(|place| !is_among(&refused, place));
                if item.recipients.is_empty() {
                    scheduler.drop_item(item);
                }
                !item.recipients.is_empty()
            });
        }
        self.write(&self.parts.load_full(), settlement, None);
        Ok(items)
    }

    /// Items of a message that was found suppressed when it was accepted. What is not, any more, goes its usual way.
    pub(super) fn settle_refused(self: &Arc<Queue>, message: &Arc<Message>, item: Item) {
        let now = self.now();
        let left = match self.refuse(message, vec![item]) {
            Ok(left) | Err((left, _)) => left,
        };
        self.with_actions(|scheduler, _, actions| {
            scheduler.landed(&left);
            left.into_iter().for_each(|item| scheduler.sleep(now, item, actions));
        });
    }

    /// These recipients of a message failed for good because there are no such mailboxes.
    pub(super) fn tell_of_unknown(self: &Arc<Queue>, message: &Arc<Message>, places: Vec<u32>) {
        let (queue, message) = (Arc::clone(self), Arc::clone(message));
        self.spawn(async move {
            let (envelope, at) = (&message.envelope, queue.clock.timestamp());
            for place in places {
                let evidence = Evidence {
                    cause: Reason::HardBounce,
                    address: &envelope.recipients[place as usize].address,
                    stream: &envelope.stream,
                    list: envelope.list.as_deref(),
                    evidence: message.id.to_string(),
                    source: "smtp",
                    at,
                };
                let line = |entry: &_| suppressed_line(entry, message.id, &envelope.stream.tenant);
                if let Err(error) = queue.suppressions.learn(evidence, line).await {
                    tracing::error!(message_id = %message.id, %error, "a failed address was not noted; it may be mailed again");
                }
            }
        });
    }
}

impl Queue {
    /// A recipient of a message was delivered to: what was counted against the address is forgotten. Nearly always there is
    /// nothing.
    pub(super) fn tell_of_delivered(self: &Arc<Queue>, message: &Arc<Message>, place: u32) {
        if !self.suppressions.has_failures(&message.envelope.recipients[place as usize].address) {
            return;
        }
        let (queue, message) = (Arc::clone(self), Arc::clone(message));
        self.spawn(async move {
            let address = &message.envelope.recipients[place as usize].address;
            if let Err(error) = queue.suppressions.accepted(address).await {
                tracing::warn!(message_id = %message.id, %error, "the failures of an address that takes mail are still counted");
            }
        });
    }
}

fn is_among(refused: &[(u32, u16, Arc<Entry>)], place: u32) -> bool {
    refused.iter().any(|(other, ..)| *other == place)
}
