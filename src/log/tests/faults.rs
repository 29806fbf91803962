//! Writes and syncs that fail, disks that fill up.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use smallvec::smallvec;

use crate::log::probe::owner::{Owner, Promises, body, options};
use crate::log::sim::{Deed, Fault, SimFiles};
use crate::log::*;
use crate::telemetry::Metrics;

pub(super) fn open(files: &SimFiles, options: LogOptions) -> (Log, ReplayReport, HashMap<u64, Location>) {
    let mut seen = HashMap::new();
    let visit = &mut |r: Replayed<'_>| {
        seen.insert(r.id, r.location);
    };
    let (log, report) = Log::open(options, Arc::new(files.clone()), Arc::new(Metrics::new()), visit).unwrap();
    (log, report, seen)
}

/// A log that stays as a fault leaves it.
pub(super) fn open_unhealing(files: &SimFiles) -> Log {
    open(files, LogOptions { retry: Duration::from_secs(600), ..options() }).0
}

fn append(log: &Log, id: u64, durability: Durability) -> mpsc::Receiver<Result<Location, LogError>> {
    let (sender, receiver) = mpsc::channel();
    let body = smallvec![Bytes::from(body(id))];
    let done: Done = Box::new(move |result| drop(sender.send(result)));
    log.append([Append { kind: 1, id, head: vec![id as u8], body, durability, done: Some(done) }]);
    receiver
}

pub(super) fn write(log: &Log, id: u64) -> Result<Location, LogError> {
    append(log, id, Durability::Synced).recv().unwrap()
}

