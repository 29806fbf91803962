//! One connection: HTTP/1.1 or HTTP/2, whichever the client speaks.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use bytes::{Buf, BytesMut};
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tokio_util::io::poll_read_buf;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Peer;
use super::accept::Shared;

/// A client that has not said what it speaks, or not all of a request's header, by then is cut off.
const HEADER_MAX: Duration = Duration::from_secs(30);

/// Octets by which a client has shown what it speaks: the preface of HTTP/2 (RFC 9113 §3.4).
const PREFACE: usize = 24;

/// Silent HTTP/2 connections are pinged this often, and closed when no answer comes in time. Clients may keep an idle
/// connection as long as they like.
const PING_EVERY: Duration = Duration::from_secs(60);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Requests at once on one connection.
const STREAMS_MAX: u32 = 256;

/// The HTTP/2 window of a connection: what the client may send before we have read it. Wide enough for hundreds of
/// messages in flight; with many connections they get less, and at least what HTTP/2 begins with.
const WINDOW_MAX: usize = 4 << 20;
const WINDOW_MIN: usize = 64 << 10;

/// One request's part of its connection's window, where that leaves [`WINDOW_MIN`].
///
/// Where frames of data wait to be read, h2 charges each of under 256 octets with what it lacks of that, and ends the
/// connection once the charges reach half its window. A request that had all of the window would get there by frames of
/// up to 170 octets: a batch of short lines, each sent on its own, while we read slower than it comes. With an eighth,
/// frames of 52 octets fill the request's window first, and the client waits as it should.
const WINDOW_PART: usize = 8;

/// Octets of one HTTP/2 frame: several messages of usual size fit into one.
const FRAME_MAX: u32 = 64 << 10;

/// Octets read in one go while they come faster than they are asked for.
const SPILL: usize = 64 << 10;

/// Octets of a response that wait for the client to take them, for each request.
const UNSENT_MAX: usize = 256 << 10;

/// Serves a client until it goes, or until the shutdown has let it finish.
///
/// # Cancel safety
/// Dropped, requests under way get no answer.
pub(super) async fn serve<S>(stream: S, peer: Peer, shared: &Arc<Shared>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let controls = &shared.controls;
    let windows = controls.windows.share();
    let mut window = (controls.windows.free() / 8).clamp(WINDOW_MIN, WINDOW_MAX);
    if !windows.try_take(window) {
        window = WINDOW_MIN;
    }
    let heard = Arc::new(AtomicUsize::new(0));
    let io = TokioIo::new(Heard::new(stream, Arc::clone(&heard), controls.settings.load().unread_timeout));
    let router = TowerToHyperService::new(shared.router.clone());
    let service = Requests { router, peer: Arc::new(peer) };
    let builder = builder(window, Tracked { tasks: shared.tasks.clone(), aborting: controls.aborting.clone() });
    let mut connection = pin!(builder.serve_connection(io, service));
    let mut deadline = pin!(tokio::time::sleep(HEADER_MAX));
    let (mut checked, mut told) = (false, false);
    let ended = loop {
        tokio::select! {
            biased;
            ended = poll_fn(|context| connection.as_mut().poll(context)) => break ended,
            () = controls.closing.cancelled(), if !told => {
                told = true;
                connection.as_mut().graceful_shutdown();
            }
            () = &mut deadline, if !checked => {
                checked = true;
                if heard.load(Ordering::Relaxed) < PREFACE {
                    return tracing::debug!("a connection without a request");
                }
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection lost");
    }
}

fn builder(window: usize, executor: Tracked) -> auto::Builder<Tracked> {
    let mut builder = auto::Builder::new(executor);
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size((window / WINDOW_PART).max(WINDOW_MIN) as u32)
        .initial_connection_window_size(window as u32)
        .max_frame_size(FRAME_MAX)
        .max_send_buf_size(UNSENT_MAX);
    builder
}

/// Hands requests to the router and says whose they are.
struct Requests {
    router: TowerToHyperService<Router>,
    peer: Arc<Peer>,
}

impl Service<Request<Incoming>> for Requests {
    type Response = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Response;
    type Error = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Error;
    type Future = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(Arc::clone(&self.peer));
        self.router.call(request)
    }
}

/// Spawns the tasks of HTTP/2 requests where the shutdown waits for them.
#[derive(Debug, Clone)]
struct Tracked {
    tasks: TaskTracker,
    aborting: CancellationToken,
}

impl<F> hyper::rt::Executor<F> for Tracked
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.tasks.spawn(self.aborting.clone().run_until_cancelled_owned(task));
    }
}

