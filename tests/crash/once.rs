//! Clients hand over batches with idempotency keys by gRPC, HTTP and SMTP. They are killed at random moments, start anew,
//! and send all of their batch again; the daemon is killed, too. In the end each message was accepted once, under one id,
//! and delivered once. Copies too many are counted, and each must be one that promise 1 allows ([`books::copies`]).
//!
//! `POSTHASTE_ROUNDS=N` does so N times.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use posthaste::clock::Clock;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::client::{Application, Door, Noted, Order, content, noted, recipient};
use crate::stage::{Daemon, Stage};
use crate::{books, from_environment, seed};

/// Rounds, unless told otherwise.
const ROUNDS: u64 = 30;
/// For so many, which take 40 s on two cores that others use too; a daemon that hangs must not hang the suite.
const LIMIT: Duration = Duration::from_secs(120);
/// Messages of a batch.
const BATCH: u64 = 40;
/// Batches of a round, at once: two by the APIs, one by SMTP.
const BATCHES: u64 = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_sent_again_is_delivered_once_whoever_was_killed() {
    let seed = seed();
    let rounds = from_environment("POSTHASTE_ROUNDS").unwrap_or(ROUNDS);
    println!("POSTHASTE_SEED={seed} POSTHASTE_ROUNDS={rounds}");
    let stage = Stage::build().await;
    let limit = LIMIT * rounds.div_ceil(ROUNDS) as u32;
    let started = Clock.instant();
    match tokio::time::timeout(limit, play(&stage, seed, rounds)).await {
        Ok(story) => story.check(&stage).await,
        Err(_) => panic!("not done within {limit:?}; the daemon's log ends:\n{}", stage.log_end()),
    }
    println!("in {:.1} s", started.elapsed().as_secs_f64());
}

/// What happened, as far as the daemon's and the receivers' books do not say.
struct Story {
    messages: Range<u64>,
    /// Of the daemon.
    kills: Vec<books::Kill>,
    /// Of clients that had some of their receipts but not all.
    interrupted: usize,
    receipts: Vec<PathBuf>,
}

async fn play(stage: &Stage, seed: u64, rounds: u64) -> Story {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut daemon = stage.start();
    let mut story =
        Story { messages: 0..rounds * BATCHES * BATCH, kills: Vec::new(), interrupted: 0, receipts: Vec::new() };
    for round in 0..rounds {
        let batch = |number: u64, rng: &mut SmallRng| {
            let number = round * BATCHES + number;
            let receipts = stage.file(&format!("receipts-{number}"));
            Batch { stage, messages: number * BATCH..(number + 1) * BATCH, receipts, rng: SmallRng::from_rng(rng) }
        };
        let batches = [batch(0, &mut rng), batch(1, &mut rng), batch(2, &mut rng)];
        let files = batches.each_ref().map(|batch| batch.receipts.clone());
        let [a, b, c] = batches;
        let doom = doom(stage, &mut daemon, &files, &mut rng);
        let (a, b, c, kill) = tokio::join!(
            a.run(&[Door::Grpc, Door::Grpc, Door::Http]),
            b.run(&[Door::Grpc, Door::Http]),
            c.run(&[Door::Smtp]),
            doom
        );
        story.interrupted += a + b + c;
        story.kills.push(kill);
        story.receipts.extend(files);
    }
    stage.drain(story.messages.clone().map(recipient).collect()).await;
    assert_eq!(daemon.stop().await, Some(0), "the daemon's log ends:\n{}", stage.log_end());
    story
}

/// Kills the daemon once, some way through a round.
async fn doom(stage: &Stage, daemon: &mut Daemon, files: &[PathBuf], rng: &mut SmallRng) -> books::Kill {
    let goal = rng.random_range(0..BATCH * BATCHES) as usize;
    while files.iter().map(|file| receipts_in(file)).sum::<usize>() < goal {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::time::sleep(Duration::from_micros(rng.random_range(0..20_000))).await;
    let kill = stage.kill(daemon);
    *daemon = stage.start();
    stage.answers(daemon).await;
    kill
}

/// How many receipts a file has.
fn receipts_in(file: &Path) -> usize {
    std::fs::read(file).map_or(0, |octets| octets.iter().filter(|octet| **octet == b'\n').count())
}

/// A batch and those who hand it over.
struct Batch<'a> {
    stage: &'a Stage,
    messages: Range<u64>,
    receipts: PathBuf,
    rng: SmallRng,
}

