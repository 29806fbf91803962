//! sled 0.34 as the index, with what it takes to live with it.
//!
//! Its `flush` is no fsync on Linux, so its `db` file is synced by ourselves after each; without that no power cut was
//! survived. `flush_async` can deadlock and is not used. Values of 4 KiB and more may land in files that are never
//! synced, so there are none. A damaged folder makes it panic rather than fail; every call is guarded.

use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::index::{Applied, Entry, INDEXED_MAX, Index, IndexError, Indexes, Result};
use crate::ledger::Table;
use crate::ledger::codec::{CodecError, Fact, Reader, fact_len, write_position};
use crate::log::Position;

/// Raised when keys or values are laid out anew: the old index is then made again.
const FORMAT: u8 = 2;
/// Key of what it says of itself; no table has that number.
const APPLIED: &[u8] = &[0];
/// What follows a fact's position: its value, or only how long that is, as it is too long.
const HERE: u8 = 1;
const ELSEWHERE: u8 = 0;
/// With more facts than this they are not counted at start.
const COUNTED_MAX: u64 = 100_000;

/// Indexes in a folder.
#[derive(Debug)]
pub(in crate::ledger) struct SledIndexes {
    pub dir: PathBuf,
    /// Octets of memory for reading.
    pub cache: u64,
}

impl SledIndexes {
    fn aside(&self) -> PathBuf {
        self.dir.with_extension("aside")
    }
}

impl Indexes for SledIndexes {
    fn open(&self) -> Result<Arc<dyn Index>> {
        guard(|| {
            let config = sled::Config::new()
                .path(&self.dir)
                .mode(sled::Mode::LowSpace)
                .cache_capacity(self.cache)
                .flush_every_ms(Some(500));
            let db = config.open()?;
            let raw = File::open(self.dir.join("db"))?;
            Ok(SledIndex { db: LetGo(Some(db)), raw })
        })
        .and_then(SledIndex::checked)
    }

    fn set_aside(&self) -> Result<()> {
        let aside = self.aside();
        guard(|| {
            // One is enough to find out what happened; none must fill the disk.
            if aside.exists() {
                remove(&aside)?;
            }
            if self.dir.exists() {
                fs::rename(&self.dir, &aside)?;
            }
            Ok(())
        })
    }
}

fn remove(path: &std::path::Path) -> std::io::Result<()> {
    if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

struct SledIndex {
    db: LetGo<sled::Db>,
    /// Our own handle of sled's file, to sync it.
    raw: File,
}

impl SledIndex {
    /// Counts its facts, if that takes no time: a page that was lost is not always noticed by sled.
    fn checked(self) -> Result<Arc<dyn Index>> {
        let said = self.applied()?.map_or(0, |applied| applied.facts);
        if said < COUNTED_MAX {
            let found =
                guard(|| Ok(self.db.iter().keys().filter(|key| !matches!(key, Ok(key) if key == APPLIED)).count()))?;
            if found as u64 != said {
                return Err(IndexError(format!("it has {found} facts and should have {said}")));
            }
        }
        Ok(Arc::new(self))
    }
}

/// Something whose drop may panic, as sled's does when it cannot write: who lets go of it lives on.
struct LetGo<T>(Option<T>);

impl<T> std::ops::Deref for LetGo<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("it is taken when dropped only")
    }
}

impl<T> Drop for LetGo<T> {
    fn drop(&mut self) {
        let inner = self.0.take();
        if std::thread::panicking() {
            // A second panic would end the process.
            return std::mem::forget(inner);
        }
        if let Err(error) = guard(|| {
            drop(inner);
            Ok(())
        }) {
            tracing::error!(%error, "the ledger's index could not be closed; it is looked through when it is opened again");
        }
    }
}

/// What sled or the file system says, as text; a panic too.
fn guard<T>(call: impl FnOnce() -> std::result::Result<T, sled::Error>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| IndexError(error.to_string())),
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            Err(IndexError(format!("sled panicked: {}", text.unwrap_or_default())))
        }
    }
}

fn place(table: Table, key: &[u8]) -> Vec<u8> {
    let mut place = Vec::with_capacity(1 + key.len());
    place.push(table as u8);
    place.extend_from_slice(key);
    place
}

/// What is kept of a fact: its position, and its value or how long that is.
fn write_entry(at: Position, value: &[u8]) -> Vec<u8> {
    let mut entry = Vec::with_capacity(9 + value.len().min(INDEXED_MAX));
    write_position(&mut entry, at);
    if value.len() <= INDEXED_MAX {
        entry.push(HERE);
        entry.extend_from_slice(value);
    } else {
        entry.push(ELSEWHERE);
        entry.extend_from_slice(&(value.len() as u32).to_le_bytes());
    }
    entry
}

