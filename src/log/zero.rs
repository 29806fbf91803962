//! Files are written full of zeros before they become segments.
//!
//! Space that is allocated but was never written reads as zeros, and a file system that stops at the wrong moment leaves it that way
//! though it said that the sync worked (see [`Files`]). In a page that was written and synced before there is no such moment. It is also
//! faster: the sync of a page used again needs no journal.
//!
//! 1. [`Filler`], a thread, fills `zero.log` for the next segment while the open one grows from a quarter to three quarters: before that
//!    a segment used before may turn up. An idle log writes nothing. The zeros go past the page cache ([`LogFile::write_zeros`]). Each piece is synced, in a file of its own, so that the syncs
//!    of the open segment have little more to wait for than the disk.
//! 2. When all of it is synced it is renamed to `ready.log`. That this works proves that the file system had not stopped before.
//! 3. The writer takes `ready.log`, or a segment used before. If there is neither yet, `zero.log` is cut off where it has been filled, and that
//!    becomes the next segment ([`Filler::hurry`]).
//! 4. If there is no `zero.log` either, or it failed, or is too small for a large group, the writer fills a small file by itself and goes
//!    on. So the thread only saves time: when it fails, the writer meets the same error and deals with it.

use std::io;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use super::files::{Files, LogFile};
use super::segment::{FileName, PAGE};
use super::shared::Shared;
use super::{Health, LogError};

/// Octets written and synced at once beside the writer, while there is time.
const PIECE: u64 = 512 << 10;
/// The same when there is less: a sync takes its time however little it has to do.
const PIECE_MAX: u64 = 4 << 20;
/// Smallest file that is of use in a hurry, and what the writer fills by itself.
pub(super) const HURRIED: u64 = 2 << 20;
/// The longest that the writer waits for the thread.
const PATIENCE: Duration = Duration::from_secs(5);

/// Begins where a page does, which writing past the page cache asks for.
#[repr(align(4096))]
struct Zeros([u8; PIECE as usize]);

static ZEROS: Zeros = Zeros([0; PIECE as usize]);

/// Writes `len` octets of zeros at `from`.
fn fill(file: &dyn LogFile, from: u64, len: u64) -> io::Result<()> {
    let mut at = from;
    while at < from + len {
        let piece = PIECE.min(from + len - at);
        match file.write_zeros(&ZEROS.0[..piece as usize], at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => at += written as u64,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
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
    /// So much is enough: the writer waits.
    enough: Option<u64>,
    /// It is not wanted any more.
    given_up: bool,
    stop: bool,
}

/// What the thread does next with a file filled so far.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Wait,
    /// Fill so many more octets.
    Fill(u64),
    /// All of it, or as much as is enough, is filled.
    Finish,
    GiveUp,
}

impl Order {
    fn next(&self, filled: u64) -> Next {
        if self.stop || self.given_up {
            return Next::GiveUp;
        }
        let goal = self.enough.unwrap_or(self.size);
        if self.size == 0 {
            return Next::Wait;
        }
        if filled >= goal {
            return Next::Finish;
        }
        let allowed = if self.enough.is_some() { goal } else { self.allowed };
        match allowed.saturating_sub(filled) {
            room if room >= PIECE.min(goal - filled) => Next::Fill(room.min(PIECE_MAX)),
            _ => Next::Wait,
        }
    }
}

/// Fills files ahead of the writer, on a thread of its own.
#[derive(Default)]
pub(super) struct Filler {
    order: Mutex<Order>,
    /// For the thread: there is something to do.
    wake: Condvar,
    /// For the writer: an order was done, or failed.
    done: Condvar,
}

impl Filler {
    fn lock(&self) -> MutexGuard<'_, Order> {
        self.order.lock().expect("nothing panics under this lock")
    }

    /// Asks for a file; nothing happens before [`Filler::allow`]. What was asked for before and is not ready yet goes on.
    pub fn ask(&self, size: u64) {
        let mut order = self.lock();
        if order.size == 0 {
            *order = Order { size, stop: order.stop, ..Order::default() };
        }
    }

    /// The open segment, of `size` octets, is written up to `offset`.
    pub fn allow(&self, offset: u64, size: u64) {
        let mut order = self.lock();
        let (begun, over) = (offset.saturating_sub(size / 4), size / 2);
        // In pages, so that the product has room.
        let share = (order.size / PAGE) * (begun / PAGE) / (over / PAGE).max(1) * PAGE;
        let before = order.allowed;
        order.allowed = before.max(share.min(order.size));
        if order.allowed / PIECE > before / PIECE || order.allowed == order.size && before < order.size {
            self.wake.notify_one();
        }
    }

    /// The writer needs a file of at least so many octets now: waits until one is ready, if one is under way and large enough.
    /// False: it took too long.
    pub fn hurry(&self, least: u64) -> bool {
        let mut order = self.lock();
        if order.size < least || order.allowed == 0 || order.stop {
            return true;
        }
        order.enough = Some(least.max(HURRIED).min(order.size));
        self.wake.notify_one();
        let working = |order: &mut Order| order.size > 0 && !order.stop;
        let waited = self.done.wait_timeout_while(order, PATIENCE, working).expect("nothing panics under this lock");
        !waited.1.timed_out()
    }

    /// Gives back the space that a file under way has taken, soon.
    pub fn give_up(&self) {
        let mut order = self.lock();
        order.given_up = order.size > 0;
        self.wake.notify_one();
    }

    /// The thread ends after the piece that it is at. Nobody waits for it any more.
    pub fn stop(&self) {
        self.lock().stop = true;
        self.wake.notify_one();
        self.done.notify_all();
    }

    /// Until [`Filler::stop`].
    pub fn run(&self, shared: &Shared) {
        // Whatever ends the thread, a panic too: who waits for it goes on, and so does who comes later.
        let _ends = Ends(self);
        loop {
            let made = match self.wait(0) {
                Next::GiveUp => Ok(()),
                Next::Wait | Next::Fill(_) | Next::Finish => self.make(shared),
            };
            if let Err(error) = made {
                tracing::debug!(%error, "no segment can be made ready");
            }
            // The writer asks again when it begins a segment.
            let mut order = self.lock();
            if order.stop {
                return;
            }
            *order = Order::default();
            self.done.notify_one();
        }
    }

    /// Waits until there is something to do with a file filled so far.
    fn wait(&self, filled: u64) -> Next {
        let idle = |order: &mut Order| order.next(filled) == Next::Wait;
        self.wake.wait_while(self.lock(), idle).expect("nothing panics under this lock").next(filled)
    }

    /// Makes a file ready, unless it is given up on the way.
    fn make(&self, shared: &Shared) -> Result<(), LogError> {
        let (dir, files, size) = (&shared.options.dir, &*shared.files, self.lock().size);
        let free = files.free_space(dir).map_err(LogError::io("look at the space of", dir))?;
        if free < shared.options.disk_free_min.saturating_add(size) {
            return Ok(());
        }
        let path = FileName::Zero.in_dir(dir);
        let made = self
            .fill_in_pieces(shared, &path, size)
            .and_then(|filled| filled.map(|filled| make_ready(files, dir, &path).map(|()| filled)).transpose());
        if let Ok(Some(filled)) = made {
            shared.table().ready = Some(filled);
            shared.publish_bytes();
        } else {
            // Best effort: the next start clears it away.
            let _ = files.remove(&path);
        }
        made.map(|_| ()).map_err(LogError::io("fill", &path))
    }

    /// Octets of the file, all of them filled and synced; `None`: the log is being closed, or has other troubles.
    fn fill_in_pieces(&self, shared: &Shared, path: &Path, size: u64) -> io::Result<Option<u64>> {
        let file = shared.files.create(path, size)?;
        let mut filled = 0;
        loop {
            let next = self.wait(filled);
            if *shared.health.borrow() != Health::Ok {
                return Ok(None);
            }
            match next {
                Next::Fill(len) => {
                    fill(&*file, filled, len)?;
                    file.sync_data()?;
                    filled += len;
                }
                Next::Finish => break,
                Next::GiveUp | Next::Wait => return Ok(None),
            }
        }
        if filled < size {
            shared.files.truncate(path, filled)?;
            file.sync_data()?;
        }
        Ok(Some(filled))
    }
}

