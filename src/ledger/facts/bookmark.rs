//! Where a value stood when it was read last.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::log::{Position, SegmentId};

/// Where in the log a value stood last, so that it is found without asking the index. 8 octets.
#[derive(Debug, Default)]
pub struct Bookmark(AtomicU64);

impl Bookmark {
    /// Segments count from 1, so 0 is none.
    pub(super) fn at(&self) -> Option<Position> {
        let at = self.0.load(Ordering::Relaxed);
        (at != 0).then_some(Position { segment: SegmentId((at >> 32) as u32), offset: at as u32 })
    }

    pub(super) fn put(&self, at: Position) {
        self.0.store(u64::from(at.segment.0) << 32 | u64::from(at.offset), Ordering::Relaxed);
    }
}
