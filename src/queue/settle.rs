//! Outcomes become states, events, reports, and the next place of every recipient.

use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use super::scheduler::{Item, SiteId, Verdict};
use super::{Parts, Queue, at};
use crate::clock::Timestamp;
use crate::delivery::{SessionFacts, Transaction};
use crate::events::{Event, Kind, Timings};
use crate::feedback::{self, Fate, ReportedRecipient};
use crate::mail::{Blame, EnhancedCode, Failure, MessageId, Origin, Outcome, Reply};
use crate::routing::Route;
use crate::spool::{Change, End, Message, RecipientState, SpoolError, Update};
use crate::telemetry::Metrics;

/// Connections that may break under an item before it waits by the schedule.
const SPOILT_MAX: u8 = 2;

/// One attempt, as the events tell it. Borrowed facts are those of the session, if there was one.
#[derive(Debug)]
pub(super) struct Attempted<'a> {
    started: Timestamp,
    /// One per recipient of the items, in order; `None`: no verdict, try another connection.
    outcomes: Vec<Option<Outcome>>,
    /// Stands in for every missing outcome.
    instead: Option<Failure>,
    session: Option<(&'a Route, &'a SessionFacts)>,
    timings: Timings,
}

/// What becomes of one recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// It came to its end.
    Ended,
    /// It sleeps until the next attempt.
    Waits,
    /// Back to the front of the line.
    Again,
}

/// An item and what it falls into; either part may be empty.
struct Move {
    old: Item,
    waits: Item,
    due: Timestamp,
    again: Item,
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
}

impl Queue {
    /// Settles what one attempt did to the recipients of `items`, which all belong to `message`.
    pub(super) fn settle(
        self: &Arc<Queue>,
        message: &Arc<Message>,
        items: Vec<Item>,
        attempted: Attempted<'_>,
        site: Option<SiteId>,
    ) {
        let parts = self.parts.load_full();
        let now = self.clock.timestamp();
        let mut settlement = Settlement::new(message, now);
        let mut outcomes = attempted.outcomes.iter();
        let mut moves = Vec::with_capacity(items.len());
        for item in items {
            let due = now.after(self.delay(&parts, item.attempts)).min(message.envelope.expires_at);
            let mut waits = item.with_none(item.attempts.saturating_add(1), 0);
            let mut again = item.with_none(item.attempts, item.spoilt + u8::from(attempted.instead.is_some()));
            for recipient in &item.recipients {
                let outcome = outcomes.next().cloned().flatten();
                if !self.lock().is_open(message.id, *recipient) {
                    continue;
                }
                match settlement.judge(self, *recipient, &item, outcome, &attempted, due) {
                    Next::Ended => {}
                    Next::Waits => waits.recipients.push(*recipient),
                    Next::Again => again.recipients.push(*recipient),
                }
            }
            moves.push(Move { old: item, waits, due, again });
        }
        self.write(&parts, settlement);
        self.relocate(now, moves, site);
    }

    /// Settles recipients that were not attempted because their host or site takes no mail now.
    pub(super) async fn settle_unattempted(self: Arc<Queue>, items: Vec<Item>, verdict: Verdict) {
        for item in items {
            let started = self.clock.timestamp();
            let (failure, outcome): (_, fn(Failure) -> Outcome) = match &verdict {
                Verdict::Later(failure) => (failure.clone(), Outcome::Deferred),
                Verdict::Never(failure) => (failure.clone(), Outcome::Failed),
            };
            let outcomes = vec![Some(outcome(failure.clone())); item.recipients.len()];
            match self.load_or_envelope(item.message).await {
                Ok(message) => {
                    let attempted = Attempted { outcomes, ..Attempted::none(started, failure) };
                    self.settle(&message, vec![item], attempted, None);
                }
                Err(SpoolError::Unknown(_)) => {
                    let mut scheduler = self.lock();
                    scheduler.landed(std::slice::from_ref(&item));
                    scheduler.drop_item(&item);
                }
                Err(error) => {
                    tracing::error!(message_id = %item.message, error = %error, "message cannot be read from the spool");
                    self.settle_blind(vec![item], &failure);
                }
            }
        }
    }

