//! Beginning and ending segments: where the space comes from, and the order that makes each step safe.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::RngExt;

use super::{Open, RESERVE_MAX, Writer};
use crate::log::batch::write_all;
use crate::log::files::LogFile;
use crate::log::record::{Stamp, read_full};
use crate::log::segment::{FIRST, FileName, Others, PAGE, SIZE_MAX, SIZE_MIN, Seal, SegmentHeader, page_up};
use crate::log::table::{Pooled, Segment, is_of_use};
use crate::log::zero::{HURRIED, fill_whole};
use crate::log::{LogError, SegmentId};

impl Writer {
    /// Begins a segment with room for a batch of `need` octets.
    pub(super) fn begin(&mut self, need: u64) -> Result<(), LogError> {
        let standard = self.shared.options.segment_size;
        let least = page_up(FIRST + need + PAGE);
        if least > SIZE_MAX {
            return Err(LogError::TooLarge { len: need });
        }
        if !self.has_filled(least) {
            self.filler.hurry(least);
        }
        let hurried = HURRIED.min(standard).max(least);
        self.check_space(if self.has_filled(least) { 0 } else { hurried })?;
        let files = self.shared.files.clone();
        let taken = self.take_filled(least);
        let (path, size, file) = match taken {
            Some((name, size)) => {
                let path = name.in_dir(&self.shared.options.dir);
                let file = files.open(&path, true);
                (path, size, file)
            }
            None => {
                let (path, created) = self.create_next(hurried);
                let file = created.and_then(|file| {
                    fill_whole(&*file, hurried)?;
                    Ok(file)
                });
                (path, hurried, file)
            }
        };
        let begun = file.map_err(LogError::io("begin", &path)).and_then(|file| self.install(file, &path, size));
        if let Err(error) = &begun {
            match taken {
                // Best effort: no record is in it, and the next start would clear it away. What tells of a segment goes on to.
                None => {
                    let told = self.shared.table().gone.iter().copied().find(|id| self.gone(*id) == path);
                    told.map_or_else(|| _ = files.remove(&path), |id| self.shared.empty_gone(id));
                }
                Some((name, _)) => self.put_back(name, size, error.is_full()),
            }
        }
        begun?;
        self.ask_for_next(size);
        Ok(())
    }

    /// Whether there is a file of at least so many octets that was written full before.
    pub(super) fn has_filled(&self, least: u64) -> bool {
        let table = self.shared.table();
        table.pool.iter().any(|file| file.size >= least) || table.ready.is_some_and(|size| size >= least)
    }

    fn take_filled(&self, least: u64) -> Option<(FileName, u64)> {
        let mut table = self.shared.table();
        let fit = table.pool.iter().enumerate().filter(|(_, file)| file.size >= least);
        // The largest; of those the last that came, which is the first in memory.
        let place = fit.max_by_key(|(_, file)| file.size).map(|(place, _)| place);
        if let Some(Pooled { generation, size }) = place.map(|place| table.pool.remove(place)) {
            return Some((FileName::Free(generation), size));
        }
        let size = table.ready.take_if(|size| *size >= least)?;
        Some((FileName::Ready, size))
    }

    /// What becomes of a file that [`take_filled`](Writer::take_filled) gave and no segment could be begun in. If only space was missing it
    /// is as good as before; else another is taken the next time, and its space is given back. If that cannot be done either, it is known on.
    fn put_back(&self, name: FileName, size: u64, good: bool) {
        let path = name.in_dir(&self.shared.options.dir);
        match name {
            FileName::Free(generation) if !good => self.discard(vec![generation]),
            FileName::Ready if !good => _ = self.shared.files.remove(&path),
            _ => {}
        }
        if self.shared.files.open(&path, false).is_ok() {
            let mut table = self.shared.table();
            match name {
                // Behind all others.
                FileName::Free(generation) => table.pool.insert(0, Pooled { generation, size }),
                _ => table.ready = Some(size),
            }
        }
    }

    fn gone(&self, generation: u32) -> PathBuf {
        FileName::Gone(generation).in_dir(&self.shared.options.dir)
    }

