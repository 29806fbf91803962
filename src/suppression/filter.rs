//! What may be on the list, in memory: a Bloom filter in blocks of a cache line, so that a look-up costs one miss.

use std::sync::atomic::{AtomicU64, Ordering};

/// Words of a block: 64 octets.
const BLOCK: usize = 8;
/// With 24 bits a hash and 7 of them set in one block, less than one look-up in a thousand for what is not there goes on to the disk. An
/// address asks each of some filters for two names and more: with half the bits one in ten did, which the p99 of misses showed.
const HASHES_PER_BLOCK: usize = 21;

/// Says "no", or "perhaps". A hash is the first 64 bits of a SHA-256, so its own bits serve.
#[derive(Debug)]
pub(super) struct Filter {
    words: Vec<AtomicU64>,
}

impl Filter {
    /// For so many hashes.
    pub(super) fn new(hashes: usize) -> Filter {
        let words = hashes.div_ceil(HASHES_PER_BLOCK).max(1) * BLOCK;
        Filter { words: (0..words).map(|_| AtomicU64::new(0)).collect() }
    }

    /// How many it is made for.
    pub(super) fn room(&self) -> usize {
        self.words.len() / BLOCK * HASHES_PER_BLOCK
    }

    /// Whoever asks after this has returned is told "perhaps".
    pub(super) fn insert(&self, hash: u64) {
        let (block, bits) = self.place(hash);
        bits.for_each(|bit| _ = self.words[block + bit / 64].fetch_or(1 << (bit % 64), Ordering::Relaxed));
    }

    pub(super) fn may_hold(&self, hash: u64) -> bool {
        let (block, mut bits) = self.place(hash);
        bits.all(|bit| self.words[block + bit / 64].load(Ordering::Relaxed) >> (bit % 64) & 1 == 1)
    }

    /// The block's first word, chosen by the upper bits of the hash, and the bits in it, from a product of the hash.
    fn place(&self, hash: u64) -> (usize, impl Iterator<Item = usize> + use<>) {
        let blocks = (self.words.len() / BLOCK) as u128;
        let block = ((u128::from(hash) * blocks) >> 64) as usize;
        // The upper bits are alike within a block: the product brings the lower ones up.
        let mixed = (hash ^ hash >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (block * BLOCK, (0..7).map(move |n| (mixed >> (9 * n + 1)) as usize & 511))
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
        let hashes: Vec<u64> = (0..50_000).map(|_| dice.random()).collect();
        let filter = Filter::new(hashes.len());
        hashes.iter().for_each(|hash| filter.insert(*hash));
        assert!(hashes.iter().all(|hash| filter.may_hold(*hash)));
        let wrong = (0..100_000).filter(|_| filter.may_hold(dice.random())).count();
        assert!(wrong < 150, "{wrong} in 100,000");
        assert!(!Filter::new(0).may_hold(7));
    }
}
