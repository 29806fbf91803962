//! A file of the simulated disk: what the system shows, what the disk holds, what stands between.

use std::collections::BTreeSet;

use rand::RngExt;
use rand::rngs::SmallRng;

const PAGE: usize = 4096;

#[derive(Default, Clone)]
pub(super) struct Inode {
    pub shown: Vec<u8>,
    pub durable: Vec<u8>,
    pub unsynced: Vec<Unsynced>,
    pub allocated: u64,
    /// Its name was taken away.
    pub removed: bool,
    /// Pages of which the file system knows, durably, that they were written. All others read as zeros.
    written: BTreeSet<usize>,
}

#[derive(Clone)]
pub(super) enum Unsynced {
    Length(usize),
    Write(usize, Vec<u8>),
}

fn put(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    if bytes.len() < offset + data.len() {
        bytes.resize(offset + data.len(), 0);
    }
    bytes[offset..offset + data.len()].copy_from_slice(data);
}

/// A write in pieces, none of which crosses from one page into another.
fn pages(mut offset: usize, mut data: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    std::iter::from_fn(move || {
        let (piece, rest) = data.split_at((PAGE - offset % PAGE).min(data.len()));
        let at = offset;
        (offset, data) = (offset + piece.len(), rest);
        (!piece.is_empty()).then_some((at, piece))
    })
}

impl Inode {
    /// A file to which no name leads any more.
    pub fn forgotten() -> Inode {
        Inode { removed: true, ..Inode::default() }
    }

    /// What it takes of memory.
    pub fn octets(&self) -> usize {
        let changes = self.unsynced.iter().map(|change| match change {
            Unsynced::Length(_) => 0,
            Unsynced::Write(_, data) => data.len(),
        });
        self.shown.capacity() + self.durable.capacity() + changes.sum::<usize>()
    }

    pub fn write(&mut self, offset: usize, data: Vec<u8>) {
        put(&mut self.shown, offset, &data);
        self.unsynced.push(Unsynced::Write(offset, data));
    }

    pub fn set_len(&mut self, len: usize) {
        self.shown.resize(len, 0);
        self.unsynced.push(Unsynced::Length(len));
    }

    /// What is on the disk is what the system shows from now on.
    pub fn show_durable(&mut self) {
        self.shown.clone_from(&self.durable);
    }

    /// Carries all unsynced changes to the disk.
    pub fn sync(&mut self) {
        for change in std::mem::take(&mut self.unsynced) {
            match change {
                Unsynced::Length(len) => self.resize(len),
                Unsynced::Write(offset, data) => {
                    put(&mut self.durable, offset, &data);
                    self.written.extend(pages(offset, &data).map(|(at, _)| at / PAGE));
                }
            }
        }
    }

    /// A sync whose marks do not reach the disk: what was written to new pages is lost, and nobody is told.
    pub fn sync_without_marks(&mut self) {
        for change in std::mem::take(&mut self.unsynced) {
            if let Unsynced::Write(offset, data) = change {
                for (at, piece) in pages(offset, &data) {
                    if self.written.contains(&(at / PAGE)) {
                        put(&mut self.durable, at, piece);
                    }
                }
            }
        }
    }

    fn resize(&mut self, len: usize) {
        self.durable.resize(len, 0);
        self.written.retain(|page| *page < len.div_ceil(PAGE));
    }

    /// Carries over what chance will have, and forgets the rest.
    pub fn settle(&mut self, rng: &mut SmallRng) {
        match rng.random_range(0..4) {
            0 => self.unsynced.clear(),
            1 => self.sync(),
            // In order, the last one torn in the middle.
            2 => {
                let kept = rng.random_range(0..=self.unsynced.len());
                self.unsynced.truncate(kept);
                if let Some(Unsynced::Write(_, data)) = self.unsynced.last_mut() {
                    data.truncate(rng.random_range(0..=data.len()));
                }
                self.sync();
            }
            // Any pages, in any order.
            _ => {
                for change in std::mem::take(&mut self.unsynced) {
                    match change {
                        Unsynced::Length(len) if rng.random() => self.resize(len),
                        Unsynced::Length(_) => {}
                        Unsynced::Write(offset, data) => {
                            for (at, piece) in pages(offset, &data) {
                                if rng.random() {
                                    put(&mut self.durable, at, piece);
                                    self.written.insert(at / PAGE);
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
