//! Real sockets, real TLS: a small well-behaved server on loopback, and some that are not.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::RootCertStore;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::net::TcpListener;

use super::super::client::{Client, Local, Stage, Target};
use super::super::opening::Upgrade;
use super::server::{Authority, Server, Tls, client, commands, deliver, lines, piped};
use crate::clock::Clock;
use crate::config::TlsPolicy;
use crate::mail::{Blame, Outcome};

#[tokio::test]
async fn delivers_over_tls_and_resumes() {
    let authority = Authority::new("elsewhere.example");
    let server = Server::start("PIPELINING CHUNKING", Tls::Works(authority.acceptor.clone())).await;
    let client = client(RootCertStore::empty());
    for (round, size) in [100, 100_000, 3_000_000].into_iter().enumerate() {
        let mut connection = client.connect(&server.target(TlsPolicy::Opportunistic)).await.expect("a session");
        let tls = connection.facts().tls.clone().expect("TLS");
        assert_eq!((tls.version, tls.verified, tls.resumed), ("TLSv1.3", false, round > 0));
        for _ in 0..2 {
            let content = lines(size);
            let outcome = deliver(&mut connection, &content).await;
            assert!(matches!(outcome, Some(Outcome::Delivered { .. })), "{outcome:?}");
            let message = server.messages.lock().expect("fine").pop().expect("arrived");
            assert_eq!(message, [b"D: x\r\n", content.as_ref()].concat());
        }
        connection.quit().await;
    }
    assert_eq!(server.connections(), 3);
}

/// Sessions run in tasks of their own.
#[tokio::test]
async fn futures_can_be_spawned() {
    let server = Server::start("PIPELINING", Tls::NotOffered).await;
    let client = Arc::new(client(RootCertStore::empty()));
    let task = tokio::spawn(async move {
        let mut connection = client.connect(&server.target(TlsPolicy::Opportunistic)).await.expect("a session");
        let outcome = deliver(&mut connection, &lines(100)).await;
        connection.quit().await;
        outcome
    });
    assert!(matches!(task.await.expect("no panic"), Some(Outcome::Delivered { .. })));
}

#[tokio::test]
async fn delivers_by_data_and_in_the_clear() {
    let server = Server::start("PIPELINING", Tls::NotOffered).await;
    let client = client(RootCertStore::empty());
    let mut connection = client.connect(&server.target(TlsPolicy::Opportunistic)).await.expect("a session");
    assert_eq!(connection.facts().tls, None);
    assert_eq!(connection.facts().capabilities, "PIPELINING HELP");
    let content = lines(2_000_000);
    let outcome = deliver(&mut connection, &content).await;
    assert!(matches!(outcome, Some(Outcome::Delivered { .. })), "{outcome:?}");
    let message = server.messages.lock().expect("fine").pop().expect("arrived");
    assert!(message == [b"D: x\r\n", content.as_ref(), b".\r\n"].concat());
}

#[tokio::test]
async fn verifies_certificates_where_policy_says_so() {
    let authority = Authority::new("mx.them.example");
    let server = Server::start("", Tls::Works(authority.acceptor.clone())).await;
    let known = client(authority.roots());
    let connection = known.connect(&server.target(TlsPolicy::Verified)).await.expect("a session");
    assert!(connection.facts().tls.as_ref().is_some_and(|tls| tls.verified));
    connection.quit().await;

    let check = async |client: &Client, host: &str| {
        let before = server.connections();
        let target = Target { host: host.into(), ..server.target(TlsPolicy::Verified) };
        let error = client.connect(&target).await.expect_err("not verified");
        assert_eq!((error.stage, error.failure.blame), (Stage::Tls, Blame::Site), "{error}");
        assert!(error.failure.reply.to_string().starts_with("451 4.7.5 "), "{error}");
        assert_eq!(server.connections(), before + 1, "no second try in the clear");
    };
    check(&known, "other.them.example").await;
    check(&client(RootCertStore::empty()), "mx.them.example").await;

    // A session that nobody verified is not resumed where verification is demanded.
    let fresh = client(RootCertStore::empty());
    fresh.connect(&server.target(TlsPolicy::Required)).await.expect("any certificate will do").quit().await;
    check(&fresh, "mx.them.example").await;
}

