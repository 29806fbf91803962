//! By which source mail would like to be tried next: who was greylisted, by the one that the receiver knows by now; who was
//! sent elsewhere, by another.
//!
//! A wish is held while the recipients it is about wait. To come by the same source again is kept over a restart (`keep.rs`): who
//! greylists another address begins to count anew. It never holds mail back for long: see
//! [`Ready::unbind`](crate::queue::ready::Ready::unbind).

use std::collections::{HashMap, HashSet};

use smallvec::SmallVec;

use super::{HostId, Item, Scheduler, SiteId};
use crate::mail::{EnvelopeAddress, MessageId};
use crate::queue::site::PathState;
use crate::routing::SourceId;
use crate::shaping::provider::Action;
use crate::shaping::{Gate, Load};

/// Messages with a wish at once, some 50 octets each. What comes beyond goes by any source.
const WISHES_MAX: usize = 100_000;

/// Mail waits so long in line for the source it wishes for, in milliseconds; then any will do.
const PATIENCE: u64 = 60_000;

/// By which source the next attempt should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::queue) enum Wish {
    /// By this one again.
    Keep(SourceId),
    /// By any but this one.
    Leave(SourceId),
}

impl Wish {
    /// What a reply asks for that the source got.
    pub(in crate::queue) fn of(action: Action, source: SourceId) -> Option<Wish> {
        match action {
            Action::Greylist => Some(Wish::Keep(source)),
            Action::Elsewhere => Some(Wish::Leave(source)),
            Action::Slow | Action::PauseSource | Action::PauseStream | Action::MailboxWait | Action::None => None,
        }
    }

    fn source(self) -> SourceId {
        match self {
            Wish::Keep(source) | Wish::Leave(source) => source,
        }
    }
}

/// Where a message comes by the same source again: hosts, as their addresses have them, and the names of sources.
pub(in crate::queue) type Kept = Vec<(String, String)>;

/// The wishes of mail that waits.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    by_message: HashMap<MessageId, SmallVec<[(HostId, Wish); 1]>>,
    /// Messages of which the ledger does not know what they wish; `None`: nobody keeps it.
    changed: Option<HashSet<MessageId>>,
}

impl Wishes {
    pub(super) fn len(&self) -> usize {
        self.by_message.len()
    }

    fn get(&self, message: MessageId, host: HostId) -> Option<Wish> {
        let wishes = self.by_message.get(&message)?;
        wishes.iter().find(|(of, _)| *of == host).map(|(_, wish)| *wish)
    }

    fn note(&mut self, message: MessageId, host: HostId, wish: Wish) {
        if self.by_message.len() >= WISHES_MAX && !self.by_message.contains_key(&message) {
            return;
        }
        let wishes = self.by_message.entry(message).or_default();
        wishes.retain(|(of, _)| *of != host);
        wishes.push((host, wish));
        self.changed(message);
    }

    fn forget(&mut self, message: MessageId, host: HostId) {
        if let Some(wishes) = self.by_message.get_mut(&message) {
            wishes.retain(|(of, _)| *of != host);
            if wishes.is_empty() {
                self.by_message.remove(&message);
            }
            self.changed(message);
        }
    }

    /// The message is finished.
    pub(super) fn forget_message(&mut self, message: MessageId) {
        if !self.by_message.is_empty() && self.by_message.remove(&message).is_some() {
            self.changed(message);
        }
    }

    fn changed(&mut self, message: MessageId) {
        if let Some(changed) = &mut self.changed {
            changed.insert(message);
        }
    }

    /// Forgets the wishes about sources that are gone.
    pub(super) fn retain(&mut self, there: impl Fn(SourceId) -> bool) {
        let changed = &mut self.changed;
        self.by_message.retain(|message, wishes| {
            let before = wishes.len();
            wishes.retain(|(_, wish)| there(wish.source()));
            if let Some(changed) = changed.as_mut().filter(|_| wishes.len() < before) {
                changed.insert(*message);
            }
            !wishes.is_empty()
        });
    }
}

