//! Outcomes become states, events, reports, and the next place of every recipient.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::contents::Loaded;
use super::heed::{self, Reader};
use super::scheduler::{Item, PathId, Recipients, Verdict, Wish};
use super::settlement::{Attempted, Next, Settlement};
use super::steer::says_unknown;
use super::{Parts, Queue, at};
use crate::clock::Timestamp;
use crate::events::{Event, Kind};
use crate::feedback;
use crate::mail::{Blame, EnhancedCode, Envelope, Failure, MessageId, Outcome};
use crate::spool::{Change, End, Message, RecipientState, SpoolError, Update};

/// A message that cannot be read for the moment is asked for again after this long.
pub(super) const READ_AGAIN: Duration = Duration::from_secs(30);

/// An attempt for the sake of a report of delay comes this long after the one before, at least.
const PAUSE_MIN: Duration = Duration::from_secs(60);

/// An item and what it falls into; any part may be empty.
struct Move {
    old: Item,
    waits: SmallVec<[Waits; 1]>,
    again: Item,
    /// By which source those that wait wish to be tried next.
    wish: Option<Wish>,
}

/// Recipients that wait, for the same time.
struct Waits {
    /// As their receiver asks; `None`: by the schedule.
    wait: Option<Duration>,
    due: Timestamp,
    item: Item,
}

impl Queue {
    /// Settles what one attempt did to the recipients of `items`, which all belong to `message`.
    pub(super) fn settle(
        self: &Arc<Queue>,
        message: &Arc<Message>,
        items: Vec<Item>,
        attempted: Attempted<'_>,
        path: Option<PathId>,
    ) {
        let parts = self.parts.load_full();
        let now = self.clock.timestamp();
        let mut settlement = Settlement::new(message, now);
        let late_at = feedback::delay_report_due(&message.envelope, &parts.reports);
        settlement.late = late_at.is_some_and(|late_at| now >= late_at);
        // A report of delay comes of an attempt: there is one when it is due.
        let report_at = late_at.filter(|late_at| *late_at > now).map(|late_at| late_at.max(now.after(PAUSE_MIN)));
        let mut reader = Reader::new(&parts.profiles, attempted.provider());
        let mut outcomes = attempted.outcomes.iter();
        let (mut moves, mut unknown) = (Vec::with_capacity(items.len()), Vec::new());
        for item in items {
            let mut waits: SmallVec<[Waits; 1]> = SmallVec::new();
            let mut wish = None;
            let mut again = item.with_none(item.attempts, item.spoilt + u8::from(attempted.instead.is_some()));
            for recipient in item.recipients.iter() {
                let outcome = outcomes.next().cloned().flatten();
                if !self.lock().is_open(message.id, *recipient) {
                    continue;
                }
                let advice = match &outcome {
                    // Without a verdict of its own, what ended the session counts, if this recipient is to wait at all.
                    None => attempted.instead.as_ref().and_then(|failure| reader.read_failure(failure)),
                    Some(outcome) => {
                        let advice = reader.read(outcome);
                        advice.into_iter().for_each(|advice| heed::count(&self.metrics, advice, attempted.provider()));
                        advice
                    }
                };
                let outcome = heed::reread(outcome, advice);
                if outcome.as_ref().is_some_and(|outcome| says_unknown(outcome, attempted.provider())) {
                    unknown.push(*recipient);
                }
                if matches!(outcome, Some(Outcome::Delivered { .. })) {
                    self.tell_of_delivered(message, *recipient);
                }
                let wait = heed::wait(advice, &parts.retry, item.attempts);
                let wished = path.zip(advice).and_then(|(path, advice)| Wish::of(advice.action, path.source));
                let place = waits.iter().position(|other| other.wait == wait).unwrap_or_else(|| {
                    let due = now.after(self.delay(&parts, wait, item.attempts)).min(message.envelope.expires_at);
                    let mut none = item.with_none(item.attempts.saturating_add(1), 0);
                    none.late |= settlement.late;
                    waits.push(Waits { wait, due: report_at.map_or(due, |at| due.min(at)), item: none });
                    waits.len() - 1
                });
                match settlement.judge(self, *recipient, &item, outcome, &attempted, waits[place].due) {
                    Next::Ended => {}
                    Next::Waits => {
                        wish = wish.or(wished);
                        waits[place].item.recipients.push(*recipient);
                    }
                    Next::Again => again.recipients.push(*recipient),
                }
            }
            waits.retain(|waits| !waits.item.recipients.is_empty());
            moves.push(Move { old: item, waits, again, wish });
        }
        self.write(&parts, settlement, None);
        self.relocate(now, moves, path);
        if !unknown.is_empty() {
            self.tell_of_unknown(message, unknown);
        }
    }

