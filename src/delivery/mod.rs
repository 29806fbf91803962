//! Speak: SMTP sessions with receivers.
//!
//! The promise: one outcome for every recipient that got a verdict, none for those that did not, and never a verdict
//! made up from a broken connection.
//!
//! 1. [`Client::connect`] opens a session: TCP, greeting, EHLO, STARTTLS and EHLO again, AUTH at relays (`client`,
//!    `opening`, `tls`, `auth`). What went wrong with a host is remembered (`memory`), so that it costs one probe.
//! 2. [`Connection::deliver`] carries one message to some recipients (`connection`): the envelope and, where the
//!    receiver can CHUNKING, the content in one flight; replies are read while we still write (`wire`).
//! 3. Each reply is judged (`verdict`) and noted (`transaction`): delivered, deferred or failed, and whose fault.
//! 4. Between messages [`Connection::idle`] tells when the peer goes away; [`Connection::quit`] takes leave.
//!
//! Content is never copied here: it goes to the socket by vectored writes, dot-stuffed by pointing twice at the same
//! dot (`data`). Everything works on any stream, so the tests play odd servers over an in-memory pipe.

mod auth;
mod capabilities;
mod client;
mod connection;
mod data;
mod memory;
mod opening;
mod reply;
#[cfg(test)]
mod tests;
mod tls;
mod transaction;
mod verdict;
mod wire;

pub use client::{Client, ConnectError, Stage, Target};
pub use connection::{Connection, SessionFacts};
pub use transaction::{Job, Timings, Transaction};

/// Reads `octets` as replies, as a session would; for fuzzing. Returns how many there were before garbage or the end.
#[doc(hidden)]
pub fn fuzz_replies(mut octets: &[u8]) -> usize {
    let (mut replies, mut whole) = (reply::Replies::new(), 0);
    while !octets.is_empty() {
        let room = replies.room();
        let n = room.len().min(octets.len());
        room[..n].copy_from_slice(&octets[..n]);
        replies.filled(n);
        octets = &octets[n..];
        while let Ok(true) = replies.has_next(reply::EHLO_TEXT_MAX) {
            capabilities::Capabilities::parse(replies.take_next().text);
            whole += 1;
        }
        if replies.has_next(reply::TEXT_MAX).is_err() {
            return whole;
        }
    }
    whole
}
