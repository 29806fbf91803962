//! An index in memory that fails when it is told to. For tests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::index::{Applied, Entry, Index, IndexError, Indexes, Result};
use crate::ledger::Table;
use crate::ledger::codec::Fact;
use crate::log::Position;

/// Shared by its clones; what is in it stays when the ledger is closed, as on a disk.
#[derive(Clone, Default)]
pub(in crate::ledger) struct MemoryIndexes {
    pub held: Arc<Mutex<Held>>,
}

#[derive(Default)]
pub(in crate::ledger) struct Held {
    pub entries: BTreeMap<(Table, Vec<u8>), Entry>,
    pub applied: Option<Applied>,
    pub set_aside: usize,
    /// All calls but `set_aside` fail, so many times.
    pub failures: usize,
}

impl MemoryIndexes {
    fn held<T>(&self, call: impl FnOnce(&mut Held) -> T) -> Result<T> {
        let mut held = self.held.lock().unwrap();
        if held.failures > 0 {
            held.failures -= 1;
            return Err(IndexError("told to fail".into()));
        }
        Ok(call(&mut held))
    }
}

impl Indexes for MemoryIndexes {
    fn open(&self) -> Result<Arc<dyn Index>> {
        self.held(|_| Arc::new(self.clone()) as Arc<dyn Index>)
    }

    fn set_aside(&self) -> Result<()> {
        let mut held = self.held.lock().unwrap();
        held.entries.clear();
        held.applied = None;
        held.set_aside += 1;
        Ok(())
    }
}

impl Index for MemoryIndexes {
    fn applied(&self) -> Result<Option<Applied>> {
        self.held(|held| held.applied)
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Entry>> {
        self.held(|held| held.entries.get(&(table, key.to_vec())).cloned())
    }

    fn scan(&self, table: Table, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Entry)>> {
        self.held(|held| {
            let like = held.entries.iter().filter(|((of, key), _)| *of == table && key.starts_with(prefix));
            like.map(|((_, key), entry)| (key.clone(), entry.clone())).collect()
        })
    }

    fn apply(&self, facts: &[(Position, Fact)], through: Position) -> Result<Applied> {
        self.held(|held| {
            for (at, Fact { table, key, value }) in facts {
                match value {
                    Some(value) => {
                        let value = Bytes::clone(value);
                        held.entries.insert((*table, key.clone()), Entry { at: *at, value });
                    }
                    None => drop(held.entries.remove(&(*table, key.clone()))),
                }
            }
            *held.applied.insert(Applied { through, facts: held.entries.len() as u64 })
        })
    }
}
