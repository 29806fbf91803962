//! The timer wheel: every sleeper of the queue, at one place, without polling.
//!
//! A hierarchical wheel (Varghese and Lauck, 1987): six levels of 64 slots, the lowest one millisecond wide, so that it
//! spans about two years. Insert and cancel cost O(1); a sleeper moves down at most five times before it fires. Entries
//! live in one slab and are chained by index, so a sleeper costs its value and 16 octets.

const LEVELS: usize = 6;
const SLOTS: usize = 64;
const NIL: u32 = u32::MAX;
/// In place of the one before: none is, and the slot is the rest of the number.
const FIRST: u32 = 1 << 31;

/// Names a sleeper, for [`Wheel::cancel`]. Valid until it fires or is cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimerKey(u32);

#[derive(Debug)]
struct Entry<T> {
    deadline: u64,
    /// The entry before it in its slot, or [`FIRST`] and that slot; meaningless when free.
    previous: u32,
    next: u32,
    value: Option<T>,
}

/// Sleepers ordered by deadline, in milliseconds on a clock that starts at 0 and never steps back.
#[derive(Debug)]
pub struct Wheel<T> {
    now: u64,
    /// First entry of each slot, level by level.
    heads: [u32; LEVELS * SLOTS],
    /// Which slots of a level are not empty.
    occupied: [u64; LEVELS],
    entries: Vec<Entry<T>>,
    free: u32,
    len: usize,
}

impl<T> Default for Wheel<T> {
    fn default() -> Wheel<T> {
        Wheel { now: 0, heads: [NIL; LEVELS * SLOTS], occupied: [0; LEVELS], entries: Vec::new(), free: NIL, len: 0 }
    }
}

impl<T> Wheel<T> {
    /// Adds a sleeper. A deadline that has passed fires at the next [`advance`](Wheel::advance).
    pub fn insert(&mut self, deadline: u64, value: T) -> TimerKey {
        let index = self.allocate(deadline, value);
        self.chain(index);
        self.len += 1;
        TimerKey(index)
    }

    /// Makes room for so many more.
    pub fn reserve(&mut self, more: usize) {
        self.entries.reserve_exact(more);
    }

    /// How many sleep.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Takes a sleeper out before it fires.
    pub fn cancel(&mut self, key: TimerKey) -> Option<T> {
        self.entries.get(key.0 as usize)?.value.as_ref()?;
        self.unchain(key.0);
        self.release(key.0)
    }

    /// Moves the clock to `now` and hands over the value of everybody whose deadline has come, in order of deadline to
    /// the millisecond; stops after `limit`, then the rest fires at the next call.
    pub fn advance(&mut self, now: u64, limit: usize, mut fire: impl FnMut(T)) {
        let mut fired = 0;
        while let Some((level, slot, start)) = self.earliest() {
            if start > now || fired >= limit {
                break;
            }
            self.now = self.now.max(start);
            fired += self.open(level, slot, limit - fired, &mut fire);
        }
        if fired < limit {
            self.now = self.now.max(now);
        }
    }

    /// When [`advance`](Wheel::advance) must be called next: never later than the earliest deadline, and early only by
    /// the width of the slot in which it sleeps. `None` when nobody sleeps.
    pub fn next_wake(&self) -> Option<u64> {
        self.earliest().map(|(_, _, start)| start)
    }

    /// Takes out every sleeper that `select` picks. Walks them all.
    pub fn extract(&mut self, select: impl FnMut(&T) -> bool) -> Vec<T> {
        self.extract_in(0, usize::MAX, select).0
    }

    /// The same for those in places `from..to`, and whether there are places behind. Each sleeper keeps its place.
    pub fn extract_in(&mut self, from: usize, to: usize, mut select: impl FnMut(&T) -> bool) -> (Vec<T>, bool) {
        let mut taken = Vec::new();
        for index in from..to.min(self.entries.len()) {
            if self.entries[index].value.as_ref().is_some_and(&mut select) {
                self.unchain(index as u32);
                taken.extend(self.release(index as u32));
            }
        }
        (taken, to < self.entries.len())
    }

