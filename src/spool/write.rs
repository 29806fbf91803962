//! Writing: messages that are accepted, and what each transaction changes about them.

use std::sync::Arc;

use bytes::Bytes;
use smallvec::smallvec;
use tokio::sync::oneshot;

use super::codec::{self, Writer};
use super::index::Entry;
use super::state::{self, Grave};
use super::{MESSAGE, Message, NOBODY, SIGNATURE, STATE, Spool, SpoolError, Update};
use crate::log::{Append, Durability, Location, LogError, SegmentId};
use crate::mail::{Envelope, Keyed, MessageId, Receipt};

/// Called when a record is on disk; dropped if that never comes.
type Synced = Box<dyn FnOnce() + Send>;

/// Says so to who waits.
fn saying(waiting: oneshot::Sender<()>) -> Synced {
    Box::new(move || {
        let _ = waiting.send(());
    })
}

impl Spool {
    /// Writes the messages of a submission, all or none. `done` is called for each on the log's thread, in order, when
    /// all are synced or refused; it must not block. With the first the ledger learns what became of its key.
    pub fn accept(
        self: &Arc<Self>,
        messages: impl IntoIterator<Item = Arc<Message>>,
        done: impl Fn(Result<Arc<Message>, SpoolError>) + Clone + Send + 'static,
    ) {
        self.log.append(messages.into_iter().map(|message| {
            let (spool, accepted, done) = (Arc::clone(self), Arc::clone(&message), done.clone());
            message_record(&message, Durability::Synced, move |result| match result {
                Ok(location) => {
                    spool.admit(&accepted, location);
                    done(Ok(accepted));
                }
                Err(error) => {
                    if let Some(keyed) = &accepted.envelope.key {
                        spool.ledger.abandon(&accepted.envelope.stream.tenant, keyed);
                    }
                    done(Err(Arc::new(error).into()));
                }
            })
        }));
    }

    /// Writes what one transaction changed. Never fails for the caller: the log keeps the records until they are on disk.
    /// `admitted` is called for each report, on the log's thread, once it is synced.
    pub fn record(self: &Arc<Self>, update: Update, admitted: impl Fn(Arc<Message>) + Send + Sync + 'static) {
        let admitted = Arc::new(admitted);
        let mut group = Vec::with_capacity(1 + update.reports.len());
        for report in update.reports {
            let (spool, admitted) = (Arc::clone(self), Arc::clone(&admitted));
            group.push(message_record(&Arc::clone(&report), Durability::Relaxed, move |result| {
                if let Ok(location) = result {
                    spool.admit(&report, location);
                    admitted(report);
                }
            }));
        }
        // Order in the log is order under this lock: a copy of the message can not come behind its tombstone.
        let mut state = self.lock();
        state.cache.remove(update.id);
        let ended = if update.finished { state.index.remove(update.id) } else { None };
        let grave = ended.as_ref().and_then(|entry| {
            let newest = entry.message.map(|location| location.position.segment);
            Some(Grave { oldest: entry.oldest()?, newest: newest.filter(|_| !state.moving.contains(&update.id)) })
        });
        if let Some(signature) = update.signature.filter(|_| !update.finished) {
            group.push(self.signature_record(update.id, signature));
        }
        if update.finished {
            state.ending.insert(update.id);
        }
        let head = state::write(&update.changes, grave, false, &update.events);
        group.push(self.state_record(
            update.id,
            head,
            update.finished,
            update.events,
            ended,
            update.synced.map(saying),
        ));
        self.log.append(group);
    }

    /// Tells of what belongs to no message: event lines, each ending in a line feed. They come to the event log once they
    /// are on disk; a crash before that may lose them, and nothing else.
    pub fn note(self: &Arc<Self>, events: impl Into<Bytes>) {
        let note = self.note_record(events.into(), None);
        self.log.append([note]);
    }

    /// The same for what somebody else's responsibility ends with: it is synced like a message, and then `synced` is told;
    /// dropped if that never comes.
    pub fn note_synced(self: &Arc<Self>, events: impl Into<Bytes>, synced: oneshot::Sender<()>) {
        self.note_then(events, saying(synced));
    }

    /// The same for who has no task that waits: `synced` is called on the log's thread, once the lines are on disk and handed on; it
    /// must not block.
    pub fn note_then(self: &Arc<Self>, events: impl Into<Bytes>, synced: impl FnOnce() + Send + 'static) {
        let note = self.note_record(events.into(), Some(Box::new(synced)));
        self.log.append([Append { durability: Durability::Synced, ..note }]);
    }

    /// A state of no message: nothing keeps its record but that the event log does not have it yet.
    fn note_record(self: &Arc<Self>, events: Bytes, synced: Option<Synced>) -> Append {
        let head = state::write(&[], None, false, &events);
        self.state_record(NOBODY, head, false, events, None, synced)
    }

