//! How often replies and bounces are judged right, on those in `tests/data`. The floors are what `docs/bounces.md` says: a
//! change that goes below them has to say why.

use std::fs;
use std::path::{Path, PathBuf};

use posthaste::feedback::bounce::score::{self, Share};
use posthaste::feedback::complaint;

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

#[track_caller]
fn check_at_least(what: &str, share: Share, floor: u32) {
    assert!(share.right >= floor, "{what}: {share}, was {floor}");
}

#[track_caller]
fn check_at_most(what: &str, share: Share, ceiling: u32) {
    assert!(share.right <= ceiling, "{what}: {share}, was {ceiling}");
}

#[test]
fn replies_are_understood_as_well_as_documented() {
    let table = fs::read_to_string(data().join("smtp-replies.tsv")).expect("readable");
    let figures = score::replies(&table, |_| true);
    check_at_least("reason", figures.reason, 244);
    check_at_least("hard or soft", figures.class, 242);
    check_at_most("live addresses suppressed", figures.live_suppressed, 1);
}

#[test]
fn bounces_are_understood_as_well_as_documented() {
    let dir = data().join("bounces");
    let table = fs::read_to_string(dir.join("expected.tsv")).expect("readable");
    let figures = score::bounces(&table, |file| fs::read(dir.join(file)), |_| true).expect("readable");
    check_at_least("detected", figures.detected, 233);
    check_at_least("all recipients", figures.recipients, 230);
    check_at_least("reason", figures.reason, 236);
    check_at_least("hard or soft", figures.class, 236);
    check_at_most("live addresses suppressed", figures.live_suppressed, 4);
    check_at_most("ordinary mail taken for a bounce", figures.ordinary, 0);
    check_at_most("auto-replies taken for a bounce", figures.auto_replies, 0);
}

#[test]
fn complaints_are_read_whole() {
    let dir = data().join("arf");
    let table = fs::read_to_string(dir.join("expected.tsv")).expect("readable");
    for standard in [true, false] {
        let open = |file: &str| fs::read(dir.join(file));
        let figures = complaint::score::complaints(&table, open, standard).expect("readable");
        assert_eq!(figures.misses, Vec::<String>::new());
        assert!(figures.detected.all >= 7 && figures.fields().all >= 20);
    }
}
