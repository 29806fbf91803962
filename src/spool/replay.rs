//! Start-up: from the records of the log back to the messages that are not finished.
//!
//! Two walks, so that what is held in the meantime stays small. The first, while the log opens, finds where the records
//! of each unfinished message stand and what its recipients wait for; the second reads each envelope once, and hands it
//! on at once.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use super::index::{Entry, Index};
use super::state::{self, RecipientState, StateRecord};
use super::write::receipt;
use super::{Export, MESSAGE, Reader, SIGNATURE, STATE, Spool, SpoolError, codec};
use crate::clock::Timestamp;
use crate::ledger::Ledger;
use crate::log::{Log, Position, ReplayReport, Replayed, SegmentId};
use crate::mail::{Envelope, MessageId};

/// An unfinished message found at start-up.
#[derive(Debug)]
pub struct Restored {
    /// Its name.
    pub id: MessageId,
    /// Its envelope.
    pub envelope: Envelope,
    /// The recipients that have had an attempt; each once.
    pub recipients: SmallVec<[RestoredRecipient; 1]>,
    /// It was taken back: who is not at his end is to end as cancelled.
    pub taken_back: bool,
}

/// Where a recipient stands that has had an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestoredRecipient {
    /// Place in the envelope.
    pub recipient: u32,
    /// Attempts so far; [`ENDED`] if it came to its end.
    pub attempts: u16,
    /// The time for a report of delay has come.
    pub late: bool,
    /// When it is due.
    pub next_attempt: Timestamp,
}

/// In place of a number of attempts: there will be no more.
pub const ENDED: u16 = u16::MAX;

/// What opening found.
#[derive(Debug)]
pub struct Opened {
    /// Unfinished messages.
    pub messages: usize,
    /// What the log says.
    pub log: ReplayReport,
    /// What their recipients wait for, until [`Spool::restore`] has handed it on.
    pub(super) attempted: Attempted,
    pub(super) taken_back: HashSet<MessageId>,
}

type Attempted = HashMap<MessageId, SmallVec<[RestoredRecipient; 1]>>;

/// The first walk.
pub(super) struct Replay {
    index: Index,
    attempted: Attempted,
    taken_back: HashSet<MessageId>,
    depends: Vec<(SegmentId, SegmentId)>,
    last: MessageId,
    exported: Option<Position>,
    export: Export,
    ledger: Arc<Ledger>,
    /// Keys up to here are in the ledger.
    recorded: Option<Position>,
    /// The last record.
    end: Option<Position>,
}

impl Replay {
    pub(super) fn new(exported: Option<Position>, export: Export, ledger: Arc<Ledger>) -> Replay {
        let (index, attempted, depends) = (Index::default(), HashMap::new(), Vec::new());
        let recorded = ledger.recorded();
        Replay {
            index,
            attempted,
            taken_back: HashSet::new(),
            depends,
            last: MessageId(0),
            exported,
            export,
            ledger,
            recorded,
            end: None,
        }
    }

    pub(super) fn visit(&mut self, record: Replayed<'_>) {
        let id = MessageId(record.id);
        self.last = self.last.max(id);
        self.end = Some(record.location.position);
        match record.kind {
            MESSAGE => {
                let older = self.index.get_or_insert(id, || Entry::new(id)).set_message(record.location);
                let segment = record.location.position.segment;
                self.depends.extend(older.map(|older| (segment, older.position.segment)));
                if self.recorded.is_none_or(|recorded| record.location.position > recorded) {
                    record_again(&self.ledger, &record);
                }
            }
            SIGNATURE => drop(self.index.get_or_insert(id, || Entry::new(id)).set_signature(record.location)),
            STATE => match state::read(record.head) {
                Ok(state) => self.state(id, &record, state),
                Err(error) => complain(id, &record, &error),
            },
            _ => complain(id, &record, &codec::CodecError("kind")),
        }
    }

    fn state(&mut self, id: MessageId, record: &Replayed<'_>, state: StateRecord<'_>) {
        let position = record.location.position;
        if self.exported.is_none_or(|exported| position > exported) && !state.events.is_empty() {
            (self.export)(position, Bytes::copy_from_slice(state.events));
        }
        if state.grave.is_some() {
            self.attempted.remove(&id);
            self.taken_back.remove(&id);
            let message = self.index.remove(id).and_then(|entry| entry.message);
            self.depends.extend(message.map(|message| (position.segment, message.position.segment)));
            return;
        }
        self.index.get_or_insert(id, || Entry::new(id)).note_state(record.location);
        if state.taken_back {
            self.taken_back.insert(id);
        }
        let known = self.attempted.entry(id).or_default();
        for change in &state.changes {
            let new = RestoredRecipient::from_state(change.recipient, &change.state);
            match known.iter_mut().find(|known| known.recipient == change.recipient) {
                // Whichever was written first: an end wins over waiting, more attempts over fewer.
                Some(old) if new.attempts >= old.attempts => *old = new,
                Some(_) => {}
                None => known.push(new),
            }
        }
    }

