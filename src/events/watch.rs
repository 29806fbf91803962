//! Following the event log: every line behind a cursor, through rotations, and then what comes.
//!
//! A [`Watch`] reads the files themselves, a block at a time, as far as the writer says they are written; what waits costs
//! nothing but a place to read on from. It sees lines before they are synced: after a crash the spool hands the same ones
//! over again, so that a cursor stays true.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::watch;

use crate::log::{Position, SegmentId};

/// Octets read at a time.
const BLOCK: usize = 256 << 10;

/// No line is longer.
const LINE_MAX: usize = 4 << 20;

/// What is said to be written and cannot be read is looked for again after this long: the writer is mending the file.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The number of the file that is open when the daemon starts. Files set aside before have smaller ones.
const FIRST_FILE: u64 = 1 << 32;

/// The place of an event in the log. Those of later events are greater. Printed as text that means something only to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// Where its record stands in the spool's log.
    pub(super) position: Position,
    /// Which line of that record, from 1; 0 is in front of all of them.
    pub(super) line: u32,
}

/// The text is no cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no cursor of this event log")]
pub struct CursorError;

impl Cursor {
    /// In front of everything.
    const ZERO: Cursor = Cursor { position: Position { segment: SegmentId(0), offset: 0 }, line: 0 };
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

fn parse_position(text: &str) -> Option<Position> {
    let (segment, offset) = text.split_once('-')?;
    Some(Position { segment: SegmentId(segment.parse().ok()?), offset: offset.parse().ok()? })
}

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

/// How far the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct End {
    /// Number of the file being written; that of each file set aside is one less than that of the next.
    file: u64,
    /// Octets of it.
    length: u64,
    /// Nothing more will be written.
    closed: bool,
}

/// What the writer tells those who watch.
#[derive(Debug)]
pub(super) struct Tail {
    path: PathBuf,
    keep: usize,
    end: watch::Sender<End>,
    /// Held while files are renamed, and while they are opened.
    names: Mutex<()>,
}

impl Tail {
    /// Of a log at `path` with `keep` files set aside.
    pub(super) fn new(path: PathBuf, keep: usize) -> Tail {
        let (end, _) = watch::channel(End { file: FIRST_FILE, length: 0, closed: false });
        Tail { path, keep: keep.max(1), end, names: Mutex::new(()) }
    }

    /// The present file is written up to here.
    pub(super) fn written(&self, length: u64) {
        self.end.send_modify(|end| end.length = length);
    }

    /// Nothing more will be written. Those who watch see what there is, and then the end.
    pub(super) fn close(&self) {
        self.end.send_modify(|end| end.closed = true);
    }

    /// Renames files, by `rename`; a new one is being written then, if that works.
    pub(super) fn rotate(&self, rename: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let _names = self.names.lock().expect("no code panics under this lock");
        rename()?;
        self.end.send_modify(|end| *end = End { file: end.file + 1, length: 0, ..*end });
        Ok(())
    }

