//! What became of a recipient, as it is kept on disk.

use serde::Serialize;

use super::codec::{CodecError, Reader, Writer, read_failure, write_failure};
use crate::clock::Timestamp;
use crate::log::SegmentId;
use crate::mail::Failure;

/// Where a recipient stands. The one that never had an attempt has no record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecipientState {
    /// Waits for its next attempt.
    Waiting {
        /// Attempts so far, at least 1.
        attempts: u32,
        /// When it is due.
        next_attempt: Timestamp,
        /// Why the last attempt did not deliver.
        failure: Failure,
        /// The time for a report of delay has come: who wanted one has it.
        late: bool,
    },
    /// Reached its end.
    Ended(End),
}

/// The ends a recipient can come to; each recipient comes to exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// The receiver took it.
    Delivered,
    /// The receiver, or we, refused it for good.
    Bounced,
    /// Its time ran out.
    Expired,
    /// It must not be mailed.
    Suppressed,
    /// Taken back by the sender or the operator.
    Cancelled,
}

impl End {
    const ALL: [End; 5] = [End::Delivered, End::Bounced, End::Expired, End::Suppressed, End::Cancelled];

    /// The name in events and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            End::Delivered => "delivered",
            End::Bounced => "bounced",
            End::Expired => "expired",
            End::Suppressed => "suppressed",
            End::Cancelled => "cancelled",
        }
    }
}

/// A recipient, by its place in the envelope, and where it stands now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Place in [`crate::mail::Envelope::recipients`].
    pub recipient: u32,
    /// Its new state.
    pub state: RecipientState,
}

/// Version 1 had no way to say that a message was taken back.
const VERSION: u8 = 2;
const WAITING: u8 = 0xff;
const WAITING_LATE: u8 = 0xfe;

const GRAVE: u8 = 1;
const TAKEN_BACK: u8 = 2;

/// Where the `MESSAGE` records of a finished message stand: its tombstone is needed for as long as one of those segments
/// is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grave {
    pub(super) oldest: SegmentId,
    /// `None`: a copy was on its way, so it can be as new as the tombstone itself.
    pub(super) newest: Option<SegmentId>,
}

/// What a `STATE` record says.
#[derive(Debug, PartialEq)]
pub(super) struct StateRecord<'a> {
    /// It is the message's tombstone.
    pub(super) grave: Option<Grave>,
    /// The message was taken back: none of its recipients is to be attempted any more, whatever is known of them.
    pub(super) taken_back: bool,
    pub(super) changes: Vec<Change>,
    /// The event lines that tell of the changes.
    pub(super) events: &'a [u8],
}

pub(super) fn write(changes: &[Change], grave: Option<Grave>, taken_back: bool, events: &[u8]) -> Vec<u8> {
    let mut w = Writer(Vec::with_capacity(16 + events.len()));
    w.u8(VERSION);
    w.u8(if grave.is_some() { GRAVE } else { 0 } | if taken_back { TAKEN_BACK } else { 0 });
    if let Some(grave) = grave {
        w.number(grave.oldest.0.into());
        w.number(grave.newest.map_or(0, |newest| newest.0).into());
    }
    w.number(changes.len() as u64);
    for change in changes {
        w.number(change.recipient.into());
        match &change.state {
            RecipientState::Ended(end) => w.u8(*end as u8),
            RecipientState::Waiting { attempts, next_attempt, failure, late } => {
                w.u8(if *late { WAITING_LATE } else { WAITING });
                w.number((*attempts).into());
                w.number(next_attempt.0);
                write_failure(&mut w, failure);
            }
        }
    }
    w.bytes(events);
    w.0
}

pub(super) fn read(head: &[u8]) -> Result<StateRecord<'_>, CodecError> {
    let mut r = Reader(head);
    if !(1..=VERSION).contains(&r.u8("version")?) {
        return Err(CodecError("version"));
    }
    let segment = |r: &mut Reader<'_>| {
        let number = r.number("grave")?;
        u32::try_from(number).map(SegmentId).map_err(|_| CodecError("grave"))
    };
    let flags = r.u8("flags")?;
    if flags & !(GRAVE | TAKEN_BACK) != 0 {
        return Err(CodecError("flags"));
    }
    let grave = match flags & GRAVE {
        0 => None,
        _ => {
            let (oldest, newest) = (segment(&mut r)?, segment(&mut r)?);
            Some(Grave { oldest, newest: Some(newest).filter(|newest| newest.0 > 0) })
        }
    };
    let changes = (0..r.number("changes")?).map(|_| read_change(&mut r)).collect::<Result<_, _>>()?;
    Ok(StateRecord { grave, taken_back: flags & TAKEN_BACK != 0, changes, events: r.bytes("events")? })
}

/// The record for copying: the same changes, no events. What cannot be read is copied as it is.
pub(super) fn without_events(head: &[u8]) -> Vec<u8> {
    read(head).map_or_else(|_| head.to_vec(), |record| write(&record.changes, record.grave, record.taken_back, b""))
}

fn read_change(r: &mut Reader<'_>) -> Result<Change, CodecError> {
    let number =
        |r: &mut Reader<'_>, field| r.number(field).and_then(|n| u32::try_from(n).map_err(|_| CodecError(field)));
    let recipient = number(r, "recipient")?;
    let state = match r.u8("state")? {
        waiting @ (WAITING | WAITING_LATE) => RecipientState::Waiting {
            attempts: number(r, "attempts")?,
            next_attempt: Timestamp(r.number("next attempt")?),
            failure: read_failure(r)?,
            late: waiting == WAITING_LATE,
        },
        end => RecipientState::Ended(*End::ALL.get(end as usize).ok_or(CodecError("state"))?),
    };
    Ok(Change { recipient, state })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::{Blame, EnhancedCode};

    #[test]
    fn what_is_written_reads_back() {
        let failure = Failure::ours(Blame::Site, EnhancedCode(4, 4, 1), "no answer");
        let waiting = |late| {
            let state =
                RecipientState::Waiting { attempts: 3, next_attempt: Timestamp(99), failure: failure.clone(), late };
            Change { recipient: 7, state }
        };
        let mut changes = vec![waiting(false), waiting(true)];
        changes.extend(End::ALL.iter().map(|end| Change { recipient: 1, state: RecipientState::Ended(*end) }));
        let grave = Some(Grave { oldest: SegmentId(3), newest: None });
        for (grave, taken_back) in [(grave, false), (None, true), (None, false), (grave, true)] {
            let head = write(&changes, grave, taken_back, b"{}\n");
            assert_eq!(read(&head), Ok(StateRecord { grave, taken_back, changes: changes.clone(), events: b"{}\n" }));
            for len in 0..head.len() {
                assert!(read(&head[..len]).is_err());
            }
            let copy = without_events(&head);
            assert_eq!(read(&copy), Ok(StateRecord { grave, taken_back, changes: changes.clone(), events: b"" }));
        }
    }
}