    /// Settles recipients that were not attempted because their host or site takes no mail now.
    pub(super) async fn settle_unattempted(self: Arc<Queue>, items: Vec<Item>, verdict: Verdict) {
        for item in items {
            self.breathe().await;
            let started = self.clock.timestamp();
            let (failure, outcome): (_, fn(Failure) -> Outcome) = match &verdict {
                Verdict::Refused => {
                    let why = "the message cannot be read";
                    (Failure::ours(Blame::Message, EnhancedCode(4, 3, 0), why), Outcome::Deferred)
                }
                Verdict::Later(failure) => (failure.clone(), Outcome::Deferred),
                Verdict::Never(failure) => (failure.clone(), Outcome::Failed),
            };
            let outcomes = vec![Some(outcome(failure.clone())); item.recipients.len()];
            match self.load_to_settle(&item, &verdict, started).await {
                Ok(message) if matches!(verdict, Verdict::Refused) => self.settle_refused(&message, item),
                Ok(message) => {
                    let mut attempted = Attempted::none(started, failure);
                    attempted.outcomes = outcomes;
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

    /// The message, with its content only if a report may have to return it: when a site goes dead, all that waits for
    /// it is settled, and need not be read for that.
    async fn load_to_settle(&self, item: &Item, verdict: &Verdict, now: Timestamp) -> Result<Loaded, SpoolError> {
        let message = self.spool.load_envelope(item.message).await?;
        let parts = self.parts.load();
        let becomes_late =
            !item.late && feedback::delay_report_due(&message.envelope, &parts.reports).is_some_and(|at| now >= at);
        match verdict {
            Verdict::Refused => Ok(Loaded::envelope(message)),
            Verdict::Later(_) if now < message.envelope.expires_at && !becomes_late => Ok(Loaded::envelope(message)),
            Verdict::Later(_) | Verdict::Never(_) => self.load_or_envelope(item.message).await,
        }
    }

    /// The message; without content if that cannot be read, which is logged.
    async fn load_or_envelope(&self, id: MessageId) -> Result<Loaded, SpoolError> {
        match self.contents.load(&self.spool, id).await {
            Err(SpoolError::Unknown(id)) => Err(SpoolError::Unknown(id)),
            Err(error) => {
                tracing::error!(message_id = %id, error = %error, "message cannot be read from the spool");
                self.spool.load_envelope(id).await.map(Loaded::envelope)
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
            let next_attempt = now.after(self.delay(&parts, None, item.attempts));
            let waits = Item { attempts: item.attempts.saturating_add(1), spoilt: 0, ..item.clone() };
            for recipient in item.recipients.iter() {
                let attempts = u32::from(waits.attempts);
                let state =
                    RecipientState::Waiting { attempts, next_attempt, failure: failure.clone(), late: item.late };
                changes.push(Change { recipient: *recipient, state });
            }
            moves.push((waits, next_attempt));
        }
        let update = Update {
            id,
            changes,
            finished: false,
            events: Bytes::new(),
            signature: None,
            reports: vec![],
            synced: None,
        };
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
        let message = loop {
            match self.load_or_envelope(id).await {
                Ok(message) => break message,
                Err(SpoolError::Unknown(_)) => return,
                // A disk that cannot be read may be mended: an end without its event cannot.
                Err(SpoolError::Log(error)) if !error.is_damage() => {
                    if self.stopping.run_until_cancelled(tokio::time::sleep(READ_AGAIN)).await.is_none() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::error!(message_id = %id, error = %error,
                        "an expired message cannot be read; its end is told without its addresses");
                    self.end_blind(id, &recipients, End::Expired, None);
                    return;
                }
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
        self.write(&parts, settlement, None);
    }

    /// Ends recipients of a message of which nothing can be read, as expired or cancelled: the events have what the queue
    /// knows of it. Returns how many; `synced` is told when their ends are on disk.
    pub(super) fn end_blind(
        self: &Arc<Queue>,
        id: MessageId,
        recipients: &[u32],
        end: End,
        synced: Option<oneshot::Sender<()>>,
    ) -> u64 {
        let Some((stream, accepted_at)) = self.lock().about(id) else { return 0 };
        let kind = if end == End::Cancelled { Kind::Cancelled } else { Kind::Expired };
        let now = self.clock.timestamp();
        let stub = Envelope::unreadable(stream, accepted_at);
        let (mut changes, mut events) = (Vec::new(), Vec::new());
        for recipient in recipients {
            if !self.lock().end(id, *recipient) {
                continue;
            }
            let mut event = Event::new(now, kind, id, &stub, "");
            (event.code, event.enhanced) = (451, EnhancedCode(4, 3, 0));
            event.reply = "the message on disk is damaged: neither its recipient nor its sender can be read";
            event.write_line(&mut events);
            changes.push(Change { recipient: *recipient, state: RecipientState::Ended(end) });
            self.metrics.recipients.with_label_values(&[end.as_str()]).inc();
        }
        let mut scheduler = self.lock();
        let ended = changes.len() as u32;
        let finished = scheduler.recorded(id, ended);
        let update = Update { id, changes, finished, events: events.into(), signature: None, reports: vec![], synced };
        self.spool.record(update, |_| {});
        ended.into()
    }

    /// Writes states, events and reports in one group; `synced` is told when they are on disk.
    pub(super) fn write(
        self: &Arc<Queue>,
        parts: &Parts,
        mut settlement: Settlement<'_>,
        synced: Option<oneshot::Sender<()>>,
    ) {
        let id = settlement.message.id;
        settlement.count(&self.metrics);
        let reports = settlement.reports(parts, || self.spool.next_id(self.clock.timestamp()));
        let signature = settlement.message.signature.get().filter(|s| !s.is_empty() && settlement.first_deferral);
        if settlement.changes.is_empty() {
            return;
        }
        let queue = Arc::clone(self);
        // Counted and queued under one lock, so that the record that says "finished" is the last.
        let mut scheduler = self.lock();
        let update = Update {
            id,
            finished: scheduler.recorded(id, settlement.claimed),
            events: std::mem::take(&mut settlement.events).into(),
            signature: signature.cloned(),
            reports,
            changes: settlement.changes,
            synced,
        };
        self.spool.record(update, move |report| queue.admit(&report, &Recipients::None));
    }

    /// Sends every item to its next place.
    fn relocate(self: &Arc<Queue>, now: Timestamp, moves: Vec<Move>, path: Option<PathId>) {
        self.with_actions(|scheduler, zero, actions| {
            for Move { old, waits, again, wish } in moves {
                scheduler.landed(std::slice::from_ref(&old));
                // A connection that broke is no answer: those who come again wish for what they wished for.
                if path.is_some() && (wish.is_some() || again.recipients.is_empty()) {
                    scheduler.wish(&old, wish);
                }
                let parts = waits.len() + usize::from(!again.recipients.is_empty());
                if parts == 0 {
                    scheduler.drop_item(&old);
                }
                (1..parts).for_each(|_| scheduler.share_host(&old));
                for Waits { due, item, .. } in waits {
                    scheduler.sleep(at(zero, now, due), item, actions);
                }
                match path {
                    _ if again.recipients.is_empty() => {}
                    Some(path) => scheduler.put_back(zero, path.site, again, actions),
                    None => scheduler.sleep(zero, again, actions),
                }
            }
        });
    }

    fn delay(&self, parts: &Parts, wait: Option<Duration>, attempts: u16) -> Duration {
        let chance = &mut *self.chance.lock().expect("no code panics under this lock");
        heed::delay(wait, &parts.retry, attempts, chance)
    }
}
