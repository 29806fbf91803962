//! Who is due: the whole state of the queue, without I/O.
//!
//! Events come in (a message accepted, a timer, a route found, an outcome), [`Action`]s come out for [`super::Queue`] to
//! carry out. `now` is milliseconds on the queue's monotonic clock. One mutex guards it; no method does more than the
//! work of one message, but for draining a site that went dead.

mod batches;
mod cancel;
mod held;
mod hosts;
mod item;
mod messages;
mod pace;
mod sites;
mod staffing;
mod steer;
mod streams;
mod timers;
mod ways;
mod wishes;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use smallvec::SmallVec;
use tokio::sync::Notify;

use super::census::Census;
use super::ready::LaneId;
use super::site::SiteState;
use super::wheel::Wheel;
use crate::clock::Timestamp;
use crate::mail::{AddressHost, Failure, IdMap, MessageId, Stream};
use crate::routing::{Egress, PoolId, Route, Site, SourceId};
use crate::shaping::Shaper;
use crate::shaping::controller::{Bounds, Change, Saved};
use crate::shaping::orders::Order;
use crate::shaping::steering::Braked;
pub(super) use cancel::TakenBack;
use held::Held;
use hosts::Hosts;
pub(super) use item::{Batch, Group, Item, Newcomer, Recipients};
use messages::{MessageState, Messages, Open, Size};
pub(super) use pace::{Answer, PathName};
use streams::Streams;
use timers::disarm_if_quiet;
use wishes::Wishes;
pub(super) use wishes::{Kept, Wish};

/// Place of a stream in the table of streams.
pub(super) type StreamId = u32;
/// Place of a receiving host in the table of hosts.
pub(super) type HostId = u32;
/// Place of a site in the table of sites.
pub(super) type SiteId = u32;

/// An egress path: a source at a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PathId {
    pub(super) site: SiteId,
    pub(super) source: SourceId,
}

/// Something for the queue to do outside the lock.
#[derive(Debug)]
pub(super) enum Action {
    /// Look up where mail for this host goes, then call [`Scheduler::routed`].
    Resolve(HostId, AddressHost),
    /// Start a session task on this path.
    Connect(PathId),
    /// An idle session has work.
    Wake(Arc<Notify>),
    /// These will not be attempted now for this reason: settle them as deferred or failed.
    Settle(Vec<Item>, Verdict),
    /// The time of this message is up, for these recipients.
    Expire(MessageId, Vec<u32>),
    /// The pace of a path changed.
    Paced(Arc<Route>, SourceId, Change),
    /// These of a message taken back came to no verdict: end them.
    Cancel(MessageId, Vec<u32>),
    /// The time of this order is over.
    OrderEnded(Order),
    /// The reputation brake wants something told, or ordered.
    Braked(Braked),
}

/// Why a whole host or site takes no mail now.
#[derive(Debug, Clone)]
pub(super) enum Verdict {
    /// Try again by the schedule.
    Later(Failure),
    /// Give up.
    Never(Failure),
    /// The suppression list names them; no matter of host or site.
    Refused,
}

/// Numbers for metrics and `queue list`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counts {
    /// Recipients not at their end, by class.
    pub open: [i64; 3],
    /// Of those, recipients whose time has come: resolving, ready or in flight.
    pub ready: [i64; 3],
}

