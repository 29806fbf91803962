//! What the receiver of the demo writes down: deliveries, counts, and the sender's manners.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::mailbox::{Delivery, Mailbox};
use super::mind::{Answer, Step};
use super::{Books, Counts, Keep, Taken};
use crate::clock::Clock;

/// Violations kept; the first ones tell the story.
const VIOLATIONS_MAX: usize = 100;

#[derive(Debug)]
pub(super) struct Record {
    pub(super) mailbox: Mailbox,
    counters: Counters,
    violations: Mutex<Vec<String>>,
}

#[derive(Debug, Default)]
struct Counters {
    connections: AtomicU64,
    tls: AtomicU64,
    tls_resumed: AtomicU64,
    messages: AtomicU64,
    refused: AtomicU64,
    deferred: AtomicU64,
    cut: AtomicU64,
}

impl Record {
    pub(super) fn open(keep: &Keep) -> io::Result<Record> {
        Ok(Record { mailbox: Mailbox::open(keep)?, counters: Counters::default(), violations: Mutex::default() })
    }

    pub(super) fn connected(&self) {
        add(&self.counters.connections);
    }

    pub(super) fn counts(&self) -> Counts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        Counts {
            connections: of(&counters.connections),
            tls: of(&counters.tls),
            tls_resumed: of(&counters.tls_resumed),
            messages: of(&counters.messages),
            refused: of(&counters.refused),
            deferred: of(&counters.deferred),
            cut: of(&counters.cut),
        }
    }

    pub(super) fn violations(&self) -> Vec<String> {
        self.violations.lock().expect("no code panics under this lock").clone()
    }
}

impl Books for Record {
    type Receipt = ();

    fn happened(&self, _host: &str, step: Step, _recipient: &str, answer: &Answer) {
        match answer {
            Answer::Cut | Answer::TakeAndCut => add(&self.counters.cut),
            Answer::Say(reply) | Answer::Close(reply) if step == Step::Rcpt && reply.starts_with('4') => {
                add(&self.counters.deferred);
            }
            Answer::Take | Answer::Say(_) | Answer::Close(_) | Answer::Hang => {}
        }
    }

    fn refused(&self, _recipient: &str) {
        add(&self.counters.refused);
    }

    fn secured(&self, resumed: bool) {
        add(&self.counters.tls);
        if resumed {
            add(&self.counters.tls_resumed);
        }
    }

    fn took(&self, taken: Taken<'_>) -> io::Result<()> {
        let number = number(taken.content, taken.sender.is_empty());
        let content = self.mailbox.keeps_content().then(|| Bytes::copy_from_slice(taken.content));
        let delivery = |recipient| Delivery {
            number,
            sender: taken.sender.to_owned(),
            recipient,
            at: Clock.timestamp(),
            instant: Clock.instant(),
            tls: taken.tls,
            bytes: taken.content.len(),
            session: taken.session,
            content: content.clone(),
        };
        self.mailbox.store(taken.recipients.into_iter().map(delivery).collect())?;
        add(&self.counters.messages);
        Ok(())
    }

    fn violation(&self, what: String) {
        let mut violations = self.violations.lock().expect("no code panics under this lock");
        if violations.len() < VIOLATIONS_MAX {
            violations.push(what);
        }
    }
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The number in the `X-Number` header; in a report, anywhere, since it stands in the message returned.
fn number(content: &[u8], report: bool) -> Option<u64> {
    let end = if report { None } else { memchr::memmem::find(content, b"\r\n\r\n") };
    let head = &content[..end.map_or(content.len(), |end| end + 2)];
    let value = if head.len() >= 9 && head[..9].eq_ignore_ascii_case(b"X-Number:") {
        &head[9..]
    } else {
        let at = memchr::memmem::find(head, b"\r\nX-Number:")?;
        &head[at + 11..]
    };
    let line = &value[..memchr::memmem::find(value, b"\r\n").unwrap_or(value.len())];
    std::str::from_utf8(line).ok()?.trim().parse().ok()
}
