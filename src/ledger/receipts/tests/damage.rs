//! Octets that changed on disk.

use super::*;

#[test]
fn damage_is_told_of_and_lets_the_spool_tell_all_again() {
    let files = SimFiles::new(1);
    let now = Clock.timestamp();
    let open = Open::new(&files, 500);
    for n in 0..20u32 {
        open.receipts.record("shop", &keyed(&format!("k{n}"), 1), receipt(n.into(), now), now, position(n));
        open.settle();
    }
    let Position { segment, offset } = open.receipts.lock().batches[0].location.position;
    drop(open);
    let again = Open::new(&files, 500);
    let damaged = |open: &Open| open.metrics.ledger_damaged.with_label_values(&["receipts"]).get();
    assert_eq!((again.receipts.recorded(), damaged(&again)), (Some(position(19)), 0));
    drop(again);
    let path = format!("/receipts/seg-{:010}.log", segment.0);
    crate::log::Files::open(&files, std::path::Path::new(&path), true)
        .and_then(|file| file.write_at(&[std::io::IoSlice::new(b"damage")], u64::from(offset) + 40))
        .unwrap();
    let open = Open::new(&files, 500);
    assert_eq!(open.receipts.recorded(), None);
    assert!(damaged(&open) > 0);
    assert_eq!(begun(&open.receipts, "k19", 1), "19 true");
}

#[test]
fn a_damaged_page_is_told_of_and_only_that() {
    let files = SimFiles::new(1);
    let now = Clock.timestamp();
    let open = Open::new(&files, 500);
    for n in 0..500u32 {
        open.receipts.record("shop", &keyed(&format!("k{n}"), 1), receipt(n.into(), now), now, position(n));
    }
    open.settle();
    let run = Arc::clone(&open.receipts.lock().runs[0]);
    drop(open);
    let Position { segment, offset } = run.location.position;
    let path = format!("/receipts/seg-{:010}.log", segment.0);
    let at = u64::from(offset) + 36 + u64::from(run.location.head_len) + 4096 + 100;
    crate::log::Files::open(&files, std::path::Path::new(&path), true)
        .and_then(|file| file.write_at(&[std::io::IoSlice::new(b"damage")], at))
        .unwrap();
    let open = Open::new(&files, 500);
    let told: Vec<bool> = (0..500).map(|n| open.receipts.get("shop", &format!("k{n}")).is_err()).collect();
    let damaged = told.iter().filter(|told| **told).count();
    assert!((80..=100).contains(&damaged), "{damaged}: one page holds 93");
    let lost = told.iter().position(|told| *told).unwrap();
    assert!(begun(&open.receipts, &format!("k{lost}"), 1).contains("damaged"));
    assert_eq!(begun(&open.receipts, "new", 1), "new");
}
