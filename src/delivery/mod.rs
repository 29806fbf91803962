//! Speak: SMTP sessions with receivers.
//!
//! The promise: one outcome for every recipient that got a verdict, none for those that did not, and never a verdict
//! made up from a broken connection.
//!
//! 1. [`Client::connect`] opens a session: TCP from one of our sources, through its proxy if it has one (`link`,
//!    `proxy`), greeting, EHLO, STARTTLS and EHLO again, AUTH at relays (`client`, `opening`, `tls`, `auth`). What went wrong with a host is remembered (`memory`), so that it costs one probe.
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
mod link;
mod memory;
mod opening;
#[doc(hidden)]
pub mod probe;
mod proxy;
mod reply;
#[cfg(test)]
mod tests;
mod tls;
mod transaction;
mod verdict;
mod wire;

pub use client::{Client, ConnectError, Local, Stage, Target};
pub use connection::{Connection, SessionFacts};
pub use link::{Dialling, Link, Network};
pub use transaction::{Job, Timings, Transaction};
pub use wire::Io;
