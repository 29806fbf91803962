//! A daemon, its name server and its files; and the ways to see from outside what it does.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use posthaste::clock::{Clock, Instant};
use posthaste::config::{ByteSize, Config};
use posthaste::daemon::Daemon;
use posthaste::demo::dns::{DnsServer, Zone};
use posthaste::demo::receiver::bind_together;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// How long a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// Listeners on one port of 127.0.0.2, .3, and so on: the hosts of this test's world.
pub async fn listeners(count: u8) -> Vec<TcpListener> {
    let addresses: Vec<IpAddr> = (0..count).map(ip).collect();
    bind_together(&addresses).await.unwrap()
}

/// Address of the host with this number. Those beyond what [`listeners`] bound refuse connections.
pub fn ip(number: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, 2 + number).into()
}

/// A zone in which `NAME.test` has one MX, `mx.NAME.test`, at the host of the same place.
pub fn zone(names: &[&str]) -> Zone {
    let mut zone = Zone::new();
    zone.ttl(300, 1);
    for (number, name) in (0..).zip(names) {
        let host = format!("mx.{name}.test");
        zone.mx(&format!("{name}.test"), 10, &host).address(&host, ip(number));
    }
    zone
}

/// One request over HTTP/1.1 on a connection of its own: status and body.
pub async fn exchange(to: SocketAddr, method: &str, path: &str, content_type: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {content_type}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

/// The daemon and everything around it but the receivers.
pub struct World {
    directory: TempDir,
    pub dns: DnsServer,
    pub config: Config,
    daemon: Option<Daemon>,
}

/// One line of the event log.
#[derive(Debug, Clone)]
pub struct Event(pub Value);

impl World {
    /// A daemon that delivers to `port`, with short waits; `change` has the last word on its configuration.
    pub async fn start(zone: Zone, port: u16, change: impl FnOnce(&mut Config)) -> World {
        listen_to_log();
        let directory = tempfile::tempdir().unwrap();
        let dns = DnsServer::start(zone).await.unwrap();
        let mut config = Config {
            hostname: Some("mta.us.test".parse().unwrap()),
            data_dir: directory.path().to_owned(),
            ..Config::default()
        };
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        config.submission.smtp.listen = vec![anywhere];
        config.submission.grpc.listen = vec![anywhere];
        config.submission.http.listen = vec![anywhere];
        config.admin.listen = anywhere;
        config.dns.nameservers = vec![dns.addr()];
        config.dns.timeout = Duration::from_secs(2);
        config.spool.segment_size = ByteSize(1 << 20);
        config.delivery.port = port;
        config.delivery.allow_loopback = true;
        config.delivery.idle_timeout = Duration::from_secs(1);
        config.delivery.site_pause_min = Duration::from_millis(300);
        config.delivery.site_pause_max = Duration::from_secs(1);
        config.retry.delay_min = Duration::from_millis(200);
        config.retry.delay_max = Duration::from_secs(1);
        // Who is told apart by address refuses more than once; tests of suppression say otherwise.
        config.suppression.hard_bounces = 0;
        change(&mut config);
        let daemon = Some(Daemon::start(&config).await.unwrap());
        World { directory, dns, config, daemon }
    }

    pub fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().unwrap()
    }

    /// Stops the daemon; whether all transactions ended in time.
    pub async fn stop(&mut self, grace: Duration) -> bool {
        self.daemon.take().unwrap().close(grace).await
    }

    /// Starts it again on the same data.
    pub async fn start_again(&mut self) {
        self.daemon = Some(Daemon::start(&self.config).await.unwrap());
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A session with the SMTP door.
    pub async fn door(&self) -> Door {
        Door::open(self.daemon().smtp_addresses()[0]).await
    }

    /// A session with the listener for what comes back.
    pub async fn back(&self) -> Door {
        Door::open(self.daemon().inbound_addresses()[0]).await
    }

    /// One message from `a@us.test`; its id.
    pub async fn send(&self, to: &[&str]) -> String {
        self.door().await.send("a@us.test", to, "").await
    }

    /// One message with these header lines, each ending in CRLF; its id.
    pub async fn send_with(&self, to: &[&str], headers: &str) -> String {
        self.door().await.send("a@us.test", to, headers).await
    }

    /// The event log so far.
    pub fn events(&self) -> Vec<Event> {
        let text = match std::fs::read_to_string(self.path("events/events.jsonl")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read.unwrap(),
        };
        let whole = text.rfind('\n').map_or(0, |at| at + 1);
        text[..whole].lines().map(|line| Event(serde_json::from_str(line).unwrap())).collect()
    }

    /// Events of this name for recipients whose address contains `who`.
    pub fn told(&self, name: &str, who: &str) -> Vec<Event> {
        self.events().into_iter().filter(|event| event.name() == name && event.recipient().contains(who)).collect()
    }

    /// Waits until `count` such events are there, and returns all that are.
    #[track_caller]
    pub fn until(&self, name: &str, who: &str, count: usize) -> impl Future<Output = Vec<Event>> {
        let told = format!("{count} events {name} of {who:?}");
        async move { self.see(&told, || Some(self.told(name, who)).filter(|events| events.len() >= count)).await }
    }

    /// Waits until `look` sees something; fails with the event log.
    pub async fn see<T>(&self, what: &str, look: impl FnMut() -> Option<T>) -> T {
        match see(look).await {
            Some(seen) => seen,
            None => panic!("did not see: {what}\nevents:\n{}", lines(&self.events())),
        }
    }

    /// Waits until nothing is left in the queue.
    pub async fn until_empty(&self) {
        self.see("an empty queue", || (self.daemon().queue().open_recipients() == 0).then_some(())).await;
    }

    /// A request to the admin surface: status and body.
    pub async fn http(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        exchange(self.daemon().admin_address(), method, path, "application/json", body).await
    }

    /// The sum of all samples of this metric whose labels contain all of `labels`.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let (status, text) = self.http("GET", "/metrics", "").await;
        assert_eq!(status, 200);
        let mut sum = 0.0;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (sample, value) = line.rsplit_once(' ').unwrap();
            let (found, rest) = sample.split_once('{').unwrap_or((sample, ""));
            if found == name && labels.iter().all(|label| rest.contains(label)) {
                sum += value.parse::<f64>().unwrap();
            }
        }
        sum
    }
}

