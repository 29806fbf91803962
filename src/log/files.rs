//! The little that the log asks of a file system, behind a trait so that tests can pull the plug.

pub mod sim;

use std::any::Any;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, IoSlice};
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Advice, OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

/// A file system. Every call blocks.
///
/// What the log counts on after a power cut: contents are as of the last `sync_data` of that file that returned `Ok`, plus any
/// part of what was written since; names are as of the last `sync_dir` that returned `Ok`, plus any first part of the changes since.
///
/// With one exception. Where the file system stops on its own (an error, a shutdown), a `sync_data` may return `Ok` and leave zeros in
/// blocks that were never written before: ext4 marks allocated blocks as written by its journal after it wrote them, and does not tell
/// when that fails. After that, nothing that changes names works any more.
pub trait Files: Send + Sync {
    /// Creates a folder and those above it; fine if it exists.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes this process the only user of the folder until the guard is dropped.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if another process holds the lock.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Any + Send + Sync>>;
    /// A new file of `size` octets, the space allocated but not written. Fails if the name is taken.
    fn create(&self, path: &Path, size: u64) -> io::Result<Arc<dyn LogFile>>;
    /// An existing file, for reading and writing, or for reading only.
    fn open(&self, path: &Path, writable: bool) -> io::Result<Arc<dyn LogFile>>;
    /// Renames a file inside its folder.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Gives the space of a file behind its first `len` octets back.
    fn truncate(&self, path: &Path, len: u64) -> io::Result<()>;
    /// The names in a folder; those that are not UTF-8 are left out.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Makes creations, renames and removals in the folder durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Octets that this process may still allocate.
    fn free_space(&self, dir: &Path) -> io::Result<u64>;
}

/// A file. Every call blocks; reads and writes at different places may run at once.
pub trait LogFile: Send + Sync {
    /// Writes what it can, at least one octet; returns how many.
    fn write_at(&self, pieces: &[IoSlice<'_>], offset: u64) -> io::Result<usize>;
    /// As [`write_at`](LogFile::write_at), for zeros that nobody reads: they need not stay in memory. `zeros` begins at a multiple
    /// of 4096 in memory; it and `offset` are such multiples themselves, or it only takes longer.
    fn write_zeros(&self, zeros: &[u8], offset: u64) -> io::Result<usize> {
        self.write_at(&[IoSlice::new(zeros)], offset)
    }
    /// Reads up to the length of `buffer`; 0 at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// The first `len` octets will be read soon, so the system may fetch them meanwhile. Nothing depends on whether it does.
    fn will_need(&self, len: u64) {
        let _ = len;
    }
    /// Makes everything written so far, and the length, durable. After an error nothing is known about any write since
    /// the last success, and a second call proves nothing.
    fn sync_data(&self) -> io::Result<()>;
    /// Length in octets.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file holds nothing.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// The operating system's files.
#[derive(Debug, Clone, Copy, Default)]
pub struct DiskFiles;

impl Files for DiskFiles {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        std::fs::create_dir_all(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Any + Send + Sync>> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
        // flock(2): gone with the process, however it ends.
        file.try_lock().map_err(|e| match e {
            TryLockError::WouldBlock => io::ErrorKind::WouldBlock.into(),
            TryLockError::Error(e) => e,
        })?;
        Ok(Box::new(file))
    }

    fn create(&self, path: &Path, size: u64) -> io::Result<Arc<dyn LogFile>> {
        let file = OpenOptions::new().create_new(true).read(true).write(true).mode(0o600).open(path)?;
        match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, size) {
            // Not every file system can; the file is then sparse, and a full disk shows at the write instead.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => file.set_len(size)?,
            other => other?,
        }
        Ok(Arc::new(file))
    }

    fn open(&self, path: &Path, writable: bool) -> io::Result<Arc<dyn LogFile>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(writable).open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        OpenOptions::new().write(true).open(path)?.set_len(len)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

impl LogFile for File {
    fn write_at(&self, pieces: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        Ok(rustix::io::pwritev(self, pieces, offset)?)
    }

    /// Past the page cache where the file system lets us: no copy, and nothing to be written back later.
    fn write_zeros(&self, zeros: &[u8], offset: u64) -> io::Result<usize> {
        let buffered = fcntl_getfl(self)?;
        if fcntl_setfl(self, buffered | OFlags::DIRECT).is_ok() {
            let written = rustix::io::pwrite(self, zeros, offset);
            fcntl_setfl(self, buffered)?;
            match written {
                // Not every file system that takes the flag can do it, or with so small pieces.
                Err(Errno::INVAL | Errno::OPNOTSUPP) => {}
                other => return Ok(other?),
            }
        }
        LogFile::write_at(self, &[IoSlice::new(zeros)], offset)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }

    /// In pieces: of what is asked for at once, Linux fetches no more than it would read ahead of a reader.
    fn will_need(&self, len: u64) {
        const PIECE: u64 = 1 << 20;
        for at in (0..len).step_by(PIECE as usize) {
            if rustix::fs::fadvise(self, at, NonZeroU64::new(PIECE.min(len - at)), Advice::WillNeed).is_err() {
                return;
            }
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}
