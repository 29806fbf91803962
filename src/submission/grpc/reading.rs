//! The body of a request: its memory, message by message, and what it may not do.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use axum::BoxError;
use axum::body::{Body, HttpBody};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use super::scan::{Scan, Wrong};
use super::status;
use crate::submission::rejection::Rejection;
use crate::submission::web::{Budget, IDLE_MAX, Metered, Share};

/// Octets in front of each message: a flag and its length.
const HEADER: usize = 5;

/// What may come in a body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected {
    /// Messages without end; otherwise one.
    pub(super) stream: bool,
    /// They are SubmitRequests, of at most so many recipients.
    pub(super) recipients_max: Option<usize>,
}

/// A body being read: its memory, and how long its messages are on the wire. A stream gives the memory of each message
/// back when that is stored; to know how much that is, it cannot rely on what it understood of it.
#[derive(Debug)]
pub(super) struct Reading {
    share: Arc<Share>,
    frames: Mutex<Frames>,
}

#[derive(Debug)]
pub(super) struct Frames {
    expected: Expected,
    /// The header of the next message, as far as it has come.
    header: Vec<u8>,
    /// Octets of the present message still to come.
    missing: usize,
    /// Of the present message.
    scan: Option<Scan>,
    /// The first message has begun.
    begun: bool,
    /// Messages seen whole or in part and not asked for.
    lengths: VecDeque<usize>,
}

impl Reading {
    pub(super) fn new(budget: &Arc<Budget>, expected: Expected) -> Reading {
        Reading { share: Arc::new(budget.share()), frames: Mutex::new(Frames::new(expected)) }
    }

    /// What the body's memory is taken from.
    pub(super) fn share(&self) -> &Arc<Share> {
        &self.share
    }

    /// Octets of the body, in order.
    pub(super) fn saw(&self, octets: &[u8]) -> Result<(), Rejection> {
        let seen = self.frames.lock().expect("no code panics under this lock").saw(octets);
        seen.map_err(|(field, why)| Rejection::invalid(field, why))
    }

    /// The memory of the next message, which takes at least `weight` octets.
    pub(super) fn split(&self, weight: usize) -> Share {
        let length = self.frames.lock().expect("no code panics under this lock").lengths.pop_front();
        self.share.split(weight.max(length.unwrap_or_default()))
    }

    /// The client owes us something.
    fn is_awaited(&self) -> bool {
        let frames = self.frames.lock().expect("no code panics under this lock");
        !frames.expected.stream || frames.missing > 0 || !frames.header.is_empty()
    }
}

impl Frames {
    /// Of the messages seen whole or in part and not asked for.
    pub(super) fn lengths(&self) -> impl Iterator<Item = usize> {
        self.lengths.iter().copied()
    }

    pub(super) fn new(expected: Expected) -> Frames {
        Frames { expected, header: Vec::new(), missing: 0, scan: None, begun: false, lengths: VecDeque::new() }
    }

    /// Octets of the body, in order. An error is final.
    pub(super) fn saw(&mut self, mut octets: &[u8]) -> Result<(), Wrong> {
        while !octets.is_empty() {
            if self.missing > 0 {
                let (these, rest) = octets.split_at(self.missing.min(octets.len()));
                if let Some(scan) = &mut self.scan {
                    scan.saw(these)?;
                }
                self.missing -= these.len();
                octets = rest;
                continue;
            }
            if self.begun && self.header.is_empty() && !self.expected.stream {
                return Err(("request", "more than the one message of this call"));
            }
            self.begun = true;
            let (header, rest) = octets.split_at((HEADER - self.header.len()).min(octets.len()));
            self.header.extend_from_slice(header);
            octets = rest;
            if let [_, a, b, c, d] = self.header[..] {
                self.missing = u32::from_be_bytes([a, b, c, d]) as usize;
                self.lengths.push_back(HEADER + self.missing);
                self.scan = self.expected.recipients_max.map(Scan::new);
                self.header.clear();
            }
        }
        Ok(())
    }
}

/// The body of a request as tonic gets it. It fails, in our words, when there is no memory for it, when a message stops in
/// the middle, or when it is none that may come.
#[derive(Debug)]
pub(super) struct Watched {
    body: Metered,
    reading: Arc<Reading>,
    idle: Option<Pin<Box<Sleep>>>,
    /// Something has come since `idle` was set.
    heard: bool,
}

