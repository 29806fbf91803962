//! Files are written full of zeros before they become segments.
//!
//! Space that is allocated but was never written reads as zeros, and a file system that stops at the wrong moment leaves it that way
//! though it said that the sync worked (see [`Files`]). In a page that was written and synced before there is no such moment. It is also
//! faster: the sync of a page used again needs no journal.
//!
//! 1. [`Filler`], a thread, fills `zero.log` for the next segment, a piece for each piece that the open segment grows, so that it is
//!    done when that one is three quarters full. An idle log writes nothing. Each piece is synced, in a file of its own, so that the syncs
//!    of the open segment have little more to wait for than the disk.
//! 2. When all of it is synced it is renamed to `ready.log`. That this works proves that the file system had not stopped before.
//! 3. The writer takes `ready.log`, or a segment used before. If there is neither, it fills a small file by itself and goes on. So the thread only
//!    saves time: when it fails, the writer meets the same error and deals with it.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard};

use super::batch::write_all;
use super::files::{Files, LogFile};
use super::handle::Shared;
use super::segment::{FileName, PAGE};
use super::{Health, LogError};

/// Octets written and synced at once beside the writer.
const PIECE: u64 = 512 << 10;

static ZEROS: [u8; PIECE as usize] = [0; PIECE as usize];

/// Writes `len` octets of zeros at `from`.
fn fill(file: &dyn LogFile, from: u64, len: u64) -> io::Result<()> {
    let mut at = from;
    while at < from + len {
        let piece = PIECE.min(from + len - at);
        write_all(file, &mut [IoSlice::new(&ZEROS[..piece as usize])], at)?;
        at += piece;
    }
    Ok(())
}

/// Writes all of a file and syncs it.
pub(super) fn fill_whole(file: &dyn LogFile, size: u64) -> io::Result<()> {
    fill(file, 0, size)?;
    file.sync_data()
}

/// What the thread is to do.
#[derive(Debug, Default, Clone, Copy)]
struct Order {
    /// Size of the file wanted; 0: none.
    size: u64,
    /// How far it may be filled by now.
    allowed: u64,
    /// It is not wanted any more.
    given_up: bool,
    stop: bool,
}

/// Fills files ahead of the writer, on a thread of its own.
#[derive(Default)]
pub(super) struct Filler {
    order: Mutex<Order>,
    wake: Condvar,
}

impl Filler {
    fn lock(&self) -> MutexGuard<'_, Order> {
        self.order.lock().expect("nothing panics under this lock")
    }

    /// Asks for a file; nothing happens before [`Filler::allow`]. What was asked for before and is not ready yet goes on.
    pub fn ask(&self, size: u64) {
        let mut order = self.lock();
        if order.size == 0 {
            (order.size, order.allowed) = (size, 0);
        }
    }

    /// The open segment, of `size` octets, is written up to `offset`.
    pub fn allow(&self, offset: u64, size: u64) {
        let mut order = self.lock();
        // In pages, so that the product has room.
        let share = (order.size / PAGE) * (offset / PAGE) / (size * 3 / 4 / PAGE).max(1) * PAGE;
        let before = order.allowed;
        order.allowed = before.max(share.min(order.size));
        if order.allowed / PIECE > before / PIECE || order.allowed == order.size && before < order.size {
            self.wake.notify_one();
        }
    }

    /// Gives back the space that a file under way has taken, soon.
    pub fn give_up(&self) {
        let mut order = self.lock();
        order.given_up = order.size > 0;
        self.wake.notify_one();
    }

    /// The thread ends after the piece that it is at.
    pub fn stop(&self) {
        self.lock().stop = true;
        self.wake.notify_one();
    }

    /// Until [`Filler::stop`].
    pub fn run(&self, shared: &Shared) {
        loop {
            let made = self.wait(0).map(|size| self.make(shared, size)).transpose();
            if let Err(error) = made {
                tracing::debug!(%error, "no segment can be made ready");
            }
            // The writer asks again when it begins a segment.
            let mut order = self.lock();
            if order.stop {
                return;
            }
            *order = Order::default();
        }
    }

    /// Waits until more may be filled than `filled`: a whole piece, or the last one. The size wanted; `None`: none any more.
    fn wait(&self, filled: u64) -> Option<u64> {
        let idle = |order: &mut Order| {
            let piece = PIECE.min(order.size.saturating_sub(filled));
            !order.stop && !order.given_up && (order.size == 0 || order.allowed < filled + piece)
        };
        let order = self.wake.wait_while(self.lock(), idle).expect("nothing panics under this lock");
        (!order.stop && !order.given_up).then_some(order.size)
    }

    /// Whether a file was made ready.
    fn make(&self, shared: &Shared, size: u64) -> Result<bool, LogError> {
        let (dir, files) = (&shared.options.dir, &*shared.files);
        let free = files.free_space(dir).map_err(LogError::io("look at the space of", dir))?;
        if free < shared.options.disk_free_min.saturating_add(size) {
            return Ok(false);
        }
        let path = FileName::Zero.in_dir(dir);
        let made = self.fill_in_pieces(shared, &path, size).and_then(|whole| match whole {
            true => make_ready(files, dir, &path).map(|()| true),
            false => Ok(false),
        });
        if let Ok(true) = made {
            shared.table().ready = Some(size);
            shared.publish_bytes();
        } else {
            // Best effort: the next start clears it away.
            let _ = files.remove(&path);
        }
        made.map_err(LogError::io("fill", &path))
    }

    /// `false`: the log is being closed, or has other troubles.
    fn fill_in_pieces(&self, shared: &Shared, path: &Path, size: u64) -> io::Result<bool> {
        let file = shared.files.create(path, size)?;
        let mut filled = 0;
        while filled < size {
            let healthy = *shared.health.borrow() == Health::Ok;
            if self.wait(filled).is_none() || !healthy {
                return Ok(false);
            }
            let piece = PIECE.min(size - filled);
            fill(&*file, filled, piece)?;
            file.sync_data()?;
            filled += piece;
        }
        Ok(true)
    }
}

fn make_ready(files: &dyn Files, dir: &Path, path: &Path) -> io::Result<()> {
    let ready = FileName::Ready.in_dir(dir);
    files.rename(path, &ready)?;
    files.sync_dir(dir).inspect_err(|_| {
        let _ = files.remove(&ready);
    })
}