impl Event {
    pub fn text(&self, field: &str) -> &str {
        self.0[field].as_str().unwrap_or_default()
    }

    pub fn number(&self, field: &str) -> u64 {
        self.0[field].as_u64().unwrap_or_default()
    }

    pub fn name(&self) -> &str {
        self.text("event")
    }

    pub fn recipient(&self) -> &str {
        self.text("recipient")
    }

    pub fn is_terminal(&self) -> bool {
        matches!(self.name(), "delivered" | "bounced" | "expired" | "suppressed" | "cancelled")
    }

    /// `NAME CODE ENHANCED`.
    pub fn verdict(&self) -> String {
        let enhanced = match &self.0["enhanced"] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        format!("{} {} {enhanced}", self.name(), self.number("code"))
    }
}

/// Events for a person.
pub fn lines(events: &[Event]) -> String {
    let line = |event: &Event| {
        format!(
            "{} {} {} attempt {} {}: {}\n",
            event.text("time"),
            event.text("message_id"),
            event.recipient(),
            event.number("attempt"),
            event.verdict(),
            event.text("reply")
        )
    };
    events.iter().map(line).collect()
}

/// Looks again and again; `None` when the time is up.
pub async fn see<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Clock.instant() + PATIENCE;
    loop {
        if let Some(seen) = look() {
            return Some(seen);
        }
        if Clock.instant() > deadline {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What happened in `deed` took this long.
pub async fn time(deed: impl Future<Output = ()>) -> Duration {
    let start: Instant = Clock.instant();
    deed.await;
    Clock.instant() - start
}

/// A client of the SMTP door that reads one reply for each line it writes.
pub struct Door<S = TcpStream> {
    stream: BufReader<S>,
}

impl Door {
    async fn open(address: SocketAddr) -> Door {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut door = Door::over(stream);
        door.reply("220").await;
        door.say("EHLO client.us.test", "250").await;
        door
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Door<S> {
    /// Over a connection on which nothing was heard yet, or all of it.
    pub fn over(stream: S) -> Door<S> {
        Door { stream: BufReader::new(stream) }
    }

    /// The connection.
    pub fn into_inner(self) -> S {
        self.stream.into_inner()
    }

    /// One message; its id.
    pub async fn send(&mut self, from: &str, to: &[&str], headers: &str) -> String {
        let to: Vec<String> = to.iter().map(|to| format!("<{to}>")).collect();
        self.send_as(&format!("<{from}>"), &to, headers).await
    }

    /// The same, with paths and their parameters as they go on the wire.
    pub async fn send_as(&mut self, from: &str, to: &[String], headers: &str) -> String {
        let mut flight = format!("MAIL FROM:{from}\r\n");
        to.iter().for_each(|to| flight.push_str(&format!("RCPT TO:{to}\r\n")));
        flight.push_str("DATA\r\n");
        self.stream.write_all(flight.as_bytes()).await.unwrap();
        self.reply("250").await;
        for _ in to {
            self.reply("250").await;
        }
        self.reply("354").await;
        let content = format!("{headers}From: A <a@us.test>\r\nTo: you\r\nSubject: hello\r\n\r\nHello.\r\n.");
        let answer = self.say(&content, "250").await;
        answer.rsplit(' ').next().unwrap().to_owned()
    }

    /// Writes a line; the last line of the reply, which begins as expected.
    pub async fn say(&mut self, line: &str, expected: &str) -> String {
        self.stream.write_all(format!("{line}\r\n").as_bytes()).await.unwrap();
        self.reply(expected).await
    }

    /// The last line of the next reply, which begins as expected.
    pub async fn reply(&mut self, expected: &str) -> String {
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).await.unwrap();
            if line.as_bytes().get(3) != Some(&b'-') {
                assert!(line.starts_with(expected), "{line:?} instead of {expected}");
                return line.trim_end().to_owned();
            }
        }
    }
}

fn log() -> &'static Mutex<Vec<u8>> {
    static LOG: OnceLock<Mutex<Vec<u8>>> = OnceLock::new();
    LOG.get_or_init(Mutex::default)
}

struct LogWriter;

impl io::Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        log().lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// From now on what the daemons of this process log is kept.
fn listen_to_log() {
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_max_level(tracing::Level::WARN);
    // The second test finds it there.
    let _ = subscriber.with_writer(|| LogWriter).try_init();
}

/// Whether a line was logged that contains all of these.
pub fn logged(words: &[&str]) -> bool {
    let log = String::from_utf8_lossy(&log().lock().unwrap()).into_owned();
    log.lines().any(|line| words.iter().all(|word| line.contains(word)))
}
