//! Runs: many entries written at once, sorted, in blocks of the ledger. What an import is stored as.

use std::sync::{Arc, Condvar, Mutex};

use bytes::Bytes;

use super::codec::{BLOCK_ROWS, Block, BlockBuilder, Kind, Row};
use super::filter::Filter;
use super::place;
use super::telling::Lines;
use crate::clock::Timestamp;
use crate::ledger::{Bookmark, Ledger, LedgerError, Table};

/// Octets on their way to the log at once.
const FLIGHT_MAX: usize = 4 << 20;
/// Octets that the index may lack before a writer waits for it; they are in memory.
const BEHIND_MAX: usize = 8 << 20;

/// More rows are in no block: it says how many in two octets.
const ROWS_MAX: u64 = 1 << 16;
/// Blocks looked for in one go.
const PAGE: usize = 4096;

/// What is held in memory of a run.
#[derive(Debug)]
pub(super) struct Run {
    pub id: u32,
    /// Hash of the first entry of each block, and its number.
    pub fences: Vec<(u64, u32)>,
    /// Where each of them stands: the index's pages need not be in memory for them.
    marks: Vec<Bookmark>,
    pub filter: Filter,
    pub about: About,
}

/// What is said of a run when it is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct About {
    pub blocks: u32,
    /// By kind of scope.
    pub counts: [u64; 3],
    /// How many probably stand in older runs too.
    pub repeats: u64,
    /// When the first of them ends; `u64::MAX`: none does.
    pub until_min: u64,
}

impl About {
    pub(super) fn entries(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub(super) fn write(&self) -> Bytes {
        let numbers =
            [self.blocks.into(), self.counts[0], self.counts[1], self.counts[2], self.repeats, self.until_min];
        std::iter::once(1).chain(numbers.into_iter().flat_map(u64::to_le_bytes)).collect()
    }

    pub(super) fn read(octets: &[u8]) -> Option<About> {
        let (version, numbers) = octets.split_first()?;
        let (numbers, rest) = numbers.as_chunks::<8>();
        let [blocks, global, tenant, list, repeats, until_min] = numbers.try_into().ok()?;
        let number = u64::from_le_bytes;
        let about = About {
            blocks: u32::try_from(number(blocks)).ok()?,
            counts: [number(global), number(tenant), number(list)],
            repeats: number(repeats),
            until_min: number(until_min),
        };
        // Nobody is to reckon with numbers that cannot be.
        let entries = about.counts.iter().try_fold(0u64, |sum, count| sum.checked_add(*count));
        let possible = entries.is_some_and(|entries| entries <= u64::from(about.blocks) * ROWS_MAX);
        (*version == 1 && rest.is_empty() && possible).then_some(about)
    }
}

/// Why a run was not read.
#[derive(Debug)]
pub(super) enum RunError {
    /// A block is not there: others took its place, or it is lost.
    Gone,
    Ledger(LedgerError),
}

impl From<LedgerError> for RunError {
    fn from(error: LedgerError) -> RunError {
        RunError::Ledger(error)
    }
}

impl From<super::codec::BlockError> for RunError {
    fn from(error: super::codec::BlockError) -> RunError {
        RunError::Ledger(LedgerError(error.to_string()))
    }
}

/// A block of a run.
fn read_block(ledger: &Ledger, run: u32, block: u32, mark: &Bookmark) -> Result<Block, RunError> {
    let octets = ledger.get_marked(Table::Suppressions, &place::block(run, block), mark)?.ok_or(RunError::Gone)?;
    Ok(Block::read(octets)?)
}

/// The blocks of a run that are there, whatever is said of it.
fn blocks_there(ledger: &Ledger, run: u32) -> Result<Vec<u32>, LedgerError> {
    let (mut there, prefix) = (Vec::new(), place::blocks(run));
    let mut from = Some(prefix.clone());
    while let Some(start) = from {
        let page = ledger.page(Table::Suppressions, &prefix, &start, PAGE)?;
        there.extend(page.facts.iter().filter_map(|(key, _)| place::block_in(key)).map(|(_, number)| number));
        from = page.next;
    }
    Ok(there)
}

impl Run {
    /// Shows the rows of that hash.
    pub(super) fn find(
        &self,
        ledger: &Ledger,
        hash: u64,
        visit: &mut dyn FnMut(Row<'_>) -> Result<(), RunError>,
    ) -> Result<(), RunError> {
        if !self.filter.may_hold(hash) {
            return Ok(());
        }
        // A block may end with the hash that the next one begins with.
        let first = self.fences.partition_point(|(fence, _)| *fence < hash).saturating_sub(1);
        for ((fence, number), mark) in self.fences[first..].iter().zip(&self.marks[first..]) {
            if *fence > hash {
                break;
            }
            let block = read_block(ledger, self.id, *number, mark)?;
            for row in block.find(hash) {
                visit(block.row(row)?)?;
            }
        }
        Ok(())
    }

    /// What stands in the ledger when it is opened. Blocks that its log has lost are passed over, as it passes over all that it has
    /// lost.
    pub(super) fn read(ledger: &Ledger, id: u32, about: About) -> Result<Run, RunError> {
        let mut there = blocks_there(ledger, id)?;
        there.retain(|number| *number < about.blocks);
        let lost = about.blocks as usize - there.len();
        if lost > 0 {
            tracing::error!(run = id, blocks = lost, "entries of the suppression list are lost; import them again");
        }
        let filter = Filter::new(about.entries().min((there.len() * BLOCK_ROWS) as u64) as usize);
        let (mut fences, mut marks) = (Vec::with_capacity(there.len()), Vec::new());
        for number in there {
            let mark = Bookmark::default();
            let block = match read_block(ledger, id, number, &mark) {
                Ok(block) => block,
                Err(RunError::Gone) => continue,
                Err(error) => return Err(error),
            };
            fences.push((block.hash(0), number));
            marks.push(mark);
            (0..block.len()).for_each(|row| filter.insert(block.hash(row)));
        }
        Ok(Run { id, fences, marks, filter, about })
    }
}

/// Facts on their way to the log.
#[derive(Debug, Default)]
pub(super) struct Flight {
    state: Mutex<(usize, Option<LedgerError>)>,
    landed: Condvar,
}

impl Flight {
    /// Puts facts; waits while too many are on their way. Blocks.
    pub(super) fn put(
        self: &Arc<Self>,
        ledger: &Ledger,
        facts: Vec<(Vec<u8>, Option<Bytes>)>,
    ) -> Result<(), LedgerError> {
        let octets: usize =
            facts.iter().map(|(key, value)| 64 + key.len() + value.as_ref().map_or(0, Bytes::len)).sum();
        self.wait(FLIGHT_MAX)?;
        ledger.wait_for_index(BEHIND_MAX);
        self.state.lock().expect("no code panics under this lock").0 += octets;
        let this = Arc::clone(self);
        ledger.put_then(Table::Suppressions, facts, move |result| {
            let mut state = this.state.lock().expect("no code panics under this lock");
            state.0 -= octets;
            if let Err(error) = result {
                state.1.get_or_insert(error);
            }
            drop(state);
            this.landed.notify_all();
        });
        Ok(())
    }

