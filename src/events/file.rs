//! The event log on disk: one file, set aside by size.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::index::Indexer;
use super::watch::Tail;
use crate::config::EventsConfig;
use crate::log::{Position, SegmentId};

/// Octets written but not synced, beyond which no more are written before a sync has worked.
const UNSYNCED_MAX: usize = 4 << 20;

/// The file, opened and cut to whole lines.
#[derive(Debug)]
pub(super) struct OpenedFile {
    pub(super) path: PathBuf,
    file: File,
    /// Octets up to here are on disk, or were when it was opened.
    synced: u64,
    /// What was written behind them.
    pub(super) unsynced: Vec<u8>,
    /// A write or sync failed: nobody knows what stands behind `synced`.
    broken: bool,
    config: EventsConfig,
    pub(super) tail: Arc<Tail>,
    pub(super) index: Indexer,
}

impl OpenedFile {
    pub(super) fn new(path: PathBuf, file: File, config: &EventsConfig) -> OpenedFile {
        let tail = Arc::new(Tail::new(path.clone(), config.keep));
        let index = Indexer::new(path.parent().unwrap_or(Path::new("")).to_owned());
        OpenedFile { path, file, synced: 0, unsynced: Vec::new(), broken: false, config: config.clone(), tail, index }
    }

    /// Writes all of `lines`. After an error none of them counts as written.
    pub(super) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        self.mend()?;
        if self.synced + self.unsynced.len() as u64 >= self.config.rotate_size.0 {
            self.rotate()?;
        }
        if self.unsynced.len() >= UNSYNCED_MAX {
            self.sync()?;
        }
        self.file.write_all(lines).inspect_err(|_| self.broken = true)?;
        let at = self.synced + self.unsynced.len() as u64;
        self.unsynced.extend_from_slice(lines);
        self.index.written(lines, at);
        self.tail.written(at + lines.len() as u64);
        Ok(())
    }

    /// Syncs what was written. A sync that fails may have dropped it from the page cache, and the next one would succeed
    /// for lack of anything to do; so it is written anew before.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.mend()?;
        self.file.sync_data().inspect_err(|_| self.broken = true)?;
        self.synced += self.unsynced.len() as u64;
        self.unsynced.clear();
        Ok(())
    }

    /// After an error, cuts the file back to what is on disk and writes the rest again.
    fn mend(&mut self) -> io::Result<()> {
        if self.broken {
            self.file.set_len(self.synced)?;
            self.file.write_all(&self.unsynced)?;
            self.broken = false;
        }
        Ok(())
    }

    /// Cuts off a line without end and a group without its last line; returns the position of the last whole group.
    pub(super) fn recover(&mut self) -> io::Result<Option<Position>> {
        let len = self.file.metadata()?.len();
        let tail = read_tail(&mut self.file, len)?;
        let whole = whole_groups(&tail);
        self.synced = len - (tail.len() - whole) as u64;
        if self.synced != len {
            let octets = len - self.synced;
            tracing::warn!(file = %self.path.display(), octets, "cut an unfinished line off the event log");
            self.file.set_len(self.synced)?;
        }
        self.tail.written(self.synced);
        let set_aside: Vec<PathBuf> = (1..=self.config.keep.max(1)).map(|age| self.set_aside(age)).collect();
        self.index.resume(&self.file, self.synced, &set_aside);
        Ok(last_position(&tail[..whole]))
    }

    /// The last position of the newest file set aside: the present one is empty.
    pub(super) fn last_position_set_aside(&self) -> io::Result<Option<Position>> {
        match File::open(self.set_aside(1)) {
            Ok(mut file) => {
                let len = file.metadata()?.len();
                Ok(last_position(&read_tail(&mut file, len)?))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn set_aside(&self, age: usize) -> PathBuf {
        self.path.with_extension(format!("jsonl.{age}"))
    }

    /// `events.jsonl` becomes `.1`, `.1` becomes `.2`, and so on; the oldest goes. The new file is there before the old
    /// one moves, so that a rotation that fails half-way can be tried again.
    fn rotate(&mut self) -> io::Result<()> {
        self.sync()?;
        let gone = self.index.of(&self.set_aside(self.config.keep.max(1)));
        let next = self.path.with_extension("jsonl.new");
        let file = OpenOptions::new().read(true).append(true).create(true).open(&next)?;
        self.tail.rotate(|| {
            for age in (1..self.config.keep.max(1)).rev() {
                move_if_there(&self.set_aside(age), &self.set_aside(age + 1))?;
            }
            move_if_there(&self.path, &self.set_aside(1))?;
            fs::rename(&next, &self.path)
        })?;
        let old = std::mem::replace(&mut self.file, file);
        self.index.rotated(old, std::mem::take(&mut self.synced), gone);
        Ok(())
    }
}

fn move_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn read_tail(file: &mut File, len: u64) -> io::Result<Vec<u8>> {
    // Longer than any group of lines with one position.
    const TAIL: u64 = 4 << 20;
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(len.saturating_sub(TAIL)))?;
    file.take(TAIL).read_to_end(&mut tail)?;
    Ok(tail)
}

/// The length of `tail` up to the end of the last group that has all its lines.
fn whole_groups(tail: &[u8]) -> usize {
    let mut end = memchr::memrchr(b'\n', tail).map_or(0, |at| at + 1);
    while end > 0 {
        let start = memchr::memrchr(b'\n', &tail[..end - 1]).map_or(0, |at| at + 1);
        if !tail[start..end].ends_with(b"+\"}\n") {
            break;
        }
        end = start;
    }
    end
}

/// What of the end of a file is kept, and the last position in it.
pub(super) fn probe(tail: &[u8]) -> (&[u8], Option<Position>) {
    let kept = &tail[..whole_groups(tail)];
    (kept, last_position(kept))
}

fn last_position(lines: &[u8]) -> Option<Position> {
    let lines = lines.strip_suffix(b"\n")?;
    let start = memchr::memrchr(b'\n', lines).map_or(0, |at| at + 1);
    let line: serde_json::Value = serde_json::from_slice(&lines[start..]).ok()?;
    let (segment, offset) = line.get("position")?.as_str()?.split_once('-')?;
    Some(Position { segment: SegmentId(segment.parse().ok()?), offset: offset.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::events::EventLog;
    use crate::telemetry::Metrics;

    fn position(segment: u32, offset: u32) -> Position {
        Position { segment: SegmentId(segment), offset }
    }

    fn open(dir: &Path, rotate: u64) -> (EventLog, Option<Position>) {
        let config = EventsConfig { rotate_size: crate::config::ByteSize(rotate), keep: 2 };
        EventLog::open(dir, &config, Arc::new(Metrics::new())).unwrap()
    }

    #[test]
    fn goes_on_behind_the_last_whole_line() {
        let dir = tempfile::tempdir().unwrap();
        let (log, last) = open(dir.path(), 1 << 20);
        assert_eq!(last, None);
        log.write(position(1, 4096), Bytes::from_static(b"{\"a\":1}\n{\"a\":2}\n"));
        log.close();
        let path = dir.path().join("events.jsonl");
        let lines = "{\"a\":1,\"position\":\"1-4096+\"}\n{\"a\":2,\"position\":\"1-4096\"}\n";
        assert_eq!(fs::read_to_string(&path).unwrap(), lines);
        let torn = "{\"a\":3,\"position\":\"1-8192+\"}\n{\"a\":4,\"posi";
        fs::write(&path, format!("{lines}{torn}")).unwrap();
        let (log, last) = open(dir.path(), 1 << 20);
        assert_eq!(last, Some(position(1, 4096)));
        log.close();
        assert_eq!(fs::read_to_string(&path).unwrap(), lines);
    }

    #[test]
    fn sets_files_aside_and_finds_the_position_there() {
        let dir = tempfile::tempdir().unwrap();
        for n in 1..=5 {
            let (log, last) = open(dir.path(), 10);
            assert_eq!(last, (n > 1).then(|| position(n - 1, 0)));
            log.write(position(n, 0), Bytes::from_static(b"{\"a\":1}\n"));
            log.close();
        }
        let count = |path: &Path| fs::read_dir(path).unwrap().count();
        assert_eq!((count(dir.path()), count(&dir.path().join("index"))), (4, 3), "three files, and an index for each");
    }

    #[test]
    fn what_a_failed_sync_left_is_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let file = OpenOptions::new().append(true).create(true).open(&path).unwrap();
        let mut opened = OpenedFile::new(path.clone(), file, &EventsConfig::default());
        opened.append(b"one\n").unwrap();
        opened.sync().unwrap();
        opened.append(b"two\n").unwrap();
        // A sync fails, and what the kernel kept of it is zeroes.
        opened.broken = true;
        fs::write(&path, b"one\n\0\0").unwrap();
        opened.append(b"three\n").unwrap();
        assert_eq!((opened.broken, fs::read(&path).unwrap().as_slice()), (false, b"one\ntwo\nthree\n".as_slice()));
        assert_eq!(opened.synced, 4);
        opened.sync().unwrap();
        assert_eq!((opened.synced, opened.unsynced.len()), (14, 0));
    }
}
