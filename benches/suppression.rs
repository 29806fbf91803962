//! Measures the suppression list on a real disk: import, start, look-ups, memory.
//!
//! `suppression [ROWS] [DIR]`: 10 million addresses in a new folder below DIR (the system's for temporary files) unless told otherwise.

use std::path::Path;
use std::sync::Arc;

use posthaste::clock::Clock;
use posthaste::config::{LedgerConfig, SuppressionConfig};
use posthaste::ledger::Ledger;
use posthaste::log::DiskFiles;
use posthaste::mail::{Class, EnvelopeAddress, Stream};
use posthaste::suppression::{Defaults, Format, Importer, Reason, Scope, Suppressions};
use posthaste::telemetry::Metrics;

/// Look-ups of each kind.
const LOOKS: usize = 200_000;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let rows: usize = arguments.next().map_or(10_000_000, |rows| rows.parse().expect("a number of rows"));
    let below = arguments.next().map_or_else(std::env::temp_dir, Into::into);
    let dir = tempfile::tempdir_in(below).expect("a folder");
    println!("{rows} rows; resident at the start: {} MiB", resident());

    let (ledger, list) = open(dir.path());
    for round in ["import", "import of the same again"] {
        let (seconds, parsing) = import(&list, rows);
        let rate = rows as f64 / seconds;
        println!(
            "{round}: {seconds:.1} s, {rate:.0} rows a second (making the text: {parsing:.1} s beside); resident {} MiB",
            resident()
        );
    }
    look(&list, rows);
    drop(list);
    ledger.close();
    drop(ledger);
    println!("closed: resident {} MiB, {} MiB on disk", resident(), disk(dir.path()) >> 20);

    let begun = Clock.instant();
    let (ledger, list) = open(dir.path());
    println!("start: {:.1} s, resident {} MiB", begun.elapsed().as_secs_f64(), resident());
    look(&list, rows);
    drop(list);
    ledger.close();
}

fn open(dir: &Path) -> (Arc<Ledger>, Arc<Suppressions>) {
    let metrics = Arc::new(Metrics::new());
    let ledger = Ledger::open(dir, &LedgerConfig::default(), Arc::new(DiskFiles), Arc::clone(&metrics), Clock);
    let ledger = Arc::new(ledger.expect("the ledger opens"));
    let begun = Clock.instant();
    let list = Suppressions::open(Arc::clone(&ledger), &SuppressionConfig::default(), metrics, Clock);
    println!("the list opened in {:.1} s", begun.elapsed().as_secs_f64());
    (ledger, Arc::new(list.expect("the list opens")))
}

/// In no order.
fn address(n: usize) -> String {
    format!("user{}@domain{}.example", (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24, n % 5000)
}

fn import(list: &Arc<Suppressions>, rows: usize) -> (f64, f64) {
    let defaults = Defaults {
        tenant: None,
        scope: Some(Scope::Global),
        reason: Reason::Manual,
        source: "bench".into(),
        since: Clock.timestamp(),
    };
    let mut importer = Importer::new(Arc::clone(list), Format::Csv, defaults, false);
    let (mut storing, mut making) = (0.0, 0.0);
    for first in (0..rows).step_by(1000) {
        let begun = Clock.instant();
        let text: String = (first..(first + 1000).min(rows)).map(|n| address(n) + "\n").collect();
        making += begun.elapsed().as_secs_f64();
        let begun = Clock.instant();
        importer.take(text.as_bytes()).expect("it can be stored");
        storing += begun.elapsed().as_secs_f64();
    }
    let begun = Clock.instant();
    let done = importer.finish().expect("it can be stored");
    storing += begun.elapsed().as_secs_f64();
    assert_eq!((done.rows, done.refused), (rows as u64, 0));
    (storing, making)
}

fn look(list: &Suppressions, rows: usize) {
    let stream = Stream { tenant: "shop".into(), class: Class::Bulk, campaign: "spring".into() };
    let now = Clock.timestamp();
    for (what, first, step) in [("hit", 0, rows / LOOKS), ("miss", rows, 1)] {
        let addresses: Vec<EnvelopeAddress> =
            (0..LOOKS).map(|n| address(first + n * step.max(1)).parse().expect("an address")).collect();
        let mut times: Vec<u64> = Vec::with_capacity(LOOKS);
        let mut found = 0;
        for address in &addresses {
            let begun = Clock.instant();
            found += usize::from(list.check(&stream, None, address, now).expect("it can be read").is_some());
            times.push(begun.elapsed().as_nanos() as u64);
        }
        times.sort_unstable();
        let at = |share: f64| times[((LOOKS - 1) as f64 * share) as usize] as f64 / 1000.0;
        let mean = times.iter().sum::<u64>() as f64 / LOOKS as f64 / 1000.0;
        println!(
            "{what}: {found} found, mean {mean:.2} us, p50 {:.2}, p90 {:.2}, p99 {:.2}, p99.9 {:.2}",
            at(0.5),
            at(0.9),
            at(0.99),
            at(0.999)
        );
    }
}

/// Resident memory in MiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("it is there");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") / 1024
}

fn disk(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).expect("it is there").filter_map(Result::ok);
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => disk(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}
