//! `POST /v1/messages:batch`: one submission a line, one answer a line, in order.
//!
//! The body of the response does all the work, in the task that writes it: polled, it reads further lines while there is
//! room for more in flight, hands each to the gate, and gives the answers whose turn has come. A client that does not read
//! its answers is not read from either. Dropped, because the client went away, what was handed over goes on.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use bytes::{Bytes, BytesMut};
use hyper::body::Frame;
use tokio::time::Sleep;
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::answer::BatchLine;
use super::body::Submission;
use super::problem::Problem;
use super::{Accepting, Shared};
use crate::access::Principal;
use crate::clock::Instant;
use crate::submission::rejection::Rejection;
use crate::submission::web::{Metered, Peer, Share};

/// Submissions of one batch in flight.
const IN_FLIGHT_MAX: usize = 256;

/// A client that sends nothing for so long, and waits for nothing, has forgotten the batch.
const IDLE_MAX: Duration = Duration::from_secs(300);

/// How long a client that waits for `100` has for its first octets.
const EXPECT_MAX: Duration = Duration::from_secs(5);

/// Octets of answers in one frame, about.
const FRAME: usize = 16 << 10;

/// A submission takes so many times its JSON in memory: decoded, built, and completed.
const COPIES: usize = 2;

/// The body of the response.
pub(super) struct Batch {
    shared: Arc<Shared>,
    principal: Arc<Principal>,
    peer: Arc<Peer>,
    body: Metered,
    memory: Arc<Share>,
    lines: Lines,
    in_flight: VecDeque<InFlight>,
    idle: Pin<Box<Sleep>>,
    closing: Pin<Box<WaitForCancellationFutureOwned>>,
    /// No more lines will come.
    ended: bool,
}

/// A line that was read.
struct InFlight {
    line: u64,
    answer: Answer,
    /// What it takes in memory.
    _memory: Share,
    /// The memory of personal copies.
    _copies: Option<Share>,
}

enum Answer {
    Accepting(Accepting),
    Refused(Rejection),
}

impl Batch {
    pub(super) fn new(shared: &Arc<Shared>, principal: Arc<Principal>, peer: Arc<Peer>, body: Body) -> Batch {
        let memory = Arc::new(shared.budget.share());
        Batch {
            principal,
            peer,
            body: Metered::new(body, Arc::clone(&memory)),
            memory,
            lines: Lines::default(),
            in_flight: VecDeque::new(),
            idle: Box::pin(tokio::time::sleep(IDLE_MAX)),
            closing: Box::pin(shared.closing.clone().cancelled_owned()),
            ended: false,
            shared: Arc::clone(shared),
        }
    }

    /// Waits for the first of the body, a moment at most. A client that said `Expect: 100-continue` (RFC 9110 §10.1.1)
    /// sends none until it hears `100`, and hyper says that when the body is asked for before the response is.
    pub(super) async fn begin(&mut self) {
        let begun = poll_fn(|cx| {
            self.read(cx);
            let begun = self.ended || self.lines.number > 0 || !self.lines.buffer.is_empty();
            if begun { Poll::Ready(()) } else { Poll::Pending }
        });
        // Later or not at all is no mistake: the lines are then read as they come.
        let _ = tokio::time::timeout(EXPECT_MAX, begun).await;
    }

    /// Reads lines as long as there are any and room for them.
    fn read(&mut self, cx: &mut Context<'_>) {
        while !self.ended && self.in_flight.len() < IN_FLIGHT_MAX {
            let line = self.lines.next(self.shared.json_max());
            drop(self.memory.split(std::mem::take(&mut self.lines.shed)));
            if let Some(line) = line {
                self.take(line);
                continue;
            }
            if self.closing.as_mut().poll(cx).is_ready() {
                return self.end(Some(Rejection::closing()));
            }
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        self.lines.push(&data);
                        self.idle.as_mut().reset(Instant::now() + IDLE_MAX);
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    let rejection = error.downcast::<Rejection>();
                    let rejection = rejection.map_or_else(|_| Rejection::trouble("the body broke off"), |known| *known);
                    return self.end(Some(rejection));
                }
                Poll::Ready(None) => {
                    if let Some(line) = self.lines.rest() {
                        self.take(line);
                    }
                    return self.end(None);
                }
                Poll::Pending => {
                    if self.in_flight.is_empty() && self.idle.as_mut().poll(cx).is_ready() {
                        self.end(Some(Rejection::trouble("the body did not go on coming")));
                    }
                    return;
                }
            }
        }
    }

    /// Hands over what a line asks.
    fn take(&mut self, line: Line) {
        let Line { number, octets } = line;
        let copies = self.shared.budget.share();
        let (answer, taken) = match octets {
            Err(length) => (Err(too_long(length, self.shared.json_max())), 0),
            Ok(octets) if octets.trim_ascii().is_empty() => return drop(self.memory.split(octets.len() + 1)),
            Ok(octets) => {
                let request = Submission::read(&octets);
                let prepare = |request| self.shared.prepare(request, &self.principal, &self.peer, &copies);
                let prepared = request.and_then(prepare);
                (prepared, octets.len() * (1 + COPIES))
            }
        };
        let answer = match answer {
            Ok(handover) => Answer::Accepting(self.shared.accept(handover)),
            Err(rejection) => Answer::Refused(rejection),
        };
        self.in_flight.push_back(InFlight {
            line: number,
            answer,
            _memory: self.memory.split(taken),
            _copies: Some(copies),
        });
    }

    /// Reads no more; `rejection` is why, if the client is not done.
    fn end(&mut self, rejection: Option<Rejection>) {
        self.ended = true;
        if let Some(rejection) = rejection {
            let line = self.lines.number + 1;
            let answer = Answer::Refused(rejection);
            self.in_flight.push_back(InFlight { line, answer, _memory: self.memory.split(0), _copies: None });
        }
    }

    /// The next answer, in order.
    fn answer(&mut self, cx: &mut Context<'_>) -> Poll<Option<BatchLine>> {
        let Some(first) = self.in_flight.front_mut() else {
            return if self.ended { Poll::Ready(None) } else { Poll::Pending };
        };
        let result = match &mut first.answer {
            Answer::Refused(rejection) => Err(rejection.clone()),
            Answer::Accepting(accepting) => match accepting.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(result) => result,
            },
        };
        let line = first.line;
        self.in_flight.pop_front();
        Poll::Ready(Some(match result {
            Ok(receipt) => {
                let status = if receipt.replayed { 200 } else { 201 };
                BatchLine { line, status, receipt: Some(receipt.into()), problem: None }
            }
            Err(rejection) => {
                self.shared.refused(&rejection);
                let problem = Problem::from(&rejection);
                BatchLine { line, status: problem.status(), receipt: None, problem: Some(problem) }
            }
        }))
    }
}