    /// The index, what was found of unfinished messages, and the highest id seen.
    ///
    /// # Errors
    /// A segment cannot be read a second time.
    pub(super) fn finish(mut self, log: &Log, report: ReplayReport) -> Result<(Index, Opened, MessageId), SpoolError> {
        if self.recorded > self.end {
            // The ledger has seen a longer log than this one, which somebody has replaced or begun anew: what it knows of
            // positions says nothing about these.
            log.scan_all(&mut |record| record_again(&self.ledger, &record)).map_err(Arc::new)?;
        }
        // States of a message that is not there: it finished, and its tombstone was no longer needed.
        self.index.retain(|entry| entry.message.is_some());
        let index = &self.index;
        self.attempted.retain(|id, _| index.get(*id).is_some());
        self.taken_back.retain(|id| index.get(*id).is_some());
        self.depends.into_iter().for_each(|(segment, on)| log.depend(segment, on));
        let (messages, attempted, taken_back) = (index.len(), self.attempted, self.taken_back);
        Ok((self.index, Opened { messages, log: report, attempted, taken_back }, self.last))
    }
}

impl RestoredRecipient {
    fn from_state(recipient: u32, state: &RecipientState) -> RestoredRecipient {
        let (attempts, next_attempt, late) = match state {
            RecipientState::Waiting { attempts, next_attempt, late, .. } => {
                ((*attempts).min(u32::from(ENDED) - 1) as u16, *next_attempt, *late)
            }
            RecipientState::Ended(_) => (ENDED, Timestamp(0), false),
        };
        RestoredRecipient { recipient, attempts, late, next_attempt }
    }
}

impl Spool {
    /// The second walk: every unfinished message found by [`open`](Spool::open), in the order of the log. Blocks. Call it
    /// once, before anything else happens to the spool.
    ///
    /// # Errors
    /// When a segment cannot be read. A single record that cannot be read is logged, and left where it is.
    pub fn restore(&self, opened: &mut Opened, visit: &mut dyn FnMut(Restored)) -> Result<(), SpoolError> {
        let mut attempted = std::mem::take(&mut opened.attempted);
        let mut back = std::mem::take(&mut opened.taken_back);
        let mut each = |record: Replayed<'_>| {
            let id = MessageId(record.id);
            if record.kind != MESSAGE || !self.lock().holds(id, MESSAGE, record.location) {
                return;
            }
            match codec::read_envelope(&mut Reader(record.head)) {
                Ok(envelope) => {
                    let taken_back = back.remove(&id);
                    self.settle_in(id, envelope.recipients.len() > 1 || taken_back);
                    let recipients = attempted.remove(&id).unwrap_or_default();
                    visit(Restored { id, envelope, recipients, taken_back });
                }
                Err(error) => {
                    // Retained all the same: what a later version or a person can read must not be reclaimed.
                    self.settle_in(id, true);
                    complain(id, &record, &error);
                }
            }
        };
        self.log.scan_all(&mut each).map_err(Arc::new)?;
        Ok(())
    }

    /// Retains the records of a message, now that it is known how many recipients it has.
    fn settle_in(&self, id: MessageId, many: bool) {
        let mut state = self.lock();
        let Some(entry) = state.index.get_mut(id) else { return };
        if many {
            entry.set_many();
        } else {
            entry.keep_last_state();
        }
        entry.records().for_each(|location| self.log.retain(location));
    }
}

/// Hands a message's key to the ledger, whatever has become of the message. One that cannot be read is told of elsewhere.
fn record_again(ledger: &Ledger, record: &Replayed<'_>) {
    if record.kind != MESSAGE || !codec::has_key(record.head) {
        return;
    }
    let Ok(envelope) = codec::read_envelope(&mut Reader(record.head)) else { return };
    if let Some(keyed) = &envelope.key {
        let receipt = receipt(MessageId(record.id), &envelope, keyed);
        let at = record.location.position;
        ledger.record_again(&envelope.stream.tenant, keyed, receipt, envelope.expires_at, at);
    }
}

fn complain(id: MessageId, record: &Replayed<'_>, error: &codec::CodecError) {
    tracing::error!(message_id = %id, kind = record.kind, position = ?record.location.position, error = %error,
        "a record in the spool cannot be read and is passed over; run `posthaste spool verify`");
}