fn read_entry(octets: &[u8]) -> Result<Entry> {
    let mut r = Reader(octets);
    let mut read = || Ok((r.position("position")?, r.array::<1>("flag")?));
    let (at, [here]) = read().map_err(|error: CodecError| IndexError(error.to_string()))?;
    Ok(Entry { at, value: (here == HERE).then(|| Bytes::copy_from_slice(r.0)) })
}

/// How long the value of an entry is.
fn value_len(entry: &[u8]) -> usize {
    match entry.get(8..).and_then(<[u8]>::split_first) {
        Some((&ELSEWHERE, len)) => len.try_into().map_or(0, |len| u32::from_le_bytes(len) as usize),
        Some((_, value)) => value.len(),
        None => 0,
    }
}

fn write_applied(applied: Applied) -> Vec<u8> {
    let mut said = vec![FORMAT];
    write_position(&mut said, applied.through);
    [applied.facts, applied.octets].iter().for_each(|number| said.extend_from_slice(&number.to_le_bytes()));
    said
}

fn read_applied(said: &[u8]) -> Option<Applied> {
    let mut r = Reader(said);
    let [format] = r.array("format").ok()?;
    let through = r.position("position").ok()?;
    let facts = u64::from_le_bytes(r.array("count").ok()?);
    let octets = u64::from_le_bytes(r.array("octets").ok()?);
    (format == FORMAT).then_some(Applied { through, facts, octets })
}

/// For fuzzing: what an index says of a fact or of itself. What can be read is written so that it reads the same, and a value is as long as
/// it is said to be.
pub(in crate::ledger) fn probe(octets: &[u8]) {
    if let Some(applied) = read_applied(octets) {
        assert!(octets.starts_with(&write_applied(applied)));
    }
    let Ok(Entry { at, value }) = read_entry(octets) else { return };
    if let Some(value) = value.filter(|value| value.len() <= INDEXED_MAX) {
        let written = write_entry(at, &value);
        assert_eq!(value_len(&written), value.len());
        let again = read_entry(&written).expect("it was written");
        assert_eq!((again.at, again.value), (at, Some(value)));
    }
    let long = write_entry(at, &[0; INDEXED_MAX + 1]);
    assert_eq!((value_len(&long), read_entry(&long).expect("it was written").value), (INDEXED_MAX + 1, None));
}

impl Index for SledIndex {
    fn applied(&self) -> Result<Option<Applied>> {
        let Some(octets) = guard(|| self.db.get(APPLIED))? else { return Ok(None) };
        read_applied(&octets).map(Some).ok_or_else(|| IndexError("it was laid out by another version".into()))
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Entry>> {
        guard(|| self.db.get(place(table, key)))?.map(|octets| read_entry(&octets)).transpose()
    }

    fn scan(&self, table: Table, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Entry)>> {
        let found: Vec<_> = guard(|| self.db.scan_prefix(place(table, prefix)).collect())?;
        found.into_iter().map(|(key, octets)| Ok((key[1..].to_vec(), read_entry(&octets)?))).collect()
    }

    fn page(&self, table: Table, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<(Vec<u8>, Entry)>> {
        let (from, prefix) = (place(table, from.max(prefix)), place(table, prefix));
        let found: Vec<_> = guard(|| {
            let like =
                self.db.range(from..).take_while(|found| !matches!(found, Ok((key, _)) if !key.starts_with(&prefix)));
            like.take(limit).collect()
        })?;
        found.into_iter().map(|(key, octets)| Ok((key[1..].to_vec(), read_entry(&octets)?))).collect()
    }

    fn apply(&self, facts: &[(Position, Fact)], through: Position) -> Result<Applied> {
        let (mut count, mut octets) = self.applied()?.map_or((0, 0), |applied| (applied.facts, applied.octets));
        guard(|| {
            for (at, fact) in facts {
                let (place, key_len) = (place(fact.table, &fact.key), fact.key.len());
                let before = match &fact.value {
                    Some(value) => {
                        count = count.saturating_add(1);
                        octets = octets.saturating_add(fact_len(key_len, value.len()));
                        self.db.insert(place, write_entry(*at, value))?
                    }
                    None => self.db.remove(place)?,
                };
                if let Some(before) = before {
                    count = count.saturating_sub(1);
                    octets = octets.saturating_sub(fact_len(key_len, value_len(&before)));
                }
            }
            // Last, and sled recovers a first part of what was written: so it is never ahead of the facts.
            let applied = Applied { through, facts: count, octets };
            self.db.insert(APPLIED, write_applied(applied))?;
            self.db.flush()?;
            self.raw.sync_data()?;
            Ok(applied)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As sled after an error of the disk.
    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("cannot flush");
        }
    }

    #[test]
    fn who_lets_go_of_a_broken_index_lives_on() {
        drop(LetGo(Some(Bomb)));
        // Also while it panics itself.
        let panicked = catch_unwind(|| {
            let _index = LetGo(Some(Bomb));
            panic!("for another reason");
        });
        assert_eq!(panicked.unwrap_err().downcast_ref::<&str>(), Some(&"for another reason"));
    }
}
