//! Places in the event log: a cursor, and the position that each line ends with.

use std::fmt;
use std::str::FromStr;

use crate::log::{Position, SegmentId};

/// The place of an event in the log. Those of later events are greater. Printed as text that means something only to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// Where its record stands in the spool's log.
    pub(in crate::events) position: Position,
    /// Which line of that record, from 1; 0 is in front of all of them.
    pub(in crate::events) line: u32,
}

/// The text is no cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no cursor of this event log")]
pub struct CursorError;

impl Cursor {
    /// In front of everything.
    pub(super) const ZERO: Cursor = Cursor { position: Position { segment: SegmentId(0), offset: 0 }, line: 0 };
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}.{}", self.position.segment.0, self.position.offset, self.line)
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Cursor, CursorError> {
        let (position, line) = text.split_once('.').ok_or(CursorError)?;
        let position = parse_position(position).ok_or(CursorError)?;
        Ok(Cursor { position, line: line.parse().map_err(|_| CursorError)? })
    }
}

pub(in crate::events) fn parse_position(text: &str) -> Option<Position> {
    let (segment, offset) = text.split_once('-')?;
    Some(Position { segment: SegmentId(segment.parse().ok()?), offset: offset.parse().ok()? })
}

/// The position a line ends with, and whether it is the last of its record.
pub(in crate::events) fn position_of(line: &[u8]) -> Option<(Position, bool)> {
    let line = line.strip_suffix(b"\"}")?;
    let start = memchr::memrchr(b'"', line)? + 1;
    if !line[..start].ends_with(b",\"position\":\"") {
        return None;
    }
    let text = std::str::from_utf8(&line[start..]).ok()?;
    let (text, last) = text.strip_suffix('+').map_or((text, true), |text| (text, false));
    Some((parse_position(text)?, last))
}
