//! Crashes at every write and sync.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use smallvec::smallvec;

use crate::log::probe::owner::{Owner, Promises, options};
use crate::log::sim::{Deed, Fault, SimFiles};
use crate::log::*;
use crate::telemetry::Metrics;

/// Runs by chance from `seed` until the power fails at the `cut`th change, then starts again, checks, and goes on to
/// the next cut.
fn check_cuts(seed: u64, cuts: impl IntoIterator<Item = u64>) {
    let files = SimFiles::new(seed);
    let mut rng = SmallRng::seed_from_u64(seed);
    let (mut promises, mut next_id) = (Promises::new(), 0);
    for cut in cuts {
        let context = format!("seed {seed}, cut at change {cut}");
        files.fail(Deed::Change, cut, Fault::PowerCut);
        if let Ok(mut owner) = Owner::open(&files) {
            owner.check(&mut promises, &context);
            while files.is_powered() {
                owner.step(&files, &mut promises, &mut next_id, &mut rng);
            }
        }
        files.restart();
    }
    let context = format!("seed {seed}, at the end");
    let owner = Owner::open(&files).unwrap();
    owner.check(&mut promises, &context);
    assert_eq!(owner.report.damaged, [], "{context}");
}

#[test]
fn a_power_cut_at_any_write_or_sync_loses_nothing_acknowledged() {
    for cut in 1..160 {
        check_cuts(cut, [cut]);
    }
}

#[test]
fn a_power_cut_at_any_moment_of_one_run_loses_nothing_acknowledged() {
    let files = SimFiles::new(7);
    let mut rng = SmallRng::seed_from_u64(7);
    let moments = Arc::new(AtomicUsize::new(0));
    let (counted, told) = (moments.clone(), Arc::new(Mutex::new(Promises::new())));
    let known = told.clone();
    // Before each deed that changes something, on whichever thread does it. What is known by then is what counts.
    files.watch(move |disk| {
        let moment = counted.fetch_add(1, Ordering::Relaxed) as u64;
        let promises = known.lock().unwrap().clone();
        for seed in [2 * moment, 2 * moment + 1] {
            let (after, context) = (disk.copy(seed), format!("moment {moment}, seed {seed}"));
            after.restart();
            let owner = Owner::open(&after).unwrap_or_else(|e| panic!("{context}: {e}"));
            owner.check(&mut promises.clone(), &context);
            assert_eq!(owner.report.damaged, [], "{context}");
            let verified = verify_with(&after, Path::new("spool"), &mut |_| {}).unwrap();
            assert_eq!(verified.damaged, [], "{context}");
        }
    });
    let (mut promises, mut next_id) = (Promises::new(), 0);
    let mut owner = Owner::open(&files).unwrap();
    owner.told = told;
    for _ in 0..70 {
        owner.step(&files, &mut promises, &mut next_id, &mut rng);
    }
    owner.close(&mut promises);
    assert!(owner.copied > 0, "nothing was copied");
    let moments = moments.load(Ordering::Relaxed);
    assert!(moments > 300, "{moments} moments");
}

#[test]
fn a_file_system_that_stops_at_any_sync_loses_nothing_acknowledged() {
    for stop in 1..100 {
        let files = SimFiles::new(stop);
        let mut rng = SmallRng::seed_from_u64(stop);
        let (mut promises, mut next_id) = (Promises::new(), 0);
        files.fail(Deed::Sync, stop, Fault::Stop);
        if let Ok(mut owner) = Owner::open(&files) {
            while files.is_powered() {
                owner.step(&files, &mut promises, &mut next_id, &mut rng);
            }
            // Whatever is said by now is said, and more may be until it cannot be written at all.
            (0..4).for_each(|n| owner.put(next_id + 1 + n, &mut promises));
            owner.close(&mut promises);
        }
        files.restart();
        let context = format!("stopped at sync {stop}");
        let owner = Owner::open(&files).unwrap();
        owner.check(&mut promises, &context);
        assert_eq!(owner.report.damaged, [], "{context}");
    }
}

#[test]
fn power_cuts_one_after_the_other_lose_nothing_acknowledged() {
    for seed in 1000..1012 {
        check_cuts(seed, (1..15).map(|n| 1 + (seed * 31 + n * 57) % 150));
    }
}