/// A stream that counts what came, up to what matters, reads much at a time where there is much, and fails when nothing goes
/// out for too long.
struct Heard<S> {
    stream: S,
    octets: Arc<AtomicUsize>,
    /// Octets read ahead. Hyper asks for 8 KiB at a time, and a system call costs more than copying them.
    spill: BytesMut,
    /// The last read got all it asked for: there is more.
    flowing: bool,
    /// A write may wait so long.
    unread_max: Duration,
    /// Ends when a write has waited too long; `None`: none waits.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Heard<S> {
    fn new(stream: S, octets: Arc<AtomicUsize>, unread_max: Duration) -> Heard<S> {
        Heard { stream, octets, spill: BytesMut::new(), flowing: false, unread_max, stalled: None }
    }

    /// Reads into `buffer`, or ahead. Memory for that is there only while much comes.
    fn read_some(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>>
    where
        S: AsyncRead + Unpin,
    {
        if self.spill.is_empty() {
            let room = buffer.remaining();
            if !self.flowing || room >= SPILL {
                let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
                self.flowing = buffer.remaining() == 0;
                return polled;
            }
            self.spill.reserve(SPILL);
            let polled = poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.spill);
            self.flowing = self.spill.len() > room;
            if self.spill.is_empty() {
                self.spill = BytesMut::new();
                return polled.map_ok(|_| ());
            }
        }
        let octets = self.spill.len().min(buffer.remaining());
        buffer.put_slice(&self.spill[..octets]);
        self.spill.advance(octets);
        if self.spill.is_empty() && !self.flowing {
            self.spill = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    fn written<T>(&mut self, polled: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stalled = None;
            return polled;
        }
        let unread_max = self.unread_max;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(unread_max)));
        stalled.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = self.read_some(cx, buffer);
        let count = self.octets.load(Ordering::Relaxed);
        if count < PREFACE {
            self.octets.store(count + buffer.filled().len() - before, Ordering::Relaxed);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, octets);
        self.written(polled, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.written(polled, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const UNREAD_MAX: Duration = Duration::from_secs(120);

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_of_what_we_write_is_cut_off() {
        let (ours, mut theirs) = tokio::io::duplex(100);
        let mut heard = Heard::new(ours, Arc::default(), UNREAD_MAX);
        let begun = tokio::time::Instant::now();
        // As slow as it likes, as long as it goes on.
        let slow = async {
            for _ in 0..5 {
                tokio::time::sleep(UNREAD_MAX / 2).await;
                theirs.read_exact(&mut [0; 100]).await.expect("octets");
            }
        };
        let (written, ()) = tokio::join!(heard.write_all(&[b'x'; 600]), slow);
        written.expect("taken in time");
        let error = heard.write_all(&[b'x'; 1]).await.expect_err("not taken");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() >= UNREAD_MAX * 3);
    }

    #[tokio::test]
    async fn what_comes_is_read_in_order_however_it_is_asked_for() {
        let content: Vec<u8> = (0..1_000_000u32).flat_map(|n| n.to_le_bytes()).take(700_001).collect();
        for (room, asked) in [(1, 100), (8192, 8192), (300_000, 8192), (300_000, 3), (300_000, 200_000)] {
            let content = &content[..content.len().min(room * 100)];
            let (ours, mut theirs) = tokio::io::duplex(room);
            let mut heard = Heard::new(ours, Arc::default(), UNREAD_MAX);
            let send = async {
                theirs.write_all(content).await.expect("read");
                drop(theirs);
            };
            let read = async {
                let (mut got, mut buffer) = (Vec::new(), vec![0; asked]);
                loop {
                    match heard.read(&mut buffer).await.expect("octets") {
                        0 => return got,
                        length => got.extend_from_slice(&buffer[..length]),
                    }
                }
            };
            let (got, ()) = tokio::join!(read, send);
            assert!(got == content, "{room} {asked}");
            assert_eq!(heard.spill.capacity(), 0, "nothing is held when nothing comes");
        }
    }
}
