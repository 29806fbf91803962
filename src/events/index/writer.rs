//! The writer's side: entries are collected while events are written, and become runs.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::file::{IndexFile, Reads, delete_others, first_position};
use super::keeper::{Job, Keeper};
use super::recent::{Lines, Recent};
use super::{RUN_LINES, path_of, scan};
use crate::events::watch::position_of;

/// Entries kept in memory while the disk takes no run. Then they are dropped, and their lines are read when asked for.
const KEPT_MAX: usize = 16 * RUN_LINES;

/// Keeps the index of the file that is written. Whatever goes wrong is logged, and costs speed only.
#[derive(Debug)]
pub(in crate::events) struct Indexer {
    /// The folder of the events.
    dir: PathBuf,
    recent: Arc<Recent>,
    /// That of the present file.
    index: Option<Arc<IndexFile>>,
    /// A run is due at so many entries.
    due: usize,
    keeper: Keeper,
}

impl Indexer {
    /// For the files in `dir`. Does nothing yet.
    pub(in crate::events) fn new(dir: PathBuf) -> Indexer {
        Indexer { dir, recent: Arc::default(), index: None, due: RUN_LINES, keeper: Keeper::default() }
    }

    /// What is in no run yet, for those who look.
    pub(in crate::events) fn recent(&self) -> &Arc<Recent> {
        &self.recent
    }

    /// At the start: `file` has `len` octets, those in `set_aside` are done with. Indexes are checked, and what is missing
    /// in them is made in the background.
    pub(in crate::events) fn resume(&mut self, file: &File, len: u64, set_aside: &[PathBuf]) {
        if let Err(error) = self.try_resume(file, len, set_aside) {
            tracing::warn!(folder = %self.dir.join("index").display(), %error,
                "indexes of the event log cannot be kept; messages are found by reading all of it");
        }
    }

    fn try_resume(&mut self, file: &File, len: u64, set_aside: &[PathBuf]) -> io::Result<()> {
        let mut wanted = Vec::new();
        if let Some(first) = first_position(&Reads::default(), file)? {
            let path = path_of(&self.dir, first);
            wanted.push(path.clone());
            let index = Arc::new(IndexFile::open(path, len)?);
            self.keeper.ask(Job { events: file.try_clone()?, index: Arc::clone(&index), len, set_aside: false });
            *self.lock() = Lines { file: Some(first), from: len, to: len, entries: Vec::new() };
            self.index = Some(index);
        }
        for path in set_aside {
            let events = match File::open(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                events => events?,
            };
            let Some(first) = first_position(&Reads::default(), &events)? else { continue };
            let (path, len) = (path_of(&self.dir, first), events.metadata()?.len());
            wanted.push(path.clone());
            self.keeper.ask(Job { events, index: Arc::new(IndexFile::open(path, len)?), len, set_aside: true });
        }
        delete_others(&self.dir.join("index"), &wanted)
    }

    /// These whole lines were written at `offset`.
    pub(in crate::events) fn written(&mut self, lines: &[u8], offset: u64) {
        if offset == 0 {
            self.begin(lines);
        }
        if self.index.is_none() {
            return;
        }
        let mut recent = self.lock();
        scan::collect(lines, offset, &mut recent.entries);
        recent.to = offset + lines.len() as u64;
        let due = recent.entries.len() >= self.due;
        drop(recent);
        if due {
            self.add_run();
        }
    }

    /// A file begins with these lines.
    fn begin(&mut self, lines: &[u8]) {
        let first = lines.split(|b| *b == b'\n').next().and_then(position_of).map(|(position, _)| position);
        let create = |first| {
            IndexFile::create(path_of(&self.dir, first)).inspect_err(|error| {
            tracing::warn!(folder = %self.dir.join("index").display(), %error, "an index of the event log cannot be made");
        })
        };
        self.index = first.and_then(|first| create(first).ok()).map(Arc::new);
        *self.lock() = Lines { file: first.filter(|_| self.index.is_some()), ..Lines::default() };
        self.due = RUN_LINES;
    }

    /// Makes a run of what was collected.
    pub(in crate::events) fn add_run(&mut self) {
        let Some(index) = &self.index else { return };
        // Readers wait for the write: it is short, and without the lock they would miss what is neither here nor there.
        let recent = Arc::clone(&self.recent);
        let mut recent = recent.0.lock().expect("no code panics under this lock");
        if recent.from == recent.to {
            return;
        }
        recent.entries.sort_unstable();
        let kept = recent.entries.len();
        match index.append(recent.from..recent.to, &recent.entries) {
            Err(error) if kept < KEPT_MAX => {
                tracing::warn!(file = %index.path.display(), %error, "an index of the event log cannot be written");
                self.due = kept + RUN_LINES;
                return;
            }
            Err(error) => {
                tracing::warn!(file = %index.path.display(), %error,
                    "an index of the event log lacks lines; until the next start they are found by reading");
            }
            Ok(()) => {}
        }
        recent.entries.clear();
        recent.from = recent.to;
        self.due = RUN_LINES;
    }

    /// The present file, with `len` octets, was set aside; a new one follows. `gone` was the index of the one deleted.
    pub(in crate::events) fn rotated(&mut self, events: File, len: u64, gone: Option<PathBuf>) {
        self.add_run();
        if let Some(index) = self.index.take() {
            self.keeper.ask(Job { events, index, len, set_aside: true });
        }
        *self.lock() = Lines::default();
        if let Some(Err(error)) = gone.map(|path| self.keeper.delete(&path))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "an index of the event log cannot be deleted");
        }
    }

    /// The index of a file of events that is about to go.
    pub(in crate::events) fn of(&self, events: &Path) -> Option<PathBuf> {
        let first = first_position(&Reads::default(), &File::open(events).ok()?).ok()??;
        Some(path_of(&self.dir, first))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Lines> {
        self.recent.0.lock().expect("no code panics under this lock")
    }
}

impl Drop for Indexer {
    /// The next start finds an index that lacks nothing.
    fn drop(&mut self) {
        self.add_run();
    }
}
