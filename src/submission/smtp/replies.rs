//! The replies a session owes, in order. Some are known at once; the one to a message waits for the door.

use std::collections::VecDeque;
use std::io::Write;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::super::rejection::Rejection;
use super::limits::MemoryShare;
use super::sasl::Verified;
use crate::access::AccessError;
use crate::mail::{MessageId, Receipt, Reply};

/// What a reply waits for.
pub(super) type Waiting = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// What came of it.
pub(super) enum Outcome {
    /// The door has spoken on a message.
    Message(Answer),
    /// Credentials are checked.
    Check(Result<Verified, AccessError>),
}

/// What the door says to a message.
pub(super) type Answer = Result<Receipt, Rejection>;

/// Messages in flight in one session. More would not make group commits larger, only memory.
const PENDING_MAX: usize = 64;

/// Octets of replies held back for writing. A client that pipelines without reading stalls here.
const READY_MAX: usize = 32 << 10;

/// Longest line of a reply, in octets without CRLF (RFC 5321 §4.5.3.1.5).
const LINE_MAX: usize = 510;

/// The queue of replies: octets that can be written now, then what is in flight (messages, and credentials being
/// checked), each with what stands behind it.
#[derive(Default)]
pub(super) struct Replies {
    ready: Vec<u8>,
    pending: VecDeque<Pending>,
}

struct Pending {
    waiting: Waiting,
    /// Of a message.
    ticket: Option<Ticket>,
    behind: Vec<u8>,
}

/// A message in flight.
#[derive(Debug)]
pub(super) struct Ticket {
    /// Its id.
    pub(super) id: MessageId,
    record: Option<Box<Record>>,
    _memory: MemoryShare,
}

/// What the log says of an accepted message.
#[derive(Debug)]
pub(super) struct Record {
    /// The envelope's sender.
    pub(super) from: String,
    /// How many recipients it has.
    pub(super) recipients: usize,
    /// Octets as it goes out.
    pub(super) bytes: usize,
    /// It came over TLS.
    pub(super) tls: bool,
}

impl Ticket {
    /// `memory` is that of the content, held until the door has answered; `record` is `None` when nobody reads the log.
    pub(super) fn new(id: MessageId, record: Option<Box<Record>>, memory: MemoryShare) -> Ticket {
        Ticket { id, record, _memory: memory }
    }

    /// The log line of an accepted message; the span names the client.
    pub(super) fn log_accepted(&self) {
        if let Some(Record { from, recipients, bytes, tls }) = self.record.as_deref() {
            tracing::debug!(message_id = %self.id, from, recipients, bytes, tls, "accepted");
        }
    }
}

impl Replies {
    /// Queues octets that are a reply already.
    pub(super) fn push_raw(&mut self, octets: &[u8]) {
        self.tail().extend_from_slice(octets);
    }

    /// Queues a reply.
    pub(super) fn push(&mut self, reply: &Reply) {
        print(reply, self.tail());
    }

    /// Queues the place of the reply to a message in flight.
    pub(super) fn push_pending(&mut self, waiting: Waiting, ticket: Ticket) {
        self.pending.push_back(Pending { waiting, ticket: Some(ticket), behind: Vec::new() });
    }

    /// Queues the place of the reply to credentials being checked.
    pub(super) fn push_check(&mut self, waiting: Waiting) {
        self.pending.push_back(Pending { waiting, ticket: None, behind: Vec::new() });
    }

    fn tail(&mut self) -> &mut Vec<u8> {
        self.pending.back_mut().map_or(&mut self.ready, |last| &mut last.behind)
    }

    /// Octets to be written now. The caller clears them when they are.
    pub(super) fn ready(&mut self) -> &mut Vec<u8> {
        &mut self.ready
    }

    /// Whether something is in flight.
    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether to stop taking commands until some replies are written.
    pub(super) fn is_full(&self) -> bool {
        let behind = self.pending.back().map_or(0, |last| last.behind.len());
        self.pending.len() >= PENDING_MAX || self.ready.len() >= READY_MAX || behind >= READY_MAX
    }

