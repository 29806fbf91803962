//! What the engine says happened, held against what receivers saw and what the schedule wants.

use std::borrow::Cow;
use std::time::Duration;

use posthaste::clock::Timestamp;
use posthaste::mail::{Class, MessageId};
use serde::Deserialize;

use super::{ATTEMPT_MAX, Books, Line, Submitted};

/// The retry schedule in force, as the configuration has it.
const DELAY_MIN: u64 = 300_000;
const DELAY_MAX: u64 = 4 * 3_600_000;

/// What needs nobody's answer is done this soon.
const PROMPT: Duration = Duration::from_secs(2);

/// An attempt that is due begins this soon, as long as receivers hold on to as many connections as they can.
const LATE_MAX: Duration = Duration::from_secs(2 * 3600);

/// How long somebody waits for mail he waits for, if the receiver takes it.
const URGENT_MAX: Duration = Duration::from_secs(10);

/// As events name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
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

impl Books {
    /// Event lines that are safe in the event log.
    pub fn record(&mut self, lines: &[u8]) {
        for line in lines.split(|octet| *octet == b'\n').filter(|line| !line.is_empty()) {
            self.digest.add(format_args!("{}\n", String::from_utf8_lossy(line)));
            // Notices belong to no message, and what became of the suppression list is no end of a recipient.
            let has = |text: &[u8]| line.windows(text.len()).any(|octets| octets == text);
            if !has(b"\"message_id\":\"") || has(b"\"event\":\"suppression\"") {
                continue;
            }
            match serde_json::from_slice::<Event<'_>>(line) {
                Ok(event) => self.event(&event),
                Err(error) => self.fault(format!("event {}: {error}", String::from_utf8_lossy(line))),
            }
        }
    }

    fn event(&mut self, event: &Event<'_>) {
        let time = at(&event.time);
        let Some(number) = self.line_of(&event.recipient) else { return self.report_event(event) };
        let place = self.lines[number].message;
        if self.ids.get(&event.message_id) != Some(&place) {
            return self.fault(format!("{} belongs to another message: {event:?}", event.recipient));
        }
        // After a crash a message may be there though nobody was told.
        self.keep(event.message_id);
        let (message, line) = (&self.messages[place], &self.lines[number]);
        let mut wrong = Vec::new();
        if let Some((kind, when)) = line.end {
            wrong.push(format!("had ended as {kind:?} at {when}"));
        }
        let late = match event.event {
            Kind::Expired => self.expiry(event, time, line, message, &mut wrong),
            Kind::Delivered | Kind::Deferred | Kind::Bounced | Kind::Cancelled => {
                self.attempt(event, line, message, &mut wrong)
            }
        };
        wrong.extend(self.evidence(event, time, line, message));
        let waited = self.waited(message.not_before, time);
        let urgent = line.healthy && message.class == Class::Transactional && event.event == Kind::Delivered;
        if urgent && waited > URGENT_MAX {
            wrong.push(format!("transactional mail waited {waited:?}"));
        }
        for wrong in wrong {
            self.fault(format!("{} {:?} at {time}: {wrong}", event.recipient, event.event));
        }
        if urgent {
            self.urgent.push(waited);
            self.tally.slowest_transactional = self.tally.slowest_transactional.max(waited);
        }
        self.tally.latest_attempt = self.tally.latest_attempt.max(late);
        self.enter(number, event, time);
    }

    /// Given up in time, and not before. No attempt was late.
    fn expiry(
        &self,
        event: &Event<'_>,
        time: Timestamp,
        line: &Line,
        message: &Submitted,
        wrong: &mut Vec<String>,
    ) -> Duration {
        // Who is being tried is given up when that is over; who is not, at once.
        let most = if event.attempt > line.attempts { ATTEMPT_MAX } else { PROMPT };
        let late = self.waited(message.expires_at, time);
        if time < message.expires_at || late > most {
            wrong.push(format!("{late:?} behind its expiry at {}", message.expires_at));
        }
        Duration::ZERO
    }

    /// Begun when it was due. How late it was.
    fn attempt(&self, event: &Event<'_>, line: &Line, message: &Submitted, wrong: &mut Vec<String>) -> Duration {
        let begun = message.not_before.after(Duration::from_millis(event.timings_ms.queue));
        if event.attempt != line.attempts + 1 {
            wrong.push(format!("attempt {} after {}", event.attempt, line.attempts));
        }
        if begun >= message.expires_at || begun < line.next_attempt.unwrap_or_default() {
            wrong.push(format!("begun at {begun}: due {:?}, expires {}", line.next_attempt, message.expires_at));
        }
        let late = self.waited(line.next_attempt.unwrap_or(message.not_before), begun);
        if late > LATE_MAX {
            wrong.push(format!("begun {late:?} late"));
        }
        late
    }

    /// Whether what receivers did leads to this event.
    fn evidence(&self, event: &Event<'_>, time: Timestamp, line: &Line, message: &Submitted) -> Option<String> {
        let said = |copy: &super::Kept| copy.answered.is_some_and(|answered| answered <= time);
        let excused = match event.event {
            Kind::Delivered if !line.copies.iter().any(said) => return Some("no receiver says so".into()),
            Kind::Delivered => true,
            Kind::Bounced if !line.refused && !line.nowhere && !self.sender_was_refused(event, time) => {
                return Some(format!("nobody refused it: {}", event.reply));
            }
            Kind::Bounced => line.refused,
            // There may be too much in bulk for the time it has, which is looked at when all is over; and the engine may
            // have been away.
            Kind::Expired => {
                message.class == Class::Bulk || self.waited(message.not_before, message.expires_at) <= URGENT_MAX
            }
            Kind::Deferred => {
                let next = at(event.next_attempt.as_deref().unwrap_or_default());
                if let Some(wrong) = spacing(event, time, next, message.expires_at) {
                    return Some(wrong);
                }
                false
            }
            Kind::Cancelled => return Some("nobody cancelled it".into()),
        };
        (line.healthy && !excused).then(|| format!("the receiver takes everything: {}", event.reply))
    }

    fn sender_was_refused(&self, event: &Event<'_>, time: Timestamp) -> bool {
        let refused = self.senders_refused.get(&*event.sender);
        event.command.as_deref() == Some("MAIL") && refused.is_some_and(|at| time.since(*at) < Duration::from_secs(5))
    }

    fn enter(&mut self, number: usize, event: &Event<'_>, time: Timestamp) {
        let line = &mut self.lines[number];
        line.attempts = event.attempt;
        let queued = Duration::from_millis(event.timings_ms.queue);
        line.begun = Some(self.messages[line.message].not_before.after(queued));
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
}

