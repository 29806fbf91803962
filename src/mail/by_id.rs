//! A table of messages by their ids, compact: a million of them may wait.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use hashbrown::HashTable;
use slab::Slab;

use super::MessageId;

/// What stands in such a table.
pub trait HasId {
    /// The message that it is about.
    fn id(&self) -> MessageId;
}

/// One entry for each message.
///
/// The hash table holds places of 4 octets and asks the entries for their ids. A table of a million has just doubled, and
/// its free slots cost as much as the full ones: with ids in it they would be 35 octets a message, so they are 10.
#[derive(Debug)]
pub struct ById<T> {
    places: HashTable<u32>,
    entries: Slab<T>,
}

impl<T> Default for ById<T> {
    fn default() -> ById<T> {
        ById { places: HashTable::new(), entries: Slab::new() }
    }
}

impl<T: HasId> ById<T> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Makes room for so many more, in one piece: tables that grow by and by leave holes in memory where they were.
    pub fn reserve(&mut self, more: usize) {
        let entries = &self.entries;
        self.places.reserve(more, |place| hash(entries[*place as usize].id()));
        self.entries.reserve_exact(more);
    }

    /// The entry of a message.
    pub fn get(&self, id: MessageId) -> Option<&T> {
        let place = self.places.find(hash(id), |place| self.entries[*place as usize].id() == id)?;
        Some(&self.entries[*place as usize])
    }

    /// The entry of a message. Its id must stay what it is.
    pub fn get_mut(&mut self, id: MessageId) -> Option<&mut T> {
        let place = self.places.find(hash(id), |place| self.entries[*place as usize].id() == id)?;
        Some(&mut self.entries[*place as usize])
    }

    /// The entry of a message, made if need be.
    pub fn get_or_insert(&mut self, id: MessageId, make: impl FnOnce() -> T) -> &mut T {
        let entries = &self.entries;
        let found = self.places.find(hash(id), |place| entries[*place as usize].id() == id);
        let place = match found {
            Some(place) => *place,
            None => self.add(make()),
        };
        &mut self.entries[place as usize]
    }

    /// Adds an entry; the one that it takes the place of, if any, is returned.
    pub fn insert(&mut self, entry: T) -> Option<T> {
        match self.get_mut(entry.id()) {
            Some(older) => Some(std::mem::replace(older, entry)),
            None => {
                self.add(entry);
                None
            }
        }
    }

    fn add(&mut self, entry: T) -> u32 {
        let hashed = hash(entry.id());
        let place = self.entries.insert(entry) as u32;
        let entries = &self.entries;
        self.places.insert_unique(hashed, place, |place| hash(entries[*place as usize].id()));
        place
    }

    /// Takes an entry out.
    pub fn remove(&mut self, id: MessageId) -> Option<T> {
        let entries = &self.entries;
        let found = self.places.find_entry(hash(id), |place| entries[*place as usize].id() == id);
        let (place, _) = found.ok()?.remove();
        Some(self.entries.remove(place as usize))
    }

    /// Removes all that `keep` does not want.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        let entries = &mut self.entries;
        self.places.retain(|place| {
            let kept = keep(&entries[*place as usize]);
            if !kept {
                entries.remove(*place as usize);
            }
            kept
        });
        self.places.shrink_to_fit(|place| hash(entries[*place as usize].id()));
    }

    /// The entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().map(|(_, entry)| entry)
    }

    /// The entries in places `from..to`, and whether there may be some behind. Each keeps its place.
    pub fn slice(&self, from: usize, to: usize) -> (impl Iterator<Item = &T>, bool) {
        ((from..to).filter_map(|place| self.entries.get(place)), to < self.entries.capacity())
    }
}

/// What an entry takes in the slab, which keeps a number in its place when it is free.
#[cfg(test)]
pub(crate) const fn size_in_slab<T>() -> usize {
    #[expect(dead_code, reason = "as slab's own, which is private")]
    enum Slot<T> {
        Vacant(usize),
        Occupied(T),
    }
    size_of::<Slot<T>>()
}

/// A map by message id, where entries do not know theirs.
pub type IdMap<T> = HashMap<MessageId, T, BuildHasherDefault<IdHasher>>;
/// A set of message ids.
pub type IdSet = HashSet<MessageId, BuildHasherDefault<IdHasher>>;
/// A map by whatever is made of numbers that we gave out ourselves.
pub type OwnMap<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;

/// Hashes message ids and other numbers of our own, and nothing else.
#[derive(Debug, Clone, Copy, Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, octets: &[u8]) {
        octets.iter().for_each(|octet| self.write_u64(u64::from(*octet)));
    }

    fn write_u32(&mut self, id: u32) {
        self.write_u64(u64::from(id));
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = hash(MessageId(self.0 ^ id));
    }

    /// Which variant it is: whether there is a number.
    fn write_isize(&mut self, variant: isize) {
        self.0 = self.0.rotate_left(5) ^ variant as u64;
    }
}

/// Ids are our own, so nobody chooses them to collide. They differ in few bits, which the product spreads over all.
fn hash(id: MessageId) -> u64 {
    let product = u128::from(id.0) * 0x9e37_79b9_7f4a_7c15;
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    impl HasId for (MessageId, u32) {
        fn id(&self) -> MessageId {
            self.0
        }
    }

    #[test]
    fn does_what_a_map_does() {
        let mut rng = SmallRng::seed_from_u64(1);
        let (mut table, mut model) = (ById::default(), HashMap::new());
        table.reserve(10);
        for n in 0..20_000 {
            // As ids are: milliseconds above, a few in each.
            let id =
                MessageId(rng.random_range(1_700_000_000_000..1_700_000_000_300u64) << 22 | rng.random_range(0..4));
            match rng.random_range(0..5) {
                0 => assert_eq!(table.insert((id, n)), model.insert(id, n).map(|old| (id, old))),
                1 => assert_eq!(*table.get_or_insert(id, || (id, n)), (id, *model.entry(id).or_insert(n))),
                2 => assert_eq!(table.get_mut(id).map(|entry| &mut entry.1), model.get_mut(&id)),
                _ => assert_eq!(table.remove(id), model.remove(&id).map(|old| (id, old))),
            }
            assert_eq!(table.get(id).map(|entry| entry.1), model.get(&id).copied());
            assert_eq!((table.len(), table.is_empty()), (model.len(), model.is_empty()));
        }
        table.retain(|entry| entry.1 % 2 == 0);
        model.retain(|_, n| *n % 2 == 0);
        assert_eq!(table.iter().copied().collect::<HashMap<_, _>>(), model);
        assert!(model.keys().all(|id| table.get(*id).is_some()) && !model.is_empty());
    }

    #[test]
    fn ids_spread() {
        let ids = (0..1u64 << 16).map(|n| MessageId(((1_700_000_000_000 + n / 8) << 22) | (n % 8)));
        let mut low = vec![0u8; 1 << 16];
        let mut high = [0u32; 128];
        for id in ids {
            low[hash(id) as usize % (1 << 16)] += 1;
            high[(hash(id) >> 57) as usize] += 1;
        }
        // As many as balls thrown at random would leave empty are a third.
        assert!(low.iter().filter(|n| **n == 0).count() < 26_000 && low.iter().all(|n| *n < 16));
        assert!(high.iter().all(|n| (256..1024).contains(n)), "{high:?}");
    }
}
