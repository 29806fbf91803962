//! The one durable thing: a segmented, append-only log.
//!
//! *An append's `done` says `Ok` only after its record is synced; from then on no crash, and no failure of a later write, loses the
//! record until its owner lets go of it.*
//!
//! 1. Anyone calls [`Log::append`]; it queues and returns.
//! 2. One thread takes whatever is queued, writes it as one batch, syncs once, calls each `done`. Whoever came in the
//!    meantime shares the next sync: group commit without a timer.
//! 3. The owner says of each record whether it is live ([`Log::retain`], [`Log::release`]) and which segment must
//!    outlive which ([`Log::depend`]). A segment without live records is used again ([`Log::reclaim`]).
//! 4. [`Log::open`] shows the owner every record, oldest first. The log knows nothing of what they mean.
//!
//! # What an owner has to do
//!
//! - Retain in `done`, or after `open`; release once. What is not retained is dead.
//! - A deletion in segment T of a record in S: `depend(T, S)`, in the deletion's `done` and again at replay. Deletions themselves
//!   need not be retained.
//! - A copy in T of a record in S: `depend(T, S)`, then release the original. Records that change what they refer to (a state, say) stand
//!   before the copy, where replay would find nothing to change: the copy brings the newest of them along, in its group.
//! - From time to time: [`Log::reclaim`]; copy what is live in [`Log::sparse`]; carry forward the deletions of [`Log::pinned`].
//! - Replay shows dead records too, for as long as their segment stands, but always in the order of appending.
//!
//! # What may stand on disk
//!
//! | state | made by | after a crash | cleaned by |
//! |---|---|---|---|
//! | `zero.log`, `begin.log` | a new file being filled with zeros | nothing is in it | `open`: removed |
//! | `ready.log` | filled, synced, renamed, folder synced | nothing is in it | becomes a segment |
//! | `free-N.log` or one of the above with the header of a segment to be | new segment: header written and synced, then its name (rename, folder synced); no record before both | nothing is in it | as without that header |
//! | `seg-N.log`, header only | the same | nothing is in it; it names the end of the one before, which nothing was written to since | `reclaim` |
//! | `seg-N.log`, last whole batch followed by anything | each batch: written, synced, then `done`s | the batch in flight is whole, partly there or absent; none of it was acknowledged. Whole groups before the tear are kept, the rest is the torn tail | `open`: the next segment's header names the end |
//! | `seg-N.log` with a seal page | the next segment stands, or the log was closed: seal written after the last batch was synced, also by the next start | its end is known, and which segment was begun behind it | `reclaim` |
//! | `seg-N.log` without a seal, whose end `seg-M.log`, the one after it, names | a write or sync failed at that end, or a crash | what stands behind that end is not read; M is kept until N is freed | `reclaim` |
//! | `seg-N.log` without a header of generation N, and no record of it | damage, or a log of version 1 that crashed | nothing is in it; damage if the newest header names it | `open`: removed |
//! | `free-N.log` | `reclaim`: renamed, folder synced; only then do segments that depend on it fall | nothing is in it | reused |
//! | `gone-N.log` | the same, where its space is wanted: renamed, folder synced, then emptied | nothing is in it | removed when a segment is begun whose header does not name N; without inodes it is filled anew and becomes that segment |
//! | `reserve.log` | allocated when the log is opened or heals | nothing is in it | filled with zeros, becomes a segment when the disk is full |
//! | `lock` | `open` | not held any more | nobody; it stays |
//!
//! Every page of a segment was written and synced before the segment was begun, so that a sync of a batch is about nothing but its data: see
//! `zero.rs`. A header names the segments that there were when it was begun. So one that the newest header names, and that is neither there
//! nor `free` nor `gone`, is missing; one whose file is shorter than its header says was cut off. The newest itself is named by the
//! seal of the one before it. These two are not freed, since what they name would be forgotten; the older one is while the log is read-only,
//! for it may be the space that is missing. Files of version 1 of the log have none of this, and are read all the same; they are not
//! used again.
//!
//! # When a write or sync fails
//!
//! Nobody knows what reached the disk since the last sync that worked, and syncing again proves nothing (the kernel may have
//! dropped the pages). So nothing more is written to that segment. Synced appends of the batch, and all that follow, fail;
//! [`Health`] turns [`Health::ReadOnly`]. Relaxed ones are kept, in order, and written again. Every `retry` the thread tries
//! to begin a new segment, whose header says where the broken one ends; once that is synced, the log is healthy. The same holds where a new
//! segment could not be begun and nobody knows whether its name will stand after a crash: it names the end of the open one.
//!
//! What remains: if the process ends before a new segment could be begun, nothing says where the broken one ends. If the
//! failed batch reached the disk after all, its records come back, though their writers were told they failed. A sender that
//! was told 4xx has then sent twice. The other way round, a loss, cannot happen. They may come back from the system's memory alone, which
//! goes on to show what it will never write: so `open` writes the last batch of such a segment once more before it syncs it.
//!
//! # When the disk is full
//!
//! A new segment is begun, or made ready, only if `disk_free_min` stays free. Else the log turns read-only, gives up its pool, and goes on
//! writing relaxed records into what is left of the open segment, then into the reserve (allocated ahead, at most 16 MiB), so
//! that what was delivered is still recorded. When that too is full they wait in memory; the owner sees by
//! [`Stats::queued_bytes`] that it is to slow down.

