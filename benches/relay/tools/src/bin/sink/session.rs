//! One SMTP session of the sink: what comes goes in, replies come out. It never waits.

use std::sync::atomic::Ordering::Relaxed;

use memchr::{memchr, memmem};

use super::stats::Stats;
use super::Receiver;

/// What is to be done after the replies were sent.
pub enum Next {
    /// Read on.
    More,
    StartTls,
    Close,
}

enum State {
    Command,
    /// Content follows, of which so many octets have no end in them.
    Data {
        seen: usize,
    },
    /// So many octets follow whatever the answer is (RFC 3030 §2).
    Chunk {
        size: usize,
        last: bool,
    },
}

pub struct Session<'a> {
    /// What came and is not whole yet.
    input: Vec<u8>,
    state: State,
    /// For whoever has the connection to send.
    pub replies: Vec<u8>,
    receiver: &'a Receiver,
    stats: &'a Stats,
    tls: bool,
    /// Accepted recipients of the transaction.
    recipients: u64,
    chunks: Vec<u8>,
}

impl<'a> Session<'a> {
    pub fn new(receiver: &'a Receiver, stats: &'a Stats) -> Self {
        Session {
            input: Vec::new(),
            state: State::Command,
            replies: Vec::new(),
            receiver,
            stats,
            tls: false,
            recipients: 0,
            chunks: Vec::new(),
        }
    }

    pub fn greet(&mut self) {
        self.say("220 sink.test ESMTP");
    }

    /// Answers what came. Most often that is whole, and nothing of it is copied.
    pub fn take(&mut self, octets: &[u8]) -> Next {
        if self.input.is_empty() {
            let (used, next) = self.answer(octets);
            self.input.extend_from_slice(&octets[used..]);
            return next;
        }
        let mut input = std::mem::take(&mut self.input);
        input.extend_from_slice(octets);
        let (used, next) = self.answer(&input);
        if used < input.len() {
            input.drain(..used);
            self.input = input;
        }
        next
    }

    /// Answers as much as is whole; says how much that was.
    fn answer(&mut self, octets: &[u8]) -> (usize, Next) {
        let mut used = 0;
        loop {
            let left = &octets[used..];
            let step = match self.state {
                State::Command => memchr(b'\n', left).map(|end| (end + 1, self.command(left[..end].trim_ascii()))),
                State::Data { seen } => self.data(left, seen).map(|length| (length, Next::More)),
                State::Chunk { size, last } => (left.len() >= size).then(|| {
                    self.chunk(&left[..size], last);
                    (size, Next::More)
                }),
            };
            match step {
                None => return (used, Next::More),
                Some((length, Next::More)) => used += length,
                // What was sent behind STARTTLS in the clear counts for nothing (RFC 3207 §4.2).
                Some((_, next)) => return (octets.len(), next),
            }
        }
    }

    fn command(&mut self, line: &[u8]) -> Next {
        let verb = line.split(|octet| *octet == b' ').next().unwrap_or_default();
        match verb.to_ascii_uppercase().as_slice() {
            b"EHLO" => self.capabilities(),
            b"HELO" => self.say("250 sink.test"),
            b"MAIL" | b"RSET" => {
                self.recipients = 0;
                self.chunks.clear();
                self.say("250 2.0.0 ok");
            }
            b"NOOP" => self.say("250 2.0.0 ok"),
            b"RCPT" => self.recipient(line),
            b"DATA" if self.recipients == 0 => self.say("554 5.5.1 no recipients"),
            b"DATA" => {
                self.say("354 go on");
                self.state = State::Data { seen: 0 };
            }
            b"BDAT" => {
                let words = String::from_utf8_lossy(line);
                let mut words = words.split_ascii_whitespace().skip(1);
                let size = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
                let last = words.next().is_some();
                self.state = State::Chunk { size, last };
            }
            b"STARTTLS" if self.receiver.tls.is_some() && !self.tls => {
                self.say("220 2.0.0 go on");
                self.tls = true;
                return Next::StartTls;
            }
            b"QUIT" => {
                self.say("221 2.0.0 bye");
                return Next::Close;
            }
            _ => self.say("502 5.5.2 what?"),
        }
        Next::More
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

    /// Content up to the lone dot; how long it was with that, if it is whole.
    fn data(&mut self, octets: &[u8], seen: usize) -> Option<usize> {
        let content_end = if octets.starts_with(b".\r\n") {
            Some(0)
        } else {
            memmem::find(&octets[seen..], b"\r\n.\r\n").map(|at| seen + at + 2)
        };
        let Some(end) = content_end else {
            self.state = State::Data {
                seen: octets.len().saturating_sub(4),
            };
            return None;
        };
        self.stats.message(&octets[..end], self.recipients, self.tls, false);
        self.recipients = 0;
        self.state = State::Command;
        self.say("250 2.0.0 ok");
        Some(end + 3)
    }

    fn chunk(&mut self, octets: &[u8], last: bool) {
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
        self.state = State::Command;
    }
}