impl Batch<'_> {
    /// Clients that die, each by one of these doors, and one that does not; how many died with some receipts in hand, and
    /// not all.
    async fn run(mut self, doors: &[Door]) -> usize {
        let mut interrupted = 0;
        for _ in 0..self.rng.random_range(1..=2) {
            let before = receipts_in(&self.receipts);
            let goal = before + self.rng.random_range(0..BATCH) as usize;
            let mut client = self.client(doors);
            while receipts_in(&self.receipts) < goal && !client.is_done() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            tokio::time::sleep(Duration::from_micros(self.rng.random_range(0..5_000))).await;
            client.kill();
            let seen = receipts_in(&self.receipts) - before;
            interrupted += usize::from((1..BATCH as usize).contains(&seen));
        }
        let mut client = self.client(doors);
        while !client.is_done() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        interrupted
    }

    fn client(&mut self, doors: &[Door]) -> Application {
        let door = doors[self.rng.random_range(0..doors.len())];
        let address = match door {
            Door::Grpc => self.stage.grpc,
            Door::Http => self.stage.http,
            Door::Smtp => self.stage.smtp,
        };
        Application::start(&Order { door, address, messages: self.messages.clone(), receipts: self.receipts.clone() })
    }
}

impl Story {
    async fn check(&self, stage: &Stage) {
        let receipts: Vec<Noted> = self.receipts.iter().flat_map(|file| noted(file)).collect();
        let ids = self.check_receipts(&receipts);
        let events = stage.events().await;
        let ends = books::ends(&events);
        let expected: HashSet<(&str, String)> = ids.iter().map(|(message, id)| (*id, recipient(*message))).collect();
        for ((id, recipient), end) in &ends {
            assert_eq!(*end, "delivered", "{recipient}");
            assert!(
                expected.contains(&(*id, recipient.to_string())),
                "{recipient} got {id}, of which there is no receipt"
            );
        }
        assert_eq!(ends.len(), expected.len());
        let arrivals = stage.arrivals(&self.kills);
        assert_eq!(books::by_recipient(&arrivals).len(), expected.len());
        let number = |arrival: &books::Arrival| arrival.delivery.number.expect("all of ours have one");
        books::contents(&arrivals.iter().collect::<Vec<_>>(), |arrival| content(number(arrival)).into_bytes());
        for arrival in &arrivals {
            assert_eq!(recipient(number(arrival)), arrival.delivery.recipient, "somebody else's message");
        }
        let copies = books::copies(&arrivals, &self.kills, &stage.told(&self.kills), &[]);
        println!(
            "{} messages accepted and delivered once; {} receipts, {} of them replays; {} kills of the daemon, {} of clients \
             in the midst of a batch; {copies}",
            ids.len(),
            receipts.len(),
            receipts.iter().filter(|receipt| receipt.replayed).count(),
            self.kills.len(),
            self.interrupted,
        );
        assert!(self.interrupted >= self.kills.len() / 2, "hardly a client died in the midst of a batch");
    }

    /// The id of each message, which is the same in all receipts, and only one of these is the first.
    fn check_receipts<'a>(&self, receipts: &'a [Noted]) -> BTreeMap<u64, &'a str> {
        let mut ids = BTreeMap::new();
        let mut firsts = HashSet::new();
        for Noted { message, id, replayed } in receipts {
            let known = *ids.entry(*message).or_insert(id.as_str());
            assert_eq!(known, id, "message {message} has two ids");
            assert!(*replayed || firsts.insert(*message), "message {message} was accepted twice as {id}");
        }
        assert!(ids.keys().copied().eq(self.messages.clone()), "a message has no receipt");
        ids
    }
}
