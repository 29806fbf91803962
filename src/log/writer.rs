//! The one thread that writes.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::Arc;

use rand::RngExt;
use rand::rngs::SmallRng;

use super::batch::{Batch, batch_len, first_group_len, write_all};
use super::files::LogFile;
use super::handle::Shared;
use super::pending::Entry;
use super::record::Stamp;
use super::replay::Replay;
use super::segment::{FIRST, FileName, PAGE, SIZE_MAX, SegmentHeader, page_up, seal_page};
use super::table::Segment;
use super::{Done, Health, Location, LogError, Position, SegmentId};
use crate::clock::{Clock, Instant};

/// Size of the reserve where segments are larger.
const RESERVE_MAX: u64 = 16 << 20;

/// The segment that is written to.
struct Open {
    file: Arc<dyn LogFile>,
    path: PathBuf,
    stamp: Stamp,
    size: u64,
    /// Where the next batch goes.
    offset: u64,
    /// Where the last batch that was synced ends, without its padding.
    end: u64,
}

impl Open {
    fn position(&self) -> Position {
        Position { segment: SegmentId(self.stamp.generation), offset: self.end as u32 }
    }

    /// Octets left for batches; the last page is the seal's.
    fn room(&self) -> u64 {
        (self.size - PAGE).saturating_sub(self.offset)
    }
}

/// Why synced appends are refused, and when to try again.
struct Refusal {
    error: LogError,
    next_try: Instant,
}

/// What the thread owns.
pub(super) struct Writer {
    shared: Arc<Shared>,
    clock: Clock,
    rng: SmallRng,
    open: Option<Open>,
    /// While nothing is open: the end of the log, and whether its segment has a seal.
    prior: Option<Position>,
    prior_sealed: bool,
    generation: u32,
    has_reserve: bool,
    refusal: Option<Refusal>,
    /// Taken from [`Pending`](super::pending::Pending), not yet synced.
    queue: VecDeque<Entry>,
    arena: Vec<u8>,
}

impl Writer {
    /// Clears what a crash left behind and begins a segment.
    ///
    /// # Errors
    /// What hinders the first segment, unless it is a full disk.
    pub fn start(shared: Arc<Shared>, replay: Replay) -> Result<Writer, LogError> {
        let mut writer = Writer {
            shared,
            clock: Clock,
            rng: rand::make_rng(),
            open: None,
            prior: replay.prior,
            prior_sealed: replay.prior_sealed,
            generation: replay.generation_max,
            has_reserve: replay.has_reserve,
            refusal: None,
            queue: VecDeque::new(),
            arena: Vec::new(),
        };
        writer.tidy(&replay.residue)?;
        match writer.begin(0).and_then(|()| writer.ensure_reserve()) {
            Ok(()) => {}
            Err(error) if error.is_full() => writer.turn_read_only(&error),
            Err(error) => return Err(error),
        }
        writer.shared.publish_bytes();
        Ok(writer)
    }

    /// Until the log is closed.
    pub fn run(mut self) {
        loop {
            let tick = self.refusal.as_ref().map(|r| r.next_try.saturating_duration_since(self.clock.instant()));
            let work = self.shared.pending.take(self.shared.options.linger, tick);
            self.queue.extend(work.entries);
            let due = self.refusal.as_ref().is_some_and(|r| r.next_try <= self.clock.instant());
            if due || work.closing && self.refusal.is_some() {
                self.heal();
            }
            self.write_queue();
            for (done, error) in work.refused {
                call(done, Err(error));
            }
            if work.closing {
                return self.finish();
            }
        }
    }

    /// Writes what is queued; what has no place stays queued, if it is relaxed.
    fn write_queue(&mut self) {
        loop {
            if self.refusal.is_some() {
                self.refuse_synced();
            }
            if self.queue.is_empty() {
                return;
            }
            let need = batch_len(first_group_len(&self.queue));
            if self.open.as_ref().is_some_and(|open| need <= open.room()) {
                self.write_batch();
            } else if self.refusal.is_none() {
                if let Err(error) = self.begin(need) {
                    self.turn_read_only(&error);
                }
            } else if let Err(error) = self.begin_in_reserve(need) {
                tracing::debug!(%error, "the reserve cannot be used");
                return;
            }
        }
    }

    /// One batch, one sync. There is room for at least its first group.
    fn write_batch(&mut self) {
        let open = self.open.as_mut().expect("the caller looked for room");
        let arena = std::mem::take(&mut self.arena);
        let batch = Batch::take(&mut self.queue, open.stamp, open.offset, open.room(), arena);
        let written = batch.write(&*open.file).map_err(LogError::io("write", &open.path)).and_then(|()| {
            let before = self.clock.instant();
            let synced = open.file.sync_data().map_err(LogError::io("sync", &open.path));
            self.shared.metrics.spool_sync.observe((self.clock.instant() - before).as_secs_f64());
            synced
        });
        match written {
            Ok(()) => {
                open.end = batch.offset + batch.len;
                open.offset = page_up(open.end);
                if let Some(segment) = self.shared.table().segments.get_mut(&open.position().segment) {
                    segment.end = open.end;
                }
                self.acknowledge(batch);
            }
            Err(error) => {
                self.abandon();
                self.turn_read_only(&error);
                self.requeue(batch, &error);
            }
        }
    }

