//! What stands behind the listeners: whoever takes responsibility for a message.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::mail::{Envelope, MessageId, Reply};
use crate::queue::Queue;

/// The one door every listener hands its messages to. The daemon's is the spool with the queue behind it; tests record.
pub trait Door: Send + Sync + 'static {
    /// The id for a message about to be handed over; it stands in its Received field. Never given out twice.
    fn next_id(&self) -> MessageId;

    /// Asked when a transaction opens.
    ///
    /// # Errors
    /// A 4yz reply when no message could be taken now: `452 4.3.1` (disk, queue full) or `421 4.3.2` (shutting down,
    /// which also ends the session).
    fn ready(&self) -> Result<(), Reply>;

    /// Takes responsibility: the message is durable when this resolves to `Ok`, and only then the client hears `250`.
    ///
    /// The work starts with the call, not with the first poll: a session has several of these in flight, polls only
    /// the oldest, and answers in order. `content` is the message as it goes out, trace and added fields in front.
    ///
    /// # Errors
    /// The reply for the client: `452` when something is full, `451` for other trouble. The message is then not kept.
    ///
    /// # Cancel safety
    /// A session whose client goes away still polls this to its end. Only when the grace of a shutdown runs out is it
    /// dropped early; what was begun may then become durable all the same, and the client, unanswered, sends it again.
    fn accept(
        &self,
        id: MessageId,
        envelope: Envelope,
        content: Bytes,
    ) -> impl Future<Output = Result<(), Reply>> + Send + 'static;

    /// How long after acceptance a message is given up unless the client said otherwise.
    fn expire_after(&self) -> Duration;
}

impl Door for Arc<Queue> {
    fn next_id(&self) -> MessageId {
        Queue::next_id(self)
    }

    fn ready(&self) -> Result<(), Reply> {
        Queue::ready(self)
    }

    fn accept(
        &self,
        id: MessageId,
        envelope: Envelope,
        content: Bytes,
    ) -> impl Future<Output = Result<(), Reply>> + Send + 'static {
        Queue::accept(self, id, envelope, content)
    }

    fn expire_after(&self) -> Duration {
        Queue::expire_after(self)
    }
}
