//! The daemon's door: may this client do that, has it been done before, is there room, and then the queue.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::door::{Door, Handover, NewMessage};
use super::rejection::Rejection;
use super::ways_back::WaysBack;
use arc_swap::ArcSwapOption;

use crate::access::{Access, AccessError, Charge};
use crate::ledger::{Begun, Ledger, Ticket, Waiter};
use crate::mail::{MessageId, Receipt, Reply};
use crate::queue::Queue;
use crate::spool::Message;

/// What all listeners hand to.
#[derive(Debug)]
pub struct Gate {
    queue: Arc<Queue>,
    access: Arc<Access>,
    ledger: Arc<Ledger>,
    ways_back: ArcSwapOption<WaysBack>,
}

impl Gate {
    /// A door to `queue` for those whom `access` lets in, with the memory of `ledger`.
    pub fn new(queue: Arc<Queue>, access: Arc<Access>, ledger: Arc<Ledger>) -> Gate {
        Gate { queue, access, ledger, ways_back: ArcSwapOption::empty() }
    }

    /// From now on messages lead back by these.
    pub fn set_ways_back(&self, ways_back: WaysBack) {
        self.ways_back.store(Some(Arc::new(ways_back)));
    }

    /// The queue behind.
    pub fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// Who may submit.
    pub fn access(&self) -> &Arc<Access> {
        &self.access
    }

    /// What was submitted before.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// Checks what the client may, then hands to the queue unless the submission is known.
    fn take(&self, mut handover: Handover) -> Taken<impl Future<Output = Result<(), Reply>> + Send + use<>> {
        for message in &mut handover.messages {
            let NewMessage { envelope, content, .. } = message;
            if let Err(error) = self.access.authorise(&handover.principal, envelope, content) {
                return Taken::Refused(rejection(error));
            }
        }
        let first = &handover.messages[0];
        let key = first.envelope.key.as_deref().map(|keyed| (&first.envelope.stream.tenant, keyed));
        let ticket = match key.map(|(tenant, keyed)| self.ledger.begin(tenant, keyed)) {
            None => None,
            Some(Begun::New(ticket)) => Some(ticket),
            Some(Begun::Known(receipt)) => return Taken::Known(receipt),
            Some(Begun::UnderWay(other)) => return Taken::UnderWay(other),
            Some(Begun::Contradicts) => return Taken::Refused(Rejection::key_reused()),
            Some(Begun::Unreadable(error)) => return Taken::Refused(Rejection::trouble(error)),
            Some(Begun::Crowded) => {
                let why = "idempotency keys cannot be written at present, try again later";
                return Taken::Refused(Rejection::trouble(why));
            }
        };
        // Before it is charged. The ticket, dropped, leaves the key as it was.
        if let Some(overdue) = handover.overdue {
            return Taken::Refused(*overdue);
        }
        let recipients = handover.messages.iter().map(|message| message.envelope.recipients.len()).sum();
        let charge = match self.access.charge(&first.envelope.stream.tenant, recipients) {
            Ok(charge) => charge,
            Err(error) => return Taken::Refused(rejection(error)),
        };
        let receipt = Receipt {
            id: first.id,
            messages: handover.messages.len() as u32,
            accepted_at: first.envelope.accepted_at,
            replayed: false,
        };
        let messages = handover.messages.into_iter();
        let messages = messages.map(|m| Arc::new(Message::new(m.id, m.envelope, m.content))).collect();
        // From here on the spool tells the ledger what became of the key.
        ticket.into_iter().for_each(Ticket::hand_over);
        Taken::Accepting { receipt, charge, accepting: self.queue.accept(messages) }
    }
}

/// How far a submission got at once.
enum Taken<Accepting> {
    Refused(Rejection),
    Known(Receipt),
    UnderWay(Waiter),
    Accepting { receipt: Receipt, charge: Charge, accepting: Accepting },
}

impl Door for Gate {
    fn ways_back(&self) -> Option<Arc<WaysBack>> {
        self.ways_back.load_full()
    }

    fn next_ids(&self, count: u32) -> MessageId {
        self.queue.next_ids(count)
    }

    fn ready(&self) -> Result<(), Rejection> {
        self.queue.ready().map_err(Rejection::from_queue)
    }

    fn accept(&self, handover: Handover) -> impl Future<Output = Result<Receipt, Rejection>> + Send + 'static {
        let taken = self.take(handover);
        async move {
            match taken {
                Taken::Refused(rejection) => Err(rejection),
                Taken::Known(receipt) => Ok(receipt),
                // The other one's fate is ours: the same receipt, or it failed and the client is to try again.
                Taken::UnderWay(other) => other.await.ok_or_else(|| {
                    Rejection::trouble("the same submission, under way on another connection, failed; try again later")
                }),
                Taken::Accepting { receipt, charge, accepting } => {
                    let result = accepting.await;
                    // Only a clear no gives the charge back. Whoever drops this future stops nothing: the queue goes on.
                    match result {
                        Ok(()) => Ok(receipt),
                        Err(reply) => {
                            charge.refund();
                            Err(Rejection::from_queue(reply))
                        }
                    }
                }
            }
        }
    }

    fn expire_after(&self) -> Duration {
        self.queue.expire_after()
    }
}

/// What a client hears that may not.
pub(super) fn rejection(error: AccessError) -> Rejection {
    match error {
        AccessError::Forbidden { field, why } => Rejection::forbidden(field, why),
        AccessError::Unauthenticated => Rejection::unauthenticated("authentication failed"),
        AccessError::Quota { why, retry_after } => Rejection::quota(why, retry_after),
    }
}
