//! One SMTP session of the sink.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use memchr::{memchr, memmem};

use super::stats::Stats;
use super::Receiver;

/// Why `Session::serve` came back.
pub enum End {
    Closed,
    StartTls,
}

/// The connection, with the distance to the other side.
///
/// With a round-trip time, replies to what arrived at `t` leave at `t + rtt`, however much else arrives meanwhile: each
/// flight waits one round trip, and flights overlap as they would on a long wire. Nothing is limited in rate, and
/// TCP's slow start is not modelled. The greeting leaves two round trips after the connection was made, since over
/// loopback the three-way handshake took none.
struct Wire<'a, S> {
    stream: S,
    /// The socket under `stream`, to wait on.
    socket: &'a TcpStream,
    rtt: Duration,
    /// When the octets came that are being answered.
    arrived: Instant,
    /// Replies that are still under way, by the time they arrive.
    held: VecDeque<(Instant, Vec<u8>)>,
}

impl<S: Read + Write> Wire<'_, S> {
    /// Sends replies, or puts them on their way.
    fn send(&mut self, replies: &mut Vec<u8>) -> io::Result<()> {
        if replies.is_empty() {
            return Ok(());
        }
        if self.rtt.is_zero() {
            self.stream.write_all(replies)?;
            self.stream.flush()?;
            replies.clear();
        } else {
            self.held.push_back((self.arrived + self.rtt, std::mem::take(replies)));
        }
        Ok(())
    }

    /// Writes what is due; returns how long until the next is.
    fn release(&mut self) -> io::Result<Option<Duration>> {
        while let Some((due, _)) = self.held.front() {
            let now = Instant::now();
            if *due > now {
                return Ok(Some(*due - now));
            }
            let (_, replies) = self.held.pop_front().expect("looked at above");
            self.stream.write_all(&replies)?;
            self.stream.flush()?;
        }
        Ok(None)
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if !self.rtt.is_zero() {
            while let Some(wait) = self.release()? {
                if readable_within(self.socket, wait)? {
                    break;
                }
            }
        }
        let count = self.stream.read(into)?;
        if !self.rtt.is_zero() {
            self.arrived = Instant::now();
        }
        Ok(count)
    }

    /// Waits until every reply is written.
    fn drain(&mut self) -> io::Result<()> {
        while let Some(wait) = self.release()? {
            std::thread::sleep(wait);
        }
        Ok(())
    }
}

/// `ppoll`, since a socket's read timeout is rounded to the scheduler's tick.
fn readable_within(socket: &TcpStream, wait: Duration) -> io::Result<bool> {
    let mut set = libc::pollfd {
        fd: socket.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let time = libc::timespec {
        tv_sec: wait.as_secs() as i64,
        tv_nsec: i64::from(wait.subsec_nanos()),
    };
    // SAFETY: both structures live across the call, and the descriptor is open.
    match unsafe { libc::ppoll(&mut set, 1, &time, std::ptr::null()) } {
        -1 => Err(io::Error::last_os_error()),
        ready => Ok(ready > 0),
    }
}

pub struct Session<'a, S> {
    wire: Wire<'a, S>,
    /// What came is between `used` and `filled`.
    input: Vec<u8>,
    used: usize,
    filled: usize,
    replies: Vec<u8>,
    receiver: &'a Receiver,
    stats: &'a Stats,
    tls: bool,
    /// Accepted recipients of the transaction.
    recipients: u64,
    chunks: Vec<u8>,
}

impl<'a, S: Read + Write> Session<'a, S> {
    pub fn new(stream: S, socket: &'a TcpStream, receiver: &'a Receiver, stats: &'a Stats, tls: bool) -> Self {
        let wire = Wire {
            stream,
            socket,
            rtt: receiver.rtt,
            arrived: Instant::now(),
            held: VecDeque::new(),
        };
        let (replies, chunks) = (Vec::new(), Vec::new());
        Session {
            wire,
            input: vec![0; 1 << 16],
            used: 0,
            filled: 0,
            replies,
            receiver,
            stats,
            tls,
            recipients: 0,
            chunks,
        }
    }

    pub fn into_stream(self) -> S {
        self.wire.stream
    }

    pub fn greet(&mut self) {
        self.say("220 sink.test ESMTP");
        self.wire.arrived += self.wire.rtt;
    }

