//! Own: messages in the log, and what became of each recipient. The `250` is earned here.
//!
//! A message is one `MESSAGE` record: envelope as head, content as body, written once. Whatever happens to a recipient
//! later is a small `STATE` record that rides along with the next sync and carries the event lines that tell of it, so
//! that state and events are exactly as durable as each other. The `STATE` record that ends the last recipient is the
//! message's tombstone. A `SIGNATURE` record keeps what was signed at the first attempt for the retries.
//!
//! | on disk | means | after a crash |
//! |---|---|---|
//! | `MESSAGE`, no tombstone | accepted, not finished | waits again, with the states found |
//! | `MESSAGE` not whole | never acknowledged | not there |
//! | `STATE` lost | an attempt is forgotten | that attempt is repeated |
//! | tombstone lost | the final reply was in flight | the recipient gets it twice |
//! | two copies of a `MESSAGE` | a straggler was being copied forward | the later one counts |
//!
//! States are order-independent: an end wins over waiting, more attempts over fewer, so copying a `STATE` record forward
//! is safe at any time. A segment with a tombstone outlives the segments with the message ([`crate::log`] `depend`).

mod cache;
#[doc(hidden)]
pub mod census;
mod codec;
mod index;
mod message;
#[doc(hidden)]
pub mod probe;
mod reclaim;
mod replay;
mod state;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use smallvec::smallvec;
use tokio::sync::oneshot;

use crate::clock::{Clock, Timestamp};
use crate::config::SpoolConfig;
use crate::ledger::Ledger;
use crate::log::{Append, Durability, Files, Health, Location, Log, LogError, LogOptions, Position, SegmentId};
use crate::mail::{Envelope, Keyed, MessageId, MessageIds, Receipt};
use crate::telemetry::Metrics;

use cache::Cache;
pub use codec::CodecError;
use codec::{Reader, Writer};
use index::{Entry, Index};
pub use message::Message;
pub use replay::{ENDED, Opened, Restored, RestoredRecipient};
use state::Grave;
pub use state::{Change, End, RecipientState};

const MESSAGE: u8 = 1;
const STATE: u8 = 2;
const SIGNATURE: u8 = 3;

/// Why the spool did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SpoolError {
    /// The log refused or failed.
    #[error(transparent)]
    Log(#[from] Arc<LogError>),
    /// The record is there but cannot be read.
    #[error("message {id} on disk: {source}")]
    Damaged {
        /// The message.
        id: MessageId,
        /// What is wrong.
        source: CodecError,
    },
    /// No such message: finished, or never accepted.
    #[error("message {0} is not in the spool")]
    Unknown(MessageId),
}

/// Takes event lines once they are on disk: where the record stands, and one or more JSON objects, a line each.
pub type Export = Arc<dyn Fn(Position, Bytes) + Send + Sync>;

/// Who is told of what is durable.
#[derive(Clone)]
pub struct Outlets {
    /// Event lines up to here need not be told again.
    pub exported: Option<Position>,
    /// Takes event lines.
    pub export: Export,
    /// Takes idempotency keys.
    pub ledger: Arc<Ledger>,
}

/// What one transaction changed about a message; written as one group, so all of it or nothing survives.
#[derive(Debug)]
pub struct Update {
    /// Which message.
    pub id: MessageId,
    /// New states, by recipient.
    pub changes: Vec<Change>,
    /// No recipient is left: the record is the tombstone.
    pub finished: bool,
    /// The event lines that tell of the changes.
    pub events: Bytes,
    /// What was signed, to be kept for the retries.
    pub signature: Option<Bytes>,
    /// Reports to the sender, accepted in the same group.
    pub reports: Vec<Arc<Message>>,
    /// Told when all of it is on disk; dropped if that never comes.
    pub synced: Option<oneshot::Sender<()>>,
}

/// Names no message: it would be from 1970.
const NOBODY: MessageId = MessageId(0);

/// The spool. Shared by `Arc`.
pub struct Spool {
    log: Log,
    state: Mutex<State>,
    ids: MessageIds,
    export: Export,
    ledger: Arc<Ledger>,
    /// Segments from this one on hold events that may not be in the event log.
    exported: AtomicU32,
    queued_max: usize,
}

#[derive(Debug)]
struct State {
    index: Index,
    cache: Cache,
    /// Messages of which a copy is queued.
    moving: HashSet<MessageId>,
    /// Copies of messages that finished while they were being copied: their tombstone must outlive the copy.
    ghosts: HashMap<MessageId, SegmentId>,
}

