//! Taking messages back: what is not being sent right now never will be.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;

use super::Queue;
use super::scheduler::TakenBack;
use super::settle::READ_AGAIN;
use super::settlement::Settlement;
use super::status::{QueryError, SLICE};
use crate::mail::MessageId;
use crate::spool::{End, RecipientState, SpoolError};

/// Messages whose ends are being written at once. Each holds an envelope in memory.
const AT_ONCE: usize = 64;

/// From so many messages on it is worth a walk over all sleepers to give their memory back at once.
const SWEEP_FROM: usize = 1000;

/// What [`Queue::cancel`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cancelled {
    /// Messages of which at least one recipient was taken back.
    pub messages: u64,
    /// Recipients that ended as cancelled.
    pub recipients: u64,
    /// Recipients whose outcome was under way: they end as it says, or else as cancelled.
    pub in_flight: u64,
}

/// Messages of which nothing is given to a session any more.
struct Marked {
    taken: Vec<TakenBack>,
    /// Told when it is on disk that those in flight are not to be attempted again.
    noted: Vec<oneshot::Receiver<()>>,
}

impl Queue {
    /// Takes messages back. Their recipients that are not in flight end as cancelled; nothing of it is sent from this call
    /// on, and when it resolves that is on disk: the ends, and for recipients in flight that they are not to be attempted again, so
    /// that if their outcome is lost in a crash they end as cancelled too. Unknown and finished messages are left out.
    ///
    /// # Errors
    /// An end could not be written or a message not be read; others may have ended.
    ///
    /// # Cancel safety
    /// What was begun goes on.
    pub async fn cancel(self: &Arc<Queue>, ids: Vec<MessageId>) -> Result<Cancelled, QueryError> {
        let marked = self.mark(&ids);
        // Others may be on their way to disk by an earlier call; our answer means that they are there, too.
        let repeated = marked.taken.len() < ids.len() || ids.is_empty() || marked.taken.iter().any(|taken| taken.again);
        self.end_marked(marked, repeated).await
    }

    /// Brings recipients that were taken out of the queue to their end, once and for all.
    pub(super) async fn end_taken(self: &Arc<Queue>, taken: Vec<TakenBack>) -> Result<Cancelled, QueryError> {
        self.end_marked(Marked { taken, noted: Vec::new() }, true).await
    }

    async fn end_marked(self: &Arc<Queue>, marked: Marked, repeated: bool) -> Result<Cancelled, QueryError> {
        let queue = Arc::clone(self);
        let (answer, answered) = oneshot::channel();
        self.spawn(async move {
            let ended = {
                let _under_way = queue.cancels.read().await;
                Arc::clone(&queue).end_all(marked).await
            };
            if repeated {
                drop(queue.cancels.write().await);
            }
            let _ = answer.send(ended);
        });
        answered.await.unwrap_or(Err(QueryError::Closing))
    }

    /// Messages found taken back at the start come to their ends. Called before the timers run, so that none is attempted.
    pub(super) fn cancel_restored(self: &Arc<Queue>) {
        let ids = std::mem::take(&mut *self.taken_back.lock().expect("no code panics under this lock"));
        let (queue, marked) = (Arc::clone(self), self.mark(&ids));
        self.spawn(async move {
            if let Err(error) = queue.end_all(marked).await {
                tracing::error!(%error, "messages taken back before the last stop wait for the next start to end");
            }
        });
    }

    fn mark(self: &Arc<Queue>, ids: &[MessageId]) -> Marked {
        let mut marked = Marked { taken: Vec::with_capacity(ids.len()), noted: Vec::new() };
        // In slices, so that others get the lock in between.
        for slice in ids.chunks(SLICE) {
            let mut scheduler = self.lock();
            let taken = scheduler.cancel(slice);
            // Under the lock, so that it does not come behind a message's tombstone.
            for TakenBack { id, .. } in taken.iter().filter(|taken| taken.in_flight > 0 && !taken.again) {
                let (synced, noted) = oneshot::channel();
                self.spool.take_back(*id, synced);
                marked.noted.push(noted);
            }
            marked.taken.extend(taken);
        }
        if marked.taken.len() > SWEEP_FROM {
            self.sweep();
        }
        marked
    }