    /// Notes that a message was taken back while recipients of it were in flight. If their outcome is lost in a crash, they are
    /// not attempted again. `synced` is told when that is on disk; at once if the message is finished.
    pub fn take_back(self: &Arc<Self>, id: MessageId, synced: oneshot::Sender<()>) {
        let mut state = self.lock();
        let Some(entry) = state.index.get_mut(id) else {
            drop(state);
            let _ = synced.send(());
            return;
        };
        // It says nothing of attempts: the state that does stays beside it.
        entry.set_many();
        let head = state::write(&[], None, true, b"");
        self.log.append([self.state_record(id, head, false, Bytes::new(), None, Some(saying(synced)))]);
    }

    /// Until the end of a finished message is on disk and its events are handed over. At once if it is not one that finished
    /// a moment ago.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn until_told(&self, id: MessageId) {
        loop {
            let told = self.told.notified();
            tokio::pin!(told);
            told.as_mut().enable();
            if !self.lock().ending.contains(&id) {
                return;
            }
            told.await;
        }
    }

    /// On the log's thread: the message is durable.
    fn admit(&self, message: &Arc<Message>, location: Location) {
        self.log.retain(location);
        let envelope = &message.envelope;
        if let Some(keyed) = &envelope.key {
            let receipt = receipt(message.id, envelope, keyed);
            self.ledger.record(&envelope.stream.tenant, keyed, receipt, envelope.expires_at, location.position);
        }
        let mut state = self.lock();
        let entry = state.index.get_or_insert(message.id, || Entry::new(message.id));
        entry.set_message(location);
        if message.envelope.recipients.len() > 1 {
            entry.set_many();
        }
        state.cache.insert(message);
    }

    fn signature_record(self: &Arc<Self>, id: MessageId, signature: Bytes) -> Append {
        let spool = Arc::clone(self);
        let done = move |result: Result<Location, LogError>| {
            let Ok(location) = result else { return };
            let mut state = spool.lock();
            if let Some(entry) = state.index.get_mut(id) {
                spool.log.retain(location);
                entry.set_signature(location).into_iter().for_each(|old| spool.log.release(old));
            }
        };
        append(SIGNATURE, id, Vec::new(), signature, done)
    }

    fn state_record(
        self: &Arc<Self>,
        id: MessageId,
        head: Vec<u8>,
        finished: bool,
        events: Bytes,
        ended: Option<Entry>,
        synced: Option<Synced>,
    ) -> Append {
        let spool = Arc::clone(self);
        let done = move |result: Result<Location, LogError>| {
            // After a close this is called by `append` itself, under our lock; nobody waits then.
            let Ok(location) = result else { return };
            match ended {
                Some(entry) => spool.bury(id, entry, location.position.segment),
                None if !finished => spool.keep_state(id, location),
                None => {}
            }
            if !events.is_empty() {
                (spool.export)(location.position, events);
            }
            synced.into_iter().for_each(|synced| synced());
            if finished {
                spool.lock().ending.remove(&id);
                spool.told.notify_waiters();
            }
        };
        append(STATE, id, head, Bytes::new(), done)
    }

    /// On the log's thread: the tombstone in `segment` is durable.
    fn bury(&self, id: MessageId, entry: Entry, segment: SegmentId) {
        let ghost = self.lock().ghosts.remove(&id);
        let message = entry.message.map(|location| location.position.segment);
        message.into_iter().chain(ghost).for_each(|on| self.log.depend(segment, on));
        entry.records().for_each(|location| self.log.release(location));
    }

    /// On the log's thread: a state of an unfinished message is durable.
    fn keep_state(&self, id: MessageId, location: Location) {
        let mut state = self.lock();
        let Some(entry) = state.index.get_mut(id) else { return };
        self.log.retain(location);
        entry.add_state(location).into_iter().for_each(|old| self.log.release(old));
    }
}

/// What the client got for the submission whose first message this is.
pub(super) fn receipt(id: MessageId, envelope: &Envelope, keyed: &Keyed) -> Receipt {
    Receipt { id, messages: keyed.messages, accepted_at: envelope.accepted_at, replayed: false }
}

fn message_record(
    message: &Message,
    durability: Durability,
    done: impl FnOnce(Result<Location, LogError>) + Send + 'static,
) -> Append {
    let mut head = Writer(Vec::with_capacity(192));
    codec::write_envelope(&mut head, &message.envelope);
    Append { durability, ..append(MESSAGE, message.id, head.0, message.content.clone(), done) }
}

pub(super) fn append(
    kind: u8,
    id: MessageId,
    head: Vec<u8>,
    body: Bytes,
    done: impl FnOnce(Result<Location, LogError>) + Send + 'static,
) -> Append {
    Append { kind, id: id.0, head, body: smallvec![body], durability: Durability::Relaxed, done: Some(Box::new(done)) }
}