    fn acknowledge(&mut self, batch: Batch) {
        let (entries, locations, arena) = batch.into_parts();
        self.arena = arena;
        self.shared.pending.finished(entries.iter().map(Entry::len).sum());
        for (entry, location) in entries.into_iter().zip(locations) {
            if let Some(done) = entry.done {
                call(done, Ok(location));
            }
        }
    }

    /// After a batch that failed: relaxed records go back to the front of the queue, in order; the others are told.
    fn requeue(&mut self, batch: Batch, error: &LogError) {
        let (entries, _, arena) = batch.into_parts();
        self.arena = arena;
        let (synced, relaxed): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(|e| e.synced);
        for entry in relaxed.into_iter().rev() {
            self.queue.push_front(entry);
        }
        self.fail(synced, error);
    }

    /// While read-only, nobody is kept waiting.
    fn refuse_synced(&mut self) {
        let Some(refusal) = &self.refusal else { return };
        let error = refusal.error.clone();
        if self.queue.iter().any(|e| e.synced) {
            let queue = std::mem::take(&mut self.queue);
            let (synced, relaxed): (VecDeque<Entry>, VecDeque<Entry>) = queue.into_iter().partition(|e| e.synced);
            self.queue = relaxed;
            self.fail(synced, &error);
        }
    }

    fn fail(&self, entries: impl IntoIterator<Item = Entry>, error: &LogError) {
        let mut len = 0;
        for entry in entries {
            len += entry.len();
            if let Some(done) = entry.done {
                call(done, Err(error.clone()));
            }
        }
        self.shared.pending.finished(len);
    }

    /// Nothing more is written to the open segment, not even a seal. Where it ends stands in the next one's header.
    fn abandon(&mut self) {
        if let Some(open) = self.open.take() {
            self.end_segment(&open, false);
        }
    }

    fn end_segment(&mut self, open: &Open, sealed: bool) {
        self.prior = Some(open.position());
        self.prior_sealed = sealed;
        self.shared.table().ended(open.position().segment);
    }

    fn turn_read_only(&mut self, error: &LogError) {
        let next_try = self.clock.instant() + self.shared.options.retry;
        let reason: Arc<str> = error.chain().into();
        if self.refusal.is_none() {
            tracing::error!(%reason, "the log takes no new records until this is mended");
        }
        // A full disk has its own reply code, so that error is kept as it is.
        let kept = if error.is_full() { error.clone() } else { LogError::ReadOnly { reason: reason.clone() } };
        self.refusal = Some(Refusal { error: kept, next_try });
        self.shared.health.send_replace(Health::ReadOnly { reason });
        self.shared.metrics.spool_readonly.set(1);
    }

    /// Tries to be of use again: a segment to write to, a reserve behind it, and enough space besides.
    fn heal(&mut self) {
        let ready = match &self.open {
            // As much as the next segment will want, or the log would be read-only again in no time.
            Some(open) if open.room() > PAGE => self.check_space(self.shared.options.segment_size),
            _ => self.begin(0),
        };
        match ready.and_then(|()| self.ensure_reserve()) {
            Ok(()) => {
                self.refusal = None;
                self.shared.metrics.spool_readonly.set(0);
                self.shared.health.send_replace(Health::Ok);
                tracing::info!("the log takes new records again");
            }
            Err(error) => {
                tracing::debug!(error = error.chain(), "the log stays read-only");
                if let Some(refusal) = &mut self.refusal {
                    refusal.next_try = self.clock.instant() + self.shared.options.retry;
                }
            }
        }
    }

    /// Begins a segment with room for a batch of `need` octets.
    fn begin(&mut self, need: u64) -> Result<(), LogError> {
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
    fn begin_in_reserve(&mut self, need: u64) -> Result<(), LogError> {
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
    fn install(&mut self, file: io::Result<Arc<dyn LogFile>>, path: PathBuf, size: u64) -> Result<(), LogError> {
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
    fn seal(&self, open: &Open) -> bool {
        let page = seal_page(open.stamp, open.end);
        let sealed =
            write_all(&*open.file, &mut [IoSlice::new(&page)], open.size - PAGE).and_then(|()| open.file.sync_data());
        if let Err(error) = &sealed {
            tracing::warn!(%error, path = %open.path.display(), "a full segment cannot be sealed");
        }
        sealed.is_ok()
    }

    fn reserve_size(&self) -> u64 {
        self.shared.options.segment_size.min(RESERVE_MAX)
    }

    fn ensure_reserve(&mut self) -> Result<(), LogError> {
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
    fn check_space(&self, size: u64) -> Result<(), LogError> {
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
    fn tidy(&mut self, residue: &[u32]) -> Result<(), LogError> {
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

    /// The log is closed: nothing is left behind, or it is said.
    fn finish(mut self) {
        let left = std::mem::take(&mut self.queue);
        if !left.is_empty() {
            tracing::error!(records = left.len(), "the log was closed before these could be written");
            self.fail(left, &LogError::Closed);
        }
        if let Some(open) = self.open.take() {
            let sealed = self.seal(&open);
            self.end_segment(&open, sealed);
        }
    }
}

/// Calls back; a panic there must not end the log.
fn call(done: Done, result: Result<Location, LogError>) {
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| done(result))).is_err() {
        tracing::error!("what waited for the log panicked");
    }
}