    /// Waits until no more than so many octets are on their way. Blocks.
    pub(super) fn wait(&self, octets: usize) -> Result<(), LedgerError> {
        let state = self.state.lock().expect("no code panics under this lock");
        let much = |state: &mut (usize, Option<LedgerError>)| state.0 > octets && state.1.is_none();
        let state = self.landed.wait_while(state, much).expect("no code panics under this lock");
        state.1.clone().map_or(Ok(()), Err)
    }
}

/// A run that is being written.
pub(super) struct RunWriter<'a> {
    ledger: &'a Ledger,
    id: u32,
    block: BlockBuilder,
    fences: Vec<(u64, u32)>,
    filter: Filter,
    about: About,
    older: &'a [Arc<Run>],
    flight: Arc<Flight>,
    first: Option<u64>,
}

impl<'a> RunWriter<'a> {
    /// For at most so many rows. `older`: runs that stay, with which it is compared.
    pub(super) fn new(ledger: &'a Ledger, id: u32, rows: usize, older: &'a [Arc<Run>]) -> RunWriter<'a> {
        let about = About { until_min: u64::MAX, ..About::default() };
        RunWriter {
            ledger,
            id,
            block: BlockBuilder::default(),
            fences: Vec::new(),
            filter: Filter::new(rows),
            about,
            older,
            flight: Arc::default(),
            first: None,
        }
    }

    /// Rows come in the order of their hashes; no two about the same.
    pub(super) fn push(&mut self, row: &Row<'_>) -> Result<(), LedgerError> {
        debug_assert!(row.kind != Kind::Gone, "only single facts say that");
        self.first.get_or_insert(row.hash);
        self.filter.insert(row.hash);
        self.about.counts[row.scope_kind()] += 1;
        self.about.repeats += u64::from(self.older.iter().any(|run| run.filter.may_hold(row.hash)));
        self.about.until_min = self.about.until_min.min(row.until.map_or(u64::MAX, |Timestamp(until)| until));
        self.block.push(row);
        if self.block.is_full() { self.close_block() } else { Ok(()) }
    }

