//! What was handed over, what receivers saw of it, what the engine says of it; and whether all that agrees.
//!
//! Recipients are named so that a receiver's copy can be traced: `r17@…` is recipient 17, `u17@…` does not exist there,
//! `f17@…` has a full mailbox. Senders are `s…@…`. Nothing is asserted on the spot: faults are collected and told at the
//! end, with the seed.

mod events;
mod flat;
mod tally;
mod waits;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use posthaste::clock::Timestamp;
use posthaste::mail::{Class, MessageId};
use posthaste::queue::census;
use posthaste::spool;

use crate::engine::Ending;
use events::Kind;
pub use tally::{Digest, Tally};
pub use waits::Pace;

/// An attempt that began in time may end so much later.
const ATTEMPT_MAX: Duration = Duration::from_secs(40 * 60);

/// How long after its reply a copy may be forgotten in a crash: what comes before the next sync.
const IN_FLIGHT: Duration = Duration::from_secs(1);

/// A message that was handed over.
#[derive(Debug)]
pub struct Submitted {
    pub id: MessageId,
    pub class: Class,
    pub tenant: Box<str>,
    /// Tenant and campaign.
    pub stream: Box<str>,
    pub not_before: Timestamp,
    pub expires_at: Timestamp,
    pub content_crc: u32,
    /// Places of its recipients in the books.
    pub recipients: std::ops::Range<usize>,
    /// It has been told that it is kept; or, after a crash, it turned out to be.
    pub kept: bool,
    /// Its sender can hear of failure.
    pub reachable: bool,
}

/// A recipient of a message that is handed over.
#[derive(Debug)]
pub struct Addressed {
    pub address: String,
    /// Where it lives everybody is answered at once, and well.
    pub healthy: bool,
    /// DNS says no for certain.
    pub nowhere: bool,
    /// The site it lives at, if it is always the same.
    pub site: Option<usize>,
}

/// One recipient.
#[derive(Debug)]
pub struct Line {
    pub address: String,
    message: usize,
    healthy: bool,
    nowhere: bool,
    site: Option<usize>,
    /// When the last attempt began.
    begun: Option<Timestamp>,
    attempts: u32,
    next_attempt: Option<Timestamp>,
    end: Option<(Kind, Timestamp)>,
    refused: bool,
    copies: Vec<Kept>,
    reports: usize,
}

/// A copy at a receiver.
#[derive(Debug)]
struct Kept {
    at: Timestamp,
    answered: Option<Timestamp>,
    /// The client had no reason to leave before.
    heard: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Books {
    messages: Vec<Submitted>,
    lines: Vec<Line>,
    ids: HashMap<MessageId, usize>,
    /// Ends of messages that are not ours: reports.
    reports_ended: HashSet<(MessageId, String)>,
    /// Senders whose MAIL was refused for good somewhere, and when last: the receiver did not hear for whom it was.
    senders_refused: HashMap<String, Timestamp>,
    /// Whose mail was held back by an operator, and when.
    pauses: Vec<(Box<str>, Timestamp, Timestamp)>,
    /// When the engine was away, and how it went.
    outages: Vec<(Timestamp, Timestamp, Ending)>,
    /// How long transactional mail waited for a place that takes everything.
    pub urgent: Vec<Duration>,
    pub digest: Digest,
    pub tally: Tally,
    faults: Vec<String>,
}

impl Books {
    /// When each recipient of a tenant's mail came in, and when it was delivered, in order of coming; `None`: it was not.
    pub fn delivered(&self, tenant: &str) -> Vec<(Timestamp, Option<Timestamp>)> {
        let ended = |line: &Line| line.end.filter(|(kind, _)| *kind == Kind::Delivered).map(|(_, at)| at);
        let lines = self.lines.iter().map(|line| (&self.messages[line.message], line));
        lines.filter(|(message, _)| &*message.tenant == tenant).map(|(m, line)| (m.not_before, ended(line))).collect()
    }

    /// Something that must not be.
    pub fn fault(&mut self, what: String) {
        if self.faults.len() < 20 {
            self.faults.push(what);
        }
    }

    /// What went wrong.
    pub fn faults(&self) -> &[String] {
        &self.faults
    }

    /// The number the next recipient gets.
    pub fn next_line(&self) -> usize {
        self.lines.len()
    }

