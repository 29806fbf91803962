//! A disk that does not keep up: what the doors may hold is taken and waits.

use std::sync::atomic::AtomicUsize;

use super::*;
use crate::log::Drive;

#[test]
fn what_the_doors_may_hold_waits_for_the_disk() {
    let options = LogOptions { drive: Drive::Stepped(Arc::new(|| {})), ..LogOptions::new("/spool") };
    let config = SpoolConfig { disk_free_min: ByteSize(0), ..SpoolConfig::default() };
    let outlets = Outlets { exported: None, export: Arc::new(|_, _| {}), ledger: Arc::default() };
    let (files, metrics) = (Arc::new(SimFiles::new(1)), Arc::new(Metrics::new()));
    let (spool, mut opened) = Spool::open_with(options, &config, files, metrics, outlets, Clock).unwrap();
    spool.restore(&mut opened, &mut |_| {}).unwrap();

    // What three doors hold with `memory_max` as it is by default would be 768 MiB; 96 are enough to be behind.
    let content = Bytes::from(vec![b'x'; 1 << 20]);
    let (taken, refused) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    for _ in 0..96 {
        let (taken, refused) = (Arc::clone(&taken), Arc::clone(&refused));
        let message = Message::new(spool.next_id(Clock.timestamp()), envelope(1), content.clone());
        spool.accept([Arc::new(message)], move |result| {
            let count = if result.is_ok() { &taken } else { &refused };
            count.fetch_add(1, Ordering::Relaxed);
        });
    }
    assert!(spool.is_behind());
    assert_eq!((taken.load(Ordering::Relaxed), refused.load(Ordering::Relaxed)), (0, 0));
    spool.step();
    assert_eq!((taken.load(Ordering::Relaxed), refused.load(Ordering::Relaxed)), (96, 0));
    assert!(!spool.is_behind());
}
