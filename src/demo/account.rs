//! The books: what was handed over, what the event log says became of it, what the receivers wrote down. They must
//! agree, recipient by recipient.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;

use serde::Deserialize;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, SeekFrom};

use super::receiver::Delivery;

/// One line of the event log, as far as the books need it.
#[derive(Debug, Clone, Deserialize)]
pub struct Event {
    /// `delivered`, `deferred`, `bounced`, `expired`, …
    pub event: String,
    /// The message, in the daemon's name for it; empty in a notice, which belongs to none.
    #[serde(default)]
    pub message_id: String,
    /// The address.
    #[serde(default)]
    pub recipient: String,
    /// The final reply's code, if there was one.
    #[serde(default)]
    pub code: Option<u16>,
}

impl Event {
    /// Whether nothing more will happen to this recipient.
    pub fn is_terminal(&self) -> bool {
        matches!(self.event.as_str(), "delivered" | "bounced" | "expired" | "suppressed" | "cancelled")
    }
}

/// Reads an event log that grows, line by line, from where it last stopped.
#[derive(Debug)]
pub struct EventReader {
    path: PathBuf,
    offset: u64,
    rest: Vec<u8>,
}

/// Octets read at a time.
const CHUNK: u64 = 1 << 20;

impl EventReader {
    /// Reads `path` from its beginning; it need not exist yet.
    pub fn new(path: PathBuf) -> EventReader {
        EventReader { path, offset: 0, rest: Vec::new() }
    }

    /// The events of messages added since the last call, at most one chunk's; empty when there are none. A line not yet
    /// whole is left for the next call.
    ///
    /// # Errors
    /// When the file cannot be read or a whole line is no event.
    pub async fn next(&mut self) -> io::Result<Vec<Event>> {
        let mut file = match File::open(&self.path).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            opened => opened?,
        };
        file.seek(SeekFrom::Start(self.offset)).await?;
        self.offset += file.take(CHUNK).read_to_end(&mut self.rest).await? as u64;
        let whole = memchr::memrchr(b'\n', &self.rest).map_or(0, |at| at + 1);
        let mut events = Vec::new();
        for line in self.rest[..whole].split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            let event: Event = serde_json::from_slice(line)?;
            if !event.message_id.is_empty() {
                events.push(event);
            }
        }
        self.rest.drain(..whole);
        Ok(events)
    }
}

/// How a recipient must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The receiver takes it.
    Delivered,
    /// The receiver refuses it for good.
    Bounced,
}

/// What the books say of one recipient.
#[derive(Debug, Clone)]
pub struct Entry {
    /// How it must end.
    pub expected: Fate,
    /// Which site it belongs to, in the caller's numbers.
    pub site: usize,
    /// Terminal events, the first one's name.
    pub ended: Option<String>,
    /// Terminal events in all; must be 1.
    pub terminals: u32,
    /// `deferred` events.
    pub deferred: u32,
    /// How often a receiver wrote it down.
    pub arrivals: u32,
}

/// The books of one run. Recipients are known by address, so each address may be used once.
#[derive(Debug, Default)]
pub struct Books {
    entries: HashMap<String, Entry>,
    open: usize,
    problems: Vec<String>,
    problems_total: usize,
}

/// Problems kept in words; the rest is counted.
const PROBLEMS_MAX: usize = 20;

impl Books {
    /// A recipient that must end as `expected`.
    pub fn expect(&mut self, recipient: String, site: usize, expected: Fate) {
        let entry = Entry { expected, site, ended: None, terminals: 0, deferred: 0, arrivals: 0 };
        if self.entries.insert(recipient, entry).is_none() {
            self.open += 1;
        }
    }

    /// Enters what the daemon says.
    pub fn enter_event(&mut self, event: &Event) {
        let Some(entry) = self.entries.get_mut(&event.recipient) else {
            return self.problem(format!("{}: {} but never handed over", event.recipient, event.event));
        };
        if event.is_terminal() {
            entry.terminals += 1;
            if entry.ended.is_none() {
                entry.ended = Some(event.event.clone());
                self.open -= 1;
            }
        } else if event.event == "deferred" {
            entry.deferred += 1;
        }
    }

    /// Enters what a receiver wrote down.
    pub fn enter_arrival(&mut self, delivery: &Delivery) {
        match self.entries.get_mut(&delivery.recipient) {
            Some(entry) => entry.arrivals += 1,
            None => self.problem(format!("{}: arrived but never handed over", delivery.recipient)),
        }
    }

