//! What a process sees of it: files, names, locks. Each deed may meet a fault, and changes what is shown or what is durable.

use std::any::Any;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use rand::RngExt;

use super::inode::Inode;
use super::{Change, Deed, Disk, Fault, SimFiles, error};
use crate::log::files::{Files, LogFile};

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

    fn will_need(&self, len: u64) {
        self.disk().wanted += len;
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
