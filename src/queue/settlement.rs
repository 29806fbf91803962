//! What one attempt does to one message: states, event lines, what the sender hears of.

use std::sync::Arc;

use bytes::Bytes;

use super::scheduler::Item;
use super::{Parts, Queue};
use crate::clock::Timestamp;
use crate::delivery::{SessionFacts, Transaction};
use crate::events::{Dsn, Event, Kind, Timings};
use crate::feedback::{self, Fate, ReportedRecipient, Reporter};
use crate::mail::{Blame, EnhancedCode, Failure, MessageId, Origin, Outcome, Reply};
use crate::routing::Route;
use crate::spool::{Change, End, Message, RecipientState};
use crate::suppression::Entry;
use crate::telemetry::Metrics;

/// Connections that may break under an item before it waits by the schedule.
const SPOILT_MAX: u8 = 2;

/// One attempt, as the events tell it. Borrowed facts are those of the session, if there was one.
#[derive(Debug)]
pub(super) struct Attempted<'a> {
    started: Timestamp,
    /// One per recipient of the items, in order; `None`: no verdict, try another connection.
    pub(super) outcomes: Vec<Option<Outcome>>,
    /// Stands in for every missing outcome.
    pub(super) instead: Option<Failure>,
    session: Option<(&'a Route, &'a SessionFacts)>,
    timings: Timings,
}

/// What becomes of one recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// It came to its end.
    Ended,
    /// It sleeps until the next attempt.
    Waits,
    /// Back to the front of the line.
    Again,
}

impl<'a> Attempted<'a> {
    /// No transaction took place, for this reason.
    pub(super) fn none(started: Timestamp, failure: Failure) -> Attempted<'a> {
        Attempted { started, outcomes: Vec::new(), instead: Some(failure), session: None, timings: Timings::default() }
    }

    /// A transaction took place; `fresh`: it was the first of its session.
    pub(super) fn of(
        started: Timestamp,
        route: &'a Route,
        facts: &'a SessionFacts,
        transaction: Transaction,
        fresh: bool,
    ) -> Attempted<'a> {
        let ms = |duration: std::time::Duration| duration.as_millis() as u64;
        let timings = Timings {
            queue: 0,
            connect: if fresh { ms(facts.connect) } else { 0 },
            tls: if fresh { ms(facts.handshake) } else { 0 },
            envelope: ms(transaction.timings.envelope),
            data: ms(transaction.timings.data),
            reply: ms(transaction.timings.reply),
        };
        Attempted {
            started,
            outcomes: transaction.outcomes,
            instead: transaction.session_failure,
            session: Some((route, facts)),
            timings,
        }
    }

    /// The provider it was made to; `none` if no transaction took place.
    pub(super) fn provider(&self) -> &'static str {
        self.session.map_or("none", |(route, _)| route.provider)
    }
}

/// Collects what one attempt changes about one message.
pub(super) struct Settlement<'a> {
    pub(super) message: &'a Arc<Message>,
    now: Timestamp,
    pub(super) changes: Vec<Change>,
    pub(super) events: Vec<u8>,
    /// Recipients of which the sender may want to hear: place, the last word, which host said it, what it means.
    reportable: Vec<(u32, Failure, Option<String>, Fate)>,
    /// What happened, at which provider.
    counted: Vec<(Kind, &'static str)>,
    pub(super) first_deferral: bool,
    /// Who wants to hear of delay hears now of recipients that wait, unless they are known to be late.
    pub(super) late: bool,
    /// Ends that are this settlement's to record.
    pub(super) claimed: u32,
}

