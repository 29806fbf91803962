//! Many entries on their way into a run, and runs on their way into one.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use super::codec::{Kind, Row, hash_of, read_row, write_context, write_row};
use super::run::{Cursor, Run, RunError, RunWriter};
use super::store::Store;
use super::telling::Lines;
use super::{Entry, Scope, Subject};
use crate::clock::Timestamp;
use crate::ledger::LedgerError;

/// More runs than this are merged at once, while an import goes on.
pub(super) const RUNS_MAX: usize = 8;
/// More than this when there is time: fewer runs are asked faster.
pub(super) const RUNS_AT_REST: usize = 3;
/// A run with entries that ended so long ago, in milliseconds, is written anew without them.
const ENDED_FOR: u64 = 86_400_000;

/// The lines that tell of so many entries, on their way into the ledger.
pub(super) type Begin<'a> = &'a mut dyn FnMut(u64) -> Vec<Lines>;

/// Entries on their way to [`add_run`](super::Suppressions::add_run), in memory about as small as on disk.
#[derive(Debug, Default)]
pub struct Batch {
    contexts: Vec<Vec<u8>>,
    known: HashMap<Vec<u8>, u32>,
    /// Whose entries they are; empty: everybody's.
    tenants: BTreeSet<Box<str>>,
    last: u32,
    /// Hash, and where the row stands.
    rows: Vec<(u64, u32, u32)>,
    octets: Vec<u8>,
}

/// As entries are kept; `context` as [`write_context`] wrote it.
pub(super) fn row_of<'a>(entry: &'a Entry, context: &'a [u8], subject: &'a [u8], hash: u64, epoch: u32) -> Row<'a> {
    let kind = match entry.subject {
        Subject::Address(_) => Kind::Address,
        Subject::Domain(_) => Kind::Domain,
        Subject::Hash(_) => Kind::Hash,
    };
    let evidence = &entry.evidence.as_bytes()[..entry.evidence.floor_char_boundary(255)];
    Row { hash, context, kind, subject, since: entry.since, until: entry.until, evidence, epoch }
}

/// What stands in the place of an entry's subject.
pub(super) fn subject_octets(subject: &Subject) -> Bytes {
    match subject {
        Subject::Address(address) => Bytes::copy_from_slice(address.as_bytes()),
        Subject::Domain(domain) => format!("@{domain}").into(),
        Subject::Hash(hash) => Bytes::copy_from_slice(hash),
    }
}

impl Batch {
    /// One more.
    pub fn push(&mut self, entry: &Entry) {
        let context = write_context(&entry.scope, entry.reason, &entry.source);
        if self.contexts.get(self.last as usize).is_none_or(|last| *last != context) {
            self.last = *self.known.entry(context).or_insert_with_key(|context| {
                self.tenants.insert(match &entry.scope {
                    Scope::Global => "".into(),
                    Scope::Tenant(tenant) | Scope::List { tenant, .. } => tenant.clone(),
                });
                self.contexts.push(context.clone());
                self.contexts.len() as u32 - 1
            });
        }
        let (hash, subject) = (hash_of(&entry.subject.name()), subject_octets(&entry.subject));
        let from = self.octets.len() as u32;
        write_row(&mut self.octets, self.last, &row_of(entry, &[], &subject, hash, 0));
        self.rows.push((hash, from, self.octets.len() as u32));
    }

    /// The tenant that all are of; `None`: they are everybody's, or of several.
    pub(super) fn tenant(&self) -> Option<&str> {
        self.tenants.first().filter(|tenant| self.tenants.len() == 1 && !tenant.is_empty()).map(|tenant| &**tenant)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// What it takes in memory.
    pub fn octets(&self) -> usize {
        self.octets.len() + self.rows.len() * 16
    }

    fn row(&self, place: (u64, u32, u32), epoch: u32) -> Result<Row<'_>, RunError> {
        let (hash, from, to) = place;
        let (context, row) = read_row(hash, &self.octets[from as usize..to as usize])?;
        Ok(Row { context: &self.contexts[context as usize], epoch, ..row })
    }

    /// Makes a run of them, all or nothing; of two about the same the later counts. How many there are, and the lines that `begin`
    /// makes of that, which are to be told. Blocks.
    pub(super) fn store(mut self, store: &Store, begin: Begin<'_>) -> Result<(u64, Vec<Lines>), LedgerError> {
        if self.rows.is_empty() {
            return Ok((0, Vec::new()));
        }
        self.rows.sort_unstable();
        let epoch = store.begin_epoch()?;
        let older = store.inner();
        let written = self.write(store, epoch, &older.runs, begin).map_err(lost);
        let (run, lines) = written.inspect_err(|_| {
            // What is there of it counts for nothing; it only takes room until the next start.
            tracing::warn!(run = epoch, "a part of the suppression list could not be written");
        })?;
        let count = run.as_ref().map_or(0, |run| run.about.entries());
        store.put_run(run, &[]);
        Ok((count, lines))
    }

    fn write(
        &self,
        store: &Store,
        epoch: u32,
        older: &[Arc<Run>],
        begin: Begin<'_>,
    ) -> Result<(Option<Run>, Vec<Lines>), RunError> {
        let mut writer = RunWriter::new(&store.ledger, epoch, self.rows.len(), older);
        for group in self.rows.chunk_by(|a, b| a.0 == b.0) {
            // They stand in the order they came, so the last one about the same counts.
            for (at, place) in group.iter().enumerate() {
                let row = self.row(*place, epoch)?;
                let mut later = group[at + 1..].iter();
                let replaced = later.try_fold(false, |replaced, later| {
                    Ok::<_, RunError>(replaced || self.row(*later, epoch)?.is_about(&row)?)
                })?;
                if !replaced {
                    writer.push(&row)?;
                }
            }
        }
        let lines = begin(writer.entries());
        Ok((writer.finish(&[], &lines)?, lines))
    }
}

