//! The peers of the demo and who is written to: four receivers, their names in DNS, and messages numbered from 0.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use super::DemoOptions;
use super::account::{Books, Fate};
use super::dns::{DnsServer, Zone};
use super::load::{Letter, Submitted};
use super::receiver::habits::{Greylists, Refuses, Slow};
use super::receiver::{Behaviour, Delivery, Keep, Receiver, bind_together};
use super::report::{SiteReport, rates};
use crate::clock::{Clock, Instant};
use crate::config::{ByteSize, Config, DkimConfig};

/// The sender's domain; reports go to its MX, which is the good receiver.
const SENDER_DOMAIN: &str = "shop.test";
/// Names of the receivers; `NAME.test` is the domain behind each.
const NAMES: [&str; 4] = ["good", "slow", "greylisting", "refusing"];
const GOOD: usize = 0;
const REFUSING: usize = 3;
/// Row of the reports, behind the receivers'.
const REPORTS: usize = NAMES.len();
/// Each reply of the slow receiver takes this long.
const SLOWNESS: Duration = Duration::from_millis(20);
/// A stranger waits this long at the greylisting receiver.
const GREYLISTING: Duration = Duration::from_millis(500);

/// Everything around the daemon. Dropping it ends the peers and removes the data.
pub(super) struct Stage {
    directory: TempDir,
    dns: DnsServer,
    receivers: Vec<Receiver>,
    messages: u64,
    body: String,
}

impl Stage {
    pub(super) async fn build(options: &DemoOptions) -> io::Result<Stage> {
        let directory = tempfile::Builder::new().prefix("posthaste-demo-").tempdir()?;
        // 127.0.0.1 is left to the daemon; one address each makes four hosts on one port.
        let addresses: Vec<IpAddr> = (2..6).map(|n| Ipv4Addr::new(127, 0, 0, n).into()).collect();
        let listeners = bind_together(&addresses).await?;
        let mut zone = Zone::new();
        let mut receivers = Vec::new();
        for ((name, listener), address) in NAMES.into_iter().zip(listeners).zip(&addresses) {
            let host = format!("mx.{name}.test");
            zone.mx(&format!("{name}.test"), 10, &host).address(&host, *address);
            receivers.push(Receiver::start(listener, behaviour(name, host), Keep::Facts)?);
        }
        zone.mx(SENDER_DOMAIN, 10, "mx.good.test");
        let dns = DnsServer::start(zone).await?;
        std::fs::write(directory.path().join("dkim.pem"), dkim_key().map_err(io::Error::other)?)?;
        let body = body(options.size);
        Ok(Stage { directory, dns, receivers, messages: options.messages, body })
    }

    pub(super) fn data_dir(&self) -> &Path {
        self.directory.path()
    }

    /// The daemon's configuration: defaults, but for where the peers are and for retries that suit a short run.
    pub(super) fn config(&self) -> Config {
        let mut config = Config {
            hostname: Some("mta.shop.test".parse().expect("a domain")),
            data_dir: self.data_dir().to_owned(),
            ..Config::default()
        };
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        config.submission.smtp.listen = vec![anywhere];
        config.submission.grpc.listen = vec![anywhere];
        config.submission.http.listen = vec![anywhere];
        config.admin.listen = anywhere;
        config.dns.nameservers = vec![self.dns.addr()];
        // One of its receivers knows nobody.
        config.brake.enabled = false;
        config.delivery.port = self.receivers[GOOD].addr().port();
        config.delivery.allow_loopback = true;
        config.retry.delay_min = Duration::from_secs(1);
        config.retry.delay_max = Duration::from_secs(5);
        config.retry.expire_after = Duration::from_secs(3600);
        // One file, so that the books need not follow a rotation.
        config.events.rotate_size = ByteSize(1 << 40);
        config.dkim = vec![DkimConfig {
            domain: SENDER_DOMAIN.parse().expect("a domain"),
            selector: "demo".into(),
            key_file: self.data_dir().join("dkim.pem"),
        }];
        config
    }

