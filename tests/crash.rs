//! Kills the real daemon, again and again, while mail goes in and out, and then asks two questions (DESIGN §2).
//!
//! Promise 1: did every message that got its 250 arrive? A copy too many needs an excuse: the one before it arrived
//! shortly before a kill. Promise 2: does the event log give every accepted recipient exactly one end?
//!
//! `POSTHASTE_SEED=N` repeats a run's choices (not its timing); the seed is printed. `POSTHASTE_KILLS=N` kills as often.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use posthaste::clock::{Clock, Instant};
use posthaste::config::{ByteSize, Config, RouteConfig};
use posthaste::demo::account::{Event, EventReader};
use posthaste::demo::load::{Client, Letter};
use posthaste::demo::receiver::{Behaviour, Delivery, Keep, Receiver, Refuse};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// Kills, unless told otherwise.
const KILLS: usize = 25;
const CLIENTS: u64 = 6;
/// The whole test with [`KILLS`], and as much again for each as many more; a daemon that hangs must not hang the suite.
const LIMIT: Duration = Duration::from_secs(58);
/// A copy that came this shortly before a kill may come again: its outcome was not yet written down.
const EXCUSE_BEFORE: Duration = Duration::from_millis(500);
/// So may one that came this shortly after: it was on its way, whole, when the daemon died.
const EXCUSE_AFTER: Duration = Duration::from_millis(1000);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_however_often_it_is_killed() {
    let seed = from_environment("POSTHASTE_SEED").unwrap_or(Clock.timestamp().0);
    let kills = from_environment("POSTHASTE_KILLS").map_or(KILLS, |kills| kills as usize);
    println!("POSTHASTE_SEED={seed} POSTHASTE_KILLS={kills}");
    let stage = Stage::build().await;
    let limit = LIMIT * kills.div_ceil(KILLS) as u32;
    match tokio::time::timeout(limit, stage.play(seed, kills)).await {
        Ok(story) => story.check(kills),
        Err(_) => panic!("not done within {limit:?}; the daemon's log ends:\n{}", stage.log_end()),
    }
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect(name))
}

/// Receivers, and where the daemon lives.
struct Stage {
    directory: tempfile::TempDir,
    door: SocketAddr,
    good: Receiver,
    greylisting: Receiver,
    refusing: Receiver,
}

/// Everything that happened.
struct Story {
    kills: Vec<Instant>,
    accepted: HashSet<u64>,
    deliveries: Vec<Delivery>,
    events: Vec<Event>,
}

/// What the clients know.
#[derive(Default)]
struct Load {
    next: AtomicU64,
    stop: AtomicBool,
    accepted: Mutex<HashSet<u64>>,
}

impl Stage {
    async fn build() -> Stage {
        let receiver = |behaviour| Receiver::start_anywhere(behaviour, Keep::Facts);
        let greylist = Some(Duration::from_millis(300));
        let stage = Stage {
            // A real disk, not a file system in memory.
            directory: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap(),
            door: free_address(),
            good: receiver(Behaviour::default()).await.unwrap(),
            greylisting: receiver(Behaviour { greylist, ..Behaviour::default() }).await.unwrap(),
            refusing: receiver(Behaviour { refuse: Refuse::Everybody, ..Behaviour::default() }).await.unwrap(),
        };
        let mut config = Config {
            hostname: Some("mta.shop.test".parse().unwrap()),
            data_dir: stage.directory.path().join("data"),
            ..Config::default()
        };
        config.submission.smtp.listen = vec![stage.door];
        config.submission.grpc.listen = vec![free_address()];
        config.submission.http.listen = vec![free_address()];
        config.admin.listen = free_address();
        config.retry.delay_min = Duration::from_secs(1);
        config.retry.delay_max = Duration::from_secs(1);
        // Small segments, so that kills also meet their change and their reuse.
        config.spool.segment_size = ByteSize(4 << 20);
        config.events.rotate_size = ByteSize(1 << 40);
        let route = |pattern: &str, receiver: &Receiver| RouteConfig {
            pattern: pattern.into(),
            relay: vec![receiver.addr().to_string()],
            tls: None,
            username: None,
            password_file: None,
        };
        config.route = vec![
            route("greylisting.test", &stage.greylisting),
            route("refusing.test", &stage.refusing),
            route("*", &stage.good),
        ];
        std::fs::create_dir(&config.data_dir).unwrap();
        std::fs::write(stage.config_file(), toml::to_string(&config).unwrap()).unwrap();
        stage
    }

    fn config_file(&self) -> PathBuf {
        self.directory.path().join("posthaste.toml")
    }

    fn log_file(&self) -> PathBuf {
        self.directory.path().join("posthaste.log")
    }

