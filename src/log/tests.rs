//! The log on the real file system; crashes and faults in the files below.

mod cost;
mod crash;
mod damage;
mod faults;

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;

use bytes::Bytes;
use smallvec::smallvec;

use super::*;
use crate::telemetry::Metrics;

fn small(dir: &Path) -> LogOptions {
    LogOptions { segment_size: 64 << 10, disk_free_min: 0, recycle_max: 2, ..LogOptions::new(dir) }
}

fn open(options: LogOptions) -> (Log, ReplayReport, Vec<Location>) {
    let mut seen = Vec::new();
    let visit = &mut |r: Replayed<'_>| {
        assert_eq!((r.kind, r.head), (7, format!("head {}", r.id).as_bytes()));
        seen.push(r.location);
    };
    let (log, report) = Log::open(options, Arc::new(DiskFiles), Arc::new(Metrics::new()), visit).unwrap();
    (log, report, seen)
}

fn record(id: u64, body: &[u8], durability: Durability) -> (Append, mpsc::Receiver<Result<Location, LogError>>) {
    let (sender, receiver) = mpsc::channel();
    let (first, second) = body.split_at(body.len() / 3);
    let append = Append {
        kind: 7,
        id,
        head: format!("head {id}").into_bytes(),
        body: smallvec![Bytes::copy_from_slice(first), Bytes::copy_from_slice(second)],
        durability,
        done: Some(Box::new(move |result| sender.send(result).unwrap())),
    };
    (append, receiver)
}

fn write(log: &Log, id: u64, body: &[u8]) -> Location {
    let (append, receiver) = record(id, body, Durability::Synced);
    log.append([append]);
    receiver.recv().unwrap().unwrap()
}

#[test]
fn what_was_acknowledged_is_replayed_and_read() {
    let dir = tempfile::tempdir().unwrap();
    let (log, report, _) = open(small(dir.path()));
    assert_eq!(report, ReplayReport::default());
    let bodies: Vec<Vec<u8>> = (0..40usize).map(|n| vec![n as u8; n * 397]).collect();
    let written: Vec<Location> = bodies.iter().enumerate().map(|(n, body)| write(&log, n as u64, body)).collect();
    for _ in 0..2 {
        for (n, location) in written.iter().enumerate() {
            let read = log.read_blocking(*location).unwrap();
            assert_eq!((read.kind, read.id), (7, n as u64));
            assert_eq!(read.head, format!("head {n}"));
            assert_eq!(read.body, bodies[n]);
        }
    }
    log.close();
    for round in 0..3 {
        let (log, report, seen) = open(small(dir.path()));
        assert_eq!((report.records, report.unsealed, report.torn), (40, 0, false), "round {round}");
        assert_eq!(report.damaged, []);
        assert_eq!(seen, written);
        assert_eq!(log.read_blocking(written[39]).unwrap().body, bodies[39]);
    }
    let report = verify(dir.path(), &mut |r| assert!(r.body_intact)).unwrap();
    assert_eq!((report.records, report.torn, report.damaged.len()), (40, 0, 0));
}

#[test]
fn relaxed_records_are_written_without_company() {
    let dir = tempfile::tempdir().unwrap();
    let (log, ..) = open(small(dir.path()));
    let (append, receiver) = record(1, b"x", Durability::Relaxed);
    log.append([append]);
    assert!(receiver.recv().unwrap().is_ok());
}

#[test]
fn a_record_larger_than_a_segment_gets_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let (log, ..) = open(small(dir.path()));
    let small_one = write(&log, 1, b"small");
    let body: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
    let large = write(&log, 2, &body);
    assert_ne!(small_one.position.segment, large.position.segment);
    assert_eq!(log.read_blocking(large).unwrap().body, body);
    drop(log);
    let (log, report, seen) = open(small(dir.path()));
    assert_eq!((seen.len(), report.damaged.len()), (2, 0));
    assert_eq!(log.read_blocking(large).unwrap().body, body);
}

#[test]
fn one_folder_one_log() {
    let dir = tempfile::tempdir().unwrap();
    let (_log, ..) = open(small(dir.path()));
    let second = Log::open(small(dir.path()), Arc::new(DiskFiles), Arc::new(Metrics::new()), &mut |_| {});
    let error = second.err().unwrap();
    assert!(matches!(&error, LogError::Locked { dir: d } if d == dir.path()), "{error}");
}

#[test]
fn segments_are_used_again_when_all_in_them_is_dead() {
    let dir = tempfile::tempdir().unwrap();
    let (log, ..) = open(small(dir.path()));
    let mut live = std::collections::VecDeque::new();
    for id in 0..300u64 {
        let location = write(&log, id, &vec![id as u8; 5000]);
        log.retain(location);
        live.push_back((id, location));
        if live.len() > 20 {
            log.release(live.pop_front().unwrap().1);
            log.reclaim();
        }
    }
    let stats = log.stats();
    assert!(stats.segments <= 5, "{stats:?}");
    assert!((1..=2).contains(&stats.recycled), "{stats:?}");
    for (id, location) in live {
        assert_eq!(log.read_blocking(location).unwrap().id, id);
    }
}

