//! Submissions of one client on their way to the disk.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use super::super::rejection::Rejection;
use super::Share;
use crate::mail::Receipt;

/// A submission under way. The work has begun when this is made.
pub type Committing = Pin<Box<dyn Future<Output = Result<Receipt, Rejection>> + Send>>;

/// Submissions from when they are handed over until the client takes their answers, in order. What each takes in memory
/// is held until it is durable or refused; then only its answer is.
#[derive(Default)]
pub struct Pipeline {
    submitted: VecDeque<Submitted>,
}

struct Submitted {
    /// As the client counts.
    number: u64,
    progress: Progress,
    /// Its memory; `None` where nobody counts.
    memory: Option<Share>,
}

enum Progress {
    Committing(Committing),
    Settled(Result<Receipt, Rejection>),
}

impl Pipeline {
    /// How many have no answer yet that the client took.
    pub fn len(&self) -> usize {
        self.submitted.len()
    }

    /// Whether all answers are taken.
    pub fn is_empty(&self) -> bool {
        self.submitted.is_empty()
    }

    /// Adds one, with the memory it takes.
    pub fn push(&mut self, number: u64, submitted: Result<Committing, Rejection>, memory: Option<Share>) {
        let mut added = match submitted {
            Ok(committing) => Submitted { number, progress: Progress::Committing(committing), memory },
            Err(rejection) => Submitted { number, progress: Progress::Settled(Err(rejection)), memory },
        };
        added.relieve();
        self.submitted.push_back(added);
    }

    /// The answer to the oldest, with its number; `None`: nothing is under way.
    pub fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Option<(u64, Result<Receipt, Rejection>)>> {
        let Some(oldest) = self.submitted.front_mut() else { return Poll::Ready(None) };
        ready!(oldest.settle(cx));
        let oldest = self.submitted.pop_front();
        Poll::Ready(oldest.and_then(|Submitted { number, progress, .. }| match progress {
            Progress::Settled(result) => Some((number, result)),
            Progress::Committing(_) => None,
        }))
    }

    /// Gives back the memory of what is durable, though nobody takes the answers. Whoever polls is not woken for these
    /// any more, unless it polls again.
    pub fn settle(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        self.submitted.iter_mut().for_each(|submitted| _ = submitted.settle(&mut cx));
    }

    /// Drops all answers. What was handed over goes on.
    pub fn clear(&mut self) {
        self.submitted = VecDeque::new();
    }
}

impl Submitted {
    fn settle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Progress::Committing(committing) = &mut self.progress {
            let result = ready!(committing.as_mut().poll(cx));
            self.progress = Progress::Settled(result);
            self.relieve();
        }
        Poll::Ready(())
    }

    /// Keeps of its memory what the answer takes.
    fn relieve(&mut self) {
        match &self.progress {
            Progress::Committing(_) => {}
            Progress::Settled(Ok(_)) => self.memory = None,
            Progress::Settled(Err(rejection)) => {
                self.memory.iter().for_each(|memory| memory.keep(rejection.octets()));
            }
        }
    }
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline").field("submitted", &self.submitted.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::clock::Timestamp;
    use crate::mail::MessageId;
    use crate::submission::web::Budget;

    #[tokio::test]
    async fn memory_comes_back_when_it_is_durable_and_answers_stay_in_order() {
        let budget = Budget::new(100_000);
        let mut pipeline = Pipeline::default();
        let memory = || {
            let share = budget.share();
            assert!(share.try_take(10_000));
            Some(share)
        };
        let mut commits = Vec::new();
        for number in 0..3 {
            let (commit, committed) = oneshot::channel();
            let committing = async move { committed.await.expect("not dropped") };
            pipeline.push(number, Ok(Box::pin(committing)), memory());
            commits.push(commit);
        }
        let no = Rejection::invalid("subject", "too dull");
        pipeline.push(3, Err(no.clone()), memory());
        let said = no.octets();
        assert!(said < 1000);
        assert_eq!(budget.used(), 30_000 + said);
        let receipt = |id| Receipt { id: MessageId(id), messages: 1, accepted_at: Timestamp(1), replayed: false };
        // The second and the third are done before the first, and nobody asks for answers.
        let first = commits.remove(0);
        for (id, commit) in commits.into_iter().enumerate() {
            commit.send(Ok(receipt(id as u64 + 1))).expect("awaited");
        }
        pipeline.settle();
        assert_eq!((budget.used(), pipeline.len()), (10_000 + said, 4));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(pipeline.poll_answer(&mut cx).is_pending());
        first.send(Ok(receipt(0))).expect("awaited");
        for number in 0..3 {
            assert_eq!(pipeline.poll_answer(&mut cx), Poll::Ready(Some((number, Ok(receipt(number))))));
        }
        assert_eq!(budget.used(), said);
        assert_eq!(pipeline.poll_answer(&mut cx), Poll::Ready(Some((3, Err(no)))));
        assert_eq!((pipeline.poll_answer(&mut cx), budget.used()), (Poll::Ready(None), 0));
    }
}
