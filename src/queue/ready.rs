//! Who goes next at one site: classes by weight, lanes inside a class by deficit round robin.
//!
//! A lane is a stream's mail at the site; where limits tell domains apart, its mail to one host there. Deficit round robin
//! (Shreedhar and Varghese, 1995) in recipients: each lane in turn may send [`QUANTUM`] of them, and what it leaves over it
//! keeps while it has more to send. A lane with one message waits for at most one quantum of each other lane, however
//! long their queues are. Picking costs O(1).
//!
//! A lane that may not go yet is set aside: it has no turns until it is [`restored`](Ready::restore), and holds up nobody.
//! Mail that wishes for one source has a lane of its own, which sessions of other sources pass over.

mod items;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use smallvec::SmallVec;

use items::{Items, Popped};

use super::scheduler::{HostId, Item, StreamId};
use crate::mail::{Class, OwnMap};
use crate::routing::SourceId;
use crate::shaping::BucketId;

/// Recipients a lane may send in its turn.
const QUANTUM: i32 = 16;

/// Recipients each class may send before the others have had theirs, in the order of [`Class::ALL`]. While all three have
/// mail, transactional gets 16 of 22 and starts at once after a refill.
const WEIGHTS: [i64; 3] = [16, 4, 2];

/// A stream's mail at a site, or its mail to one host there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LaneId {
    /// The stream.
    pub stream: StreamId,
    /// The host, if limits tell its mail apart.
    pub host: Option<HostId>,
    /// The source that alone should take it; `None`: any.
    pub source: Option<SourceId>,
}

impl LaneId {
    /// Whether a session of that source may take from it.
    fn suits(self, source: Option<SourceId>) -> bool {
        source.is_none() || self.source.is_none() || self.source == source
    }
}

/// The items of one site whose time has come.
#[derive(Debug, Default)]
pub struct Ready {
    /// Lanes that may go, in order of their turns.
    turns: [VecDeque<LaneId>; 3],
    credit: [i64; 3],
    lanes: OwnMap<LaneId, Lane>,
    items: usize,
    /// Of these, items of lanes that are set aside.
    aside: usize,
    /// Of the others, items that wish for a source.
    bound: SmallVec<[(SourceId, usize); 1]>,
}

#[derive(Debug)]
struct Lane {
    items: Items,
    deficit: i32,
    class: Class,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It has turns.
    Turns,
    /// It has, after it was let go from a line.
    Senior,
    /// It has none: it stands in line there, or waits for a time.
    Aside(Option<BucketId>),
}

impl Ready {
    /// Items here, those set aside included.
    pub fn len(&self) -> usize {
        self.items
    }

    /// Nothing is here, not even set aside.
    pub fn is_empty(&self) -> bool {
        self.items == 0
    }

    /// Items that may go.
    pub fn available(&self) -> usize {
        self.items - self.aside
    }

    /// Items that may go by a source.
    pub fn available_to(&self, source: SourceId) -> usize {
        let others = self.bound.iter().filter(|(of, _)| *of != source);
        self.available() - others.map(|(_, items)| items).sum::<usize>()
    }

    /// The sources that items wish for which may go.
    pub fn bound(&self) -> SmallVec<[SourceId; 2]> {
        self.bound.iter().map(|(source, _)| *source).collect()
    }

    /// The best class of which something may go.
    pub fn best_class(&self) -> Option<Class> {
        Class::ALL.into_iter().find(|class| !self.turns[*class as usize].is_empty())
    }

    /// Puts an item behind the others of its lane.
    pub fn push(&mut self, class: Class, lane: LaneId, item: Item) {
        self.put(class, lane, item, false);
    }

    /// Puts an item back in front of its lane: its turn was spoilt by a connection, not by itself.
    pub fn push_front(&mut self, class: Class, lane: LaneId, item: Item) {
        self.put(class, lane, item, true);
    }

    fn put(&mut self, class: Class, id: LaneId, item: Item, front: bool) {
        self.items += 1;
        match self.lanes.get_mut(&id) {
            Some(lane) => {
                let aside = matches!(lane.state, State::Aside(_));
                lane.items.put(item, front);
                match aside {
                    true => self.aside += 1,
                    false => self.bind(id, 1),
                }
            }
            None => {
                let lane = Lane { items: Items::One(item), deficit: QUANTUM, class, state: State::Turns };
                self.lanes.insert(id, lane);
                self.turns[class as usize].push_back(id);
                self.bind(id, 1);
            }
        }
    }

