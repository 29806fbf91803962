//! What submission hands over.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::Queue;
use crate::log::Health;
use crate::mail::{EnhancedCode, Envelope, MessageId, Reply};
use crate::spool::Message;

/// Events not yet in the event log, beyond which new mail must wait: they are held in memory.
pub(super) const EVENTS_LAG_MAX: i64 = 200_000;

impl Queue {
    /// An id for a message about to come.
    pub fn next_id(&self) -> MessageId {
        self.spool.next_id(self.clock.timestamp())
    }

    /// Whether a message could be taken now.
    ///
    /// # Errors
    /// The 452 to give the client.
    pub fn ready(&self) -> Result<(), Reply> {
        let refusal = |why| Reply::ours(452, EnhancedCode(4, 3, 1), format!("{why}; try again later"));
        self.readiness().map_err(refusal)
    }

    /// The same for monitoring.
    ///
    /// # Errors
    /// Why no mail is taken: shutting down, spool read-only, event log far behind, queue full.
    pub fn readiness(&self) -> Result<(), String> {
        if let Health::ReadOnly { reason } = self.spool.health() {
            return Err(format!("the spool is read-only: {reason}"));
        }
        if self.metrics.events_lag.get() > EVENTS_LAG_MAX {
            return Err("the event log is behind".into());
        }
        let scheduler = self.lock();
        if scheduler.stopped() {
            return Err("shutting down".into());
        }
        if scheduler.open_recipients() >= self.parts.load().spool.recipients_max {
            return Err("the queue is full (spool.recipients_max)".into());
        }
        Ok(())
    }

    /// Writes the message and, once it is synced, lets it join the queue. The work starts with the call; the future
    /// resolves when it is durable.
    ///
    /// # Errors
    /// The reply for the client; the message is then not kept.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing: a message that becomes durable joins the queue.
    pub fn accept(
        self: &Arc<Queue>,
        id: MessageId,
        envelope: Envelope,
        content: Bytes,
    ) -> impl Future<Output = Result<(), Reply>> + Send + use<> {
        let (answer, answered) = oneshot::channel();
        let queue = Arc::clone(self);
        let message = Arc::new(Message::new(id, envelope, content));
        // The message joins the queue here, not in the future, so that a client that goes away loses nothing.
        self.spool.accept(message, move |result| {
            let result = result.map(|message| queue.admit(&message));
            let _ = answer.send(result);
        });
        async move {
            match answered.await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => {
                    tracing::warn!(message_id = %id, error = %error, "message not kept, client told to try again");
                    Err(Reply::ours(452, EnhancedCode(4, 3, 1), "the message could not be stored, try again later"))
                }
                Err(_) => Err(Reply::ours(421, EnhancedCode(4, 3, 2), "shutting down, try again later")),
            }
        }
    }

    /// How long a message may wait when its client does not say.
    pub fn expire_after(&self) -> Duration {
        self.parts.load().expire_after
    }
}
