//! What the engine holds, hour by hour, against the mail that is open: it must not hold more for having run longer.

use posthaste::queue::census::Census;
use posthaste::spool::census::Census as SpoolCensus;

/// The most the engine held of each thing, at the full hours.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Held {
    /// These no open mail explains: what bounds them is the world, not how long it was looked at.
    pub hosts: usize,
    pub sites: usize,
    pub limits: usize,
    pub ghosts: usize,
}

/// Timers and items may outlive their message until they are met: this many.
const STALE: usize = 64;

impl Held {
    /// Takes an hour in. What is more than the open mail explains.
    pub fn see(&mut self, queue: &Census, spool: &SpoolCensus, cache: usize) -> Vec<String> {
        let messages = queue.messages.len();
        let recipients: usize = queue.messages.iter().map(|(_, open)| open).sum();
        let bounds = [
            ("items", queue.sleepers + queue.ready, recipients),
            ("expiries", queue.expiries, messages),
            ("batches in flight", queue.in_flight, messages),
            ("streams", queue.streams, messages),
            ("wishes", queue.wishes, messages),
            ("copies on their way", spool.moving, messages),
        ];
        let over = |(what, held, open): (&str, usize, usize)| {
            (held > open + STALE).then(|| format!("{held} {what} for {messages} messages, {recipients} recipients"))
        };
        let mut wrong: Vec<String> = bounds.into_iter().filter_map(over).collect();
        if spool.cached > cache {
            wrong.push(format!("{} octets in a cache of {cache}", spool.cached));
        }
        self.hosts = self.hosts.max(queue.hosts);
        self.sites = self.sites.max(queue.sites);
        self.limits = self.limits.max(queue.held);
        self.ghosts = self.ghosts.max(spool.ghosts);
        wrong
    }

    /// What a longer run held more of than a shorter one, though nothing but time was more.
    pub fn grew(&self, shorter: &Held) -> Vec<String> {
        let counts = [
            ("hosts", self.hosts, shorter.hosts),
            ("sites", self.sites, shorter.sites),
            ("timers of limits", self.limits, shorter.limits),
            ("ghosts", self.ghosts, shorter.ghosts),
        ];
        let grew = |(what, longer, shorter): (&str, usize, usize)| {
            (longer > shorter + shorter / 2 + 16).then(|| format!("{longer} {what} after {shorter}"))
        };
        counts.into_iter().filter_map(grew).collect()
    }
}
