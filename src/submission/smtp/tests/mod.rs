//! The server as its clients see it: transcripts, properties, sockets.

mod client;
mod dialogues;
mod properties;
mod sockets;
mod tls;

use std::collections::VecDeque;
use std::future::Future;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;

use super::super::door::{Door, Handover};
use super::super::rejection::Rejection;
use super::sasl::example::Example;
use super::{Controls, Policy, Shared};
use crate::access::Principal;
use crate::clock::Clock;
use crate::config::SmtpConfig;
use crate::mail::{Envelope, MessageId, Receipt, Reply};
use crate::telemetry::Metrics;

/// A door that writes down what it takes.
#[derive(Debug, Default)]
struct Recorder {
    ids: AtomicU64,
    taken: Mutex<Vec<(MessageId, Envelope, Bytes)>>,
    /// Who handed over, each time.
    principals: Mutex<Vec<Arc<Principal>>>,
    /// Time from the call to the answer.
    delay: Duration,
    not_ready: Option<Reply>,
    /// Answers to the first messages; later ones are taken.
    refusals: Mutex<VecDeque<Rejection>>,
    /// Says that it took them before.
    replays: bool,
    in_flight: Arc<AtomicUsize>,
    in_flight_max: Arc<AtomicUsize>,
}

impl Recorder {
    fn contents(&self) -> Vec<Bytes> {
        self.taken.lock().expect("not poisoned").iter().map(|(_, _, content)| content.clone()).collect()
    }
}

impl Door for Recorder {
    fn next_ids(&self, count: u32) -> MessageId {
        MessageId(self.ids.fetch_add(count.into(), Ordering::Relaxed) + 1)
    }

    fn ready(&self) -> Result<(), Rejection> {
        self.not_ready.clone().map_or(Ok(()), |reply| Err(Rejection::from_queue(reply)))
    }

    fn accept(&self, handover: Handover) -> impl Future<Output = Result<Receipt, Rejection>> + Send + 'static {
        let refusal = self.refusals.lock().expect("not poisoned").pop_front();
        let first = &handover.messages[0];
        let (id, accepted_at) = (first.id, first.envelope.accepted_at);
        let receipt = Receipt { id, messages: handover.messages.len() as u32, accepted_at, replayed: self.replays };
        if refusal.is_none() {
            self.principals.lock().expect("not poisoned").push(handover.principal);
            let messages = handover.messages.into_iter().map(|m| (m.id, m.envelope, m.content));
            self.taken.lock().expect("not poisoned").extend(messages);
        }
        let in_flight = self.in_flight.clone();
        self.in_flight_max.fetch_max(in_flight.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        let done = (!self.delay.is_zero()).then(|| tokio::time::sleep(self.delay));
        async move {
            if let Some(done) = done {
                done.await;
            }
            in_flight.fetch_sub(1, Ordering::Relaxed);
            refusal.map_or(Ok(receipt), Err)
        }
    }

    fn expire_after(&self) -> Duration {
        Duration::from_secs(4 * 86_400)
    }
}

const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

fn config() -> SmtpConfig {
    SmtpConfig { trusted_networks: vec!["192.0.2.0/24".parse().expect("a network")], ..SmtpConfig::default() }
}

fn shared(door: Arc<Recorder>, config: SmtpConfig, tls: Option<Arc<rustls::ServerConfig>>) -> Arc<Shared<Recorder>> {
    shared_with(door, Example::default(), config, tls)
}

fn shared_with(
    door: Arc<Recorder>,
    authority: Example,
    config: SmtpConfig,
    tls: Option<Arc<rustls::ServerConfig>>,
) -> Arc<Shared<Recorder>> {
    let controls = Arc::new(Controls::new(Policy { config, tls }));
    let hostname = "mta.example".parse().expect("a domain");
    Arc::new(Shared::new(hostname, door, Arc::new(authority), controls, Arc::new(Metrics::new()), Clock))
}

/// A certificate for STARTTLS.
fn certificate() -> (Arc<rustls::ServerConfig>, rustls_pki_types::CertificateDer<'static>) {
    certificate_and("")
}

/// The same; client certificates of these authorities are believed.
fn certificate_and(authorities: &str) -> (Arc<rustls::ServerConfig>, rustls_pki_types::CertificateDer<'static>) {
    let ours = rcgen::generate_simple_self_signed(vec!["mta.example".to_owned()]).expect("a certificate");
    let folder = tempfile::tempdir().expect("a folder");
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&cert, ours.cert.pem()).expect("written");
    std::fs::write(&key, ours.signing_key.serialize_pem()).expect("written");
    let clients = folder.path().join("clients.pem");
    std::fs::write(&clients, authorities).expect("written");
    let clients = (!authorities.is_empty()).then_some(&*clients);
    (super::super::load_tls(&cert, &key, clients).expect("it fits"), ours.cert.der().clone())
}
