//! The event log of these tests is a vector that no power cut reaches, and that now and then does not take a line.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::super::{Batch, Evidence, Reason, Scope, Subject, Suppressions};
use super::*;
use crate::clock::Clock;
use crate::config::SuppressionConfig;
use crate::log::sim::{Deed, Fault, SimFiles};
use crate::mail::{EnvelopeAddress, Stream};
use crate::telemetry::Metrics;

const NOW: Timestamp = Timestamp(1_795_348_800_000);

/// Has what was told.
#[derive(Clone, Default)]
pub(in crate::suppression) struct Book(Arc<Mutex<Page>>);

#[derive(Default)]
struct Page {
    told: Vec<String>,
    fate: Option<SmallRng>,
}

/// What becomes of lines.
enum Fate {
    Told,
    /// The power goes before they are on disk.
    Lost,
    /// It goes right after that.
    Unsaid,
}

impl Book {
    /// In order.
    pub(in crate::suppression) fn told(&self) -> Vec<String> {
        self.0.lock().unwrap().told.clone()
    }

    /// From now on chance decides what is told.
    fn be_unsure(&self, seed: Option<u64>) {
        self.0.lock().unwrap().fate = seed.map(SmallRng::seed_from_u64);
    }

    fn count(&self, line: &str) -> usize {
        self.told().iter().filter(|told| *told == line).count()
    }
}

impl Teller for Book {
    fn line(&self, change: &Change<'_>) -> Vec<u8> {
        let subject = change.entry.map(|entry| entry.subject.to_string()).unwrap_or_default();
        format!("{} {subject} {} {}\n", change.what.as_str(), change.count, change.by).into_bytes()
    }

    fn tell(&self, lines: Bytes, told: Told) {
        let mut page = self.0.lock().unwrap();
        let fate = match page.fate.as_mut().map(|dice| dice.random_range(0..4)) {
            Some(0) => Fate::Lost,
            Some(1) => Fate::Unsaid,
            _ => Fate::Told,
        };
        if !matches!(fate, Fate::Lost) {
            page.told.extend(std::str::from_utf8(&lines).unwrap().lines().map(str::to_owned));
        }
        drop(page);
        if matches!(fate, Fate::Told) {
            told.done();
        }
    }

    fn tell_again(&self, lines: Bytes, told: Told) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        let known = std::str::from_utf8(&lines).unwrap().lines().all(|line| self.count(line) > 0);
        Box::pin(async move { if known { told.done() } else { self.tell(lines, told) } })
    }
}

fn open(files: &SimFiles, book: &Book) -> Suppressions {
    let (ledger, metrics) = (Arc::new(Ledger::open_small(files)), Arc::new(Metrics::new()));
    let list = Suppressions::open(ledger, &SuppressionConfig::default(), metrics, Clock).unwrap();
    list.connect(book.clone());
    list
}

fn entry(address: &str, until: Option<Timestamp>) -> Entry {
    Entry {
        subject: address.parse().unwrap(),
        scope: Scope::Global,
        reason: Reason::Manual,
        evidence: "".into(),
        source: "test".into(),
        since: NOW,
        until,
    }
}

/// One of all the ways in which the list changes, for entries named by `n`. Each may fail.
async fn change(list: &Suppressions, way: u32, n: usize) {
    let (address, subject) = (format!("u{n}@x.example"), format!("u{n}@x.example").parse::<Subject>().unwrap());
    match way {
        0 => {
            let pair = vec![entry(&address, None), entry(&format!("v{n}@x.example"), None)];
            drop(list.add(pair).await);
        }
        1 => {
            let (to, stream): (EnvelopeAddress, _) = (address.parse().unwrap(), Stream::default());
            let evidence = Evidence {
                cause: Reason::HardBounce,
                address: &to,
                stream: &stream,
                list: None,
                evidence: n.to_string(),
                source: "test",
                at: NOW,
            };
            drop(list.learn(evidence, |entry| format!("added {} 1 test\n", entry.subject).into_bytes()).await);
        }
        2 => {
            drop(list.add(vec![entry(&address, None)]).await);
            drop(list.remove_by(&Scope::Global, &subject, "test").await);
        }
        3 => {
            drop(list.add(vec![entry(&address, Some(NOW))]).await);
            drop(list.expire(NOW).await);
        }
        _ => {
            let mut batch = Batch::default();
            (0..=n).for_each(|m| batch.push(&entry(&format!("run{n}-{m}@x.example"), None)));
            drop(list.add_run(batch, "test"));
        }
    }
}

