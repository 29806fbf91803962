//! `SubmitStream`: requests in, results out, in order, as many in flight as memory and count allow.
//!
//! All is done by whoever writes the response, and nobody does while the client takes no results. For that there is one
//! task beside each stream: it gives back the memory of what is durable, and ends a stream that does not go on.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use prost::Message;
use tokio_stream::Stream;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::{Status, Streaming};

use super::reading::Reading;
use super::service::{Caller, Committing};
use super::v1::{self, submit_result::Result as Outcome};
use super::{Desk, Shared, status, translate};
use crate::mail::Receipt;
use crate::submission::rejection::Rejection;
use crate::submission::web::Share;

/// Requests of one stream that have no result yet. Enough for a commit to find its batch full on a fast disk and for the
/// network's round trip; what they hold is bounded by memory.
const IN_FLIGHT_MAX: usize = 1024;

/// Requests read in one go before other tasks get a turn.
const TURN: usize = 32;

/// How often a stream is looked after.
const TICK: Duration = if cfg!(test) { Duration::from_millis(100) } else { Duration::from_secs(15) };

/// A client that takes no results for so many ticks in a row does not want them.
const STALLED_MAX: u32 = 20;

/// The results of a stream. Polled by whoever writes the response: while the client takes no results, nothing is read.
pub struct Submitting<D>(Arc<Mutex<Stage<D>>>);

struct Stage<D> {
    shared: Arc<Shared<D>>,
    caller: Caller,
    /// `None`: given up.
    requests: Option<Streaming<v1::SubmitRequest>>,
    /// The memory of what was read; `None` where nobody counts.
    reading: Option<Arc<Reading>>,
    pending: VecDeque<Pending>,
    /// Results given so far.
    index: u64,
    closing: Pin<Box<WaitForCancellationFutureOwned>>,
    ending: Option<Ending>,
    /// Polled since the last tick.
    polled: bool,
    /// Who polls.
    waker: Option<Waker>,
}

/// A request whose result is not out.
struct Pending {
    progress: Progress,
    /// Its memory, until its fate is known.
    share: Option<Share>,
}

enum Progress {
    Refused(Rejection),
    Committing(Committing),
    Settled(Outcome),
}

/// Nothing more is read; how the stream ends when all results are out.
enum Ending {
    /// The client has said all.
    Done,
    /// It has not, but no more is taken.
    Broken(Status),
    /// All is said.
    Over,
}

impl<D: Desk> Submitting<D> {
    /// Must be called in a tokio runtime.
    pub(super) fn new(
        shared: Arc<Shared<D>>,
        caller: Caller,
        requests: Streaming<v1::SubmitRequest>,
        reading: Option<Arc<Reading>>,
    ) -> Submitting<D> {
        let closing = Box::pin(shared.closing.clone().cancelled_owned());
        let stage = Arc::new(Mutex::new(Stage {
            shared,
            caller,
            requests: Some(requests),
            reading,
            pending: VecDeque::new(),
            index: 0,
            closing,
            ending: None,
            polled: true,
            waker: None,
        }));
        tokio::spawn(look_after(Arc::downgrade(&stage)));
        Submitting(stage)
    }
}

/// Ends with the stream, a tick later at most.
async fn look_after<D: Desk>(stage: Weak<Mutex<Stage<D>>>) {
    let mut stalled = 0;
    while stalled < STALLED_MAX {
        tokio::time::sleep(TICK).await;
        let Some(stage) = stage.upgrade() else { return };
        let Ok(mut stage) = stage.lock() else { return };
        stalled = if std::mem::take(&mut stage.polled) { 0 } else { stalled + 1 };
        if stalled > 0 {
            stage.settle();
        }
        if stalled == STALLED_MAX {
            stage.give_up();
        }
        // One that merely waits for its client polls now, and shows that it is not stalled.
        if let Some(waker) = &stage.waker {
            waker.wake_by_ref();
        }
    }
}

impl<D: Desk> Stage<D> {
    /// Looks which commits are done, and gives their memory back.
    fn settle(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        for pending in &mut self.pending {
            let result = match &mut pending.progress {
                Progress::Refused(_) => {
                    pending.share = None;
                    continue;
                }
                Progress::Settled(_) => continue,
                Progress::Committing(commit) => commit.as_mut().poll(&mut cx),
            };
            if let Poll::Ready(result) = result {
                pending.progress = Progress::Settled(outcome(&self.shared, result));
                pending.share = None;
            }
        }
    }

