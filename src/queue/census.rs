//! What the queue holds, counted: simulations check that it neither loses nor hoards.

use super::Queue;
use crate::mail::MessageId;

/// See [`Queue::census`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census {
    /// Unfinished messages with the number of their open recipients, oldest first.
    pub messages: Vec<(MessageId, usize)>,
    /// Items that sleep until due.
    pub sleepers: usize,
    /// Timers of messages with a recipient awake.
    pub expiries: usize,
    /// Messages of which a batch is with a session or being settled.
    pub in_flight: usize,
    /// Items that stand in line at a site.
    pub ready: usize,
    /// Streams with mail.
    pub streams: usize,
    /// Receiving hosts remembered, with or without mail.
    pub hosts: usize,
    /// Sites remembered, with or without mail.
    pub sites: usize,
    /// Sessions open or opening.
    pub connections: usize,
    /// Timers of what limits and orders hold back.
    pub held: usize,
    /// Messages that wish for a source.
    pub wishes: usize,
}

impl Queue {
    /// Counts everything. Walks all messages.
    pub fn census(&self) -> Census {
        let scheduler = self.lock();
        let mut census = scheduler.census();
        census.messages.sort_unstable();
        census
    }
}
