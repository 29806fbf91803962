//! What was handed over, what receivers saw of it, what the engine says of it; and whether all that agrees.
//!
//! Recipients are named so that a receiver's copy can be traced: `r17@…` is recipient 17, `u17@…` does not exist there,
//! `f17@…` has a full mailbox. Senders are `s…@…`. Nothing is asserted on the spot: faults are collected and told at the
//! end, with the seed.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt::{self, Write};
use std::hash::{DefaultHasher, Hasher};
use std::time::Duration;

use posthaste::clock::Timestamp;
use posthaste::mail::{Class, MessageId};
use serde::Deserialize;

use crate::engine::Ending;

/// The retry schedule in force, as the configuration has it.
const DELAY_MIN: u64 = 300_000;
const DELAY_MAX: u64 = 4 * 3_600_000;

/// An attempt that began in time may end so much later.
const ATTEMPT_MAX: Duration = Duration::from_secs(40 * 60);

/// What needs nobody's answer is done this soon.
const PROMPT: Duration = Duration::from_secs(2);

/// An attempt that is due begins this soon, as long as receivers hold on to as many connections as they can.
const LATE_MAX: Duration = Duration::from_secs(2 * 3600);

/// How long after its reply a copy may be forgotten in a crash: what comes before the next sync.
const IN_FLIGHT: Duration = Duration::from_secs(1);

/// A message that was handed over.
#[derive(Debug)]
pub struct Submitted {
    pub id: MessageId,
    pub class: Class,
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

/// One recipient.
#[derive(Debug)]
pub struct Line {
    pub address: String,
    message: usize,
    healthy: bool,
    nowhere: bool,
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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Delivered,
    Deferred,
    Bounced,
    Expired,
    Cancelled,
}

/// What the books need of an event.
#[derive(Debug, Deserialize)]
struct Event<'a> {
    time: Cow<'a, str>,
    event: Kind,
    message_id: MessageId,
    #[serde(borrow)]
    recipient: Cow<'a, str>,
    sender: Cow<'a, str>,
    command: Option<Cow<'a, str>>,
    attempt: u32,
    next_attempt: Option<Cow<'a, str>>,
    reply: Cow<'a, str>,
    timings_ms: Timings,
}

#[derive(Debug, Deserialize)]
struct Timings {
    queue: u64,
}

/// What happened, in numbers.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Tally {
    pub messages: usize,
    pub recipients: usize,
    pub delivered: usize,
    pub bounced: usize,
    pub expired: usize,
    pub deferrals: usize,
    pub reports: usize,
    /// Copies beyond the first, each explained.
    pub repeats: usize,
    pub connections: usize,
    pub connections_max: usize,
    pub waiting_max: usize,
    pub lives: usize,
    /// To a place that takes everything, whatever stood in line there.
    pub slowest_transactional: Duration,
    /// From when an attempt was due to when it began, at any place.
    pub latest_attempt: Duration,
    /// Octets of the log, and how many of them live, when there were most.
    pub log_bytes_max: (u64, u64),
}

/// A sum over everything that happened, in order.
#[derive(Debug, Default)]
pub struct Digest(DefaultHasher);

impl Digest {
    /// Adds a text.
    pub fn add(&mut self, what: fmt::Arguments<'_>) {
        let _ = self.write_fmt(what);
    }

    /// The sum so far.
    pub fn sum(&self) -> u64 {
        self.0.finish()
    }
}

impl Write for Digest {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
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
    /// When the engine was away, and how it went.
    outages: Vec<(Timestamp, Timestamp, Ending)>,
    pub digest: Digest,
    pub tally: Tally,
    faults: Vec<String>,
}

impl Books {
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

