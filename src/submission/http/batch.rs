//! `POST /v1/messages:batch`: one submission a line, one answer a line, in order.
//!
//! The body of the response does all the work, in the task that writes it: polled, it reads further lines while there is
//! room for more in flight, hands each to the gate, and gives the answers whose turn has come. A client that does not read
//! its answers is not read from either; the batch is looked after ([`Attended`]) meanwhile, and given up in the end.
//! Dropped, because the client went away, what was handed over goes on.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use hyper::body::Frame;
use tokio::time::Sleep;
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::Shared;
use super::answer::BatchLine;
use super::body::Submission;
use super::lines::{Line, Lines};
use super::problem::Problem;
use crate::access::Principal;
use crate::clock::Instant;
use crate::mail::Receipt;
use crate::submission::rejection::Rejection;
use crate::submission::web::{Answers, Attended, Committing, Metered, Peer, Pipeline, Share, Standing};

/// Submissions of one batch whose answers are not out.
const IN_FLIGHT_MAX: usize = 256;

/// A client that sends nothing for so long, and waits for nothing, has forgotten the batch.
const IDLE_MAX: Duration = Duration::from_secs(300);

/// How long a client that waits for `100` has for its first octets.
const EXPECT_MAX: Duration = Duration::from_secs(5);

/// Octets of answers in one frame, about.
const FRAME: usize = 16 << 10;

/// A submission takes so many times its JSON in memory beside it: decoded, built, and completed.
const COPIES: usize = 2;

/// The body of the response.
pub(super) struct Batch(Attended<Stage>);

/// The client took no answers for too long.
#[derive(Debug, thiserror::Error)]
#[error("the answers were not taken")]
pub(super) struct Unread;

struct Stage {
    shared: Arc<Shared>,
    principal: Arc<Principal>,
    peer: Arc<Peer>,
    standing: Standing,
    /// `None`: given up.
    body: Option<Metered>,
    memory: Arc<Share>,
    lines: Lines,
    /// A line that waits for its memory.
    held: Option<Held>,
    pipeline: Pipeline,
    idle: Pin<Box<Sleep>>,
    closing: Pin<Box<WaitForCancellationFutureOwned>>,
    /// No more lines will come.
    ended: bool,
}

struct Held {
    line: u64,
    octets: Bytes,
    room: Pin<Box<dyn Future<Output = (Share, Result<(), Rejection>)> + Send>>,
}

impl Batch {
    /// Must be called in a tokio runtime.
    pub(super) fn new(shared: &Arc<Shared>, principal: Arc<Principal>, peer: Arc<Peer>, body: Body) -> Batch {
        let memory = Arc::new(shared.budget.share());
        let unread_max = shared.policy.load().unread_timeout;
        let stage = Stage {
            principal,
            peer,
            standing: Standing::new(),
            body: Some(Metered::new(body, Arc::clone(&memory))),
            memory,
            lines: Lines::default(),
            held: None,
            pipeline: Pipeline::default(),
            idle: Box::pin(tokio::time::sleep(IDLE_MAX)),
            closing: Box::pin(shared.closing.clone().cancelled_owned()),
            ended: false,
            shared: Arc::clone(shared),
        };
        Batch(Attended::new(stage, unread_max))
    }

    /// Waits for the first of the body, a moment at most. A client that said `Expect: 100-continue` (RFC 9110 §10.1.1)
    /// sends none until it hears `100`, and hyper says that when the body is asked for before the response is.
    pub(super) async fn begin(&mut self) {
        let begin = |stage: &mut Stage, cx: &mut Context<'_>| {
            stage.read(cx);
            if stage.ended || !stage.lines.is_untouched() { Poll::Ready(()) } else { Poll::Pending }
        };
        // Later or not at all is no mistake: the lines are then read as they come.
        let _ = tokio::time::timeout(EXPECT_MAX, poll_fn(|cx| self.0.poll(cx, begin))).await;
    }
}

impl Answers for Stage {
    fn settle(&mut self) {
        self.pipeline.settle();
    }

    fn give_up(&mut self) {
        tracing::debug!(answers = self.pipeline.len(), "gave up a batch whose client takes no answers");
        self.shared.counts.refused_as("unread");
        self.pipeline.clear();
        self.held = None;
        self.lines = Lines::default();
        self.body = None;
        // The body is gone with its hold on this, and nothing else has one.
        self.memory.keep(0);
    }
}

impl Stage {
    /// Reads lines as long as there are any and room for them.
    fn read(&mut self, cx: &mut Context<'_>) {
        loop {
            if let Some(held) = &mut self.held {
                let Poll::Ready((share, room)) = held.room.as_mut().poll(cx) else { return };
                if let Some(Held { line, octets, .. }) = self.held.take() {
                    let submitted = room.and_then(|()| self.submit(&octets, &share));
                    self.push(line, submitted, share);
                }
                continue;
            }
            if self.ended || self.pipeline.len() >= IN_FLIGHT_MAX {
                return;
            }
            let line = self.lines.next(self.shared.json_max());
            drop(self.memory.split(std::mem::take(&mut self.lines.shed)));
            match line {
                Some(line) => self.take(line),
                None if self.fetch(cx).is_pending() => return,
                None => {}
            }
        }
    }

