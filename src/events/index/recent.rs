//! What was written last, and is in no run yet.

use std::ops::Range;
use std::sync::Mutex;

use super::Entry;
use crate::log::Position;

/// Shared by the thread that writes events, and those who look for them.
#[derive(Debug, Default)]
pub(in crate::events) struct Recent(pub(super) Mutex<Lines>);

/// Lines of the file that is written.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// The position that the file begins with; `None`: it has no index.
    pub(super) file: Option<Position>,
    /// The stretch that they are in.
    pub(super) from: u64,
    pub(super) to: u64,
    /// In the order of the file.
    pub(super) entries: Vec<Entry>,
}

impl Recent {
    /// Adds where lines of the message begin in the file that begins with `first`, and returns the stretch that was looked at.
    pub(in crate::events) fn find(&self, first: Position, message: u64, lines: &mut Vec<u64>) -> Option<Range<u64>> {
        let recent = self.0.lock().expect("no code panics under this lock");
        if recent.file != Some(first) {
            return None;
        }
        let of = recent.entries.iter().filter(|entry| entry.message == message);
        lines.extend(of.map(|entry| entry.offset));
        Some(recent.from..recent.to)
    }
}
