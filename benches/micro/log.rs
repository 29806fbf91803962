//! Appending, from the first append to the last `done`. In memory, so without what a disk takes.

use std::path::PathBuf;
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use divan::Bencher;
use divan::counter::ItemsCount;
use posthaste::log::probe::MemoryFiles;
use posthaste::log::{Append, Durability, Log, LogOptions};
use posthaste::telemetry::Metrics;
use smallvec::smallvec;

use crate::message;

const BATCH: usize = 64;

#[divan::bench]
fn append_64_records_of_10_kb(bencher: Bencher<'_, '_>) {
    let options = LogOptions { segment_size: 1 << 20, recycle_max: 8, ..LogOptions::new(PathBuf::from("log")) };
    let files = Arc::new(MemoryFiles::default());
    let opened = Log::open(options, files, Arc::new(Metrics::new()), &mut |_| {});
    let (log, _) = opened.expect("memory does not fail");
    let body = Bytes::from(message::content());
    let (done, all_done) = mpsc::channel();
    bencher.counter(ItemsCount::new(BATCH)).bench_local(|| {
        for id in 0..BATCH as u64 {
            let done = done.clone();
            log.append([Append {
                kind: 1,
                id,
                head: vec![0; 120],
                body: smallvec![body.clone()],
                durability: Durability::Synced,
                done: Some(Box::new(move |result| done.send(result.is_ok()).expect("somebody waits"))),
            }]);
        }
        let written = all_done.iter().take(BATCH).filter(|ok| *ok).count();
        assert_eq!(written, BATCH);
        // Nothing is live, so all of it but the open segment is used again.
        log.reclaim();
    });
}