impl Watched {
    pub(super) fn new(body: Body, reading: Arc<Reading>) -> Watched {
        Watched { body: Metered::new(body, Arc::clone(reading.share())), reading, idle: None, heard: true }
    }

    /// Whether we have waited in vain.
    fn is_overdue(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.reading.is_awaited() {
            return false;
        }
        let idle = self.idle.get_or_insert_with(|| Box::pin(tokio::time::sleep(IDLE_MAX)));
        if std::mem::take(&mut self.heard) {
            idle.as_mut().reset(Instant::now() + IDLE_MAX);
        }
        idle.as_mut().poll(cx).is_ready()
    }
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let failed = |rejection: &Rejection| Poll::Ready(Some(Err(status::status(rejection).into())));
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Pending if self.is_overdue(cx) => failed(&Rejection::trouble("the request did not go on coming")),
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(frame))) => {
                self.heard = true;
                match frame.data_ref().map_or(Ok(()), |data| self.reading.saw(data)) {
                    Ok(()) => Poll::Ready(Some(Ok(frame))),
                    Err(rejection) => failed(&rejection),
                }
            }
            Poll::Ready(Some(Err(error))) => match error.downcast::<Rejection>() {
                Ok(rejection) => failed(&rejection),
                Err(error) => Poll::Ready(Some(Err(error))),
            },
            Poll::Ready(None) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use tonic::{Code, Status};

    use super::*;

    const STREAM: Expected = Expected { stream: true, recipients_max: None };
    const ONE: Expected = Expected { stream: false, recipients_max: None };

    #[test]
    fn messages_are_told_apart_however_they_are_cut() {
        let mut body = Vec::new();
        for length in [0u32, 3, 300] {
            body.push(0);
            body.extend_from_slice(&length.to_be_bytes());
            body.resize(body.len() + length as usize, b'x');
        }
        for size in [1, 2, 4, 7, 1000] {
            let mut frames = Frames::new(STREAM);
            body.chunks(size).for_each(|chunk| frames.saw(chunk).expect("a stream"));
            assert_eq!(frames.lengths, [5, 8, 305]);
            let mut frames = Frames::new(ONE);
            assert!(body.chunks(size).any(|chunk| frames.saw(chunk).is_err()), "three where one is expected");
        }
    }

    #[test]
    fn all_memory_comes_back() {
        let budget = Budget::new(1000);
        let reading = Reading::new(&budget, STREAM);
        let saw = |octets: &[u8]| reading.saw(octets).expect("a stream");
        let body = [0, 0, 0, 0, 20];
        saw(&body);
        saw(&[b'x'; 20]);
        assert!(reading.share().try_take(25));
        // Understood less than was sent, as with fields we do not know.
        let part = reading.split(10);
        assert_eq!((part.held(), reading.share().held(), budget.used()), (25, 0, 25));
        drop(part);
        assert_eq!(budget.used(), 0);
        // And more, as with many short fields.
        saw(&body);
        saw(&[b'x'; 20]);
        assert!(reading.share().try_take(25));
        let part = reading.split(100);
        assert_eq!(budget.used(), 100);
        drop(part);
        drop(reading);
        assert_eq!(budget.used(), 0);
    }

    /// What a body with these octets and then nothing comes to.
    async fn check_silence(expected: Expected, octets: &'static [u8], is_overdue: bool) {
        use tokio_stream::StreamExt;
        let begun = tokio_stream::once(Ok::<_, std::io::Error>(Bytes::from_static(octets)));
        let body = Body::from_stream(begun.chain(tokio_stream::pending()));
        let mut body = Watched::new(body, Arc::new(Reading::new(&Budget::new(1000), expected)));
        body.frame().await.expect("a frame").expect("octets");
        let next = tokio::time::timeout(IDLE_MAX * 2, body.frame()).await;
        assert_eq!(next.is_ok(), is_overdue, "{octets:?}");
        if let Ok(next) = next {
            let error = next.expect("an end").expect_err("nothing came");
            assert_eq!(error.downcast::<Status>().expect("in our words").code(), Code::Unavailable);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_stops_in_the_middle_is_given_up() {
        check_silence(STREAM, &[0, 0, 0, 0, 20, 1, 2], true).await;
        check_silence(STREAM, &[0, 0], true).await;
        // A stream may pause between messages; a call with one message may not stay open behind it.
        check_silence(STREAM, &[0, 0, 0, 0, 2, 8, 1], false).await;
        check_silence(ONE, &[0, 0, 0, 0, 2, 8, 1], true).await;
    }
}
