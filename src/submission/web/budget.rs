//! Memory for requests that are being received.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Frame;
use tokio::sync::Notify;

use super::super::rejection::Rejection;

/// How long a request that finds no room waits for others to give theirs back before it is refused. Those that wait for
/// one another, each with half a message, end by that.
const PATIENCE: Duration = Duration::from_secs(5);

/// So many octets may be in use, together, by requests being received. Limits what is read, not what was accepted.
#[derive(Debug)]
pub struct Budget {
    used: AtomicUsize,
    max: AtomicUsize,
    freed: Notify,
}

impl Budget {
    /// At most `max` octets.
    pub fn new(max: usize) -> Arc<Budget> {
        Arc::new(Budget { used: AtomicUsize::new(0), max: AtomicUsize::new(max), freed: Notify::new() })
    }

    /// Changes the limit. What is in use above a lower one drains by itself.
    pub fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
        self.freed.notify_waiters();
    }

    /// Octets in use.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Octets still to be had.
    pub fn free(&self) -> usize {
        self.max.load(Ordering::Relaxed).saturating_sub(self.used())
    }

    /// A share of nothing yet.
    pub fn share(self: &Arc<Budget>) -> Share {
        Share { budget: Arc::clone(self), held: AtomicUsize::new(0) }
    }

    fn try_take(&self, octets: usize) -> bool {
        let max = self.max.load(Ordering::Relaxed);
        let add = |used: usize| used.checked_add(octets).filter(|sum| *sum <= max);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok()
    }

    fn give_back(&self, octets: usize) {
        if octets > 0 {
            self.used.fetch_sub(octets, Ordering::Relaxed);
            self.freed.notify_waiters();
        }
    }
}

/// One request's part of a [`Budget`]; returns it when dropped.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    held: AtomicUsize,
}

impl Share {
    /// Octets in it.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Takes more. `false`, and nothing changed, if that is more than there is.
    pub fn try_take(&self, octets: usize) -> bool {
        let taken = self.budget.try_take(octets);
        if taken {
            self.held.fetch_add(octets, Ordering::Relaxed);
        }
        taken
    }

    /// Takes more, and waits a few seconds for it if it must.
    ///
    /// # Errors
    /// [`RejectionKind::Full`](super::super::RejectionKind::Full) when no room came.
    ///
    /// # Cancel safety
    /// Dropped, nothing was taken.
    pub async fn take(&self, octets: usize) -> Result<(), Rejection> {
        self.take_within(octets, PATIENCE).await
    }

    async fn take_within(&self, octets: usize, patience: Duration) -> Result<(), Rejection> {
        let wait = async {
            loop {
                // Listens before it looks: room given back in between is not missed.
                let mut freed = std::pin::pin!(self.budget.freed.notified());
                freed.as_mut().enable();
                if self.try_take(octets) {
                    return;
                }
                freed.await;
            }
        };
        if self.try_take(octets) {
            return Ok(());
        }
        tokio::time::timeout(patience, wait).await.map_err(|_| full())
    }

    /// Gives back all but `octets` of it.
    pub fn keep(&self, octets: usize) {
        let held = self.held.fetch_min(octets, Ordering::Relaxed);
        self.budget.give_back(held.saturating_sub(octets));
    }

    /// Moves `octets` of it to a share of their own, as when one of several messages in a stream is complete. What is
    /// not in this share (a message that was compressed takes more room than was read) is taken above the limit; the next
    /// one then waits for it.
    pub fn split(&self, octets: usize) -> Share {
        let held =
            self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| Some(held.saturating_sub(octets)));
        let moved = held.unwrap_or_default().min(octets);
        self.budget.used.fetch_add(octets - moved, Ordering::Relaxed);
        Share { budget: Arc::clone(&self.budget), held: AtomicUsize::new(octets) }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.give_back(self.held());
    }
}

fn full() -> Rejection {
    Rejection::full("the memory for requests being received is in use, try again later")
}

/// Octets of a body that are passed over, and how long that may take.
const PASS_MAX: (usize, Duration) = (64 << 10, Duration::from_secs(1));

