//! Runs: receipts sorted by name, written once, read a page at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::filter::Filter;
use crate::clock::Timestamp;
use crate::ledger::codec::{KEPT_LEN, Kept, PAGE, PER_PAGE, RunHead};
use crate::log::{Location, Log, LogError, Position};

/// Why a run could not be asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum RunError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("page {page} of the receipts at {position:?} is damaged")]
    Damaged { page: usize, position: Position },
}

/// A run on disk, and what of it is in memory: two octets a receipt for the filter, four a page to find it.
#[derive(Debug)]
pub(super) struct Run {
    pub location: Location,
    pub through: Position,
    pub covers: Position,
    pub count: u32,
    pub until_max: u32,
    pub long: bool,
    printed: bool,
    fences: Vec<u32>,
    filter: Filter,
    damaged: AtomicBool,
}

impl Run {
    pub(super) fn new(location: Location, head: RunHead) -> Run {
        let RunHead { through, covers, count, until_max, long, printed, fences, filter, .. } = head;
        let filter = Filter::from_words(filter);
        Run {
            location,
            through,
            covers,
            count,
            until_max,
            long,
            printed,
            fences,
            filter,
            damaged: AtomicBool::new(false),
        }
    }

    /// Part of it could not be read.
    pub(super) fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }

    /// False: surely not.
    pub(super) fn may_hold(&self, name: u128) -> bool {
        self.filter.may_hold(name)
    }

    /// Looks on disk.
    pub(super) fn find(&self, log: &Log, name: u128) -> Result<Option<Kept>, RunError> {
        let prefix = (name >> 96) as u32;
        // The last page that begins in front of the name, and those that begin with the same 32 bits.
        let first = self.fences.partition_point(|fence| *fence < prefix).saturating_sub(1);
        for page in first..self.fences.len() {
            if page > first && self.fences[page] > prefix {
                break;
            }
            let kept = self.page(log, page)?;
            if let Ok(at) = kept.binary_search_by_key(&name, |kept| kept.name) {
                return Ok(Some(kept[at]));
            }
        }
        Ok(None)
    }

    fn page(&self, log: &Log, page: usize) -> Result<Vec<Kept>, RunError> {
        let mut octets = [0; PAGE];
        log.read_body_part(self.location, (page * PAGE) as u64, &mut octets)?;
        let (content, crc) = octets.split_at(PAGE - 4);
        if crc32fast::hash(content).to_le_bytes() != crc {
            self.damaged.store(true, Ordering::Relaxed);
            return Err(RunError::Damaged { page, position: self.location.position });
        }
        let (kept, _) = content.as_chunks::<KEPT_LEN>();
        let count = PER_PAGE.min((self.count as usize).saturating_sub(page * PER_PAGE));
        Ok(kept[..count].iter().map(|kept| Kept::read(kept, self.printed)).collect())
    }
}

/// A run in a log of its own, whose head can be read, and whose pages may be anything: the names that stand in them, and those beside
/// them, are looked up, and all of it is merged with itself. What is found bears the name. If the pages are as a writer leaves them, all
/// are found, and merging says nothing else.
pub(in crate::ledger) fn probe(log: &Log, location: Location, head: RunHead, pages: &[u8]) {
    let count = head.count as usize;
    let run = Arc::new(Run::new(location, head));
    let names =
        pages.chunks(PAGE).flat_map(|page| page.as_chunks::<KEPT_LEN>().0).map(|kept| Kept::read(kept, true).name);
    for name in names.flat_map(|name| [name, name ^ 1, name ^ 1 << 96]).take(1000) {
        if let Ok(Some(found)) = run.find(log, name) {
            assert_eq!(found.name, name);
        }
        let _ = run.may_hold(name);
    }
    let all: Result<Vec<Vec<Kept>>, RunError> = (0..run.fences.len()).map(|page| run.page(log, page)).collect();
    let merged = merge(log, &[Arc::clone(&run), Arc::clone(&run)], Timestamp(0));
    assert_eq!(all.is_ok(), merged.is_ok(), "what cannot be read is left out");
    assert!(all.is_err() || !run.is_damaged());
    let (Ok(all), Ok(merged)) = (all, merged) else { return };
    assert!(merged.count as usize <= 2 * count);
    let fenced = all.iter().zip(&run.fences).all(|(page, fence)| (page[0].name >> 96) as u32 == *fence);
    let all = all.concat();
    assert_eq!(all.len(), count);
    if fenced && all.is_sorted_by(|one, next| one.name < next.name) {
        for kept in &all {
            assert_eq!(run.find(log, kept.name).expect("it was read above"), Some(*kept));
        }
        let held = all.iter().filter(|kept| kept.holds(Timestamp(0)));
        assert_eq!(merged.count as usize, held.clone().count());
        assert!(held.into_iter().all(|kept| merged.filter.may_hold(kept.name)));
    }
}

