//! What handle and writer share: the table of segments, and what is done with those that are not written to.

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use tokio::sync::watch;

use super::pending::Pending;
use super::record::{HEADER_LEN, Header, body_crc, read_full};
use super::replay::{Ahead, GAP, scan};
use super::segment::FileName;
use super::survey::{End, Surveyed};
use super::table::{Pooled, Table};
use super::{Files, Health, Location, LogError, LogOptions, Record, Replayed, SegmentId};
use crate::telemetry::Metrics;

/// What handle and writer share.
pub(super) struct Shared {
    pub options: LogOptions,
    pub files: Arc<dyn Files>,
    pub metrics: Arc<Metrics>,
    pub pending: Arc<Pending>,
    pub health: watch::Sender<Health>,
    pub(super) table: Mutex<Table>,
    /// Held by the one who reclaims.
    pub(super) reclaiming: Mutex<()>,
    /// The folder's lock, until the log is closed.
    pub(super) lock: Mutex<Option<Box<dyn Any + Send + Sync>>>,
}

impl Shared {
    pub fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("nothing panics under this lock")
    }

    /// Brings the gauge up to date.
    pub fn publish_bytes(&self) {
        let table = self.table();
        let pool: u64 = table.pool.iter().map(|file| file.size).sum();
        self.metrics.spool_bytes.set((table.stats().bytes + pool + table.ready.unwrap_or(0)) as i64);
    }

    pub fn read(&self, location: Location, with_body: bool) -> Result<Record, LogError> {
        let id = location.position.segment;
        let (file, stamp) = match self.table().segments.get(&id) {
            Some(segment) => (segment.file.clone(), segment.stamp),
            None => return Err(LogError::Gone { segment: id }),
        };
        let offset = u64::from(location.position.offset);
        let body_at = HEADER_LEN as usize + location.head_len as usize;
        let mut bytes = vec![0; if with_body { location.record_len() as usize } else { body_at }];
        let wanted = bytes.len();
        let got = read_full(&*file, &mut bytes, offset);
        let got = got.map_err(|e| LogError::io("read", &FileName::Segment(id.0).in_dir(&self.options.dir))(e))?;
        bytes.truncate(got);
        let damaged = |why| {
            self.metrics.spool_damaged.inc();
            LogError::Damaged { segment: id, offset, why }
        };
        let header = Header::parse(&bytes, stamp)
            .filter(|h| (h.head_len, h.body_len) == (location.head_len, location.body_len))
            .filter(|_| bytes.len() == wanted)
            .ok_or_else(|| damaged(GAP))?;
        if !Header::is_intact(&bytes[..HEADER_LEN as usize], &bytes[HEADER_LEN as usize..body_at]) {
            return Err(damaged("the head does not fit its checksum"));
        }
        if with_body && body_crc([&bytes[body_at..]]) != header.body_crc {
            return Err(damaged(super::replay::BODY));
        }
        let bytes = Bytes::from(bytes);
        Ok(Record {
            kind: header.kind,
            id: header.id,
            head: bytes.slice(HEADER_LEN as usize..body_at),
            body: bytes.slice(body_at..),
        })
    }

    /// See [`Log::scan_all`](super::Log::scan_all).
    pub fn scan_all(&self, visit: &mut dyn FnMut(Replayed<'_>)) -> Result<(), LogError> {
        let segments: Vec<_> = self.table().segments.iter().map(|(id, s)| (*id, s.file.clone(), s.size)).collect();
        let mut ahead = Ahead::default();
        for (at, (id, ..)) in segments.iter().enumerate() {
            ahead.fetch(segments.get(at + 1).map(|(_, file, size)| (&**file, *size)));
            self.scan(*id, &mut ahead, visit)?;
        }
        Ok(())
    }

    /// See [`Log::scan`](super::Log::scan).
    pub fn scan(&self, id: SegmentId, ahead: &mut Ahead, visit: &mut dyn FnMut(Replayed<'_>)) -> Result<(), LogError> {
        let path = FileName::Segment(id.0).in_dir(&self.options.dir);
        let segment = match self.table().segments.get(&id) {
            Some(segment) => Surveyed {
                id,
                path,
                file: segment.file.clone(),
                stamp: segment.stamp,
                size: segment.size,
                end: End::Sealed(segment.end),
                next: None,
                headless: false,
                written: segment.written,
                cut_off: None,
            },
            None => return Err(LogError::Gone { segment: id }),
        };
        let damaged = scan(&segment, ahead, visit).map_err(LogError::io("read", &segment.path))?;
        for damage in damaged {
            self.metrics.spool_damaged.inc();
            tracing::error!(%damage, "the log is damaged");
        }
        Ok(())
    }

    pub fn reclaim(&self) -> usize {
        // Whoever else is at it will see the same segments.
        let Ok(_one) = self.reclaiming.try_lock() else { return 0 };
        let (mut count, mut stuck) = (0, Vec::new());
        let healthy = *self.health.borrow() == Health::Ok;
        loop {
            let dead = self.table().take_dead(!healthy);
            if dead.is_empty() {
                break;
            }
            count += self.free(dead, healthy, &mut stuck);
        }
        // Those that could not be freed are for the next call, or this one would never end.
        stuck.into_iter().for_each(|id| self.table().keep(id));
        if count > 0 {
            self.publish_bytes();
        }
        count
    }

    /// Takes the names of dead segments away, for good; only then may what waits for them go too. Another name goes on telling that they are
    /// not missing, until a new segment does by not naming them.
    fn free(&self, dead: Vec<(SegmentId, Option<u64>)>, healthy: bool, stuck: &mut Vec<SegmentId>) -> usize {
        let dir = &self.options.dir;
        let mut places = self.options.recycle_max.saturating_sub(self.table().pool.len());
        let mut gone = Vec::new();
        for (id, usable) in dead {
            // On a full disk space is worth more than speed.
            let recycle = usable.filter(|_| healthy && places > 0);
            let to = if recycle.is_some() { FileName::Free(id.0) } else { FileName::Gone(id.0) };
            let from = FileName::Segment(id.0).in_dir(dir);
            match self.files.rename(&from, &to.in_dir(dir)) {
                Ok(()) => {
                    places -= usize::from(recycle.is_some());
                    gone.push((id, recycle));
                }
                Err(error) => {
                    tracing::warn!(%error, path = %from.display(), "a dead segment cannot be freed");
                    stuck.push(id);
                }
            }
        }
        if let Err(error) = self.files.sync_dir(dir) {
            // They may come back in a crash. They stay in the table, so that what waits for them stays too, until the next start.
            tracing::error!(%error, dir = %dir.display(), "the log's folder cannot be synced");
            return 0;
        }
        for (id, _) in gone.iter().filter(|(_, recycle)| recycle.is_none()) {
            self.empty_gone(id.0);
        }
        let mut table = self.table();
        for &(id, recycle) in &gone {
            table.freed(id);
            match recycle {
                Some(size) => table.pool.push(Pooled { generation: id.0, size }),
                None => table.gone.push(id.0),
            }
        }
        gone.len()
    }

    /// Gives back the space of a segment whose name already says that it is gone.
    pub fn empty_gone(&self, id: u32) {
        let path = FileName::Gone(id).in_dir(&self.options.dir);
        if let Err(error) = self.files.truncate(&path, 0) {
            tracing::warn!(%error, path = %path.display(), "the space of a dead segment cannot be given back");
        }
    }
}
