//! What stands behind the listeners: whoever takes responsibility for a message.

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;

use super::rejection::Rejection;
use super::ways_back::WaysBack;
use crate::access::Principal;
use crate::mail::{Envelope, EnvelopeAddress, MessageId, Receipt, Reply};

/// The one door every listener hands its messages to. The daemon's is the [`Gate`](super::Gate) with the queue behind it;
/// tests record.
pub trait Door: Send + Sync + 'static {
    /// What the SMTP listeners in front of it are for.
    const SERVICE: Service = Service::Submission;

    /// Asked for each recipient of an SMTP transaction.
    ///
    /// # Errors
    /// No mail is taken for this address: the reply for the client, who did wrong to ask.
    fn receives(&self, _address: &EnvelopeAddress) -> Result<(), Reply> {
        Ok(())
    }

    /// What is added to messages so that their recipients can leave; `None`: nothing.
    fn ways_back(&self) -> Option<Arc<WaysBack>> {
        None
    }

    /// The first of `count` ids that follow one another, for messages about to be handed over; a message's id stands in
    /// its Received field. Never given out twice.
    fn next_ids(&self, count: u32) -> MessageId;

    /// Asked when a transaction opens.
    ///
    /// # Errors
    /// No message could be taken now: the disk or the queue is full, or we are shutting down.
    fn ready(&self) -> Result<(), Rejection>;

    /// Takes responsibility: all messages are durable when this resolves to `Ok`, and only then the client hears so.
    ///
    /// The work starts with the call, not with the first poll: a session has several of these in flight, polls only
    /// the oldest, and answers in order.
    ///
    /// # Errors
    /// Why it is not taken. Nothing of it is kept then.
    ///
    /// # Cancel safety
    /// A session whose client goes away still polls this to its end. Only when the grace of a shutdown runs out is it
    /// dropped early; what was begun may then become durable all the same, and the client, unanswered, sends it again.
    fn accept(&self, handover: Handover) -> impl Future<Output = Result<Receipt, Rejection>> + Send + 'static;

    /// How long after acceptance a message is given up unless the client said otherwise.
    fn expire_after(&self) -> Duration;
}

/// What an SMTP listener is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Clients that may submit hand over what is to be sent.
    Submission,
    /// Anybody hands over what comes back to addresses that the door knows. The door gets the message as it came: nothing is
    /// added to it, and no order in it is obeyed.
    Inbound,
}

impl Service {
    /// The `listener` label of metrics.
    pub fn listener(self) -> &'static str {
        match self {
            Service::Submission => "smtp",
            Service::Inbound => "inbound",
        }
    }
}

/// What one submission hands over. Its messages stand or fall together.
#[derive(Debug, Clone)]
pub struct Handover {
    /// On whose behalf.
    pub principal: Arc<Principal>,
    /// One, or one for each recipient of a personal submission, with ids that follow one another. The idempotency key of
    /// the submission, if any, is in the envelope of the first.
    pub messages: SmallVec<[NewMessage; 1]>,
    /// What is wrong with its times. It is refused for that unless its key is known: what was good when it was first sent
    /// may have passed when it is repeated. Only where there is a key.
    pub overdue: Option<Box<Rejection>>,
    /// The address it came from, where somebody wants to know.
    pub client: Option<IpAddr>,
}

/// A message about to be accepted.
#[derive(Debug, Clone)]
pub struct NewMessage {
    /// From [`Door::next_ids`].
    pub id: MessageId,
    /// Everything but the content.
    pub envelope: Envelope,
    /// The message as it goes out, trace and added fields in front.
    pub content: Bytes,
}

impl Handover {
    /// One message.
    pub fn one(principal: Arc<Principal>, id: MessageId, envelope: Envelope, content: Bytes) -> Handover {
        Handover {
            principal,
            messages: smallvec::smallvec![NewMessage { id, envelope, content }],
            overdue: None,
            client: None,
        }
    }
}
