//! What submission hands over.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::Queue;
use super::scheduler::Recipients;
use crate::log::Health;
use crate::mail::{EnhancedCode, MessageId, Reply};
use crate::spool::{Message, SpoolError};

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
        let (answer, answered) = oneshot::channel();
        let last = Arc::new(Last { result: Mutex::new(None), answer: Some(answer) });
        let queue = Arc::clone(self);
        let refused = messages.iter().map(|message| (message.id, self.refused_at_the_door(message)));
        let refused: SmallVec<[_; 1]> = refused.filter(|(_, places)| !places.is_empty()).collect();
        // They join the queue here, not in the future, so that a client that goes away loses nothing.
        self.spool.accept(messages, move |result| {
            let result = result.map(|message| {
                let places = refused.iter().find(|(id, _)| *id == message.id).map(|(_, places)| places);
                queue.admit(&message, places.unwrap_or(&Recipients::None));
            });
            *last.result.lock().expect("no code panics under this lock") = Some(result);
        });
        async move {
            match answered.await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => {
                    tracing::warn!(message_id = ?id, error = %error, "message not kept, client told to try again");
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

/// The answer to a submission. Its messages stand or fall together, so the last one's result is that of all; it is given
/// when the spool has let go of all of them.
struct Last {
    result: Mutex<Option<Result<(), SpoolError>>>,
    answer: Option<oneshot::Sender<Result<(), SpoolError>>>,
}

impl Drop for Last {
    fn drop(&mut self) {
        let result = self.result.get_mut().ok().and_then(Option::take);
        if let (Some(answer), Some(result)) = (self.answer.take(), result) {
            // Nobody listens any more to a client that went away.
            let _ = answer.send(result);
        }
    }
}
