//! The event log: indexing its lines, and finding a message in 400 MB of them.

use std::cell::Cell;
use std::sync::{Mutex, MutexGuard};

use divan::Bencher;
use divan::counter::ItemsCount;
use posthaste::events::EventLog;
use posthaste::events::probe::Indexing;
use posthaste::mail::MessageId;
use tempfile::TempDir;

use crate::lines;

/// What has been written once, for all steps that look into it.
static WRITTEN: Mutex<Option<(EventLog, TempDir)>> = Mutex::new(None);

/// Removes what was written.
pub fn forget() {
    written().take();
}

fn written() -> MutexGuard<'static, Option<(EventLog, TempDir)>> {
    WRITTEN.lock().expect("no step panics")
}

#[divan::bench]
fn index_64_lines(bencher: Bencher<'_, '_>) {
    const BATCH: u64 = 64;
    let folder = tempfile::tempdir().expect("a folder");
    let mut batch = Vec::new();
    (0..BATCH).for_each(|line| lines::write_line(line, &mut batch));
    let position = b",\"position\":\"1-4096\"}\n";
    let ends = batch.split_inclusive(|b| *b == b'\n');
    let batch: Vec<u8> = ends.flat_map(|line| [&line[..line.len() - 2], position].concat()).collect();
    let mut indexing = Indexing::new(&folder.path().join("indexed"));
    bencher.counter(ItemsCount::new(BATCH)).bench_local(|| indexing.written(&batch));
}

#[divan::bench]
fn find_a_message(bencher: Bencher<'_, '_>) {
    find(bencher, true);
}

#[divan::bench]
fn find_none(bencher: Bencher<'_, '_>) {
    find(bencher, false);
}

/// The work is done on another thread.
fn find(bencher: Bencher<'_, '_>, there: bool) {
    let mut written = written();
    let (log, _) = written.get_or_insert_with(|| {
        let folder = tempfile::tempdir().expect("a folder");
        (lines::write(folder.path()), folder)
    });
    let archive = log.archive();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let line = Cell::new(0);
    bencher.bench_local(|| {
        line.set((line.get() + 99_991) % lines::LINES);
        let message = MessageId(lines::message(line.get()).0 + u64::from(!there));
        let found = runtime.block_on(archive.origin(message, |_| true)).expect("it can be read");
        assert_eq!(found.is_some(), there);
    });
}