impl Spool {
    /// Opens the log in `dir` and finds what is there; [`restore`](Spool::restore) hands it out. Event lines that
    /// were not exported are handed over again.
    ///
    /// # Errors
    /// When the folder cannot be opened or is in use. Damaged records are reported in the result, not errors.
    pub fn open(
        dir: &Path,
        config: &SpoolConfig,
        files: Arc<dyn Files>,
        metrics: Arc<Metrics>,
        outlets: Outlets,
        clock: Clock,
    ) -> Result<(Arc<Spool>, Opened), SpoolError> {
        let options = LogOptions::new(dir);
        Spool::open_with(options, config, files, metrics, outlets, clock)
    }

    /// The same with options of the log's own that no configuration has: how it is driven.
    ///
    /// # Errors
    /// As [`open`](Spool::open).
    pub fn open_with(
        options: LogOptions,
        config: &SpoolConfig,
        files: Arc<dyn Files>,
        metrics: Arc<Metrics>,
        outlets: Outlets,
        clock: Clock,
    ) -> Result<(Arc<Spool>, Opened), SpoolError> {
        let Outlets { exported, export, ledger } = outlets;
        // Another spool may have stood here before. The event log and the ledger know positions in it; those of this one
        // have to come behind them, or who follows events would take what is new for old.
        let after = exported.max(ledger.recorded()).map_or(SegmentId(0), |position| position.segment);
        let options =
            LogOptions { segment_size: config.segment_size.0, disk_free_min: config.disk_free_min.0, after, ..options };
        let (queued_max, dir) = (options.queue_bytes_max, options.dir.display().to_string());
        let mut replay = replay::Replay::new(exported, export.clone(), Arc::clone(&ledger));
        let opened = Log::open(options, files, metrics, &mut |record| replay.visit(record));
        let (log, report) = opened.map_err(Arc::new)?;
        if report.renumbered {
            tracing::warn!(%dir, known = after.0,
                "this is not the spool that the event log and the ledger were written from; its segments are numbered on \
                 behind those of that one, and what it tells of from before is not told again: if the old one still exists, \
                 stop and put it back");
        }
        let (index, attempted, last) = replay.finish(&log)?;
        let opened = Opened { messages: index.len(), log: report, attempted };
        let exported = exported.map_or(0, |exported| exported.segment.0);
        let cache = Cache::new(config.cache_size.bytes());
        let ids = MessageIds::after(last);
        ids.next(clock.timestamp());
        let state = Mutex::new(State { index, cache, moving: HashSet::new(), ghosts: HashMap::new() });
        Ok((Arc::new(Spool { log, state, ids, export, ledger, exported: exported.into(), queued_max }), opened))
    }

    /// An id for a message about to come.
    pub fn next_id(&self, now: Timestamp) -> MessageId {
        self.ids.next(now)
    }