    /// Octets of a message.
    pub(super) fn size(&self) -> usize {
        letter(0, &self.body).content.len()
    }

    /// Writes message `number`.
    pub(super) fn letters(&self) -> impl Fn(u64) -> Letter + Send + Sync + 'static {
        let body = self.body.clone();
        move |number| letter(number, &body)
    }

    /// Who must end how.
    pub(super) fn books(&self) -> Books {
        let mut books = Books::default();
        for number in 0..self.messages {
            for site in sites_of(number) {
                let refused = site == REFUSING;
                books.expect(recipient(number, site), site, if refused { Fate::Bounced } else { Fate::Delivered });
                if refused {
                    books.expect(sender(number), REPORTS, Fate::Delivered);
                }
            }
        }
        books
    }

    pub(super) fn arrived(&self) -> u64 {
        self.receivers.iter().map(|receiver| receiver.delivered() as u64).sum()
    }

    pub(super) fn refused(&self) -> u64 {
        self.receivers.iter().map(|receiver| receiver.counts().refused).sum()
    }

    pub(super) fn put_off(&self) -> u64 {
        self.receivers.iter().map(|receiver| receiver.counts().deferred).sum()
    }

    pub(super) fn violations(&self) -> Vec<String> {
        self.receivers.iter().flat_map(Receiver::violations).take(20).collect()
    }

    /// One row a receiver and one for the reports; enters what arrived into the books.
    pub(super) fn site_reports(&self, books: &mut Books, submitted: &[Submitted], start: Instant) -> Vec<SiteReport> {
        let mut sent = vec![start; self.messages as usize];
        for message in submitted {
            sent[message.number as usize] = message.sent;
        }
        let mut rows: Vec<Row> = (0..=REPORTS).map(|_| Row::default()).collect();
        for (site, receiver) in self.receivers.iter().enumerate() {
            for delivery in receiver.deliveries() {
                books.enter_arrival(&delivery);
                let row = if delivery.sender.is_empty() { REPORTS } else { site };
                rows[row].enter(&delivery, &sent, start);
            }
            rows[site].connections = receiver.counts().connections;
        }
        for (_, entry) in books.entries() {
            let row = &mut rows[entry.site];
            row.sent += 1;
            row.deferred += u64::from(entry.deferred);
            match entry.ended.as_deref() {
                Some("delivered") => row.delivered += 1,
                Some("bounced") => row.bounced += 1,
                _ => {}
            }
        }
        let names = NAMES.into_iter().chain(["(reports)"]);
        names.zip(rows).map(|(name, row)| row.report(name)).collect()
    }
}

/// A row of the table while it is counted.
#[derive(Default)]
struct Row {
    sent: u64,
    delivered: u64,
    bounced: u64,
    deferred: u64,
    connections: u64,
    tls: u64,
    latencies: Vec<Duration>,
    times: Vec<Duration>,
}

impl Row {
    fn enter(&mut self, delivery: &Delivery, sent: &[Instant], start: Instant) {
        let number = delivery.number.and_then(|number| usize::try_from(number).ok());
        if let Some(sent) = number.and_then(|number| sent.get(number)) {
            self.latencies.push(delivery.instant.saturating_duration_since(*sent));
        }
        self.times.push(delivery.instant.saturating_duration_since(start));
        self.tls += u64::from(delivery.tls);
    }

    fn report(self, name: &'static str) -> SiteReport {
        let arrived = self.times.len().max(1);
        let (latency_p50_ms, latency_p99_ms, per_second) = rates(self.latencies, self.times);
        SiteReport {
            name,
            sent: self.sent,
            delivered: self.delivered,
            bounced: self.bounced,
            deferred: self.deferred,
            connections: self.connections,
            tls_share: self.tls as f64 / arrived as f64,
            latency_p50_ms,
            latency_p99_ms,
            per_second,
        }
    }
}