    /// The message; without content if that cannot be read, which is logged.
    async fn load_or_envelope(&self, id: MessageId) -> Result<Arc<Message>, SpoolError> {
        match self.spool.load(id).await {
            Err(SpoolError::Unknown(id)) => Err(SpoolError::Unknown(id)),
            Err(error) => {
                tracing::error!(message_id = %id, error = %error, "message cannot be read from the spool");
                self.spool.load_envelope(id).await
            }
            loaded => loaded,
        }
    }

    /// Not even the envelope can be read: its recipients wait by the schedule, nothing can be told of them but that.
    pub(super) fn settle_blind(self: &Arc<Queue>, items: Vec<Item>, failure: &Failure) {
        let parts = self.parts.load_full();
        let now = self.clock.timestamp();
        let mut changes = Vec::new();
        let id = items[0].message;
        let mut moves = Vec::new();
        for item in &items {
            let next_attempt = now.after(self.delay(&parts, item.attempts));
            let waits = Item { attempts: item.attempts.saturating_add(1), spoilt: 0, ..item.clone() };
            for recipient in &item.recipients {
                let attempts = u32::from(waits.attempts);
                let state = RecipientState::Waiting { attempts, next_attempt, failure: failure.clone() };
                changes.push(Change { recipient: *recipient, state });
            }
            moves.push((waits, next_attempt));
        }
        let update = Update { id, changes, finished: false, events: Bytes::new(), signature: None, reports: vec![] };
        self.spool.record(update, |_| {});
        self.with_actions(|scheduler, _, actions| {
            scheduler.landed(&items);
            for (item, due) in moves {
                let due = at(self.now(), now, due);
                scheduler.sleep(due, item, actions);
            }
        });
    }

    /// The time of these recipients is up while they stood in line.
    pub(super) async fn expire(self: Arc<Queue>, id: MessageId, recipients: Vec<u32>) {
        let message = match self.load_or_envelope(id).await {
            Ok(message) => message,
            Err(SpoolError::Unknown(_)) => return,
            Err(error) => {
                tracing::error!(message_id = %id, error = %error, "an expired message cannot be read; its end is not reported");
                return self.end_blind(id, &recipients);
            }
        };
        let parts = self.parts.load_full();
        let known = self.spool.states(id).await.unwrap_or_default();
        let mut settlement = Settlement::new(&message, self.clock.timestamp());
        for recipient in recipients {
            let last = known.iter().rev().find(|change| change.recipient == recipient).map(|change| &change.state);
            let (attempts, failure) = match last {
                Some(RecipientState::Waiting { attempts, failure, .. }) => (*attempts, failure.clone()),
                _ => (0, Failure::ours(Blame::Site, EnhancedCode(4, 4, 7), "its turn did not come in time")),
            };
            settlement.expired(&self, recipient, attempts, failure);
        }
        self.write(&parts, settlement);
    }

    fn end_blind(self: &Arc<Queue>, id: MessageId, recipients: &[u32]) {
        let mut finished = false;
        let mut changes = Vec::new();
        for recipient in recipients {
            let Some(last) = self.lock().end(id, *recipient, true) else { continue };
            finished |= last;
            changes.push(Change { recipient: *recipient, state: RecipientState::Ended(End::Expired) });
            self.metrics.recipients.with_label_values(&[End::Expired.as_str()]).inc();
        }
        let update = Update { id, changes, finished, events: Bytes::new(), signature: None, reports: vec![] };
        self.spool.record(update, |_| {});
    }

    /// Writes states, events and reports in one group.
    fn write(self: &Arc<Queue>, parts: &Parts, mut settlement: Settlement<'_>) {
        let id = settlement.message.id;
        settlement.count(&self.metrics);
        let reports = settlement.report(parts, || self.spool.next_id(self.clock.timestamp()));
        let signature = settlement.message.signature.get().filter(|s| !s.is_empty() && settlement.first_deferral);
        let update = Update {
            id,
            finished: settlement.finished,
            events: std::mem::take(&mut settlement.events).into(),
            signature: signature.cloned(),
            reports: reports.into_iter().collect(),
            changes: settlement.changes,
        };
        if update.changes.is_empty() {
            return;
        }
        let queue = Arc::clone(self);
        self.spool.record(update, move |report| queue.admit(&report));
    }

