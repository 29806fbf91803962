//! Facts on a simulated disk and on sled, against a map.

use std::fs;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::log::DiskFiles;
use crate::log::sim::{Deed, Fault, SimFiles};

/// Facts and the thread that keeps their index, until the value is dropped.
struct Open {
    facts: Arc<Facts>,
    metrics: Arc<Metrics>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Open {
    fn new(dir: &Path, files: Arc<dyn Files>, indexes: Box<dyn Indexes>) -> Open {
        let metrics = Arc::new(Metrics::new());
        let facts = Facts::open(dir, 64 << 10, indexes, files, Arc::clone(&metrics)).unwrap();
        let running = Arc::clone(&facts);
        Open { facts, metrics, thread: Some(std::thread::spawn(move || running.run())) }
    }

    fn sim(files: &SimFiles, indexes: &MemoryIndexes) -> Open {
        Open::new(Path::new("/facts"), Arc::new(files.clone()), Box::new(indexes.clone()))
    }

    fn sled(dir: &Path) -> Open {
        let indexes = SledIndexes { dir: dir.join("index"), cache: 1 << 20 };
        Open::new(&dir.join("facts"), Arc::new(DiskFiles), Box::new(indexes))
    }

    fn put(&self, facts: Vec<Fact>) -> bool {
        let (sender, answer) = std::sync::mpsc::channel();
        self.facts.put(facts, move |result| sender.send(result.is_ok()).unwrap());
        answer.recv().unwrap()
    }

    fn set(&self, key: &str, value: &str) -> bool {
        self.put(vec![fact(key, Some(value))])
    }

    fn all(&self) -> BTreeMap<String, String> {
        loop {
            // While it is made anew it says so.
            let Ok(found) = self.facts.scan(Table::Tenants, b"") else { continue };
            let text = |octets: &[u8]| String::from_utf8(octets.to_vec()).unwrap();
            return found.iter().map(|(key, value)| (text(key), text(value))).collect();
        }
    }

    /// Waits until the index has everything.
    fn settle(&self) {
        while !self.facts.lock().queue.is_empty() {
            self.facts.wake.notify_all();
            std::thread::yield_now();
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.facts.stop();
        self.thread.take().unwrap().join().unwrap();
        self.facts.close_log();
    }
}

/// Values too long for the index are read from the log, wherever compaction puts them.
#[test]
fn long_values_stand_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = BTreeMap::new();
    for life in 0..3 {
        let open = Open::sled(dir.path());
        assert_eq!(open.all(), expected);
        for round in 0..40 {
            let (key, value) = (format!("k{}", round % 3), format!("{life}{round:0>10000}"));
            assert!(open.set(&key, &value));
            if round % 2 == 0 {
                open.settle();
            }
            let found = open.facts.get(Table::Tenants, key.as_bytes()).unwrap();
            assert_eq!(found.as_deref(), Some(value.as_bytes()));
            expected.insert(key, value);
        }
        assert!(open.set("short", "1"));
        expected.insert("short".into(), "1".into());
        assert_eq!(open.all(), expected);
    }
}

fn fact(key: &str, value: Option<&str>) -> Fact {
    let value = value.map(|value| Bytes::copy_from_slice(value.as_bytes()));
    Fact { table: Table::Tenants, key: key.into(), value }
}

fn map<const N: usize>(facts: [(&str, &str); N]) -> BTreeMap<String, String> {
    facts.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// With three facts in it, one set twice and one removed.
fn fill(open: &Open) -> BTreeMap<String, String> {
    assert!(open.set("a", "1") && open.set("b", "1"));
    assert!(open.put(vec![fact("a", Some("2")), fact("c", Some("1")), fact("b", None), fact("d", Some(""))]));
    map([("a", "2"), ("c", "1"), ("d", "")])
}

#[test]
fn facts_are_found_at_once_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let open = Open::sled(dir.path());
    let expected = fill(&open);
    for _ in 0..2 {
        assert_eq!(open.all(), expected);
        assert_eq!(open.facts.get(Table::Tenants, b"a").unwrap().as_deref(), Some(&b"2"[..]));
        assert_eq!(open.facts.get(Table::Tenants, b"b").unwrap(), None);
        assert_eq!(open.facts.get(Table::Usage, b"a").unwrap(), None);
        assert_eq!(open.facts.scan(Table::Tenants, b"c").unwrap().len(), 1);
        open.settle();
    }
    drop(open);
    let open = Open::sled(dir.path());
    assert_eq!(open.all(), expected);
    assert_eq!((open.metrics.ledger_rebuilt.get(), open.metrics.ledger_facts.get()), (0, 3));
    let long = Bytes::from(vec![0; VALUE_MAX + 1]);
    assert!(!open.put(vec![Fact { table: Table::Usage, key: b"k".to_vec(), value: Some(long) }]));
}

/// Whatever is done to sled's folder, the facts are there, and go on being there.
#[test]
fn a_damaged_sled_folder_is_made_anew() {
    type Harm = fn(&Path);
    let harms: [(&str, Harm); 5] = [
        ("deleted", |index| fs::remove_dir_all(index).unwrap()),
        ("file deleted", |index| fs::remove_file(index.join("db")).unwrap()),
        ("garbage", |index| fs::write(index.join("db"), [0xa5; 1 << 19]).unwrap()),
        ("garbage settings", |index| fs::write(index.join("conf"), "segment_size: 17\n").unwrap()),
        ("a file in its place", |index| {
            fs::remove_dir_all(index).unwrap();
            fs::write(index, "mine").unwrap();
        }),
    ];
    for (what, harm) in harms {
        let dir = tempfile::tempdir().unwrap();
        let open = Open::sled(dir.path());
        let mut expected = fill(&open);
        open.settle();
        drop(open);
        harm(&dir.path().join("index"));
        let open = Open::sled(dir.path());
        assert_eq!((open.all(), open.metrics.ledger_rebuilt.get()), (expected.clone(), 1), "{what}");
        assert!(open.set("new", "1"));
        open.settle();
        drop(open);
        expected.insert("new".into(), "1".into());
        let open = Open::sled(dir.path());
        assert_eq!((open.all(), open.metrics.ledger_rebuilt.get()), (expected, 0), "{what}, once more");
    }
}

/// Cut anywhere, sled may hold everything, some of it or nothing, and fail or not.
#[test]
fn a_sled_file_cut_off_anywhere_loses_no_fact() {
    for len in [0, 1, 40, 400, 700, 3000, 20_000, 300_000] {
        let dir = tempfile::tempdir().unwrap();
        let open = Open::sled(dir.path());
        let mut expected = fill(&open);
        for n in 0..100 {
            let (key, value) = (format!("k{n}"), format!("{n:0500}"));
            assert!(open.set(&key, &value));
            expected.insert(key, value);
        }
        open.settle();
        drop(open);
        let file = fs::OpenOptions::new().write(true).open(dir.path().join("index/db")).unwrap();
        file.set_len(len.min(file.metadata().unwrap().len())).unwrap();
        for _ in 0..2 {
            assert_eq!(Open::sled(dir.path()).all(), expected, "cut to {len}");
        }
    }
}

#[test]
fn an_index_that_knows_more_than_the_log_is_not_believed() {
    let (files, indexes) = (SimFiles::new(1), MemoryIndexes::default());
    let open = Open::sim(&files, &indexes);
    let expected = fill(&open);
    open.settle();
    drop(open);
    let index = indexes.index();
    index.held().applied.as_mut().unwrap().through.segment.0 += 100;
    index.held().entries.clear();
    files.restart();
    let open = Open::sim(&files, &indexes);
    assert_eq!((open.all(), open.metrics.ledger_rebuilt.get()), (expected, 1));
}

/// What it does not know of may be compacted away: a removal, after which nothing tells of the key.
#[test]
fn an_index_from_before_the_log_begins_is_not_believed() {
    let (files, indexes) = (SimFiles::new(1), MemoryIndexes::default());
    let open = Open::sim(&files, &indexes);
    let begins_at = open.facts.begins_at();
    assert!(open.set("gone", "1"));
    open.settle();
    let old = indexes.copy();
    assert!(open.put(vec![fact("gone", None)]));
    while open.facts.begins_at() == begins_at {
        assert!(open.set("k", &format!("{:01000}", 1)));
        open.settle();
    }
    drop(open);
    files.restart();
    let open = Open::sim(&files, &old);
    assert_eq!((open.all().into_keys().collect::<Vec<_>>(), open.metrics.ledger_rebuilt.get()), (vec!["k".into()], 1));
}

#[test]
fn an_index_that_fails_is_opened_again_or_made_anew() {
    // One failure: opening it again is enough. Three: that fails too.
    for (failures, set_aside) in [(1, 0), (2, 1)] {
        let (files, indexes) = (SimFiles::new(1), MemoryIndexes::default());
        let open = Open::sim(&files, &indexes);
        let mut expected = fill(&open);
        open.settle();
        indexes.fail(failures);
        assert!(open.set("new", "1"));
        expected.insert("new".into(), "1".into());
        open.settle();
        assert_eq!(open.all(), expected);
        assert_eq!(indexes.set_aside_count(), set_aside);
        assert_eq!(indexes.index().held().entries.len(), 4);
    }
}

#[test]
fn without_any_index_facts_are_held_in_memory() {
    let (files, indexes) = (SimFiles::new(1), MemoryIndexes::default());
    let expected = fill(&Open::sim(&files, &indexes));
    indexes.fail(usize::MAX);
    let open = Open::sim(&files, &indexes);
    assert_eq!(open.all(), expected);
    assert!(open.set("new", "1"));
    open.settle();
    assert_eq!(open.all().len(), 4);
}

/// Many changes of few facts: the log keeps to a few segments, and is right when the index is lost.
#[test]
fn the_log_does_not_grow_with_changes() {
    let (files, indexes) = (SimFiles::new(1), MemoryIndexes::default());
    let open = Open::sim(&files, &indexes);
    let mut dice = SmallRng::seed_from_u64(1);
    let mut expected = BTreeMap::new();
    for round in 0..600 {
        let facts: Vec<Fact> = (0..20)
            .map(|_| {
                let (key, value) = (format!("k{}", dice.random_range(0..50)), format!("{round:0100}"));
                match dice.random_range(0..4) {
                    0 => drop(expected.remove(&key)),
                    _ => drop(expected.insert(key.clone(), value.clone())),
                }
                fact(&key, expected.get(&key).map(String::as_str))
            })
            .collect();
        assert!(open.put(facts));
    }
    // 600 records of 2.2 KB would fill 40 segments of 64 KiB. Whoever writes does not wait for the thread that compacts.
    let log = &open.facts.disk.as_ref().unwrap().log;
    let caught_up = (0..3000).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        log.segments().len() <= 12
    });
    assert!(caught_up, "{} segments", log.segments().len());
    assert_eq!(open.all(), expected);
    drop(open);
    files.restart();
    let open = Open::sim(&files, &MemoryIndexes::default());
    assert_eq!(open.all(), expected, "from the log alone");
}