fn wait_healthy(log: &Log) {
    while log.health() != Health::Ok {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A fault at the first deed after two good records: the third fails, a relaxed one survives, the log heals, and after a
/// restart exactly the right ones are there.
fn check_fault(deed: Deed, fault: Fault, seed: u64) {
    let context = format!("{deed:?} {fault:?} seed {seed}");
    let files = SimFiles::new(seed);
    let slow = LogOptions { retry: Duration::from_secs(1), linger: Duration::from_secs(60), ..options() };
    let (log, ..) = open(&files, slow);
    write(&log, 1).unwrap();
    write(&log, 2).unwrap();
    let relaxed = append(&log, 3, Durability::Relaxed);
    files.fail(deed, 1, fault);
    assert!(write(&log, 4).is_err(), "{context}");
    assert!(matches!(log.health(), Health::ReadOnly { .. }), "{context}");
    assert!(matches!(write(&log, 5), Err(LogError::ReadOnly { .. })), "{context}");
    assert!(relaxed.recv().unwrap().is_ok(), "{context}");
    wait_healthy(&log);
    let sixth = write(&log, 6).unwrap();
    assert!(log.read_blocking(sixth).is_ok(), "{context}");
    drop(log);
    files.restart();
    let (log, report, seen) = open(&files, options());
    let mut ids: Vec<u64> = seen.keys().copied().collect();
    ids.sort_unstable();
    assert_eq!(ids, [1, 2, 3, 6], "{context}");
    assert_eq!(report.damaged, [], "{context}");
    for (id, location) in seen {
        assert_eq!(log.read_blocking(location).unwrap().body, body(id), "{context}");
    }
}

#[test]
fn a_failed_write_or_sync_poisons_the_segment_and_heals() {
    std::thread::scope(|scope| {
        for seed in 0..8 {
            scope.spawn(move || check_fault(Deed::Sync, Fault::Error(ErrorKind::Other), seed));
            scope.spawn(move || check_fault(Deed::Write, Fault::Error(ErrorKind::Other), seed));
        }
    });
}

#[test]
fn what_comes_back_from_the_systems_memory_stays() {
    for seed in 0..16 {
        let files = SimFiles::new(seed);
        let (log, ..) = open(&files, LogOptions { retry: Duration::from_secs(3600), ..options() });
        write(&log, 1).unwrap();
        files.fail(Deed::Sync, 1, Fault::Error(ErrorKind::Other));
        assert!(write(&log, 5).is_err());
        // The process ends before a new segment could say where the broken one ends; the system goes on.
        files.cut();
        drop(log);
        files.kill();
        let (log, _, shown) = open(&files, options());
        assert!(shown.contains_key(&5), "it was written, if not synced");
        files.cut();
        drop(log);
        files.restart();
        let (log, report, seen) = open(&files, options());
        assert_eq!((seen.get(&1), seen.get(&5)), (shown.get(&1), shown.get(&5)), "seed {seed}");
        assert_eq!(report.damaged, [], "seed {seed}");
        assert_eq!(log.read_blocking(seen[&5]).unwrap().body, body(5), "seed {seed}");
    }
}

#[test]
fn what_says_where_a_broken_segment_ends_stays_as_long_as_it() {
    for seed in 0..8 {
        let files = SimFiles::new(seed);
        let (log, ..) = open(&files, options());
        let first = write(&log, 1).unwrap();
        log.retain(first);
        files.fail(Deed::Sync, 1, Fault::Error(ErrorKind::Other));
        assert!(write(&log, 2).is_err());
        wait_healthy(&log);
        // Nothing in the segment after the broken one is live, nor in those that follow.
        (10..40).for_each(|id| assert!(write(&log, id).is_ok()));
        assert!(log.reclaim() > 0);
        drop(log);
        files.restart();
        let (_log, _, seen) = open(&files, options());
        assert!(seen.contains_key(&1) && !seen.contains_key(&2), "seed {seed}");
    }
}

#[test]
fn a_log_that_is_read_only_keeps_no_dead_segment() {
    let files = SimFiles::new(1);
    let log = open_unhealing(&files);
    (1..40).for_each(|id| assert!(write(&log, id).is_ok()));
    assert!(log.reclaim() > 0);
    assert_eq!((log.stats().segments, log.reclaim()), (2, 0), "the newest, and the one whose seal tells of it");
    // Who fills a file ahead may meet the first fault in the writer's place.
    assert!((40..44).any(|id| {
        files.fail(Deed::Sync, 1, Fault::Error(ErrorKind::Other));
        write(&log, id).is_err()
    }));
    assert!(log.reclaim() > 0);
    assert_eq!(log.stats().segments, 1);
}

#[test]
fn a_begin_that_fails_forgets_no_segment_that_was_given_back() {
    let mut failed = 0;
    // One of these is the sync of the folder, when a file that told of a segment before has its new name.
    for nth in 1..48 {
        let files = SimFiles::new(nth);
        let log = open_unhealing(&files);
        (1..60).for_each(|id| assert!(write(&log, id).is_ok()));
        assert!(log.reclaim() > 0 && log.stats().recycled > 0);
        files.fail(Deed::Change, nth, Fault::Error(ErrorKind::Other));
        failed += usize::from((60..120).any(|id| write(&log, id).is_err()));
        files.cut();
        drop(log);
        files.kill();
        let (_log, report, _) = open(&files, options());
        assert_eq!(report.damaged, [], "fault {nth}");
    }
    assert!(failed > 10, "{failed} writes failed");
}

#[test]
fn a_short_write_is_gone_on_with() {
    let files = SimFiles::new(1);
    let (log, ..) = open(&files, options());
    for n in 1..5 {
        files.fail(Deed::Write, n, Fault::Short);
    }
    let at = write(&log, 77).unwrap();
    assert_eq!(log.read_blocking(at).unwrap().body, body(77));
    assert_eq!(log.health(), Health::Ok);
}

#[test]
fn faults_by_chance_lose_nothing_acknowledged() {
    for seed in 0..30 {
        let files = SimFiles::new(seed);
        let mut rng = SmallRng::seed_from_u64(seed);
        let (mut promises, mut next_id) = (Promises::new(), 0);
        for round in 0..3 {
            let context = format!("seed {seed}, round {round}");
            let mut owner = Owner::open(&files).unwrap();
            owner.check(&mut promises, &context);
            for _ in 0..25 {
                if rng.random_ratio(1, 3) {
                    let deed = [Deed::Write, Deed::Sync, Deed::Change][rng.random_range(0..3)];
                    files.fail(deed, rng.random_range(1..6), Fault::Error(ErrorKind::Other));
                }
                owner.step(&files, &mut promises, &mut next_id, &mut rng);
            }
            files.clear_faults();
            wait_healthy(&owner.log);
            assert!(owner.failed.iter().all(|e| matches!(e, LogError::Io { .. } | LogError::ReadOnly { .. })));
            drop(owner);
            files.restart();
        }
        Owner::open(&files).unwrap().check(&mut promises, &format!("seed {seed}, at the end"));
    }
}

#[test]
fn on_a_full_disk_only_relaxed_records_are_taken() {
    let files = SimFiles::new(1);
    let min = 1 << 20;
    let options = LogOptions { disk_free_min: min, ..options() };
    let (log, ..) = open(&files, options.clone());
    let first = write(&log, 1).unwrap();
    files.set_free(min - 1);
    let mut accepted = vec![1];
    let error = (2..).find_map(|id| write(&log, id).map(|_| accepted.push(id)).err()).unwrap();
    assert!(error.is_full(), "{error}");
    assert!(matches!(log.health(), Health::ReadOnly { .. }));
    // What is left of the segment and the reserve takes state records; those of here are larger than the real ones.
    let relaxed: Vec<_> = (1000..1012).map(|id| (id, append(&log, id, Durability::Relaxed))).collect();
    // The second answer comes after the writer has done with all that was queued before the first.
    assert!(write(&log, 5000).unwrap_err().is_full());
    assert!(write(&log, 5000).unwrap_err().is_full());
    let mut waiting = Vec::new();
    for (id, receiver) in relaxed {
        match receiver.try_recv() {
            Ok(result) => {
                result.unwrap();
                accepted.push(id);
            }
            Err(_) => waiting.push((id, receiver)),
        }
    }
    assert!(!waiting.is_empty() && waiting.len() < 8, "{} wait", waiting.len());
    assert!(log.read_blocking(first).is_ok());
    files.set_free(1 << 30);
    wait_healthy(&log);
    for (id, receiver) in waiting {
        receiver.recv().unwrap().unwrap();
        accepted.push(id);
    }
    write(&log, 6000).unwrap();
    accepted.push(6000);
    drop(log);
    files.restart();
    let (_log, _, seen) = open(&files, options);
    let mut seen: Vec<u64> = seen.into_keys().collect();
    seen.sort_unstable();
    accepted.sort_unstable();
    assert_eq!(seen, accepted);
}

#[test]
fn a_log_opens_on_a_full_disk_and_heals() {
    let files = SimFiles::new(1);
    let (log, ..) = open(&files, options());
    write(&log, 1).unwrap();
    drop(log);
    files.set_free(0);
    let (log, _, seen) = open(&files, options());
    assert!(write(&log, 2).unwrap_err().is_full());
    assert_eq!(log.read_blocking(seen[&1]).unwrap().body, body(1));
    assert!(append(&log, 3, Durability::Relaxed).recv().unwrap().is_ok(), "the reserve is there");
    files.set_free(1 << 30);
    wait_healthy(&log);
    write(&log, 4).unwrap();
}

#[test]
fn the_queue_is_bounded() {
    let files = SimFiles::new(1);
    let (log, ..) = open(&files, LogOptions { queue_bytes_max: 20_000, ..options() });
    // The writer is held up by a `done` that waits.
    let (go, wait) = mpsc::channel::<()>();
    let done: Done = Box::new(move |_| {
        let _ = wait.recv();
    });
    let first =
        Append { kind: 1, id: 1, head: vec![], body: smallvec![], durability: Durability::Synced, done: Some(done) };
    log.append([first]);
    let synced: Vec<_> = (0..40).map(|id| append(&log, id, Durability::Synced)).collect();
    let relaxed: Vec<_> = (0..40).map(|id| append(&log, id, Durability::Relaxed)).collect();
    go.send(()).unwrap();
    let count = |receivers: Vec<mpsc::Receiver<Result<Location, LogError>>>| {
        let results = receivers.into_iter().map(|r| r.recv().unwrap());
        let (taken, refused): (Vec<_>, Vec<_>) = results.partition(|r| r.is_ok());
        assert!(refused.iter().all(|r| matches!(r, Err(LogError::Busy { .. }))));
        (taken.len(), refused.len())
    };
    let (taken, refused) = count(synced);
    assert!(taken > 2 && refused > 10, "{taken} taken, {refused} refused");
    assert_eq!(count(relaxed), (40, 0), "what has happened is never refused");
    write(&log, 99).unwrap();
    assert_eq!(log.stats().queued_bytes, 0);
}

#[test]
fn a_segment_that_cannot_be_begun_costs_no_file() {
    for deed in 1..40 {
        let files = SimFiles::new(deed);
        let (log, ..) = open(&files, options());
        // Several are dead, and are used again.
        (1..40).for_each(|id| assert!(write(&log, id).is_ok()));
        log.reclaim();
        assert!(log.stats().recycled > 0);
        files.fail(Deed::Change, deed, Fault::Error(ErrorKind::Other));
        for id in 40..60 {
            let _ = write(&log, id);
        }
        wait_healthy(&log);
        let free = files.paths().into_iter().filter(|path| path.to_str().is_some_and(|path| path.contains("free-")));
        assert_eq!(log.stats().recycled, free.count(), "deed {deed}");
    }
}
