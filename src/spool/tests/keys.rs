//! Idempotency keys: durable with their message, in two logs that lose power together.

use super::*;
use crate::ledger::Begun;
use crate::mail::{Fingerprint, Keyed, Receipt};

struct Life {
    spool: Arc<Spool>,
    ledger: Arc<Ledger>,
}

impl Life {
    fn begin(files: &SimFiles) -> Life {
        let ledger = Arc::new(Ledger::open_small(files));
        let config =
            SpoolConfig { segment_size: ByteSize(32 << 10), disk_free_min: ByteSize(0), ..SpoolConfig::default() };
        // Events hold nothing back.
        let exported = Some(Position { segment: SegmentId(u32::MAX), offset: 0 });
        let outlets = Outlets { exported, export: Arc::new(|_, _| {}), ledger: Arc::clone(&ledger) };
        let (disk, metrics) = (Arc::new(files.clone()), Arc::new(Metrics::new()));
        let (spool, mut opened) = Spool::open(Path::new("/spool"), &config, disk, metrics, outlets, Clock).unwrap();
        spool.restore(&mut opened, &mut |_| {}).unwrap();
        Life { spool, ledger }
    }

    /// Accepts a message with that key; its receipt if it is acknowledged.
    fn accept(&self, key: &str) -> Option<Receipt> {
        let now = Clock.timestamp();
        let id = self.spool.next_id(now);
        let keyed = Keyed::new(key.parse().unwrap(), Fingerprint([7; 16]), 1);
        let Begun::New(ticket) = self.ledger.begin("", &keyed) else { panic!("{key} is not new") };
        let envelope = Envelope { accepted_at: now, key: Some(Box::new(keyed)), ..envelope(1) };
        let (sender, answer) = channel();
        ticket.hand_over();
        let message = Arc::new(Message::new(id, envelope, content(id)));
        self.spool.accept([message], move |result| sender.send(result.is_ok()).unwrap());
        answer.recv().unwrap().then_some(Receipt { id, messages: 1, accepted_at: now, replayed: false })
    }

    fn finish(&self, id: MessageId) {
        let changes = vec![Change { recipient: 0, state: RecipientState::Ended(End::Delivered) }];
        let (events, signature) = (Bytes::new(), None);
        let update = Update { id, changes, finished: true, events, signature, reports: Vec::new(), synced: None };
        self.spool.record(update, |_| {});
    }
}

/// Messages come, most of them finish at once, their segments are used again, and the power goes.
#[test]
fn power_cuts_forget_no_key_of_an_acknowledged_message() {
    for seed in 0..15 {
        let files = SimFiles::new(seed);
        let mut dice = SmallRng::seed_from_u64(seed);
        let mut known: BTreeMap<String, Receipt> = BTreeMap::new();
        for life in 0..5 {
            let Life { spool, ledger } = &Life::begin(&files);
            for (key, receipt) in &known {
                let found = ledger.receipt("", key).unwrap();
                assert_eq!(found, Some(*receipt), "seed {seed} life {life} {key}");
            }
            let now = Life { spool: Arc::clone(spool), ledger: Arc::clone(ledger) };
            for n in 0..dice.random_range(1..120) {
                let key = format!("{life}-{n}");
                if let Some(receipt) = now.accept(&key) {
                    if dice.random_range(0..10) > 0 {
                        now.finish(receipt.id);
                    }
                    known.insert(key, receipt);
                }
                if dice.random_range(0..10) == 0 {
                    spool.reclaim().unwrap();
                }
            }
            files.restart();
            spool.close();
            ledger.close();
            files.restart();
        }
    }
}

/// The spool was begun anew beside an old ledger, whose positions say nothing about it.
#[test]
fn a_new_spool_beside_an_old_ledger_is_told_of_whole() {
    let files = SimFiles::new(1);
    let life = Life::begin(&files);
    for n in 0..200 {
        life.accept(&format!("old-{n}")).unwrap();
    }
    life.spool.close();
    life.ledger.close();
    files.restart();
    for name in files.list(Path::new("/spool")).unwrap() {
        files.remove(&Path::new("/spool").join(name)).unwrap();
    }
    let life = Life::begin(&files);
    let receipt = life.accept("new").unwrap();
    files.restart();
    life.spool.close();
    life.ledger.close();
    files.restart();
    let life = Life::begin(&files);
    assert_eq!(life.ledger.receipt("", "new").unwrap(), Some(receipt));
    assert!(life.ledger.receipt("", "old-0").unwrap().is_some());
}

#[test]
fn what_a_damaged_ledger_forgot_is_told_again() {
    let files = SimFiles::new(1);
    let life = Life::begin(&files);
    let accepted: Vec<Receipt> = (0..200).map(|n| life.accept(&format!("{n}")).unwrap()).collect();
    while life.ledger.unrecorded().is_some() {
        std::thread::yield_now();
    }
    life.spool.close();
    life.ledger.close();
    // Which segments there are by now depends on how many receipts came together in a batch.
    let folder = Path::new("/ledger/receipts");
    for name in files.list(folder).unwrap().iter().filter(|name| name.starts_with("seg-")) {
        let segment = files.open(&folder.join(name), true).unwrap();
        segment.write_at(&[std::io::IoSlice::new(b"damage")], 4096 + 50).unwrap();
    }
    files.restart();
    let life = Life::begin(&files);
    for (n, receipt) in accepted.iter().enumerate() {
        assert_eq!(life.ledger.receipt("", &n.to_string()).unwrap(), Some(*receipt), "{n}");
    }
}

/// Somebody replaced the spool's folder; the event log is the old one, and people follow it.
#[test]
fn positions_in_a_new_spool_come_behind_those_in_the_event_log() {
    let files = SimFiles::new(1);
    let config = SpoolConfig { segment_size: ByteSize(32 << 10), disk_free_min: ByteSize(0), ..SpoolConfig::default() };
    let known = Position { segment: SegmentId(80), offset: 4096 };
    let (sender, exported) = channel();
    for round in 0..2 {
        let sender = sender.clone();
        let export = Arc::new(move |position, _| sender.send(position).unwrap());
        let outlets = Outlets { exported: Some(known), export, ledger: Arc::default() };
        let (disk, metrics) = (Arc::new(files.clone()), Arc::new(Metrics::new()));
        let (spool, mut opened) = Spool::open(Path::new("/spool"), &config, disk, metrics, outlets, Clock).unwrap();
        assert_eq!(opened.log.renumbered, round == 0);
        spool.restore(&mut opened, &mut |_| {}).unwrap();
        if round == 0 {
            let id = spool.next_id(Clock.timestamp());
            let (sender, accepted) = channel();
            let message = Arc::new(Message::new(id, envelope(1), content(id)));
            spool.accept([message], move |result| sender.send(result.is_ok()).unwrap());
            assert!(accepted.recv().unwrap());
            let changes = vec![Change { recipient: 0, state: RecipientState::Ended(End::Delivered) }];
            let (events, signature) = (Bytes::from_static(b"{}\n"), None);
            let update = Update { id, changes, finished: true, events, signature, reports: Vec::new(), synced: None };
            spool.record(update, |_| {});
        }
        spool.close();
        let told = exported.try_iter().collect::<Vec<_>>();
        assert!(told.len() == 1 && told[0] > known, "round {round}: {told:?}");
    }
}
