//! The list in the ledger: entries by themselves, runs of many, and the filters in front.
//!
//! | deed | what is written | it counts |
//! |---|---|---|
//! | few entries | a fact each, in one record | when the record is durable |
//! | an import | a run: sorted blocks, then the fact that it is whole | when that fact is durable; blocks without it are removed |
//! | a removal | the fact goes; if a run may have the entry too, a fact says that it is gone | when the record is durable |
//! | a merge | a new run of what counts in several, and in one record: it is whole, they are not | when that record is durable |
//!
//! Of what is said in several places about a subject in a scope the latest counts: each run begins an epoch, and all that is
//! written bears the epoch it was written in; within one, a fact by itself is later than the run.

use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use arc_swap::ArcSwap;
use bytes::Bytes;
use smallvec::SmallVec;

use super::codec::{Block, Kind, Name, Row, hash_of, write_scope, write_single};
use super::filter::Filter;
use super::run::{About, Flight, Run, RunError};
use super::{Entry, Scope, place};
use crate::ledger::{Ledger, LedgerError, Table};
use crate::telemetry::Metrics;

/// Facts looked at in one go.
const PAGE: usize = 4096;
/// The first filter is made for so many.
const FILTER_MIN: usize = 1 << 16;
/// How often a look-up begins anew because runs were merged meanwhile.
const TRIES: usize = 10;

/// A key and its value; `None`: it is removed.
pub(super) type FactOf = (Vec<u8>, Option<Bytes>);

/// Sees facts one by one; a value that is long is left out.
type EachFact<'a> = dyn FnMut(&[u8], Option<Bytes>) -> Result<(), LedgerError> + 'a;

/// What is in the ledger, and what is held in memory of it.
#[derive(Debug)]
pub(super) struct Store {
    pub ledger: Arc<Ledger>,
    inner: ArcSwap<Inner>,
    /// Held by who changes `inner`, and by who writes an entry by itself, until it may be found.
    changing: Mutex<Singles>,
    /// The last that was begun.
    epoch: AtomicU32,
    /// Entries by themselves, by kind of scope.
    counts: [AtomicI64; 3],
    metrics: Arc<Metrics>,
}

/// What look-ups ask.
#[derive(Debug, Clone, Default)]
pub(super) struct Inner {
    pub runs: Vec<Arc<Run>>,
    /// Of the entries by themselves.
    filters: Vec<Arc<Filter>>,
}

#[derive(Debug, Default)]
struct Singles {
    /// Hashes in the last filter.
    last: usize,
}

impl Inner {
    pub(super) fn may_hold(&self, hash: u64) -> bool {
        self.single_may(hash) || self.run_may(hash)
    }

    fn single_may(&self, hash: u64) -> bool {
        self.filters.iter().any(|filter| filter.may_hold(hash))
    }

    fn run_may(&self, hash: u64) -> bool {
        self.runs.iter().any(|run| run.filter.may_hold(hash))
    }

    fn is_empty(&self) -> bool {
        self.runs.is_empty() && self.filters.is_empty()
    }
}

/// The latest of what is said about a subject in a scope.
#[derive(Debug)]
struct Said {
    scope: Vec<u8>,
    name: Name,
    epoch: u32,
    single: bool,
    /// `None`: that it is gone.
    entry: Option<Entry>,
}

/// The latest of all that is said.
#[derive(Debug, Default)]
pub(super) struct Latest(SmallVec<[Said; 2]>);

impl Latest {
    pub(super) fn hear(&mut self, row: &Row<'_>, single: bool) -> Result<(), RunError> {
        let (name, scope) = (row.name()?, row.scope()?);
        let rank = (row.epoch, single);
        match self.0.iter_mut().find(|said| said.name == name && said.scope == scope) {
            Some(said) if (said.epoch, said.single) >= rank => {}
            Some(said) => (said.epoch, said.single, said.entry) = (row.epoch, single, row.entry()?),
            None => {
                let entry = row.entry()?;
                self.0.push(Said { scope: scope.to_vec(), name, epoch: row.epoch, single, entry });
            }
        }
        Ok(())
    }

    pub(super) fn entries(self) -> impl Iterator<Item = Entry> {
        self.0.into_iter().filter_map(|said| said.entry)
    }
}

