//! An index in memory, for when none can be made on disk.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use super::index::{Applied, Entry, INDEXED_MAX, Index, Result};
use crate::ledger::Table;
use crate::ledger::codec::Fact;
use crate::log::Position;

/// Facts in a map.
#[derive(Debug, Default)]
pub(super) struct MemoryIndex {
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
pub(super) struct Held {
    pub entries: BTreeMap<(Table, Vec<u8>), Entry>,
    pub applied: Option<Applied>,
}

impl MemoryIndex {
    /// One with the same in it.
    #[cfg(test)]
    pub(super) fn copy(&self) -> MemoryIndex {
        let held = self.held();
        MemoryIndex { held: Mutex::new(Held { entries: held.entries.clone(), applied: held.applied }) }
    }

    pub(super) fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().expect("no code panics under this lock")
    }
}

impl Index for MemoryIndex {
    fn applied(&self) -> Result<Option<Applied>> {
        Ok(self.held().applied)
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Entry>> {
        Ok(self.held().entries.get(&(table, key.to_vec())).cloned())
    }

    fn scan(&self, table: Table, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Entry)>> {
        let held = self.held();
        let from = held.entries.range((table, prefix.to_vec())..);
        let like = from.take_while(|((of, key), _)| *of == table && key.starts_with(prefix));
        Ok(like.map(|((_, key), entry)| (key.clone(), entry.clone())).collect())
    }

    fn page(&self, table: Table, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<(Vec<u8>, Entry)>> {
        let held = self.held();
        let from = held.entries.range((table, from.max(prefix).to_vec())..);
        let like = from.take_while(|((of, key), _)| *of == table && key.starts_with(prefix));
        Ok(like.take(limit).map(|((_, key), entry)| (key.clone(), entry.clone())).collect())
    }

    fn apply(&self, facts: &[(Position, Fact)], through: Position) -> Result<Applied> {
        let mut held = self.held();
        for (at, Fact { table, key, value }) in facts {
            let place = (*table, key.clone());
            match value {
                Some(value) => {
                    let value = Some(value.clone()).filter(|value| value.len() <= INDEXED_MAX);
                    held.entries.insert(place, Entry { at: *at, value });
                }
                None => drop(held.entries.remove(&place)),
            }
        }
        let facts = held.entries.len() as u64;
        Ok(*held.applied.insert(Applied { through, facts, octets: 0 }))
    }
}
