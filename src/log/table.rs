//! Which segments there are, how much in each is live, which must outlive which.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::files::LogFile;
use super::{Location, SegmentId, Stats};
use crate::log::record::Stamp;

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
}

/// All segments and the pool of files to be used again.
pub(super) struct Table {
    pub segments: BTreeMap<SegmentId, Segment>,
    /// Generations of the files in the pool, all of the standard size.
    pub pool: Vec<u32>,
    /// Segments from this one on are not freed.
    pub floor: Option<SegmentId>,
    segment_size: u64,
}

impl Table {
    pub fn new(segment_size: u64) -> Table {
        Table { segments: BTreeMap::new(), pool: Vec::new(), floor: None, segment_size }
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

    /// Marks every segment that may go now, oldest first. Call [`Table::freed`] once their names are durably gone.
    pub fn take_dead(&mut self) -> Vec<(SegmentId, u64)> {
        let floor = self.floor;
        let mut dead = Vec::new();
        for (id, segment) in &mut self.segments {
            let held = segment.live > 0 || !segment.ended || segment.freeing || !segment.waits_for.is_empty();
            if !held && floor.is_none_or(|floor| *id < floor) {
                segment.freeing = true;
                dead.push((*id, segment.size));
            }
        }
        dead
    }

    /// `id` can never come back, so that what waits for it may go.
    pub fn freed(&mut self, id: SegmentId) {
        self.segments.remove(&id);
        for segment in self.segments.values_mut() {
            segment.waits_for.remove(&id);
        }
    }

    /// `id` could not be freed; another try may.
    pub fn keep(&mut self, id: SegmentId) {
        if let Some(segment) = self.segments.get_mut(&id) {
            segment.freeing = false;
        }
    }

    /// See [`Log::sparse`](super::Log::sparse).
    pub fn sparse(&self, live_below: f64) -> Option<SegmentId> {
        let stats = self.stats();
        // A few segments of slack: the open one, one that fills, those that wait for their turn to be freed.
        let enough = (stats.live_bytes as f64 * 1.3) as u64 + 4 * self.segment_size;
        if stats.bytes <= enough {
            return None;
        }
        let fraction = |segment: &Segment| segment.live as f64 / segment.size as f64;
        self.segments
            .iter()
            .filter(|(id, segment)| segment.ended && segment.live > 0 && self.floor.is_none_or(|floor| **id < floor))
            .map(|(id, segment)| (*id, fraction(segment)))
            .filter(|(_, fraction)| *fraction < live_below)
            .min_by(|a, b| a.1.total_cmp(&b.1))
            .map(|(id, _)| id)
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
