//! The event log on disk: one thread, one file, set aside by size.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;

use super::progress::Progress;
use super::watch::{Start, Tail, Watch, WatchError};
use crate::clock::{Clock, Instant};
use crate::config::EventsConfig;
use crate::log::{Position, SegmentId};
use crate::telemetry::Metrics;

/// Lines written but not synced are synced after this long, so that the spool may give their records up.
const SYNC_EVERY: Duration = Duration::from_millis(500);
/// A write that failed is tried again after this long.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Octets written but not synced, beyond which no more are written before a sync has worked.
const UNSYNCED_MAX: usize = 4 << 20;

/// The event log could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("event log {path}")]
pub struct EventLogError {
    /// The file or folder.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// Called with the first segment whose events may not be on disk yet.
pub type Synced = Box<dyn Fn(SegmentId) + Send + Sync>;

/// Writes `events.jsonl`. Lines come in by [`write`](EventLog::write), which never blocks; what could not be written
/// (disk full) is kept and tried again, and `posthaste_events_lag` shows how much that is.
pub struct EventLog {
    sender: Mutex<Option<Sender<(Position, Bytes)>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    synced: Arc<OnceLock<Synced>>,
    closed: Arc<AtomicBool>,
    metrics: Arc<Metrics>,
    tail: Arc<Tail>,
    progress: Progress,
}

impl EventLog {
    /// Opens the file in `dir`, cuts off an unfinished group at its end, starts the writing thread, and returns the
    /// position of the last whole group.
    ///
    /// # Errors
    /// When folder or file cannot be opened.
    pub fn open(
        dir: &Path,
        config: &EventsConfig,
        metrics: Arc<Metrics>,
    ) -> Result<(EventLog, Option<Position>), EventLogError> {
        let path = dir.join("events.jsonl");
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| EventLogError { path, source }
        };
        fs::create_dir_all(dir).map_err(failed(dir))?;
        let file = OpenOptions::new().read(true).append(true).create(true).open(&path).map_err(failed(&path))?;
        let mut file = OpenedFile::new(path, file, config);
        let last = match file.recover().map_err(failed(&file.path))? {
            None => file.last_position_set_aside().map_err(failed(&file.path))?,
            some => some,
        };
        let tail = Arc::clone(&file.tail);
        let (sender, inbox) = channel();
        let synced = Arc::new(OnceLock::new());
        let closed = Arc::new(AtomicBool::new(false));
        let progress = Progress::new();
        let writer = Writer {
            file,
            progress: progress.clone(),
            taken: 0,
            inbox,
            synced: Arc::clone(&synced),
            metrics: Arc::clone(&metrics),
            last: None,
            synced_at: Clock.instant(),
            closed: Arc::clone(&closed),
        };
        let thread =
            std::thread::Builder::new().name("events".into()).spawn(move || writer.run()).map_err(failed(dir))?;
        let (sender, thread) = (Mutex::new(Some(sender)), Mutex::new(Some(thread)));
        Ok((EventLog { sender, thread, synced, closed, metrics, tail, progress }, last))
    }

    /// From now on `synced` is told how far the file is safely on disk. Only the first call counts.
    pub fn on_synced(&self, synced: Synced) {
        let _ = self.synced.set(synced);
    }

    /// Hands over one or more whole lines that stand at `position` in the spool's log. Positions rise.
    pub fn write(&self, position: Position, lines: Bytes) {
        if let Some(sender) = &*self.sender.lock().expect("no code panics under this lock") {
            self.metrics.events_lag.inc();
            self.progress.handed();
            // Fails only when the thread is gone, which close() alone brings about.
            let _ = sender.send((position, lines));
        }
    }

    /// How far it is with what it was handed.
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Follows the log from `start`. Reads from disk.
    ///
    /// # Errors
    /// See [`WatchError`].
    pub fn watch(&self, start: Start) -> Result<Watch, WatchError> {
        Watch::open(Arc::clone(&self.tail), start)
    }

    /// Writes and syncs what waits, if that can be done at all, then stops the thread.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        drop(self.sender.lock().expect("no code panics under this lock").take());
        if let Some(thread) = self.thread.lock().expect("no code panics under this lock").take() {
            let _ = thread.join();
        }
        self.tail.close();
    }
}

/// The file, opened and cut to whole lines.
#[derive(Debug)]
struct OpenedFile {
    path: PathBuf,
    file: File,
    /// Octets up to here are on disk, or were when it was opened.
    synced: u64,
    /// What was written behind them.
    unsynced: Vec<u8>,
    /// A write or sync failed: nobody knows what stands behind `synced`.
    broken: bool,
    config: EventsConfig,
    tail: Arc<Tail>,
}

impl OpenedFile {
    fn new(path: PathBuf, file: File, config: &EventsConfig) -> OpenedFile {
        let tail = Arc::new(Tail::new(path.clone(), config.keep));
        OpenedFile { path, file, synced: 0, unsynced: Vec::new(), broken: false, config: config.clone(), tail }
    }