    /// Sends every item to its next place.
    fn relocate(self: &Arc<Queue>, now: Timestamp, moves: Vec<Move>, site: Option<SiteId>) {
        self.with_actions(|scheduler, zero, actions| {
            for Move { old, waits, due, again } in moves {
                scheduler.landed(std::slice::from_ref(&old));
                match (waits.recipients.is_empty(), again.recipients.is_empty()) {
                    (true, true) => scheduler.drop_item(&old),
                    (false, false) => scheduler.share_host(&old),
                    (true, false) | (false, true) => {}
                }
                if !waits.recipients.is_empty() {
                    scheduler.sleep(at(zero, now, due), waits, actions);
                }
                match site {
                    _ if again.recipients.is_empty() => {}
                    Some(site) => scheduler.put_back(zero, site, again, actions),
                    None => scheduler.sleep(zero, again, actions),
                }
            }
        });
    }

    fn delay(&self, parts: &Parts, attempts: u16) -> std::time::Duration {
        let chance = &mut *self.chance.lock().expect("no code panics under this lock");
        parts.retry.delay(u32::from(attempts) + 1, chance)
    }
}

impl Item {
    /// The same message and host, no recipients.
    fn with_none(&self, attempts: u16, spoilt: u8) -> Item {
        Item { message: self.message, host: self.host, attempts, spoilt, recipients: SmallVec::new() }
    }
}

/// Collects what one attempt changes about one message.
struct Settlement<'a> {
    message: &'a Arc<Message>,
    now: Timestamp,
    changes: Vec<Change>,
    events: Vec<u8>,
    /// Recipients of which the sender wants to hear: place, why, which host said it.
    failed: Vec<(u32, Failure, Option<String>, Fate)>,
    /// What happened, at which provider.
    counted: Vec<(Kind, &'static str)>,
    first_deferral: bool,
    /// The message's last recipient came to its end here.
    finished: bool,
}

