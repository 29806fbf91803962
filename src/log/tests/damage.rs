//! Octets that change, segments that are lost, files that are none.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use smallvec::smallvec;

use super::faults::{open, open_unhealing, write};
use crate::log::probe::owner::{body, options};
use crate::log::segment::SegmentHeader;
use crate::log::sim::{Deed, Fault, SimFiles};
use crate::log::*;

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

/// What becomes of the newest segment, of which no header tells.
#[derive(Debug, Clone, Copy)]
enum Loss {
    Missing,
    Emptied,
}

#[test]
fn the_newest_segment_missing_is_noticed() {
    let losses = [Loss::Missing, Loss::Emptied];
    for (seed, starts, loss) in (0..4).flat_map(|s| (1..4).flat_map(move |n| losses.map(|loss| (s, n, loss)))) {
        let files = SimFiles::new(seed);
        let mut newest = None;
        // Each start begins a segment behind the one that the last process closed, or was writing to when it was killed.
        for start in 0..starts {
            let (log, ..) = open(&files, options());
            // Those of the first start take several segments, and the newest is behind a full one.
            let ids = if start == 0 { 1..40 } else { start * 100..start * 100 + 3 };
            for id in ids {
                newest = Some(write(&log, id).unwrap());
            }
            // Of what nobody retains only that is left which tells of the newest.
            log.reclaim();
            match (seed + start) % 2 {
                0 => drop(log),
                _ => {
                    files.cut();
                    drop(log);
                    files.kill();
                }
            }
        }
        let lost = newest.unwrap().position.segment;
        let why = match loss {
            Loss::Missing => {
                files.remove(&path_of(lost)).unwrap();
                "the file is missing"
            }
            Loss::Emptied => {
                files.truncate(&path_of(lost), 0).unwrap();
                "nothing in the file is readable"
            }
        };
        let context = format!("seed {seed}, start {starts}, {loss:?}");
        let verified = verify_with(&files, Path::new("spool"), &mut |_| {}).unwrap().damaged;
        let (log, report, _) = open(&files, options());
        let [unsure @ .., damage] = &report.damaged[..] else { panic!("{context}: {report:?}") };
        assert_eq!((&damage.file, damage.why), (&path_of(lost), why), "{context}");
        // Those that were freed when it was begun, which only its header would tell.
        assert!(unsure.iter().all(|damage| damage.why.contains("or was given back before")), "{context}: {unsure:?}");
        assert_eq!(verified, report.damaged, "{context}");
        // It is told once, and its number is not given again.
        assert!(write(&log, 1000).unwrap().position.segment > lost, "{context}");
        drop(log);
        let (_log, report, _) = open(&files, options());
        assert_eq!(report.damaged, [], "{context}");
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
fn a_newest_segment_cut_off_is_not_written_over() {
    let files = SimFiles::new(1);
    let (log, ..) = open(&files, LogOptions { segment_size: 256 << 10, ..options() });
    let written: Vec<Location> = (1..20).map(|id| write(&log, id).unwrap()).collect();
    files.cut();
    drop(log);
    files.kill();
    // The last page of what is left is a record's, not the seal's.
    let [.., left, cut] = written[..] else { panic!("{written:?}") };
    files.truncate(&path_of(cut.position.segment), u64::from(cut.position.offset) & !4095).unwrap();
    for _ in 0..2 {
        let (log, _, seen) = open(&files, options());
        assert_eq!(seen.len(), 18);
        assert_eq!(log.read_blocking(left).unwrap().body, body(18));
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
        let log = open_unhealing(&files);
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
