//! A crash at every write and sync of one run of spool and ledger together, whatever the index of the ledger is worth.
//!
//! Each deed of the run leaves a [`Moment`]: a copy of the disk before it, and what had been acknowledged by then. Each is
//! opened again after a power cut, with an index of an earlier moment, of a later one, and none.

mod run;

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, sync_channel};

use super::*;
use crate::ledger::{Begun, MemoryIndexes, Table};
use crate::log::Drive;
use crate::mail::{Fingerprint, Keyed, Receipt};
use run::Run;

/// Moments that are held at once, so that there is a later one.
const HELD: usize = 12;

/// What the outside had been told, and what it had asked for.
#[derive(Clone, Default)]
struct Promises {
    messages: BTreeMap<MessageId, Message>,
    keys: BTreeMap<String, Receipt>,
    facts: BTreeMap<Vec<u8>, Bytes>,
    /// Facts that are being written.
    facts_asked: Vec<(Vec<u8>, Option<Bytes>)>,
    /// How far the event log is synced, and what it has: ends of recipients.
    exported: Option<Position>,
    ends: Vec<(MessageId, u32)>,
}

/// A message that was handed over.
#[derive(Clone, Default)]
struct Message {
    accepted: bool,
    /// Each recipient: as acknowledged, and as asked for.
    recipients: Vec<[Stage; 2]>,
    /// The same of a signature, of having been taken back, and of the end of all.
    signed: [bool; 2],
    taken_back: [bool; 2],
    finished: [bool; 2],
}

/// Attempts of a recipient; an end is the last.
type Stage = u16;

/// The run before one of its deeds.
struct Moment {
    number: usize,
    disk: SimFiles,
    promises: Promises,
    index: MemoryIndexes,
}

/// Records a run in a thread of its own; every `nth` moment comes out here.
fn record(nth: usize) -> (Receiver<Moment>, std::thread::JoinHandle<usize>) {
    let (sender, moments) = sync_channel(1);
    let running = std::thread::spawn(move || {
        let files = SimFiles::new(11);
        let (promises, index) = (Arc::new(Mutex::new(Promises::default())), MemoryIndexes::default());
        let count = Arc::new(AtomicU32::new(0));
        let (known, indexed, counted) = (Arc::clone(&promises), index.clone(), Arc::clone(&count));
        files.watch(move |disk| {
            let number = counted.fetch_add(1, Ordering::Relaxed) as usize;
            if number.is_multiple_of(nth) {
                let promises = known.lock().unwrap().clone();
                // Whoever checks has found something, and says so, if it is gone.
                let _ = sender.send(Moment { number, disk, promises, index: indexed.copy() });
            }
        });
        Run::begin(&files, &index, promises).whole();
        count.load(Ordering::Relaxed) as usize
    });
    (moments, running)
}

/// Opens both logs on what a power cut leaves of a moment, and holds what is there against what was promised.
fn check(moment: &Moment, seed: u64, open: impl FnOnce(&SimFiles) -> Ledger, context: &str) {
    let context = format!("moment {}, seed {seed}, {context}", moment.number);
    let promises = &moment.promises;
    let files = moment.disk.copy(seed);
    files.restart();
    let ledger = Arc::new(open(&files));
    let ends = Arc::new(Mutex::new(promises.ends.clone()));
    let told = Arc::clone(&ends);
    let export = move |_, lines: Bytes| {
        told.lock().unwrap().extend(std::str::from_utf8(&lines).unwrap().lines().filter_map(parse_end));
    };
    let outlets = Outlets { exported: promises.exported, export: Arc::new(export), ledger: Arc::clone(&ledger) };
    let (spool, mut opened) = open_spool(&files, outlets);
    assert_eq!(opened.log.damaged, [], "{context}");
    let mut restored = BTreeMap::new();
    spool.restore(&mut opened, &mut |message| assert!(restored.insert(message.id, message).is_none())).unwrap();
    let ends = ends.lock().unwrap().clone();
    let known: BTreeSet<_> = ends.iter().copied().collect();
    assert_eq!(known.len(), ends.len(), "{context}: an end was told twice");
    for (id, message) in &promises.messages {
        let context = format!("{context}: {id}");
        check_message(message, restored.get(id), &context);
        for (place, [acknowledged, _]) in (0..).zip(&message.recipients) {
            assert!(*acknowledged < ENDED || known.contains(&(*id, place)), "{context} {place} ended and nobody heard");
        }
        if restored.contains_key(id) {
            let loaded = now(spool.load(*id)).unwrap();
            assert_eq!(loaded.content, content(*id), "{context}");
            let signature = loaded.signature.get().map(|signature| &signature[..]);
            let [must, may] = message.signed;
            assert!(!must || signature.is_some(), "{context}: its signature is gone");
            assert!(signature.is_none_or(|signature| may && signature == b"signed"), "{context}: {signature:?}");
        }
    }
    assert!(restored.keys().all(|id| promises.messages.contains_key(id)), "{context}: {:?}", restored.keys());
    for (key, receipt) in &promises.keys {
        let keyed = Keyed::new(key.parse().unwrap(), Fingerprint([7; 16]), 1);
        match ledger.begin("", &keyed) {
            Begun::Known(found) => assert_eq!(Receipt { replayed: false, ..found }, *receipt, "{context}: {key}"),
            _ => panic!("{context}: {key} is not known"),
        }
    }
    check_facts(promises, &ledger, &context);
    spool.close();
    ledger.close();
}