impl<'a> Settlement<'a> {
    pub(super) fn new(message: &'a Arc<Message>, now: Timestamp) -> Settlement<'a> {
        Settlement {
            message,
            now,
            changes: Vec::new(),
            events: Vec::new(),
            reportable: Vec::new(),
            counted: Vec::new(),
            first_deferral: false,
            late: false,
            claimed: 0,
        }
    }

    /// Takes the recipient's end. False: another settlement came first, and tells of it.
    fn claim(&mut self, queue: &Queue, recipient: u32) -> bool {
        let first = queue.lock().end(self.message.id, recipient);
        self.claimed += u32::from(first);
        first
    }

    /// Decides what becomes of a recipient, and notes it.
    pub(super) fn judge(
        &mut self,
        queue: &Queue,
        recipient: u32,
        item: &Item,
        outcome: Option<Outcome>,
        attempted: &Attempted<'_>,
        due: Timestamp,
    ) -> Next {
        let expired = self.now >= self.message.envelope.expires_at;
        let undecided = matches!(outcome, None | Some(Outcome::Deferred(_)));
        let cancelled = undecided && queue.lock().is_cancelled(self.message.id);
        let outcome = match outcome {
            Some(outcome) => outcome,
            None if item.spoilt < SPOILT_MAX && !expired && !cancelled && attempted.session.is_some() => {
                return Next::Again;
            }
            None => Outcome::Deferred(attempted.instead.clone().unwrap_or_else(|| {
                Failure::ours(Blame::Site, EnhancedCode(4, 5, 3), "the receiver takes no more recipients at a time")
            })),
        };
        let attempts = u32::from(item.attempts) + 1;
        let attempted = Some(attempted);
        let waits = matches!(outcome, Outcome::Deferred(_)) && !expired && !cancelled;
        if !waits && !self.claim(queue, recipient) {
            return Next::Ended;
        }
        match outcome {
            Outcome::Delivered { reply } => {
                self.tell(Kind::Delivered, recipient, attempts, &Told::reply(&reply), attempted);
                self.relayed(recipient, reply, attempted);
                self.end(recipient, End::Delivered)
            }
            Outcome::Failed(failure) => {
                self.tell(Kind::Bounced, recipient, attempts, &Told::failure(&failure), attempted);
                self.fail(recipient, failure, attempted, Fate::Failed);
                self.end(recipient, End::Bounced)
            }
            Outcome::Deferred(_) if cancelled => self.taken_back(recipient, attempts, attempted),
            Outcome::Deferred(failure) if expired => {
                self.tell(Kind::Expired, recipient, attempts, &Told::failure(&failure), attempted);
                self.fail(recipient, failure, attempted, Fate::Expired);
                self.end(recipient, End::Expired)
            }
            Outcome::Deferred(failure) => {
                let told = Told { next_attempt: Some(due), ..Told::failure(&failure) };
                self.first_deferral |= item.attempts == 0;
                self.tell(Kind::Deferred, recipient, attempts, &told, attempted);
                if self.late && !item.late {
                    self.fail(recipient, failure.clone(), attempted, Fate::Delayed);
                }
                let late = self.late || item.late;
                let state = RecipientState::Waiting { attempts, next_attempt: due, failure, late };
                self.changes.push(Change { recipient, state });
                Next::Waits
            }
        }
    }

    /// A recipient whose time ran out while it stood in line.
    pub(super) fn expired(&mut self, queue: &Queue, recipient: u32, attempts: u32, failure: Failure) {
        if !self.claim(queue, recipient) {
            return;
        }
        self.tell(Kind::Expired, recipient, attempts, &Told::failure(&failure), None);
        self.fail(recipient, failure, None, Fate::Expired);
        self.end(recipient, End::Expired);
    }

    /// A recipient that was taken back before it was mailed. False: it came to its end before.
    pub(super) fn cancelled(&mut self, queue: &Queue, recipient: u32, attempts: u32) -> bool {
        let claimed = self.claim(queue, recipient);
        if claimed {
            self.taken_back(recipient, attempts, None);
        }
        claimed
    }

    /// A recipient that the suppression list names. Its message was accepted, so the sender gets a report (RFC 5321 §6.1).
    pub(super) fn suppressed(&mut self, queue: &Queue, recipient: u32, attempts: u32, entry: &Entry) {
        if !self.claim(queue, recipient) {
            return;
        }
        let failure = Failure::ours(Blame::Recipient, EnhancedCode(5, 7, 1), entry.to_string());
        self.tell(Kind::Suppressed, recipient, attempts, &Told::failure(&failure), None);
        self.fail(recipient, failure, None, Fate::Failed);
        self.end(recipient, End::Suppressed);
    }

    fn taken_back(&mut self, recipient: u32, attempts: u32, attempted: Option<&Attempted<'_>>) -> Next {
        let reply = Reply::ours(250, EnhancedCode(2, 0, 0), "taken back before it was delivered");
        let told = Told { reply: &reply, command: None, blame: None, next_attempt: None };
        self.tell(Kind::Cancelled, recipient, attempts, &told, attempted);
        self.end(recipient, End::Cancelled)
    }

    fn end(&mut self, recipient: u32, end: End) -> Next {
        self.changes.push(Change { recipient, state: RecipientState::Ended(end) });
        Next::Ended
    }

    /// Who asked to hear of success hears it from us if the receiver sends no reports (RFC 3461 §5.2.2).
    fn relayed(&mut self, recipient: u32, reply: Reply, attempted: Option<&Attempted<'_>>) {
        let asked = self.message.envelope.recipients[recipient as usize].notify.is_some_and(|notify| notify.success);
        let session = attempted.and_then(|attempted| attempted.session);
        if asked && session.is_some_and(|(_, facts)| !facts.offers("DSN")) {
            let origin = Origin::Remote { command: "." };
            let yes = Failure { blame: Blame::Recipient, origin, reply };
            self.fail(recipient, yes, attempted, Fate::Relayed);
        }
    }

    fn fail(&mut self, recipient: u32, failure: Failure, attempted: Option<&Attempted<'_>>, fate: Fate) {
        let remote = matches!(failure.origin, Origin::Remote { .. });
        let session = attempted.and_then(|attempted| attempted.session).filter(|_| remote);
        self.reportable.push((recipient, failure, session.map(|(_, facts)| facts.host.clone()), fate));
    }

    /// Writes the event line and remembers what to count.
    fn tell(&mut self, kind: Kind, recipient: u32, attempts: u32, told: &Told<'_>, attempted: Option<&Attempted<'_>>) {
        let envelope = &self.message.envelope;
        let address = envelope.recipients[recipient as usize].address.to_string();
        let sender = envelope.reverse_path.to_string();
        let mut event = Event::new(self.now, kind, self.message.id, envelope, &address);
        event.sender = &sender;
        event.attempt = attempts;
        event.next_attempt = told.next_attempt;
        event.code = told.reply.code;
        event.enhanced = told.reply.enhanced_or_general();
        event.reply = &told.reply.text;
        event.command = told.command;
        event.blame = told.blame;
        if kind == Kind::Delivered {
            event.dsn = Dsn::of(envelope, &envelope.recipients[recipient as usize]);
        }
        if let Some(attempted) = attempted {
            event.timings_ms = attempted.timings;
            event.timings_ms.queue =
                attempted.started.since(envelope.accepted_at.max(envelope.not_before)).as_millis() as u64;
        }
        let session = attempted.and_then(|attempted| attempted.session);
        if let Some((route, facts)) = session {
            event.site = route.site.as_str();
            event.provider = route.provider;
            event.source = &facts.source;
            event.source_address = facts.source_address;
            event.mx_host = &facts.host;
            event.mx_address = Some(facts.address);
            event.tls = facts.tls.as_ref();
            event.size = self.message.content.len() + self.message.signature.get().map_or(0, Bytes::len);
        }
        event.write_line(&mut self.events);
        self.counted.push((kind, session.map_or("none", |(route, _)| route.provider)));
    }

    /// Adds what happened to the metrics.
    pub(super) fn count(&self, metrics: &Metrics) {
        for (kind, provider) in &self.counted {
            let (attempt, end) = match kind {
                Kind::Cancelled | Kind::Suppressed => {
                    let end = if *kind == Kind::Cancelled { End::Cancelled } else { End::Suppressed };
                    metrics.recipients.with_label_values(&[end.as_str()]).inc();
                    continue;
                }
                Kind::Delivered => ("delivered", Some(End::Delivered)),
                Kind::Deferred => ("deferred", None),
                Kind::Bounced => ("bounced", Some(End::Bounced)),
                Kind::Expired => ("deferred", Some(End::Expired)),
            };
            metrics.attempts.with_label_values(&[*provider, attempt]).inc();
            if let Some(end) = end {
                metrics.recipients.with_label_values(&[end.as_str()]).inc();
            }
            if *kind == Kind::Delivered {
                let latency = self.now.since(self.message.envelope.accepted_at);
                metrics.delivery_latency.observe(latency.as_secs_f64());
            }
        }
    }

    /// The reports to the sender, as messages of their own: on what failed, what was handed on, and what still waits.
    pub(super) fn reports(&self, parts: &Parts, next_id: impl Fn() -> MessageId) -> Vec<Arc<Message>> {
        if self.reportable.is_empty() {
            return Vec::new();
        }
        let of = self.message;
        let reporter = Reporter { hostname: &parts.hostname, reporting: parts.reports.of(&of.envelope.stream) };
        let report = |reported: Vec<ReportedRecipient<'_>>| {
            let id = next_id();
            let made = feedback::delivery_report(&of.envelope, of.id, &of.content, &reported, reporter, id, self.now);
            made.map(|(envelope, content)| Arc::new(Message::new(id, envelope, content.into())))
        };
        let told = [&[Fate::Failed, Fate::Expired][..], &[Fate::Relayed], &[Fate::Delayed]];
        let of = |fates: &[Fate]| self.reported().filter(|reported| fates.contains(&reported.fate)).collect();
        told.into_iter().map(of).filter_map(report).collect()
    }

    fn reported(&self) -> impl Iterator<Item = ReportedRecipient<'_>> {
        self.reportable.iter().map(|(recipient, failure, host, fate)| ReportedRecipient {
            recipient: &self.message.envelope.recipients[*recipient as usize],
            failure,
            mx: host.as_deref(),
            last_attempt: self.now,
            fate: *fate,
        })
    }
}

/// What an event says of the reply.
struct Told<'a> {
    reply: &'a Reply,
    command: Option<&'static str>,
    blame: Option<Blame>,
    next_attempt: Option<Timestamp>,
}

impl<'a> Told<'a> {
    fn reply(reply: &'a Reply) -> Told<'a> {
        Told { reply, command: Some("."), blame: None, next_attempt: None }
    }

    fn failure(failure: &'a Failure) -> Told<'a> {
        let command = match failure.origin {
            Origin::Remote { command } => Some(command),
            Origin::Local => None,
        };
        Told { reply: &failure.reply, command, blame: Some(failure.blame), next_attempt: None }
    }
}
