//! Ways in for benchmarks; see [`crate::probe`].

use std::path::Path;

use super::index::Indexer;

/// What the index adds to writing events.
#[derive(Debug)]
pub struct Indexing {
    indexer: Indexer,
    written: u64,
}

impl Indexing {
    /// Of a file in this folder.
    pub fn new(dir: &Path) -> Indexing {
        Indexing { indexer: Indexer::new(dir.to_owned()), written: 0 }
    }

    /// These whole lines, with positions, stand in the file next.
    pub fn written(&mut self, lines: &[u8]) {
        self.indexer.written(lines, self.written);
        self.written += lines.len() as u64;
    }
}