#[test]
fn the_smaller_segments_of_a_new_log_are_used_again_too() {
    let dir = tempfile::tempdir().unwrap();
    let options = || LogOptions { segment_size: 8 << 20, recycle_max: 4, ..small(dir.path()) };
    let (log, ..) = open(options());
    // The first two have 2 MiB each, with room for one of these.
    for id in 0..4 {
        write(&log, id, &vec![id as u8; 3 << 19]);
        log.reclaim();
    }
    let free = || {
        let names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap());
        let free = names.filter(|entry| entry.file_name().to_str().unwrap().starts_with("free-"));
        free.map(|entry| entry.metadata().unwrap().len()).collect::<Vec<u64>>()
    };
    let before = free();
    assert!(before.contains(&(2 << 20)), "{before:?}");
    assert_eq!(log.stats().recycled, before.len());
    drop(log);
    // And so they are by who opens it next.
    let (log, report, _) = open(options());
    assert_eq!(report.damaged, []);
    assert_eq!((log.stats().recycled, free().len()), (before.len() - 1, before.len() - 1));
}

#[test]
fn a_segment_waits_for_those_it_depends_on() {
    let dir = tempfile::tempdir().unwrap();
    let (log, ..) = open(small(dir.path()));
    let first = write(&log, 0, &[0; 40_000]);
    let second = write(&log, 1, &[1; 40_000]);
    let third = write(&log, 2, &[2; 40_000]);
    // The last two tell of each other.
    write(&log, 3, &[3; 40_000]);
    let [a, b, c] = [first, second, third].map(|l| l.position.segment);
    assert!(a < b && b < c);
    log.retain(first);
    log.depend(b, a);
    log.depend(a, b);
    assert_eq!(log.reclaim(), 0);
    log.set_reclaim_floor(b);
    log.release(first);
    assert_eq!(log.reclaim(), 1);
    assert_eq!(log.reclaim(), 0);
    log.set_reclaim_floor(c);
    assert_eq!(log.reclaim(), 1);
    assert!(matches!(log.read_blocking(first), Err(LogError::Gone { .. })));
    assert_eq!(log.read_blocking(third).unwrap().id, 2);
}

#[test]
fn after_close_nothing_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let (log, ..) = open(small(dir.path()));
    log.close();
    let (append, receiver) = record(1, b"x", Durability::Synced);
    log.append([append]);
    assert!(matches!(receiver.recv().unwrap(), Err(LogError::Closed)));
}

#[test]
fn what_depends_on_a_vacated_segment_inherits_what_it_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let (log, ..) = open(small(dir.path()));
    let written = [0, 1, 2, 3, 4].map(|id| write(&log, id, &[7; 40_000]));
    let [a, b, c, ..] = written.map(|l| l.position.segment);
    // In b stands the copy of a record in a; in c its deletion.
    log.retain(written[0]);
    log.depend(b, a);
    log.depend(c, b);
    log.vacate(b, &[]);
    assert_eq!(log.reclaim(), 1);
    assert!(log.holds_any(a..=b, c) && !log.holds_any(b..=c, c));
    assert_eq!(log.reclaim(), 0);
    log.release(written[0]);
    assert_eq!(log.reclaim(), 2);
}

#[test]
fn segments_that_are_read_whole_are_fetched_ahead() {
    // Of long bodies nothing is read, so nothing of them is fetched.
    for (records, body, ahead) in [(400, 10_000, true), (14, 300_000, false)] {
        let (dir, files) = (Path::new("/log"), sim::SimFiles::new(1));
        let options = || LogOptions { segment_size: 1 << 20, ..small(dir) };
        let open = || Log::open(options(), Arc::new(files.clone()), Arc::new(Metrics::new()), &mut |_| {}).unwrap();
        let (log, _) = open();
        for id in 0..records {
            write(&log, id, &vec![b'x'; body]);
        }
        log.close();
        let (before, (log, report)) = (files.wanted(), open());
        assert_eq!(before, 0, "only who reads all asks");
        let replayed = files.wanted();
        assert!(report.segments >= 4, "{report:?}");
        assert!(if ahead { replayed > report.bytes / 2 } else { replayed == 0 }, "{replayed} octets, {report:?}");
        log.scan_all(&mut |_| {}).unwrap();
        assert!(files.wanted() >= 2 * replayed, "{} after {replayed}", files.wanted());
        log.close();
    }
}