    fn close_block(&mut self) -> Result<(), LedgerError> {
        self.fences.push((self.first.take().expect("it has a row"), self.about.blocks));
        let key = place::block(self.id, self.about.blocks);
        self.about.blocks += 1;
        self.flight.put(self.ledger, vec![(key, Some(self.block.finish()))])
    }

    /// How many rows there are.
    pub(super) fn entries(&self) -> u64 {
        self.about.entries()
    }

    /// Makes it count, in place of `replaced`, when all of it is durable, together with the lines that tell of it. `None`: it has no
    /// rows, and nothing is there.
    pub(super) fn finish(mut self, replaced: &[u32], lines: &[Lines]) -> Result<Option<Run>, LedgerError> {
        if !self.block.is_empty() {
            self.close_block()?;
        }
        self.flight.wait(0)?;
        let mut facts: Vec<_> = replaced.iter().map(|id| (place::run(*id), None)).collect();
        let whole = self.about.blocks > 0;
        if whole {
            facts.push((place::run(self.id), Some(self.about.write())));
        }
        facts.extend(lines.iter().map(Lines::fact));
        if !facts.is_empty() {
            self.flight.put(self.ledger, facts)?;
            self.flight.wait(0)?;
        }
        let marks = self.fences.iter().map(|_| Bookmark::default()).collect();
        Ok(whole.then_some(Run { id: self.id, fences: self.fences, marks, filter: self.filter, about: self.about }))
    }
}

/// Reads the rows of a run in order.
pub(super) struct Cursor<'a> {
    ledger: &'a Ledger,
    run: u32,
    /// Of those not read yet.
    left: std::iter::Zip<std::slice::Iter<'a, (u64, u32)>, std::slice::Iter<'a, Bookmark>>,
    block: Option<Block>,
    row: usize,
}

impl<'a> Cursor<'a> {
    /// Stands at the first row whose hash is not below `from`.
    pub(super) fn new(ledger: &'a Ledger, run: &'a Run, from: u64) -> Result<Cursor<'a>, RunError> {
        let first = run.fences.partition_point(|(fence, _)| *fence < from).saturating_sub(1);
        let left = run.fences[first..].iter().zip(&run.marks[first..]);
        let mut cursor = Cursor { ledger, run: run.id, left, block: None, row: 0 };
        cursor.load()?;
        while cursor.hash().is_some_and(|hash| hash < from) {
            cursor.step()?;
        }
        Ok(cursor)
    }

    fn load(&mut self) -> Result<(), RunError> {
        self.row = 0;
        let next = self.left.next().map(|((_, number), mark)| read_block(self.ledger, self.run, *number, mark));
        self.block = next.transpose()?;
        Ok(())
    }

    /// Of the row it stands at; `None`: it is at the end.
    pub(super) fn hash(&self) -> Option<u64> {
        self.block.as_ref().map(|block| block.hash(self.row))
    }

    /// The row it stands at.
    pub(super) fn row(&self) -> Result<Option<Row<'_>>, RunError> {
        Ok(self.block.as_ref().map(|block| block.row(self.row)).transpose()?)
    }

    pub(super) fn step(&mut self) -> Result<(), RunError> {
        self.row += 1;
        if self.block.as_ref().is_some_and(|block| self.row >= block.len()) { self.load() } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Suppressions;
    use super::*;
    use crate::clock::Clock;
    use crate::config::SuppressionConfig;
    use crate::telemetry::Metrics;

    /// A list of which one run says this of itself, and has no block: how many entries it shows, or that it cannot be read.
    fn entries(about: &About) -> Option<usize> {
        let ledger = Arc::new(Ledger::default());
        let flight = Arc::new(Flight::default());
        flight.put(&ledger, vec![(place::run(1), Some(about.write()))]).unwrap();
        flight.wait(0).unwrap();
        let list = Suppressions::open(ledger, &SuppressionConfig::default(), Arc::new(Metrics::new()), Clock).ok()?;
        Some(list.list(0, 10).unwrap().entries.len())
    }

    #[test]
    fn numbers_that_cannot_be_take_no_memory() {
        let wild = About { blocks: u32::MAX, counts: [1 << 47, 0, 0], ..About::default() };
        assert_eq!(entries(&wild), Some(0), "its blocks are lost");
        assert_eq!(entries(&About { counts: [u64::MAX, 1, 0], ..wild }), None);
        assert_eq!(entries(&About { blocks: 1, counts: [0, 1 << 17, 0], ..wild }), None);
    }
}