    /// Holds nothing any more. Who comes back hears that it took too long.
    fn give_up(&mut self) {
        tracing::debug!(results = self.pending.len(), "gave up a stream whose client takes no results");
        self.pending.clear();
        self.requests = None;
        self.reading = None;
        self.ending = Some(Ending::Broken(Status::deadline_exceeded("the results were not taken")));
    }

    /// The oldest request's result, if it is there.
    fn poll_result(&mut self, cx: &mut Context<'_>) -> Poll<v1::SubmitResult> {
        let Some(oldest) = self.pending.front_mut() else { return Poll::Pending };
        let committed = match &mut oldest.progress {
            Progress::Committing(commit) => Some(std::task::ready!(commit.as_mut().poll(cx))),
            Progress::Refused(_) | Progress::Settled(_) => None,
        };
        let Some(oldest) = self.pending.pop_front() else { return Poll::Pending };
        let result = match (committed, oldest.progress) {
            (Some(committed), _) => outcome(&self.shared, committed),
            (None, Progress::Refused(rejection)) => outcome(&self.shared, Err(rejection)),
            (None, Progress::Settled(outcome)) => outcome,
            (None, Progress::Committing(_)) => return Poll::Pending,
        };
        let index = self.index;
        self.index += 1;
        Poll::Ready(v1::SubmitResult { index, result: Some(result) })
    }

    /// Reads what is there, up to a turn. Pending: the client has nothing more to say now, or has said all.
    fn poll_requests(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.ending.is_none() && self.closing.as_mut().poll(cx).is_ready() {
            self.ending = Some(Ending::Broken(status::status(&Rejection::closing())));
        }
        for _ in 0..TURN {
            if self.ending.is_some() || self.pending.len() >= IN_FLIGHT_MAX {
                return Poll::Pending;
            }
            let Some(requests) = &mut self.requests else { return Poll::Pending };
            match std::task::ready!(Pin::new(requests).poll_next(cx)) {
                Some(Ok(request)) => self.take(request),
                Some(Err(status)) => {
                    self.ending = Some(Ending::Broken(status::in_our_words(&status).unwrap_or(status)));
                }
                None => self.ending = Some(Ending::Done),
            }
        }
        Poll::Ready(())
    }

    fn take(&mut self, request: v1::SubmitRequest) {
        let weight = size_of::<v1::SubmitRequest>() + request.encoded_len();
        let share = self.reading.as_ref().map(|reading| reading.split(weight));
        let progress = match self.shared.take(&self.caller, request) {
            Ok(commit) => Progress::Committing(commit),
            Err(rejection) => Progress::Refused(rejection),
        };
        self.pending.push_back(Pending { progress, share });
    }
}

/// What became of a request, counted.
fn outcome<D>(shared: &Shared<D>, result: Result<Receipt, Rejection>) -> Outcome {
    match result {
        Ok(receipt) => {
            shared.count(&receipt);
            Outcome::Receipt(translate::receipt(receipt))
        }
        Err(rejection) => {
            shared.refused(&rejection);
            Outcome::Error(status::in_message(&rejection))
        }
    }
}

impl<D: Desk> Stream for Submitting<D> {
    type Item = Result<v1::SubmitResult, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut this = self.0.lock().expect("what panics here ends the stream");
        this.polled = true;
        if !this.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            this.waker = Some(cx.waker().clone());
        }
        // Results first: they give memory back. Then requests, so that commits have company.
        if let Poll::Ready(result) = this.poll_result(cx) {
            return Poll::Ready(Some(Ok(result)));
        }
        let more = this.poll_requests(cx).is_ready();
        if let Poll::Ready(result) = this.poll_result(cx) {
            return Poll::Ready(Some(Ok(result)));
        }
        if this.pending.is_empty() {
            match this.ending.take() {
                None => {}
                Some(Ending::Broken(status)) => {
                    this.ending = Some(Ending::Over);
                    return Poll::Ready(Some(Err(status)));
                }
                Some(Ending::Done | Ending::Over) => {
                    this.ending = Some(Ending::Over);
                    return Poll::Ready(None);
                }
            }
        }
        if more {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}
