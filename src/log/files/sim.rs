//! A file system in memory that loses power, and fails, on demand. For tests.
//!
//! It keeps two states: what the system shows, and what the disk holds. A sync carries a file's writes over; a power cut
//! carries over, by seed, none, all, a torn first part or any pages of what was written since, and throws away what the
//! system showed. A sync that fails carries over as much as a power cut would, and forgets that the rest was ever
//! unsynced, as Linux does: the next one succeeds and means nothing.
//!
//! It can also stop on its own, as ext4 does when it finds an error: see [`Fault::Stop`].

mod inode;
mod system;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use inode::Inode;

/// What a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// A write to a file.
    Write,
    /// A sync of a file.
    Sync,
    /// The creation of a file.
    Create,
    /// Anything that changes something: the three above, a rename, a removal, a sync of a folder.
    Change,
}

/// What happens then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails. A write has written part of what it should, a sync has synced part.
    Error(io::ErrorKind),
    /// A write writes half, and says so. Other deeds fail.
    Short,
    /// The power fails; from then on everything does, until [`SimFiles::restart`].
    PowerCut,
    /// The file system stops, as ext4 with an aborted journal: names cannot be changed any more, and after a few more deeds nothing can
    /// be written. Until then, and for this deed, syncs say that they worked; yet what they wrote to pages that were never written before
    /// is lost and reads as zeros after [`SimFiles::restart`].
    Stop,
}

/// Called with a copy of the disk.
type Watcher = Box<dyn FnMut(SimFiles) + Send>;

/// The file system. Clones share it.
#[derive(Clone)]
pub struct SimFiles {
    disk: Arc<Mutex<Disk>>,
}

struct Disk {
    rng: SmallRng,
    inodes: Vec<Inode>,
    /// Names as the system shows them, and as the disk has them.
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    /// Changes of names since the folder was synced, in order.
    changes: Vec<Change>,
    locks: BTreeSet<PathBuf>,
    faults: Vec<(Deed, u64, Fault)>,
    counts: [u64; 4],
    powered: bool,
    /// Deeds that still work since the file system stopped.
    stopped: Option<u32>,
    watcher: Option<Watcher>,
    /// Rises with each restart; handles of earlier ones are dead.
    epoch: u64,
    free: u64,
    /// Octets of files that somebody wanted fetched ahead.
    wanted: u64,
}

#[derive(Clone)]
enum Change {
    Create(PathBuf, usize),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Change::Create(name, inode) => {
                names.insert(name.clone(), *inode);
            }
            Change::Rename(from, to) => {
                let inode = names.remove(from);
                names.extend(inode.map(|inode| (to.clone(), inode)));
            }
            Change::Remove(name) => {
                names.remove(name);
            }
        }
    }
}

impl SimFiles {
    /// An empty disk of 1 TiB. The seed decides what power cuts and failures leave behind.
    pub fn new(seed: u64) -> SimFiles {
        let disk = Disk {
            rng: SmallRng::seed_from_u64(seed),
            inodes: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            changes: Vec::new(),
            locks: BTreeSet::new(),
            faults: Vec::new(),
            counts: [0; 4],
            powered: true,
            stopped: None,
            watcher: None,
            epoch: 0,
            free: 1 << 40,
            wanted: 0,
        };
        SimFiles { disk: Arc::new(Mutex::new(disk)) }
    }

    /// The `nth` such deed from now, counted from 1, meets this fault. Faults add up.
    pub fn fail(&self, deed: Deed, nth: u64, fault: Fault) {
        let mut disk = self.disk();
        let at = disk.counts[deed as usize] + nth;
        disk.faults.push((deed, at, fault));
    }

    /// Takes all faults back that have not happened.
    pub fn clear_faults(&self) {
        self.disk().faults.clear();
    }

    /// How many such deeds there were.
    pub fn count(&self, deed: Deed) -> u64 {
        self.disk().counts[deed as usize]
    }

    /// Octets asked for by [`will_need`](super::LogFile::will_need) so far.
    pub fn wanted(&self) -> u64 {
        self.disk().wanted
    }

    /// Whether neither the power nor the file system has gone since the last restart.
    pub fn is_powered(&self) -> bool {
        let disk = self.disk();
        disk.powered && disk.stopped.is_none()
    }

    /// Cuts the power: everything fails until [`restart`](SimFiles::restart) or [`kill`](SimFiles::kill).
    pub fn cut(&self) {
        self.disk().powered = false;
    }

    /// Hands a copy of the disk to `watcher` before each deed that changes something: what a crash at that moment would leave, once the
    /// copy is restarted. The disk stands still meanwhile.
    pub fn watch(&self, watcher: impl FnMut(SimFiles) + Send + 'static) {
        self.disk().watcher = Some(Box::new(watcher));
    }

    /// A disk with the same in it that goes its own way from here; `seed` decides how.
    pub fn copy(&self, seed: u64) -> SimFiles {
        let copy = self.disk().copy();
        copy.disk().rng = SmallRng::seed_from_u64(seed);
        copy
    }

    /// Sets the free space in octets; files created later take from it, removed ones give back.
    pub fn set_free(&self, octets: u64) {
        self.disk().free = octets;
    }

