//! The listeners with real sockets: limits, TLS, reload, shutdown.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::super::super::{Submission, SubmissionError};
use super::client::{Client, PATIENCE, shake_hands};
use super::{Recorder, certificate};
use crate::access::Access;
use crate::clock::Clock;
use crate::config::SmtpConfig;
use crate::ledger::Ledger;
use crate::telemetry::Metrics;

fn config() -> SmtpConfig {
    SmtpConfig { listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))], ..SmtpConfig::default() }
}

struct House {
    submission: Submission,
    door: Arc<Recorder>,
    metrics: Arc<Metrics>,
}

fn access() -> Arc<Access> {
    Access::open(Arc::new(Ledger::default()), Arc::new(Metrics::new()), Clock).expect("an empty ledger")
}

fn open(config: SmtpConfig, door: Recorder, tls: Option<Arc<rustls::ServerConfig>>) -> House {
    let (door, metrics) = (Arc::new(door), Arc::new(Metrics::new()));
    let hostname = "mta.example".parse().expect("a domain");
    let submission =
        Submission::start(config, hostname, tls, door.clone(), access(), metrics.clone(), Clock).expect("free port");
    House { submission, door, metrics }
}

impl House {
    async fn connect(&self) -> Client<TcpStream> {
        let stream = TcpStream::connect(self.submission.local_addrs()[0]).await.expect("listening");
        Client::new(stream)
    }

    async fn greeted(&self) -> Client<TcpStream> {
        let mut client = self.connect().await;
        client.expect("220 ").await;
        client
    }
}

#[tokio::test]
async fn takes_mail_and_counts() {
    let house = open(config(), Recorder::default(), None);
    let mut client = house.greeted().await;
    client.check("EHLO app.example", "250 ").await;
    client.submit().await;
    client.check("NONSENSE", "500 ").await;
    let metrics = house.metrics.render();
    for expected in [
        "posthaste_messages_accepted_total{listener=\"smtp\"} 1",
        "posthaste_submissions_refused_total{listener=\"smtp\",reason=\"syntax\"} 1",
        "posthaste_connections{provider=\"\",state=\"submission\"} 1",
    ] {
        assert!(metrics.contains(expected), "{metrics}");
    }
    client.check("QUIT", "221 ").await;
    client.expect_end().await;
    house.submission.close(PATIENCE).await;
    assert!(house.metrics.render().contains("posthaste_connections{provider=\"\",state=\"submission\"} 0"));
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let house = open(config(), Recorder::default(), None);
    let listen = house.submission.local_addrs().to_vec();
    let hostname = "mta.example".parse().expect("a domain");
    let config = SmtpConfig { listen: listen.clone(), ..config() };
    let door = Arc::new(Recorder::default());
    let second = Submission::start(config, hostname, None, door, access(), Arc::new(Metrics::new()), Clock);
    let Err(error @ SubmissionError::Bind { .. }) = second else { panic!("bound twice") };
    assert_eq!(error.to_string(), format!("listen on {} (submission.smtp.listen)", listen[0]));
}

#[tokio::test]
async fn speaks_tls_and_forgets_what_was_said_before() {
    let (tls, cert) = certificate();
    let house = open(config(), Recorder::default(), Some(tls));
    let mut client = house.greeted().await;
    client.check("EHLO app.example", "250 ").await;
    client.check("MAIL FROM:<a@b.example>", "250 ").await;
    client.check("STARTTLS", "220 ").await;

    let mut client = Client::new(shake_hands(client.into_inner(), cert).await);
    client.check("RCPT TO:<c@d.example>", "503 ").await;
    client.check("MAIL FROM:<a@b.example>", "503 5.5.1 say EHLO first").await;
    client.check("STARTTLS", "503 5.5.1 TLS is active already").await;
    let offers = client.ask("EHLO app.example").await;
    assert!(!offers.contains("STARTTLS"), "{offers}");
    client.submit().await;
    client.check("QUIT", "221 ").await;
    client.expect_end().await;
    let content = &house.door.contents()[0];
    assert!(memchr::memmem::find(content, b"with ESMTPS\r\n").is_some());
}

#[tokio::test]
async fn cuts_off_who_speaks_first() {
    let house = open(config(), Recorder::default(), None);
    let mut client = house.connect().await;
    client.send("EHLO app.example\r\n").await;
    client.expect("554 5.5.0 ").await;
    client.expect_end().await;
}

#[tokio::test]
async fn turns_away_what_is_too_many() {
    let house = open(SmtpConfig { connections_max: 2, ..config() }, Recorder::default(), None);
    let (mut first, _second) = (house.greeted().await, house.greeted().await);
    let mut third = house.connect().await;
    third.expect("421 4.7.0 too many connections: connections_max is 2").await;
    third.expect_end().await;
    first.check("QUIT", "221 ").await;
    first.expect_end().await;
    // The seat is free when the server has closed its side, which is shortly after.
    loop {
        if house.connect().await.hear().await.starts_with("220 ") {
            break;
        }
        tokio::task::yield_now().await;
    }
    house.submission.reload(SmtpConfig { connections_per_client_max: 1, ..config() }, None);
    house.connect().await.expect("421 4.7.0 too many connections: connections_per_client_max is 1").await;
}

