//! Who goes next at one site: classes by weight, streams inside a class by deficit round robin.
//!
//! Deficit round robin (Shreedhar and Varghese, 1995) in recipients: each stream in turn may send [`QUANTUM`] of them, and
//! what it leaves over it keeps while it has more to send. A stream with one message waits for at most one quantum of
//! each other stream, however long their queues are. Picking costs O(1).

use std::collections::{HashMap, VecDeque};

use super::scheduler::{Item, StreamId};
use crate::mail::Class;

/// Recipients a stream may send in its turn.
const QUANTUM: i64 = 16;

/// Recipients each class may send before the others have had theirs, in the order of [`Class::ALL`]. While all three have
/// mail, transactional gets 16 of 22 and starts at once after a refill.
const WEIGHTS: [i64; 3] = [16, 4, 2];

/// The items of one site that could go now.
#[derive(Debug, Default)]
pub struct Ready {
    classes: [ClassQueue; 3],
    credit: [i64; 3],
    items: usize,
}

#[derive(Debug, Default)]
struct ClassQueue {
    /// Streams with items, in order of their turns.
    turns: VecDeque<StreamId>,
    streams: HashMap<StreamId, StreamQueue>,
}

#[derive(Debug, Default)]
struct StreamQueue {
    deficit: i64,
    items: VecDeque<Item>,
}

impl Ready {
    /// Items waiting here.
    pub fn len(&self) -> usize {
        self.items
    }

    /// Nothing waits here.
    pub fn is_empty(&self) -> bool {
        self.items == 0
    }

    /// Puts an item behind the others of its stream.
    pub fn push(&mut self, class: Class, stream: StreamId, item: Item) {
        self.items += 1;
        self.classes[class as usize].push(stream).items.push_back(item);
    }

    /// Puts an item back in front of its stream: its turn was spoilt by a connection, not by itself.
    pub fn push_front(&mut self, class: Class, stream: StreamId, item: Item) {
        self.items += 1;
        self.classes[class as usize].push(stream).items.push_front(item);
    }

    /// The next item, and whatever follows it in its stream for as long as `more` takes it (it is shown the items picked
    /// so far): recipients of one message ride in one transaction.
    pub fn pop(&mut self, mut more: impl FnMut(&[Item], &Item) -> bool) -> Vec<Item> {
        let Some(class) = self.pick_class() else { return Vec::new() };
        let picked = self.classes[class].pop(&mut more);
        self.items -= picked.len();
        self.credit[class] -= cost(&picked);
        picked
    }

    /// Takes everything out: classes by rank, streams in order of their turns.
    pub fn drain(&mut self) -> Vec<Item> {
        let mut items = Vec::with_capacity(self.items);
        for mut class in std::mem::take(self).classes {
            let queues = class.turns.iter().filter_map(|stream| class.streams.remove(stream));
            items.extend(queues.flat_map(|queue| queue.items));
        }
        items
    }

    /// The first class with mail and credit; when none has credit left, all get theirs anew.
    fn pick_class(&mut self) -> Option<usize> {
        if self.items == 0 {
            return None;
        }
        loop {
            let with_mail = (0..3).filter(|c| !self.classes[*c].turns.is_empty());
            if let Some(class) = with_mail.into_iter().find(|c| self.credit[*c] > 0) {
                return Some(class);
            }
            for (credit, weight) in self.credit.iter_mut().zip(WEIGHTS) {
                *credit = (*credit + weight).min(weight);
            }
        }
    }
}

fn cost(items: &[Item]) -> i64 {
    items.iter().map(|item| item.recipients.len() as i64).sum()
}

impl ClassQueue {
    fn push(&mut self, stream: StreamId) -> &mut StreamQueue {
        let turns = &mut self.turns;
        self.streams.entry(stream).or_insert_with(|| {
            turns.push_back(stream);
            StreamQueue { deficit: QUANTUM, items: VecDeque::new() }
        })
    }

    fn pop(&mut self, more: &mut impl FnMut(&[Item], &Item) -> bool) -> Vec<Item> {
        let mut picked = Vec::new();
        while let Some(stream) = self.turns.front().copied() {
            let queue = self.streams.get_mut(&stream).expect("a stream with a turn has a queue");
            if queue.deficit <= 0 {
                queue.deficit += QUANTUM;
                self.turns.rotate_left(1);
                continue;
            }
            while let Some(item) = queue.items.front() {
                if !picked.is_empty() && !more(&picked, item) {
                    break;
                }
                picked.extend(queue.items.pop_front());
            }
            queue.deficit -= cost(&picked);
            if queue.items.is_empty() {
                self.streams.remove(&stream);
                self.turns.pop_front();
            }
            break;
        }
        picked
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::mail::MessageId;
    use crate::queue::scheduler::Recipients;

    fn item(id: u64) -> Item {
        Item { message: MessageId(id), host: 0, attempts: 0, spoilt: 0, late: false, recipients: Recipients::One(0) }
    }

    fn next(ready: &mut Ready) -> Option<u64> {
        ready.pop(|_, _| false).first().map(|item| item.message.0)
    }

    #[test]
    fn a_small_stream_does_not_wait_for_a_large_one() {
        let mut ready = Ready::default();
        (0..100_000).for_each(|n| ready.push(Class::Bulk, 1, item(n)));
        ready.push(Class::Bulk, 2, item(1_000_000));
        let waited = (0..).find(|_| next(&mut ready) == Some(1_000_000)).expect("it comes");
        assert!(waited <= QUANTUM as usize, "waited {waited}");
    }

    #[test]
    fn transactional_mail_has_its_share_and_bulk_is_not_starved() {
        let mut ready = Ready::default();
        for n in 0..2_200 {
            ready.push(Class::Transactional, 1, item(n));
            ready.push(Class::Bulk, 2, item(10_000 + n));
            ready.push(Class::System, 3, item(20_000 + n));
        }
        let mut counts = [0; 3];
        for _ in 0..2_200 {
            counts[next(&mut ready).expect("there") as usize / 10_000] += 1;
        }
        assert_eq!(counts, [1600, 400, 200]);
    }

    #[test]
    fn a_transactional_message_goes_within_one_round() {
        let mut ready = Ready::default();
        (0..1000).for_each(|n| ready.push(Class::Bulk, 1, item(n)));
        assert!((0..500).all(|_| next(&mut ready).is_some()));
        ready.push(Class::Transactional, 2, item(7_777));
        let waited = (0..).find(|_| next(&mut ready) == Some(7_777)).expect("it comes");
        assert!(waited <= 4, "waited {waited}");
    }

    #[test]
    fn recipients_of_one_message_leave_together() {
        let mut ready = Ready::default();
        for n in [1, 1, 1, 2] {
            ready.push(Class::Bulk, 1, item(n));
        }
        let together = |picked: &[Item], next: &Item| picked.len() < 2 && picked[0].message == next.message;
        let sizes: Vec<usize> = std::iter::from_fn(|| Some(ready.pop(together).len()).filter(|n| *n > 0)).collect();
        assert_eq!(sizes, [2, 1, 1]);
        assert!(ready.is_empty());
    }

    #[test]
    fn draining_hands_over_everything() {
        let mut ready = Ready::default();
        (0..10).for_each(|n| ready.push(Class::Bulk, n as u32 % 3, item(n)));
        assert_eq!(ready.drain().len(), 10);
        assert!(ready.is_empty() && next(&mut ready).is_none());
    }
}