    /// So many more of a lane's items may go (fewer, if negative).
    fn bind(&mut self, id: LaneId, items: isize) {
        let Some(source) = id.source else { return };
        let place = self.bound.iter().position(|(of, _)| *of == source).unwrap_or_else(|| {
            self.bound.push((source, 0));
            self.bound.len() - 1
        });
        let bound = &mut self.bound[place].1;
        *bound = bound.saturating_add_signed(items);
        if *bound == 0 {
            self.bound.remove(place);
        }
    }

    /// What wishes for a source is everybody's from now on: it may go by others, behind what they have.
    pub fn unbind(&mut self, source: SourceId) {
        let mut ids: Vec<LaneId> = self.lanes.keys().copied().filter(|id| id.source == Some(source)).collect();
        // In an order of their own, not of the table.
        ids.sort_unstable();
        for id in ids {
            let Some(lane) = self.lanes.remove(&id) else { continue };
            let items = lane.items.len();
            self.items -= items;
            match lane.state {
                State::Aside(_) => self.aside -= items,
                State::Turns | State::Senior => {
                    self.turns[lane.class as usize].retain(|turn| *turn != id);
                    self.bind(id, -(items as isize));
                }
            }
            let common = LaneId { source: None, ..id };
            match lane.items {
                Items::One(item) => self.push(lane.class, common, item),
                Items::Many(items) => items.into_iter().for_each(|item| self.push(lane.class, common, item)),
            }
        }
    }

    /// Whose turn it is, of what a source may take (`None`: of all), and its first item. It stays so until something is
    /// [taken](Ready::take) from the lane or it is [set aside](Ready::set_aside).
    pub fn turn(&mut self, source: Option<SourceId>) -> Option<(LaneId, &Item)> {
        let source = source.filter(|_| !self.bound.is_empty());
        let class = self.pick_class(source)?;
        let turns = &mut self.turns[class];
        let id = loop {
            let place = turns.iter().position(|id| id.suits(source))?;
            let id = turns[place];
            let lane = self.lanes.get_mut(&id).expect("a lane with a turn has items");
            if lane.deficit > 0 {
                break id;
            }
            lane.deficit += QUANTUM;
            turns.remove(place);
            turns.push_back(id);
        };
        Some((id, self.lanes[&id].items.first()))
    }

    /// The first item of a lane.
    pub fn first(&self, lane: LaneId) -> Option<&Item> {
        self.lanes.get(&lane).map(|lane| lane.items.first())
    }

    /// Whether a lane was let go from a line and has not gone yet.
    pub fn is_senior(&self, lane: LaneId) -> bool {
        self.lanes.get(&lane).is_some_and(|lane| lane.state == State::Senior)
    }

    /// Takes the first item of the lane whose [`turn`](Ready::turn) it is, and whatever follows it for as long as `more`
    /// takes it (it is shown the items picked so far): recipients of one message ride in one transaction.
    pub fn take(&mut self, id: LaneId, mut more: impl FnMut(&[Item], &Item) -> bool) -> Vec<Item> {
        let mut picked = Vec::new();
        let Some(lane) = self.lanes.get_mut(&id) else { return picked };
        let class = lane.class as usize;
        let emptied = loop {
            if !picked.is_empty() && !more(&picked, lane.items.first()) {
                break false;
            }
            match lane.items.pop() {
                Popped::One(item) => picked.push(item),
                Popped::Last(item) => {
                    picked.push(item);
                    break true;
                }
            }
        };
        let cost: usize = picked.iter().map(|item| item.recipients.len()).sum();
        lane.deficit -= cost as i32;
        lane.state = State::Turns;
        self.items -= picked.len();
        self.bind(id, -(picked.len() as isize));
        self.credit[class] -= cost as i64;
        if emptied {
            self.lanes.remove(&id);
            // It is the first, or nearly so: the turn is its.
            let turns = &mut self.turns[class];
            if let Some(place) = turns.iter().position(|turn| *turn == id) {
                turns.remove(place);
            }
        }
        picked
    }