impl Scheduler {
    /// The attempt for these recipients is over, and those that wait wish for this, or for nothing any more. A pool of one
    /// source leaves no choice.
    pub(in crate::queue) fn wish(&mut self, item: &Item, wish: Option<Wish>) {
        let choice =
            |message: &super::MessageState| self.egress.sources_of(self.streams.pool(message.stream)).len() > 1;
        match wish.filter(|_| self.messages.get(item.message).is_some_and(choice)) {
            Some(wish) => self.wishes.note(item.message, item.host, wish),
            None => self.wishes.forget(item.message, item.host),
        }
    }

    /// What has changed since this was asked last of who comes by the same source again; nobody, if there is nothing behind a
    /// message.
    pub(in crate::queue) fn wishes_changed(&mut self) -> Vec<(MessageId, Kept)> {
        let changed = self.wishes.changed.as_mut().map(std::mem::take).unwrap_or_default();
        let name = |(host, wish): &(HostId, Wish)| match wish {
            Wish::Keep(id) => Some((self.hosts.get(*host).host.to_string(), self.egress.source(*id).name.to_string())),
            Wish::Leave(_) => None,
        };
        let of = |id: &MessageId| self.wishes.by_message.get(id).into_iter().flatten().filter_map(name).collect();
        changed.into_iter().map(|id| (id, of(&id))).collect()
    }

    /// Goes on with what was kept, now that all mail is back, and notes from now on what changes. What is about mail or sources
    /// that are gone is forgotten.
    pub(in crate::queue) fn recall_wishes(&mut self, kept: impl Iterator<Item = (MessageId, Kept)>) {
        let changed = self.wishes.changed.get_or_insert_default();
        let mut found = Vec::new();
        for (id, kept) in kept {
            // Written again, or removed, with what changes next.
            changed.insert(id);
            let here = kept.iter().filter(|_| self.messages.get(id).is_some());
            let known = here.filter_map(|(host, source)| {
                let address: EnvelopeAddress = format!("x@{host}").parse().ok()?;
                let host = self.hosts.id_of(address.host())?;
                Some((id, host, Wish::Keep(self.egress.source_named(source)?)))
            });
            found.extend(known);
        }
        for (id, host, wish) in found {
            self.wishes.note(id, host, wish);
        }
    }

    /// The source that alone should take the item from the line of that site. None if any may, or if the one it wishes for is
    /// not there.
    pub(super) fn wished(&self, id: SiteId, item: &Item) -> Option<SourceId> {
        let site = &self.sites[id as usize];
        if self.wishes.len() == 0 || site.paths.len() < 2 {
            return None;
        }
        let wish = self.wishes.get(item.message, item.host)?;
        let fit = site.paths.iter().filter(|path| is_there(path));
        let chosen = match wish {
            Wish::Keep(source) => fit.into_iter().find(|path| path.source == source),
            Wish::Leave(source) => fit.filter(|path| path.source != source).min_by_key(|path| path.account),
        };
        chosen.map(|path| path.source)
    }

    /// Mail that wishes for a source which cannot take it soon is everybody's; so is what has waited for its source long enough.
    pub(super) fn unbind(&mut self, now: u64, id: SiteId, load: Load) {
        let site = &mut self.sites[id as usize];
        let bound = site.ready.bound();
        if bound.is_empty() {
            site.bound_since = None;
            return;
        }
        let since = *site.bound_since.get_or_insert(now);
        for source in bound {
            let place = site.paths.iter().position(|path| path.source == source && is_there(path));
            let soon = now + PATIENCE;
            let able = place.is_some_and(|place| {
                let open = site.paths[place].health.closed(now).is_none();
                open && match site.gate(now, place, &mut self.shaper, &self.egress, load) {
                    Gate::Go | Gate::Behind(_) => true,
                    Gate::Later(until) => until <= soon,
                }
            });
            if !able || now >= since + PATIENCE {
                site.ready.unbind(source);
            }
        }
        match site.ready.bound().is_empty() {
            true => site.bound_since = None,
            false => self.look_at(id, since + PATIENCE),
        }
    }
}

fn is_there(path: &PathState) -> bool {
    !path.retired && !path.out
}