#[tokio::test]
async fn speaks_in_the_clear_where_tls_is_broken_and_remembers_it() {
    check_broken_tls(Tls::Broken, "451 4.7.5 TLS handshake failed").await;
    let authority = Authority::new("mx.them.example");
    check_broken_tls(Tls::Drops(authority.acceptor), "451 4.4.2 ").await;
}

async fn check_broken_tls(tls: Tls, why: &str) {
    let server = Server::start("PIPELINING CHUNKING", tls).await;
    let client = client(RootCertStore::empty());
    for connections in [2, 3] {
        let mut connection = client.connect(&server.target(TlsPolicy::Opportunistic)).await.expect("in the clear");
        assert_eq!(connection.facts().tls, None);
        assert!(matches!(deliver(&mut connection, &lines(100)).await, Some(Outcome::Delivered { .. })));
        assert_eq!(server.connections(), connections, "the first needed two, the second knew");
    }
    let error = client.connect(&server.target(TlsPolicy::Required)).await.expect_err("policy");
    assert!(matches!(error.stage, Stage::Tls | Stage::Ehlo), "{error}");
    assert!(error.to_string().contains(why), "{error}");
}

#[tokio::test]
async fn a_dead_address_is_tried_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let client = client(RootCertStore::empty());
    let target = Target {
        host: "mx.them.example".into(),
        address,
        local: Local::default(),
        tls: TlsPolicy::None,
        credentials: None,
    };
    assert_eq!(client.unreachable(&"".into(), address, Clock.instant()), None);
    let first = client.connect(&target).await.expect_err("nobody there");
    assert_eq!((first.stage, first.failure.blame), (Stage::Connect, Blame::Site));
    assert!(first.failure.reply.to_string().starts_with("451 4.4.1 cannot connect to 127.0.0.1:"), "{first}");
    let (until, why) = client.unreachable(&"".into(), address, Clock.instant()).expect("remembered");
    assert_eq!(until, first.retry_at);
    assert!(why.contains("refused"), "{why}");
    // Somebody listens now, but it is too early to ask.
    let listener = TcpListener::bind(address).await.expect("the same port");
    let second = client.connect(&target).await.expect_err("remembered");
    assert_eq!((second.elapsed, second.retry_at), (Duration::ZERO, first.retry_at));
    let nobody = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
    assert!(nobody.is_err(), "no connection was made");
}

fn from(address: IpAddr) -> Local {
    Local { source: "a".into(), address: Some(address), ..Local::default() }
}

#[tokio::test]
async fn sends_from_the_source_address() {
    let server = Server::start("", Tls::NotOffered).await;
    let client = client(RootCertStore::empty());
    let source = "127.0.0.9".parse().expect("an address");
    let target = Target { local: from(source), ..server.target(TlsPolicy::None) };
    let connection = client.connect(&target).await.expect("a session");
    assert_eq!(connection.facts().source_address, Some(source));
    assert_eq!(server.peers.lock().expect("fine")[0].ip(), source);

    // An address that is not ours is our trouble, and the receiver stays reachable.
    let target = Target { local: from("192.0.2.1".parse().expect("an address")), ..target };
    let error = client.connect(&target).await.expect_err("not ours");
    assert_eq!((error.stage, error.failure.blame), (Stage::Source, Blame::EgressPath), "{error}");
    assert_eq!(client.unreachable(&"".into(), server.address, Clock.instant()), None);
    client.connect(&server.target(TlsPolicy::None)).await.expect("from another address");
}

/// A refusal concerns who was refused: the same address stays open to others.
#[tokio::test]
async fn a_refusal_is_remembered_for_the_way_it_was_met() {
    let server = Server::start("PIPELINING", Tls::NotOffered).await;
    let client = client(RootCertStore::empty());
    for tried in [1, 1] {
        let error = client.connect(&server.target(TlsPolicy::Verified)).await.expect_err("no TLS there");
        assert!(error.to_string().contains("451 4.7.4 TLS is required"), "{error}");
        assert_eq!(server.connections(), tried, "the second was remembered");
    }
    assert_eq!(client.unreachable(&"".into(), server.address, Clock.instant()), None);
    client.connect(&server.target(TlsPolicy::Opportunistic)).await.expect("a session");
}