impl<'a> Settlement<'a> {
    fn new(message: &'a Arc<Message>, now: Timestamp) -> Settlement<'a> {
        Settlement {
            message,
            now,
            changes: Vec::new(),
            events: Vec::new(),
            failed: Vec::new(),
            counted: Vec::new(),
            first_deferral: false,
            finished: false,
        }
    }

    /// Takes the recipient's end. False: another settlement came first, and tells of it.
    fn claim(&mut self, queue: &Queue, recipient: u32) -> bool {
        let last = queue.lock().end(self.message.id, recipient, true);
        self.finished |= last == Some(true);
        last.is_some()
    }

    /// Decides what becomes of a recipient, and notes it.
    fn judge(
        &mut self,
        queue: &Queue,
        recipient: u32,
        item: &Item,
        outcome: Option<Outcome>,
        attempted: &Attempted<'_>,
        due: Timestamp,
    ) -> Next {
        let expired = self.now >= self.message.envelope.expires_at;
        let outcome = match outcome {
            Some(outcome) => outcome,
            None if item.spoilt < SPOILT_MAX && !expired && attempted.session.is_some() => return Next::Again,
            None => Outcome::Deferred(attempted.instead.clone().unwrap_or_else(|| {
                Failure::ours(Blame::Site, EnhancedCode(4, 5, 3), "the receiver takes no more recipients at a time")
            })),
        };
        let attempts = u32::from(item.attempts) + 1;
        let attempted = Some(attempted);
        let waits = matches!(outcome, Outcome::Deferred(_)) && !expired;
        if !waits && !self.claim(queue, recipient) {
            return Next::Ended;
        }
        match outcome {
            Outcome::Delivered { reply } => {
                self.tell(Kind::Delivered, recipient, attempts, &Told::reply(&reply), attempted);
                self.end(recipient, End::Delivered)
            }
            Outcome::Failed(failure) => {
                self.tell(Kind::Bounced, recipient, attempts, &Told::failure(&failure), attempted);
                self.fail(recipient, failure, attempted, Fate::Failed);
                self.end(recipient, End::Bounced)
            }
            Outcome::Deferred(failure) if expired => {
                self.tell(Kind::Expired, recipient, attempts, &Told::failure(&failure), attempted);
                self.fail(recipient, failure, attempted, Fate::Expired);
                self.end(recipient, End::Expired)
            }
            Outcome::Deferred(failure) => {
                let told = Told { next_attempt: Some(due), ..Told::failure(&failure) };
                self.first_deferral |= item.attempts == 0;
                self.tell(Kind::Deferred, recipient, attempts, &told, attempted);
                let state = RecipientState::Waiting { attempts, next_attempt: due, failure };
                self.changes.push(Change { recipient, state });
                Next::Waits
            }
        }
    }

    /// A recipient whose time ran out while it stood in line.
    fn expired(&mut self, queue: &Queue, recipient: u32, attempts: u32, failure: Failure) {
        if !self.claim(queue, recipient) {
            return;
        }
        self.tell(Kind::Expired, recipient, attempts, &Told::failure(&failure), None);
        self.fail(recipient, failure, None, Fate::Expired);
        self.end(recipient, End::Expired);
    }

    fn end(&mut self, recipient: u32, end: End) -> Next {
        self.changes.push(Change { recipient, state: RecipientState::Ended(end) });
        Next::Ended
    }

    fn fail(&mut self, recipient: u32, failure: Failure, attempted: Option<&Attempted<'_>>, fate: Fate) {
        let remote = matches!(failure.origin, Origin::Remote { .. });
        let session = attempted.and_then(|attempted| attempted.session).filter(|_| remote);
        self.failed.push((recipient, failure, session.map(|(_, facts)| facts.host.clone()), fate));
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
        if let Some(attempted) = attempted {
            event.timings_ms = attempted.timings;
            event.timings_ms.queue =
                attempted.started.since(envelope.accepted_at.max(envelope.not_before)).as_millis() as u64;
        }
        let session = attempted.and_then(|attempted| attempted.session);
        if let Some((route, facts)) = session {
            event.site = route.site.as_str();
            event.source = facts.source;
            event.mx_host = &facts.host;
            event.mx_address = Some(facts.address);
            event.tls = facts.tls.as_ref();
            event.size = self.message.content.len() + self.message.signature.get().map_or(0, Bytes::len);
        }
        event.write_line(&mut self.events);
        self.counted.push((kind, session.map_or("none", |(route, _)| route.provider)));
    }

    fn count(&self, metrics: &Metrics) {
        for (kind, provider) in &self.counted {
            let (attempt, end) = match kind {
                Kind::Delivered => ("delivered", Some(End::Delivered)),
                Kind::Deferred => ("deferred", None),
                Kind::Bounced => ("bounced", Some(End::Bounced)),
                Kind::Expired => ("deferred", Some(End::Expired)),
                Kind::Cancelled => continue,
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

    /// The report to the sender on what failed here, as a message of its own.
    fn report(&self, parts: &Parts, next_id: impl FnOnce() -> MessageId) -> Option<Arc<Message>> {
        if self.failed.is_empty() {
            return None;
        }
        let envelope = &self.message.envelope;
        let failed: Vec<ReportedRecipient<'_>> = self
            .failed
            .iter()
            .map(|(recipient, failure, host, fate)| ReportedRecipient {
                recipient: &envelope.recipients[*recipient as usize],
                failure,
                mx: host.as_deref(),
                last_attempt: self.now,
                fate: *fate,
            })
            .collect();
        let (id, content) = (next_id(), &self.message.content);
        let report =
            feedback::delivery_report(envelope, self.message.id, content, &failed, &parts.hostname, id, self.now);
        report.map(|(envelope, content)| Arc::new(Message::new(id, envelope, content.into())))
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