    /// A message is about to be handed over.
    pub fn submit(&mut self, message: Submitted, recipients: Vec<Addressed>) {
        self.tally.messages += 1;
        let place = self.messages.len();
        self.ids.insert(message.id, place);
        self.lines.extend(recipients.into_iter().map(|recipient| Line {
            address: recipient.address,
            message: place,
            healthy: recipient.healthy,
            nowhere: recipient.nowhere,
            site: recipient.site,
            begun: None,
            attempts: 0,
            next_attempt: None,
            end: None,
            refused: false,
            copies: Vec::new(),
            reports: 0,
        }));
        self.messages.push(message);
    }

    /// It was told that it is kept.
    pub fn keep(&mut self, id: MessageId) {
        if let Some(place) = self.ids.get(&id)
            && !std::mem::replace(&mut self.messages[*place].kept, true)
        {
            self.tally.recipients += self.messages[*place].recipients.len();
        }
    }

    /// The engine was away.
    pub fn outage(&mut self, from: Timestamp, until: Timestamp, ending: Ending) {
        self.outages.push((from, until, ending));
    }

    /// The recipient of that address, if it is one of ours.
    fn line_of(&self, address: &str) -> Option<usize> {
        let number: usize = address.strip_prefix(['r', 'u', 'f'])?.split_once('@')?.0.parse().ok()?;
        self.lines.get(number).filter(|line| line.address == address).map(|_| number)
    }

    /// A receiver was asked for this recipient.
    pub fn asked(&mut self, address: &str, now: Timestamp) {
        let Some(line) = self.line_of(address).map(|number| &self.lines[number]) else { return };
        let message = &self.messages[line.message];
        let early = now < message.not_before || line.next_attempt.is_some_and(|next| now < next);
        if early {
            let (not_before, next) = (message.not_before, line.next_attempt);
            self.fault(format!("{address} was tried at {now}, before {not_before} or {next:?}"));
        } else if now > message.expires_at.after(ATTEMPT_MAX) {
            let expires_at = message.expires_at;
            self.fault(format!("{address} was tried at {now}, long after {expires_at}"));
        }
    }

    /// A receiver refused this recipient for good.
    pub fn refused(&mut self, address: &str) {
        if let Some(number) = self.line_of(address) {
            self.lines[number].refused = true;
        }
    }

    /// A receiver refused this sender for good.
    pub fn refused_sender(&mut self, sender: &str, now: Timestamp) {
        self.senders_refused.insert(sender.into(), now);
    }

    /// A receiver keeps a copy for each of these.
    pub fn took(&mut self, recipients: &[String], content: &[u8], now: Timestamp) -> Vec<(usize, usize)> {
        let mut copies = Vec::new();
        for address in recipients {
            let Some(number) = self.line_of(address) else {
                self.read_report(content);
                continue;
            };
            let expected = self.messages[self.lines[number].message].content_crc;
            if crc32fast::hash(content) != expected {
                self.fault(format!("{address} got another content"));
            }
            copies.push((number, self.lines[number].copies.len()));
            self.lines[number].copies.push(Kept { at: now, answered: None, heard: false });
        }
        copies
    }

    /// The replies for these copies were written.
    pub fn answered(&mut self, copies: &[(usize, usize)], heard: bool, now: Timestamp) {
        for (number, copy) in copies {
            let copy = &mut self.lines[*number].copies[*copy];
            (copy.answered, copy.heard) = (Some(now), heard);
        }
    }

    /// A report came back to a sender.
    fn read_report(&mut self, content: &[u8]) {
        const FIELD: &[u8] = b"\r\nFinal-Recipient: rfc822;";
        let ends: Vec<usize> = memchr::memmem::find_iter(content, FIELD).map(|at| at + FIELD.len()).collect();
        for at in ends {
            let end = memchr::memchr(b'\r', &content[at..]).map_or(content.len(), |end| at + end);
            let address = String::from_utf8_lossy(&content[at..end]);
            match self.line_of(address.trim()) {
                Some(number) => self.lines[number].reports += 1,
                None => self.fault(format!("a report about {address:?}")),
            }
        }
    }

    /// Octets of memory of the books themselves, about.
    pub fn octets(&self) -> usize {
        let copies: usize = self.lines.iter().map(|line| line.copies.capacity()).sum();
        let names: usize = self.lines.iter().map(|line| line.address.capacity() + 16).sum();
        self.lines.capacity() * size_of::<Line>()
            + names
            + copies * size_of::<Kept>()
            + self.messages.capacity() * (size_of::<Submitted>() + 64)
            + self.ids.capacity() * (size_of::<(MessageId, usize)>() + 1)
            + self.reports_ended.capacity() * 80
            + self.urgent.capacity() * size_of::<Duration>()
    }

