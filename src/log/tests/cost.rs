//! What the log costs on a real disk. Not a test of anything: `cargo test --lib log::tests::cost -- --ignored --nocapture`.

use std::sync::mpsc;

use bytes::Bytes;
use smallvec::smallvec;

use super::*;
use crate::clock::Clock;

const BODY: usize = 10_000;

/// Appends `count` records, `depth` of them under way at any time, and prints rate and latency.
fn measure(name: &str, log: &Log, count: u64, depth: u64, reclaim: bool) {
    let body = Bytes::from(vec![b'x'; BODY]);
    let (sender, receiver) = mpsc::channel();
    let began = Clock.instant();
    let mut waits = Vec::new();
    let mut queued = 0;
    while (waits.len() as u64) < count {
        while queued < count && queued - (waits.len() as u64) < depth {
            let (sender, before) = (sender.clone(), Clock.instant());
            let done: Done = Box::new(move |result| {
                result.unwrap();
                sender.send(Clock.instant() - before).unwrap();
            });
            let body = smallvec![body.clone()];
            let durability = Durability::Synced;
            log.append([Append { kind: 7, id: queued, head: vec![0; 120], body, durability, done: Some(done) }]);
            queued += 1;
        }
        waits.push(receiver.recv().unwrap());
        if reclaim && waits.len() % 1000 == 0 {
            log.reclaim();
        }
    }
    let took = (Clock.instant() - began).as_secs_f64();
    waits.sort_unstable();
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
    println!(
        "{name:<28} {:>7.0} records/s; ms p50 {:.2} p99 {:.2} p99.9 {:.2} max {:.1}; {:?}",
        count as f64 / took,
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0),
        log.stats().segments
    );
}

#[test]
#[ignore = "measures, on the disk that POSTHASTE_COST_DIR is on (default: the build's)"]
fn cost() {
    let dir = std::env::var_os("POSTHASTE_COST_DIR").map_or_else(|| Path::new("target").to_owned(), Into::into);
    for round in 0..3 {
        let dir = tempfile::tempdir_in(&dir).unwrap();
        let before = Clock.instant();
        let (log, ..) = open(LogOptions::new(dir.path()));
        println!("round {round}: opened in {:.1} ms", (Clock.instant() - before).as_secs_f64() * 1000.0);
        measure("new segments, 1 at a time", &log, 2000, 1, false);
        measure("new segments, 64 at once", &log, 30_000, 64, false);
        log.reclaim();
        measure("used again, 1 at a time", &log, 2000, 1, true);
        measure("used again, 64 at once", &log, 30_000, 64, true);
    }
}
