//! What a key has: in memory first, then in the index, which points into the log for long values.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::super::codec::read_facts;
use super::super::{LedgerError, Table};
use super::index::{Entry, INDEXED_MAX, Index};
use super::{Bookmark, Facts, State};
use crate::log::{LogError, Position};

/// A value is looked for in the log so many times before its index is called wrong.
const READS: usize = 100;

/// Some of a table.
#[derive(Debug)]
pub struct Page {
    /// Keys in order, with their values; `None`: it is long, ask for it.
    pub facts: Vec<(Vec<u8>, Option<Bytes>)>,
    /// Where the next page begins; `None`: this is the last.
    pub next: Option<Vec<u8>>,
}

impl Facts {
    pub(in crate::ledger) fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, LedgerError> {
        self.look(table, key, &Bookmark::default())
    }

    /// As `get`, of a value that never changes.
    pub(in crate::ledger) fn get_marked(
        &self,
        table: Table,
        key: &[u8],
        mark: &Bookmark,
    ) -> Result<Option<Bytes>, LedgerError> {
        let marked = mark.at().map(|at| self.read(at, table, key)).transpose()?.flatten();
        // If it is not there, it was written again elsewhere, or removed.
        if marked.is_some() { Ok(marked) } else { self.look(table, key, mark) }
    }

    fn look(&self, table: Table, key: &[u8], mark: &Bookmark) -> Result<Option<Bytes>, LedgerError> {
        for _ in 0..READS {
            let index = {
                let state = self.lock();
                if let Some(fresh) = state.fresh.get(&(table, key.to_vec())) {
                    return Ok(fresh.value.clone());
                }
                self.index(&state)?
            };
            let Some(index) = index else { return Ok(None) };
            let entry = index.get(table, key).map_err(|error| LedgerError::new(&error))?;
            let Some(Entry { at, value: None }) = entry else { return Ok(entry.and_then(|entry| entry.value)) };
            // If it is not there, it was replaced, or written again elsewhere, in this moment.
            if let Some(value) = self.read(at, table, key)? {
                mark.put(at);
                return Ok(Some(value));
            }
        }
        Err(LedgerError("its index points to what is not in its log".into()))
    }

    pub(in crate::ledger) fn scan(&self, table: Table, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Bytes)>, LedgerError> {
        let mut found = BTreeMap::new();
        // Memory first: what leaves it meanwhile is in the index by then. Memory counts where both have something.
        let (index, fresh) = {
            let state = self.lock();
            let from = state.fresh.range((table, prefix.to_vec())..);
            let like = from.take_while(|((of, key), _)| *of == table && key.starts_with(prefix));
            let fresh: Vec<_> = like.map(|((_, key), fresh)| (key.clone(), fresh.value.clone())).collect();
            (self.index(&state)?, fresh)
        };
        if let Some(index) = index {
            for (key, entry) in index.scan(table, prefix).map_err(|error| LedgerError::new(&error))? {
                let value = match entry.value {
                    Some(value) => Some(value),
                    None => self.get(table, &key)?,
                };
                found.extend(value.map(|value| (key, value)));
            }
        }
        for (key, value) in fresh {
            match value {
                Some(value) => drop(found.insert(key, value)),
                None => drop(found.remove(&key)),
            }
        }
        Ok(found.into_iter().collect())
    }

    /// The first of the facts of a table whose keys begin with `prefix` and are not before `from`; the values that are too
    /// long for an index are not read. And where to go on.
    pub(in crate::ledger) fn page(
        &self,
        table: Table,
        prefix: &[u8],
        from: &[u8],
        limit: usize,
    ) -> Result<Page, LedgerError> {
        // Memory first, as in `scan`.
        let (index, fresh) = {
            let state = self.lock();
            let from = state.fresh.range((table, from.max(prefix).to_vec())..);
            let like = from.take_while(|((of, key), _)| *of == table && key.starts_with(prefix));
            let fresh: Vec<_> = like.map(|((_, key), fresh)| (key.clone(), fresh.value.clone())).take(limit).collect();
            (self.index(&state)?, fresh)
        };
        let indexed = index.map(|index| index.page(table, prefix, from, limit)).transpose();
        let indexed = indexed.map_err(|error| LedgerError::new(&error))?.unwrap_or_default();
        // What either of them left out stands behind its last.
        let last_of_index = indexed.last().filter(|_| indexed.len() == limit).map(|(key, _)| key.clone());
        let last_of_fresh = fresh.last().filter(|_| fresh.len() == limit).map(|(key, _)| key.clone());
        let last = [last_of_index, last_of_fresh].into_iter().flatten().min();
        let mut found: BTreeMap<_, _> = indexed.into_iter().map(|(key, entry)| (key, entry.value)).collect();
        for (key, value) in fresh {
            match value {
                Some(value) => drop(found.insert(key, Some(value).filter(|value| value.len() <= INDEXED_MAX))),
                None => drop(found.remove(&key)),
            }
        }
        if let Some(last) = &last {
            found.retain(|key, _| key <= last);
        }
        let next = last.map(|mut last| {
            last.push(0);
            last
        });
        Ok(Page { facts: found.into_iter().collect(), next })
    }

    /// A value from the log; `None` if the record is not there any more.
    fn read(&self, at: Position, table: Table, key: &[u8]) -> Result<Option<Bytes>, LedgerError> {
        let Some(disk) = &self.disk else { return Ok(None) };
        let location = {
            let state = self.lock();
            let records = state.records.get(&at.segment).map_or(&[][..], Vec::as_slice);
            match records.binary_search_by(|location| location.position.cmp(&at)) {
                Ok(place) => records[place],
                Err(_) => return Ok(None),
            }
        };
        let record = match disk.log.read_blocking(location) {
            Ok(record) => record,
            Err(LogError::Gone { .. }) => return Ok(None),
            Err(error) => return Err(LedgerError::new(&error)),
        };
        let facts = read_facts(&record.head).map_err(|error| LedgerError::new(&error))?;
        // Of two with one key the later counts.
        let fact = facts.into_iter().rev().find(|fact| fact.table == table && fact.key == key);
        Ok(fact.and_then(|fact| fact.value))
    }

    /// The index to ask; `None` if all is in memory.
    pub(super) fn index(&self, state: &State) -> Result<Option<Arc<dyn Index>>, LedgerError> {
        match (&self.disk, &state.index) {
            (None, _) => Ok(None),
            (Some(_), Some(index)) => Ok(Some(Arc::clone(index))),
            (Some(_), None) => Err(LedgerError("its index is being made anew".into())),
        }
    }
}