    /// The first occupied slot: level, slot, and the time at which it starts (not before `now`).
    fn earliest(&self) -> Option<(usize, usize, u64)> {
        (0..LEVELS)
            .filter(|level| self.occupied[*level] != 0)
            .map(|level| {
                let shift = 6 * level;
                let position = (self.now >> shift) as usize % SLOTS;
                let ahead = self.occupied[level].rotate_right(position as u32).trailing_zeros() as usize;
                let slot = (position + ahead) % SLOTS;
                let start = ((self.now >> shift) + ahead as u64) << shift;
                (level, slot, start.max(self.now))
            })
            // At equal times the higher level first, so that its entries come down before the lower slot fires.
            .min_by_key(|(level, _, start)| (*start, LEVELS - level))
    }

    /// Empties a slot: fires what is due, chains the others further down. Returns how many fired.
    fn open(&mut self, level: usize, slot: usize, limit: usize, fire: &mut impl FnMut(T)) -> usize {
        let mut fired = 0;
        let chain = level * SLOTS + slot;
        while self.heads[chain] != NIL && fired < limit {
            let index = self.heads[chain];
            self.unchain(index);
            if self.entries[index as usize].deadline <= self.now {
                if let Some(value) = self.release(index) {
                    fire(value);
                }
                fired += 1;
            } else {
                self.chain(index);
            }
        }
        fired
    }

    fn chain(&mut self, index: u32) {
        let deadline = self.entries[index as usize].deadline.max(self.now);
        let level = level_of(self.now, deadline);
        // Beyond the span the entry sleeps in the last slot before the present one and is looked at again then.
        let span = 1u64 << (6 * LEVELS);
        let reach = deadline.min(self.now + span - (1 << (6 * (LEVELS - 1))));
        let slot = (reach >> (6 * level)) as usize % SLOTS;
        let chain = level * SLOTS + slot;
        let head = self.heads[chain];
        let entry = &mut self.entries[index as usize];
        entry.previous = FIRST | chain as u32;
        entry.next = head;
        if head != NIL {
            self.entries[head as usize].previous = index;
        }
        self.heads[chain] = index;
        self.occupied[level] |= 1 << slot;
    }

    fn unchain(&mut self, index: u32) {
        let entry = &self.entries[index as usize];
        let (previous, next) = (entry.previous, entry.next);
        if next != NIL {
            self.entries[next as usize].previous = previous;
        }
        if previous & FIRST == 0 {
            self.entries[previous as usize].next = next;
        } else {
            let chain = (previous & !FIRST) as usize;
            self.heads[chain] = next;
            if next == NIL {
                self.occupied[chain / SLOTS] &= !(1 << (chain % SLOTS));
            }
        }
    }

    fn allocate(&mut self, deadline: u64, value: T) -> u32 {
        let entry = Entry { deadline, previous: FIRST, next: NIL, value: Some(value) };
        if self.free == NIL {
            self.entries.push(entry);
            return (self.entries.len() - 1) as u32;
        }
        let index = self.free;
        self.free = self.entries[index as usize].next;
        self.entries[index as usize] = entry;
        index
    }

    fn release(&mut self, index: u32) -> Option<T> {
        let entry = &mut self.entries[index as usize];
        entry.next = self.free;
        self.free = index;
        self.len -= 1;
        entry.value.take()
    }
}

