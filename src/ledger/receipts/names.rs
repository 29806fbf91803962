//! Tables by name of a receipt.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Names are hashes already.
#[derive(Debug, Default)]
pub(super) struct Plain(u64);

impl Hasher for Plain {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, octets: &[u8]) {
        octets.iter().for_each(|octet| self.0 = self.0.rotate_left(8) ^ u64::from(*octet));
    }

    fn write_u128(&mut self, name: u128) {
        self.0 = name as u64;
    }
}

pub(super) type Names<T> = HashMap<u128, T, BuildHasherDefault<Plain>>;
