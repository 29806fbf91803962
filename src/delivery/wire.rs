//! Writing and reading at once, on a stream that may become TLS half-way.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout_at;
use tokio_rustls::client::TlsStream;

use super::data::{Outbox, WINDOW};
use super::reply::{Garbage, Replies, ReplyRef};
use crate::clock::Clock;
use crate::mail::{Blame, EnhancedCode, Failure, Origin, Reply};

/// After a write failed, how long to listen for the reason.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What a session can run on: a TCP stream, or a pipe in tests.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Io for S {}

/// In the clear or not.
#[derive(Debug)]
pub(super) enum Stream<S> {
    Plain(S),
    Tls(Box<TlsStream<S>>),
    /// Between the two; every use fails.
    Gone,
}

/// How a session broke. None of it is a verdict on a message.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("the receiver closed the connection instead of answering {command}")]
    Closed { command: &'static str },
    #[error("the receiver did not answer {command} within {waited:?}")]
    Silent { command: &'static str, waited: Duration },
    #[error("the receiver took nothing for {waited:?}")]
    Stuck { command: &'static str, waited: Duration },
    #[error("the connection broke at {command}: {source}")]
    Lost { command: &'static str, source: io::Error },
    #[error("answer to {command}: {garbage}")]
    Garbage { command: &'static str, garbage: Garbage },
    /// 421.
    #[error("the receiver is closing: {reply}")]
    Closing { command: &'static str, reply: Reply },
    #[error("the receiver offers CHUNKING and refuses BDAT: {reply}")]
    NoChunking { reply: Reply },
}

impl Broken {
    /// What was being answered.
    pub(super) fn command(&self) -> &'static str {
        match self {
            Broken::Closed { command }
            | Broken::Silent { command, .. }
            | Broken::Stuck { command, .. }
            | Broken::Lost { command, .. }
            | Broken::Garbage { command, .. }
            | Broken::Closing { command, .. } => command,
            Broken::NoChunking { .. } => "BDAT",
        }
    }

    /// In the words of a reply, always 4yz.
    pub(super) fn into_failure(self) -> Failure {
        let text = self.to_string();
        match self {
            Broken::Closing { command, reply } => {
                Failure { blame: Blame::EgressPath, origin: Origin::Remote { command }, reply }
            }
            Broken::Garbage { .. } | Broken::NoChunking { .. } => {
                Failure::ours(Blame::Site, EnhancedCode(4, 5, 0), text)
            }
            Broken::Closed { .. } | Broken::Silent { .. } | Broken::Stuck { .. } | Broken::Lost { .. } => {
                Failure::ours(Blame::EgressPath, EnhancedCode(4, 4, 2), text)
            }
        }
    }
}

/// A stream and the replies read from it.
#[derive(Debug)]
pub(super) struct Wire<S> {
    pub(super) stream: Stream<S>,
    pub(super) replies: Replies,
}

/// What happened next.
#[derive(Debug)]
pub(super) enum Moved {
    Wrote,
    Read,
    Closed,
    WriteFailed(io::Error),
    ReadFailed(io::Error),
}

impl<S: Io> Wire<S> {
    pub(super) fn new(stream: S) -> Wire<S> {
        Wire { stream: Stream::Plain(stream), replies: Replies::new() }
    }

    /// Writes from `out`, or reads, whichever can be done; both are tried, so that a receiver which answers while we
    /// write can never make the two of us wait for each other.
    ///
    /// # Cancel safety
    /// Safe: nothing is lost between two calls.
    pub(super) async fn advance(&mut self, out: Option<&mut Outbox<'_>>) -> Moved {
        let Wire { stream, replies } = self;
        let mut out = out.filter(|out| !out.is_sent());
        poll_fn(move |cx| {
            if let Some(out) = &mut out
                && let Poll::Ready(written) = stream.poll_send(cx, out)
            {
                return Poll::Ready(written.map_or_else(Moved::WriteFailed, |()| Moved::Wrote));
            }
            let mut room = ReadBuf::new(replies.room());
            match Pin::new(&mut *stream).poll_read(cx, &mut room) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Err(error)) => Poll::Ready(Moved::ReadFailed(error)),
                Poll::Ready(Ok(())) => {
                    let read = room.filled().len();
                    replies.filled(read);
                    Poll::Ready(if read == 0 { Moved::Closed } else { Moved::Read })
                }
            }
        })
        .await
    }

    /// Writes one command and waits for its reply, of which `text_max` octets are kept.
    pub(super) async fn command(
        &mut self,
        line: &[u8],
        command: &'static str,
        limit: Duration,
        text_max: usize,
    ) -> Result<ReplyRef<'_>, Broken> {
        if !self.replies.is_empty() {
            return Err(Broken::Garbage { command, garbage: Garbage::OutOfTurn });
        }
        let mut out = Outbox::plain(&[line]);
        self.answer(&mut out, command, limit, limit, text_max).await
    }

    /// Waits for one reply while writing what remains of `out`. Each write that gets on has `write_limit`; once all is
    /// out, the whole reply has `limit`, however slowly it drips.
    pub(super) async fn answer(
        &mut self,
        out: &mut Outbox<'_>,
        command: &'static str,
        write_limit: Duration,
        limit: Duration,
        text_max: usize,
    ) -> Result<ReplyRef<'_>, Broken> {
        let mut waited = if out.is_sent() { limit } else { write_limit };
        let mut deadline = Clock.instant() + waited;
        let mut write_error = None;
        while !self.replies.has_next(text_max).map_err(|garbage| Broken::Garbage { command, garbage })? {
            let writing = if write_error.is_none() { Some(&mut *out) } else { None };
            match timeout_at(deadline, self.advance(writing)).await {
                Ok(Moved::Wrote) => {
                    waited = if out.is_sent() { limit } else { write_limit };
                    deadline = Clock.instant() + waited;
                }
                Ok(Moved::Read) => {}
                // The peer may have said why before it closed; that is worth more than "broken pipe".
                Ok(Moved::WriteFailed(error)) => {
                    write_error = Some(error);
                    deadline = Clock.instant() + LAST_WORDS;
                }
                Ok(Moved::ReadFailed(source)) => {
                    return Err(Broken::Lost { command, source: write_error.unwrap_or(source) });
                }
                Ok(Moved::Closed) => {
                    return Err(match write_error {
                        Some(source) => Broken::Lost { command, source },
                        None => Broken::Closed { command },
                    });
                }
                Err(_) => {
                    return Err(match write_error {
                        Some(source) => Broken::Lost { command, source },
                        None if out.is_sent() => Broken::Silent { command, waited },
                        None => Broken::Stuck { command, waited },
                    });
                }
            }
        }
        Ok(self.replies.take_next())
    }
}

impl<S: Io> Stream<S> {
    /// One step: writes some of `out`, or flushes once all is written.
    fn poll_send(&mut self, cx: &mut Context<'_>, out: &mut Outbox<'_>) -> Poll<io::Result<()>> {
        let mut room = [IoSlice::new(&[]); WINDOW];
        let slices = out.next(&mut room);
        if slices.is_empty() {
            return Pin::new(self).poll_flush(cx).map_ok(|()| out.set_sent(Clock.instant()));
        }
        match Pin::new(self).poll_write_vectored(cx, slices) {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(Ok(octets)) => {
                out.wrote(octets);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }
}

fn gone<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
}

impl<S: Io> AsyncRead for Stream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Gone => gone(),
        }
    }
}

impl<S: Io> AsyncWrite for Stream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Gone => gone(),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Stream::Gone => gone(),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
            Stream::Gone => false,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Gone => gone(),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Gone => gone(),
        }
    }
}
