//! In the background: what is missing in an index is made up for, and the runs of a file set aside become one.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::file::{IndexFile, Reads};
use super::run::{self, HEAD_LEN, Head, Run};
use super::{Entry, RUN_LINES, gaps, scan};
use crate::clock::Clock;

/// Jobs that wait; a start has one for each file. What finds no room is done at the next start.
const JOBS_MAX: usize = 1000;

/// Entries in memory while runs become one, over all of them.
const ENTRIES_AT_ONCE: usize = 32 * 1024;

/// The longest rest behind a block.
const REST_MAX: Duration = Duration::from_millis(100);

/// An index to be looked after.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) events: File,
    pub(super) index: Arc<IndexFile>,
    /// Octets of the events that it is to cover; beyond them somebody else does.
    pub(super) len: u64,
    /// Nothing more is written to the events.
    pub(super) set_aside: bool,
}

/// The thread that does it, from the first job on. When this is dropped, it stops at the block it is at.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    running: Option<(SyncSender<Job>, JoinHandle<()>)>,
    orders: Arc<Orders>,
}

/// What the thread is told beside its jobs.
#[derive(Debug, Default)]
struct Orders {
    stop: AtomicBool,
    /// Held while an index is deleted, and while one takes its place that was not.
    names: Mutex<()>,
}

impl Keeper {
    /// Has it done some time, if there is anything to do.
    pub(super) fn ask(&mut self, job: Job) {
        if job.is_done() {
            return;
        }
        if self.running.is_none() {
            let (sender, jobs) = sync_channel(JOBS_MAX);
            let orders = Arc::clone(&self.orders);
            let thread = std::thread::Builder::new().name("events-index".into()).spawn(move || work(&jobs, &orders));
            self.running = thread.map(|thread| (sender, thread)).ok();
        }
        if let Some((sender, _)) = &self.running {
            let _ = sender.try_send(job);
        }
    }

    /// Deletes the index of a file that is gone, for good.
    pub(super) fn delete(&self, index: &Path) -> io::Result<()> {
        let _names = self.orders.names.lock().expect("no code panics under this lock");
        fs::remove_file(index)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.orders.stop.store(true, Ordering::Relaxed);
        if let Some((sender, thread)) = self.running.take() {
            drop(sender);
            let _ = thread.join();
        }
    }
}

fn work(jobs: &Receiver<Job>, orders: &Orders) {
    while let Ok(job) = jobs.recv() {
        if let Err(error) = job.run(orders) {
            tracing::warn!(file = %job.index.path.display(), %error, "an index of the event log cannot be made");
        }
    }
}

impl Job {
    /// Whether there is nothing to do.
    fn is_done(&self) -> bool {
        self.index.runs().is_ok_and(|(runs, _)| {
            let settled = matches!(&runs[..], [run] if run.head.settled);
            gaps(runs.iter().map(Run::stretch), self.len).is_empty() && (settled || !self.set_aside)
        })
    }

    fn run(&self, orders: &Orders) -> io::Result<()> {
        let (runs, _) = self.index.runs()?;
        for gap in gaps(runs.iter().map(Run::stretch), self.len) {
            self.fill(gap, &orders.stop)?;
        }
        if self.set_aside && self.index.path.exists() && !orders.stop.load(Ordering::Relaxed) {
            self.settle(&orders.names)?;
        }
        Ok(())
    }

    /// Makes runs of what stands in the gap.
    fn fill(&self, gap: Range<u64>, stop: &AtomicBool) -> io::Result<()> {
        tracing::debug!(file = %self.index.path.display(), from = gap.start, to = gap.end, "indexing events");
        let (mut from, mut to) = (gap.start, gap.start);
        let mut entries = Vec::new();
        let mut failed = None;
        let mut begun = Clock.instant();
        scan::each_block(&self.events, gap, |at, lines| {
            scan::collect(lines, at, &mut entries);
            to = at + lines.len() as u64;
            if entries.len() >= RUN_LINES {
                entries.sort_unstable();
                failed = self.index.append(from..to, &entries).err();
                entries.clear();
                from = to;
            }
            // Nobody waits for it; whoever else wants the processor goes first.
            std::thread::sleep((Clock.instant() - begun).min(REST_MAX));
            begun = Clock.instant();
            failed.is_none() && !stop.load(Ordering::Relaxed)
        })?;
        entries.sort_unstable();
        match failed {
            Some(error) => Err(error),
            None if from < to => self.index.append(from..to, &entries),
            None => Ok(()),
        }
    }

    /// Makes one run of all, synced before it takes their place.
    fn settle(&self, names: &Mutex<()>) -> io::Result<()> {
        let (runs, file) = self.index.runs()?;
        let complete = gaps(runs.iter().map(Run::stretch), self.len).is_empty();
        if !complete || self.len == 0 || matches!(&runs[..], [run] if run.head.settled) {
            return Ok(());
        }
        let path = self.index.path.with_extension("new");
        let mut out = BufWriter::with_capacity(64 << 10, File::create(&path)?);
        out.write_all(&[0; HEAD_LEN])?;
        let mut head = Head::of(0..self.len, true);
        let mut merged = Merge::new(&runs, &file)?;
        let mut last = None;
        while let Some(entry) = merged.next()? {
            if last.replace(entry) != Some(entry) {
                let octets = run::encode(&[entry]);
                head.add(&[entry], &octets);
                out.write_all(&octets)?;
            }
        }
        let out = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        out.write_all_at(&head.write(), 0)?;
        out.sync_data()?;
        let _names = names.lock().expect("no code panics under this lock");
        match self.index.path.exists() {
            true => fs::rename(path, &self.index.path),
            // Its file went meanwhile.
            false => fs::remove_file(path),
        }
    }
}

/// The entries of many runs, in order.
struct Merge<'a> {
    file: &'a File,
    sides: Vec<Side<'a>>,
    /// The next of each.
    heap: BinaryHeap<Reverse<(Entry, usize)>>,
    at_once: u64,
}

/// A run, as far as it is read.
struct Side<'a> {
    run: &'a Run,
    next: u64,
    entries: std::vec::IntoIter<Entry>,
}

impl<'a> Merge<'a> {
    fn new(runs: &'a [Run], file: &'a File) -> io::Result<Merge<'a>> {
        let sides = runs.iter().map(|run| Side { run, next: 0, entries: Vec::new().into_iter() }).collect();
        let at_once = (ENTRIES_AT_ONCE / runs.len().max(1)).max(16) as u64;
        let mut merge = Merge { file, sides, heap: BinaryHeap::with_capacity(runs.len()), at_once };
        (0..runs.len()).try_for_each(|side| merge.refill(side))?;
        Ok(merge)
    }

    fn next(&mut self) -> io::Result<Option<Entry>> {
        let Some(Reverse((entry, side))) = self.heap.pop() else { return Ok(None) };
        self.refill(side)?;
        Ok(Some(entry))
    }

    /// The next entry of that side into the heap.
    fn refill(&mut self, side: usize) -> io::Result<()> {
        let of = &mut self.sides[side];
        if of.entries.len() == 0 {
            let entries = of.run.entries(&Reads::default(), self.file, of.next, self.at_once)?;
            of.next += entries.len() as u64;
            of.entries = entries.into_iter();
        }
        if let Some(entry) = of.entries.next() {
            self.heap.push(Reverse((entry, side)));
        }
        Ok(())
    }
}
