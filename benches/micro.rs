//! What one small step costs, in CPU time of the thread that does it. `benches/README.md` tells how to read it.

#[path = "events.rs"]
mod events;
#[path = "message.rs"]
mod message;

use std::hint::black_box;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use posthaste::clock::{Clock, Timestamp};
use posthaste::config::{DkimConfig, LedgerConfig};
use posthaste::events::probe::Indexing;
use posthaste::ledger::{Begun, Ledger};
use posthaste::log::probe::MemoryFiles;
use posthaste::log::{Append, Durability, Log, LogOptions, Position, SegmentId};
use posthaste::mail::{Fingerprint, Keyed, MessageId, Receipt, header};
use posthaste::signing::Signer;
use posthaste::signing::keygen::{self, KeyAlgorithm};
use posthaste::telemetry::Metrics;
use posthaste::{delivery, queue, spool, submission};
use rustix::time::{ClockId, clock_gettime};
use smallvec::smallvec;

/// How long each step is repeated.
const BUDGET: Duration = Duration::from_millis(300);

/// Rounds in that time; the fastest is told, since whatever disturbs one only makes it slower.
const ROUNDS: u32 = 10;

fn main() {
    // Cargo passes an option of its own; the first plain word picks steps by name.
    let picked = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let bench = Bench { picked };
    let content = message::content();
    let wire = [&content[..], b".\r\n"].concat();
    let size = content.len();

    bench.run("header: walk 12 fields", 12, || {
        header::fields(&content[..header::section_len(&content)]).map(|field| field.value.len()).sum::<usize>()
    });
    bench.run("content: 10 KB through DATA", size, || submission::probe::receive(&wire));
    bench.run("stuffing: 10 KB for DATA", size, || delivery::probe::stuff(b"", &content));
    let replies = b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n354 go ahead\r\n250 2.0.0 ok: queued as 12345678\r\n";
    bench.run("replies: 4 of a transaction", 4, || delivery::probe::read_replies(replies));
    sign(&bench, &content);
    append(&bench, &content);
    bench.run("scheduler: add, pick, end 1000", 1000, || queue::probe::pass_through(1000));
    for (streams, limits, name) in [
        (1_000, false, "scheduler: pick 1000 of 1,000 streams"),
        (1_000_000, false, "scheduler: pick 1000 of 1M streams"),
        (1_000_000, true, "scheduler: the same, limited"),
    ] {
        if name.contains(&bench.picked) {
            let mut crowd = queue::probe::Crowd::new(streams, limits);
            bench.run(name, 1000, || crowd.pick(1000));
        }
    }
    keys(&bench);
    let envelope = message::envelope();
    let encoded = spool::probe::encode(&envelope);
    bench.run("envelope: encode", encoded.len(), || spool::probe::encode(&envelope));
    bench.run("envelope: decode", encoded.len(), || spool::probe::decode(&encoded));
    if ["events: index a line", "events: find a message", "events: find none"]
        .iter()
        .any(|name| name.contains(&bench.picked))
    {
        look_up(&bench);
    }
}

/// Messages in 400 MB of events. The work is done on another thread: it shows as wall time.
fn look_up(bench: &Bench) {
    const BATCH: u64 = 64;
    let folder = tempfile::tempdir().expect("a folder");
    let mut lines = Vec::new();
    (0..BATCH).for_each(|line| events::write_line(line, &mut lines));
    let position = b",\"position\":\"1-4096\"}\n";
    let lines: Vec<u8> =
        lines.split_inclusive(|b| *b == b'\n').flat_map(|line| [&line[..line.len() - 2], position].concat()).collect();
    let mut indexing = Indexing::new(&folder.path().join("indexed"));
    bench.run("events: index a line", BATCH as usize, || indexing.written(&lines));
    drop(indexing);
    let log = events::write(folder.path());
    let archive = log.archive();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let mut line = 0;
    bench.run("events: find a message", 1, || {
        line = (line + 99_991) % events::LINES;
        let found = runtime.block_on(archive.origin(events::message(line), |_| true));
        assert!(found.expect("it can be read").is_some());
    });
    bench.run("events: find none", 1, || {
        line = (line + 99_991) % events::LINES;
        let none = MessageId(events::message(line).0 + 1);
        assert!(runtime.block_on(archive.origin(none, |_| true)).expect("it can be read").is_none());
    });
}

