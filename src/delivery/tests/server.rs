//! A small well-behaved server on loopback, with TLS, and our side of a session with it.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::super::client::{Client, Local, Target};
use super::super::transaction::Job;
use super::super::wire::Io;
use crate::config::{DeliveryConfig, TimeoutConfig, TlsPolicy};
use crate::mail::{Outcome, Recipient, ReversePath};
use crate::telemetry::Metrics;

/// How the server takes STARTTLS.
#[derive(Clone)]
pub(super) enum Tls {
    NotOffered,
    Works(TlsAcceptor),
    /// 220, and then no TLS.
    Broken,
    /// A handshake, and then nothing.
    Drops(TlsAcceptor),
}

pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) messages: Arc<Mutex<Vec<Vec<u8>>>>,
    pub(super) connections: Arc<AtomicUsize>,
    pub(super) peers: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Server {
    pub(super) async fn start(keywords: &'static str, tls: Tls) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let server = Server {
            address: listener.local_addr().expect("bound"),
            messages: Arc::default(),
            connections: Arc::default(),
            peers: Arc::default(),
        };
        let (messages, connections, peers) =
            (server.messages.clone(), server.connections.clone(), server.peers.clone());
        tokio::spawn(async move {
            while let Ok((stream, peer)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                peers.lock().expect("fine").push(peer);
                let (messages, tls) = (messages.clone(), tls.clone());
                tokio::spawn(async move { converse(stream, keywords, tls, messages).await });
            }
        });
        server
    }

    pub(super) fn target(&self, tls: TlsPolicy) -> Target {
        Target {
            host: "mx.them.example".into(),
            address: self.address,
            local: Local::default(),
            tls,
            credentials: None,
        }
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn converse(
    mut stream: TcpStream,
    keywords: &str,
    tls: Tls,
    messages: Arc<Mutex<Vec<Vec<u8>>>>,
) -> io::Result<()> {
    stream.write_all(b"220 mx.them.example\r\n").await?;
    let offered = if matches!(tls, Tls::NotOffered) { "" } else { "STARTTLS" };
    let keywords_clear = format!("{keywords} {offered}");
    if !commands(&mut stream, &keywords_clear, &messages).await? {
        return Ok(());
    }
    stream.write_all(b"220 go\r\n").await?;
    match tls {
        Tls::NotOffered => Ok(()),
        Tls::Broken => {
            stream.read_exact(&mut [0; 1]).await?;
            stream.write_all(b"no TLS here, sorry\r\n").await
        }
        Tls::Drops(acceptor) => acceptor.accept(stream).await.map(drop),
        Tls::Works(acceptor) => {
            let mut stream = acceptor.accept(stream).await?;
            commands(&mut stream, keywords, &messages).await.map(drop)
        }
    }
}

/// Obeys commands until QUIT (false) or STARTTLS (true).
pub(super) async fn commands<S: Io>(
    stream: &mut S,
    keywords: &str,
    messages: &Mutex<Vec<Vec<u8>>>,
) -> io::Result<bool> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(false);
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let reply: &[u8] = match words[0] {
            "EHLO" => {
                let lines: Vec<String> = keywords.split_whitespace().map(|k| format!("250-{k}\r\n")).collect();
                let all = format!("250-mx.them.example\r\n{}250 HELP\r\n", lines.concat());
                stream.write_all(all.as_bytes()).await?;
                continue;
            }
            "STARTTLS" => return Ok(true),
            "BDAT" => {
                let mut content = vec![0; words[1].parse().expect("a size")];
                stream.read_exact(&mut content).await?;
                messages.lock().expect("fine").push(content);
                b"250 2.0.0 queued\r\n"
            }
            "DATA" => {
                stream.write_all(b"354 go\r\n").await?;
                let mut content = Vec::new();
                while !content.ends_with(b"\r\n.\r\n") {
                    stream.read_until(b'\n', &mut content).await?;
                }
                messages.lock().expect("fine").push(content);
                b"250 2.0.0 queued\r\n"
            }
            "QUIT" => b"221 bye\r\n",
            _ => b"250 ok\r\n",
        };
        stream.write_all(reply).await?;
        stream.flush().await?;
        if words[0] == "QUIT" {
            return Ok(false);
        }
    }
}

pub(super) struct Authority {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) acceptor: TlsAcceptor,
}

impl Authority {
    pub(super) fn new(name: &str) -> Authority {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(vec![name.to_owned()]).expect("a key");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .expect("they fit");
        Authority { certificate: cert.der().clone(), acceptor: Arc::new(config).into() }
    }

    pub(super) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("a certificate");
        roots
    }
}

pub(super) fn client(roots: RootCertStore) -> Client {
    let timeout = TimeoutConfig { connect: Duration::from_secs(5), ..TimeoutConfig::default() };
    let config = DeliveryConfig { timeout, ..DeliveryConfig::default() };
    Client::with_roots(&config, &"mta.us.example".parse().expect("a domain"), Arc::new(Metrics::new()), roots)
}

/// A server at the other end of a pipe, with which nothing is encrypted.
pub(super) fn piped() -> Target {
    Target {
        host: "mx".into(),
        address: "127.0.0.1:25".parse().expect("an address"),
        local: Local::default(),
        tls: TlsPolicy::None,
        credentials: None,
    }
}

pub(super) async fn deliver<S: Io>(
    connection: &mut super::super::connection::Connection<S>,
    content: &Bytes,
) -> Option<Outcome> {
    let recipient = Recipient::new("b@them.example".parse().expect("an address"));
    let job = Job {
        reverse_path: &ReversePath::Null,
        recipients: &[&recipient],
        signature: &Bytes::from_static(b"D: x\r\n"),
        content,
        eight_bit: false,
        smtputf8: false,
        ret: None,
        envid: None,
    };
    connection.deliver(&job).await.outcomes.remove(0)
}

pub(super) fn lines(octets: usize) -> Bytes {
    let line: Vec<u8> = (0..76).map(|i| b'a' + i % 26).chain(*b"\r\n").collect();
    line.iter().copied().cycle().take(octets / 78 * 78).collect::<Vec<u8>>().into()
}
