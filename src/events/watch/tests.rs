//! A log that is written, set aside and opened again while somebody watches.

use std::path::Path;

use super::*;
use crate::config::{ByteSize, EventsConfig};
use crate::events::EventLog;
use crate::log::SegmentId;
use crate::telemetry::Metrics;

fn open(dir: &Path, rotate: u64, keep: usize) -> EventLog {
    let config = EventsConfig { rotate_size: ByteSize(rotate), keep };
    EventLog::open(dir, &config, Arc::new(Metrics::new())).unwrap().0
}

/// Record `n` of one to three lines.
fn write(log: &EventLog, n: u32) {
    let position = Position { segment: SegmentId(n / 100 + 1), offset: n % 100 * 4096 };
    let lines: String = (0..=n % 3).map(|line| format!("{{\"n\":\"{n}.{line}\"}}\n")).collect();
    log.write(position, Bytes::from(lines));
}

/// What all lines of these records say.
fn said(records: std::ops::Range<u32>) -> Vec<String> {
    records.flat_map(|n| (0..=n % 3).map(move |line| format!("{n}.{line}"))).collect()
}

fn say(line: &[u8]) -> String {
    let line: serde_json::Value = serde_json::from_slice(line).unwrap();
    line["n"].as_str().unwrap().to_owned()
}

/// Reads until so many lines are there.
async fn read(watch: &mut Watch, count: usize) -> Vec<(Cursor, String)> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let next = tokio::time::timeout(Duration::from_secs(10), watch.next());
        let batch = next.await.expect("more lines").unwrap();
        seen.extend(batch.lines.iter().map(|(cursor, line)| (*cursor, say(line))));
    }
    seen
}

async fn texts(watch: &mut Watch, count: usize) -> Vec<String> {
    read(watch, count).await.into_iter().map(|(_, text)| text).collect()
}

#[tokio::test]
async fn follows_through_rotations_without_gap_or_repeat() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), 2000, 1000);
    let mut watch = log.watch(Start::Oldest).unwrap();
    let mut late = log.watch(Start::Oldest).unwrap();
    let expected = said(0..500);
    let mut seen = Vec::new();
    // In steps: what is written in one go stands in one file.
    for step in 0..50 {
        (step * 10..step * 10 + 10).for_each(|n| write(&log, n));
        seen.extend(texts(&mut watch, said(step * 10..step * 10 + 10).len()).await);
    }
    assert_eq!(seen, expected);
    let files = std::fs::read_dir(dir.path()).unwrap().count();
    assert!(files > 5, "{files} files");
    assert_eq!(texts(&mut late, expected.len()).await, expected);
}

#[tokio::test]
async fn resumes_behind_every_cursor_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), 3000, 1000);
    let mut watch = log.watch(Start::Oldest).unwrap();
    let mut all = Vec::new();
    for step in 0..20 {
        (step * 10..step * 10 + 10).for_each(|n| write(&log, n));
        all.extend(read(&mut watch, said(step * 10..step * 10 + 10).len()).await);
    }
    log.close();
    assert!(matches!(watch.next().await, Ok(Batch { caught_up: true, .. }) | Err(WatchError::Closed)));
    let log = open(dir.path(), 3000, 1000);
    for (place, (cursor, _)) in all.iter().enumerate() {
        let again: Cursor = cursor.to_string().parse().unwrap();
        assert_eq!(again, *cursor);
        let mut watch = log.watch(Start::After(again)).unwrap();
        let rest: Vec<_> = all[place + 1..].iter().take(5).cloned().collect();
        let seen = read(&mut watch, rest.len()).await;
        assert_eq!(seen[..rest.len()], rest);
    }
    // The last one hears of what comes next, and of that only.
    let mut watch = log.watch(Start::After(all.last().unwrap().0)).unwrap();
    write(&log, 200);
    assert_eq!(texts(&mut watch, 3).await, said(200..201));
}