/// The queue's state.
#[derive(Debug, Default)]
pub(super) struct Scheduler {
    messages: Messages,
    sleepers: Wheel<Item>,
    /// Of messages with a recipient awake.
    expiries: Wheel<MessageId>,
    /// Sites whose line is to be looked at, each once at most.
    lines: Wheel<SiteId>,
    /// What sessions are delivering right now, and what is being settled without an attempt: its outcome is under way.
    in_flight: IdMap<SmallVec<[u32; 4]>>,
    streams: Streams,
    /// By which source some of it would like to be tried next.
    wishes: Wishes,
    hosts: Hosts,
    sites: slab::Slab<SiteState>,
    /// With so many sites it is time to see which can be forgotten.
    sites_max: usize,
    site_ids: HashMap<(Site, PoolId), SiteId>,
    /// Sites with ready mail and no session, because all were in use. Sessions of others make room for them.
    starving: VecDeque<SiteId>,
    /// Sites that would like one more. They get what is left over.
    hungry: VecDeque<SiteId>,
    /// Sessions that are closing to make room.
    yielding: usize,
    /// Paths on which sessions wait for work, and some where none do any more; each once.
    pub(super) resting: Vec<PathId>,
    pub(super) connections: usize,
    pub(super) counts: Counts,
    pub(super) limits: Limits,
    /// What was found out of paths whose sites are not in the table.
    paces_kept: HashMap<PathName, Saved>,
    /// What wakes those who are held back.
    held: Held,
    pub(super) shaper: Shaper,
    egress: Arc<Egress>,
    /// When the timer task comes by itself.
    armed: Option<u64>,
    stopped: bool,
    /// Times the line of a site was looked at.
    #[cfg(test)]
    pub(super) looks: usize,
}

/// Limits of the configuration in force.
#[derive(Debug, Clone, Default)]
pub(super) struct Limits {
    pub(super) connections_max: usize,
    pub(super) connections_per_site: usize,
    pub(super) recipients_per_transaction: usize,
    pub(super) pause_min: u64,
    pub(super) pause_max: u64,
    /// What the profiles of providers say of the adaptive control.
    pub(super) bounds: HashMap<&'static str, Bounds>,
}

impl Limits {
    /// Between what the control of a provider's paths moves.
    pub(super) fn bounds(&self, provider: &str) -> Bounds {
        let bounds = self.bounds.get(provider).copied().unwrap_or_default();
        Bounds { sessions_max: bounds.sessions_max.min(self.connections_per_site as u32), ..bounds }
    }
}

impl Scheduler {
    /// Stops giving out work; what is in flight may still be settled.
    pub(super) fn stop(&mut self) -> Vec<Arc<Notify>> {
        self.stopped = true;
        self.sites.iter_mut().flat_map(|(_, site)| &mut site.paths).flat_map(|path| path.idle.drain(..)).collect()
    }

    pub(super) fn stopped(&self) -> bool {
        self.stopped
    }

    /// Recipients not at their end.
    pub(super) fn open_recipients(&self) -> usize {
        self.counts.open.iter().sum::<i64>().max(0) as usize
    }

    /// Makes room for so many messages more.
    pub(super) fn reserve(&mut self, messages: usize) {
        self.messages.reserve(messages);
        self.sleepers.reserve(messages);
    }

