//! What the spool holds, counted: simulations check that it neither loses nor hoards.

use super::Spool;
use crate::log::Stats;

/// See [`Spool::census`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Census {
    /// Unfinished messages.
    pub messages: usize,
    /// Octets of the cache in use.
    pub cached: usize,
    /// Messages of which a copy is queued.
    pub moving: usize,
    /// Copies of messages that finished meanwhile.
    pub ghosts: usize,
    /// The log.
    pub log: Stats,
}

impl Spool {
    /// Counts everything.
    pub fn census(&self) -> Census {
        let state = self.lock();
        Census {
            messages: state.index.len(),
            cached: state.cache.size(),
            moving: state.moving.len(),
            ghosts: state.ghosts.len(),
            log: self.log.stats(),
        }
    }
}