    /// Writes all of `lines`. After an error none of them counts as written.
    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        self.mend()?;
        if self.synced + self.unsynced.len() as u64 >= self.config.rotate_size.0 {
            self.rotate()?;
        }
        if self.unsynced.len() >= UNSYNCED_MAX {
            self.sync()?;
        }
        self.file.write_all(lines).inspect_err(|_| self.broken = true)?;
        self.unsynced.extend_from_slice(lines);
        self.tail.written(self.synced + self.unsynced.len() as u64);
        Ok(())
    }

    /// Syncs what was written. A sync that fails may have dropped it from the page cache, and the next one would succeed
    /// for lack of anything to do; so it is written anew before.
    fn sync(&mut self) -> io::Result<()> {
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
    fn recover(&mut self) -> io::Result<Option<Position>> {
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
        Ok(last_position(&tail[..whole]))
    }

    /// The last position of the newest file set aside: the present one is empty.
    fn last_position_set_aside(&self) -> io::Result<Option<Position>> {
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
        let next = self.path.with_extension("jsonl.new");
        let file = OpenOptions::new().read(true).append(true).create(true).open(&next)?;
        self.tail.rotate(|| {
            for age in (1..self.config.keep.max(1)).rev() {
                move_if_there(&self.set_aside(age), &self.set_aside(age + 1))?;
            }
            move_if_there(&self.path, &self.set_aside(1))?;
            fs::rename(&next, &self.path)
        })?;
        self.file = file;
        self.synced = 0;
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

fn last_position(lines: &[u8]) -> Option<Position> {
    let lines = lines.strip_suffix(b"\n")?;
    let start = memchr::memrchr(b'\n', lines).map_or(0, |at| at + 1);
    let line: serde_json::Value = serde_json::from_slice(&lines[start..]).ok()?;
    let (segment, offset) = line.get("position")?.as_str()?.split_once('-')?;
    Some(Position { segment: SegmentId(segment.parse().ok()?), offset: offset.parse().ok()? })
}

struct Writer {
    file: OpenedFile,
    progress: Progress,
    /// Groups in the buffer.
    taken: u64,
    inbox: Receiver<(Position, Bytes)>,
    synced: Arc<OnceLock<Synced>>,
    metrics: Arc<Metrics>,
    last: Option<Position>,
    /// When the last sync ended.
    synced_at: Instant,
    /// Nothing more will come.
    closed: Arc<AtomicBool>,
}

impl Writer {
    fn run(mut self) {
        let mut buffer = Vec::with_capacity(64 << 10);
        loop {
            let open = match self.inbox.recv_timeout(SYNC_EVERY) {
                Ok(first) => self.take(first, &mut buffer),
                Err(RecvTimeoutError::Timeout) => true,
                Err(RecvTimeoutError::Disconnected) => false,
            };
            if !self.write(&mut buffer) {
                return self.progress.ends();
            }
            if !open || Clock.instant() - self.synced_at >= SYNC_EVERY {
                self.sync();
            }
            if !open {
                return self.progress.ends();
            }
        }
    }

    /// Collects what waits, up to the buffer's size.
    fn take(&mut self, first: (Position, Bytes), buffer: &mut Vec<u8>) -> bool {
        let mut next = Some(first);
        while let Some((position, lines)) = next {
            number_lines(position, &lines, buffer);
            self.last = Some(position);
            self.metrics.events_lag.dec();
            self.taken += 1;
            next = if buffer.len() < 60 << 10 { self.inbox.try_recv().ok() } else { None };
        }
        true
    }

    /// False: the log is closed and the file cannot be written. The spool hands those events over again at the next start.
    fn write(&mut self, buffer: &mut Vec<u8>) -> bool {
        if buffer.is_empty() {
            return true;
        }
        let lines = memchr::memchr_iter(b'\n', buffer).count() as u64;
        let mut said = false;
        while let Err(error) = self.file.append(buffer) {
            if !said {
                tracing::error!(file = %self.file.path.display(), error = %error,
                    "the event log cannot be written; events are kept and tried again every second; free disk space");
                said = true;
            }
            if self.closed.load(Ordering::Relaxed) {
                return false;
            }
            std::thread::sleep(RETRY_AFTER);
        }
        self.metrics.events.inc_by(lines);
        self.progress.written(std::mem::take(&mut self.taken));
        buffer.clear();
        true
    }

    fn sync(&mut self) {
        if self.file.unsynced.is_empty() {
            return;
        }
        self.synced_at = Clock.instant();
        match self.file.sync() {
            Ok(()) => {
                if let (Some(last), Some(synced)) = (self.last, self.synced.get()) {
                    synced(last.segment);
                }
            }
            Err(error) => {
                tracing::error!(file = %self.file.path.display(), error = %error, "the event log cannot be synced")
            }
        }
    }
}

/// Appends `lines` to `buffer`, each with its position as last field; a `+` says that more lines of the group follow.
fn number_lines(position: Position, lines: &[u8], buffer: &mut Vec<u8>) {
    let mut rest = lines;
    while let Some(end) = memchr::memchr(b'\n', rest) {
        let line = rest[..end].strip_suffix(b"}").unwrap_or(&rest[..end]);
        rest = &rest[end + 1..];
        let more = if rest.is_empty() { "" } else { "+" };
        buffer.extend_from_slice(line);
        let _ = writeln!(buffer, ",\"position\":\"{}-{}{more}\"}}", position.segment.0, position.offset);
    }
}

impl std::fmt::Debug for EventLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventLog").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let count = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(count, 3);
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
