//! When lines are written.

use super::*;

/// Far more than a write takes; nothing here depends on how much more.
const LONG: Duration = Duration::from_secs(2);

fn line(log: &EventLog, n: u32) {
    log.write(Position { segment: SegmentId(1), offset: n }, Bytes::from_static(b"{\"event\":\"x\"}\n"));
}

/// Lines written; each write counts all of its lines at once.
fn written(metrics: &Metrics) -> u64 {
    metrics.events.get()
}

/// Sees the count change, and says to what.
fn next(metrics: &Metrics, from: u64) -> u64 {
    for _ in 0..30_000 {
        match written(metrics) {
            count if count == from => std::thread::sleep(Duration::from_millis(1)),
            count => return count,
        }
    }
    panic!("still {from}");
}

#[test]
fn a_line_after_a_pause_is_written_at_once_and_those_after_it_together() {
    let dir = tempfile::tempdir().unwrap();
    let metrics = Arc::new(Metrics::new());
    let (log, _) = EventLog::open_with(dir.path(), &EventsConfig::default(), Arc::clone(&metrics), LONG).unwrap();
    // Ticks of the thread without lines are no writes.
    std::thread::sleep(SYNC_EVERY * 2);
    for round in 0..2 {
        let (before, begun) = (written(&metrics), Clock.instant());
        line(&log, round * 1000);
        assert_eq!(next(&metrics, before), before + 1);
        assert!(begun.elapsed() < LONG, "it waited for company, that never came");
        // The next write is no sooner than that after this one, which had not begun then.
        (1..100).for_each(|n| line(&log, round * 1000 + n));
        loop {
            let count = written(&metrics);
            if begun.elapsed() >= LONG {
                break;
            }
            assert_eq!(count, before + 1, "it did not wait for company");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(next(&metrics, before + 1), before + 100, "they did not go together");
        std::thread::sleep(LONG);
    }
    log.close();
    let text = std::fs::read_to_string(dir.path().join("events.jsonl")).unwrap();
    let positions = text.lines().map(|line| line.split("1-").nth(1).unwrap().trim_end_matches("\"}").parse().unwrap());
    assert_eq!(positions.collect::<Vec<u32>>(), (0..100).chain(1000..1100).collect::<Vec<_>>(), "in order");
}
