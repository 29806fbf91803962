//! One of the files, and finding a place in it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::cursor::position_of;
use super::tail::End;
use super::{BLOCK, Cursor, LINE_MAX, WatchError};
use crate::log::Position;

/// One of the files.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) number: u64,
    pub(super) file: Arc<File>,
}

impl Source {
    /// Octets of it that are there to be read.
    pub(super) fn length(&self, end: End) -> Result<u64, WatchError> {
        if self.number == end.file {
            return Ok(end.length);
        }
        self.file.metadata().map(|metadata| metadata.len()).map_err(WatchError::Read)
    }

    /// The whole line that begins at or behind `offset`, which is in the middle of one unless it is 0: its record's
    /// position and where it begins.
    pub(super) fn line_at(&self, offset: u64, length: u64) -> Result<Option<(Position, u64)>, WatchError> {
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
    pub(super) fn search(&self, wanted: Position, length: u64) -> Result<u64, WatchError> {
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
    pub(super) fn last_cursor(&self, length: u64) -> Result<Option<Cursor>, WatchError> {
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

    pub(super) fn read_at(&self, block: &mut [u8], offset: u64) -> Result<usize, WatchError> {
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

pub(super) fn no_event() -> WatchError {
    WatchError::Read(io::Error::new(io::ErrorKind::InvalidData, "a line is no event"))
}