#[tokio::test]
async fn a_client_over_a_mapped_address_is_known_as_ipv4() {
    let listen = vec!["[::]:0".parse().expect("an address")];
    let door = Recorder::default();
    let config = SmtpConfig { listen, ..config() };
    let hostname = "mta.example".parse().expect("a domain");
    let started = Submission::start(config, hostname, None, Arc::new(door), access(), Arc::new(Metrics::new()), Clock);
    // A machine without IPv6 has nothing to test.
    let Ok(submission) = started else { return };
    let port = submission.local_addrs()[0].port();
    let Ok(stream) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    let mut client = Client::new(stream);
    client.expect("220 ").await;
    client.check("HELO app.example", "250 mta.example greets 127.0.0.1").await;
    client.check("MAIL FROM:<a@b.example>", "250 ").await;
}

#[tokio::test]
async fn a_reload_counts_from_the_next_mail_on() {
    let house = open(config(), Recorder::default(), None);
    let mut client = house.greeted().await;
    client.check("EHLO app.example", "250 ").await;
    client.submit().await;
    let nobody = SmtpConfig { trusted_networks: Vec::new(), ..config() };
    house.submission.reload(nobody.clone(), None);
    assert_eq!(client.ask("MAIL FROM:<a@b.example>").await, "530 5.7.0 authentication required");
    house.submission.reload(SmtpConfig { auth_without_tls: Vec::new(), ..nobody }, None);
    client.check("MAIL FROM:<a@b.example>", "550 5.7.1 ").await;
}

#[tokio::test]
async fn closes_idle_sessions_at_once_and_lets_others_finish() {
    let house = open(config(), Recorder { delay: Duration::from_millis(20), ..Recorder::default() }, None);
    let address = house.submission.local_addrs()[0];
    let (mut idle, mut busy) = (house.greeted().await, house.greeted().await);
    busy.check("EHLO app.example", "250 ").await;
    busy.check("MAIL FROM:<a@b.example>", "250 ").await;
    busy.check("RCPT TO:<c@d.example>", "250 ").await;
    busy.check("DATA", "354 ").await;
    let clients = async {
        idle.expect("421 4.3.2 ").await;
        idle.expect_end().await;
        busy.check("From: x\r\n.", "250 2.0.0 ").await;
        busy.expect("421 4.3.2 ").await;
        busy.expect_end().await;
    };
    tokio::join!(house.submission.close(PATIENCE), clients);
    assert_eq!(house.door.contents().len(), 1);
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens");
}

#[tokio::test]
async fn the_grace_has_an_end() {
    let house = open(config(), Recorder::default(), None);
    let mut client = house.greeted().await;
    client.check("EHLO app.example", "250 ").await;
    client.check("MAIL FROM:<a@b.example>", "250 ").await;
    client.check("RCPT TO:<c@d.example>", "250 ").await;
    client.check("DATA", "354 ").await;
    timeout(PATIENCE, house.submission.close(Duration::from_millis(10))).await.expect("sessions are cut off");
    client.expect_end().await;
}

#[tokio::test]
async fn one_connection_keeps_many_messages_in_flight() {
    let house = open(config(), Recorder { delay: Duration::from_millis(50), ..Recorder::default() }, None);
    let mut client = house.greeted().await;
    client.check("EHLO app.example", "250 ").await;
    let one = "MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nBDAT 11 LAST\r\nFrom: x\r\n\r\n";
    client.send(&one.repeat(200)).await;
    for _ in 0..200 {
        client.expect("250 2.1.0 ").await;
        client.expect("250 2.1.5 ").await;
        client.expect("250 2.0.0 ok, queued").await;
    }
    assert_eq!(house.door.contents().len(), 200);
    let in_flight = house.door.in_flight_max.load(Ordering::Relaxed);
    assert!((2..=64).contains(&in_flight), "{in_flight}");
}

#[tokio::test]
async fn what_the_door_began_it_ends_though_the_client_is_gone() {
    let house = open(config(), Recorder { delay: Duration::from_millis(50), ..Recorder::default() }, None);
    let mut client = house.greeted().await;
    client.check("EHLO app.example", "250 ").await;
    client.send("MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nBDAT 11 LAST\r\nFrom: x\r\n\r\n").await;
    client.expect("250 ").await;
    drop(client);
    house.submission.close(PATIENCE).await;
    assert_eq!(house.door.in_flight.load(Ordering::Relaxed), 0);
    assert!(house.metrics.render().contains("posthaste_messages_accepted_total{listener=\"smtp\"} 1"));
}
