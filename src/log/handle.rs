//! The handle: what owners of records call.

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use tokio::sync::watch;

use super::pending::{Group, Pending};
use super::record::{HEADER_LEN, read_full};
use super::replay::{Ahead, GAP, ReplayReport, replay};
use super::segment::{FileName, LOCK_NAME, PAGE, SIZE_MAX, SIZE_MIN};
use super::shared::Shared;
use super::table::Table;
use super::writer::Writer;
use super::zero::Filler;
use super::{Append, Drive, Files, Health, Location, LogError, LogOptions, Record, Replayed, SegmentId, Stats};
use crate::telemetry::Metrics;

/// A log, open for writing. Share it by `Arc`; the last one to go closes it.
pub struct Log {
    shared: Arc<Shared>,
    filler: Arc<Filler>,
    /// The writer's and the filler's.
    threads: Mutex<Option<[JoinHandle<()>; 2]>>,
    /// The writer of a log without threads, until it is closed.
    stepped: Option<Mutex<Option<Writer>>>,
}

impl Log {
    /// Opens the log in `options.dir`: shows every record to `visit`, oldest first, then begins a new segment.
    ///
    /// Nothing is reclaimed before the owner has said what is live: after this call it retains what is to stay, and repeats its calls of
    /// [`Log::depend`]. A full disk does not hinder opening; the log is then read-only.
    ///
    /// # Errors
    /// [`LogError::Locked`] if another process has the folder; [`LogError::Io`] if the folder cannot be read or written.
    /// Damage is no error, see [`ReplayReport::damaged`].
    pub fn open(
        mut options: LogOptions,
        files: Arc<dyn Files>,
        metrics: Arc<Metrics>,
        visit: &mut dyn FnMut(Replayed<'_>),
    ) -> Result<(Log, ReplayReport), LogError> {
        options.segment_size = options.segment_size.clamp(SIZE_MIN, SIZE_MAX).next_multiple_of(PAGE);
        let dir = options.dir.clone();
        files.create_dir(&dir).map_err(LogError::io("create", &dir))?;
        let lock_path = dir.join(LOCK_NAME);
        let lock = files.lock(&lock_path).map_err(|e| match e.kind() {
            std::io::ErrorKind::WouldBlock => LogError::Locked { dir: dir.clone() },
            _ => LogError::io("lock", &lock_path)(e),
        })?;
        let mut replay = replay(&*files, &dir, options.segment_size, visit)?;
        // Far enough from the end that a number that is nonsense does no harm.
        let after = options.after.0.min(u32::MAX / 2);
        replay.report.renumbered = replay.generation_max < after;
        replay.generation_max = replay.generation_max.max(after);
        let report = std::mem::take(&mut replay.report);
        for damage in &report.damaged {
            metrics.spool_damaged.inc();
            tracing::error!(%damage, "the log is damaged");
        }
        let table = std::mem::replace(&mut replay.table, Table::new(options.segment_size));
        let shared = Arc::new(Shared {
            pending: Pending::new(options.queue_bytes_max, options.drive.clone()),
            health: watch::Sender::new(Health::Ok),
            table: Mutex::new(table),
            reclaiming: Mutex::default(),
            lock: Mutex::new(Some(lock)),
            options,
            files,
            metrics,
        });
        let filler = Arc::new(Filler::default());
        let writer = Writer::start(shared.clone(), filler.clone(), replay)?;
        if let Drive::Stepped(_) = shared.options.drive {
            filler.stop();
            shared.pending.take_now();
            let stepped = Some(Mutex::new(Some(writer)));
            return Ok((Log { shared, filler, threads: Mutex::new(None), stepped }, report));
        }
        let (fills, fills_for) = (filler.clone(), shared.clone());
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.into()).spawn(run).map_err(LogError::io("start a thread for", &dir))
        };
        let filling = spawn("log-filler", Box::new(move || fills.run(&fills_for)))?;
        let writing = spawn("log", Box::new(move || writer.run()));
        let writing = writing.inspect_err(|_| filler.stop())?;
        Ok((Log { shared, filler, threads: Mutex::new(Some([writing, filling])), stepped: None }, report))
    }

    /// Writes and syncs what is queued and calls each `done`, on this thread, until nothing is queued; nothing at all if the
    /// log has a thread for that. Not to be called from a `done`.
    pub fn step(&self) {
        let Some(stepped) = &self.stepped else { return };
        let mut writer = stepped.lock().expect("nothing panics under this lock");
        while let Some(running) = &mut *writer
            && let Some(work) = self.shared.pending.take_now()
        {
            let closing = work.closing;
            running.turn(work);
            if closing {
                writer.take().into_iter().for_each(Writer::finish);
                self.shared.lock.lock().expect("nothing panics under this lock").take();
            }
        }
    }

    /// Queues records; returns at once. They stand side by side in the log, in one batch, and stand or fall together, also in a crash.
    /// The order of calls is the order in the log.
    pub fn append(&self, group: impl IntoIterator<Item = Append>) {
        if let Err(group) = self.shared.pending.push(Group::new(group)) {
            group.into_dones().for_each(|done| done(Err(LogError::Closed)));
        }
    }

    /// Reads a record and checks it, on the blocking pool.
    ///
    /// # Errors
    /// [`LogError::Damaged`], [`LogError::Gone`], [`LogError::Io`].
    ///
    /// # Cancel safety
    /// Safe; the read ends on its own.
    pub async fn read(&self, location: Location) -> Result<Record, LogError> {
        self.read_part(location, true).await
    }

    /// The record without its body, for when that is damaged or not needed.
    ///
    /// # Errors
    /// As [`Log::read`], but for the body.
    pub async fn read_head(&self, location: Location) -> Result<Record, LogError> {
        self.read_part(location, false).await
    }

    async fn read_part(&self, location: Location, with_body: bool) -> Result<Record, LogError> {
        if self.stepped.is_some() {
            return self.shared.read(location, with_body);
        }
        let shared = self.shared.clone();
        let read = tokio::task::spawn_blocking(move || shared.read(location, with_body));
        // Fails only while the runtime is being shut down.
        read.await.unwrap_or(Err(LogError::Closed))
    }

    /// As [`Log::read`], blocking.
    ///
    /// # Errors
    /// As [`Log::read`].
    pub fn read_blocking(&self, location: Location) -> Result<Record, LogError> {
        self.shared.read(location, true)
    }

    /// Fills `into` from the body of a record, from `offset` on. Blocks. Neither the checksum nor that the record is still there
    /// is looked at: for bodies whose parts have checksums of their own, by who knows afterwards that it was still retained.
    ///
    /// # Errors
    /// [`LogError::Gone`]; [`LogError::Damaged`] if the body or the file ends before; [`LogError::Io`].
    pub fn read_body_part(&self, location: Location, offset: u64, into: &mut [u8]) -> Result<(), LogError> {
        let segment = location.position.segment;
        let start = u64::from(location.position.offset) + HEADER_LEN + u64::from(location.head_len) + offset;
        let damaged = || LogError::Damaged { segment, offset: start, why: GAP };
        if offset + into.len() as u64 > u64::from(location.body_len) {
            return Err(damaged());
        }
        let file = match self.shared.table().segments.get(&segment) {
            Some(found) => found.file.clone(),
            None => return Err(LogError::Gone { segment }),
        };
        let got = read_full(&*file, into, start);
        let path = || FileName::Segment(segment.0).in_dir(&self.shared.options.dir);
        match got.map_err(|e| LogError::io("read", &path())(e))? {
            whole if whole == into.len() => Ok(()),
            _ => Err(damaged()),
        }
    }

    /// Counts a record as live: its segment stays. Call it in `done`, or, for what replay showed, before the first
    /// [`Log::reclaim`]. Each retained record is to be released once.
    pub fn retain(&self, location: Location) {
        let added = self.shared.table().retain(location);
        self.shared.metrics.spool_live_bytes.add(added as i64);
    }

    /// The record is not needed any more.
    pub fn release(&self, location: Location) {
        let removed = self.shared.table().release(location);
        self.shared.metrics.spool_live_bytes.sub(removed as i64);
    }

    /// `segment` stays at least as long as `on`: a deletion in `segment` names a record in `on`, which would come back without it;
    /// or `segment` holds the copy of a record in `on`, which a deletion of the copy does not reach. `on` is the older one; anything else is ignored.
    pub fn depend(&self, segment: SegmentId, on: SegmentId) {
        self.shared.table().depend(segment, on);
    }

    /// Segments from `floor` on are not reclaimed, whatever is live in them. Replaces the floor set before; there is
    /// none at first.
    pub fn set_reclaim_floor(&self, floor: SegmentId) {
        self.shared.table().set_floor(floor);
    }

    /// The segment whose live part is the smallest and below `live_below` (0 to 1), if the log takes more than 1.3 times its live octets and
    /// four segments. Its records are worth copying forward: [`Log::scan`], append, release, depend, reclaim.
    pub fn sparse(&self, live_below: f64) -> Option<SegmentId> {
        self.shared.table().sparse(live_below)
    }

    /// A segment that holds nothing live and yet cannot go, since older ones that it depends on are not free, if the log takes more than
    /// 1.3 times its live octets and four segments. Without help a few long-lived records would hold every later segment in which one of
    /// their neighbours was deleted. So: [`Log::scan`] it, append those of its deletions again that are still needed (see [`Log::holds_any`]),
    /// and, when all their `done`s came, [`Log::vacate`].
    pub fn pinned(&self) -> Option<SegmentId> {
        self.shared.table().pinned()
    }

    /// Whether one of these segments is still there, other than `besides`. A deletion in `besides` is needed as long as this is so for those that
    /// hold its record or copies of it.
    pub fn holds_any(&self, segments: RangeInclusive<SegmentId>, besides: SegmentId) -> bool {
        self.shared.table().segments.range(segments).any(|(id, _)| *id != besides)
    }

    /// All deletions in `segment` that are still needed stand, synced, in the segments `into` too. Those, and all that depend
    /// on `segment`, now depend on what it depended on; it may go.
    pub fn vacate(&self, segment: SegmentId, into: &[SegmentId]) {
        self.shared.table().vacate(segment, into);
    }

    /// The segments there are, oldest first.
    pub fn segments(&self) -> Vec<SegmentId> {
        self.shared.table().segments.keys().copied().collect()
    }

    /// Shows the records of all segments, oldest first, dead ones too. Blocks. Nobody may reclaim meanwhile.
    ///
    /// # Errors
    /// As [`Log::scan`].
    pub fn scan_all(&self, visit: &mut dyn FnMut(Replayed<'_>)) -> Result<(), LogError> {
        self.shared.scan_all(visit)
    }

    /// Shows the records of one segment, dead ones too. Blocks.
    ///
    /// # Errors
    /// [`LogError::Gone`], [`LogError::Io`].
    pub fn scan(&self, segment: SegmentId, visit: &mut dyn FnMut(Replayed<'_>)) -> Result<(), LogError> {
        self.shared.scan(segment, &mut Ahead::default(), visit)
    }

    /// Frees every segment that is not written to any more, holds nothing live, lies below the floor and waits for no
    /// other; then those that waited for them. Returns how many. Blocks for a few file operations.
    pub fn reclaim(&self) -> usize {
        self.shared.reclaim()
    }

    /// Whether synced appends are taken.
    pub fn health(&self) -> Health {
        self.shared.health.borrow().clone()
    }

    /// Follows [`Log::health`].
    pub fn watch_health(&self) -> watch::Receiver<Health> {
        self.shared.health.subscribe()
    }

    /// The log in numbers.
    pub fn stats(&self) -> Stats {
        Stats { queued_bytes: self.shared.pending.bytes(), ..self.shared.table().stats() }
    }

    /// Octets queued and not yet synced, as in [`Log::stats`], without looking at the segments.
    pub fn queued_bytes(&self) -> usize {
        self.shared.pending.bytes()
    }

    /// Writes and syncs what is queued, seals the open segment and ends the thread. Later appends get
    /// [`LogError::Closed`]. Blocks; a second call does nothing.
    pub fn close(&self) {
        self.shared.pending.close();
        self.step();
        self.filler.stop();
        let threads = self.threads.lock().expect("nothing panics under this lock").take();
        // A `done` may have held the last handle. The thread cannot wait for itself; it ends by itself, and the lock with it.
        if let Some(threads) = threads.filter(|t| t.iter().all(|t| t.thread().id() != std::thread::current().id())) {
            for thread in threads {
                if thread.join().is_err() {
                    tracing::error!("a thread of the log panicked");
                }
            }
            self.shared.lock.lock().expect("nothing panics under this lock").take();
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.close();
    }
}
