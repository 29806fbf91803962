//! Promise 1: did every message that got its 250 arrive, as it was sent? A copy too many needs an excuse
//! ([`books::copies`]); after a kill of a daemon that had told of all its deliveries there is none. Promise 2: does the event log give every accepted recipient exactly one end?
//!
//! `POSTHASTE_KILLS=N` kills as often.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use posthaste::clock::Clock;
use posthaste::demo::account::Event;
use posthaste::demo::load::{Client, Letter};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::books::{self, Arrival, HandedOver, Kill};
use crate::stage::Stage;
use crate::{from_environment, seed};

/// Kills, unless told otherwise.
const KILLS: usize = 25;
const CLIENTS: u64 = 6;
/// One kill in so many comes when there is nothing left to do.
const QUIET: usize = 8;
/// The whole test with [`KILLS`], and as much again for each as many more; a daemon that hangs must not hang the suite.
const LIMIT: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_however_often_it_is_killed() {
    let seed = seed();
    let kills = from_environment("POSTHASTE_KILLS").map_or(KILLS, |kills| kills as usize);
    println!("POSTHASTE_SEED={seed} POSTHASTE_KILLS={kills}");
    let stage = Stage::build().await;
    let limit = LIMIT * kills.div_ceil(KILLS) as u32;
    match tokio::time::timeout(limit, play(&stage, seed, kills)).await {
        Ok(story) => story.check(kills),
        Err(_) => panic!("not done within {limit:?}; the daemon's log ends:\n{}", stage.log_end()),
    }
}

/// Everything that happened.
struct Story {
    kills: Vec<Kill>,
    accepted: HashMap<u64, HandedOver>,
    arrivals: Vec<Arrival>,
    told: HashMap<String, usize>,
    events: Vec<Event>,
}

/// What the clients know.
#[derive(Default)]
struct Load {
    next: AtomicU64,
    pause: AtomicBool,
    stop: AtomicBool,
    accepted: Mutex<HashMap<u64, HandedOver>>,
}

impl Load {
    /// Everybody of whom the event log will tell an end.
    fn to_end(&self) -> HashSet<String> {
        let accepted = self.accepted.lock().unwrap();
        let mut all: HashSet<String> = accepted.keys().flat_map(|number| letter(*number).recipients).collect();
        // Every refusal's report comes to an end, too.
        all.extend(accepted.keys().filter(|number| is_refused(**number)).map(|number| sender(*number)));
        all
    }
}

/// Kills under load, then lets it drain.
async fn play(stage: &Stage, seed: u64, times: usize) -> Story {
    let mut rng = SmallRng::seed_from_u64(seed);
    let load = Arc::new(Load::default());
    let mut daemon = stage.start();
    let clients: Vec<_> = (0..CLIENTS).map(|_| tokio::spawn(client(stage.smtp, Arc::clone(&load)))).collect();
    let mut kills = Vec::new();
    for number in 1..=times {
        stage.answers(&mut daemon).await;
        // Mostly under full load, sometimes while it still reads its spool.
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..600))).await;
        if number % QUIET == 0 {
            load.pause.store(true, Ordering::Relaxed);
            // Connections idle: what a delivery's record waits for must not be the next message.
            stage.drain(load.to_end()).await;
        }
        kills.push(stage.kill(&mut daemon));
        daemon = stage.start();
        load.pause.store(false, Ordering::Relaxed);
    }
    stage.answers(&mut daemon).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    load.stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    stage.drain(load.to_end()).await;
    let accepted = std::mem::take(&mut *load.accepted.lock().unwrap());
    assert_eq!(daemon.stop().await, Some(0), "the daemon's log ends:\n{}", stage.log_end());
    let (arrivals, told) = (stage.arrivals(&kills), stage.told(&kills));
    let events = stage.events().await;
    Story { kills, accepted, arrivals, told, events }
}

