//! A message that is durable joins the queue: one item for each host.

use std::collections::HashMap;
use std::sync::Arc;

use smallvec::SmallVec;

use super::scheduler::{Group, Newcomer, Recipients};
use super::{Queue, at};
use crate::mail::AddressHost;
use crate::spool::Message;

impl Queue {
    /// A durable message joins the queue. Called once for each, on any thread; does not block.
    /// `refused`: the recipients that the suppression list names.
    pub(super) fn admit(self: &Arc<Queue>, message: &Message, refused: &Recipients) {
        let envelope = &message.envelope;
        self.metrics.recipients_accepted.inc_by(envelope.recipients.len() as u64);
        let timestamp = self.clock.timestamp();
        let now = self.now();
        let expires = at(now, timestamp, envelope.expires_at);
        let due = at(now, timestamp, envelope.not_before).min(expires);
        let groups = group_by_host(envelope.recipients.iter().map(|r| r.address.host()));
        let apart = envelope.recipients.len() > 1 && self.parts.load().verp.names_each(&envelope.reverse_path);
        let newcomer = Newcomer {
            id: message.id,
            stream: &envelope.stream,
            accepted_at: envelope.accepted_at,
            recipients: envelope.recipients.len(),
            size: message.content.len() as u64,
            expires,
            apart,
        };
        let groups = groups.into_iter().flat_map(|(host, recipients)| {
            let parts = split(recipients, refused);
            let pieces = parts.flat_map(move |(part, refused)| {
                part.pieces(apart && !refused).into_iter().map(move |piece| (piece, refused))
            });
            pieces.map(move |part| (host, part))
        });
        let groups = groups.map(|(host, (recipients, refused))| Group {
            host,
            attempts: 0,
            late: false,
            recipients,
            due,
            refused,
        });
        self.with_actions(|scheduler, _, actions| scheduler.add(now, newcomer, groups, actions));
    }
}

/// Recipients in two parts: those to be mailed, and those that are `refused`; a part without recipients is left out.
pub(super) fn split(recipients: Recipients, refused: &Recipients) -> impl Iterator<Item = (Recipients, bool)> + use<> {
    let (no, yes) = if refused.is_empty() {
        (Recipients::None, recipients)
    } else {
        let part = |wanted| recipients.iter().copied().filter(|place| refused.contains(place) == wanted).collect();
        (part(true), part(false))
    };
    [(yes, false), (no, true)].into_iter().filter(|(part, _): &(Recipients, bool)| !part.is_empty())
}

/// A host, and the places of the recipients there.
type AtHost<'a> = (&'a AddressHost, Recipients);

/// Places of the recipients by host, hosts in order of first appearance.
pub(super) fn group_by_host<'a>(hosts: impl Iterator<Item = &'a AddressHost>) -> SmallVec<[AtHost<'a>; 1]> {
    let mut groups: SmallVec<[AtHost<'a>; 1]> = SmallVec::new();
    let mut places = HashMap::new();
    for (recipient, host) in hosts.enumerate() {
        let fresh = groups.len();
        // A map only pays once there is more than one host.
        let place = match groups.first() {
            None => fresh,
            Some((first, _)) if *first == host => 0,
            Some(_) => *places.entry(host).or_insert(fresh),
        };
        if place == fresh {
            groups.push((host, Recipients::None));
        }
        groups[place].1.push(recipient as u32);
    }
    groups
}