impl HttpBody for Batch {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let batch = &mut *self;
        let mut answers = Vec::new();
        loop {
            batch.read(cx);
            match batch.answer(cx) {
                Poll::Ready(Some(line)) => {
                    serde_json::to_writer(&mut answers, &line).expect("an answer is plain data");
                    answers.push(b'\n');
                }
                Poll::Ready(None) if answers.is_empty() => return Poll::Ready(None),
                Poll::Pending if answers.is_empty() => return Poll::Pending,
                Poll::Ready(None) | Poll::Pending => return Poll::Ready(Some(Ok(Frame::data(answers.into())))),
            }
            if answers.len() >= FRAME {
                return Poll::Ready(Some(Ok(Frame::data(answers.into()))));
            }
        }
    }
}

fn too_long(length: usize, max: usize) -> Rejection {
    Rejection::too_large(format!("the line has {length} octets, more than {max}"))
}

/// What was read, cut into lines.
#[derive(Debug, Default)]
struct Lines {
    buffer: BytesMut,
    /// The start of the buffer up to here holds no line end.
    looked_at: usize,
    /// Octets of the line being read that were too many to be kept.
    dropped: usize,
    /// Octets not kept any more, whose memory is still to be given back.
    shed: usize,
    /// The last line given.
    number: u64,
}

/// A line without its end, or its length where that was too much.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    number: u64,
    octets: Result<Bytes, usize>,
}

impl Lines {
    fn push(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
    }

    /// The next whole line, of at most `max` octets.
    fn next(&mut self, max: usize) -> Option<Line> {
        match memchr::memchr(b'\n', &self.buffer[self.looked_at..]) {
            Some(at) => {
                let line = self.buffer.split_to(self.looked_at + at + 1);
                self.looked_at = 0;
                Some(self.line(line.freeze(), 1, max))
            }
            None => {
                self.looked_at = self.buffer.len();
                if self.dropped + self.buffer.len() > max {
                    self.dropped += self.buffer.len();
                    self.shed += self.buffer.len();
                    self.looked_at = 0;
                    self.buffer.clear();
                }
                None
            }
        }
    }

    /// What is left behind the last line end, if anything.
    fn rest(&mut self) -> Option<Line> {
        let rest = self.buffer.split().freeze();
        (!rest.is_empty() || self.dropped > 0).then(|| self.line(rest, 0, usize::MAX))
    }

    fn line(&mut self, octets: Bytes, end: usize, max: usize) -> Line {
        self.number += 1;
        let length = std::mem::take(&mut self.dropped) + octets.len();
        let good = length == octets.len() && length - end <= max;
        let octets = if good {
            Ok(octets.slice(..octets.len() - end))
        } else {
            self.shed += octets.len();
            Err(length)
        };
        Line { number: self.number, octets }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_lines_however_they_come() {
        let text = b"one\n\ntwo\r\n0123456789ab\n0123456789\nrest";
        let good = |number, text: &'static [u8]| Line { number, octets: Ok(Bytes::from_static(text)) };
        for cut in 1..text.len() {
            let mut lines = Lines::default();
            let mut found = Vec::new();
            for piece in text.chunks(cut) {
                lines.push(piece);
                found.extend(std::iter::from_fn(|| lines.next(10)));
            }
            found.extend(lines.rest());
            let expected = [
                good(1, b"one"),
                good(2, b""),
                good(3, b"two\r"),
                Line { number: 4, octets: Err(13) },
                good(5, b"0123456789"),
                good(6, b"rest"),
            ];
            assert_eq!(found, expected, "in pieces of {cut}");
            assert_eq!(lines.rest(), None);
        }
    }
}
