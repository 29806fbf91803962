//! The spool on a simulated disk: power cuts, reclaim and restarts, against what callers were promised.

mod keys;
mod moments;
mod slow;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc::channel;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::config::ByteSize;
use crate::log::sim::SimFiles;
use crate::mail::{Blame, EnhancedCode, Failure, Recipient, ReversePath, Stream};

/// What the outside has been told, over all lives of the spool.
#[derive(Default)]
struct Told {
    /// Acknowledged messages: how many recipients, and their content's seed.
    accepted: BTreeMap<MessageId, u32>,
    /// Recipients of which an end was recorded, synced or not.
    ended: BTreeSet<(MessageId, u32)>,
    /// The event log: lines by position.
    exported: Vec<(Position, String)>,
}

struct Life {
    spool: Arc<Spool>,
    told: Arc<Mutex<Told>>,
    /// Open recipients, by message, with attempts.
    open: BTreeMap<MessageId, BTreeMap<u32, u32>>,
}

fn content(id: MessageId) -> Bytes {
    let mut dice = SmallRng::seed_from_u64(id.0);
    let len = dice.random_range(10..3000);
    (0..len).map(|_| dice.random_range(b'a'..=b'z')).collect::<Vec<u8>>().into()
}

fn envelope(recipients: u32) -> Envelope {
    let recipient = |n| Recipient::new(format!("r{n}@them.example").parse().unwrap());
    Envelope {
        reverse_path: ReversePath::Null,
        recipients: (0..recipients).map(recipient).collect(),
        stream: Stream::default(),
        accepted_at: Timestamp(5),
        not_before: Timestamp(5),
        expires_at: Timestamp(1_000_000),
        smtputf8: false,
        eight_bit: false,
        ret: None,
        envid: None,
        list: None,
        tags: Vec::new(),
        key: None,
        delay_report_at: None,
    }
}

fn failure() -> Failure {
    Failure::ours(Blame::Site, EnhancedCode(4, 4, 1), "dice")
}

impl Life {
    fn begin(files: &SimFiles, told: &Arc<Mutex<Told>>) -> Life {
        let config = SpoolConfig {
            segment_size: ByteSize(32 << 10),
            cache_size: ByteSize(4 << 10),
            disk_free_min: ByteSize(0),
            ..SpoolConfig::default()
        };
        let exported = told.lock().unwrap().exported.last().map(|(position, _)| *position);
        let record = Arc::clone(told);
        let export = Arc::new(move |position, lines: Bytes| {
            let lines = String::from_utf8(lines.to_vec()).unwrap();
            record.lock().unwrap().exported.push((position, lines));
        });
        let mut open = BTreeMap::new();
        let mut restore = |restored: Restored| {
            let mut recipients: BTreeMap<u32, u32> =
                (0..restored.envelope.recipients.len() as u32).map(|r| (r, 0)).collect();
            for RestoredRecipient { recipient, attempts, .. } in restored.recipients {
                recipients.insert(recipient, attempts.into());
            }
            recipients.retain(|_, attempts| *attempts != u32::from(ENDED));
            open.insert(restored.id, recipients);
        };
        let metrics = Arc::new(Metrics::new());
        let files = Arc::new(files.clone());
        let (spool, mut opened) = Spool::open(
            Path::new("/spool"),
            &config,
            files,
            metrics,
            Outlets { exported, export, ledger: Arc::default() },
            Clock,
        )
        .unwrap();
        spool.restore(&mut opened, &mut restore).unwrap();
        Life { spool, told: Arc::clone(told), open }
    }

    /// What was promised is there, and no more than that.
    fn check(&self) {
        let told = self.told.lock().unwrap();
        let known: BTreeSet<(MessageId, u32)> =
            told.exported.iter().flat_map(|(_, lines)| lines.lines().filter_map(parse_end)).collect();
        for (id, recipients) in &told.accepted {
            for recipient in 0..*recipients {
                let open = self.open.get(id).is_some_and(|open| open.contains_key(&recipient));
                let ended = told.ended.contains(&(*id, recipient));
                assert!(open || ended, "{id} {recipient} is lost");
                assert!(!(open && known.contains(&(*id, recipient))), "{id} {recipient} came back from its end");
            }
        }
        let ends = told.exported.iter().flat_map(|(_, lines)| lines.lines().filter_map(parse_end)).count();
        assert_eq!(ends, known.len(), "an end was told twice");
        assert!(told.exported.windows(2).all(|pair| pair[0].0 < pair[1].0), "events out of order");
    }

    fn accept(&mut self, dice: &mut SmallRng) {
        let id = self.spool.next_id(Timestamp(5));
        let recipients = if dice.random_range(0..3) == 0 { dice.random_range(2..6) } else { 1 };
        let message = Arc::new(Message::new(id, envelope(recipients), content(id)));
        let (sender, answer) = channel();
        self.spool.accept([message], move |result| sender.send(result.is_ok()).unwrap());
        if answer.recv().unwrap() {
            self.told.lock().unwrap().accepted.insert(id, recipients);
            self.open.insert(id, (0..recipients).map(|r| (r, 0)).collect());
        }
    }

