//! The event log: what is handed over is written by one thread.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;

use super::archive::Archive;
use super::file::OpenedFile;
use super::progress::Progress;
use super::watch::{Start, Tail, Watch, WatchError};
use crate::clock::{Clock, Instant};
use crate::config::EventsConfig;
use crate::log::{Position, SegmentId};
use crate::telemetry::Metrics;

/// Lines written but not synced are synced after this long, so that the spool may give their records up.
const SYNC_EVERY: Duration = Duration::from_millis(250);
/// So long after a write, what comes waits for others: on a busy day each line would otherwise wake the thread and be
/// written by itself, which costs more than all else about an event. The first one after a pause is written at once.
const COMPANY: Duration = Duration::from_millis(2);
/// As much is written at once as comes in below this size.
const BUFFER: usize = 60 << 10;
/// A write that failed is tried again after this long.
const RETRY_AFTER: Duration = Duration::from_secs(1);

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
    archive: Archive,
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
        EventLog::open_with(dir, config, metrics, COMPANY)
    }

    fn open_with(
        dir: &Path,
        config: &EventsConfig,
        metrics: Arc<Metrics>,
        company: Duration,
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
        let archive = Archive::new(dir, config.keep).with_recent(file.index.recent());
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
            company,
            written_at: None,
            synced_at: Clock.instant(),
            closed: Arc::clone(&closed),
        };
        let thread =
            std::thread::Builder::new().name("events".into()).spawn(move || writer.run()).map_err(failed(dir))?;
        let (sender, thread) = (Mutex::new(Some(sender)), Mutex::new(Some(thread)));
        Ok((EventLog { sender, thread, synced, closed, metrics, tail, progress, archive }, last))
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

    /// Finds what was written, by message. Lines are found as soon as [`progress`](EventLog::progress) counts them; after
    /// [`close`](EventLog::close), too.
    pub fn archive(&self) -> Archive {
        self.archive.clone()
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

struct Writer {
    file: OpenedFile,
    progress: Progress,
    /// Groups in the buffer.
    taken: u64,
    inbox: Receiver<(Position, Bytes)>,
    synced: Arc<OnceLock<Synced>>,
    metrics: Arc<Metrics>,
    last: Option<Position>,
    /// See [`COMPANY`].
    company: Duration,
    /// When last all that waited had been written, and that was something.
    written_at: Option<Instant>,
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
                Ok(first) => {
                    let since = self.written_at.map_or(self.company, |written_at| Clock.instant() - written_at);
                    std::thread::sleep(self.company.saturating_sub(since));
                    self.take(first, &mut buffer)
                }
                Err(RecvTimeoutError::Timeout) => true,
                Err(RecvTimeoutError::Disconnected) => false,
            };
            let all = !buffer.is_empty() && buffer.len() < BUFFER;
            if !self.write(&mut buffer) {
                return self.progress.ends();
            }
            if all {
                self.written_at = Some(Clock.instant());
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
            next = if buffer.len() < BUFFER { self.inbox.try_recv().ok() } else { None };
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
mod tests;
