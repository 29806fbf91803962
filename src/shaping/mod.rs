//! Pace: how fast, and whether at all. Pure: no I/O, no clock; `now` is milliseconds on the queue's monotonic clock.

pub mod brake;
pub mod bucket;
pub mod orders;
pub mod scope;
pub mod steering;
pub mod warmup;

pub use scope::{Scope, Subject};

/// May it go now?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Yes.
    Go,
    /// Not before this instant, in milliseconds on the queue's clock.
    Later(u64),
}