/// How often it says that somebody came, less how often that he went.
fn there(book: &Book, address: &str) -> isize {
    let went = book.count(&format!("removed {address} 1 test")) + book.count(&format!("expired {address} 1 daemon"));
    book.count(&format!("added {address} 1 test")) as isize - went as isize
}

/// Power cuts at any write and sync of the ledger, and lines that are lost on their way: after the next start each change
/// that there was has been told, once; none that there was not.
#[test]
fn a_crash_at_any_write_leaves_nothing_untold() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for seed in 0..40 {
        let (files, book, mut dice) = (SimFiles::new(seed), Book::default(), SmallRng::seed_from_u64(seed));
        let mut ways = Vec::new();
        for life in 0..3 {
            files.clear_faults();
            book.be_unsure(Some(seed * 3 + life));
            let list = open(&files, &book);
            let deed = [Deed::Write, Deed::Sync][dice.random_range(0..2)];
            files.fail(deed, dice.random_range(1..40), Fault::PowerCut);
            for _ in 0..12 {
                ways.push(dice.random_range(0..5));
                runtime.block_on(change(&list, ways[ways.len() - 1], ways.len()));
            }
            files.cut();
            list.store.ledger.close();
            files.restart();
        }
        files.clear_faults();
        book.be_unsure(None);
        let list = open(&files, &book);
        runtime.block_on(list.telling.tell_again());
        for (n, way) in ways.iter().enumerate().map(|(place, way)| (place + 1, *way)) {
            let held = |address: &str| !list.find(&address.parse().unwrap()).unwrap().is_empty();
            let place = format!("seed {seed}, {way} {n}: {:?}", book.told());
            if way == 4 {
                let told = book.count(&format!("added  {} test", n + 1));
                assert_eq!(told, usize::from(held(&format!("run{n}-0@x.example"))), "{place}");
                continue;
            }
            for address in [format!("u{n}@x.example"), format!("v{n}@x.example")] {
                assert_eq!(there(&book, &address), isize::from(held(&address)), "{place}");
                assert!(book.count(&format!("added {address} 1 test")) <= 1, "{place}");
            }
        }
        list.store.ledger.close();
        // All of it was told: the next start has nothing to tell.
        files.restart();
        let list = open(&files, &book);
        assert!(list.telling.untold().is_empty(), "seed {seed}");
    }
}

#[tokio::test]
async fn who_gives_up_waiting_leaves_an_entry_that_is_found_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let files = Arc::new(crate::log::DiskFiles);
    let ledger = Ledger::open(dir.path(), &Default::default(), files, Arc::new(Metrics::new()), Clock).unwrap();
    let config = SuppressionConfig::default();
    let list = Suppressions::open(Arc::new(ledger), &config, Arc::new(Metrics::new()), Clock).unwrap();
    let book = Book::default();
    list.connect(book.clone());
    // Polled once: as for a client that is gone before the answer.
    let add = list.add(vec![entry("ann@x.example", None)]);
    drop(tokio::time::timeout(std::time::Duration::ZERO, add).await);
    while book.told().is_empty() {
        tokio::task::yield_now().await;
    }
    let found = list.find(&"ann@x.example".parse().unwrap()).unwrap();
    assert_eq!((found.len(), book.told().len()), (1, 1));
}

#[test]
fn lines_are_cut_where_they_end() {
    let check = |lines: &[usize], expected: &[usize]| {
        let text: String = lines.iter().map(|len| "x".repeat(len - 1) + "\n").collect();
        let found: Vec<Bytes> = pieces(text.clone().into()).collect();
        assert_eq!(found.iter().map(Bytes::len).collect::<Vec<_>>(), expected, "{lines:?}");
        assert_eq!(found.concat(), text.as_bytes());
    };
    check(&[], &[]);
    check(&[10, 20], &[30]);
    check(&[PIECE], &[PIECE]);
    check(&[PIECE - 1, 3], &[PIECE - 1, 3]);
    check(&[PIECE + 5, 3], &[PIECE + 5, 3]);
    check(&[100_000; 7], &[200_000, 200_000, 200_000, 100_000]);
}