fn behaviour(name: &str, hostname: String) -> Behaviour {
    let good = Behaviour { hostname, ..Behaviour::default() };
    match name {
        "slow" => good.habit(Slow { step: None, least: SLOWNESS, most: SLOWNESS }),
        "greylisting" => good.habit(Greylists::after(GREYLISTING)),
        "refusing" => good.habit(Refuses(1.0)),
        _ => good,
    }
}

/// Where message `number` goes: seven in ten to the good receiver, one each to the others; the first in twenty to all.
fn sites_of(number: u64) -> Vec<usize> {
    match (number % 20, number % 10) {
        (0, _) => (0..NAMES.len()).collect(),
        (_, 7) => vec![1],
        (_, 8) => vec![2],
        (_, 9) => vec![REFUSING],
        _ => vec![GOOD],
    }
}

fn recipient(number: u64, site: usize) -> String {
    format!("customer{number}@{}.test", NAMES[site])
}

fn sender(number: u64) -> String {
    format!("orders+{number}@{SENDER_DOMAIN}")
}

fn letter(number: u64, body: &str) -> Letter {
    let recipients: Vec<String> = sites_of(number).into_iter().map(|site| recipient(number, site)).collect();
    let content = format!(
        "From: The shop <orders@{SENDER_DOMAIN}>\r\n\
         To: {}\r\n\
         Subject: Your order {number}\r\n\
         Date: {}\r\n\
         Message-ID: <{number}@{SENDER_DOMAIN}>\r\n\
         X-Number: {number}\r\n\
         MIME-Version: 1.0\r\n\
         Content-Type: text/plain; charset=us-ascii\r\n\
         \r\n\
         {body}",
        recipients.join(",\r\n "),
        Clock.timestamp().rfc5322(),
    );
    Letter { sender: sender(number), recipients, content: content.into_bytes() }
}

/// Lines of text; with the headers about `size` octets.
fn body(size: usize) -> String {
    const LINE: &str = "Thank you for your order. It left our warehouse today and will reach you soon.\r\n";
    const HEADERS: usize = 300;
    LINE.repeat(size.saturating_sub(HEADERS).div_ceil(LINE.len()).max(1))
}

/// A fresh RSA-2048 key in PEM, as a sender to the large providers needs.
fn dkim_key() -> Result<String, rcgen::Error> {
    Ok(rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256)?.serialize_pem())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_stage_is_set() {
        let options = DemoOptions { messages: 40, size: 2000, json: true };
        let stage = Stage::build(&options).await.unwrap();
        assert!((1900..2200).contains(&stage.size()), "{}", stage.size());
        let config = stage.config();
        assert!(config.delivery.allow_loopback && config.dkim[0].key_file.exists());
        // 40 messages, two of them to all four receivers; six are refused and reported.
        assert_eq!(stage.books().open(), 38 + 2 * 4 + 6);
        let letter = stage.letters()(20);
        assert_eq!(letter.recipients.len(), 4);
        assert!(letter.content.windows(15).any(|w| w == b"\r\nX-Number: 20\r"));
    }

    #[tokio::test]
    async fn a_row_is_counted_from_books_and_receivers() {
        let options = DemoOptions { messages: 1, size: 500, json: true };
        let stage = Stage::build(&options).await.unwrap();
        let letters = stage.letters();
        let start = Clock.instant();
        // Straight to the good receiver, as if it were the daemon.
        let door = stage.receivers[GOOD].addr();
        let submitted = super::super::load::submit(door, 1, 1, letters, Default::default()).await.unwrap();
        let mut books = stage.books();
        let rows = stage.site_reports(&mut books, &submitted, start);
        assert_eq!((rows[GOOD].sent, rows[GOOD].delivered, rows[GOOD].connections), (1, 0, 1));
        let (problems, total) = books.close();
        assert_eq!(total, problems.len());
        assert!(problems.iter().any(|p| p.contains("customer0@good.test: should be delivered")), "{problems:?}");
    }
}