/// What a single fact says.
pub(super) fn hear_single(
    value: Bytes,
    visit: &mut dyn FnMut(Row<'_>) -> Result<(), RunError>,
) -> Result<(), RunError> {
    let block = Block::read(value)?;
    (0..block.len()).try_for_each(|row| visit(block.row(row)?))
}

impl Store {
    /// Reads what is in the ledger. Blocks.
    pub(super) fn open(ledger: Arc<Ledger>, metrics: Arc<Metrics>) -> Result<Store, LedgerError> {
        let epoch = ledger.get(Table::Suppressions, &[place::EPOCH])?;
        let epoch = epoch.and_then(|octets| octets.first_chunk().map(|octets| u32::from_le_bytes(*octets)));
        let store = Store {
            ledger,
            inner: ArcSwap::default(),
            changing: Mutex::default(),
            epoch: AtomicU32::new(epoch.unwrap_or_default()),
            counts: Default::default(),
            metrics,
        };
        let mut inner = Inner::default();
        store.each(&[place::RUN], &mut |key, value| {
            let about = value.as_deref().and_then(About::read);
            let (Some(id), Some(about)) = (place::run_in(key), about) else {
                return Err(LedgerError("a run of the suppression list is of a newer version".into()));
            };
            match Run::read(&store.ledger, id, about) {
                Ok(run) => inner.runs.push(Arc::new(run)),
                Err(RunError::Gone) => {}
                Err(RunError::Ledger(error)) => return Err(error),
            }
            Ok(())
        })?;
        let mut hashes = Vec::new();
        store.each(&[place::SINGLE], &mut |key, value| {
            hashes.extend(place::hash_in(key));
            let mut count = |row: Row<'_>| {
                store.count(&row, 1);
                Ok(())
            };
            match value.map_or(Ok(()), |value| hear_single(value, &mut count)) {
                Err(RunError::Ledger(error)) => Err(error),
                Ok(()) | Err(RunError::Gone) => Ok(()),
            }
        })?;
        if !hashes.is_empty() {
            let filter = Filter::new((hashes.len() * 3 / 2).max(FILTER_MIN));
            hashes.iter().for_each(|hash| filter.insert(*hash));
            store.changing().last = hashes.len();
            inner.filters.push(Arc::new(filter));
        }
        store.inner.store(Arc::new(inner));
        store.publish();
        Ok(store)
    }

    /// Shows all facts whose keys begin with `prefix`.
    fn each(&self, prefix: &[u8], visit: &mut EachFact<'_>) -> Result<(), LedgerError> {
        let mut from = Some(prefix.to_vec());
        while let Some(start) = from {
            let page = self.ledger.page(Table::Suppressions, prefix, &start, PAGE)?;
            page.facts.into_iter().try_for_each(|(key, value)| visit(&key, value))?;
            from = page.next;
        }
        Ok(())
    }

    fn changing(&self) -> MutexGuard<'_, Singles> {
        self.changing.lock().expect("no code panics under this lock")
    }

    /// As it is now.
    pub(super) fn inner(&self) -> Arc<Inner> {
        self.inner.load_full()
    }

    /// Whether a subject of one of these hashes may be there; "no" is sure. Takes less than a microsecond.
    pub(super) fn may_hold(&self, hashes: impl Iterator<Item = u64>) -> bool {
        let inner = self.inner.load();
        let mut hashes = hashes;
        hashes.any(|hash| inner.may_hold(hash))
    }

    /// Nothing is there.
    pub(super) fn is_empty(&self) -> bool {
        self.inner.load().is_empty()
    }

    /// What is kept about a subject: in these scopes, or in all.
    pub(super) fn find(&self, name: &Name, scopes: Option<&[Scope]>) -> Result<Vec<Entry>, LedgerError> {
        self.try_often(|inner| {
            let hash = hash_of(name);
            let mut latest = Latest::default();
            let mut hear = |row: Row<'_>, single| match row.hash == hash && row.name()? == *name {
                true => latest.hear(&row, single),
                false => Ok(()),
            };
            if inner.single_may(hash) {
                let values: Vec<Bytes> = match scopes {
                    Some(scopes) => {
                        let keys = scopes.iter().map(|scope| place::single(name, &write_scope(scope)));
                        let values = keys.map(|key| self.ledger.get(Table::Suppressions, &key));
                        values.filter_map(Result::transpose).collect::<Result<_, _>>()?
                    }
                    None => {
                        let found = self.ledger.scan(Table::Suppressions, &place::subject(name))?;
                        found.into_iter().map(|(_, value)| value).collect()
                    }
                };
                for value in values {
                    hear_single(value, &mut |row| hear(row, true))?;
                }
            }
            for run in &inner.runs {
                run.find(&self.ledger, hash, &mut |row| hear(row, false))?;
            }
            Ok(latest.entries().filter(|entry| scopes.is_none_or(|scopes| scopes.contains(&entry.scope))).collect())
        })
    }

    /// Again while runs are merged under it.
    pub(super) fn try_often<T>(&self, look: impl FnMut(&Inner) -> Result<T, RunError>) -> Result<T, LedgerError> {
        let mut look = look;
        for _ in 0..TRIES {
            let inner = self.inner();
            match look(&inner) {
                Ok(found) => return Ok(found),
                Err(RunError::Ledger(error)) => return Err(error),
                Err(RunError::Gone) => {}
            }
        }
        Err(LedgerError("a block of the suppression list is lost".into()))
    }

    /// The epoch that is now.
    pub(super) fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// Begins an epoch. Blocks.
    pub(super) fn begin_epoch(&self) -> Result<u32, LedgerError> {
        let epoch = self.epoch.fetch_add(1, Ordering::SeqCst) + 1;
        let flight = Arc::new(Flight::default());
        flight.put(&self.ledger, vec![(vec![place::EPOCH], Some(Bytes::copy_from_slice(&epoch.to_le_bytes())))])?;
        flight.wait(0)?;
        Ok(epoch)
    }

    /// The facts that make these entries, and what they change of the counts. Later ones of the same key win.
    pub(super) fn facts_of(&self, rows: &[Row<'_>]) -> Result<Vec<FactOf>, LedgerError> {
        let mut facts = Vec::with_capacity(rows.len());
        for row in rows {
            let (Ok(name), Ok(scope)) = (row.name(), row.scope()) else { continue };
            let key = place::single(&name, scope);
            if let Some(until) = row.until {
                facts.push((place::end(until, &key), Some(Bytes::new())));
            }
            facts.push((key, Some(write_single(row))));
        }
        Ok(facts)
    }

    /// What an entry by itself that is there takes from the counts when another comes or it goes; it is asked for before that.
    pub(super) fn single_there(&self, name: &Name, scope: &[u8]) -> Result<Option<Bytes>, LedgerError> {
        if !self.inner.load().single_may(hash_of(name)) {
            return Ok(None);
        }
        self.ledger.get(Table::Suppressions, &place::single(name, scope))
    }

    /// Counts what a single fact says, `by` times.
    pub(super) fn count_single(&self, value: Bytes, by: i64) {
        // What cannot be read was not counted.
        _ = hear_single(value, &mut |row| {
            self.count(&row, by);
            Ok(())
        });
    }

    fn count(&self, row: &Row<'_>, by: i64) {
        if row.kind != Kind::Gone {
            self.counts[row.scope_kind()].fetch_add(by, Ordering::Relaxed);
        }
    }

    /// They are durable, and from now on they are found.
    pub(super) fn let_find(&self, hashes: impl Iterator<Item = u64>) {
        let mut singles = self.changing();
        for hash in hashes {
            let inner = self.inner.load();
            let filter = match inner.filters.last() {
                Some(filter) if singles.last < filter.room() => Arc::clone(filter),
                full => {
                    let filter = Arc::new(Filter::new(full.map_or(FILTER_MIN, |full| full.room() * 2)));
                    let mut more = Inner::clone(&inner);
                    more.filters.push(Arc::clone(&filter));
                    self.inner.store(Arc::new(more));
                    singles.last = 0;
                    filter
                }
            };
            singles.last += usize::from(!filter.may_hold(hash));
            filter.insert(hash);
        }
    }

    /// What has to be written so that this entry is gone.
    pub(super) fn fact_of_removal(&self, name: &Name, row: &Row<'_>) -> Result<(Vec<u8>, Option<Bytes>), LedgerError> {
        let scope = row.scope().map_err(|error| LedgerError(error.to_string()))?;
        let key = place::single(name, scope);
        if !self.inner.load().run_may(hash_of(name)) {
            return Ok((key, None));
        }
        let gone = Row { kind: Kind::Gone, subject: name, until: None, epoch: self.epoch(), ..*row };
        Ok((key, Some(write_single(&gone))))
    }

    /// `new` counts from now on, and those in whose place it stands do not.
    pub(super) fn put_run(&self, new: Option<Run>, replaced: &[u32]) {
        let changing = self.changing();
        let mut inner = Inner::clone(&self.inner.load());
        inner.runs.retain(|run| !replaced.contains(&run.id));
        inner.runs.extend(new.map(Arc::new));
        self.inner.store(Arc::new(inner));
        drop(changing);
        self.publish();
    }

    /// Removes blocks. Blocks.
    pub(super) fn remove_blocks(&self, blocks: impl Iterator<Item = (u32, u32)>) -> Result<(), LedgerError> {
        let flight = Arc::new(Flight::default());
        let mut keys = blocks.map(|(run, block)| (place::block(run, block), None)).peekable();
        while keys.peek().is_some() {
            flight.put(&self.ledger, keys.by_ref().take(PAGE).collect())?;
        }
        flight.wait(0)
    }

    /// Blocks of runs that are not whole, begun up to `epoch`: a crash, or an import that was given up. Blocks.
    pub(super) fn remove_orphans(&self, epoch: u32) -> Result<usize, LedgerError> {
        let mut orphans = Vec::new();
        let inner = self.inner();
        self.each(&[place::BLOCK], &mut |key, _| {
            let orphan = |(run, _): &(u32, u32)| *run <= epoch && inner.runs.iter().all(|known| known.id != *run);
            orphans.extend(place::block_in(key).filter(orphan));
            Ok(())
        })?;
        let count = orphans.len();
        self.remove_blocks(orphans.into_iter())?;
        Ok(count)
    }

    /// Octets held in memory for look-ups.
    pub(super) fn entries(&self) -> [u64; 3] {
        let inner = self.inner.load();
        std::array::from_fn(|kind| {
            let runs: u64 = inner.runs.iter().map(|run| run.about.counts[kind]).sum();
            runs + self.counts[kind].load(Ordering::Relaxed).max(0) as u64
        })
    }

    pub(super) fn publish(&self) {
        for (label, count) in ["global", "tenant", "list"].into_iter().zip(self.entries()) {
            self.metrics.suppressions.with_label_values(&[label]).set(count as i64);
        }
    }
}
