//! Beginning and ending segments: where the space comes from, and the order that makes each step safe.

use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::Arc;

use rand::RngExt;

use super::{Open, RESERVE_MAX, Writer};
use crate::log::batch::write_all;
use crate::log::files::LogFile;
use crate::log::record::Stamp;
use crate::log::segment::{FIRST, FileName, PAGE, SIZE_MAX, SegmentHeader, page_up, seal_page};
use crate::log::table::Segment;
use crate::log::{LogError, SegmentId};

impl Writer {
    /// Begins a segment with room for a batch of `need` octets.
    pub(super) fn begin(&mut self, need: u64) -> Result<(), LogError> {
        let standard = self.shared.options.segment_size;
        let size = standard.max(page_up(FIRST + need + PAGE));
        if size > SIZE_MAX {
            return Err(LogError::TooLarge { len: need });
        }
        let recyclable = size == standard && !self.shared.table().pool.is_empty();
        self.check_space(if recyclable { 0 } else { size })?;
        let recycled = if size == standard { self.shared.table().pool.pop() } else { None };
        self.generation += 1;
        let path = FileName::Segment(self.generation).in_dir(&self.shared.options.dir);
        let files = &self.shared.files;
        let file = match recycled {
            Some(free) => {
                let free = FileName::Free(free).in_dir(&self.shared.options.dir);
                files.rename(&free, &path).and_then(|()| files.open(&path, true))
            }
            None => files.create(&path, size),
        };
        self.install(file, path, size)
    }

    /// As [`Writer::begin`], in the space set aside. Fails if there is none left.
    pub(super) fn begin_in_reserve(&mut self, need: u64) -> Result<(), LogError> {
        let size = self.reserve_size();
        let options = &self.shared.options;
        let reserve = FileName::Reserve.in_dir(&options.dir);
        if !self.has_reserve || FIRST + need + PAGE > size {
            return Err(LogError::io("use", &reserve)(io::ErrorKind::NotFound.into()));
        }
        self.has_reserve = false;
        self.generation += 1;
        let path = FileName::Segment(self.generation).in_dir(&options.dir);
        let files = &self.shared.files;
        let file = files.rename(&reserve, &path).and_then(|()| files.open(&path, true));
        let file =
            file.and_then(|file| if file.len()? == size { Ok(file) } else { Err(io::ErrorKind::InvalidData.into()) });
        self.install(file, path, size)
    }

    /// Makes a new file the open segment: first its name and header, synced; then the seal of the one before it.
    pub(super) fn install(
        &mut self,
        file: io::Result<Arc<dyn LogFile>>,
        path: PathBuf,
        size: u64,
    ) -> Result<(), LogError> {
        let stamp = Stamp { generation: self.generation, salt: self.rng.random() };
        let prior = self.open.as_ref().map(Open::position).or(self.prior);
        let page = SegmentHeader { stamp, size, prior }.encode();
        let ready = file.and_then(|file| {
            write_all(&*file, &mut [IoSlice::new(&page)], 0)?;
            file.sync_data()?;
            self.shared.files.sync_dir(&self.shared.options.dir)?;
            Ok(file)
        });
        let file = ready.map_err(|e| {
            // Best effort: no record is in it, and the next start would clear it away.
            let _ = self.shared.files.remove(&path);
            LogError::io("begin", &path)(e)
        })?;
        if let Some(open) = self.open.take() {
            let sealed = self.seal(&open);
            self.end_segment(&open, sealed);
        }
        let id = SegmentId(stamp.generation);
        let segment = Segment {
            file: file.clone(),
            stamp,
            size,
            end: FIRST,
            live: 0,
            ended: false,
            freeing: false,
            waits_for: Default::default(),
            names_end_of: self.prior.filter(|_| !self.prior_sealed).map(|prior| prior.segment),
        };
        self.shared.table().begun(id, segment);
        self.open = Some(Open { file, path, stamp, size, offset: FIRST, end: FIRST });
        self.shared.publish_bytes();
        Ok(())
    }

    /// Says in the segment itself where it ends. Without that it still does, by the header of the next one.
    pub(super) fn seal(&self, open: &Open) -> bool {
        let page = seal_page(open.stamp, open.end);
        let sealed =
            write_all(&*open.file, &mut [IoSlice::new(&page)], open.size - PAGE).and_then(|()| open.file.sync_data());
        if let Err(error) = &sealed {
            tracing::warn!(%error, path = %open.path.display(), "a full segment cannot be sealed");
        }
        sealed.is_ok()
    }

    pub(super) fn reserve_size(&self) -> u64 {
        self.shared.options.segment_size.min(RESERVE_MAX)
    }

    pub(super) fn ensure_reserve(&mut self) -> Result<(), LogError> {
        if self.has_reserve {
            return Ok(());
        }
        let size = self.reserve_size();
        self.check_space(size)?;
        let path = FileName::Reserve.in_dir(&self.shared.options.dir);
        let files = &self.shared.files;
        let created = files.create(&path, size).and_then(|file| {
            file.sync_data()?;
            files.sync_dir(&self.shared.options.dir)
        });
        created.map_err(|e| {
            let _ = files.remove(&path);
            LogError::io("create", &path)(e)
        })?;
        self.has_reserve = true;
        Ok(())
    }

    /// Whether `disk_free_min` stays free when `size` octets are taken; the pool is given up for that.
    pub(super) fn check_space(&self, size: u64) -> Result<(), LogError> {
        let options = &self.shared.options;
        let keep = options.disk_free_min;
        let free =
            || self.shared.files.free_space(&options.dir).map_err(LogError::io("look at the space of", &options.dir));
        if free()? >= keep.saturating_add(size) {
            return Ok(());
        }
        let pool = std::mem::take(&mut self.shared.table().pool);
        let had_pool = !pool.is_empty();
        for generation in pool {
            let _ = self.shared.files.remove(&FileName::Free(generation).in_dir(&options.dir));
        }
        let free = free()?;
        // Without the pool a new segment takes space, whatever the caller had in mind.
        let wanted = if had_pool { size.max(options.segment_size) } else { size };
        if free >= keep.saturating_add(wanted) { Ok(()) } else { Err(LogError::Full { free, wanted, keep }) }
    }

    /// Brings pool and reserve into shape, and clears segments in which nothing was ever written.
    pub(super) fn tidy(&mut self, residue: &[u32]) -> Result<(), LogError> {
        let shared = self.shared.clone();
        let dir = &shared.options.dir;
        let remove = |path: PathBuf| shared.files.remove(&path).map_err(LogError::io("remove", &path));
        for generation in residue {
            remove(FileName::Segment(*generation).in_dir(dir))?;
        }
        let mut pool = std::mem::take(&mut shared.table().pool);
        let mut kept = Vec::new();
        for generation in pool.drain(..) {
            let path = FileName::Free(generation).in_dir(dir);
            let len = shared.files.open(&path, false).and_then(|file| file.len());
            let fits = len.is_ok_and(|len| len == shared.options.segment_size);
            if fits && kept.len() < shared.options.recycle_max {
                kept.push(generation);
            } else {
                remove(path)?;
            }
        }
        shared.table().pool = kept;
        if self.has_reserve {
            let path = FileName::Reserve.in_dir(dir);
            let len = shared.files.open(&path, false).and_then(|file| file.len());
            if len.is_ok_and(|len| len != self.reserve_size()) {
                remove(path)?;
                self.has_reserve = false;
            }
        }
        Ok(())
    }
}
