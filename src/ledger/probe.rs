//! Ways in for fuzz targets; see [`crate::probe`].

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use smallvec::smallvec;

use super::codec::{BatchHead, Kept, PAGE, PER_PAGE, RunHead, read_facts, write_facts};
use super::{facts, receipts};
use crate::log::probe::MemoryFiles;
use crate::log::{Append, Drive, Durability, Log, LogOptions};
use crate::telemetry::Metrics;

/// The head of any record of the ledger's logs: what can be read is written so that it reads the same, whatever version
/// it was.
pub fn record(octets: &[u8]) {
    if let Ok(batch) = BatchHead::read(octets) {
        assert_eq!(BatchHead::read(&batch.write()), Ok(batch));
    }
    if let Ok(run) = RunHead::read(octets) {
        assert_eq!(RunHead::read(&run.write()), Ok(run));
    }
    if let Ok(facts) = read_facts(octets) {
        assert_eq!(write_facts(&facts), octets);
    }
}

/// What the index of facts says; see `facts::probe`.
pub fn indexed(octets: &[u8]) {
    facts::probe(octets);
}

/// Whole pages made of what stands in a file.
const PAGES_MAX: usize = 16;

/// A run of receipts: its head, of as many octets as two of them say, and its pages. The first octet says whether pages are filled up with
/// zeros and their checksums made good (1), and whether every receipt stands for a whole page, of names that count on from its own (2).
/// Looking up names and merging end in an answer or an error.
pub fn run(octets: &[u8]) {
    let [mode, high, low, rest @ ..] = octets else { return };
    let (head, pages) = rest.split_at(usize::from(u16::from_be_bytes([*high, *low])).min(rest.len()));
    let Ok(read) = RunHead::read(head) else { return };
    let mut pages = if mode & 2 == 2 {
        pages.as_chunks().0.iter().take(PAGES_MAX).flat_map(|first| page(Kept::read(first, true))).collect()
    } else {
        pages.to_vec()
    };
    if mode & 1 == 1 {
        pages.resize(pages.len().next_multiple_of(PAGE), 0);
        pages.as_chunks_mut::<PAGE>().0.iter_mut().for_each(seal);
    }
    let options =
        LogOptions { drive: Drive::Stepped(Arc::new(|| {})), segment_size: 64 << 10, ..LogOptions::new("log") };
    let (files, metrics) = (Arc::new(MemoryFiles::default()), Arc::new(Metrics::new()));
    let (log, _) = Log::open(options, files, metrics, &mut |_| {}).expect("nothing fails");
    let location = Arc::new(Mutex::new(None));
    let told = Arc::clone(&location);
    log.append([Append {
        kind: 2,
        id: 0,
        head: head.to_vec(),
        body: smallvec![Bytes::from(pages.clone())],
        durability: Durability::Synced,
        done: Some(Box::new(move |at| *told.lock().expect("nobody panics") = at.ok())),
    }]);
    log.step();
    let location = location.lock().expect("nobody panics").expect("nothing fails");
    receipts::probe(&log, location, read, &pages);
}

/// A page of receipts that differ in their names only.
fn page(first: Kept) -> Vec<u8> {
    let mut page = Vec::with_capacity(PAGE);
    for n in 0..PER_PAGE as u128 {
        Kept { name: first.name.wrapping_add(n), ..first }.write(&mut page);
    }
    page.resize(PAGE, 0);
    page
}

/// Gives a page the checksum of what stands in it.
fn seal(page: &mut [u8; PAGE]) {
    let crc = crc32fast::hash(&page[..PAGE - 4]);
    page[PAGE - 4..].copy_from_slice(&crc.to_le_bytes());
}
