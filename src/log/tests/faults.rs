//! Writes and syncs that fail, disks that fill up, octets that change, files that are no segments.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use smallvec::smallvec;

use super::owner::{Owner, Promises, body, options};
use crate::log::segment::SegmentHeader;
use crate::log::sim::{Deed, Fault, SimFiles};
use crate::log::*;
use crate::telemetry::Metrics;

fn open(files: &SimFiles, options: LogOptions) -> (Log, ReplayReport, HashMap<u64, Location>) {
    let mut seen = HashMap::new();
    let visit = &mut |r: Replayed<'_>| {
        seen.insert(r.id, r.location);
    };
    let (log, report) = Log::open(options, Arc::new(files.clone()), Arc::new(Metrics::new()), visit).unwrap();
    (log, report, seen)
}

fn append(log: &Log, id: u64, durability: Durability) -> mpsc::Receiver<Result<Location, LogError>> {
    let (sender, receiver) = mpsc::channel();
    let body = smallvec![Bytes::from(body(id))];
    let done: Done = Box::new(move |result| drop(sender.send(result)));
    log.append([Append { kind: 1, id, head: vec![id as u8], body, durability, done: Some(done) }]);
    receiver
}

fn write(log: &Log, id: u64) -> Result<Location, LogError> {
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
fn one_damaged_record_costs_one_record() {
    let (mut heads, mut bodies) = (0, 0);
    for seed in 0..60 {
        let files = SimFiles::new(seed);
        let mut rng = SmallRng::seed_from_u64(seed);
        let (log, ..) = open(&files, LogOptions { segment_size: 256 << 10, ..options() });
        let written: Vec<Location> = (0..30).map(|id| write(&log, id).unwrap()).collect();
        // Half of the time the segment is sealed, half of the time it is not.
        if seed % 2 == 0 {
            log.close();
        } else {
            files.cut();
            drop(log);
        }
        files.kill();
        let hit = rng.random_range(0..29);
        let at = written[hit];
        let place = u64::from(at.position.offset) + rng.random_range(0..at.record_len());
        let in_body = place >= u64::from(at.position.offset) + 36 + u64::from(at.head_len);
        let path = Path::new("spool").join(format!("seg-{:010}.log", at.position.segment.0));
        assert!(files.damage(&path, place, |bytes| bytes[0] ^= 0x40));
        let (log, report, seen) = open(&files, options());
        let context = format!("seed {seed}, record {hit}, octet {place}, {report:?}");
        assert!(report.damaged.len() == usize::from(!in_body || seed % 2 == 1), "{context}");
        for id in 0..30 {
            let read = seen.get(&id).map(|at| log.read_blocking(*at));
            match read {
                Some(Ok(record)) => assert_eq!(record.body, body(id), "{context}"),
                Some(Err(LogError::Damaged { .. })) => {
                    assert!(id == hit as u64 && in_body, "{context}");
                    bodies += 1;
                }
                None => {
                    assert!(id == hit as u64 && !in_body, "{context}");
                    heads += 1;
                }
                Some(Err(error)) => panic!("{context}: {error}"),
            }
        }
        let verified = verify_with(&files, Path::new("spool"), &mut |_| {}).unwrap();
        assert!(!verified.damaged.is_empty(), "{context}");
    }
    assert_eq!(heads + bodies, 60);
}

#[test]
fn a_lost_header_page_costs_nothing() {
    let files = SimFiles::new(3);
    let (log, ..) = open(&files, options());
    let written: Vec<Location> = (0..30).map(|id| write(&log, id).unwrap()).collect();
    drop(log);
    let path = Path::new("spool").join(format!("seg-{:010}.log", written[3].position.segment.0));
    assert!(files.damage(&path, 0, |bytes| bytes[..4096].fill(0)));
    let (_log, report, seen) = open(&files, options());
    assert_eq!((seen.len(), report.damaged.len()), (30, 1));
}

/// Opens a log of several segments, all in use, after something happened to its files. Returns what is found to be damaged, the same by
/// `verify` as by `open`, and which records are still there.
fn damage_found(seed: u64, happens: impl FnOnce(&SimFiles, &[Location])) -> (Vec<Damage>, Vec<u64>) {
    let files = SimFiles::new(seed);
    let (log, ..) = open(&files, options());
    let written: Vec<Location> = (1..40).map(|id| write(&log, id).unwrap()).collect();
    written.iter().for_each(|at| log.retain(*at));
    if seed.is_multiple_of(2) {
        drop(log);
    } else {
        files.cut();
        drop(log);
        files.kill();
    }
    happens(&files, &written);
    let verified = verify_with(&files, Path::new("spool"), &mut |_| {}).unwrap().damaged;
    let (log, report, seen) = open(&files, options());
    assert_eq!(verified, report.damaged, "seed {seed}");
    drop(log);
    let mut ids: Vec<u64> = seen.into_keys().collect();
    ids.sort_unstable();
    (report.damaged, ids)
}

fn path_of(segment: SegmentId) -> PathBuf {
    Path::new("spool").join(format!("seg-{:010}.log", segment.0))
}

#[test]
fn a_missing_segment_is_noticed() {
    for seed in 0..4 {
        let mut lost = SegmentId(0);
        let (damaged, left) = damage_found(seed, |files, written| {
            lost = written[10].position.segment;
            files.remove(&path_of(lost)).unwrap();
        });
        let [damage] = &damaged[..] else { panic!("{damaged:?}") };
        assert_eq!((&damage.file, damage.offset, damage.why), (&path_of(lost), 0, "the file is missing"));
        assert!(damage.len > 4096 && left.len() < 39 && !left.contains(&11), "{damage} {left:?}");
    }
}

#[test]
fn a_segment_of_which_nothing_is_left_is_noticed() {
    for (seed, len) in [(0, 0), (1, 0), (0, 100), (1, 4096)] {
        let (damaged, left) = damage_found(seed, |files, written| {
            files.truncate(&path_of(written[10].position.segment), len).unwrap();
        });
        assert_eq!(damaged.len(), 1, "cut to {len}: {damaged:?}");
        assert!(!left.contains(&11));
    }
}

#[test]
fn a_segment_cut_off_between_two_batches_is_noticed() {
    for seed in 0..4 {
        let mut cut = 0;
        let (damaged, left) = damage_found(seed, |files, written| {
            // Each record here is a batch of its own.
            let segment = written[10].position.segment;
            let last = written.iter().rfind(|at| at.position.segment == segment).unwrap();
            cut = u64::from(last.position.offset) & !4095;
            files.truncate(&path_of(segment), cut).unwrap();
        });
        let [damage] = &damaged[..] else { panic!("{damaged:?}") };
        assert_eq!((damage.offset, damage.why), (cut, "the file is cut off here"), "seed {seed}");
        assert_eq!(left.len(), 38, "seed {seed}: {left:?}");
    }
}

#[test]
fn what_was_reclaimed_is_not_missing() {
    let files = SimFiles::new(1);
    // A segment that is larger than others cannot be used again; nor can more than `recycle_max`.
    let (log, ..) = open(&files, LogOptions { recycle_max: 1, ..options() });
    for round in 0..6 {
        (1..40).for_each(|id| assert!(write(&log, id).is_ok()));
        log.reclaim();
        for seed in 0..8 {
            let after = files.copy(seed);
            after.restart();
            let verified = verify_with(&after, Path::new("spool"), &mut |_| {}).unwrap();
            assert_eq!(verified.damaged, [], "round {round}");
            let (_log, report, _) = open(&after, options());
            assert_eq!(report.damaged, [], "round {round}");
        }
    }
    let gone = files.paths().into_iter().filter(|path| path.to_str().is_some_and(|path| path.contains("gone"))).count();
    assert!(gone < 12, "{gone} names of segments long gone stay");
    drop(log);
    let (log, ..) = open(&files, options());
    (1..40).for_each(|id| assert!(write(&log, id).is_ok()));
    let gone = files.paths().into_iter().filter(|path| path.to_str().is_some_and(|path| path.contains("gone"))).count();
    assert_eq!(gone, 0);
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

#[test]
fn a_log_of_version_1_is_read_and_its_files_are_not_used_again() {
    let files = SimFiles::new(1);
    let (log, ..) = open(&files, options());
    let written: Vec<Location> = (1..20).map(|id| write(&log, id).unwrap()).collect();
    drop(log);
    let mut headers = 0;
    for path in files.paths() {
        files.damage(&path, 0, |page| {
            if let Some(header) = SegmentHeader::parse(page) {
                let old = SegmentHeader { others: None, ..header }.encode();
                page[..old.len()].copy_from_slice(&old);
                headers += 1;
            }
        });
    }
    assert!(headers > 2);
    let (log, report, seen) = open(&files, options());
    assert_eq!((seen.len(), report.damaged.len()), (19, 0));
    assert!(written.iter().all(|at| log.read_blocking(*at).is_ok()));
    assert!(log.reclaim() > 0);
    assert_eq!(log.stats().recycled, 0);
}

#[test]
fn a_header_that_may_come_back_cuts_nothing_off() {
    let mut kept = 0;
    for nth in 1..24 {
        let files = SimFiles::new(nth);
        let (log, ..) = open(&files, LogOptions { retry: Duration::from_secs(600), ..options() });
        write(&log, 1).unwrap();
        // One of these makes the log begin a segment; some deed of that fails, or of a batch before.
        files.fail(Deed::Change, nth, Fault::Error(ErrorKind::Other));
        let _ = (2..60).find(|id| write(&log, *id).is_err());
        files.clear_faults();
        // There may be room left for small ones, in the segment whose end the new header names.
        let (sender, receiver) = mpsc::channel();
        let small = |id: u64| {
            let sender = sender.clone();
            let done: Done = Box::new(move |result| sender.send((id, result.is_ok())).unwrap_or(()));
            let durability = Durability::Relaxed;
            Append { kind: 1, id, head: vec![1], body: smallvec![], durability, done: Some(done) }
        };
        (1000..1003).for_each(|id| log.append([small(id)]));
        // Its answer comes behind theirs.
        let _ = write(&log, 2000);
        let _ = write(&log, 2000);
        let acknowledged: Vec<u64> = receiver.try_iter().filter_map(|(id, ok)| ok.then_some(id)).collect();
        kept += acknowledged.len();
        for seed in 0..12 {
            let after = files.copy(seed);
            after.restart();
            let (_log, report, seen) = open(&after, options());
            let context = format!("fault {nth}, seed {seed}, acknowledged {acknowledged:?}");
            assert!(acknowledged.iter().all(|id| seen.contains_key(id)), "{context}");
            assert_eq!(report.damaged, [], "{context}");
        }
        drop(log);
    }
    assert!(kept > 10, "{kept} records kept");
}

#[test]
fn a_body_cannot_pass_for_a_record() {
    // A message that holds a whole segment, taken from a log of the same generation.
    let other = SimFiles::new(1);
    let (log, ..) = open(&other, options());
    (100..104).for_each(|id| assert!(write(&log, id).is_ok()));
    drop(log);
    let file = other.open(Path::new("spool/seg-0000000001.log"), false).unwrap();
    let mut forged = vec![0; 32 << 10];
    file.read_at(&mut forged, 0).unwrap();
    let files = SimFiles::new(2);
    let (log, ..) = open(&files, LogOptions { segment_size: 256 << 10, ..options() });
    let (sender, receiver) = mpsc::channel();
    let done: Done = Box::new(move |result| drop(sender.send(result)));
    let (kind, durability) = (1, Durability::Synced);
    let evil = Append { kind, id: 1, head: vec![], body: smallvec![forged.into()], durability, done: Some(done) };
    log.append([evil]);
    let at = receiver.recv().unwrap().unwrap();
    write(&log, 2).unwrap();
    drop(log);
    let path = Path::new("spool/seg-0000000001.log");
    assert!(files.damage(path, u64::from(at.position.offset), |bytes| bytes[0] = 0));
    let (_log, report, seen) = open(&files, options());
    assert_eq!(report.damaged.len(), 1);
    assert_eq!(seen.into_keys().collect::<Vec<_>>(), [2]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever stands in the files, opening and verifying end without a panic.
    #[test]
    fn garbage_segments_are_no_panic(seed: u64, hits in 1usize..40, truncate: bool) {
        let files = SimFiles::new(seed);
        let mut rng = SmallRng::seed_from_u64(seed);
        let (log, ..) = open(&files, options());
        (0..20).for_each(|id| assert!(write(&log, id).is_ok()));
        files.cut();
        drop(log);
        files.kill();
        let paths = files.paths();
        for _ in 0..hits {
            let path = &paths[rng.random_range(0..paths.len())];
            let (at, len) = (rng.random_range(0..48 << 10), rng.random_range(1..200));
            files.damage(path, at, |bytes| {
                let len = len.min(bytes.len());
                rng.fill(&mut bytes[..len]);
            });
        }
        if truncate {
            let junk = Path::new("spool/seg-0000000099.log");
            let size = rng.random_range(0..10_000);
            files.create(junk, size).unwrap();
            files.damage(junk, 0, |bytes| rng.fill(bytes));
        }
        verify_with(&files, Path::new("spool"), &mut |_| {}).unwrap();
        let (log, _, seen) = open(&files, options());
        for at in seen.into_values() {
            let _ = log.read_blocking(at);
        }
        write(&log, 100).unwrap();
    }
}