    /// The first of `count` ids that follow one another.
    pub fn next_ids(&self, now: Timestamp, count: u32) -> MessageId {
        self.ids.next_row(now, count)
    }

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
        let head = state::write(&update.changes, grave, &update.events);
        group.push(self.state_record(update.id, head, update.finished, update.events, ended, update.synced));
        self.log.append(group);
    }

    /// Tells of what belongs to no message: event lines, each ending in a line feed. They come to the event log once they
    /// are on disk; a crash before that may lose them, and nothing else.
    pub fn note(self: &Arc<Self>, events: impl Into<Bytes>) {
        let events = events.into();
        // A state of no message: nothing keeps its record but that the event log does not have it yet.
        let head = state::write(&[], None, &events);
        self.log.append(vec![self.state_record(NOBODY, head, false, events, None, None)]);
    }

    /// The message with its content, from memory or from disk.
    ///
    /// # Errors
    /// [`SpoolError::Unknown`] when finished; otherwise the record cannot be read.
    ///
    /// # Cancel safety
    /// Nothing changes but what is cached.
    pub async fn load(&self, id: MessageId) -> Result<Arc<Message>, SpoolError> {
        loop {
            let (location, signature) = {
                let state = self.lock();
                if let Some(message) = state.cache.get(id) {
                    return Ok(message);
                }
                let entry = state.index.get(id).ok_or(SpoolError::Unknown(id))?;
                (entry.message.ok_or(SpoolError::Unknown(id))?, entry.signature())
            };
            let read = self.read_message(id, location, signature).await;
            // It may have been copied forward, and its old place used again, while the read waited.
            if read.is_ok() || self.lock().holds(id, MESSAGE, location) {
                return read;
            }
        }
    }

    /// How large the content of a message is, in octets.
    ///
    /// # Errors
    /// [`SpoolError::Unknown`] when finished.
    pub fn content_len(&self, id: MessageId) -> Result<usize, SpoolError> {
        let state = self.lock();
        if let Some(message) = state.cache.get(id) {
            return Ok(message.content.len());
        }
        let location = state.index.get(id).and_then(|entry| entry.message).ok_or(SpoolError::Unknown(id))?;
        Ok(location.body_len as usize)
    }

    async fn read_message(
        &self,
        id: MessageId,
        location: Location,
        signature: Option<Location>,
    ) -> Result<Arc<Message>, SpoolError> {
        let record = self.log.read(location).await.map_err(Arc::new)?;
        let damaged = |source| SpoolError::Damaged { id, source };
        if record.id != id.0 {
            return Err(damaged(CodecError("message id")));
        }
        let envelope = codec::read_envelope(&mut Reader(&record.head)).map_err(damaged)?;
        let message = Message::new(id, envelope, record.body);
        if let Some(location) = signature {
            let signature = self.log.read(location).await.map_err(Arc::new)?;
            message.signature.set(signature.body).expect("a new message has no signature yet");
        }
        Ok(Arc::new(message))
    }

    /// The message, but without content and signature if it must be read from disk: for what concerns its recipients
    /// only, and for one whose content cannot be read.
    ///
    /// # Errors
    /// As [`load`](Spool::load), but for the content.
    pub async fn load_envelope(&self, id: MessageId) -> Result<Arc<Message>, SpoolError> {
        let location = {
            let state = self.lock();
            if let Some(message) = state.cache.get(id) {
                return Ok(message);
            }
            state.index.get(id).and_then(|entry| entry.message).ok_or(SpoolError::Unknown(id))?
        };
        let record = self.log.read_head(location).await.map_err(Arc::new)?;
        let damaged = |source| SpoolError::Damaged { id, source };
        if record.id != id.0 {
            return Err(damaged(CodecError("message id")));
        }
        let envelope = codec::read_envelope(&mut Reader(&record.head)).map_err(damaged)?;
        Ok(Arc::new(Message::new(id, envelope, Bytes::new())))
    }

    /// The states written so far for a message's recipients, in the order of the log; unsynced ones may be missing.
    ///
    /// # Errors
    /// As [`load`](Spool::load).
    pub async fn states(&self, id: MessageId) -> Result<Vec<Change>, SpoolError> {
        let locations: Vec<Location> = {
            let state = self.lock();
            state.index.get(id).ok_or(SpoolError::Unknown(id))?.states().collect()
        };
        let mut changes = Vec::new();
        for location in locations {
            let record = self.log.read(location).await.map_err(Arc::new)?;
            let found = state::read(&record.head).map_err(|source| SpoolError::Damaged { id, source })?;
            changes.extend(found.changes);
        }
        Ok(changes)
    }

    /// The log has more to write than it should: whoever makes more records waits.
    pub fn is_behind(&self) -> bool {
        self.log.queued_bytes() > self.queued_max
    }

    /// Whether new mail can be written, and why not.
    pub fn health(&self) -> Health {
        self.log.health()
    }

    /// Writes what is queued, where the log has no thread for it ([`Drive::Stepped`](crate::log::Drive)).
    pub fn step(&self) {
        self.log.step();
    }

    /// Segments from this one on hold events that are not yet safely in the event log.
    pub fn set_exported(&self, floor: SegmentId) {
        self.exported.store(floor.0, Ordering::Relaxed);
    }

    /// Syncs what waits, seals the log and stops its thread. Call it last.
    pub fn close(&self) {
        self.log.close();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics under this lock")
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
        let entry = state.index.entry(message.id);
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
        synced: Option<oneshot::Sender<()>>,
    ) -> Append {
        let spool = Arc::clone(self);
        let done = move |result: Result<Location, LogError>| {
            let Ok(location) = result else { return };
            match ended {
                Some(entry) => spool.bury(id, entry, location.position.segment),
                None if !finished => spool.keep_state(id, location),
                None => {}
            }
            if !events.is_empty() {
                (spool.export)(location.position, events);
            }
            synced.map(|synced| synced.send(()));
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

impl std::fmt::Debug for Spool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spool").finish_non_exhaustive()
    }
}

/// What the client got for the submission whose first message this is.
fn receipt(id: MessageId, envelope: &Envelope, keyed: &Keyed) -> Receipt {
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

fn append(
    kind: u8,
    id: MessageId,
    head: Vec<u8>,
    body: Bytes,
    done: impl FnOnce(Result<Location, LogError>) + Send + 'static,
) -> Append {
    Append { kind, id: id.0, head, body: smallvec![body], durability: Durability::Relaxed, done: Some(Box::new(done)) }
}

/// What `posthaste spool verify` prints for a record: its kind and whether its head can be read.
pub fn describe(kind: u8, head: &[u8]) -> Result<&'static str, CodecError> {
    match kind {
        MESSAGE => codec::read_envelope(&mut Reader(head)).map(|_: Envelope| "message"),
        STATE => state::read(head).map(|_| "state"),
        SIGNATURE => Ok("signature"),
        _ => Err(CodecError("kind")),
    }
}