    /// One attempt at a message, old or new.
    fn attempt(&mut self, dice: &mut SmallRng, end_percent: u32) {
        let Some(id) = self.open.keys().nth(dice.random_range(0..self.open.len().max(1))).copied() else { return };
        let recipients = self.open.get_mut(&id).unwrap();
        let (mut changes, mut events) = (Vec::new(), String::new());
        for recipient in recipients.keys().copied().collect::<Vec<_>>() {
            let state = if dice.random_range(0..100) < end_percent {
                recipients.remove(&recipient);
                self.told.lock().unwrap().ended.insert((id, recipient));
                events += &format!("{id} {recipient}\n");
                RecipientState::Ended(End::Delivered)
            } else {
                let attempts = recipients.get_mut(&recipient).unwrap();
                *attempts += 1;
                RecipientState::Waiting {
                    attempts: *attempts,
                    next_attempt: Timestamp(9),
                    failure: failure(),
                    late: false,
                }
            };
            changes.push(Change { recipient, state });
        }
        let finished = recipients.is_empty();
        if finished {
            self.open.remove(&id);
        }
        let signature = (dice.random_range(0..2) == 0).then(|| Bytes::from_static(b"signed"));
        let update =
            Update { id, changes, finished, events: events.into(), signature, reports: Vec::new(), synced: None };
        self.spool.record(update, |_| {});
    }

    async fn check_contents(&self) {
        for id in self.open.keys() {
            let message = self.spool.load(*id).await.unwrap();
            assert_eq!(message.content, content(*id));
            assert!(message.signature.get().is_none_or(|signature| signature == "signed".as_bytes()));
        }
    }

    /// As the event log does once it has synced.
    fn sync_events(&self) {
        if let Some((position, _)) = self.told.lock().unwrap().exported.last() {
            self.spool.set_exported(position.segment);
        }
    }
}

fn parse_end(line: &str) -> Option<(MessageId, u32)> {
    let (id, recipient) = line.split_once(' ')?;
    Some((id.parse().ok()?, recipient.parse().ok()?))
}

#[tokio::test]
async fn power_cuts_lose_nothing_and_bring_nothing_back() {
    for seed in 0..25 {
        let mut dice = SmallRng::seed_from_u64(seed);
        let files = SimFiles::new(seed);
        let told = Arc::new(Mutex::new(Told::default()));
        for _ in 0..6 {
            let mut life = Life::begin(&files, &told);
            life.check();
            life.check_contents().await;
            for _ in 0..dice.random_range(1..150) {
                match dice.random_range(0..10) {
                    0..4 => life.accept(&mut dice),
                    4..9 => life.attempt(&mut dice, 60),
                    _ => {
                        life.sync_events();
                        life.spool.reclaim().unwrap();
                    }
                }
            }
            files.restart();
            life.spool.close();
        }
        let life = Life::begin(&files, &told);
        life.check();
        life.check_contents().await;
        life.spool.close();
    }
}

#[tokio::test]
async fn a_clean_stop_forgets_nothing() {
    let files = SimFiles::new(1);
    let told = Arc::new(Mutex::new(Told::default()));
    let mut dice = SmallRng::seed_from_u64(1);
    let mut open = BTreeMap::new();
    for _ in 0..5 {
        let mut life = Life::begin(&files, &told);
        assert_eq!(life.open, open);
        life.check();
        for _ in 0..60 {
            life.accept(&mut dice);
            life.attempt(&mut dice, 40);
        }
        life.sync_events();
        life.spool.reclaim().unwrap();
        life.spool.close();
        files.restart();
        open = life.open;
    }
}

/// A few messages that wait for days amid others that come and go: the log must not grow with what passed.
#[tokio::test]
async fn long_waiters_do_not_hold_the_disk() {
    let files = SimFiles::new(3);
    let told = Arc::new(Mutex::new(Told::default()));
    let mut dice = SmallRng::seed_from_u64(3);
    let mut life = Life::begin(&files, &told);
    let mut waiters = Vec::new();
    let mut most = 0;
    for round in 0..1500 {
        life.accept(&mut dice);
        // One in thirty stays.
        if round % 30 == 0 {
            let last = *life.open.keys().next_back().unwrap();
            waiters.push((last, life.open.remove(&last).unwrap()));
        }
        life.attempt(&mut dice, 100);
        if round % 20 == 0 {
            life.sync_events();
            while life.spool.reclaim().unwrap() {}
            let stats = life.spool.log.stats();
            most = most.max(stats.segments);
        }
    }
    life.open.extend(waiters);
    life.check();
    life.check_contents().await;
    // 50 waiters of 1.5 KB fill three segments of 32 KiB; 1,500 messages would fill seventy.
    assert!(most <= 16, "{most} segments");
    life.spool.close();
    files.kill();
    let again = Life::begin(&files, &told);
    assert_eq!(again.open, life.open);
    again.check_contents().await;
    again.spool.close();
}

#[test]
fn a_notice_comes_to_the_event_log_and_holds_nothing_back() {
    let (files, told) = (SimFiles::new(3), Arc::<Mutex<Told>>::default());
    let mut dice = SmallRng::seed_from_u64(3);
    let mut life = Life::begin(&files, &told);
    life.spool.note("paused\n");
    life.accept(&mut dice);
    life.spool.close();
    let lines =
        || told.lock().unwrap().exported.iter().map(|(_, lines)| lines.clone()).collect::<Vec<String>>().concat();
    assert_eq!(lines(), "paused\n");
    // The event log lost it: it is handed over again, and is no message.
    told.lock().unwrap().exported.clear();
    files.kill();
    let mut life = Life::begin(&files, &told);
    assert_eq!((lines().as_str(), life.open.len()), ("paused\n", 1));
    for _ in 0..200 {
        life.spool.note(vec![b'x'; 1000]);
        life.accept(&mut dice);
        life.attempt(&mut dice, 100);
    }
    life.sync_events();
    while life.spool.reclaim().unwrap() {}
    let stats = life.spool.log.stats();
    assert!(stats.segments <= 16, "{} segments", stats.segments);
    life.spool.close();
}