/// A receiver that answers at length before it reads on: neither may wait for the other.
#[tokio::test]
async fn reads_while_it_writes() {
    let (ours, mut theirs) = tokio::io::duplex(512);
    let server = tokio::spawn(async move {
        let mut line = [0; 512];
        theirs.write_all(b"220 mx\r\n").await?;
        let _ = theirs.read(&mut line).await?;
        theirs.write_all(b"250-mx\r\n250-PIPELINING\r\n250 CHUNKING\r\n").await?;
        theirs.read_exact(&mut [0; 1]).await?;
        let long = format!("{}250 ok\r\n", "250-and another line of it\r\n".repeat(900));
        theirs.write_all([long.as_bytes(), long.as_bytes()].concat().as_slice()).await?;
        let mut taken = Vec::new();
        let end = b"BDAT 499986 LAST\r\n";
        while memchr::memmem::find(&taken, end).is_none_or(|at| taken.len() < at + end.len() + 499_986) {
            let n = theirs.read_buf(&mut taken).await?;
            assert!(n > 0, "the client left");
        }
        theirs.write_all(b"250 2.0.0 queued\r\n").await?;
        let _ = theirs.read(&mut line).await?;
        io::Result::Ok(())
    });
    let client = client(RootCertStore::empty());
    let opened = client.open(ours, &piped(), None, Upgrade::Never, Clock.instant()).await;
    let mut connection = opened.expect("a session");
    let outcome = deliver(&mut connection, &lines(500_000)).await;
    assert!(matches!(outcome, Some(Outcome::Delivered { .. })), "{outcome:?}");
    drop(connection);
    server.await.expect("no panic").expect("no error");
}

/// A stream that counts what is asked of it.
struct Counting {
    stream: DuplexStream,
    writes: Arc<AtomicUsize>,
}

impl AsyncRead for Counting {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counting {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The hot path: envelope, header fields and content in one system call; two without CHUNKING.
#[tokio::test]
async fn a_message_costs_one_write() {
    for (keywords, expected) in [("PIPELINING CHUNKING", 1), ("PIPELINING", 2)] {
        let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
        let messages = Arc::new(Mutex::new(Vec::new()));
        tokio::spawn(async move {
            theirs.write_all(b"220 mx\r\n").await?;
            commands(&mut theirs, keywords, &messages).await
        });
        let writes = Arc::new(AtomicUsize::new(0));
        let stream = Counting { stream: ours, writes: writes.clone() };
        let client = client(RootCertStore::empty());
        let target = Target {
            host: "mx".into(),
            address: "127.0.0.1:25".parse().expect("an address"),
            local: Local::default(),
            tls: TlsPolicy::None,
            credentials: None,
        };
        let opened = client.open(stream, &target, None, Upgrade::Never, Clock.instant()).await;
        let mut connection = opened.expect("a session");
        for _ in 0..3 {
            let before = writes.load(Ordering::SeqCst);
            let outcome = deliver(&mut connection, &lines(10_000)).await;
            assert!(matches!(outcome, Some(Outcome::Delivered { .. })), "{outcome:?}");
            assert_eq!(writes.load(Ordering::SeqCst) - before, expected, "{keywords}");
        }
    }
}

/// `idle` lasts as long as the peer is silent; being dropped and called again costs nothing; session tickets are no
/// speech.
#[tokio::test]
async fn idles_until_the_peer_leaves() {
    let authority = Authority::new("mx.them.example");
    let server = Server::start("PIPELINING CHUNKING", Tls::Works(authority.acceptor.clone())).await;
    let client = client(RootCertStore::empty());
    let mut connection = client.connect(&server.target(TlsPolicy::Required)).await.expect("a session");
    for _ in 0..3 {
        assert!(tokio::time::timeout(Duration::from_millis(20), connection.idle()).await.is_err());
        assert!(connection.is_usable());
        assert!(matches!(deliver(&mut connection, &lines(100)).await, Some(Outcome::Delivered { .. })));
    }
    let (ours, theirs) = tokio::io::duplex(512);
    let played = tokio::spawn(async move {
        let mut theirs = theirs;
        theirs.write_all(b"220 mx\r\n").await?;
        theirs.read_exact(&mut [0; 21]).await?;
        theirs.write_all(b"250 mx\r\n").await
    });
    let target = server.target(TlsPolicy::None);
    let mut connection = client.open(ours, &target, None, Upgrade::Never, Clock.instant()).await.expect("a session");
    played.await.expect("no panic").expect("no error");
    connection.idle().await;
    assert!(!connection.is_usable(), "it closed");
}