/// Hands over one message after the other, through every crash, until told to stop. A message whose session failed is
/// not offered again: it may or may not be in.
async fn client(door: SocketAddr, load: Arc<Load>) {
    while !load.stop.load(Ordering::Relaxed) {
        let Ok(mut client) = Client::connect(door).await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        while !load.stop.load(Ordering::Relaxed) {
            if load.pause.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            }
            let number = load.next.fetch_add(1, Ordering::Relaxed);
            let begun = Clock.instant();
            if client.hand_over(number, &letter(number)).await.is_err() {
                break;
            }
            load.accepted.lock().unwrap().insert(number, (begun, Clock.instant()));
            // Enough to keep it busy, not so much that a debug build drowns before the end.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn is_refused(number: u64) -> bool {
    number % 20 == 7
}

fn sender(number: u64) -> String {
    format!("orders+{number}@shop.test")
}

/// Message `number`: mostly to the good receiver, some to the greylisting one, some to both, some refused.
fn letter(number: u64) -> Letter {
    let domains: &[&str] = match number % 20 {
        7 => &["refusing.test"],
        3 => &["greylisting.test"],
        5 => &["good.test", "greylisting.test", "other.test"],
        _ => &["good.test"],
    };
    let recipients = domains.iter().map(|domain| format!("customer{number}@{domain}")).collect();
    let body = "A line that stands for the rest of the message.\r\n".repeat(number as usize % 100);
    let content =
        format!("From: orders@shop.test\r\nSubject: order {number}\r\nX-Number: {number}\r\n\r\n{body}").into_bytes();
    Letter { sender: sender(number), recipients, content }
}

impl Story {
    fn check(&self, kills: usize) {
        println!(
            "{} kills, {} messages accepted, {} deliveries, {} events",
            self.kills.len(),
            self.accepted.len(),
            self.arrivals.len(),
            self.events.len()
        );
        assert!(
            self.kills.len() == kills && self.accepted.len() > 8 * kills,
            "that was no load: {}",
            self.accepted.len()
        );
        self.check_arrivals();
        self.check_contents();
        self.check_ends();
    }

    /// Promise 1.
    fn check_arrivals(&self) {
        let arrivals = books::by_recipient(&self.arrivals);
        let mut lost = Vec::new();
        for number in self.accepted.keys() {
            let letter = letter(*number);
            let wanted = if is_refused(*number) { vec![letter.sender] } else { letter.recipients };
            lost.extend(wanted.into_iter().filter(|recipient| !arrivals.contains_key(recipient.as_str())));
        }
        assert!(
            lost.is_empty(),
            "{} accepted recipients never got theirs: {:?}",
            lost.len(),
            &lost[..lost.len().min(10)]
        );

        let handed_over: Vec<HandedOver> = self.accepted.values().copied().collect();
        println!("{}", books::copies(&self.arrivals, &self.kills, &self.told, &handed_over));
    }

    /// Promise 1, too: what arrived is what was sent, also if its sender never heard 250. A report returns the message that it
    /// is about.
    fn check_contents(&self) {
        let (reports, letters): (Vec<&Arrival>, _) = self.arrivals.iter().partition(|it| it.delivery.sender.is_empty());
        let number = |arrival: &Arrival| arrival.delivery.number.expect("all of ours have one");
        books::contents(&letters, |arrival| letter(number(arrival)).content);
        for Arrival { delivery, .. } in &letters {
            let sent = letter(delivery.number.unwrap());
            assert!(sent.recipients.contains(&delivery.recipient) && sent.sender == delivery.sender, "{delivery:?}");
        }
        for report in reports {
            assert_eq!(sender(number(report)), report.delivery.recipient, "somebody else's report");
        }
    }

    /// Promise 2.
    fn check_ends(&self) {
        let ends = books::ends(&self.events);
        let mut by_recipient: HashMap<&str, Vec<&str>> = HashMap::new();
        for ((_, recipient), end) in ends {
            by_recipient.entry(recipient).or_default().push(end);
        }
        for number in self.accepted.keys() {
            // What the refusal taught the suppression list may be on disk before the end; killed between the two, the
            // next daemon finds the entry.
            let want: &[&str] = if is_refused(*number) { &["bounced", "suppressed"] } else { &["delivered"] };
            for recipient in letter(*number).recipients {
                let ends = by_recipient.get(recipient.as_str()).cloned().unwrap_or_default();
                assert!(ends.len() == 1 && want.contains(&ends[0]), "{recipient}: {ends:?}");
            }
        }
    }
}
