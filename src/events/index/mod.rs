//! The index of the event log: which lines of a file are of which message.
//!
//! Beside the files of events stands a folder with one index for each, `index/SEGMENT-OFFSET.idx`, named after the
//! position of the file's first line: so it belongs to its file whatever that is called by now, and is never taken for
//! that of another. An index is a row of *runs*. A run says of a stretch of its file which messages have a line there, and
//! where: a head, then entries sorted by message. The thread that writes events collects the entries of what it writes and
//! adds a run for every few thousand lines; a file set aside gets one run in place of the many.
//!
//! The index is never the only copy of anything, and nothing waits for it. What no run covers is read as before.
//!
//! | on disk | comes of | then |
//! |---|---|---|
//! | lines behind the last run | every moment; a crash | are in memory while the daemon runs; else read. At the start a run is made of them |
//! | a run that is torn or zeroed | a power cut: runs are not synced | it and those behind it are cut off at the start, and made anew |
//! | a run that reaches beyond the end of its file | a power cut that took events, which the spool hands over again | the same |
//! | no index | an older version; deleted | it is made in the background; until then the file is searched |
//! | `.new` | a crash while runs became one | overwritten, or deleted at the start |
//! | the index of no file | a crash while the oldest file was replaced | deleted at the start |
//! | an entry that leads to another message's line | damage on disk | seen when it is followed: the file is searched |

mod file;
mod keeper;
mod recent;
mod run;
mod scan;
#[cfg(test)]
mod tests;
mod writer;

use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::log::Position;

pub(super) use file::{Reads, first_position};
pub(super) use recent::Recent;
pub(super) use run::runs;
pub(super) use scan::{each_block, needle_of};
pub(super) use writer::Indexer;

/// Lines of a run, as they are written. In memory they take 16 octets each; to read them takes about a millisecond.
pub(super) const RUN_LINES: usize = 4096;

/// A line: whose it is, and where it begins in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    /// The message's id.
    pub(super) message: u64,
    /// Octets in front of the line.
    pub(super) offset: u64,
}

/// The index of the file that begins with `first`; `dir` is the folder of the events.
pub(super) fn path_of(dir: &Path, first: Position) -> PathBuf {
    dir.join("index").join(format!("{}-{}.idx", first.segment.0, first.offset))
}

/// What of the first `len` octets is in none of these stretches.
pub(super) fn gaps(stretches: impl IntoIterator<Item = Range<u64>>, len: u64) -> Vec<Range<u64>> {
    let mut known: Vec<Range<u64>> = stretches.into_iter().collect();
    known.sort_unstable_by_key(|stretch| stretch.start);
    let (mut gaps, mut to) = (Vec::new(), 0);
    for stretch in known {
        if stretch.start.min(len) > to {
            gaps.push(to..stretch.start.min(len));
        }
        to = to.max(stretch.end);
    }
    if to < len {
        gaps.push(to..len);
    }
    gaps
}