#[test]
fn a_process_that_ends_anywhere_loses_nothing_acknowledged() {
    for seed in 2000..2010 {
        let files = SimFiles::new(seed);
        let mut rng = SmallRng::seed_from_u64(seed);
        let (mut promises, mut next_id) = (Promises::new(), 0);
        for cut in (1..15).map(|n| 1 + (seed * 31 + n * 57) % 150) {
            files.fail(Deed::Change, cut, Fault::PowerCut);
            if let Ok(mut owner) = Owner::open(&files) {
                owner.check(&mut promises, &format!("seed {seed}, killed at change {cut}"));
                while files.is_powered() {
                    owner.step(&files, &mut promises, &mut next_id, &mut rng);
                }
            }
            files.kill();
        }
        let owner = Owner::open(&files).unwrap();
        owner.check(&mut promises, &format!("seed {seed}, at the end"));
        assert_eq!(owner.report.damaged, [], "seed {seed}");
    }
}

#[test]
fn a_group_is_there_whole_or_not_at_all() {
    for seed in 0..120 {
        let files = SimFiles::new(seed);
        let mut rng = SmallRng::seed_from_u64(seed);
        let open = |visit: &mut dyn FnMut(Replayed<'_>)| {
            Log::open(options(), Arc::new(files.clone()), Arc::new(Metrics::new()), visit).unwrap()
        };
        let (log, _) = open(&mut |_| {});
        files.fail(Deed::Change, rng.random_range(1..8), Fault::PowerCut);
        let (sender, receiver) = mpsc::channel();
        for group in 0..20u64 {
            let body = Bytes::from(vec![group as u8; rng.random_range(0..3000)]);
            log.append((0..=group % 4).map(|_| {
                let sender = sender.clone();
                let done: Done = Box::new(move |result| sender.send((group, result.is_ok())).unwrap_or(()));
                let (kind, body, durability) = (1, smallvec![body.clone()], Durability::Synced);
                Append { kind, id: group, head: vec![9], body, durability, done: Some(done) }
            }));
        }
        drop((log, sender));
        let mut acknowledged = receiver.into_iter().filter_map(|(group, ok)| ok.then_some(group));
        files.restart();
        let mut seen = HashMap::new();
        let (_log, report) = open(&mut |r| *seen.entry(r.id).or_insert(0) += 1);
        assert!(seen.iter().all(|(group, count)| *count == group % 4 + 1), "seed {seed}: {seen:?}");
        assert!(acknowledged.all(|group| seen.contains_key(&group)), "seed {seed}");
        assert_eq!(report.damaged, [], "seed {seed}");
    }
}

#[test]
fn stragglers_are_copied_and_the_log_stays_small() {
    let files = SimFiles::new(5);
    let mut rng = SmallRng::seed_from_u64(5);
    let (mut promises, mut next_id) = (Promises::new(), 0);
    // Without threads of its own: how large the log is at a moment does not depend on when they get to run.
    let stepped = LogOptions { drive: Drive::Stepped(Arc::new(|| {})), ..options() };
    let mut owner = Owner::open_as(stepped, &files).unwrap();
    let mut peak = 0.0;
    for _ in 0..600 {
        owner.step(&files, &mut promises, &mut next_id, &mut rng);
        let stats = owner.log.stats();
        let slack = 6 * options().segment_size;
        peak = f64::max(peak, stats.bytes.saturating_sub(slack) as f64 / stats.live_bytes.max(1) as f64);
    }
    assert!(owner.copied > 20 && owner.carried > 5, "{} copied, {} carried", owner.copied, owner.carried);
    assert!(peak < 1.5, "{peak}");
}

#[test]
fn what_was_carried_forward_still_deletes() {
    for seed in 3000..3003 {
        let files = SimFiles::new(seed);
        let mut rng = SmallRng::seed_from_u64(seed);
        let (mut promises, mut next_id) = (Promises::new(), 0);
        let mut carried = 0;
        for round in 0..12 {
            let mut owner = Owner::open(&files).unwrap();
            owner.check(&mut promises, &format!("seed {seed}, round {round}"));
            files.fail(Deed::Change, rng.random_range(150..400), Fault::PowerCut);
            while files.is_powered() {
                owner.step(&files, &mut promises, &mut next_id, &mut rng);
            }
            carried += owner.carried;
            drop(owner);
            files.restart();
        }
        Owner::open(&files).unwrap().check(&mut promises, &format!("seed {seed}, at the end"));
        assert!(carried > 20, "{carried} carried");
    }
}