    /// A file for the next segment. Where there is space but no inode, it is one that only tells of a segment before, and does so until
    /// this one has its name.
    fn create_next(&self, size: u64) -> (PathBuf, io::Result<Arc<dyn LogFile>>) {
        let files = &self.shared.files;
        let path = FileName::Begin.in_dir(&self.shared.options.dir);
        let created = files.create(&path, size);
        let gone = self.shared.table().gone.last().map(|generation| self.gone(*generation));
        match (&created, gone) {
            (Err(error), Some(gone)) if error.kind() == io::ErrorKind::StorageFull => {
                let _ = files.remove(&path);
                let file = files.open(&gone, true);
                (gone, file)
            }
            _ => (path, created),
        }
    }

    /// Has the segment after this one, of `size` octets, made ready, if there is none. It is larger, so that a log that is hardly used
    /// writes few zeros and one that is used much has few segments.
    fn ask_for_next(&self, size: u64) {
        let standard = self.shared.options.segment_size;
        let provided = {
            let table = self.shared.table();
            !table.pool.is_empty() || table.ready.is_some()
        };
        if !provided {
            self.filler.ask((2 * size).clamp(HURRIED.min(standard), standard));
        }
    }

    /// Begins a segment with room for a batch of `need` octets in the space set aside. Fails if there is none left.
    pub(super) fn begin_in_reserve(&mut self, need: u64) -> Result<(), LogError> {
        let size = self.reserve_size();
        let options = &self.shared.options;
        let reserve = FileName::Reserve.in_dir(&options.dir);
        if !self.has_reserve || FIRST + need + PAGE > size {
            return Err(LogError::io("use", &reserve)(io::ErrorKind::NotFound.into()));
        }
        self.has_reserve = false;
        let files = self.shared.files.clone();
        let file = files.open(&reserve, true).and_then(|file| {
            if file.len()? != size {
                return Err(io::ErrorKind::InvalidData.into());
            }
            // Only now, since hardly any reserve is ever used. That its space was allocated before is what counts.
            fill_whole(&*file, size)?;
            Ok(file)
        });
        let begun = file.map_err(LogError::io("use", &reserve)).and_then(|file| self.install(file, &reserve, size));
        if begun.is_err() {
            let _ = files.remove(&reserve);
        }
        begun
    }