    /// So many recipients wait.
    pub fn waiting(&mut self, recipients: usize) {
        self.tally.waiting_max = self.tally.waiting_max.max(recipients);
    }

    /// What the engine holds at this hour.
    pub fn holds(&mut self, queue: &census::Census, spool: &spool::census::Census, cache: usize, now: Timestamp) {
        let wrong = self.tally.held.see(queue, spool, cache);
        wrong.into_iter().for_each(|wrong| self.fault(format!("at {now}: {wrong}")));
    }

    /// The log has so many octets, and so many of them live.
    pub fn log_size(&mut self, bytes: u64, live: u64, segment: u64, now: Timestamp) {
        // Its promise, and a segment for the one that is written to.
        if bytes > live * 13 / 10 + 5 * segment {
            self.fault(format!("at {now}: the log has {bytes} octets, {live} of them live"));
        }
        self.tally.log_bytes_max = self.tally.log_bytes_max.max((bytes, live));
    }

    /// How long the engine was there between the two.
    fn waited(&self, from: Timestamp, until: Timestamp) -> Duration {
        let away = self.outages.iter().map(|(away, back, _)| (*back).min(until).since((*away).max(from)));
        until.since(from).saturating_sub(away.sum())
    }

    /// Whether what waits in the queue is what must wait: message by message.
    pub fn compare(&mut self, waiting: &[(MessageId, usize)], now: Timestamp) {
        let mut expected: HashMap<MessageId, usize> = HashMap::new();
        for line in self.lines.iter().filter(|line| line.end.is_none()) {
            let message = &self.messages[line.message];
            if message.kept {
                *expected.entry(message.id).or_default() += 1;
            }
        }
        let mut wrong = Vec::new();
        for (id, open) in waiting {
            match (expected.remove(id), self.ids.contains_key(id)) {
                (Some(expected), _) if expected == *open => {}
                (Some(expected), _) => wrong.push(format!("{id}: {open} recipients wait instead of {expected}")),
                (None, true) => wrong.push(format!("{id} waits, though it ended or was refused")),
                (None, false) if self.reports_ended.iter().any(|(ended, _)| ended == id) => {
                    wrong.push(format!("the report {id} waits, though it ended"));
                }
                (None, false) => {}
            }
        }
        wrong.extend(expected.into_iter().map(|(id, open)| format!("{id} with {open} recipients is lost")));
        wrong.sort();
        wrong.into_iter().for_each(|wrong| self.fault(format!("at {now}: {wrong}")));
    }

    /// Messages found in the queue are kept, though their clients have not heard yet or, after a crash, never will.
    pub fn adopt(&mut self, waiting: &[(MessageId, usize)]) {
        waiting.iter().for_each(|(id, _)| self.keep(*id));
    }

    /// All mail is through, and took no longer than that.
    pub fn finish(&mut self, pace: Pace) {
        self.check_waits(pace);
        let mut wrong = Vec::new();
        for line in &self.lines {
            let message = &self.messages[line.message];
            match line.end {
                None if message.kept => wrong.push(format!("{} never ended", line.address)),
                None if !line.copies.is_empty() => wrong.push(format!("{} was sent and never kept", line.address)),
                None => {}
                Some((kind, _)) => {
                    wrong.extend(self.repeats(line, kind).map(|why| format!("{}: {why}", line.address)));
                    let failed = matches!(kind, Kind::Bounced | Kind::Expired);
                    if message.reachable && (failed != (line.reports > 0)) {
                        wrong.push(format!(
                            "{} ended as {kind:?} and was reported {} times",
                            line.address, line.reports
                        ));
                    }
                }
            }
        }
        wrong.into_iter().for_each(|wrong| self.fault(wrong));
        self.tally.repeats = self.lines.iter().map(|line| line.copies.len().saturating_sub(1)).sum();
        self.tally.lives = self.outages.len() + 1;
    }

    /// Why there are more copies than there should be, if nothing explains them.
    fn repeats(&self, line: &Line, end: Kind) -> Option<String> {
        let known = |copy: &Kept| {
            let answered = copy.answered.filter(|_| copy.heard)?;
            let forgotten = |(went, _, ending): &(Timestamp, Timestamp, Ending)| {
                *ending != Ending::Clean && *went >= answered && went.since(answered) <= IN_FLIGHT
            };
            (!self.outages.iter().any(forgotten)).then_some(copy.at)
        };
        let known: Vec<Timestamp> = line.copies.iter().filter_map(known).collect();
        let most = usize::from(end == Kind::Delivered);
        (known.len() > most).then(|| format!("ended as {end:?} with copies at {known:?}"))
    }
}
