//! The memory of a request's body, message by message.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use crate::submission::web::{Budget, Share};

/// Octets in front of each message: a flag and its length.
const HEADER: usize = 5;

/// A body being read: its memory, and how long its messages are on the wire. A stream gives the memory of each message
/// back when that is stored; to know how much that is, it cannot rely on what it understood of it.
#[derive(Debug)]
pub(super) struct Reading {
    share: Arc<Share>,
    frames: Mutex<Frames>,
}

#[derive(Debug, Default)]
struct Frames {
    /// The header of the next message, as far as it has come.
    header: Vec<u8>,
    /// Octets of the present message still to come.
    missing: usize,
    /// Messages seen whole or in part and not asked for.
    lengths: VecDeque<usize>,
}

impl Reading {
    pub(super) fn new(budget: &Arc<Budget>) -> Reading {
        Reading { share: Arc::new(budget.share()), frames: Mutex::default() }
    }

    /// What the body's memory is taken from.
    pub(super) fn share(&self) -> &Arc<Share> {
        &self.share
    }

    /// Octets of the body, in order.
    pub(super) fn saw(&self, octets: &[u8]) {
        self.frames.lock().expect("no code panics under this lock").saw(octets);
    }

    /// The memory of the next message, which takes at least `weight` octets.
    pub(super) fn split(&self, weight: usize) -> Share {
        let length = self.frames.lock().expect("no code panics under this lock").lengths.pop_front();
        self.share.split(weight.max(length.unwrap_or_default()))
    }
}

impl Frames {
    fn saw(&mut self, mut octets: &[u8]) {
        while !octets.is_empty() {
            if self.missing > 0 {
                let skipped = self.missing.min(octets.len());
                self.missing -= skipped;
                octets = &octets[skipped..];
                continue;
            }
            let (header, rest) = octets.split_at((HEADER - self.header.len()).min(octets.len()));
            self.header.extend_from_slice(header);
            octets = rest;
            if let [_, a, b, c, d] = self.header[..] {
                self.missing = u32::from_be_bytes([a, b, c, d]) as usize;
                self.lengths.push_back(HEADER + self.missing);
                self.header.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart_however_they_are_cut() {
        let mut body = Vec::new();
        for length in [0u32, 3, 300] {
            body.push(0);
            body.extend_from_slice(&length.to_be_bytes());
            body.resize(body.len() + length as usize, b'x');
        }
        for size in [1, 2, 4, 7, 1000] {
            let mut frames = Frames::default();
            body.chunks(size).for_each(|chunk| frames.saw(chunk));
            assert_eq!(frames.lengths, [5, 8, 305]);
        }
    }

    #[test]
    fn all_memory_comes_back() {
        let budget = Budget::new(1000);
        let reading = Reading::new(&budget);
        let body = [0, 0, 0, 0, 20];
        reading.saw(&body);
        reading.saw(&[b'x'; 20]);
        assert!(reading.share().try_take(25));
        // Understood less than was sent, as with fields we do not know.
        let part = reading.split(10);
        assert_eq!((part.held(), reading.share().held(), budget.used()), (25, 0, 25));
        drop(part);
        assert_eq!(budget.used(), 0);
        // And more, as with what was compressed.
        reading.saw(&body);
        reading.saw(&[b'x'; 20]);
        assert!(reading.share().try_take(25));
        let part = reading.split(100);
        assert_eq!(budget.used(), 100);
        drop(part);
        drop(reading);
        assert_eq!(budget.used(), 0);
    }
}
