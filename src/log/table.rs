//! Which segments there are, how much in each is live, which must outlive which.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::files::LogFile;
use super::{Location, SegmentId, Stats};
use crate::log::record::Stamp;
use crate::log::segment::Others;

/// A segment with records.
pub(super) struct Segment {
    pub file: Arc<dyn LogFile>,
    pub stamp: Stamp,
    /// Size of the file.
    pub size: u64,
    /// Where its records end; for the open segment, so far.
    pub end: u64,
    /// Octets of live records.
    pub live: u64,
    /// No longer written to.
    pub ended: bool,
    /// Being freed; nobody else may.
    pub freeing: bool,
    /// Segments that have to be freed before this one. All older than it, so there are no circles.
    pub waits_for: BTreeSet<SegmentId>,
    /// The segment whose end only this one's header names; has to be freed before it too.
    pub names_end_of: Option<SegmentId>,
    /// Every page of the file was written and synced before it was used, so it may be used again.
    pub written: bool,
}

/// A file that was a segment, and waits to become one again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pooled {
    /// Of the segment that it was.
    pub generation: u32,
    pub size: u64,
}

/// All segments and the pool of files to be used again.
pub(super) struct Table {
    pub segments: BTreeMap<SegmentId, Segment>,
    /// The files to be used again.
    pub pool: Vec<Pooled>,
    /// Size of the file that is ready to become the next segment.
    pub ready: Option<u64>,
    /// Generations of segments whose space was given back since the newest one was begun, and so whose names still stand for them.
    pub gone: Vec<u32>,
    /// Segments from this one on are not freed.
    floor: Option<SegmentId>,
    /// Something happened that may let a segment go; so that most calls of `take_dead` cost nothing.
    stirred: bool,
    /// Whether that was under pressure.
    pressed: bool,
    segment_size: u64,
}

impl Table {
    pub fn new(segment_size: u64) -> Table {
        Table {
            segments: BTreeMap::new(),
            pool: Vec::new(),
            ready: None,
            gone: Vec::new(),
            floor: None,
            stirred: true,
            pressed: false,
            segment_size,
        }
    }

    /// Counts a record as live. Returns the octets added: none if the segment is gone.
    pub fn retain(&mut self, location: Location) -> u64 {
        match self.segments.get_mut(&location.position.segment) {
            Some(segment) => {
                segment.live += location.record_len();
                location.record_len()
            }
            None => 0,
        }
    }

    /// Counts a record as dead. Returns the octets taken off.
    pub fn release(&mut self, location: Location) -> u64 {
        match self.segments.get_mut(&location.position.segment) {
            Some(segment) => {
                // Never below zero: an owner that releases twice must not make other records look dead for longer.
                let len = location.record_len().min(segment.live);
                segment.live -= len;
                self.stirred |= segment.live == 0;
                len
            }
            None => 0,
        }
    }

    /// See [`Log::depend`](super::Log::depend).
    pub fn depend(&mut self, segment: SegmentId, on: SegmentId) {
        // A record can only refer to older ones. Others would make circles, and nothing would ever be freed.
        if on < segment
            && self.segments.contains_key(&on)
            && let Some(segment) = self.segments.get_mut(&segment)
        {
            segment.waits_for.insert(on);
        }
    }

    /// Marks every segment that may go now, oldest first, with the size of their files that may be used again. Call [`Table::freed`] once
    /// their names are durably gone. `pressed`: space is worth more than knowing later that the newest one is missing.
    pub fn take_dead(&mut self, pressed: bool) -> Vec<(SegmentId, Option<u64>)> {
        let before = std::mem::replace(&mut self.pressed, pressed);
        if !std::mem::take(&mut self.stirred) && before == pressed {
            return Vec::new();
        }
        // The newest one says which others there have to be, the seal before it that there is this one. They stay until the next one says so.
        let telling = self.segments.keys().rev().take(if pressed { 1 } else { 2 }).copied();
        let floor = self.floor.into_iter().chain(telling).min();
        let mut dead = Vec::new();
        for (id, segment) in &mut self.segments {
            let free = segment.live == 0 && segment.ended && !segment.freeing;
            let free = free && segment.waits_for.is_empty() && segment.names_end_of.is_none();
            if free && floor.is_none_or(|floor| *id < floor) {
                segment.freeing = true;
                let usable = segment.written && is_of_use(segment.size, self.segment_size);
                dead.push((*id, usable.then_some(segment.size)));
            }
        }
        dead
    }

    /// `id` can never come back, so that what waits for it may go.
    pub fn freed(&mut self, id: SegmentId) {
        self.segments.remove(&id);
        self.stirred = true;
        for segment in self.segments.values_mut() {
            segment.waits_for.remove(&id);
            segment.names_end_of.take_if(|named| *named == id);
        }
    }

