//! The items of one lane.

use std::collections::VecDeque;

use super::Item;

/// Most lanes have one item, and there may be a million of them.
#[derive(Debug)]
pub(super) enum Items {
    One(Item),
    Many(VecDeque<Item>),
}

pub(super) enum Popped {
    One(Item),
    /// And no more are left.
    Last(Item),
}

impl Items {
    pub(super) fn first(&self) -> &Item {
        match self {
            Items::One(item) => item,
            Items::Many(items) => items.front().expect("a lane has items"),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Items::One(_) => 1,
            Items::Many(items) => items.len(),
        }
    }

    pub(super) fn put(&mut self, item: Item, front: bool) {
        if let Items::One(_) = self {
            let Items::One(only) = std::mem::replace(self, Items::Many(VecDeque::with_capacity(4))) else { return };
            self.put(only, false);
        }
        if let Items::Many(items) = self {
            if front { items.push_front(item) } else { items.push_back(item) }
        }
    }

    pub(super) fn pop(&mut self) -> Popped {
        match self {
            Items::One(item) => Popped::Last(item.clone()),
            Items::Many(items) => {
                let first = items.pop_front().expect("a lane has items");
                if items.is_empty() { Popped::Last(first) } else { Popped::One(first) }
            }
        }
    }
}
