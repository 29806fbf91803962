//! Which names a run may hold, in memory: a Bloom filter in blocks of a cache line, so that a look-up costs one miss.

/// Words of a block: 64 octets.
const BLOCK: usize = 8;
/// With 16 bits a name and 7 of them set in one block, two look-ups in a thousand for a name that is not there go on to the disk.
const NAMES_PER_BLOCK: usize = 32;

/// Says "no", or "perhaps". Two octets a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filter {
    words: Vec<u64>,
}

impl Filter {
    /// For so many names.
    pub(super) fn new(names: usize) -> Filter {
        Filter { words: vec![0; names.div_ceil(NAMES_PER_BLOCK).max(1) * BLOCK] }
    }

    /// Whole blocks only; anything else is a filter that says "perhaps" to all.
    pub(super) fn from_words(words: Vec<u64>) -> Filter {
        if words.is_empty() || !words.len().is_multiple_of(BLOCK) {
            return Filter { words: vec![u64::MAX; BLOCK] };
        }
        Filter { words }
    }

    pub(super) fn words(&self) -> &[u64] {
        &self.words
    }

    pub(super) fn insert(&mut self, name: u128) {
        let (block, bits) = self.place(name);
        bits.for_each(|bit| self.words[block + bit / 64] |= 1 << (bit % 64));
    }

    pub(super) fn may_hold(&self, name: u128) -> bool {
        let (block, mut bits) = self.place(name);
        bits.all(|bit| self.words[block + bit / 64] >> (bit % 64) & 1 == 1)
    }

    /// The block's first word and the bits in it. A name is a hash, so its own bits serve: the lower half chooses the
    /// block, the upper the bits.
    fn place(&self, name: u128) -> (usize, impl Iterator<Item = usize> + use<>) {
        let blocks = (self.words.len() / BLOCK) as u128;
        let block = ((u128::from(name as u64) * blocks) >> 64) as usize;
        let upper = (name >> 64) as u64;
        (block * BLOCK, (0..7).map(move |n| (upper >> (9 * n)) as usize & 511))
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    #[test]
    fn no_is_sure_and_perhaps_is_rare() {
        let mut dice = SmallRng::seed_from_u64(1);
        let names: Vec<u128> = (0..50_000).map(|_| dice.random()).collect();
        let mut filter = Filter::new(names.len());
        names.iter().for_each(|name| filter.insert(*name));
        assert!(names.iter().all(|name| filter.may_hold(*name)));
        let wrong = (0..50_000).filter(|_| filter.may_hold(dice.random())).count();
        assert!(wrong < 250, "{wrong} in 50,000");
        assert_eq!(Filter::from_words(filter.words().to_vec()), filter);
        assert!(Filter::from_words(vec![0; 3]).may_hold(7));
    }
}