    /// Waits for the oldest in flight. Its reply is to be given with [`Replies::settle`]; until then it must not be
    /// polled again.
    pub(super) fn poll_oldest(&mut self, context: &mut Context<'_>) -> Poll<Option<Outcome>> {
        let Some(oldest) = self.pending.front_mut() else { return Poll::Ready(None) };
        Poll::Ready(Some(ready!(oldest.waiting.as_mut().poll(context))))
    }

    /// Puts the reply to the oldest in its place and lets go what stood behind it. `reply` is given the ticket, if the
    /// oldest is a message.
    pub(super) fn settle(&mut self, reply: impl FnOnce(Option<&Ticket>) -> Reply) {
        let Some(oldest) = self.pending.pop_front() else { return };
        print(&reply(oldest.ticket.as_ref()), &mut self.ready);
        self.ready.extend_from_slice(&oldest.behind);
    }
}

/// Writes a reply as it goes over the wire. Octets that could break a line or a terminal are replaced: texts quote what
/// the client sent.
fn print(reply: &Reply, out: &mut Vec<u8>) {
    let mut lines = reply.text.split('\n').peekable();
    while let Some(line) = lines.next() {
        let mark = if lines.peek().is_some() { '-' } else { ' ' };
        let start = out.len();
        match reply.enhanced {
            Some(enhanced) => write!(out, "{:03}{mark}{enhanced} ", reply.code),
            None => write!(out, "{:03}{mark}", reply.code),
        }
        .expect("a Vec takes all");
        out.extend(line.chars().map(|c| if matches!(c, ' '..='~') { c as u8 } else { b'?' }));
        out.truncate(start + LINE_MAX);
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::task::Waker;

    use super::super::limits::Memory;
    use super::*;
    use crate::mail::EnhancedCode;

    fn ticket(id: u64) -> Ticket {
        Ticket::new(MessageId(id), None, MemoryShare::empty(Memory::new(0)))
    }

    #[test]
    fn prints_replies_that_cannot_inject() {
        let check = |reply: Reply, expected: &str| {
            let mut out = Vec::new();
            print(&reply, &mut out);
            assert_eq!(String::from_utf8_lossy(&out), expected);
        };
        let code = EnhancedCode(5, 1, 1);
        check(Reply::ours(550, code, "one\ntwo"), "550-5.1.1 one\r\n550 5.1.1 two\r\n");
        check(Reply::ours(550, code, "a\r250 ok\u{0}\u{fc}"), "550 5.1.1 a?250 ok??\r\n");
        check(Reply { code: 354, enhanced: None, text: "go".into() }, "354 go\r\n");
        let mut out = Vec::new();
        print(&Reply::ours(550, code, "x".repeat(3000)), &mut out);
        assert_eq!(out.len(), 512);
    }

    #[test]
    fn replies_keep_their_order() {
        let mut replies = Replies::default();
        replies.push_raw(b"1\r\n");
        let id = MessageId(2);
        let receipt = Receipt { id, messages: 1, accepted_at: crate::clock::Timestamp(1), replayed: false };
        replies.push_pending(Box::pin(ready(Outcome::Message(Ok(receipt)))), ticket(2));
        replies.push_raw(b"3\r\n");
        replies.push_pending(Box::pin(pending()), ticket(4));
        replies.push_raw(b"5\r\n");
        assert_eq!(replies.ready(), b"1\r\n");
        let mut context = Context::from_waker(Waker::noop());
        let outcome = replies.poll_oldest(&mut context);
        assert!(matches!(outcome, Poll::Ready(Some(Outcome::Message(Ok(settled)))) if settled == receipt));
        replies.settle(|ticket| Reply::ours(250, EnhancedCode(2, 0, 0), ticket.expect("a message").id.to_string()));
        assert_eq!(replies.ready(), b"1\r\n250 2.0.0 0000000000002\r\n3\r\n");
        assert!(replies.poll_oldest(&mut context).is_pending());
        assert!(replies.has_pending() && !replies.is_full());
        replies.push_raw(&[b'x'; READY_MAX]);
        assert!(replies.is_full());
    }
}