/// A start writes nothing anew of a log in which nearly all counts; and one in which little does is compacted.
#[test]
fn only_what_is_worth_it_is_compacted_at_a_start() {
    let dir = tempfile::tempdir().unwrap();
    let open = Open::sled(dir.path());
    let value = |n: usize, len: usize| format!("{n:0>len$}");
    for n in 0..500 {
        // Long ones, too, of which the index has only the length.
        let len = if n % 5 == 0 { 4000 } else { 1000 };
        assert!(open.set(&format!("k{n}"), &value(n, len)) && open.set(&format!("k{}", n / 2), &value(n / 2, 1000)));
        assert!(n % 10 > 0 || open.put(vec![fact(&format!("k{n}"), None)]));
    }
    open.settle();
    let all = open.all();
    drop(open);
    let start = || {
        let indexes = Box::new(SledIndexes { dir: dir.path().join("index"), cache: 1 << 20 });
        let files = Arc::new(DiskFiles);
        let facts = Facts::open(&dir.path().join("facts"), 64 << 10, indexes, files, Arc::new(Metrics::new())).unwrap();
        let disk = facts.disk.as_ref().unwrap();
        let before = disk.log.segments();
        facts.compact(disk).unwrap();
        let after = disk.log.segments();
        let octets = facts.lock().applied.unwrap().octets;
        facts.close_log();
        (before, after, octets)
    };
    let live =
        |all: &BTreeMap<String, String>| all.iter().map(|(key, value)| 9 + key.len() + value.len()).sum::<usize>();
    // Whatever the life before has left, what the first start makes of it is not touched by the next.
    start();
    let (before, after, octets) = start();
    assert_eq!((before, octets), (after.clone(), live(&all) as u64));
    assert!(after.len() > 8, "{after:?}");
    let open = Open::sled(dir.path());
    assert_eq!(open.all(), all);
    for n in 0..2000 {
        assert!(open.set("k1", &value(n, 1000)));
    }
    drop(open);
    let (_, after, octets) = start();
    let (_, again, _) = start();
    let all = Open::sled(dir.path()).all();
    assert_eq!(octets, live(&all) as u64);
    // Another start adds a segment of its own.
    assert!(again.len() <= after.len() + 1 && after.len() < 30, "{after:?} {again:?}");
}