    /// Adds a message. `groups` are its open recipients, each in one of them.
    pub(super) fn add<'a>(
        &mut self,
        now: u64,
        newcomer: Newcomer<'_>,
        groups: impl IntoIterator<Item = Group<'a>>,
        actions: &mut Vec<Action>,
    ) {
        let Newcomer { id, stream, accepted_at, recipients, size, expires, apart } = newcomer;
        let stream = self.streams.take(stream, |stream| self.egress.pool_of(stream));
        let mut open = Open::of(recipients);
        if apart {
            open.go_apart();
        }
        let mut items: SmallVec<[(Item, u64, bool); 1]> = SmallVec::new();
        for Group { host, attempts, late, recipients, due, refused } in groups {
            recipients.iter().for_each(|r| open.set(*r));
            let host = self.hosts.take(host);
            items.push((Item { message: id, host, attempts, spoilt: 0, late, recipients }, due, refused));
        }
        self.counts.open[self.streams.class(stream) as usize] += open.len() as i64;
        self.streams.count(stream, open.len() as i64);
        self.messages.insert(MessageState {
            id,
            stream,
            accepted_at,
            expires,
            expiry: None,
            awake: 0,
            unrecorded: 0,
            cancelled: false,
            given_up: false,
            size: Size::of(size),
            open,
        });
        for (item, due, refused) in items {
            if refused {
                self.count_awake(&item);
                self.turn_away(vec![item], Verdict::Refused, actions);
            } else if due <= now {
                self.wake(now, item, actions);
            } else {
                self.sleepers.insert(due, item);
            }
        }
    }

    /// Another item names the same host as this one.
    pub(super) fn share_host(&mut self, item: &Item) {
        self.hosts.share(item.host);
    }

    /// Takes an item out for good; its recipients are accounted for by [`end`](Scheduler::end).
    pub(super) fn drop_item(&mut self, item: &Item) {
        self.hosts.release(item.host);
    }

    /// Which of these recipients are still open.
    pub(super) fn is_open(&self, id: MessageId, recipient: u32) -> bool {
        self.messages.get(id).is_some_and(|message| message.open.has(recipient))
    }

    /// Whether the time of all open recipients of a message has come.
    pub(super) fn is_awake(&self, id: MessageId) -> bool {
        self.messages.get(id).is_some_and(|message| message.awake as usize == message.open.len())
    }

    /// The open recipients of a message; empty when it is finished.
    pub(super) fn open_of(&self, id: MessageId) -> Vec<u32> {
        self.messages.get(id).map_or_else(Vec::new, |message| message.open.list())
    }

    /// A recipient whose time had come comes to its end. False: it had come to it before, and whoever brought it there
    /// tells of it. Who is told true records it, and then says so by [`recorded`](Scheduler::recorded).
    pub(super) fn end(&mut self, id: MessageId, recipient: u32) -> bool {
        let Some(message) = self.messages.get_mut(id) else { return false };
        if !message.open.clear(recipient) {
            return false;
        }
        let class = self.streams.class(message.stream) as usize;
        message.unrecorded += 1;
        message.awake = message.awake.saturating_sub(1);
        self.counts.open[class] -= 1;
        self.counts.ready[class] -= 1;
        self.streams.count(message.stream, -1);
        disarm_if_quiet(&mut self.expiries, message);
        true
    }

    /// So many ends of a message are being recorded, under the same lock. True if they are its last: the record is the
    /// message's tombstone, and none may come behind it.
    pub(super) fn recorded(&mut self, id: MessageId, ends: u32) -> bool {
        let Some(message) = self.messages.get_mut(id) else { return false };
        message.unrecorded -= ends;
        if message.unrecorded > 0 || message.open.len() > 0 {
            return false;
        }
        if let Some(message) = self.messages.remove(id) {
            self.streams.release(message.stream);
            self.wishes.forget_message(id);
        }
        true
    }

    /// Open recipients of a tenant.
    pub(super) fn waiting_of(&self, tenant: &str) -> u64 {
        self.streams.open_of(tenant)
    }

    /// The messages of a campaign in places `from..to` of the table, and whether there may be some behind.
    pub(super) fn messages_of(
        &self,
        (tenant, campaign): (&Arc<str>, &Arc<str>),
        (from, to): (usize, usize),
    ) -> (Vec<MessageId>, bool) {
        let streams = self.streams.of_campaign(tenant, campaign);
        if streams.is_empty() {
            return (Vec::new(), false);
        }
        let (messages, more) = self.messages.slice(from, to);
        (messages.filter(|message| streams.contains(&message.stream)).map(|message| message.id).collect(), more)
    }

    /// Messages with open recipients: id, stream, acceptance; in no order.
    pub(super) fn messages(&self) -> impl Iterator<Item = (MessageId, &Stream, Timestamp)> {
        self.messages.iter().map(|m| (m.id, self.streams.get(m.stream), m.accepted_at))
    }

    /// Everything, counted.
    pub(super) fn census(&self) -> Census {
        Census {
            messages: self.messages.iter().map(|message| (message.id, message.open.len())).collect(),
            sleepers: self.sleepers.len(),
            expiries: self.expiries.len(),
            in_flight: self.in_flight.len(),
            ready: self.sites().map(|site| site.ready.len()).sum(),
            streams: self.streams.len(),
            hosts: self.hosts.len(),
            sites: self.sites.len(),
            connections: self.connections,
            wishes: self.wishes.len(),
            held: self.held.len(),
        }
    }

    /// What is known of a message without its envelope: its stream and when it was accepted.
    pub(super) fn about(&self, id: MessageId) -> Option<(Stream, Timestamp)> {
        self.messages.get(id).map(|m| (self.streams.get(m.stream).clone(), m.accepted_at))
    }
}