struct Ends<'a>(&'a Filler);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

fn make_ready(files: &dyn Files, dir: &Path, path: &Path) -> io::Result<()> {
    let ready = FileName::Ready.in_dir(dir);
    files.rename(path, &ready)?;
    files.sync_dir(dir).inspect_err(|_| {
        let _ = files.remove(&ready);
    })
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::sync::Arc;

    use super::*;
    use crate::log::DiskFiles;

    #[test]
    fn a_file_that_was_filled_takes_octets_anywhere() {
        let dir = tempfile::tempdir().unwrap();
        let file = DiskFiles.create(&dir.path().join("zero"), 2 * PIECE + PAGE).unwrap();
        fill_whole(&*file, 2 * PIECE + PAGE).unwrap();
        assert_eq!(file.write_at(&[IoSlice::new(b"odd")], 4097).unwrap(), 3);
        let mut octets = vec![1; (2 * PIECE + PAGE) as usize];
        assert_eq!(crate::log::record::read_full(&*file, &mut octets, 0).unwrap(), octets.len());
        assert_eq!(octets.iter().filter(|octet| **octet != 0).count(), 3);
        assert_eq!(&octets[4097..4100], b"odd");
    }

    /// Who waits for a file is let go when the thread ends by `end`.
    fn check(end: impl FnOnce(&Filler)) {
        let filler = Arc::new(Filler::default());
        filler.ask(2 * HURRIED);
        filler.allow(PAGE, 2 * HURRIED);
        filler.lock().allowed = HURRIED;
        let waiting = Arc::clone(&filler);
        let writer = std::thread::spawn(move || waiting.hurry(PAGE));
        while filler.lock().enough.is_none() {
            std::thread::yield_now();
        }
        end(&filler);
        assert!(writer.join().unwrap(), "it waited until its patience ended");
        assert!(filler.hurry(PAGE), "nobody is waited for who is gone");
    }

    #[test]
    fn who_waits_is_told_that_the_thread_ends() {
        check(Filler::stop);
        // As a panic in it would.
        check(|filler| drop(Ends(filler)));
    }
}
