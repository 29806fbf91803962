//! Where what stands in the ledger's table.
//!
//! | key | value |
//! |---|---|
//! | 1, half of the subject's name, the scope's hash | an entry by itself, or that there is none |
//! | 2, run, block | entries of a run |
//! | 3, run | what is said of it: it counts |
//! | 4, until, the entry's key | nothing: the entry ends then |
//! | 5 | the last epoch that was begun |
//! | 6, a number | event lines that may not have been told yet |

use super::codec::{Name, name_of};
use crate::clock::Timestamp;

pub(super) const SINGLE: u8 = 1;
pub(super) const BLOCK: u8 = 2;
pub(super) const RUN: u8 = 3;
pub(super) const END: u8 = 4;
pub(super) const EPOCH: u8 = 5;
pub(super) const TELLING: u8 = 6;

/// Octets of a name that stand in a key.
const NAME_LEN: usize = 16;
/// Octets of the key of an entry by itself.
pub(super) const SINGLE_LEN: usize = 1 + NAME_LEN + 8;

/// What the keys of a subject begin with.
pub(super) fn subject(name: &Name) -> Vec<u8> {
    let mut key = Vec::with_capacity(SINGLE_LEN);
    key.push(SINGLE);
    key.extend_from_slice(&name[..NAME_LEN]);
    key
}

/// `scope` as it is written in a context.
pub(super) fn single(name: &Name, scope: &[u8]) -> Vec<u8> {
    let mut key = subject(name);
    // SHA-256 here too: nobody is to find a name for a list that meets somebody else's.
    key.extend_from_slice(&name_of(scope)[..8]);
    key
}

/// The hash of the subject, from the key of an entry by itself.
pub(super) fn hash_in(key: &[u8]) -> Option<u64> {
    let (_, name) = key.split_first().filter(|_| key.len() == SINGLE_LEN)?;
    name.first_chunk().map(|hash| u64::from_be_bytes(*hash))
}

pub(super) fn block(run: u32, block: u32) -> Vec<u8> {
    [&[BLOCK][..], &run.to_be_bytes(), &block.to_be_bytes()].concat()
}

/// What the keys of a run's blocks begin with.
pub(super) fn blocks(run: u32) -> Vec<u8> {
    [&[BLOCK][..], &run.to_be_bytes()].concat()
}

/// Run and number, from the key of a block.
pub(super) fn block_in(key: &[u8]) -> Option<(u32, u32)> {
    let [BLOCK, a, b, c, d, e, f, g, h] = *key else { return None };
    Some((u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])))
}

pub(super) fn run(run: u32) -> Vec<u8> {
    [&[RUN][..], &run.to_be_bytes()].concat()
}

/// The run, from its key.
pub(super) fn run_in(key: &[u8]) -> Option<u32> {
    let [RUN, a, b, c, d] = *key else { return None };
    Some(u32::from_be_bytes([a, b, c, d]))
}

pub(super) fn end(until: Timestamp, single: &[u8]) -> Vec<u8> {
    [&[END][..], &until.0.to_be_bytes(), single].concat()
}

/// When, and the entry's key, from the key of an end.
pub(super) fn end_in(key: &[u8]) -> Option<(Timestamp, &[u8])> {
    let (until, single) = key.split_first()?.1.split_first_chunk()?;
    Some((Timestamp(u64::from_be_bytes(*until)), single))
}

pub(super) fn telling(number: u64) -> Vec<u8> {
    [&[TELLING][..], &number.to_be_bytes()].concat()
}

/// The number, from the key of lines.
pub(super) fn telling_in(key: &[u8]) -> Option<u64> {
    key.split_first()?.1.try_into().ok().map(u64::from_be_bytes)
}
