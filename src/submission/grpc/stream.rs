//! `SubmitStream`: requests in, results out, in order, as many in flight as memory and count allow.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use prost::Message;
use tokio_stream::Stream;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::{Status, Streaming};

use super::reading::Reading;
use super::service::{Caller, Committing};
use super::v1::{self, submit_result::Result as Outcome};
use super::{Desk, Shared, status, translate};
use crate::submission::rejection::Rejection;
use crate::submission::web::Share;

/// Requests of one stream that have no result yet. Enough for a commit to find its batch full on a fast disk and for the
/// network's round trip; what they hold is bounded by memory.
const IN_FLIGHT_MAX: usize = 1024;

/// Requests read in one go before other tasks get a turn.
const TURN: usize = 32;

/// The results of a stream. Polled by whoever writes the response: while the client takes no results, nothing is read.
pub struct Submitting<D> {
    shared: Arc<Shared<D>>,
    caller: Caller,
    requests: Streaming<v1::SubmitRequest>,
    /// The memory of what was read; `None` where nobody counts.
    reading: Option<Arc<Reading>>,
    pending: VecDeque<Pending>,
    /// Results given so far.
    index: u64,
    closing: Pin<Box<WaitForCancellationFutureOwned>>,
    ending: Option<Ending>,
}

/// A request without a result.
struct Pending {
    progress: Progress,
    /// Its memory.
    _share: Option<Share>,
}

enum Progress {
    Refused(Rejection),
    Committing(Committing),
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
    pub(super) fn new(
        shared: Arc<Shared<D>>,
        caller: Caller,
        requests: Streaming<v1::SubmitRequest>,
        reading: Option<Arc<Reading>>,
    ) -> Submitting<D> {
        let closing = Box::pin(shared.closing.clone().cancelled_owned());
        Submitting { shared, caller, requests, reading, pending: VecDeque::new(), index: 0, closing, ending: None }
    }

    /// The oldest request's result, if it is there.
    fn poll_result(&mut self, cx: &mut Context<'_>) -> Poll<v1::SubmitResult> {
        let Some(oldest) = self.pending.front_mut() else { return Poll::Pending };
        let outcome = match &mut oldest.progress {
            Progress::Refused(rejection) => Err(std::mem::replace(rejection, Rejection::closing())),
            Progress::Committing(commit) => std::task::ready!(commit.as_mut().poll(cx)),
        };
        self.pending.pop_front();
        let result = match outcome {
            Ok(receipt) => {
                self.shared.count(&receipt);
                Outcome::Receipt(translate::receipt(receipt))
            }
            Err(rejection) => {
                self.shared.refused(&rejection);
                Outcome::Error(status::in_message(&rejection))
            }
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
            match std::task::ready!(Pin::new(&mut self.requests).poll_next(cx)) {
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
        self.pending.push_back(Pending { progress, _share: share });
    }
}

impl<D: Desk> Stream for Submitting<D> {
    type Item = Result<v1::SubmitResult, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
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
