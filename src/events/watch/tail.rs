//! What the writer of the event log tells those who watch: which files there are, and how far the last one is written.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::source::Source;
use super::{Cursor, Place, Start, WatchError};

/// The number of the file that is open when the daemon starts. Files set aside before have smaller ones.
const FIRST_FILE: u64 = 1 << 32;

/// How far the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    /// Number of the file being written; that of each file set aside is one less than that of the next.
    pub(super) file: u64,
    /// Octets of it.
    pub(super) length: u64,
    /// Nothing more will be written.
    pub(super) closed: bool,
}

/// What the writer tells those who watch.
#[derive(Debug)]
pub(in crate::events) struct Tail {
    path: PathBuf,
    keep: usize,
    pub(super) end: watch::Sender<End>,
    /// Held while files are renamed, and while they are opened.
    names: Mutex<()>,
}

impl Tail {
    /// Of a log at `path` with `keep` files set aside.
    pub(in crate::events) fn new(path: PathBuf, keep: usize) -> Tail {
        let (end, _) = watch::channel(End { file: FIRST_FILE, length: 0, closed: false });
        Tail { path, keep: keep.max(1), end, names: Mutex::new(()) }
    }

    /// The present file is written up to here.
    pub(in crate::events) fn written(&self, length: u64) {
        self.end.send_modify(|end| end.length = length);
    }

    /// Nothing more will be written. Those who watch see what there is, and then the end.
    pub(in crate::events) fn close(&self) {
        self.end.send_modify(|end| end.closed = true);
    }

    /// Renames files, by `rename`; a new one is being written then, if that works.
    pub(in crate::events) fn rotate(&self, rename: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
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
    pub(super) fn open_next(&self, number: u64) -> io::Result<Option<Source>> {
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
    pub(super) fn find(&self, start: Start) -> Result<Place, WatchError> {
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
