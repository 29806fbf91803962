//! What a client may ask of messages it has handed over: what became of them, and to take them back.

use std::sync::Arc;

use serde::Serialize;

use super::gate::Gate;
use super::rejection::Rejection;
use crate::access::Principal;
use crate::mail::{IdempotencyKey, MessageId};
use crate::queue::{Cancelled, MessageStatus, QueryError};

/// What is to be taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cancel {
    /// One message.
    Message(MessageId),
    /// All messages of the submission with this key. `tenant` is for clients that may name any.
    Key {
        /// Whose key; `None`: the principal's own tenant, or none.
        tenant: Option<Arc<str>>,
        /// The key.
        key: IdempotencyKey,
    },
    /// All waiting messages of a campaign.
    Campaign {
        /// Whose campaign; `None`: the principal's own tenant, or none.
        tenant: Option<Arc<str>>,
        /// Its name.
        campaign: Arc<str>,
    },
}

/// How a [`Gate::cancel`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CancelReceipt {
    /// Messages of which at least one recipient was taken back.
    pub messages: u64,
    /// Recipients that will not be mailed.
    pub recipients: u64,
    /// Recipients being mailed right now: they end as delivered or bounced, or else as cancelled.
    pub in_flight: u64,
}

impl Gate {
    /// What is known of a message: of each recipient where it stands and the last reply. Finished messages are found for
    /// as long as the event log keeps them.
    ///
    /// # Errors
    /// `NotFound` for messages that never were, are forgotten, or are another tenant's; `Trouble` when the disk cannot be
    /// read.
    pub async fn status(&self, principal: &Principal, id: MessageId) -> Result<MessageStatus, Rejection> {
        let found = self.queue().status(id).await.map_err(rejection)?;
        found.filter(|status| principal.may_see(&status.tenant)).ok_or_else(|| unknown(id))
    }

    /// Takes back what has not been sent. When this resolves, the ends are durable: no restart will send it after all.
    /// Recipients in flight have no end yet; what becomes of them is told by events, and after a crash they end as cancelled
    /// rather than being mailed again. Of a finished message that is nothing; so a client that missed the answer may ask again.
    ///
    /// # Errors
    /// `NotFound` for a message or key that is unknown or another tenant's; a campaign without waiting messages is no
    /// error. `Forbidden` when a client bound to one tenant names another.
    ///
    /// # Cancel safety
    /// What was begun goes on.
    pub async fn cancel(&self, principal: &Principal, what: Cancel) -> Result<CancelReceipt, Rejection> {
        let ids = match what {
            Cancel::Message(id) => match self.queue().tenant_of(id) {
                Some(tenant) if principal.may_see(&tenant) => vec![id],
                Some(_) => return Err(unknown(id)),
                None => {
                    self.status(principal, id).await?;
                    vec![id]
                }
            },
            Cancel::Key { tenant, key } => {
                let tenant = scope(principal, tenant)?;
                let receipt = self.ledger().receipt(&tenant, key.as_str());
                let receipt = receipt.map_err(|error| Rejection::trouble(error.to_string()))?;
                receipt.ok_or_else(|| Rejection::not_found("no submission with this idempotency key"))?.ids().collect()
            }
            Cancel::Campaign { tenant, campaign } => {
                let tenant = scope(principal, tenant)?;
                self.queue().messages_of(&tenant, &campaign)
            }
        };
        let Cancelled { messages, recipients, in_flight } = self.queue().cancel(ids).await.map_err(rejection)?;
        Ok(CancelReceipt { messages, recipients, in_flight })
    }
}

/// The tenant a request is about.
fn scope(principal: &Principal, named: Option<Arc<str>>) -> Result<Arc<str>, Rejection> {
    match (&principal.tenant, named) {
        (None, named) => Ok(named.unwrap_or_default()),
        (Some(own), Some(named)) if *own.name != *named => {
            Err(Rejection::forbidden("tenant", format!("you may act for {:?} only", own.name)))
        }
        (Some(own), _) => Ok(own.name.as_str().into()),
    }
}

fn unknown(id: MessageId) -> Rejection {
    Rejection::not_found(format!("no message {id}"))
}

fn rejection(error: QueryError) -> Rejection {
    match error {
        QueryError::Busy => Rejection::full(error.to_string()),
        QueryError::Spool(_) | QueryError::Events(_) | QueryError::Closing => Rejection::trouble(error.to_string()),
    }
}