fn at(text: &str) -> Timestamp {
    Timestamp::parse_rfc3339(text).unwrap_or_default()
}

/// A greylisting is met again after this long, in milliseconds, so many times; then by the schedule.
const GREYLISTED: u64 = 300_000;
const GREYLISTS_BELIEVED: u32 = 5;
/// A full mailbox is left alone for this long, in milliseconds.
const MAILBOX_FULL: u64 = 4 * 3_600_000;
/// One of which it is said that it takes no more for now (4.2.1), for this long.
const MAILBOX_BUSY: u64 = 3_600_000;

/// Whether the next attempt is due when the schedule says, or the profile of such a reply.
fn spacing(event: &Event<'_>, time: Timestamp, next: Timestamp, expires_at: Timestamp) -> Option<String> {
    let attempt = event.attempt;
    let centre = DELAY_MIN.saturating_mul(1 << (attempt - 1).min(20)).min(DELAY_MAX);
    // What a reply asks for is spread by a tenth, at most by a minute.
    let asked = |wait: u64| (wait.saturating_sub(1), wait + (wait / 10).min(60_000) + 1);
    let (least, most) = if event.reply.contains("greylisted") && attempt <= GREYLISTS_BELIEVED {
        asked(GREYLISTED)
    } else if event.reply.contains("mailbox full") {
        asked(MAILBOX_FULL.min(DELAY_MAX))
    } else if event.reply.contains("later, please") {
        asked(MAILBOX_BUSY)
    } else {
        ((centre * 3 / 4).max(DELAY_MIN).saturating_sub(1), centre * 5 / 4 + 1)
    };
    let wait = next.since(time).as_millis() as u64;
    let kept = (least..=most).contains(&wait) || next == expires_at && wait <= most;
    (!kept).then(|| format!("the wait after attempt {attempt} is {wait} ms, not {least} to {most}"))
}