fn lost(error: RunError) -> LedgerError {
    match error {
        RunError::Ledger(error) => error,
        RunError::Gone => LedgerError("a block of the suppression list is lost".into()),
    }
}

/// Which runs to write anew as one, so that there are at most `runs_max`.
pub(super) fn to_merge(runs: &[Arc<Run>], runs_max: usize, now: Timestamp) -> Vec<Arc<Run>> {
    let sum = |what: fn(&Run) -> u64| runs.iter().map(|run| what(run)).sum::<u64>();
    if runs.len() > 1 && sum(|run| run.about.repeats) * 4 > sum(|run| run.about.entries()) {
        return runs.to_vec();
    }
    if runs.len() > runs_max {
        let mut smallest = runs.to_vec();
        smallest.sort_by_key(|run| run.about.entries());
        // One more goes than must, and a share of what may stay, so that an import does not merge after each batch.
        smallest.truncate(runs.len() - runs_max + 1 + runs_max / 4);
        return smallest;
    }
    runs.iter().find(|run| run.about.until_min.saturating_add(ENDED_FOR) <= now.0).cloned().into_iter().collect()
}

/// Writes runs anew as one, without what has ended; the lines that tell of that, which are to be told. Blocks.
pub(super) fn merge(
    store: &Store,
    runs: &[Arc<Run>],
    now: Timestamp,
    begin: Begin<'_>,
) -> Result<Vec<Lines>, LedgerError> {
    let id = store.begin_epoch()?;
    let inner = store.inner();
    let others: Vec<_> =
        inner.runs.iter().filter(|run| runs.iter().all(|merged| merged.id != run.id)).cloned().collect();
    let replaced: Vec<u32> = runs.iter().map(|run| run.id).collect();
    let (run, lines) = write_merged(store, runs, id, &others, now, begin).map_err(lost)?;
    store.put_run(run, &replaced);
    let blocks = runs.iter().flat_map(|run| run.fences.iter().map(|(_, block)| (run.id, *block)));
    if let Err(error) = store.remove_blocks(blocks) {
        tracing::warn!(%error, "blocks of the suppression list that are of no use any more stay until the next start");
    }
    Ok(lines)
}

fn write_merged(
    store: &Store,
    runs: &[Arc<Run>],
    id: u32,
    others: &[Arc<Run>],
    now: Timestamp,
    begin: Begin<'_>,
) -> Result<(Option<Run>, Vec<Lines>), RunError> {
    let sum = |what: fn(&Run) -> u64| runs.iter().map(|run| what(run)).sum::<u64>();
    let most = runs.iter().map(|run| run.about.entries()).max().unwrap_or_default();
    // What stands in several is there once. Where other runs stay, the repeats may be theirs.
    let repeats = if others.is_empty() { sum(|run| run.about.repeats) } else { 0 };
    let rows = sum(|run| run.about.entries()).saturating_sub(repeats).max(most);
    let mut writer = RunWriter::new(&store.ledger, id, rows as usize, others);
    let cursors = runs.iter().map(|run| Cursor::new(&store.ledger, run, 0));
    let mut cursors: Vec<Cursor<'_>> = cursors.collect::<Result<_, _>>()?;
    let mut ended = 0;
    let mut push = |row: &Row<'_>| -> Result<(), RunError> {
        match row.until.is_some_and(|until| until <= now) {
            true => ended += 1,
            false => writer.push(row)?,
        }
        Ok(())
    };
    while let Some(hash) = cursors.iter().filter_map(Cursor::hash).min() {
        let mut first: Option<Owned> = None;
        let mut more: Vec<Owned> = Vec::new();
        for cursor in cursors.iter_mut().filter(|cursor| cursor.hash() == Some(hash)) {
            while cursor.hash() == Some(hash) {
                let row = cursor.row()?.map(|row| Owned::of(&row));
                match (&first, row) {
                    (None, row) => first = row,
                    (Some(_), row) => more.extend(row),
                }
                cursor.step()?;
            }
        }
        let all: Vec<&Owned> = first.iter().chain(&more).collect();
        for (at, row) in all.iter().enumerate() {
            let row = row.row(hash);
            let mut others = all.iter().enumerate().filter(|(other, _)| *other != at);
            let replaced = others.try_fold(false, |replaced, (_, other)| {
                let other = other.row(hash);
                Ok::<_, RunError>(replaced || other.epoch > row.epoch && other.is_about(&row)?)
            })?;
            if !replaced {
                push(&row)?;
            }
        }
    }
    drop(cursors);
    let lines = if ended > 0 { begin(ended) } else { Vec::new() };
    Ok((writer.finish(&runs.iter().map(|run| run.id).collect::<Vec<_>>(), &lines)?, lines))
}

/// A row that outlives its block.
struct Owned {
    context: Vec<u8>,
    octets: Vec<u8>,
    kind: Kind,
    evidence: usize,
    since: Timestamp,
    until: Option<Timestamp>,
    epoch: u32,
}

impl Owned {
    fn of(row: &Row<'_>) -> Owned {
        let octets = [row.evidence, row.subject].concat();
        let Row { kind, since, until, epoch, .. } = *row;
        Owned { context: row.context.to_vec(), octets, kind, evidence: row.evidence.len(), since, until, epoch }
    }

    fn row(&self, hash: u64) -> Row<'_> {
        let (evidence, subject) = self.octets.split_at(self.evidence);
        let Owned { context, kind, since, until, epoch, .. } = self;
        Row { hash, context, kind: *kind, subject, since: *since, until: *until, evidence, epoch: *epoch }
    }
}
