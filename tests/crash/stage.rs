//! Receivers, and the daemon between them and the clients.

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use posthaste::clock::Clock;
use posthaste::config::{ByteSize, Config, RouteConfig};
use posthaste::demo::account::{Event, EventReader};
use posthaste::demo::receiver::habits::{Greylists, Refuses};
use posthaste::demo::receiver::{Behaviour, Keep, Receiver};

use crate::books::{Arrival, Kill};

/// Mail of senders here leaves with return paths at [`RETURNS`].
pub const RETURNING: &str = "returning.test";
pub const RETURNS: &str = "bounces.returning.test";

/// Receivers, and where the daemon lives.
pub struct Stage {
    directory: tempfile::TempDir,
    pub smtp: SocketAddr,
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    pub back: SocketAddr,
    good: Receiver,
    greylisting: Receiver,
    refusing: Receiver,
}

impl Stage {
    pub async fn build() -> Stage {
        let receiver = |behaviour| Receiver::start_anywhere(behaviour, Keep::Content);
        let greylisting = Behaviour::default().habit(Greylists::after(Duration::from_millis(300)));
        let stage = Stage {
            // A real disk, not a file system in memory.
            directory: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap(),
            smtp: free_address(),
            grpc: free_address(),
            http: free_address(),
            back: free_address(),
            good: receiver(Behaviour::default()).await.unwrap(),
            greylisting: receiver(greylisting).await.unwrap(),
            refusing: receiver(Behaviour::default().habit(Refuses(1.0))).await.unwrap(),
        };
        let mut config = Config {
            hostname: Some("mta.shop.test".parse().unwrap()),
            data_dir: stage.directory.path().join("data"),
            ..Config::default()
        };
        config.submission.smtp.listen = vec![stage.smtp];
        config.submission.grpc.listen = vec![stage.grpc];
        config.submission.http.listen = vec![stage.http];
        config.inbound.listen = vec![stage.back];
        config.inbound.errors_max = 1000;
        config.feedback.bounce_domains = [(RETURNING.parse().unwrap(), RETURNS.parse().unwrap())].into();
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

    /// The daemon, once more.
    pub fn start(&self) -> Daemon {
        Daemon::start(&self.config_file(), &self.log_file())
    }

    /// Kills it: no word, no flush.
    pub fn kill(&self, daemon: &mut Daemon) -> Kill {
        let at = Clock.instant();
        daemon.kill();
        // It is gone. Who has not been answered by now sends nothing.
        let connections = self.receivers().map(|receiver| receiver.counts().connections).to_vec();
        Kill { at, connections, told: whole_lines(&self.event_log()) }
    }

    /// A file beside the daemon's.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn config_file(&self) -> PathBuf {
        self.file("posthaste.toml")
    }

    fn log_file(&self) -> PathBuf {
        self.file("posthaste.log")
    }

    pub fn log_end(&self) -> String {
        let log = std::fs::read_to_string(self.log_file()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Waits until the door is open. A daemon that ended instead has failed.
    pub async fn answers(&self, daemon: &mut Daemon) {
        while tokio::net::TcpStream::connect(self.smtp).await.is_err() {
            if let Some(code) = daemon.0.try_wait().unwrap() {
                panic!("the daemon ended by itself with {code}; its log ends:\n{}", self.log_end());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until the event log has an end for each of these recipients.
    pub async fn drain(&self, mut open: HashSet<String>) {
        let mut reader = self.event_reader();
        while !open.is_empty() {
            for event in reader.next().await.unwrap() {
                if event.is_terminal() {
                    open.remove(&event.recipient);
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Who was told of as delivered, and in which of the daemon's lives.
    pub fn told(&self, kills: &[Kill]) -> HashMap<String, usize> {
        let text = self.event_log();
        let mut told = HashMap::new();
        let mut end = 0;
        for line in text[..whole_lines(&text)].split_inclusive(|octet| *octet == b'\n') {
            end += line.len();
            let event: serde_json::Value = serde_json::from_slice(line).unwrap();
            if event["event"] == "delivered" {
                let life = kills.iter().filter(|kill| end > kill.told).count();
                told.insert(event["recipient"].as_str().unwrap().to_owned(), life);
            }
        }
        told
    }

    /// What the receivers took; they have no complaints.
    pub fn arrivals(&self, kills: &[Kill]) -> Vec<Arrival> {
        for receiver in self.receivers() {
            assert_eq!(receiver.violations(), Vec::<String>::new());
        }
        let arrived = |(number, receiver): (usize, &Receiver)| {
            receiver.deliveries().into_iter().map(move |delivery| Arrival::new(number, delivery, kills))
        };
        self.receivers().into_iter().enumerate().flat_map(arrived).collect()
    }

    fn receivers(&self) -> [&Receiver; 3] {
        [&self.good, &self.greylisting, &self.refusing]
    }

    /// The whole event log.
    pub async fn events(&self) -> Vec<Event> {
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

    /// The same, line by line.
    pub fn lines(&self) -> Vec<serde_json::Value> {
        let text = self.event_log();
        let lines = text[..whole_lines(&text)].split(|octet| *octet == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
    }

    /// The file as it is: its last line may be a part of one. None yet is an empty one.
    fn event_log(&self) -> Vec<u8> {
        match std::fs::read(self.file("data/events/events.jsonl")) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            read => read.unwrap(),
        }
    }

    fn event_reader(&self) -> EventReader {
        EventReader::new(self.file("data/events/events.jsonl"))
    }
}

/// The daemon as a process of its own. Dropping it kills it.
pub struct Daemon(Child);

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

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// SIGTERM; the exit code.
    pub async fn stop(mut self) -> Option<i32> {
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

/// Octets up to the end of the last whole line.
fn whole_lines(text: &[u8]) -> usize {
    text.iter().rposition(|octet| *octet == b'\n').map_or(0, |at| at + 1)
}

/// A port that was free a moment ago.
fn free_address() -> SocketAddr {
    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}