    /// Gives back the memory of what sleeps, or is held, and is taken back.
    fn sweep(self: &Arc<Queue>) {
        let (mut from, mut more) = (0, true);
        while more {
            more = self.lock().sweep(from, from + SLICE);
            from += SLICE;
        }
        self.with_actions(|scheduler, now, actions| scheduler.sweep_lines(now, actions));
    }

    async fn end_all(self: Arc<Queue>, marked: Marked) -> Result<Cancelled, QueryError> {
        let Marked { taken, noted } = marked;
        let mut total = Cancelled { in_flight: taken.iter().map(|t| t.in_flight as u64).sum(), ..Cancelled::default() };
        let room = Arc::new(Semaphore::new(AT_ONCE));
        let mut tasks = JoinSet::new();
        let mut failed = None;
        let mut count = |ended: Result<u64, QueryError>| match ended {
            Ok(recipients) => {
                total.messages += u64::from(recipients > 0);
                total.recipients += recipients;
            }
            Err(error) => failed = Some(error),
        };
        for TakenBack { id, recipients, .. } in taken {
            let permit = Arc::clone(&room).acquire_owned().await.map_err(|_| QueryError::Closing)?;
            self.breathe().await;
            let queue = Arc::clone(&self);
            tasks.spawn(async move {
                let ended = queue.take_back(id, recipients).await;
                drop(permit);
                ended
            });
            while let Some(ended) = tasks.try_join_next() {
                count(ended.unwrap_or(Err(QueryError::Closing)));
            }
        }
        while let Some(ended) = tasks.join_next().await {
            count(ended.unwrap_or(Err(QueryError::Closing)));
        }
        for noted in noted {
            noted.await.map_err(|_| QueryError::Closing)?;
        }
        failed.map_or(Ok(total), Err)
    }

    /// Ends recipients as cancelled; returns how many, once that is on disk.
    async fn take_back(self: Arc<Queue>, id: MessageId, recipients: Vec<u32>) -> Result<u64, QueryError> {
        let (synced, on_disk) = oneshot::channel();
        let message = loop {
            match self.spool.load_envelope(id).await {
                Ok(message) => break message,
                Err(SpoolError::Unknown(_)) => return Ok(0),
                // A disk that cannot be read may be mended. Meanwhile nothing of the message is sent.
                Err(SpoolError::Log(error)) if !error.is_damage() => {
                    if self.stopping.run_until_cancelled(tokio::time::sleep(READ_AGAIN)).await.is_none() {
                        return Err(QueryError::Closing);
                    }
                }
                Err(error) => {
                    tracing::error!(message_id = %id, %error,
                        "a message taken back cannot be read; its end is told without its addresses");
                    let ended = self.end_blind(id, &recipients, End::Cancelled, Some(synced));
                    on_disk.await.map_err(|_| QueryError::Closing)?;
                    return Ok(ended);
                }
            }
        };
        let known = self.spool.states(id).await.unwrap_or_default();
        let parts = self.parts.load_full();
        let mut settlement = Settlement::new(&message, self.clock.timestamp());
        let mut ended = 0;
        for recipient in recipients {
            let last = known.iter().rev().find(|change| change.recipient == recipient).map(|change| &change.state);
            let attempts = match last {
                Some(RecipientState::Waiting { attempts, .. }) => *attempts,
                Some(RecipientState::Ended(_)) | None => 0,
            };
            ended += u64::from(settlement.cancelled(&self, recipient, attempts));
        }
        if ended == 0 {
            return Ok(0);
        }
        self.write(&parts, settlement, Some(synced));
        on_disk.await.map_err(|_| QueryError::Closing)?;
        Ok(ended)
    }

    /// Recipients in flight when their message was taken back have landed without a verdict.
    pub(super) async fn end_cancelled(self: Arc<Queue>, id: MessageId, recipients: Vec<u32>) {
        if let Err(error) = self.take_back(id, recipients).await {
            tracing::error!(message_id = %id, %error, "the end of recipients taken back cannot be written");
        }
    }
}
