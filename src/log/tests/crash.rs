//! Crashes at every write and sync.

use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::owner::{Owner, Promises};
use crate::log::sim::{Deed, Fault, SimFiles};

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
    for cut in 1..250 {
        check_cuts(cut, [cut]);
    }
}

#[test]
fn power_cuts_one_after_the_other_lose_nothing_acknowledged() {
    for seed in 1000..1020 {
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
