//! An index in memory that fails when it is told to. For tests.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::index::{Applied, Entry, Index, IndexError, Indexes, Result};
use super::memory::MemoryIndex;
use crate::ledger::Table;
use crate::ledger::codec::Fact;
use crate::log::Position;

/// Shared by its clones; what is in it stays when the ledger is closed, as on a disk.
#[derive(Clone, Default)]
pub(crate) struct MemoryIndexes {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    index: Mutex<Arc<MemoryIndex>>,
    set_aside: AtomicUsize,
    failures: AtomicUsize,
}

impl MemoryIndexes {
    /// One that is now as this one, and goes its own way from here.
    pub(crate) fn copy(&self) -> MemoryIndexes {
        let index = Mutex::new(Arc::new(self.index().copy()));
        MemoryIndexes { shared: Arc::new(Shared { index, ..Shared::default() }) }
    }

    /// All calls but `set_aside` fail, so many times.
    pub(super) fn fail(&self, times: usize) {
        self.shared.failures.store(times, Ordering::SeqCst);
    }

    /// How often it was set aside.
    pub(super) fn set_aside_count(&self) -> usize {
        self.shared.set_aside.load(Ordering::SeqCst)
    }

    pub(super) fn index(&self) -> Arc<MemoryIndex> {
        Arc::clone(&self.shared.index.lock().unwrap())
    }

    fn working(&self) -> Result<Arc<MemoryIndex>> {
        let failed = self.shared.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if failed.is_ok() { Err(IndexError("told to fail".into())) } else { Ok(self.index()) }
    }
}

impl Indexes for MemoryIndexes {
    fn open(&self) -> Result<Arc<dyn Index>> {
        self.working().map(|_| Arc::new(self.clone()) as Arc<dyn Index>)
    }

    fn set_aside(&self) -> Result<()> {
        *self.shared.index.lock().unwrap() = Arc::default();
        self.shared.set_aside.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

impl Index for MemoryIndexes {
    fn applied(&self) -> Result<Option<Applied>> {
        self.working()?.applied()
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Entry>> {
        self.working()?.get(table, key)
    }

    fn scan(&self, table: Table, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Entry)>> {
        self.working()?.scan(table, prefix)
    }

    fn page(&self, table: Table, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<(Vec<u8>, Entry)>> {
        self.working()?.page(table, prefix, from, limit)
    }

    fn apply(&self, facts: &[(Position, Fact)], through: Position) -> Result<Applied> {
        self.working()?.apply(facts, through)
    }
}
