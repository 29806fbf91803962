//! What can go wrong with the log.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::SegmentId;

/// Why a record was not written, or could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// Two daemons on one folder would destroy each other's records.
    #[error("{dir} is in use by another process; stop it or choose another folder")]
    Locked {
        /// The log's folder.
        dir: PathBuf,
    },
    /// The system refused a file operation.
    #[error("{deed} {path}")]
    Io {
        /// What was being done.
        deed: &'static str,
        /// To which file.
        path: PathBuf,
        /// The system's answer.
        source: Arc<io::Error>,
    },
    /// There is no room on the disk, or less than is to be left free. The record is not in the log.
    #[error("the disk is full: {free} octets free, {wanted} wanted, {keep} to be left free")]
    Full {
        /// Octets free.
        free: u64,
        /// Octets a new segment takes.
        wanted: u64,
        /// `disk_free_min`.
        keep: u64,
    },
    /// The log takes no records that somebody waits for, see [`Health::ReadOnly`](super::Health). The record is not in the log.
    #[error("the log is read-only: {reason}")]
    ReadOnly {
        /// What led to it.
        reason: Arc<str>,
    },
    /// More is queued than `queue_bytes_max`. The record is not in the log; later ones may be.
    #[error("the log has {queued} octets waiting to be written")]
    Busy {
        /// Octets queued.
        queued: usize,
    },
    /// Longer than a record or group can be. The record is not in the log.
    #[error("a record or group of {len} octets is too large for the log")]
    TooLarge {
        /// Its length.
        len: u64,
    },
    /// The log was closed before. The record is not in the log.
    #[error("the log is closed")]
    Closed,
    /// What stands there is not what was written.
    #[error("damaged record at offset {offset} of segment {segment}: {why}")]
    Damaged {
        /// Which segment.
        segment: SegmentId,
        /// Where in its file.
        offset: u64,
        /// What does not fit.
        why: &'static str,
    },
    /// The segment was reclaimed; nothing in it was live.
    #[error("segment {segment} is gone")]
    Gone {
        /// Which segment.
        segment: SegmentId,
    },
}

impl LogError {
    pub(super) fn io(deed: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LogError {
        move |source| LogError::Io { deed, path: path.into(), source: Arc::new(source) }
    }

    /// Whether the cause is a full disk: `452`, not `451`.
    pub fn is_full(&self) -> bool {
        match self {
            LogError::Full { .. } => true,
            LogError::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            LogError::Locked { .. }
            | LogError::ReadOnly { .. }
            | LogError::Busy { .. }
            | LogError::TooLarge { .. }
            | LogError::Closed
            | LogError::Damaged { .. }
            | LogError::Gone { .. } => false,
        }
    }

    /// Whether asking again is of no use: what stands on disk is not what was written, or is not there any more.
    pub fn is_damage(&self) -> bool {
        matches!(self, LogError::Damaged { .. } | LogError::Gone { .. })
    }

    /// The error and its cause in one line.
    pub(super) fn chain(&self) -> String {
        match self {
            LogError::Io { source, .. } => format!("{self}: {source}"),
            other => other.to_string(),
        }
    }
}
