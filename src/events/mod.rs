//! Record: one JSON line for every attempt and every end of a recipient, and a [`Notice`] for what changes the course of many.
//!
//! A line is made where the thing happens ([`Event`]), stored in the spool with the state it tells of, and only then, once
//! synced, written to `events/events.jsonl` by the [`EventLog`] with the place of that record as its `position`. After a
//! crash the spool hands over again whatever stands behind the last position in the file, so that the file has every
//! event exactly once, in order.

mod archive;
mod event;
mod feedback;
mod file;
mod index;
mod log;
mod notice;
#[doc(hidden)]
pub mod probe;
mod progress;
mod watch;

pub use archive::{Archive, ArchiveError, Origin, Told};
pub use event::{Dsn, Event, Kind, Timings};
pub use feedback::{Feedback, FeedbackKind};
pub use log::{EventLog, EventLogError};
pub use notice::{About, Notice, NoticeKind};
pub use progress::Progress;
pub use watch::{Batch, Cursor, CursorError, Start, Watch, WatchError};