    /// A message is about to be handed over. Recipients: address, whether at a healthy place, whether nowhere.
    pub fn submit(&mut self, message: Submitted, recipients: Vec<(String, bool, bool)>) {
        self.tally.messages += 1;
        let place = self.messages.len();
        self.ids.insert(message.id, place);
        self.lines.extend(recipients.into_iter().map(|(address, healthy, nowhere)| Line {
            address,
            message: place,
            healthy,
            nowhere,
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
            self.lines[number].copies.push(Kept { at: now, answered: None });
        }
        copies
    }

    /// The replies for these copies were written.
    pub fn answered(&mut self, copies: &[(usize, usize)], now: Timestamp) {
        for (number, copy) in copies {
            self.lines[*number].copies[*copy].answered = Some(now);
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

    /// Event lines that are safe in the event log.
    pub fn record(&mut self, lines: &[u8]) {
        for line in lines.split(|octet| *octet == b'\n').filter(|line| !line.is_empty()) {
            self.digest.add(format_args!("{}\n", String::from_utf8_lossy(line)));
            match serde_json::from_slice::<Event<'_>>(line) {
                Ok(event) => self.event(&event),
                Err(error) => self.fault(format!("event {}: {error}", String::from_utf8_lossy(line))),
            }
        }
    }

    fn event(&mut self, event: &Event<'_>) {
        let at = |text: &str| Timestamp::parse_rfc3339(text).unwrap_or_default();
        let time = at(&event.time);
        let Some(number) = self.line_of(&event.recipient) else { return self.report_event(event) };
        let place = self.lines[number].message;
        if self.ids.get(&event.message_id) != Some(&place) {
            return self.fault(format!("{} belongs to another message: {event:?}", event.recipient));
        }
        // After a crash a message may be there though nobody was told.
        self.keep(event.message_id);
        let (message, line) = (&self.messages[place], &self.lines[number]);
        let begun = message.not_before.after(Duration::from_millis(event.timings_ms.queue));
        let mut wrong = Vec::new();
        if let Some((kind, when)) = line.end {
            wrong.push(format!("had ended as {kind:?} at {when}"));
        }
        if event.event == Kind::Expired {
            // Who is being tried is given up when that is over; who is not, at once.
            let most = if event.attempt > line.attempts { ATTEMPT_MAX } else { PROMPT };
            let late = self.waited(message.expires_at, time);
            if time < message.expires_at || late > most {
                wrong.push(format!("{late:?} behind its expiry at {}", message.expires_at));
            }
        } else {
            if event.attempt != line.attempts + 1 {
                wrong.push(format!("attempt {} after {}", event.attempt, line.attempts));
            }
            if begun >= message.expires_at || begun < line.next_attempt.unwrap_or_default() {
                wrong.push(format!("begun at {begun}: due {:?}, expires {}", line.next_attempt, message.expires_at));
            }
        }
        match event.event {
            Kind::Delivered => {
                if !line.copies.iter().any(|copy| copy.answered.is_some_and(|answered| answered <= time)) {
                    wrong.push("no receiver says so".into());
                }
            }
            Kind::Bounced if !line.refused && !line.nowhere && !self.sender_was_refused(event, time) => {
                wrong.push(format!("nobody refused it: {}", event.reply))
            }
            Kind::Deferred => {
                let next = at(event.next_attempt.as_deref().unwrap_or_default());
                wrong.extend(spacing(event.attempt, time, next, message.expires_at));
            }
            Kind::Bounced | Kind::Expired => {}
            Kind::Cancelled => wrong.push("nobody cancelled it".into()),
        }
        let had_time = self.waited(message.not_before, message.expires_at) > Duration::from_secs(10);
        let excused = match event.event {
            Kind::Delivered => true,
            Kind::Bounced => line.refused,
            Kind::Expired => !had_time,
            Kind::Deferred | Kind::Cancelled => false,
        };
        if line.healthy && !excused {
            wrong.push(format!("the receiver takes everything: {}", event.reply));
        }
        let late = match event.event {
            Kind::Expired => Duration::ZERO,
            _ => self.waited(line.next_attempt.unwrap_or(message.not_before), begun),
        };
        if late > LATE_MAX {
            wrong.push(format!("begun {late:?} late"));
        }
        let waited = self.waited(message.not_before, time);
        let urgent = line.healthy && message.class == Class::Transactional && event.event == Kind::Delivered;
        if urgent && waited > Duration::from_secs(10) {
            wrong.push(format!("transactional mail waited {waited:?}"));
        }
        for wrong in wrong {
            self.fault(format!("{} {:?} at {time}: {wrong}", event.recipient, event.event));
        }
        if urgent {
            self.tally.slowest_transactional = self.tally.slowest_transactional.max(waited);
        }
        self.tally.latest_attempt = self.tally.latest_attempt.max(late);
        self.enter(number, event, time);
    }

    /// So many recipients wait.
    pub fn waiting(&mut self, recipients: usize) {
        self.tally.waiting_max = self.tally.waiting_max.max(recipients);
    }

    /// The log has so many octets, and so many of them live.
    pub fn log_size(&mut self, bytes: u64, live: u64, segment: u64, now: Timestamp) {
        // Its promise, and a segment for the one that is written to.
        if bytes > live * 13 / 10 + 5 * segment {
            self.fault(format!("at {now}: the log has {bytes} octets, {live} of them live"));
        }
        self.tally.log_bytes_max = self.tally.log_bytes_max.max((bytes, live));
    }

    fn sender_was_refused(&self, event: &Event<'_>, time: Timestamp) -> bool {
        let refused = self.senders_refused.get(&*event.sender);
        event.command.as_deref() == Some("MAIL") && refused.is_some_and(|at| time.since(*at) < Duration::from_secs(5))
    }

    fn enter(&mut self, number: usize, event: &Event<'_>, time: Timestamp) {
        let line = &mut self.lines[number];
        line.attempts = event.attempt;
        match event.event {
            Kind::Deferred => {
                self.tally.deferrals += 1;
                line.next_attempt = event.next_attempt.as_deref().and_then(Timestamp::parse_rfc3339);
                return;
            }
            Kind::Delivered => self.tally.delivered += 1,
            Kind::Bounced => self.tally.bounced += 1,
            Kind::Expired | Kind::Cancelled => self.tally.expired += 1,
        }
        line.end = Some((event.event, time));
    }

    /// An event of a report.
    fn report_event(&mut self, event: &Event<'_>) {
        if !event.recipient.starts_with('s') {
            return self.fault(format!("an event of nobody: {event:?}"));
        }
        if event.event != Kind::Deferred {
            self.tally.reports += 1;
            if !self.reports_ended.insert((event.message_id, event.recipient.to_string())) {
                self.fault(format!("a report ended twice: {event:?}"));
            }
        }
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

    /// All mail is through.
    pub fn finish(&mut self) {
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
            let answered = copy.answered?;
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

/// Whether the next attempt is due when the schedule says.
fn spacing(attempt: u32, time: Timestamp, next: Timestamp, expires_at: Timestamp) -> Option<String> {
    let centre = DELAY_MIN.saturating_mul(1 << (attempt - 1).min(20)).min(DELAY_MAX);
    let least = (centre * 3 / 4).max(DELAY_MIN).saturating_sub(1);
    let most = centre * 5 / 4 + 1;
    let wait = next.since(time).as_millis() as u64;
    let kept = (least..=most).contains(&wait) || next == expires_at && wait <= most;
    (!kept).then(|| format!("the wait after attempt {attempt} is {wait} ms, not {least} to {most}"))
}