    /// `id` could not be freed; another try may.
    pub fn keep(&mut self, id: SegmentId) {
        if let Some(segment) = self.segments.get_mut(&id) {
            segment.freeing = false;
            self.stirred = true;
        }
    }

    /// Segments that were given back before that, and so that no header page in use tells of.
    pub fn take_untold(&mut self, told: &Others) -> Vec<u32> {
        let (kept, untold) = std::mem::take(&mut self.gone).into_iter().partition(|id| told.contains(*id));
        self.gone = kept;
        untold
    }

    /// A new segment.
    pub fn begun(&mut self, id: SegmentId, mut segment: Segment) {
        segment.names_end_of = segment.names_end_of.filter(|named| self.segments.contains_key(named));
        self.segments.insert(id, segment);
    }

    /// `id` is not written to any more.
    pub fn ended(&mut self, id: SegmentId) {
        if let Some(segment) = self.segments.get_mut(&id) {
            segment.ended = true;
            self.stirred = true;
        }
    }

    /// See [`Log::set_reclaim_floor`](super::Log::set_reclaim_floor).
    pub fn set_floor(&mut self, floor: SegmentId) {
        self.floor = Some(floor);
        self.stirred = true;
    }

    /// See [`Log::sparse`](super::Log::sparse).
    pub fn sparse(&self, live_below: f64) -> Option<SegmentId> {
        if !self.is_large() {
            return None;
        }
        let below_floor = |id: SegmentId| self.floor.is_none_or(|floor| id < floor);
        // Dead segments that wait only for others' stragglers: what freeing those would free besides.
        let mut freed_too: BTreeMap<SegmentId, u64> = BTreeMap::new();
        for (id, segment) in &self.segments {
            if segment.live == 0 && segment.ended && below_floor(*id) {
                let share = segment.size / segment.waits_for.len().max(1) as u64;
                segment.waits_for.iter().for_each(|on| *freed_too.entry(*on).or_default() += share);
            }
        }
        let fraction = |id: &SegmentId, segment: &Segment| {
            segment.live as f64 / (segment.size + freed_too.get(id).copied().unwrap_or(0)) as f64
        };
        self.segments
            .iter()
            .filter(|(id, segment)| segment.ended && segment.live > 0 && below_floor(**id))
            .map(|(id, segment)| (*id, fraction(id, segment)))
            .filter(|(_, fraction)| *fraction < live_below)
            .min_by(|a, b| a.1.total_cmp(&b.1))
            .map(|(id, _)| id)
    }

    /// See [`Log::pinned`](super::Log::pinned).
    pub fn pinned(&self) -> Option<SegmentId> {
        if !self.is_large() {
            return None;
        }
        let pinned = |(id, segment): &(&SegmentId, &Segment)| {
            let dead = segment.live == 0 && segment.ended && !segment.freeing && segment.names_end_of.is_none();
            dead && !segment.waits_for.is_empty() && self.floor.is_none_or(|floor| **id < floor)
        };
        self.segments.iter().find(pinned).map(|(id, _)| *id)
    }

    /// See [`Log::vacate`](super::Log::vacate).
    pub fn vacate(&mut self, vacated: SegmentId, into: &[SegmentId]) {
        let Some(segment) = self.segments.get_mut(&vacated) else { return };
        let waited_for = std::mem::take(&mut segment.waits_for);
        for (id, segment) in &mut self.segments {
            // Those that waited for this one did so for its copies too, whose originals are in what it waited for.
            if into.contains(id) || segment.waits_for.contains(&vacated) {
                segment.waits_for.extend(waited_for.iter().filter(|on| *on < id));
            }
        }
        self.stirred = true;
    }

    /// Whether the log takes more space than its live records are worth. A few segments are always allowed: the open one, those that
    /// wait for their turn to be freed.
    fn is_large(&self) -> bool {
        let stats = self.stats();
        stats.bytes > (stats.live_bytes as f64 * 1.3) as u64 + 4 * self.segment_size
    }

    /// In numbers; `queued_bytes` is left 0.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats { segments: self.segments.len(), recycled: self.pool.len(), ..Stats::default() };
        for segment in self.segments.values() {
            stats.bytes += segment.size;
            stats.live_bytes += segment.live;
        }
        stats
    }
}

/// Whether a file is worth keeping: one much smaller than segments are by now would be full in no time.
pub(super) fn is_of_use(size: u64, standard: u64) -> bool {
    (standard / 4..=standard).contains(&size)
}