    /// Reads some more octets, or finds that there are none. Pending: not now.
    fn fetch(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.closing.as_mut().poll(cx).is_ready() {
            return Poll::Ready(self.end(Some(Rejection::closing())));
        }
        if let Err(rejection) =
            self.standing.check(self.shared.gate.access(), &self.shared.policy.load(), &self.peer, &self.principal)
        {
            return Poll::Ready(self.end(Some(rejection)));
        }
        let Some(body) = &mut self.body else { return Poll::Ready(self.end(None)) };
        match Pin::new(body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    self.lines.push(&data);
                    self.idle.as_mut().reset(Instant::now() + IDLE_MAX);
                }
            }
            Poll::Ready(Some(Err(error))) => {
                let rejection = error.downcast::<Rejection>();
                let rejection = rejection.map_or_else(|_| Rejection::trouble("the body broke off"), |known| *known);
                self.end(Some(rejection));
            }
            Poll::Ready(None) => {
                if let Some(line) = self.lines.rest() {
                    self.take(line);
                }
                self.end(None);
            }
            Poll::Pending => {
                if self.pipeline.is_empty() && self.idle.as_mut().poll(cx).is_ready() {
                    self.end(Some(Rejection::trouble("the body did not go on coming")));
                }
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }

    /// Takes a line up, once there is memory for what becomes of it.
    fn take(&mut self, line: Line) {
        let Line { number, octets } = line;
        let octets = match octets {
            Ok(octets) => octets,
            Err(length) => {
                let rejection = too_long(length, self.shared.json_max());
                return self.push(number, Err(rejection), self.memory.split(0));
            }
        };
        let share = self.memory.split(octets.len() + 1);
        if octets.trim_ascii().is_empty() {
            return;
        }
        let copies = octets.len() * COPIES;
        if share.try_take(copies) {
            let submitted = self.submit(&octets, &share);
            return self.push(number, submitted, share);
        }
        let room = Box::pin(async move {
            let room = share.take(copies).await;
            (share, room)
        });
        self.held = Some(Held { line: number, octets, room });
    }

    /// Hands over what a line asks. The memory of personal copies is taken into `share`.
    fn submit(&self, octets: &[u8], share: &Share) -> Result<Committing, Rejection> {
        let request = Submission::read(octets)?;
        let handover = self.shared.prepare(request, &self.principal, &self.peer, share)?;
        Ok(self.shared.accept(handover))
    }

    fn push(&mut self, line: u64, submitted: Result<Committing, Rejection>, share: Share) {
        self.pipeline.push(line, submitted, Some(share));
    }

    /// Reads no more; `rejection` is why, if the client is not done.
    fn end(&mut self, rejection: Option<Rejection>) {
        self.ended = true;
        if let Some(rejection) = rejection {
            self.push(self.lines.number + 1, Err(rejection), self.memory.split(0));
        }
    }

    /// Answers that are there, up to a frame.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Unread>>> {
        if self.body.is_none() {
            return Poll::Ready(Some(Err(Unread)));
        }
        let mut answers = Vec::new();
        while answers.len() < FRAME {
            self.read(cx);
            match self.pipeline.poll_answer(cx) {
                Poll::Ready(Some((line, result))) => {
                    let answer = self.answer(line, result);
                    serde_json::to_writer(&mut answers, &answer).expect("an answer is plain data");
                    answers.push(b'\n');
                }
                Poll::Ready(None) if answers.is_empty() && self.ended && self.held.is_none() => {
                    return Poll::Ready(None);
                }
                Poll::Ready(None) | Poll::Pending if answers.is_empty() => return Poll::Pending,
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        Poll::Ready(Some(Ok(Frame::data(answers.into()))))
    }

    fn answer(&self, line: u64, result: Result<Receipt, Rejection>) -> BatchLine {
        match result {
            Ok(receipt) => {
                let status = if receipt.replayed { 200 } else { 201 };
                BatchLine { line, status, receipt: Some(receipt.into()), problem: None }
            }
            Err(rejection) => {
                self.shared.counts.refused(&rejection);
                let problem = Problem::from(&rejection);
                BatchLine { line, status: problem.status(), receipt: None, problem: Some(problem) }
            }
        }
    }
}

impl HttpBody for Batch {
    type Data = Bytes;
    type Error = Unread;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Unread>>> {
        self.0.poll(cx, Stage::poll_frame)
    }
}

fn too_long(length: usize, max: usize) -> Rejection {
    Rejection::too_large(format!("the line has {length} octets, more than {max}"))
}