mod batch;
mod error;
mod files;
mod handle;
mod pending;
#[doc(hidden)]
pub mod probe;
mod record;
mod replay;
mod segment;
mod shared;
mod survey;
mod table;
#[cfg(test)]
mod tests;
mod verify;
mod walk;
mod writer;
mod zero;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;

pub use error::LogError;
pub use files::{DiskFiles, Files, LogFile, sim};
pub use handle::Log;
pub use replay::ReplayReport;
pub use verify::{VerifiedRecord, VerifyReport, verify, verify_with};

/// How a log is kept.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// Its folder; created if missing. Holds nothing else.
    pub dir: PathBuf,
    /// Octets of one file, rounded up to 4 KiB, at least 32 KiB, less than 4 GiB. A group that is larger gets a file of its own size; the
    /// first files of a new log, and those begun in a hurry, are smaller.
    pub segment_size: u64,
    /// No segment is begun that would leave less than this many octets free.
    pub disk_free_min: u64,
    /// Segments kept for reuse.
    pub recycle_max: usize,
    /// Relaxed records alone are synced at most so often. So none waits longer than this for company, and one that comes to an idle log
    /// does not wait at all.
    pub linger: Duration,
    /// Octets queued at once; beyond them synced appends fail with [`LogError::Busy`]. Relaxed ones are always taken: they tell what has happened already. Their owner slows down beyond it.
    pub queue_bytes_max: usize,
    /// How often a read-only log tries to begin a new segment.
    pub retry: Duration,
    /// Who does the writing.
    pub drive: Drive,
    /// New segments get numbers behind this one: positions up to it are known elsewhere, by another folder that was here before.
    pub after: SegmentId,
}

/// Who does the writing.
#[derive(Clone, Default)]
pub enum Drive {
    /// A thread of the log's own.
    #[default]
    Thread,
    /// Nobody but who calls [`Log::step`], on whose thread each `done` then runs; reads are done where they are awaited. The
    /// closure is called when there is something to do; it must not block. For simulations, in which nothing may happen at
    /// its own time. `linger` and `retry` mean nothing then.
    Stepped(Arc<dyn Fn() + Send + Sync>),
}

impl fmt::Debug for Drive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Drive::Thread => "Thread",
            Drive::Stepped(_) => "Stepped",
        })
    }
}