/// A message is where it was, or further on, but not further than anybody wanted.
fn check_message(message: &Message, restored: Option<&Restored>, context: &str) {
    let Some(restored) = restored else {
        return assert!(!message.accepted || message.finished[1], "{context} is lost");
    };
    assert!(!message.finished[0], "{context} came back from its end");
    assert_eq!(restored.envelope.recipients.len(), message.recipients.len(), "{context}");
    let mut found = vec![0; message.recipients.len()];
    restored.recipients.iter().for_each(|recipient| found[recipient.recipient as usize] = recipient.attempts);
    for (place, (found, [least, most])) in found.iter().zip(&message.recipients).enumerate() {
        assert!((*least..=*most).contains(found), "{context} {place}: {found}, not {least} to {most}");
    }
    let [must, may] = message.taken_back;
    assert!(restored.taken_back || !must, "{context} is not taken back any more");
    assert!(may || !restored.taken_back, "{context} is taken back");
}

/// Facts are as acknowledged, or all that was being written is there, too.
fn check_facts(promises: &Promises, ledger: &Ledger, context: &str) {
    // While its index is made anew it says so.
    let found = std::iter::repeat_with(|| ledger.scan(Table::Tenants, b"")).find_map(Result::ok).unwrap();
    let found: BTreeMap<_, _> = found.into_iter().collect();
    let mut asked = promises.facts.clone();
    run::apply(&mut asked, &promises.facts_asked);
    let names = |facts: &BTreeMap<Vec<u8>, Bytes>| {
        facts.iter().map(|(key, value)| format!("{} {}", key.escape_ascii(), value.slice(..4).escape_ascii())).collect()
    };
    let (found_names, sure): (Vec<String>, Vec<String>) = (names(&found), names(&promises.facts));
    assert!(found == promises.facts || found == asked, "{context}: {found_names:?} instead of {sure:?}");
}

/// Nothing else is to be waited for: the log is read where it is asked.
fn now<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn open_spool(files: &SimFiles, outlets: Outlets) -> (Arc<Spool>, Opened) {
    let config = SpoolConfig {
        segment_size: ByteSize(32 << 10),
        cache_size: ByteSize(4 << 10),
        disk_free_min: ByteSize(0),
        ..SpoolConfig::default()
    };
    let options = LogOptions { drive: Drive::Stepped(Arc::new(|| ())), ..LogOptions::new(Path::new("/spool")) };
    let (files, metrics) = (Arc::new(files.clone()), Arc::new(Metrics::new()));
    Spool::open_with(options, &config, files, metrics, outlets, Clock).unwrap()
}

#[test]
fn a_power_cut_at_any_moment_loses_nothing_whatever_the_index_is_worth() {
    let (moments, running) = record(1);
    let mut dice = SmallRng::seed_from_u64(1);
    let (mut held, mut passed) = (VecDeque::<Moment>::new(), Vec::<MemoryIndexes>::new());
    let mut check_first = |held: &mut VecDeque<Moment>| {
        let Some(moment) = held.pop_front() else { return };
        let seed = 3 * moment.number as u64;
        let later = held.back().unwrap_or(&moment).index.copy();
        // Half of them a little behind, half of any age.
        let oldest = if dice.random() { passed.len().saturating_sub(20) } else { 0 };
        let earlier = (!passed.is_empty()).then(|| passed[dice.random_range(oldest..passed.len())].copy());
        let none = MemoryIndexes::default();
        let indexes = [("index of before", earlier.unwrap_or_default()), ("index of later", later), ("no index", none)];
        // Two of the three, by turns.
        for (n, (what, index)) in (0..).zip(indexes).filter(|(n, _)| !(seed / 3 + n).is_multiple_of(3)) {
            check(&moment, seed + n, |files| Ledger::open_small_with(files, index), what);
        }
        passed.push(moment.index);
    };
    for moment in moments {
        held.push_back(moment);
        if held.len() > HELD {
            check_first(&mut held);
        }
    }
    while !held.is_empty() {
        check_first(&mut held);
    }
    let moments = running.join().unwrap();
    println!("{moments} moments");
    assert!((300..1500).contains(&moments), "{moments} moments");
}

/// A few of them with sled: from none to its first, on from one to the next, and back.
#[test]
fn a_power_cut_loses_nothing_whatever_sled_is_worth() {
    let (moments, running) = record(40);
    let moments: Vec<Moment> = moments.iter().collect();
    assert!(running.join().unwrap() > 300 && moments.len() > 6, "{} moments", moments.len());
    let dir = tempfile::tempdir().unwrap();
    let open = |files: &SimFiles| Ledger::open_small_on_sled(files, dir.path());
    for moment in &moments {
        check(moment, 1, open, "index of before, in sled");
    }
    for moment in moments.iter().rev().step_by(2) {
        check(moment, 2, open, "index of later, in sled");
        let db = std::fs::OpenOptions::new().write(true).open(dir.path().join("db")).unwrap();
        db.set_len(db.metadata().unwrap().len() / 2).unwrap();
        check(moment, 3, open, "half an index, in sled");
    }
}
