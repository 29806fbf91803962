//! `SubmitStream`: requests in, results out, in order, as many in flight as memory and count allow.
//!
//! All is done by whoever writes the response; while the client takes no results, the stream is looked after
//! ([`Attended`]).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use prost::Message;
use tokio_stream::Stream;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::{Status, Streaming};

use super::reading::Reading;
use super::service::Caller;
use super::v1::{self, submit_result::Result as Outcome};
use super::{Desk, Shared, status, translate};
use crate::submission::rejection::Rejection;
use crate::submission::web::{Answers, Attended, Pipeline, Standing};

/// Requests of one stream that have no result yet. Enough for a commit to find its batch full on a fast disk and for the
/// network's round trip; what they hold is bounded by memory.
const IN_FLIGHT_MAX: usize = 1024;

/// Requests read in one go before other tasks get a turn.
const TURN: usize = 32;

/// The results of a stream. Polled by whoever writes the response: while the client takes no results, nothing is read.
pub struct Submitting<D>(Attended<Stage<D>>);

struct Stage<D> {
    shared: Arc<Shared<D>>,
    caller: Caller,
    standing: Standing,
    /// `None`: given up.
    requests: Option<Streaming<v1::SubmitRequest>>,
    /// The memory of what was read; `None` where nobody counts.
    reading: Option<Arc<Reading>>,
    pipeline: Pipeline,
    /// Requests read so far.
    index: u64,
    closing: Pin<Box<WaitForCancellationFutureOwned>>,
    ending: Option<Ending>,
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
        let unread_max = shared.policy.load().unread_timeout;
        let closing = Box::pin(shared.closing.clone().cancelled_owned());
        let stage = Stage {
            shared,
            caller,
            standing: Standing::new(),
            requests: Some(requests),
            reading,
            pipeline: Pipeline::default(),
            index: 0,
            closing,
            ending: None,
        };
        Submitting(Attended::new(stage, unread_max))
    }
}

impl<D: Desk> Answers for Stage<D> {
    fn settle(&mut self) {
        self.pipeline.settle();
    }

    /// Holds nothing any more. Who comes back hears that it took too long.
    fn give_up(&mut self) {
        tracing::debug!(results = self.pipeline.len(), "gave up a stream whose client takes no results");
        self.shared.counts.refused_as("unread");
        self.pipeline.clear();
        self.requests = None;
        self.reading = None;
        self.ending = Some(Ending::Broken(Status::deadline_exceeded("the results were not taken")));
    }
}

impl<D: Desk> Stage<D> {
    /// The oldest request's result, if it is there.
    fn poll_result(&mut self, cx: &mut Context<'_>) -> Poll<v1::SubmitResult> {
        match ready!(self.pipeline.poll_answer(cx)) {
            None => Poll::Pending,
            Some((index, result)) => {
                let result = match result {
                    Ok(receipt) => Outcome::Receipt(translate::receipt(receipt)),
                    Err(rejection) => Outcome::Error(status::in_message(&rejection)),
                };
                Poll::Ready(v1::SubmitResult { index, result: Some(result) })
            }
        }
    }

    /// Reads what is there, up to a turn. Pending: the client has nothing more to say now, or has said all.
    fn poll_requests(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.ending.is_none() && self.closing.as_mut().poll(cx).is_ready() {
            self.ending = Some(Ending::Broken(status::status(&Rejection::closing())));
        }
        for _ in 0..TURN {
            if self.ending.is_some() || self.pipeline.len() >= IN_FLIGHT_MAX {
                return Poll::Pending;
            }
            let Some(requests) = &mut self.requests else { return Poll::Pending };
            match ready!(Pin::new(requests).poll_next(cx)) {
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
        let stands = self.shared.stands(&mut self.standing, &self.caller);
        let submitted = stands.and_then(|()| self.shared.take(&self.caller, request, share.as_ref()));
        self.pipeline.push(self.index, submitted, share);
        self.index += 1;
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<v1::SubmitResult, Status>>> {
        // Results first: they give memory back. Then requests, so that commits have company.
        if let Poll::Ready(result) = self.poll_result(cx) {
            return Poll::Ready(Some(Ok(result)));
        }
        let more = self.poll_requests(cx).is_ready();
        if let Poll::Ready(result) = self.poll_result(cx) {
            return Poll::Ready(Some(Ok(result)));
        }
        if self.pipeline.is_empty() {
            match self.ending.take() {
                None => {}
                Some(Ending::Broken(status)) => {
                    self.ending = Some(Ending::Over);
                    return Poll::Ready(Some(Err(status)));
                }
                Some(Ending::Done | Ending::Over) => {
                    self.ending = Some(Ending::Over);
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

impl<D: Desk> Stream for Submitting<D> {
    type Item = Result<v1::SubmitResult, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll(cx, Stage::poll_next)
    }
}
