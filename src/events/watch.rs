//! Following the event log: every line behind a cursor, through rotations, and then what comes.
//!
//! A [`Watch`] reads the files themselves, a block at a time, as far as the writer says they are written; what waits costs
//! nothing but a place to read on from. It sees lines before they are synced: after a crash the spool hands the same ones
//! over again, so that a cursor stays true.

mod cursor;
mod source;
mod tail;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::watch;

use crate::log::Position;
pub(super) use cursor::position_of;
pub use cursor::{Cursor, CursorError};
use source::{Source, no_event};
use tail::End;
pub(super) use tail::Tail;

/// Octets read at a time.
const BLOCK: usize = 256 << 10;

/// No line is longer.
const LINE_MAX: usize = 4 << 20;

/// What is said to be written and cannot be read is looked for again after this long: the writer is mending the file.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With what is written from now on.
    Now,
    /// With the oldest line that is kept.
    Oldest,
    /// Behind this one.
    After(Cursor),
}

/// Lines in order.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// Each with its cursor, without line feed.
    pub lines: Vec<(Cursor, Bytes)>,
    /// There is nothing further yet.
    pub caught_up: bool,
}

/// Why watching ends.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// Events behind the cursor are not kept any more; `oldest` is in front of those that are.
    #[error("the event log does not reach back that far")]
    Missed {
        /// To go on from.
        oldest: Cursor,
    },
    /// A file cannot be read, or what is in it is no event.
    #[error("the event log cannot be read")]
    Read(#[source] io::Error),
    /// The event log is closed.
    #[error("the event log is closed")]
    Closed,
}

/// Where reading goes on.
#[derive(Debug, Clone)]
struct Place {
    source: Source,
    offset: u64,
    /// Lines up to this one were seen, or are not wanted.
    after: Cursor,
}

/// A reader of the event log, from [`EventLog::watch`](super::EventLog::watch).
#[derive(Debug)]
pub struct Watch {
    tail: Arc<Tail>,
    ends: watch::Receiver<End>,
    place: Place,
    /// The record of the line read last, for counting lines.
    record: Position,
    line: u32,
    told_caught_up: bool,
}

impl Watch {
    /// Opens the log at `start`. Reads from disk, a few blocks at most.
    pub(super) fn open(tail: Arc<Tail>, start: Start) -> Result<Watch, WatchError> {
        let ends = tail.end.subscribe();
        let place = tail.find(start)?;
        let record = Cursor::ZERO.position;
        Ok(Watch { tail, ends, place, record, line: 0, told_caught_up: false })
    }

    /// The cursor of the last line seen, or where it began.
    pub fn cursor(&self) -> Cursor {
        self.place.after
    }

    /// The next lines; waits for them, but says once that it has caught up.
    ///
    /// # Errors
    /// See [`WatchError`]; ask no more then.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn next(&mut self) -> Result<Batch, WatchError> {
        loop {
            let end = *self.ends.borrow_and_update();
            let length = if self.place.source.number == end.file { end.length } else { u64::MAX };
            let (read, lines) = self.read(length).await?;
            if !lines.is_empty() {
                let caught_up = self.place.source.number == end.file && self.place.offset >= end.length;
                self.told_caught_up |= caught_up;
                return Ok(Batch { lines, caught_up });
            }
            if read {
                continue;
            }
            if self.place.source.number < end.file {
                self.go_on().await?;
                continue;
            }
            if self.place.offset < end.length {
                tokio::time::sleep(LOOK_AGAIN).await;
                continue;
            }
            if !self.told_caught_up {
                self.told_caught_up = true;
                return Ok(Batch { lines, caught_up: true });
            }
            if end.closed || self.ends.changed().await.is_err() {
                return Err(WatchError::Closed);
            }
        }
    }

    /// Reads a block of whole lines. Whether there was one, and those of its lines that are wanted.
    async fn read(&mut self, length: u64) -> Result<(bool, Vec<(Cursor, Bytes)>), WatchError> {
        let offset = self.place.offset;
        if offset >= length {
            return Ok((false, Vec::new()));
        }
        let source = self.place.source.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let mut size = BLOCK;
            loop {
                let mut block = BytesMut::zeroed((size as u64).min(length - offset) as usize);
                let read = source.read_at(&mut block, offset)?;
                let whole = memchr::memrchr(b'\n', &block[..read]).map_or(0, |at| at + 1);
                if whole > 0 || read < size {
                    block.truncate(whole);
                    return Ok(block.freeze());
                }
                size *= 4;
                if size > 4 * LINE_MAX {
                    return Err(no_event());
                }
            }
        });
        let block = reading.await.map_err(|error| WatchError::Read(io::Error::other(error)))??;
        if block.is_empty() {
            return Ok((false, Vec::new()));
        }
        let lines = self.take(&block)?;
        self.place.offset += block.len() as u64;
        Ok((true, lines))
    }

    /// Gives lines their cursors and leaves out those seen before.
    fn take(&mut self, block: &Bytes) -> Result<Vec<(Cursor, Bytes)>, WatchError> {
        let mut lines = Vec::new();
        let mut begin = 0;
        for end in memchr::memchr_iter(b'\n', block) {
            let line = &block[begin..end];
            let (position, _last) = position_of(line).ok_or_else(no_event)?;
            if position != self.record {
                (self.record, self.line) = (position, 0);
            }
            self.line += 1;
            let cursor = Cursor { position, line: self.line };
            if cursor > self.place.after {
                self.place.after = cursor;
                lines.push((cursor, block.slice(begin..end)));
            }
            begin = end + 1;
        }
        Ok(lines)
    }

    /// Goes on with the next file.
    async fn go_on(&mut self) -> Result<(), WatchError> {
        let (tail, next) = (Arc::clone(&self.tail), self.place.source.number + 1);
        let opened = tokio::task::spawn_blocking(move || match tail.open_next(next)? {
            Some(source) => Ok::<_, io::Error>(Ok(source)),
            // It went while we were reading the one before.
            None => Ok(Err(tail.find(Start::Oldest))),
        });
        let opened = opened.await.map_err(io::Error::other).and_then(|opened| opened).map_err(WatchError::Read)?;
        match opened {
            Ok(source) => {
                self.place.source = source;
                self.place.offset = 0;
                Ok(())
            }
            Err(oldest) => {
                let Place { source, .. } = oldest?;
                let length = source.length(*self.tail.end.borrow())?;
                let first = source.line_at(0, length)?;
                Err(WatchError::Missed {
                    oldest: first.map_or(Cursor::ZERO, |(position, _)| Cursor { position, line: 0 }),
                })
            }
        }
    }
}