/// Power cuts at any deed, with compactions going on and an index that keeps up, falls behind or is lost.
#[test]
fn a_crash_at_any_write_loses_nothing_and_brings_nothing_back() {
    for seed in 0..40 {
        let files = SimFiles::new(seed);
        let mut dice = SmallRng::seed_from_u64(seed);
        let mut indexes = MemoryIndexes::default();
        // What is known, and what may be, since its put was cut off.
        let (mut sure, mut perhaps) = (BTreeMap::new(), None::<Vec<(String, Option<String>)>>);
        for life in 0..6 {
            files.clear_faults();
            let open = Open::sim(&files, &indexes);
            let found = open.all();
            if let Some(facts) = perhaps.take() {
                let mut other = sure.clone();
                apply(&mut other, &facts);
                assert!(found == sure || found == other, "seed {seed} life {life}: half of a put");
            } else {
                assert_eq!(found, sure, "seed {seed} life {life}");
            }
            sure = found;
            let deed = [Deed::Write, Deed::Sync, Deed::Change][dice.random_range(0..3)];
            files.fail(deed, dice.random_range(1..60), Fault::PowerCut);
            for _ in 0..150 {
                let set = |dice: &mut SmallRng| {
                    (dice.random_range(0..3) > 0).then(|| format!("{:0900}", dice.random::<u32>()))
                };
                let facts: Vec<(String, Option<String>)> = (0..dice.random_range(1..4))
                    .map(|_| (format!("k{}", dice.random_range(0..12)), set(&mut dice)))
                    .collect();
                let put = facts.iter().map(|(key, value)| fact(key, value.as_deref())).collect();
                if !open.put(put) {
                    perhaps = Some(facts);
                    break;
                }
                apply(&mut sure, &facts);
            }
            files.restart();
            drop(open);
            files.restart();
            if dice.random_range(0..3) == 0 {
                indexes = MemoryIndexes::default();
            }
        }
    }
}

fn apply(to: &mut BTreeMap<String, String>, facts: &[(String, Option<String>)]) {
    for (key, value) in facts {
        match value {
            Some(value) => drop(to.insert(key.clone(), value.clone())),
            None => drop(to.remove(key)),
        }
    }
}
