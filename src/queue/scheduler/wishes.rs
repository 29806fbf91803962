//! By which source mail would like to be tried next: who was greylisted, by the one that the receiver knows by now; who was
//! sent elsewhere, by another.
//!
//! A wish is held while the recipients it is about wait, in memory only: after a restart they come by whichever source
//! has its turn. It never holds mail back for long: see [`Ready::unbind`](crate::queue::ready::Ready::unbind).

use std::collections::HashMap;

use smallvec::SmallVec;

use super::{HostId, Item, Scheduler, SiteId};
use crate::mail::MessageId;
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

/// The wishes of mail that waits.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    by_message: HashMap<MessageId, SmallVec<[(HostId, Wish); 1]>>,
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
    }

    fn forget(&mut self, message: MessageId, host: HostId) {
        if let Some(wishes) = self.by_message.get_mut(&message) {
            wishes.retain(|(of, _)| *of != host);
            if wishes.is_empty() {
                self.by_message.remove(&message);
            }
        }
    }

    /// The message is finished.
    pub(super) fn forget_message(&mut self, message: MessageId) {
        if !self.by_message.is_empty() {
            self.by_message.remove(&message);
        }
    }

    /// Forgets the wishes about sources that are gone.
    pub(super) fn retain(&mut self, there: impl Fn(SourceId) -> bool) {
        self.by_message.retain(|_, wishes| {
            wishes.retain(|(_, wish)| there(wish.source()));
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