impl LogOptions {
    /// 64 MiB segments, 8 of them kept for reuse, 256 MiB left free, 2 ms of linger, 64 MiB queued, a retry each second.
    pub fn new(dir: impl Into<PathBuf>) -> LogOptions {
        LogOptions {
            dir: dir.into(),
            segment_size: 64 << 20,
            disk_free_min: 256 << 20,
            recycle_max: 8,
            linger: Duration::from_millis(2),
            queue_bytes_max: 64 << 20,
            retry: Duration::from_secs(1),
            drive: Drive::Thread,
            after: SegmentId(0),
        }
    }
}

/// Names a segment: its generation, which counts from 1, rises for ever and is never used for records twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct SegmentId(pub u32);

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A place in the log. Orders as the records were appended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Position {
    /// Which segment.
    pub segment: SegmentId,
    /// Octets from the start of its file.
    pub offset: u32,
}

/// Where a record stands and how long it is: all that is needed to read it. 16 octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Location {
    /// Where its header starts.
    pub position: Position,
    /// Octets of its head.
    pub head_len: u32,
    /// Octets of its body.
    pub body_len: u32,
}

impl Location {
    /// Octets of the record on disk, header included: what it adds to the live bytes of its segment.
    pub fn record_len(&self) -> u64 {
        record::HEADER_LEN + u64::from(self.head_len) + u64::from(self.body_len)
    }
}

/// What an append waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// Somebody waits for the sync. Fails at once while the log is read-only.
    Synced,
    /// Rides along with the next sync, which is begun at the latest `linger` after the one before. The log keeps it until it is
    /// synced and writes it again if a batch fails; it may use the reserve when the disk is full.
    Relaxed,
}

/// Called once on the writer thread, in log order, after the sync that covers the record, or when it failed.
///
/// Must not block, and must not panic (that would be caught and logged). The segment is not reclaimed before this returns, so here is where
/// to call [`Log::retain`].
pub type Done = Box<dyn FnOnce(Result<Location, LogError>) + Send>;

/// A record to be written.
pub struct Append {
    /// The owner's.
    pub kind: u8,
    /// The owner's.
    pub id: u64,
    /// What replay shows; at most 16 MiB, and small where start-up time matters.
    pub head: Vec<u8>,
    /// What only [`Log::read`] gives back; never copied on the way to the disk. Head and body together at most 1 GiB.
    pub body: SmallVec<[Bytes; 2]>,
    /// In a group one `Synced` makes all `Synced`: they stand or fall together.
    pub durability: Durability,
    /// Who wants to know. For a relaxed record called with `Ok`, or with [`LogError::TooLarge`] or
    /// [`LogError::Closed`].
    pub done: Option<Done>,
}

/// A record as replay and [`Log::scan`] show it. Its head is intact; its body may turn out damaged on reading.
#[derive(Debug, Clone, Copy)]
pub struct Replayed<'a> {
    /// Where it stands.
    pub location: Location,
    /// The owner's.
    pub kind: u8,
    /// The owner's.
    pub id: u64,
    /// The owner's.
    pub head: &'a [u8],
}

/// A record as [`Log::read`] gives it back, head and body intact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The owner's.
    pub kind: u8,
    /// The owner's; compare it with the one expected.
    pub id: u64,
    /// The owner's.
    pub head: Bytes,
    /// The owner's, in one piece.
    pub body: Bytes,
}

/// Whether the log takes records that somebody waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Ok,
    /// It does not; it tries again every `retry`.
    ReadOnly {
        /// What led to it, for a person to read.
        reason: Arc<str>,
    },
}

/// A log in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Segments, the open one included.
    pub segments: usize,
    /// Octets of their files.
    pub bytes: u64,
    /// Octets of records that are live.
    pub live_bytes: u64,
    /// Files kept for reuse.
    pub recycled: usize,
    /// Octets of appends not yet synced.
    pub queued_bytes: usize,
}

/// Octets of a file that hold nothing that can be read though they should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Which file.
    pub file: PathBuf,
    /// The first of them.
    pub offset: u64,
    /// How many.
    pub len: u64,
    /// What does not fit.
    pub why: &'static str,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} octets at {}: {}", self.file.display(), self.len, self.offset, self.why)
    }
}
