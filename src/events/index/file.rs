//! An index on disk, and reading at a place.

use std::cell::Cell;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::run::{self, HEAD_LEN, Head, Run};
use super::{Entry, runs};
use crate::events::watch::position_of;
use crate::log::Position;

/// No line is longer.
const LINE_MAX: usize = 4 << 20;

/// Reads at a place, and how many there were.
#[derive(Debug, Default)]
pub(in crate::events) struct Reads(Cell<u64>);

impl Reads {
    /// How many there were.
    #[cfg(test)]
    pub(in crate::events) fn count(&self) -> u64 {
        self.0.get()
    }

    /// Fills `octets` from `offset` on, as far as the file goes.
    pub(in crate::events) fn read_at(&self, file: &File, octets: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < octets.len() {
            self.0.set(self.0.get() + 1);
            match file.read_at(&mut octets[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    /// The line that begins at `offset`, without its end; `None`: it has none. `size` octets are tried first.
    pub(in crate::events) fn line_at(&self, file: &File, offset: u64, mut size: usize) -> io::Result<Option<Vec<u8>>> {
        loop {
            let mut line = vec![0; size];
            let read = self.read_at(file, &mut line, offset)?;
            if let Some(end) = memchr::memchr(b'\n', &line[..read]) {
                line.truncate(end);
                return Ok(Some(line));
            }
            if read < size || size > LINE_MAX {
                return Ok(None);
            }
            size *= 4;
        }
    }
}

/// The position of a file's first line, which names its index; `None`: it is empty, or its first line is none of ours.
pub(in crate::events) fn first_position(reads: &Reads, file: &File) -> io::Result<Option<Position>> {
    let line = reads.line_at(file, 0, 2 << 10)?;
    Ok(line.and_then(|line| position_of(&line)).map(|(position, _)| position))
}

/// An index that is added to, by the writer of events and by the keeper.
#[derive(Debug)]
pub(super) struct IndexFile {
    pub(super) path: PathBuf,
    file: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    /// Runs end here.
    len: u64,
}

impl IndexFile {
    /// A new one, in place of any that was there.
    pub(super) fn create(path: PathBuf) -> io::Result<IndexFile> {
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
        Ok(IndexFile { path, file: Mutex::new(Open { file, len: 0 }) })
    }

    /// The one that is there, cut in front of the first run that is damaged, or covers more than the first `len` octets
    /// of its events; or a new one.
    pub(super) fn open(path: PathBuf, len: u64) -> io::Result<IndexFile> {
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        let reads = Reads::default();
        let mut sound = 0;
        for run in runs(&reads, &file)? {
            if run.head.to > len || !run.is_sound(&reads, &file)? {
                break;
            }
            sound = run.end().expect("checked when it was read");
        }
        let cut = file.metadata()?.len() - sound;
        if cut > 0 {
            tracing::info!(file = %path.display(), octets = cut, "cut runs that are damaged, or ahead of the events, off an index");
            file.set_len(sound)?;
        }
        Ok(IndexFile { path, file: Mutex::new(Open { file, len: sound }) })
    }

    /// Adds a run. The entries come in order; the head is written last, so that who reads sees all of it or nothing.
    pub(super) fn append(&self, stretch: Range<u64>, entries: &[Entry]) -> io::Result<()> {
        let octets = run::encode(entries);
        let mut head = Head::of(stretch, false);
        head.add(entries, &octets);
        let mut open = self.file.lock().expect("no code panics under this lock");
        open.file.write_all_at(&octets, open.len + HEAD_LEN as u64)?;
        open.file.write_all_at(&head.write(), open.len)?;
        open.len += (HEAD_LEN + octets.len()) as u64;
        Ok(())
    }

    /// Its runs, and the file that they are in.
    pub(super) fn runs(&self) -> io::Result<(Vec<Run>, File)> {
        let file = self.file.lock().expect("no code panics under this lock").file.try_clone()?;
        Ok((runs(&Reads::default(), &file)?, file))
    }
}

/// Deletes what is in the folder and is none of these.
pub(super) fn delete_others(folder: &Path, wanted: &[PathBuf]) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        let ours = path.extension().is_some_and(|extension| extension == "idx" || extension == "new");
        if ours && !wanted.contains(&path) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}