/// The level whose slots tell `now` and `deadline` apart.
fn level_of(now: u64, deadline: u64) -> usize {
    let different = (now ^ deadline) | (SLOTS as u64 - 1);
    let level = (63 - different.leading_zeros() as usize) / 6;
    level.min(LEVELS - 1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::queue::scheduler::Item;

    #[test]
    fn a_sleeper_is_small() {
        // The figures in docs/performance.md rest on this.
        assert_eq!(size_of::<Entry<Item>>(), 48);
    }

    fn fired(wheel: &mut Wheel<u64>, now: u64) -> Vec<u64> {
        let mut out = Vec::new();
        wheel.advance(now, usize::MAX, |v| out.push(v));
        out
    }

    #[test]
    fn fires_on_the_millisecond_and_not_before() {
        let mut wheel = Wheel::default();
        for deadline in [0, 1, 63, 64, 65, 4095, 4096, 4097, 262_144, 14_400_000, 345_600_000, 1 << 40] {
            wheel.insert(deadline, deadline);
        }
        for deadline in [0, 1, 63, 64, 65, 4095, 4096, 4097, 262_144, 14_400_000, 345_600_000, 1 << 40] {
            if deadline > 0 {
                assert!(fired(&mut wheel, deadline - 1).is_empty(), "before {deadline}");
            }
            assert_eq!(fired(&mut wheel, deadline), [deadline]);
        }
        assert_eq!(wheel.len, 0);
        assert_eq!(wheel.next_wake(), None);
    }

    #[test]
    fn a_cancelled_sleeper_never_fires() {
        let mut wheel = Wheel::default();
        let keys: Vec<_> = (0..100u64).map(|n| wheel.insert(n * 37, n)).collect();
        for key in keys.iter().skip(1).step_by(2) {
            assert!(wheel.cancel(*key).is_some());
            assert_eq!(wheel.cancel(*key), None);
        }
        assert_eq!(fired(&mut wheel, 10_000), (0..100).step_by(2).collect::<Vec<_>>());
    }

    #[test]
    fn sleepers_are_taken_out_in_slices() {
        let mut wheel = Wheel::default();
        for n in 0..100u64 {
            wheel.insert(n * 37, n);
        }
        let (mut taken, mut from, mut more) = (Vec::new(), 0, true);
        while more {
            let found;
            (found, more) = wheel.extract_in(from, from + 30, |n| n % 3 == 0);
            taken.extend(found);
            from += 30;
        }
        assert_eq!((taken.len(), from), (34, 120));
        assert!(fired(&mut wheel, 10_000).iter().all(|n| n % 3 != 0));
    }

    #[test]
    fn a_limit_leaves_the_rest_for_later() {
        let mut wheel = Wheel::default();
        for n in 0..10u64 {
            wheel.insert(5, n);
        }
        let mut seen = 0;
        wheel.advance(100, 4, |_| seen += 1);
        assert_eq!((seen, wheel.len), (4, 6));
        assert_eq!(fired(&mut wheel, 100).len(), 6);
    }

    proptest! {
        /// Against a sorted map: same sleepers fire at the same steps, `next_wake` is never late.
        #[test]
        fn behaves_like_a_sorted_map(steps in proptest::collection::vec((0u64..3, 0u64..2_000_000, 1u64..300_000), 1..120)) {
            let mut wheel = Wheel::default();
            let mut model: BTreeMap<(u64, u64), TimerKey> = BTreeMap::new();
            let (mut now, mut serial) = (0u64, 0u64);
            for (deed, delay, step) in steps {
                match deed {
                    0 | 1 => {
                        let deadline = now + delay;
                        let key = wheel.insert(deadline, serial);
                        model.insert((deadline, serial), key);
                        serial += 1;
                    }
                    _ => if let Some((entry, key)) = model.iter().nth(delay as usize % model.len().max(1)).map(|(e, k)| (*e, *k)) {
                        model.remove(&entry);
                        prop_assert_eq!(wheel.cancel(key), Some(entry.1));
                    }
                }
                if let Some((earliest, _)) = model.keys().next() {
                    prop_assert!(wheel.next_wake().is_some_and(|wake| wake <= (*earliest).max(now)));
                }
                now += step;
                let mut due: Vec<u64> = Vec::new();
                while let Some((entry, _)) = model.first_key_value().filter(|((d, _), _)| *d <= now).map(|(e, k)| (*e, *k)) {
                    model.remove(&entry);
                    due.push(entry.1);
                }
                let mut got = fired(&mut wheel, now);
                got.sort_unstable();
                due.sort_unstable();
                prop_assert_eq!(got, due);
                prop_assert_eq!(wheel.len, model.len());
            }
        }
    }
}