    fn log_end(&self) -> String {
        let log = std::fs::read_to_string(self.log_file()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Kills under load, then lets it drain.
    async fn play(&self, seed: u64, times: usize) -> Story {
        let mut rng = SmallRng::seed_from_u64(seed);
        let load = Arc::new(Load::default());
        let mut daemon = Daemon::start(&self.config_file(), &self.log_file());
        let clients: Vec<_> = (0..CLIENTS).map(|_| tokio::spawn(client(self.door, Arc::clone(&load)))).collect();
        let mut kills = Vec::new();
        for _ in 0..times {
            self.answers(&mut daemon).await;
            // Mostly under full load, sometimes while it still reads its spool.
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..600))).await;
            daemon.kill();
            kills.push(Clock.instant());
            daemon = Daemon::start(&self.config_file(), &self.log_file());
        }
        self.answers(&mut daemon).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        load.stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.await.unwrap();
        }
        let accepted = std::mem::take(&mut *load.accepted.lock().unwrap());
        self.drain(&accepted).await;
        assert_eq!(daemon.stop().await, Some(0), "the daemon's log ends:\n{}", self.log_end());
        let deliveries =
            [&self.good, &self.greylisting, &self.refusing].into_iter().flat_map(Receiver::deliveries).collect();
        let events = self.events().await;
        for receiver in [&self.good, &self.greylisting, &self.refusing] {
            assert_eq!(receiver.violations(), Vec::<String>::new());
        }
        Story { kills, accepted, deliveries, events }
    }

    /// Waits until the door is open. A daemon that ended instead has failed.
    async fn answers(&self, daemon: &mut Daemon) {
        while tokio::net::TcpStream::connect(self.door).await.is_err() {
            if let Some(code) = daemon.0.try_wait().unwrap() {
                panic!("the daemon ended by itself with {code}; its log ends:\n{}", self.log_end());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until every accepted recipient has an end and every refusal's report too.
    async fn drain(&self, accepted: &HashSet<u64>) {
        let mut reader = self.event_reader();
        let mut open: HashSet<String> = accepted.iter().flat_map(|number| letter(*number).recipients).collect();
        open.extend(accepted.iter().filter(|number| is_refused(**number)).map(|number| sender(*number)));
        while !open.is_empty() {
            for event in reader.next().await.unwrap() {
                if event.is_terminal() {
                    open.remove(&event.recipient);
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The whole event log.
    async fn events(&self) -> Vec<Event> {
        let mut reader = self.event_reader();
        let mut events = Vec::new();
        loop {
            let read = reader.next().await.unwrap();
            if read.is_empty() {
                return events;
            }
            events.extend(read);
        }
    }

    fn event_reader(&self) -> EventReader {
        EventReader::new(self.directory.path().join("data").join("events").join("events.jsonl"))
    }
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
            let number = load.next.fetch_add(1, Ordering::Relaxed);
            if client.hand_over(number, &letter(number)).await.is_err() {
                break;
            }
            load.accepted.lock().unwrap().insert(number);
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
            self.deliveries.len(),
            self.events.len()
        );
        assert!(
            self.kills.len() == kills && self.accepted.len() > 8 * kills,
            "that was no load: {}",
            self.accepted.len()
        );
        self.check_arrivals();
        self.check_ends();
    }

    /// Promise 1.
    fn check_arrivals(&self) {
        let mut arrivals: HashMap<&str, Vec<&Delivery>> = HashMap::new();
        for delivery in &self.deliveries {
            arrivals.entry(&delivery.recipient).or_default().push(delivery);
        }
        let mut lost = Vec::new();
        for number in &self.accepted {
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

        let mut copies = 0;
        for (recipient, mut deliveries) in arrivals {
            deliveries.sort_by_key(|delivery| delivery.instant);
            for pair in deliveries.windows(2) {
                copies += 1;
                let (first, second) = (pair[0].instant, pair[1].instant);
                let excused = self
                    .kills
                    .iter()
                    .any(|kill| *kill <= second && first <= *kill + EXCUSE_AFTER && *kill <= first + EXCUSE_BEFORE);
                assert!(excused, "{recipient} got two copies and no kill explains it");
            }
        }
        println!("{copies} copies too many, each explained by a kill");
    }

    /// Promise 2.
    fn check_ends(&self) {
        let mut ends: HashMap<(&str, &str), Vec<&str>> = HashMap::new();
        for event in self.events.iter().filter(|event| event.is_terminal()) {
            ends.entry((&event.message_id, &event.recipient)).or_default().push(&event.event);
        }
        for ((message, recipient), ends) in &ends {
            assert_eq!(ends.len(), 1, "{recipient} of {message} ended {} times: {ends:?}", ends.len());
        }
        let mut by_recipient: HashMap<&str, Vec<&str>> = HashMap::new();
        for ((_, recipient), ends) in ends {
            by_recipient.entry(recipient).or_default().extend(ends);
        }
        for number in &self.accepted {
            let want = if is_refused(*number) { "bounced" } else { "delivered" };
            for recipient in letter(*number).recipients {
                let ends = by_recipient.get(recipient.as_str()).cloned().unwrap_or_default();
                assert_eq!(ends, [want], "{recipient}");
            }
        }
    }
}

/// The daemon as a process of its own. Dropping it kills it.
struct Daemon(Child);

impl Daemon {
    fn start(config: &Path, log: &Path) -> Daemon {
        let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_posthaste"))
            .args(["serve", "--config"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Daemon(child)
    }

    /// SIGKILL: no word, no flush.
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// SIGTERM; the exit code.
    async fn stop(mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port that was free a moment ago.
fn free_address() -> SocketAddr {
    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}
