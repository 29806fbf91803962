//! Idempotency keys in the ledger. What the ledger's own threads do is not in it.

use std::sync::Arc;

use divan::Bencher;
use posthaste::clock::Clock;
use posthaste::config::LedgerConfig;
use posthaste::ledger::{Begun, Ledger};
use posthaste::log::probe::MemoryFiles;
use posthaste::log::{Position, SegmentId};
use posthaste::mail::{Fingerprint, Keyed, MessageId, Receipt};
use posthaste::telemetry::Metrics;
use tempfile::TempDir;

#[divan::bench]
fn begin_and_record_a_new_key(bencher: Bencher<'_, '_>) {
    let (_folder, ledger) = ledger();
    let mut number = 0;
    bencher.bench_local(|| {
        number += 1;
        record(&ledger, number);
    });
}

#[divan::bench]
fn begin_with_a_known_key(bencher: Bencher<'_, '_>) {
    let (_folder, ledger) = ledger();
    record(&ledger, 1);
    let known = keyed(1);
    bencher.bench_local(|| assert!(matches!(ledger.begin("shop", &known), Begun::Known(_))));
}

fn ledger() -> (TempDir, Ledger) {
    let (files, metrics) = (Arc::new(MemoryFiles::default()), Arc::new(Metrics::new()));
    let folder = tempfile::tempdir().expect("a folder");
    let opened = Ledger::open(folder.path(), &LedgerConfig::default(), files, metrics, Clock);
    (folder, opened.expect("memory does not fail"))
}

fn keyed(number: u32) -> Keyed {
    let key = format!("order-{number:09}").parse().expect("a key");
    Keyed::new(key, Fingerprint([7; 16]), 1)
}

fn record(ledger: &Ledger, number: u32) {
    let keyed = keyed(number);
    let Begun::New(ticket) = ledger.begin("shop", &keyed) else { panic!("it is new") };
    ticket.hand_over();
    let now = Clock.timestamp();
    let receipt = Receipt { id: MessageId(number.into()), messages: 1, accepted_at: now, replayed: false };
    let at = Position { segment: SegmentId(number >> 20), offset: number & 0xf_ffff };
    ledger.record("shop", &keyed, receipt, now, at);
}
