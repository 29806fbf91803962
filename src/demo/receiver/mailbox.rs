//! What a receiver took, written down before it says so.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Mutex;

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::watch;

use crate::clock::{Instant, Timestamp};

/// One recipient of one message, taken.
#[derive(Debug, Clone, Serialize)]
pub struct Delivery {
    /// The number in its `X-Number` header; for a failure report, that of the message it returns.
    pub number: Option<u64>,
    /// The reverse path; empty when null.
    pub sender: String,
    /// The address as given in RCPT.
    pub recipient: String,
    /// When its last octet was here.
    pub at: Timestamp,
    /// The same, on the monotonic clock.
    #[serde(skip)]
    pub instant: Instant,
    /// It came over TLS.
    pub tls: bool,
    /// Octets of content.
    pub bytes: usize,
    /// Which connection it came on, counted from 1.
    pub session: u64,
    /// Other recipients in the same transaction share it; kept only on request.
    #[serde(skip)]
    pub content: Option<Bytes>,
}

/// What a receiver keeps of a delivery, and where. All of it is written before the final 250 leaves.
#[derive(Debug, Clone, Default)]
pub enum Keep {
    /// The facts, in memory.
    #[default]
    Facts,
    /// The facts and the content, in memory.
    Content,
    /// The facts, appended to this file as JSON lines; only counts stay in memory.
    File(PathBuf),
}

/// Deliveries kept in memory; what passes it is refused with 452, so that memory stays bounded.
const DELIVERIES_MAX: usize = 4_000_000;

#[derive(Debug)]
pub(super) struct Mailbox {
    kept: Mutex<Kept>,
    keeps_content: bool,
    count: watch::Sender<usize>,
}

#[derive(Debug)]
enum Kept {
    Memory(Vec<Delivery>),
    File(File),
}

impl Mailbox {
    pub(super) fn open(keep: &Keep) -> io::Result<Mailbox> {
        let kept = match keep {
            Keep::Facts | Keep::Content => Kept::Memory(Vec::new()),
            Keep::File(path) => Kept::File(File::options().create(true).append(true).open(path)?),
        };
        let keeps_content = matches!(keep, Keep::Content);
        Ok(Mailbox { kept: Mutex::new(kept), keeps_content, count: watch::Sender::new(0) })
    }

    pub(super) fn keeps_content(&self) -> bool {
        self.keeps_content
    }

    /// Writes down all recipients of a message, or none.
    pub(super) fn store(&self, deliveries: Vec<Delivery>) -> io::Result<()> {
        let added = deliveries.len();
        match &mut *self.kept.lock().expect("no code panics under this lock") {
            Kept::Memory(kept) if kept.len() + added > DELIVERIES_MAX => return Err(io::ErrorKind::OutOfMemory.into()),
            Kept::Memory(kept) => kept.extend(deliveries),
            Kept::File(file) => {
                let mut lines = Vec::new();
                for delivery in &deliveries {
                    serde_json::to_writer(&mut lines, delivery)?;
                    lines.push(b'\n');
                }
                file.write_all(&lines)?;
            }
        }
        self.count.send_modify(|count| *count += added);
        Ok(())
    }

    pub(super) fn all(&self) -> Vec<Delivery> {
        match &*self.kept.lock().expect("no code panics under this lock") {
            Kept::Memory(kept) => kept.clone(),
            Kept::File(_) => Vec::new(),
        }
    }

    pub(super) fn count(&self) -> usize {
        *self.count.borrow()
    }

    pub(super) async fn reach(&self, count: usize) {
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = self.count.subscribe().wait_for(|now| *now >= count).await;
    }
}
