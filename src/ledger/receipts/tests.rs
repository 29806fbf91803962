//! Receipts on a simulated disk, against what was promised of them.

mod damage;
mod many;

use std::collections::BTreeMap;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::clock::Simulated;
use crate::log::Health;
use crate::log::sim::{Deed, Fault, SimFiles};
use crate::mail::MessageId;
use crate::telemetry::Metrics;

const DAY: Duration = Duration::from_secs(86_400);

fn keyed(key: &str, says: u8) -> Keyed {
    Keyed::new(key.parse().unwrap(), Fingerprint::new(1, u128::from_le_bytes([says; 16])), 1)
}

fn receipt(id: u64, accepted_at: Timestamp) -> Receipt {
    Receipt { id: MessageId(id), messages: 1, accepted_at, replayed: false }
}

fn position(n: u32) -> Position {
    Position { segment: SegmentId(n / 100 + 1), offset: n % 100 }
}

/// A thread that writes, until the value is dropped.
struct Open {
    receipts: Arc<Receipts>,
    metrics: Arc<Metrics>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Open {
    fn new(files: &SimFiles, recent_max: usize) -> Open {
        Open::try_new(files, recent_max).expect("the disk works")
    }

    fn try_new(files: &SimFiles, recent_max: usize) -> Option<Open> {
        Open::with(files, recent_max, Duration::ZERO)
    }

    fn with(files: &SimFiles, recent_max: usize, proven_after: Duration) -> Option<Open> {
        let linger = Duration::from_millis(1);
        let pace = Pace { linger, recent_max, batches_max: 4096, segment_size: 64 << 10, proven_after };
        let (files, metrics) = (Arc::new(files.clone()), Arc::new(Metrics::new()));
        let counts = Arc::clone(&metrics);
        let opened = Receipts::open(std::path::Path::new("/receipts"), 7 * DAY, pace, files, counts, Clock);
        let receipts = opened.ok()?;
        let writing = Arc::clone(&receipts);
        Some(Open { receipts, metrics, thread: Some(std::thread::spawn(move || writing.run())) })
    }

    /// Waits until all that was recorded is on disk and no run is due.
    fn settle(&self) {
        loop {
            {
                let mut state = self.receipts.lock();
                state.sleeping = false;
                let due = state.frozen.is_some() || state.job.is_some() || alike_is_due(&state);
                if state.outbox.is_empty() && state.unsynced.is_empty() && !due {
                    return;
                }
            }
            self.receipts.wake.notify_all();
            std::thread::yield_now();
        }
    }
}

fn alike_is_due(state: &State) -> bool {
    writer::alike(&state.runs).is_some()
}

impl Drop for Open {
    fn drop(&mut self) {
        self.receipts.stop();
        self.thread.take().unwrap().join().unwrap();
        self.receipts.close_log();
    }
}

fn begun(receipts: &Arc<Receipts>, key: &str, says: u8) -> String {
    match receipts.begin("shop", &keyed(key, says)) {
        Begun::New(_) => "new".into(),
        Begun::Known(receipt) => format!("{} {}", receipt.id.0, receipt.replayed),
        Begun::UnderWay(_) => "under way".into(),
        Begun::Contradicts => "contradicts".into(),
        Begun::Unreadable(error) => error,
        Begun::Crowded => "crowded".into(),
    }
}

#[tokio::test]
async fn concurrent_duplicates_are_one() {
    let receipts = Arc::new(Receipts::default());
    let now = Clock.timestamp();
    let one = keyed("one", 1);
    let Begun::New(ticket) = receipts.begin("shop", &one) else { panic!("it is new") };
    let Begun::UnderWay(waiter) = receipts.begin("shop", &one) else { panic!("it is under way") };
    assert_eq!(begun(&receipts, "one", 2), "contradicts");
    assert!(matches!(receipts.begin("other", &keyed("one", 1)), Begun::New(_)));
    assert_eq!(receipts.get("shop", "one"), Ok(None));
    drop(ticket);
    assert_eq!(waiter.await, None);
    let Begun::New(ticket) = receipts.begin("shop", &one) else { panic!("it may be tried again") };
    ticket.hand_over();
    let Begun::UnderWay(waiter) = receipts.begin("shop", &one) else { panic!("the spool has it") };
    receipts.record("shop", &one, receipt(7, now), now, position(1));
    assert_eq!(waiter.await, Some(Receipt { replayed: true, ..receipt(7, now) }));
    assert_eq!(begun(&receipts, "one", 1), "7 true");
    assert_eq!(begun(&receipts, "one", 2), "contradicts");
    assert_eq!(receipts.get("shop", "one"), Ok(Some(receipt(7, now))));
    let Begun::New(ticket) = receipts.begin("shop", &keyed("two", 1)) else { panic!("it is new") };
    ticket.hand_over();
    receipts.abandon("shop", &keyed("two", 1));
    assert_eq!(begun(&receipts, "two", 1), "new");
}

#[test]
fn what_was_said_by_an_unknown_function_contradicts_nothing() {
    let receipts = Arc::new(Receipts::default());
    let now = Clock.timestamp();
    let before = Keyed::new("old".parse().unwrap(), Fingerprint::UNKNOWN, 1);
    receipts.record("shop", &before, receipt(7, now), now, position(1));
    assert_eq!([1, 2].map(|says| begun(&receipts, "old", says)), ["7 true", "7 true"]);
}

#[test]
fn what_was_recorded_is_known_after_a_stop() {
    let files = SimFiles::new(1);
    let now = Clock.timestamp();
    let open = Open::new(&files, 50);
    for n in 0..3000u32 {
        open.receipts.record("shop", &keyed(&format!("k{n}"), 1), receipt(n.into(), now), now, position(n));
        // So that there are many runs, and merged ones.
        if n % 60 == 0 {
            open.settle();
        }
    }
    open.settle();
    assert_eq!(open.receipts.unrecorded(), None);
    drop(open);
    files.restart();
    for _ in 0..2 {
        let open = Open::new(&files, 50);
        assert_eq!(open.receipts.recorded(), Some(position(2999)));
        let runs = open.receipts.lock().runs.len();
        assert!((2..16).contains(&runs), "{runs}");
        for n in 0..3000u32 {
            let key = format!("k{n}");
            assert_eq!(open.receipts.get("shop", &key), Ok(Some(receipt(n.into(), now))));
            assert_eq!(begun(&open.receipts, &key, 1), format!("{n} true"));
            assert_eq!(begun(&open.receipts, &key, 2), "contradicts");
            assert_eq!(begun(&open.receipts, &format!("no{n}"), 1), "new");
        }
        let stats = open.receipts.log.as_ref().unwrap().stats();
        assert!(stats.segments <= 10, "{stats:?}");
    }
}

#[test]
fn a_full_disk_puts_new_keys_off_and_forgets_none() {
    let files = SimFiles::new(1);
    let now = Clock.timestamp();
    let open = Open::new(&files, 50);
    files.set_free(0);
    let mut count = 0;
    // One at a time, until what was allocated ahead is used up.
    while begun(&open.receipts, &format!("k{count}"), 1) == "new" {
        let kept = receipt(count.into(), now);
        open.receipts.record("shop", &keyed(&format!("k{count}"), 1), kept, now, position(count));
        count += 1;
        assert!(count < 1_000_000, "memory has no bound");
        // Else a slow thread would be crowding enough.
        while !open.receipts.lock().outbox.is_empty() {
            std::thread::yield_now();
        }
    }
    assert!(matches!(open.receipts.log.as_ref().unwrap().health(), Health::ReadOnly { .. }));
    assert_eq!(begun(&open.receipts, &format!("k{count}"), 1), "crowded");
    assert!(open.receipts.unrecorded().is_some(), "the spool may reclaim what is nowhere else");
    let known = |open: &Open| (0..count).all(|n| begun(&open.receipts, &format!("k{n}"), 1) == format!("{n} true"));
    assert!(known(&open), "while it is full");
    let told = |readonly| {
        while open.metrics.ledger_readonly.with_label_values(&["receipts"]).get() != readonly {
            std::thread::yield_now();
        }
    };
    told(1);
    files.set_free(1 << 40);
    while begun(&open.receipts, &format!("k{count}"), 1) == "crowded" {
        std::thread::yield_now();
    }
    open.settle();
    assert_eq!(open.receipts.unrecorded(), None);
    told(0);
    drop(open);
    files.restart();
    assert!(known(&Open::new(&files, 50)), "after a power cut");
}

#[test]
fn keys_are_forgotten_when_their_time_is_over_and_not_before() {
    let files = SimFiles::new(1);
    let now = Clock.timestamp();
    let old = |days: u64| Timestamp(now.0 - days * DAY.as_millis() as u64);
    let open = Open::new(&files, 10);
    let cases = [("gone", 8, old(1), false), ("young", 6, now, true), ("long", 8, now.after(DAY), true)];
    let later = now.after(90 * DAY);
    let cases = cases.into_iter().chain([("very-long", 8, later, true)]);
    for (key, days, expires_at, _) in cases.clone() {
        open.receipts.record("shop", &keyed(key, 1), receipt(1, old(days)), expires_at, position(1));
    }
    let check = |open: &Open, when: &str| {
        for (key, _, _, known) in cases.clone() {
            assert_eq!(open.receipts.get("shop", key).unwrap().is_some(), known, "{key} {when}");
            assert_eq!(begun(&open.receipts, key, 1) == "new", !known, "{key} {when}");
        }
    };
    check(&open, "in memory");
    for n in 0..30 {
        open.receipts.record("shop", &keyed(&format!("{n}"), 1), receipt(1, old(8)), old(1), position(2));
    }
    open.settle();
    check(&open, "in a run");
    let longs = open.receipts.lock().runs.iter().filter(|run| run.long).count();
    assert_eq!(longs, 1, "what lives long stands apart");
    assert!(open.receipts.lock().keys() < 20, "what is over is not kept");
    drop(open);
    check(&Open::new(&files, 10), "after a restart");
}

#[test]
fn a_clock_set_far_ahead_forgets_nothing() {
    let files = SimFiles::new(1);
    let now = Clock.timestamp();
    let right = Simulated::from(now);
    let open = Open::new(&files, 10);
    for n in 0..30 {
        open.receipts.record("shop", &keyed(&format!("{n}"), 1), receipt(n, now), now, position(n as u32));
    }
    open.settle();
    drop(right);
    let _ahead = Simulated::from(now.after(400 * DAY));
    for n in 0..30 {
        assert_eq!(begun(&open.receipts, &n.to_string(), 1), format!("{n} true"));
    }
}

#[test]
fn nothing_is_dropped_before_the_clock_is_proven() {
    let files = SimFiles::new(1);
    let now = Clock.timestamp();
    let old = Timestamp(now.0 - 8 * DAY.as_millis() as u64);
    let fill = |open: &Open, from: u32| {
        for n in from..from + 30 {
            open.receipts.record("shop", &keyed(&format!("{n}"), 1), receipt(n.into(), old), old, position(n));
        }
        open.settle();
    };
    // They are over, if the clock is right; by all we know it may be a year ahead.
    let open = Open::with(&files, 10, DAY).unwrap();
    fill(&open, 0);
    assert_eq!(begun(&open.receipts, "1", 1), "new");
    assert_eq!(open.receipts.lock().keys(), 30);
    drop(open);
    let open = Open::with(&files, 10, DAY).unwrap();
    assert_eq!(open.receipts.lock().keys(), 30, "the next start has the same doubts");
    drop(open);
    let open = Open::new(&files, 10);
    fill(&open, 30);
    while open.receipts.lock().keys() > 0 {
        open.settle();
    }
}

/// The spool's part: what stands in its log is handed over again from where the ledger knows.
#[derive(Default)]
struct Spool {
    keys: BTreeMap<u32, bool>,
}

#[test]
fn a_crash_at_any_write_forgets_nothing() {
    let now = Clock.timestamp();
    let key = |n: u32| keyed(&format!("k{n}"), 1);
    for seed in 0..60 {
        let files = SimFiles::new(seed);
        let mut dice = SmallRng::seed_from_u64(seed);
        let (mut spool, mut next) = (Spool::default(), 0u32);
        for _ in 0..6 {
            files.clear_faults();
            let open = Open::new(&files, 30);
            let recorded = open.receipts.recorded();
            for (n, held) in &spool.keys {
                if *held && recorded.is_none_or(|recorded| position(*n) > recorded) {
                    open.receipts.record_again("shop", &key(*n), receipt((*n).into(), now), now, position(*n));
                }
            }
            for n in spool.keys.keys() {
                assert_eq!(
                    open.receipts.get("shop", &format!("k{n}")),
                    Ok(Some(receipt((*n).into(), now))),
                    "{seed} {n}"
                );
            }
            let deed = [Deed::Write, Deed::Sync, Deed::Change][dice.random_range(0..3)];
            files.fail(deed, dice.random_range(1..12), Fault::PowerCut);
            for _ in 0..dice.random_range(1..200) {
                open.receipts.record("shop", &key(next), receipt(next.into(), now), now, position(next));
                spool.keys.insert(next, true);
                next += 1;
                if dice.random_range(0..20) == 0 {
                    std::thread::sleep(Duration::from_millis(2));
                }
                // The spool gives up what is below the floor.
                let floor = open.receipts.unrecorded().unwrap_or(position(next).segment);
                let below = spool.keys.range_mut(..next).filter(|(n, _)| position(**n).segment < floor);
                below.for_each(|(_, held)| *held = false);
            }
            files.restart();
            drop(open);
            files.restart();
        }
    }
}