    /// Makes a file, all of it written and synced, the open segment: first its header, synced; then its name; then the seal of the one
    /// before it, which tells of this one.
    fn install(&mut self, file: Arc<dyn LogFile>, from: &Path, size: u64) -> Result<(), LogError> {
        self.generation += 1;
        let id = SegmentId(self.generation);
        let path = FileName::Segment(id.0).in_dir(&self.shared.options.dir);
        let stamp = Stamp { generation: id.0, salt: self.rng.random() };
        let prior = self.open.as_ref().map(Open::position).or(self.prior);
        let others = Others::new(self.shared.table().segments.keys().copied());
        let page = SegmentHeader { stamp, size, prior, others: Some(others.clone()) }.encode();
        let begin = |e| LogError::io("begin", &path)(e);
        write_all(&*file, &mut [IoSlice::new(&page)], 0).and_then(|()| file.sync_data()).map_err(begin)?;
        self.give_name(from, &path)?;
        if let Some(last) = self.open.take().or_else(|| self.found.take()) {
            let sealed = self.seal(&last, Some(id));
            self.end_segment(&last, sealed);
        }
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
            written: true,
        };
        self.shared.table().begun(id, segment);
        self.open = Some(Open { file, path, stamp, size, offset: FIRST, end: FIRST });
        self.forget_gone(&others);
        self.shared.publish_bytes();
        Ok(())
    }

    /// Renames a file whose header is that of a new segment. If nobody knows whether that will stand after a crash, nothing more is written
    /// to the open segment: the header says where that one ends.
    fn give_name(&mut self, from: &Path, path: &Path) -> Result<(), LogError> {
        let (files, dir) = (self.shared.files.clone(), self.shared.options.dir.clone());
        let named = files.rename(from, path).map_err(LogError::io("begin", path));
        if let Err(error) = &named
            && error.is_full()
        {
            // There was no room for the name, which is looked for before anything is changed.
            return named;
        }
        let named = named.and_then(|()| files.sync_dir(&dir).map_err(LogError::io("begin", path)));
        if named.is_err() {
            // The name it had may tell of a segment that was given back.
            let _ = files.rename(path, from).or_else(|_| files.remove(path));
            self.abandon();
        }
        named
    }

    /// Clears names away that tell of segments given back before: the newest header does so too now.
    fn forget_gone(&self, told: &Others) {
        let untold = self.shared.table().take_untold(told);
        for generation in untold {
            let path = FileName::Gone(generation).in_dir(&self.shared.options.dir);
            if let Err(error) = self.shared.files.remove(&path) {
                tracing::debug!(%error, path = %path.display(), "a name that is not needed any more stays");
            }
        }
    }

    /// Says in the segment itself where it ends, and what stands behind it. Without that it still ends there, by the header of the next one;
    /// but should that one get lost, nobody would know.
    pub(super) fn seal(&self, last: &Open, next: Option<SegmentId>) -> bool {
        let page = Seal { end: last.end, next }.encode(last.stamp);
        let sealed =
            write_all(&*last.file, &mut [IoSlice::new(&page)], last.size - PAGE).and_then(|()| last.file.sync_data());
        if let Err(error) = &sealed {
            tracing::warn!(%error, path = %last.path.display(), "a segment that ends cannot be sealed");
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
        let (pool, ready) = {
            let mut table = self.shared.table();
            (std::mem::take(&mut table.pool), table.ready.take())
        };
        let had_files = !pool.is_empty() || ready.is_some();
        let pool = pool.into_iter().map(|file| file.generation).collect();
        if ready.is_some() {
            let _ = self.shared.files.remove(&FileName::Ready.in_dir(&options.dir));
        }
        self.filler.give_up();
        self.discard(pool);
        let free = free()?;
        // Without the pool a new segment takes space, whatever the caller had in mind.
        let wanted = if had_files { size.max(options.segment_size) } else { size };
        if free >= keep.saturating_add(wanted) { Ok(()) } else { Err(LogError::Full { free, wanted, keep }) }
    }

    /// Gives the space of files in the pool back.
    fn discard(&self, pool: Vec<u32>) {
        let dir = &self.shared.options.dir;
        for generation in pool {
            let (free, gone) = (FileName::Free(generation).in_dir(dir), FileName::Gone(generation).in_dir(dir));
            // The newest header may count it among those that have to be there.
            if self.shared.files.rename(&free, &gone).is_ok() {
                self.shared.empty_gone(generation);
                self.shared.table().gone.push(generation);
            }
        }
    }

    /// Brings pool and reserve into shape, and clears files away that are of no use.
    pub(super) fn tidy(&mut self, residue: &[FileName]) -> Result<(), LogError> {
        let shared = self.shared.clone();
        let (dir, standard) = (&shared.options.dir, shared.options.segment_size);
        let remove = |path: PathBuf| shared.files.remove(&path).map_err(LogError::io("remove", &path));
        for name in residue {
            remove(name.in_dir(dir))?;
        }
        let (pool, ready) = {
            let mut table = shared.table();
            // Those that the last process could not empty.
            table.gone.iter().for_each(|generation| shared.empty_gone(*generation));
            (std::mem::take(&mut table.pool), table.ready.take())
        };
        // Those of version 1 were not written full.
        let sized = |Pooled { generation, .. }: Pooled| {
            let file = shared.files.open(&FileName::Free(generation).in_dir(dir), false);
            let fits = |header: &SegmentHeader, size| header.others.is_some() && header.size == size;
            let size = file.and_then(|file| {
                let size = file.len()?;
                Ok(read_header(&*file)?.filter(|header| is_of_use(size, standard) && fits(header, size)).map(|_| size))
            });
            Pooled { generation, size: size.ok().flatten().unwrap_or(0) }
        };
        let (mut kept, mut rest): (Vec<Pooled>, Vec<Pooled>) =
            pool.into_iter().map(sized).partition(|file| file.size > 0);
        rest.extend(kept.drain(kept.len().min(shared.options.recycle_max)..));
        let rest = rest.into_iter().map(|file| file.generation).collect();
        self.discard(rest);
        shared.table().pool = kept;
        if ready.is_some() {
            let path = FileName::Ready.in_dir(dir);
            let len = shared.files.open(&path, false).and_then(|file| file.len()).unwrap_or(0);
            if (SIZE_MIN..=standard).contains(&len) {
                shared.table().ready = Some(len);
            } else {
                remove(path)?;
            }
        }
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

fn read_header(file: &dyn LogFile) -> io::Result<Option<SegmentHeader>> {
    let mut page = vec![0; PAGE as usize];
    let got = read_full(file, &mut page, 0)?;
    Ok(SegmentHeader::parse(&page[..got]))
}