    /// Answers commands until the client leaves or asks for TLS.
    pub fn serve(&mut self) -> io::Result<End> {
        let mut line = Vec::new();
        while self.line(&mut line)? {
            let verb = line
                .split(|octet| *octet == b' ')
                .next()
                .unwrap_or_default()
                .to_ascii_uppercase();
            match verb.as_slice() {
                b"EHLO" => self.capabilities(),
                b"HELO" => self.say("250 sink.test"),
                b"MAIL" | b"RSET" => {
                    self.recipients = 0;
                    self.chunks.clear();
                    self.say("250 2.0.0 ok");
                }
                b"NOOP" => self.say("250 2.0.0 ok"),
                b"RCPT" => self.recipient(&line),
                b"DATA" if self.recipients == 0 => self.say("554 5.5.1 no recipients"),
                b"DATA" => {
                    self.say("354 go on");
                    if !self.data()? {
                        return Ok(End::Closed);
                    }
                }
                b"BDAT" => {
                    if !self.chunk(&line)? {
                        return Ok(End::Closed);
                    }
                }
                b"STARTTLS" if self.receiver.tls.is_some() && !self.tls => {
                    self.say("220 2.0.0 go on");
                    self.wire.send(&mut self.replies)?;
                    self.wire.drain()?;
                    return Ok(End::StartTls);
                }
                b"QUIT" => {
                    self.say("221 2.0.0 bye");
                    self.wire.send(&mut self.replies)?;
                    self.wire.drain()?;
                    return Ok(End::Closed);
                }
                _ => self.say("502 5.5.2 what?"),
            }
        }
        Ok(End::Closed)
    }

    fn say(&mut self, reply: &str) {
        self.replies.extend_from_slice(reply.as_bytes());
        self.replies.extend_from_slice(b"\r\n");
    }

    fn capabilities(&mut self) {
        self.say("250-sink.test");
        self.say("250-PIPELINING");
        self.say("250-SIZE 104857600");
        if self.receiver.chunking {
            self.say("250-CHUNKING");
        }
        if self.receiver.tls.is_some() && !self.tls {
            self.say("250-STARTTLS");
        }
        self.say("250-8BITMIME");
        self.say("250 SMTPUTF8");
    }

    fn recipient(&mut self, line: &[u8]) {
        let address = &line[memchr(b'<', line).map_or(0, |at| at + 1)..];
        if self
            .receiver
            .defer
            .as_ref()
            .is_some_and(|prefix| address.starts_with(prefix.as_bytes()))
        {
            self.stats.deferred.fetch_add(1, Relaxed);
            self.say("451 4.2.1 not now");
        } else {
            self.recipients += 1;
            self.say("250 2.1.5 ok");
        }
    }

    /// Content up to the lone dot; false if the client left.
    fn data(&mut self) -> io::Result<bool> {
        let mut seen = 0;
        loop {
            let waiting = &self.input[self.used..self.filled];
            let content_end = if waiting.starts_with(b".\r\n") {
                Some(0)
            } else {
                memmem::find(&waiting[seen..], b"\r\n.\r\n").map(|at| seen + at + 2)
            };
            if let Some(end) = content_end {
                self.stats.message(&waiting[..end], self.recipients, self.tls, false);
                self.used += end + 3;
                self.recipients = 0;
                self.say("250 2.0.0 ok");
                return Ok(true);
            }
            seen = waiting.len().saturating_sub(4);
            if !self.fill()? {
                return Ok(false);
            }
        }
    }

    /// One BDAT; its octets follow whatever the answer is (RFC 3030 §2).
    fn chunk(&mut self, line: &[u8]) -> io::Result<bool> {
        let words = String::from_utf8_lossy(line);
        let mut words = words.split_ascii_whitespace().skip(1);
        let size: usize = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
        let last = words.next().is_some();
        while self.filled - self.used < size {
            if !self.fill()? {
                return Ok(false);
            }
        }
        let octets = &self.input[self.used..self.used + size];
        if self.recipients == 0 {
            self.say("554 5.5.1 no recipients");
        } else if last && self.chunks.is_empty() {
            self.stats.message(octets, self.recipients, self.tls, true);
            self.say("250 2.0.0 ok");
        } else {
            self.chunks.extend_from_slice(octets);
            if last {
                self.stats.message(&self.chunks, self.recipients, self.tls, true);
            }
            self.say("250 2.0.0 ok");
        }
        if last {
            self.chunks.clear();
            self.recipients = 0;
        }
        self.used += size;
        Ok(true)
    }

    fn line(&mut self, into: &mut Vec<u8>) -> io::Result<bool> {
        loop {
            if let Some(end) = memchr(b'\n', &self.input[self.used..self.filled]) {
                into.clear();
                into.extend_from_slice(self.input[self.used..self.used + end].trim_ascii());
                self.used += end + 1;
                return Ok(true);
            }
            if !self.fill()? {
                return Ok(false);
            }
        }
    }

    /// Sends the replies there are and reads on; false when the client has left.
    fn fill(&mut self) -> io::Result<bool> {
        self.wire.send(&mut self.replies)?;
        self.input.copy_within(self.used..self.filled, 0);
        self.filled -= self.used;
        self.used = 0;
        if self.filled == self.input.len() {
            self.input.resize(2 * self.filled, 0);
        }
        let count = self.wire.read(&mut self.input[self.filled..])?;
        self.filled += count;
        Ok(count > 0)
    }
}
