//! What submission hands over.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::sync::mpsc;

use super::Queue;
use crate::log::Health;
use crate::mail::{EnhancedCode, MessageId, Reply};
use crate::spool::Message;

/// Events not yet in the event log, beyond which new mail must wait: they are held in memory.
pub(super) const EVENTS_LAG_MAX: i64 = 200_000;

impl Queue {
    /// The first of `count` ids that follow one another, for messages about to come.
    pub fn next_ids(&self, count: u32) -> MessageId {
        self.spool.next_ids(self.clock.timestamp(), count)
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

    /// Writes the messages of a submission, all or none, and, once they are synced, lets them join the queue. The work
    /// starts with the call; the future resolves when they are durable.
    ///
    /// # Errors
    /// The reply for the client; nothing is kept then.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing: a message that becomes durable joins the queue.
    pub fn accept(
        self: &Arc<Queue>,
        messages: SmallVec<[Arc<Message>; 1]>,
    ) -> impl Future<Output = Result<(), Reply>> + Send + use<> {
        let id = messages.first().map(|message| message.id);
        let (answer, mut answered) = mpsc::unbounded_channel();
        let queue = Arc::clone(self);
        // They join the queue here, not in the future, so that a client that goes away loses nothing.
        self.spool.accept(messages, move |result| {
            let result = result.map(|message| queue.admit(&message));
            let _ = answer.send(result);
        });
        async move {
            let mut result = Err(Reply::ours(421, EnhancedCode(4, 3, 2), "shutting down, try again later"));
            // They stand or fall together, so the last answer is that of all.
            while let Some(answer) = answered.recv().await {
                result = answer.map_err(|error| {
                    tracing::warn!(message_id = ?id, error = %error, "message not kept, client told to try again");
                    Reply::ours(452, EnhancedCode(4, 3, 1), "the message could not be stored, try again later")
                });
            }
            result
        }
    }

    /// How long a message may wait when its client does not say.
    pub fn expire_after(&self) -> Duration {
        self.parts.load().expire_after
    }
}
