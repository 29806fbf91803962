//! Pace: what may go now, and when the rest may.
//!
//! Pure: no clock, no network, no disk. `now` is milliseconds on the queue's clock. The queue asks before it opens a
//! connection and before it hands out a batch, and is told to go on or the exact instant at which to ask again; nothing
//! polls.

pub mod brake;
pub mod bucket;
pub mod limits;
pub mod line;
pub mod orders;
pub mod provider;
pub mod rows;
pub mod steering;
pub mod warmup;

/// Whether something may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Now.
    Go,
    /// Not before this instant, in milliseconds on the queue's clock; later than the `now` it was asked with.
    Later(u64),
}

/// What is known of the pace of one egress path.
#[derive(Debug, Default)]
pub struct Pace {}

/// Everything that limits the flow.
#[derive(Debug, Default)]
pub struct Shaper {}

impl Shaper {
    /// Whether a connection may be opened on this path.
    pub fn may_connect(&mut self, _now: u64, _path: &mut Pace) -> Gate {
        Gate::Go
    }

    /// Whether a message may be sent on this path.
    pub fn may_send(&mut self, _now: u64, _path: &mut Pace) -> Gate {
        Gate::Go
    }
}

impl Gate {
    /// Both must let it through.
    pub fn and(self, other: Gate) -> Gate {
        match (self, other) {
            (Gate::Go, gate) | (gate, Gate::Go) => gate,
            (Gate::Later(one), Gate::Later(other)) => Gate::Later(one.max(other)),
        }
    }
}