/// Reads what is left of a small body and keeps none of it. An answer that leaves before the body has come makes HTTP/2 reset the
/// request, and some clients (curl 7.88) then report an error instead of the answer.
pub async fn pass_over(mut body: Body) {
    let mut passed = 0;
    let rest = async {
        while let Some(Ok(frame)) = body.frame().await {
            passed += frame.data_ref().map_or(0, Bytes::len);
            if passed > PASS_MAX.0 {
                return;
            }
        }
    };
    // Who sends slower gets the answer without that.
    let _ = tokio::time::timeout(PASS_MAX.1, rest).await;
}

/// A body of which nothing comes for so long is given up.
pub const IDLE_MAX: Duration = Duration::from_secs(60);

/// The next octets of a body; `None`: that was all.
///
/// # Errors
/// Nothing came for [`IDLE_MAX`]; the client went away.
///
/// # Cancel safety
/// Safe.
pub async fn next_octets(body: &mut Body) -> Result<Option<Bytes>, Rejection> {
    loop {
        let frame = tokio::time::timeout(IDLE_MAX, body.frame()).await;
        let Some(frame) = frame.map_err(|_| Rejection::trouble("the body did not go on coming"))? else {
            return Ok(None);
        };
        let frame = frame.map_err(|_| Rejection::trouble("the body broke off"))?;
        if let Ok(octets) = frame.into_data() {
            return Ok(Some(octets));
        }
    }
}

/// Reads a body whole, with the memory for it from `budget`; the share is to be kept as long as the octets are.
///
/// # Errors
/// Longer than `max`; no room; otherwise as [`next_octets`].
///
/// # Cancel safety
/// Dropped, what was read is lost, and its memory free.
pub async fn read_body(body: Body, budget: &Arc<Budget>, max: usize) -> Result<(Bytes, Share), Rejection> {
    let too_large = || Rejection::too_large(format!("the body is larger than the {max} octets allowed"));
    let share = budget.share();
    if body.size_hint().lower() > max as u64 {
        return Err(too_large());
    }
    let mut body = body;
    let mut first = Bytes::new();
    let mut whole = BytesMut::new();
    while let Some(data) = next_octets(&mut body).await? {
        let length = first.len() + whole.len() + data.len();
        if length > max {
            return Err(too_large());
        }
        share.take(data.len()).await?;
        // A body in one frame is not copied.
        if length == data.len() {
            first = data;
            continue;
        }
        if whole.is_empty() {
            whole.reserve(length.max((body.size_hint().lower() as usize + length).min(max)));
            whole.extend_from_slice(&std::mem::take(&mut first));
        }
        whole.extend_from_slice(&data);
    }
    Ok((if whole.is_empty() { first } else { whole.freeze() }, share))
}

/// A body that takes the memory for what is read of it from a share. It stops reading while there is no room, so that the
/// client's HTTP/2 window closes, and fails after a few seconds without.
#[derive(Debug)]
pub struct Metered {
    body: Body,
    share: Arc<Share>,
    waiting: Option<Waiting>,
}

struct Waiting {
    data: Bytes,
    room: Pin<Box<dyn Future<Output = Result<(), Rejection>> + Send>>,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting").field("octets", &self.data.len()).finish_non_exhaustive()
    }
}

impl Metered {
    /// `body`, on account of `share`.
    pub fn new(body: Body, share: Arc<Share>) -> Metered {
        Metered { body, share, waiting: None }
    }
}

impl HttpBody for Metered {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        if self.waiting.is_none() {
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                other => return Poll::Ready(other.map(|result| result.map_err(Into::into))),
            };
            let data = match frame.into_data() {
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                Ok(data) if self.share.try_take(data.len()) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(data) => data,
            };
            let (share, octets) = (Arc::clone(&self.share), data.len());
            self.waiting = Some(Waiting { data, room: Box::pin(async move { share.take(octets).await }) });
        }
        let waiting = self.waiting.as_mut().expect("set above");
        let room = ready!(waiting.room.as_mut().poll(cx));
        let data = std::mem::take(&mut waiting.data);
        self.waiting = None;
        Poll::Ready(Some(room.map(|()| Frame::data(data)).map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.waiting.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}