    /// The file with this number; `None` if it is gone.
    fn open(&self, number: u64, end: End) -> io::Result<Option<Source>> {
        let age = end.file - number;
        if age > self.keep as u64 {
            return Ok(None);
        }
        let path = if age == 0 { self.path.clone() } else { self.path.with_extension(format!("jsonl.{age}")) };
        match File::open(path) {
            Ok(file) => Ok(Some(Source { number, file: Arc::new(file) })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The same, for what comes next.
    fn open_next(&self, number: u64) -> io::Result<Option<Source>> {
        let _names = self.names.lock().expect("no code panics under this lock");
        self.open(number, *self.end.borrow())
    }

    /// All files there are, newest first, and the end at that time.
    fn open_all(&self) -> io::Result<(Vec<Source>, End)> {
        let _names = self.names.lock().expect("no code panics under this lock");
        let end = *self.end.borrow();
        let mut sources = Vec::new();
        for age in 0..=self.keep as u64 {
            sources.extend(self.open(end.file - age, end)?);
        }
        Ok((sources, end))
    }

    /// Where `start` is. Reads from disk.
    fn find(&self, start: Start) -> Result<Place, WatchError> {
        let (sources, end) = self.open_all().map_err(WatchError::Read)?;
        let newest = sources.first().ok_or_else(|| WatchError::Read(io::ErrorKind::NotFound.into()))?;
        let oldest = sources.last().expect("there is a first");
        let at = |source: &Source, offset, after| Place { source: source.clone(), offset, after };
        match start {
            Start::Now => {
                // The cursor is that of the last line there is.
                let mut last = Cursor::ZERO;
                for source in &sources {
                    if let Some(found) = source.last_cursor(source.length(end)?)? {
                        last = found;
                        break;
                    }
                }
                Ok(at(newest, end.length, last))
            }
            Start::Oldest => Ok(at(oldest, 0, Cursor::ZERO)),
            Start::After(after) => {
                let mut first = None;
                for source in &sources {
                    let length = source.length(end)?;
                    let Some((position, _)) = source.line_at(0, length)? else { continue };
                    if position <= after.position {
                        let offset = source.search(after.position, length)?;
                        return Ok(at(source, offset, after));
                    }
                    first = Some(position);
                }
                match first {
                    // Before the first event there ever was, and nothing has gone since.
                    Some(_) if after == Cursor::ZERO && sources.len() <= self.keep => Ok(at(oldest, 0, after)),
                    Some(position) => Err(WatchError::Missed { oldest: Cursor { position, line: 0 } }),
                    None => Ok(at(oldest, 0, after)),
                }
            }
        }
    }
}

/// One of the files.
#[derive(Debug, Clone)]
struct Source {
    number: u64,
    file: Arc<File>,
}

impl Source {
    /// Octets of it that are there to be read.
    fn length(&self, end: End) -> Result<u64, WatchError> {
        if self.number == end.file {
            return Ok(end.length);
        }
        self.file.metadata().map(|metadata| metadata.len()).map_err(WatchError::Read)
    }

    /// The whole line that begins at or behind `offset`, which is in the middle of one unless it is 0: its record's
    /// position and where it begins.
    fn line_at(&self, offset: u64, length: u64) -> Result<Option<(Position, u64)>, WatchError> {
        let mut block = Vec::new();
        let mut size = 8 << 10;
        loop {
            let wanted = size.min((length - offset) as usize);
            block.resize(wanted, 0);
            let read = self.read_at(&mut block, offset)?;
            let begin = if offset == 0 { Some(0) } else { memchr::memchr(b'\n', &block[..read]).map(|at| at + 1) };
            let line = begin.and_then(|begin| {
                let line = &block[begin..read];
                memchr::memchr(b'\n', line).map(|end| (begin, &line[..end]))
            });
            match line {
                Some((begin, line)) => {
                    let (position, _) = position_of(line).ok_or_else(no_event)?;
                    return Ok(Some((position, offset + begin as u64)));
                }
                None if read < size || size > 2 * LINE_MAX => return Ok(None),
                None => size *= 4,
            }
        }
    }

    /// Where the first line of a record at or behind `wanted` begins, or some line before it: what is read from there on is
    /// compared anyhow.
    fn search(&self, wanted: Position, length: u64) -> Result<u64, WatchError> {
        // A line begins at `low`, and its record is before the wanted one, or it is the first.
        let (mut low, mut high) = (0, length);
        while high - low > BLOCK as u64 {
            let middle = low + (high - low) / 2;
            match self.line_at(middle, length)? {
                Some((position, begin)) if position < wanted && begin < high => low = begin,
                _ => high = middle,
            }
        }
        Ok(low)
    }

    /// The cursor of the last whole line.
    fn last_cursor(&self, length: u64) -> Result<Option<Cursor>, WatchError> {
        let mut size = BLOCK as u64;
        loop {
            let start = length.saturating_sub(size);
            let mut block = vec![0; (length - start) as usize];
            let read = self.read_at(&mut block, start)?;
            let lines = block[..read].strip_suffix(b"\n").unwrap_or_default();
            let mut count = 0;
            let mut last = None;
            for line in lines.rsplit(|b| *b == b'\n') {
                let position = position_of(line).map(|(position, _)| position);
                if last.is_some() && position != last {
                    break;
                }
                last = position;
                count += 1;
            }
            // A group that fills the block may begin before it.
            let whole = memchr::memchr_iter(b'\n', lines).count() + 1 > count;
            match last {
                Some(position) if whole || start == 0 => return Ok(Some(Cursor { position, line: count as u32 })),
                _ if start == 0 || size > 4 * LINE_MAX as u64 => return Ok(None),
                _ => size *= 4,
            }
        }
    }

    fn read_at(&self, block: &mut [u8], offset: u64) -> Result<usize, WatchError> {
        let mut filled = 0;
        while filled < block.len() {
            match self.file.read_at(&mut block[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(WatchError::Read(error)),
            }
        }
        Ok(filled)
    }
}

/// The position a line ends with, and whether it is the last of its record.
fn position_of(line: &[u8]) -> Option<(Position, bool)> {
    let line = line.strip_suffix(b"\"}")?;
    let start = memchr::memrchr(b'"', line)? + 1;
    if !line[..start].ends_with(b",\"position\":\"") {
        return None;
    }
    let text = std::str::from_utf8(&line[start..]).ok()?;
    let (text, last) = text.strip_suffix('+').map_or((text, true), |text| (text, false));
    Some((parse_position(text)?, last))
}

fn no_event() -> WatchError {
    WatchError::Read(io::Error::new(io::ErrorKind::InvalidData, "a line is no event"))
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

#[cfg(test)]
mod tests;