/// A run being made; receipts come in the order of their names.
pub(super) struct Builder {
    pages: Vec<u8>,
    fences: Vec<u32>,
    filter: Filter,
    count: u32,
    until_max: u32,
    last: Option<u128>,
}

impl Builder {
    /// For at most so many receipts.
    pub(super) fn new(count: usize) -> Builder {
        let pages = Vec::with_capacity(count.div_ceil(PER_PAGE) * PAGE);
        Builder { pages, fences: Vec::new(), filter: Filter::new(count), count: 0, until_max: 0, last: None }
    }

    /// A name that is there already is passed over.
    pub(super) fn push(&mut self, kept: &Kept) {
        if self.last.replace(kept.name) == Some(kept.name) {
            return;
        }
        if (self.count as usize).is_multiple_of(PER_PAGE) {
            self.end_page();
            self.fences.push((kept.name >> 96) as u32);
        }
        kept.write(&mut self.pages);
        self.filter.insert(kept.name);
        self.count += 1;
        self.until_max = self.until_max.max(kept.until);
    }

    fn end_page(&mut self) {
        let start = self.pages.len().saturating_sub(1) / PAGE * PAGE;
        if self.pages.len() > start {
            self.pages.resize(start + PAGE - 4, 0);
            let crc = crc32fast::hash(&self.pages[start..]);
            self.pages.extend_from_slice(&crc.to_le_bytes());
        }
    }

    /// Head and body, or nothing if nothing was pushed.
    pub(super) fn finish(
        mut self,
        through: Position,
        covers: Position,
        long: bool,
        replaces: Vec<Position>,
    ) -> Option<(RunHead, Bytes)> {
        if self.count == 0 {
            return None;
        }
        self.end_page();
        let Builder { pages, fences, filter, count, until_max, .. } = self;
        let filter = filter.words().to_vec();
        let head = RunHead { through, covers, count, until_max, long, printed: true, replaces, fences, filter };
        Some((head, pages.into()))
    }
}

/// All receipts of several runs that still count, merged. Of two with one name the one of the later run counts.
pub(super) fn merge(log: &Log, runs: &[Arc<Run>], now: Timestamp) -> Result<Builder, RunError> {
    let mut builder = Builder::new(runs.iter().map(|run| run.count as usize).sum());
    let mut cursors: Vec<Cursor<'_>> =
        runs.iter().map(|run| Cursor { run, page: 0, kept: Vec::new().into_iter(), next: None }).collect();
    for cursor in &mut cursors {
        cursor.advance(log)?;
    }
    loop {
        let order = |(place, cursor): (usize, &Cursor<'_>)| Some((cursor.next?.name, std::cmp::Reverse(place)));
        let Some((_, std::cmp::Reverse(least))) = cursors.iter().enumerate().filter_map(order).min() else { break };
        let cursor = &mut cursors[least];
        if let Some(kept) = cursor.next.filter(|kept| kept.holds(now)) {
            builder.push(&kept);
        }
        cursor.advance(log)?;
    }
    Ok(builder)
}

struct Cursor<'a> {
    run: &'a Run,
    page: usize,
    kept: std::vec::IntoIter<Kept>,
    next: Option<Kept>,
}

impl Cursor<'_> {
    fn advance(&mut self, log: &Log) -> Result<(), RunError> {
        self.next = self.kept.next();
        if self.next.is_none() && self.page < self.run.fences.len() {
            self.kept = self.run.page(log, self.page)?.into_iter();
            self.page += 1;
            self.next = self.kept.next();
        }
        Ok(())
    }
}