    /// The lane whose turn it is may not go: it stands in line at a bucket, or waits for a time. Returns its class.
    pub fn set_aside(&mut self, id: LaneId, line: Option<BucketId>) -> Option<Class> {
        let lane = self.lanes.get_mut(&id)?;
        let (class, items) = (lane.class, lane.items.len());
        if matches!(std::mem::replace(&mut lane.state, State::Aside(line)), State::Turns | State::Senior) {
            self.aside += items;
            self.bind(id, -(items as isize));
            let turns = &mut self.turns[class as usize];
            if let Some(place) = turns.iter().position(|turn| *turn == id) {
                turns.remove(place);
            }
        }
        Some(class)
    }

    /// Whether a lane is set aside, for whatever reason.
    pub fn is_held(&self, id: LaneId) -> bool {
        self.lanes.get(&id).is_some_and(|lane| matches!(lane.state, State::Aside(_)))
    }

    /// Takes the first item out of a lane that is set aside, if `gone` says that nobody needs it any more.
    pub fn purge(&mut self, id: LaneId, gone: impl FnOnce(&Item) -> bool) -> Option<Item> {
        let lane = self.lanes.get_mut(&id)?;
        if !matches!(lane.state, State::Aside(_)) || !gone(lane.items.first()) {
            return None;
        }
        (self.items, self.aside) = (self.items - 1, self.aside - 1);
        Some(match lane.items.pop() {
            Popped::One(item) => item,
            Popped::Last(item) => {
                self.lanes.remove(&id);
                item
            }
        })
    }

    /// Whether a lane stands in line there (or, with `None`, waits for a time).
    pub fn is_aside(&self, id: LaneId, line: Option<BucketId>) -> bool {
        self.lanes.get(&id).is_some_and(|lane| lane.state == State::Aside(line))
    }

    /// A lane that was set aside has turns again; if it stood in line, the next, for what it waited for is there.
    pub fn restore(&mut self, id: LaneId) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        let State::Aside(line) = lane.state else { return };
        let items = lane.items.len();
        self.aside -= items;
        let turns = &mut self.turns[lane.class as usize];
        if line.is_some() {
            lane.state = State::Senior;
            lane.deficit = lane.deficit.max(1);
            turns.push_front(id);
        } else {
            lane.state = State::Turns;
            turns.push_back(id);
        }
        self.bind(id, items as isize);
    }

    /// Every lane has turns again: what held them may not hold any more.
    pub fn restore_all(&mut self) {
        if self.aside == 0 {
            return;
        }
        let aside = self.lanes.iter().filter(|(_, lane)| matches!(lane.state, State::Aside(_)));
        let mut ids: Vec<LaneId> = aside.map(|(id, _)| *id).collect();
        // In an order of their own, not of the table.
        ids.sort_unstable();
        for id in ids {
            if let Some(lane) = self.lanes.get_mut(&id) {
                lane.state = State::Turns;
                let items = lane.items.len();
                self.turns[lane.class as usize].push_back(id);
                self.bind(id, items as isize);
            }
        }
        self.aside = 0;
    }

    /// Takes everything out: classes by rank, lanes in order of their turns, those set aside last.
    pub fn drain(&mut self) -> Vec<Item> {
        self.restore_all();
        let Ready { turns, mut lanes, items, .. } = std::mem::take(self);
        let mut drained = Vec::with_capacity(items);
        for id in turns.into_iter().flatten() {
            match lanes.remove(&id).map(|lane| lane.items) {
                Some(Items::One(item)) => drained.push(item),
                Some(Items::Many(items)) => drained.extend(items),
                None => {}
            }
        }
        drained
    }

    /// The first class with mail and credit; when none has credit left, all get theirs anew.
    fn pick_class(&mut self, source: Option<SourceId>) -> Option<usize> {
        if source.map_or(self.available(), |source| self.available_to(source)) == 0 {
            return None;
        }
        loop {
            let with_mail = (0..3).filter(|c| self.turns[*c].iter().any(|id| id.suits(source)));
            if let Some(class) = with_mail.into_iter().find(|c| self.credit[*c] > 0) {
                return Some(class);
            }
            for (credit, weight) in self.credit.iter_mut().zip(WEIGHTS) {
                *credit = (*credit + weight).min(weight);
            }
        }
    }
}
