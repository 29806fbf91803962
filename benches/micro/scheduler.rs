//! Who is next: for a message alone, and among many streams.

use divan::Bencher;
use divan::counter::ItemsCount;
use posthaste::queue::probe::{Crowd, pass_through};

const PICKED: usize = 1000;

#[divan::bench]
fn add_pick_and_end_1000(bencher: Bencher<'_, '_>) {
    bencher.counter(ItemsCount::new(PICKED)).bench_local(|| pass_through(PICKED));
}

#[divan::bench(args = [1_000, 1_000_000])]
fn pick_1000_of_streams(bencher: Bencher<'_, '_>, streams: usize) {
    pick(bencher, streams, false);
}

#[divan::bench(args = [1_000_000])]
fn pick_1000_of_limited_streams(bencher: Bencher<'_, '_>, streams: usize) {
    pick(bencher, streams, true);
}

fn pick(bencher: Bencher<'_, '_>, streams: usize, limits: bool) {
    let mut crowd = Crowd::new(streams, limits);
    bencher.counter(ItemsCount::new(PICKED)).bench_local(|| crowd.pick(PICKED));
}
