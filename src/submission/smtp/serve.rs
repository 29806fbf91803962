//! Drives a [`Session`] over a connection: reads, writes, waits, and changes to TLS on the way.

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::super::certificate;
use super::super::door::Door;
use super::Shared;
use super::input::Input;
use super::session::{Ending, Next, Session};
use crate::clock::Instant;

/// How long we listen before we speak. Whoever talks before the banner has normally done so by then; honest clients
/// wait for it and will not notice.
const LISTEN_FIRST: Duration = Duration::from_millis(1);

/// A session silent for this long gives its read buffer back.
const REST_AFTER: Duration = Duration::from_secs(2);

/// So many octets are as good as a command: whoever sends them within `idle_timeout` gets on. At the default of five
/// minutes that is 14 a second; an octet now and then holds no place for ever (RFC 5321 §4.5.3.2.7 asks for patience
/// with who waits between commands, not with who never ends one).
const PROGRESS: usize = 4096;

/// How long a client that is cut off may go on talking, so that our last words are not lost in a reset.
const LINGER: Duration = Duration::from_millis(500);

/// How a connection begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Opening {
    /// With the banner; STARTTLS may follow.
    InTheClear,
    /// With a TLS handshake (RFC 8314 §3.3).
    Tls,
}

/// Serves one client until it goes. `client` is its canonical address.
///
/// # Cancel safety
/// Dropped, the client hears nothing more, and messages in flight are as [`Door::accept`] says.
pub(super) async fn serve<S, D>(io: S, client: IpAddr, opening: Opening, shared: Arc<Shared<D>>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    D: Door,
{
    let mut talk = Talk::new(&shared, client);
    let lost = match opening {
        Opening::InTheClear => talk.in_the_clear(io).await,
        Opening::Tls => talk.over_tls(io, true).await,
    };
    if let Err(error) = lost {
        tracing::debug!(%error, "connection lost");
    }
    // The client is gone, but what the door has begun it ends: half a hand-over helps nobody.
    while talk.session.replies().has_pending() {
        poll_fn(|context| talk.session.poll_settle(context)).await;
    }
}

/// A dialogue and what wakes it.
struct Talk<D> {
    session: Session<D>,
    input: Input,
    shared: Arc<Shared<D>>,
    closing: Pin<Box<WaitForCancellationFutureOwned>>,
    told_closing: bool,
    alarm: Pin<Box<Sleep>>,
    last_heard: Instant,
    /// When the last command was complete, the last message settled, or [`PROGRESS`] made.
    last_progress: Instant,
    /// Octets since then.
    trickled: usize,
    /// Commands at that time.
    commands: u64,
    resting: bool,
}

/// Why a dialogue that waits goes on.
enum Wake {
    Settled,
    Read(io::Result<usize>),
    Alarm,
    Closing,
}

impl<D: Door> Talk<D> {
    fn new(shared: &Arc<Shared<D>>, client: IpAddr) -> Talk<D> {
        Talk {
            session: Session::new(shared.clone(), client),
            input: Input::default(),
            shared: shared.clone(),
            closing: Box::pin(shared.controls.closing.clone().cancelled_owned()),
            told_closing: false,
            alarm: Box::pin(sleep(REST_AFTER)),
            last_heard: shared.clock.instant(),
            last_progress: shared.clock.instant(),
            trickled: 0,
            commands: 0,
            resting: false,
        }
    }

    /// From the banner to the end, or to STARTTLS and from there on.
    async fn in_the_clear<S: AsyncRead + AsyncWrite + Unpin>(&mut self, mut io: S) -> io::Result<()> {
        self.greet(&mut io).await?;
        match self.converse(&mut io).await? {
            Ending::StartTls => self.over_tls(io, false).await,
            ending => {
                part(&mut io, ending).await;
                Ok(())
            }
        }
    }

    /// Sends the banner, unless the client has spoken first.
    async fn greet<S: AsyncRead + AsyncWrite + Unpin>(&mut self, io: &mut S) -> io::Result<()> {
        match timeout(LISTEN_FIRST, self.input.read(io)).await {
            // It connected only to see whether we are here.
            Ok(Ok(0)) => self.session.hung_up(),
            Ok(Ok(_)) => self.session.spoke_first(),
            Ok(Err(error)) => return Err(error),
            Err(_silent) => self.session.greet(),
        }
        Ok(())
    }

    /// Talks until the dialogue ends and all replies are written.
    async fn converse<S: AsyncRead + AsyncWrite + Unpin>(&mut self, io: &mut S) -> io::Result<Ending> {
        loop {
            let next = self.session.advance(&mut self.input);
            if self.session.commands() != self.commands {
                self.got_on(self.last_heard);
            }
            self.write(io).await?;
            let reading = match next {
                Next::Write => continue,
                Next::Input => true,
                Next::End(ending) if !self.session.replies().has_pending() => return Ok(ending),
                Next::End(_) | Next::Settle => false,
            };
            match self.wait(io, reading).await {
                Wake::Settled => self.got_on(self.shared.clock.instant()),
                Wake::Read(Ok(0)) => self.session.hung_up(),
                Wake::Read(Ok(octets)) => self.heard(octets),
                Wake::Read(Err(error)) => return Err(error),
                Wake::Closing => {
                    self.told_closing = true;
                    self.session.leave();
                }
                Wake::Alarm => self.alarm(),
            }
        }
    }

    async fn wait<S: AsyncRead + AsyncWrite + Unpin>(&mut self, io: &mut S, reading: bool) -> Wake {
        let pending = self.session.replies().has_pending();
        let (session, input) = (&mut self.session, &mut self.input);
        tokio::select! {
            biased;
            () = poll_fn(|context| session.poll_settle(context)), if pending => Wake::Settled,
            result = input.read(io), if reading => Wake::Read(result),
            () = &mut self.closing, if !self.told_closing => Wake::Closing,
            () = &mut self.alarm => Wake::Alarm,
        }
    }

    /// All replies that are ready, in one write.
    async fn write<S: AsyncWrite + Unpin>(&mut self, io: &mut S) -> io::Result<()> {
        let patience = self.session.patience();
        let ready = self.session.replies().ready();
        if ready.is_empty() {
            return Ok(());
        }
        let writing = async {
            io.write_all(ready).await?;
            io.flush().await
        };
        timeout(patience, writing).await.map_err(|_| io::ErrorKind::TimedOut)??;
        ready.clear();
        Ok(())
    }

    fn heard(&mut self, octets: usize) {
        self.last_heard = self.shared.clock.instant();
        self.trickled += octets;
        if self.trickled >= PROGRESS {
            self.got_on(self.last_heard);
        }
        if self.resting {
            self.resting = false;
            let next = self.next_alarm();
            self.alarm.as_mut().reset(next);
        }
    }

    fn got_on(&mut self, when: Instant) {
        (self.last_progress, self.trickled, self.commands) = (when, 0, self.session.commands());
    }

    /// When the buffer may rest, or patience is at its end.
    fn next_alarm(&self) -> Instant {
        let end = self.last_progress + self.session.patience();
        if self.resting { end } else { end.min(self.last_heard + REST_AFTER) }
    }

    /// The alarm is not set anew with each octet; when it rings, it looks at how long it has really been quiet.
    fn alarm(&mut self) {
        let now = self.shared.clock.instant();
        if self.session.replies().has_pending() {
            self.got_on(now);
        }
        if now.duration_since(self.last_progress) >= self.session.patience() {
            self.session.idled();
        }
        self.resting = now.duration_since(self.last_heard) >= REST_AFTER;
        if self.resting {
            self.input.rest();
        }
        let next = self.next_alarm().max(now + Duration::from_millis(1));
        self.alarm.as_mut().reset(next);
    }

    /// Shakes hands and goes on over TLS, with the banner if it is still to be sent.
    async fn over_tls<S: AsyncRead + AsyncWrite + Unpin>(&mut self, io: S, banner: bool) -> io::Result<()> {
        let Some(config) = self.session.tls_config() else { return Ok(()) };
        let patience = self.session.patience();
        let handshake = timeout(patience, TlsAcceptor::from(config).accept(io)).await;
        let mut io = handshake.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).inspect_err(|error| {
            self.session.insecure();
            tracing::debug!(%error, "TLS handshake failed");
        })?;
        let tls = io.get_ref().1;
        self.session.secured(binding(tls), certificate::shown(tls).as_deref());
        self.input = Input::default();
        self.heard(0);
        self.got_on(self.last_heard);
        if banner {
            self.greet(&mut io).await?;
        }
        let ending = self.converse(&mut io).await?;
        part(&mut io, ending).await;
        Ok(())
    }
}

/// `tls-exporter` (RFC 9266 §4.2). Of TLS 1.2 it would need care about how the master secret was made, and clients that
/// know SCRAM-PLUS know TLS 1.3.
fn binding(tls: &rustls::ServerConnection) -> Option<Box<[u8; 32]>> {
    let is_13 = tls.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3);
    let export = || tls.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(b"")).ok();
    is_13.then(export).flatten().map(Box::new)
}

/// Closes our side, and waits a moment for the client to read why.
async fn part<S: AsyncRead + AsyncWrite + Unpin>(io: &mut S, ending: Ending) {
    let _ = timeout(LINGER, io.shutdown()).await;
    if ending == Ending::CutOff {
        let mut sink = [0; 1024];
        let _ = timeout(LINGER, async { while matches!(io.read(&mut sink).await, Ok(1..)) {} }).await;
    }
}