    /// Cuts the power and starts again: unsynced writes are kept, torn or lost by seed. Open files are dead, locks free.
    pub fn restart(&self) {
        let mut disk = self.disk();
        let disk = &mut *disk;
        // A journalling file system keeps the order of changes to names.
        let kept = disk.rng.random_range(0..=disk.changes.len());
        for change in disk.changes.drain(..).take(kept) {
            change.apply(&mut disk.durable_names);
        }
        disk.names = disk.durable_names.clone();
        for inode in &mut disk.inodes {
            inode.settle(&mut disk.rng);
            inode.show_durable();
        }
        // Nobody can come to a file whose name was lost, either.
        let named: BTreeSet<usize> = disk.names.values().copied().collect();
        let nameless = disk.inodes.iter_mut().enumerate().filter(|(at, _)| !named.contains(at));
        nameless.for_each(|(_, inode)| *inode = Inode::forgotten());
        disk.end_process();
    }

    /// The process ends, the system does not: what was written is there. Open files are dead, locks free.
    pub fn kill(&self) {
        self.disk().end_process();
    }

    /// Changes octets on the disk under everybody's feet. Returns whether the place exists.
    pub fn damage(&self, path: &Path, offset: u64, change: impl FnOnce(&mut [u8])) -> bool {
        let mut disk = self.disk();
        let Some(inode) = disk.names.get(path).copied() else { return false };
        let inode = &mut disk.inodes[inode];
        let Some(bytes) = inode.shown.get_mut(offset as usize..) else { return false };
        change(bytes);
        inode.durable.clone_from(&inode.shown);
        true
    }

    /// Octets of memory that its files take.
    pub fn octets(&self) -> usize {
        self.disk().inodes.iter().map(Inode::octets).sum()
    }

    /// The names there are, as the system shows them.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.disk().names.keys().cloned().collect()
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().expect("nothing panics under this lock")
    }
}

impl Disk {
    fn end_process(&mut self) {
        self.locks.clear();
        self.faults.clear();
        self.powered = true;
        self.stopped = None;
        self.epoch += 1;
    }

    /// The same disk, unwatched, without faults to come.
    fn copy(&self) -> SimFiles {
        let copy = Disk {
            rng: self.rng.clone(),
            inodes: self.inodes.clone(),
            names: self.names.clone(),
            durable_names: self.durable_names.clone(),
            changes: self.changes.clone(),
            locks: self.locks.clone(),
            faults: Vec::new(),
            counts: self.counts,
            powered: self.powered,
            stopped: self.stopped,
            watcher: None,
            epoch: self.epoch,
            free: self.free,
            wanted: self.wanted,
        };
        SimFiles { disk: Arc::new(Mutex::new(copy)) }
    }

    fn check(&self, epoch: u64) -> io::Result<()> {
        match self.powered && epoch == self.epoch {
            true => Ok(()),
            false => Err(io::Error::other("the power is off")),
        }
    }

    /// Counts a deed and finds the fault it meets.
    fn meet(&mut self, deed: Deed, epoch: u64) -> io::Result<Option<Fault>> {
        self.check(epoch)?;
        if let Some(mut watcher) = self.watcher.take() {
            watcher(self.copy());
            self.watcher = Some(watcher);
        }
        self.counts[deed as usize] += 1;
        if deed != Deed::Change {
            self.counts[Deed::Change as usize] += 1;
        }
        let counts = self.counts;
        let hit = self
            .faults
            .iter()
            .position(|(of, at, _)| (*of == deed || *of == Deed::Change) && counts[*of as usize] == *at);
        let fault = hit.map(|hit| self.faults.swap_remove(hit).2);
        match fault {
            Some(Fault::PowerCut) => self.powered = false,
            Some(Fault::Stop) => {
                self.stopped = Some(self.rng.random_range(0..6));
                return Ok(None);
            }
            Some(Fault::Error(_) | Fault::Short) | None => {}
        }
        Ok(fault)
    }

    /// A deed inside a file, after [`Disk::meet`]: whether a stopped file system still does it.
    fn still_works(&mut self) -> io::Result<()> {
        match &mut self.stopped {
            None => Ok(()),
            Some(0) => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    /// A change of names; a fault other than a power cut prevents it.
    fn change(&mut self, deed: Deed, epoch: u64, change: Change) -> io::Result<()> {
        let fault = self.meet(deed, epoch)?;
        self.check_names()?;
        if let Some(Fault::Error(_) | Fault::Short) = fault {
            return Err(error(fault));
        }
        change.apply(&mut self.names);
        self.changes.push(change);
        fault.map_or(Ok(()), |fault| Err(error(Some(fault))))
    }

    /// Changes of names need the journal.
    fn check_names(&self) -> io::Result<()> {
        self.stopped.map_or(Ok(()), |_| Err(io::ErrorKind::ReadOnlyFilesystem.into()))
    }

    fn find(&self, path: &Path) -> io::Result<usize> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn error(fault: Option<Fault>) -> io::Error {
    match fault {
        Some(Fault::Error(kind)) => io::Error::new(kind, "made to fail"),
        Some(Fault::PowerCut) => io::Error::other("the power is off"),
        Some(Fault::Short | Fault::Stop) | None => io::ErrorKind::WriteZero.into(),
    }
}
