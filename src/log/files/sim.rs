//! A file system in memory that loses power, and fails, on demand. For tests.
//!
//! It keeps two states: what the system shows, and what the disk holds. A sync carries a file's writes over; a power cut
//! carries over, by seed, none, all, a torn first part or any pages of what was written since, and throws away what the
//! system showed. A sync that fails carries over as much as a power cut would, and forgets that the rest was ever
//! unsynced, as Linux does: the next one succeeds and means nothing.
//!
//! It can also stop on its own, as ext4 does when it finds an error: see [`Fault::Stop`].

mod inode;

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::{Files, LogFile};
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

struct SimFile {
    disk: Arc<Mutex<Disk>>,
    inode: usize,
    epoch: u64,
}

impl SimFile {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().expect("nothing panics under this lock")
    }
}

impl LogFile for SimFile {
    fn write_at(&self, pieces: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let mut disk = self.disk();
        let fault = disk.meet(Deed::Write, self.epoch)?;
        disk.still_works()?;
        let mut data: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
        match fault {
            None => {}
            Some(Fault::Short) => data.truncate((data.len() / 2).max(1)),
            Some(Fault::Error(_) | Fault::PowerCut | Fault::Stop) => {
                data.truncate(disk.rng.random_range(0..=data.len()));
            }
        }
        let len = data.len();
        disk.inodes[self.inode].write(offset as usize, data);
        match fault {
            None | Some(Fault::Short) => Ok(len),
            Some(Fault::Error(_) | Fault::PowerCut | Fault::Stop) => Err(error(fault)),
        }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let disk = self.disk();
        disk.check(self.epoch)?;
        let bytes = disk.inodes[self.inode].shown.get(offset as usize..).unwrap_or_default();
        let len = bytes.len().min(buffer.len());
        buffer[..len].copy_from_slice(&bytes[..len]);
        Ok(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.disk();
        let disk = &mut *disk;
        let fault = disk.meet(Deed::Sync, self.epoch)?;
        disk.still_works()?;
        let inode = &mut disk.inodes[self.inode];
        match fault {
            None if disk.stopped.is_some() => inode.sync_without_marks(),
            None => inode.sync(),
            Some(Fault::PowerCut) => {}
            Some(Fault::Error(_) | Fault::Short | Fault::Stop) => inode.settle(&mut disk.rng),
        }
        fault.map_or(Ok(()), |fault| Err(error(Some(fault))))
    }

    fn len(&self) -> io::Result<u64> {
        let disk = self.disk();
        disk.check(self.epoch)?;
        Ok(disk.inodes[self.inode].shown.len() as u64)
    }
}

/// Frees the folder when dropped, unless it was taken again after a crash.
struct SimLock {
    disk: Arc<Mutex<Disk>>,
    path: PathBuf,
    epoch: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        if let Ok(mut disk) = self.disk.lock()
            && disk.epoch == self.epoch
        {
            disk.locks.remove(&self.path);
        }
    }
}

/// Paths are plain names; folders exist once asked for.
impl Files for SimFiles {
    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Any + Send + Sync>> {
        let mut disk = self.disk();
        match disk.locks.insert(path.into()) {
            true => Ok(Box::new(SimLock { disk: self.disk.clone(), path: path.into(), epoch: disk.epoch })),
            false => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn create(&self, path: &Path, size: u64) -> io::Result<Arc<dyn LogFile>> {
        let mut disk = self.disk();
        if disk.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let full = disk.free < size;
        let (epoch, inode) = (disk.epoch, disk.inodes.len());
        disk.inodes.push(Inode::default());
        disk.change(Deed::Create, epoch, Change::Create(path.into(), inode))?;
        if full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        disk.free -= size;
        let new = &mut disk.inodes[inode];
        new.allocated = size;
        new.set_len(size as usize);
        Ok(Arc::new(SimFile { disk: self.disk.clone(), inode, epoch }))
    }

    fn open(&self, path: &Path, _writable: bool) -> io::Result<Arc<dyn LogFile>> {
        let disk = self.disk();
        disk.check(disk.epoch)?;
        Ok(Arc::new(SimFile { disk: self.disk.clone(), inode: disk.find(path)?, epoch: disk.epoch }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.find(from)?;
        let epoch = disk.epoch;
        disk.change(Deed::Change, epoch, Change::Rename(from.into(), to.into()))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        let (inode, epoch) = (disk.find(path)?, disk.epoch);
        disk.change(Deed::Change, epoch, Change::Remove(path.into()))?;
        disk.free += std::mem::take(&mut disk.inodes[inode].allocated);
        disk.inodes[inode].removed = true;
        Ok(())
    }

    fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        let mut disk = self.disk();
        let (inode, epoch) = (disk.find(path)?, disk.epoch);
        if let Some(fault) = disk.meet(Deed::Change, epoch)? {
            return Err(error(Some(fault)));
        }
        disk.check_names()?;
        let inode = &mut disk.inodes[inode];
        let given_back = inode.allocated.saturating_sub(len);
        inode.allocated -= given_back;
        inode.set_len(len as usize);
        disk.free += given_back;
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let disk = self.disk();
        disk.check(disk.epoch)?;
        let names = disk.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(names.filter_map(|path| path.file_name()?.to_str().map(str::to_owned)).collect())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        let disk = &mut *disk;
        let epoch = disk.epoch;
        if let Some(fault) = disk.meet(Deed::Change, epoch)? {
            return Err(error(Some(fault)));
        }
        disk.check_names()?;
        for change in disk.changes.drain(..) {
            change.apply(&mut disk.durable_names);
        }
        // Nobody can come back to a file without a name; a long simulation makes many.
        for (at, inode) in
            disk.inodes.iter_mut().enumerate().filter(|(_, inode)| inode.removed && !inode.shown.is_empty())
        {
            if disk.durable_names.values().all(|named| *named != at) {
                *inode = Inode::forgotten();
            }
        }
        Ok(())
    }

    fn free_space(&self, _dir: &Path) -> io::Result<u64> {
        let disk = self.disk();
        disk.check(disk.epoch)?;
        Ok(disk.free)
    }
}