/// DKIM, by key.
fn sign(bench: &Bench, content: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder");
    for (algorithm, name) in
        [(KeyAlgorithm::Rsa, "dkim: RSA-2048, 10 KB"), (KeyAlgorithm::Ed25519, "dkim: Ed25519, 10 KB")]
    {
        let key_file = folder.path().join(format!("{algorithm:?}.pem"));
        let key = keygen::generate(algorithm).expect("a key");
        keygen::write_private(&key_file, &key.private_pem).expect("written");
        let domain = "us.example".parse().expect("a domain");
        let (signer, problems) = Signer::load(&[DkimConfig { domain, selector: "s1".into(), key_file }]);
        assert!(problems.is_empty(), "{problems:?}");
        bench.run(name, 1, || signer.sign(content, Timestamp(1_795_348_800_000)).expect("signed").len());
    }
}

/// 64 records of 10 KB, from the first append to the last `done`. In memory, so without what a disk takes; the time of the
/// log's own thread is not in it, but waiting for it shows as wall time.
fn append(bench: &Bench, content: &[u8]) {
    const BATCH: usize = 64;
    let options = LogOptions { segment_size: 1 << 20, recycle_max: 8, ..LogOptions::new("log") };
    let files = Arc::new(MemoryFiles::default());
    let opened = Log::open(options, files, Arc::new(Metrics::new()), &mut |_| {});
    let (log, _) = opened.expect("memory does not fail");
    let body = Bytes::copy_from_slice(content);
    let (done, all_done) = mpsc::channel();
    bench.run("log: append 64 records of 10 KB", BATCH, || {
        for id in 0..BATCH as u64 {
            let done = done.clone();
            log.append([Append {
                kind: 1,
                id,
                head: vec![0; 120],
                body: smallvec![body.clone()],
                durability: Durability::Synced,
                done: Some(Box::new(move |result| done.send(result.is_ok()).expect("somebody waits"))),
            }]);
        }
        let written = all_done.iter().take(BATCH).filter(|ok| *ok).count();
        assert_eq!(written, BATCH);
        // Nothing is live, so all of it but the open segment is used again.
        log.reclaim();
        written
    });
}

/// Idempotency keys in the ledger: new ones from claim to record, and one that is known. What the ledger's own threads do is not in it.
fn keys(bench: &Bench) {
    let (files, metrics) = (Arc::new(MemoryFiles::default()), Arc::new(Metrics::new()));
    let folder = tempfile::tempdir().expect("a folder");
    let ledger =
        Ledger::open(folder.path(), &LedgerConfig::default(), files, metrics, Clock).expect("memory does not fail");
    let now = Clock.timestamp();
    let mut number = 0u32;
    let keyed = |number: u32| {
        let key = format!("order-{number:09}").parse().expect("a key");
        Keyed::new(key, Fingerprint([7; 16]), 1)
    };
    bench.run("ledger: begin and record a new key", 1, || {
        number += 1;
        let keyed = keyed(number);
        let Begun::New(ticket) = ledger.begin("shop", &keyed) else { panic!("it is new") };
        ticket.hand_over();
        let receipt = Receipt { id: MessageId(number.into()), messages: 1, accepted_at: now, replayed: false };
        let at = Position { segment: SegmentId(number >> 20), offset: number & 0xf_ffff };
        ledger.record("shop", &keyed, receipt, now, at);
    });
    let known = keyed(number);
    bench.run("ledger: begin with a known key", 1, || matches!(ledger.begin("shop", &known), Begun::Known(_)));
}

/// Runs steps and prints what they took.
struct Bench {
    picked: String,
}

impl Bench {
    /// Repeats `step`, which does `units` of something.
    fn run<T>(&self, name: &str, units: usize, mut step: impl FnMut() -> T) {
        if !name.contains(&self.picked) {
            return;
        }
        let mut repeats = 1u32;
        let mut took = measure(repeats, &mut step);
        while took.wall < BUDGET / ROUNDS && repeats < 1 << 24 {
            repeats *= 2;
            took = measure(repeats, &mut step);
        }
        let rounds: Vec<Took> = (1..ROUNDS).map(|_| measure(repeats, &mut step)).chain([took]).collect();
        let best = |time: fn(&Took) -> Duration| rounds.iter().map(time).min().unwrap_or_default() / repeats;
        let (cpu, wall) = (best(|took| took.cpu), best(|took| took.wall));
        let per_unit = cpu.as_nanos() as f64 / units as f64;
        println!("{name:34} {cpu:>12.1?} CPU {wall:>12.1?} wall {per_unit:>12.2} ns CPU a unit ({units})");
    }
}

struct Took {
    cpu: Duration,
    wall: Duration,
}

fn measure<T>(repeats: u32, step: &mut impl FnMut() -> T) -> Took {
    let (cpu, wall) = (now(ClockId::ThreadCPUTime), now(ClockId::Monotonic));
    for _ in 0..repeats {
        black_box(step());
    }
    Took { cpu: now(ClockId::ThreadCPUTime) - cpu, wall: now(ClockId::Monotonic) - wall }
}

fn now(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