#[tokio::test]
async fn now_means_what_comes_and_its_cursor_is_good() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), 1000, 100);
    // Of an empty log, too.
    let mut watch = log.watch(Start::Now).unwrap();
    let batch = watch.next().await.unwrap();
    assert!(batch.lines.is_empty() && batch.caught_up);
    let empty = watch.cursor();
    (0..50).for_each(|n| write(&log, n));
    assert_eq!(texts(&mut watch, said(0..50).len()).await, said(0..50));
    let mut now = log.watch(Start::Now).unwrap();
    assert_eq!(now.cursor(), watch.cursor());
    let cursor = now.cursor();
    write(&log, 50);
    assert_eq!(texts(&mut now, 3).await, said(50..51));
    assert_eq!(texts(&mut log.watch(Start::After(cursor)).unwrap(), 3).await, said(50..51));
    assert_eq!(texts(&mut log.watch(Start::After(empty)).unwrap(), 100).await[..100], said(0..51)[..100]);
}

#[tokio::test]
async fn what_is_gone_is_told_with_where_to_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), 1000, 2);
    let mut slow = log.watch(Start::Oldest).unwrap();
    write(&log, 0);
    let (first, _) = read(&mut slow, 1).await[0].clone();
    let mut quick = log.watch(Start::After(first)).unwrap();
    // Waits for each: what is written in one go stands in one file.
    for n in 1..300 {
        write(&log, n);
        read(&mut quick, said(n..n + 1).len()).await;
    }
    let Err(WatchError::Missed { oldest }) = log.watch(Start::After(first)) else { panic!("it is gone") };
    let seen = texts(&mut log.watch(Start::After(oldest)).unwrap(), 1).await;
    let kept = texts(&mut log.watch(Start::Oldest).unwrap(), 1).await;
    assert_eq!(seen, kept);
    // Whoever holds an old file reads it to its end first.
    let missed = loop {
        match slow.next().await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(missed, WatchError::Missed { oldest: same } if same == oldest), "{missed:?}");
}

#[tokio::test]
async fn a_cursor_ahead_of_the_file_waits_for_what_follows_it() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), 1 << 20, 2);
    (0..10).for_each(|n| write(&log, n));
    let mut watch = log.watch(Start::Oldest).unwrap();
    let all = read(&mut watch, said(0..10).len()).await;
    log.close();
    // A crash takes the last record with it; the spool hands it over again.
    let path = dir.path().join("events.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    let cut = text.find("{\"n\":\"8.").unwrap();
    std::fs::write(&path, &text[..cut]).unwrap();
    let log = open(dir.path(), 1 << 20, 2);
    let mut watch = log.watch(Start::After(all.last().unwrap().0)).unwrap();
    (8..12).for_each(|n| write(&log, n));
    assert_eq!(texts(&mut watch, 5).await, said(10..12));
}

#[tokio::test]
async fn large_files_are_searched_and_long_lines_read() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), 64 << 20, 2);
    let long = "x".repeat(600 << 10);
    let mut watch = log.watch(Start::Oldest).unwrap();
    let mut cursors = Vec::new();
    for n in 0..20 {
        let position = Position { segment: SegmentId(1), offset: n };
        let text = if n == 7 { long.as_str() } else { &long[..50_000] };
        log.write(position, Bytes::from(format!("{{\"n\":\"{n}\",\"text\":\"{text}\"}}\n")));
        cursors.push(read(&mut watch, 1).await.remove(0));
    }
    for (place, (cursor, _)) in cursors.iter().enumerate().take(19) {
        let mut watch = log.watch(Start::After(*cursor)).unwrap();
        assert_eq!(read(&mut watch, 1).await[0], cursors[place + 1]);
    }
}

#[test]
fn texts_that_are_no_cursors() {
    for text in ["", "1", "1-2", "1-2.", "1-2.x", "-.1", "1-2.3.4", "99999999999-1.1", "1-2.-1"] {
        assert_eq!(text.parse::<Cursor>(), Err(CursorError), "{text}");
    }
}