    /// Recipients without a terminal event.
    pub fn open(&self) -> usize {
        self.open
    }

    /// All recipients.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(recipient, entry)| (recipient.as_str(), entry))
    }

    /// Closes the books: every disagreement in words, at most 20 of them, and how many there are.
    pub fn close(mut self) -> (Vec<String>, usize) {
        let mut entries: Vec<_> = std::mem::take(&mut self.entries).into_iter().collect();
        entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        for (recipient, entry) in entries {
            let (event, arrivals) = match entry.expected {
                Fate::Delivered => ("delivered", 1),
                Fate::Bounced => ("bounced", 0),
            };
            let ended = entry.ended.as_deref().unwrap_or("nothing");
            if ended != event {
                self.problem(format!("{recipient}: should be {event}, the event log says {ended}"));
            }
            if entry.terminals > 1 {
                self.problem(format!("{recipient}: {} terminal events", entry.terminals));
            }
            if entry.arrivals != arrivals {
                self.problem(format!("{recipient}: should arrive {arrivals} times, arrived {}", entry.arrivals));
            }
        }
        (self.problems, self.problems_total)
    }

    fn problem(&mut self, words: String) {
        self.problems_total += 1;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(words);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, Instant, Timestamp};

    fn event(name: &str, recipient: &str) -> Event {
        Event { event: name.into(), message_id: "0".into(), recipient: recipient.into(), code: None }
    }

    fn arrival(recipient: &str) -> Delivery {
        let (at, instant): (Timestamp, Instant) = (Clock.timestamp(), Clock.instant());
        let recipient = recipient.into();
        let sender = String::new();
        Delivery { number: None, sender, recipient, at, instant, tls: true, bytes: 1, session: 1, content: None }
    }

    /// Books with `a` to be delivered and `b` to bounce, after these entries: what is wrong.
    fn check_books(events: &[(&str, &str)], arrivals: &[&str]) -> Vec<String> {
        let mut books = Books::default();
        books.expect("a@x.test".into(), 0, Fate::Delivered);
        books.expect("b@x.test".into(), 0, Fate::Bounced);
        for (name, recipient) in events {
            books.enter_event(&event(name, recipient));
        }
        for recipient in arrivals {
            books.enter_arrival(&arrival(recipient));
        }
        books.close().0
    }

    #[test]
    fn books_agree_only_when_every_recipient_does() {
        let fine = [("deferred", "a@x.test"), ("delivered", "a@x.test"), ("bounced", "b@x.test")];
        assert_eq!(check_books(&fine, &["a@x.test"]), [""; 0]);
        for (events, arrivals, wrong) in [
            (&fine[1..], &[][..], "a@x.test: should arrive 1 times, arrived 0"),
            (&fine[1..], &["a@x.test", "a@x.test"], "a@x.test: should arrive 1 times, arrived 2"),
            (&fine[2..], &["a@x.test"], "a@x.test: should be delivered, the event log says nothing"),
            (&fine[1..2], &["a@x.test"], "b@x.test: should be bounced, the event log says nothing"),
            (&fine[1..], &["a@x.test", "b@x.test"], "b@x.test: should arrive 0 times, arrived 1"),
            (&fine[1..], &["a@x.test", "c@x.test"], "c@x.test: arrived but never handed over"),
            (&[fine[1], fine[1], fine[2]], &["a@x.test"], "a@x.test: 2 terminal events"),
        ] {
            assert_eq!(check_books(events, arrivals), [wrong]);
        }
    }

    #[tokio::test]
    async fn follows_a_growing_log() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.jsonl");
        let mut reader = EventReader::new(path.clone());
        assert!(reader.next().await.unwrap().is_empty());
        let line = r#"{"event":"delivered","message_id":"1","recipient":"a@x.test","code":250,"more":{}}"#;
        std::fs::write(&path, format!("{line}\n{}", &line[..20])).unwrap();
        assert_eq!(reader.next().await.unwrap().len(), 1);
        assert!(reader.next().await.unwrap().is_empty());
        std::fs::write(&path, format!("{line}\n{line}\n{line}\n")).unwrap();
        assert_eq!(reader.next().await.unwrap().len(), 2);
    }
}
