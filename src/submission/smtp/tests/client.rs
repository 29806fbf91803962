//! A client of the SMTP door: over a socket or a pipe, in the clear or over TLS.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertifiedKey, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Longer than any answer takes on the slowest machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Client<S>(BufReader<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub(super) fn new(io: S) -> Client<S> {
        Client(BufReader::new(io))
    }

    /// What it speaks over; nothing must be on its way.
    pub(super) fn into_inner(self) -> S {
        self.0.into_inner()
    }

    pub(super) async fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).await.expect("open");
    }

    /// The next reply, all its lines, without the last CRLF.
    pub(super) async fn hear(&mut self) -> String {
        let mut reply = String::new();
        loop {
            let start = reply.len();
            let length = timeout(PATIENCE, self.0.read_line(&mut reply)).await.expect("in time").expect("open");
            assert!(length > 0, "closed after {reply:?}");
            if reply.as_bytes().get(start + 3) != Some(&b'-') {
                return reply.trim_end().to_owned();
            }
        }
    }

    /// Says a line and hears the reply.
    pub(super) async fn ask(&mut self, line: &str) -> String {
        self.send(&format!("{line}\r\n")).await;
        self.hear().await
    }

    /// The next reply begins so.
    pub(super) async fn expect(&mut self, start: &str) {
        let reply = self.hear().await;
        let last = reply.rsplit("\r\n").next().unwrap_or_default();
        assert!(last.starts_with(start), "{reply:?} instead of {start:?}");
    }

    /// The reply to a line begins so.
    pub(super) async fn check(&mut self, line: &str, start: &str) {
        self.send(&format!("{line}\r\n")).await;
        self.expect(start).await;
    }

    /// The server says nothing more and closes.
    pub(super) async fn expect_end(&mut self) {
        let mut rest = Vec::new();
        timeout(PATIENCE, self.0.read_to_end(&mut rest)).await.expect("in time").expect("closed in order");
        assert_eq!(rest.escape_ascii().to_string(), "");
    }

    /// One message.
    pub(super) async fn submit(&mut self) {
        for (line, expected) in [
            ("MAIL FROM:<a@b.example>", "250 2.1.0 ok"),
            ("RCPT TO:<c@d.example>", "250 2.1.5 ok"),
            ("DATA", "354 go ahead, end with CRLF.CRLF"),
            ("From: x\r\n\r\nbody\r\n.", "250 2.0.0 ok, queued as "),
        ] {
            self.check(line, expected).await;
        }
    }
}

/// TLS with the server that has this certificate, for a client without one.
pub(super) async fn shake_hands<S: AsyncRead + AsyncWrite + Unpin>(
    io: S,
    server: CertificateDer<'static>,
) -> TlsStream<S> {
    shake_hands_as(io, server, None).await
}

/// The same, for a client that shows a certificate of its own, if any.
pub(super) async fn shake_hands_as<S: AsyncRead + AsyncWrite + Unpin>(
    io: S,
    server: CertificateDer<'static>,
    own: Option<&CertifiedKey<KeyPair>>,
) -> TlsStream<S> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(server).expect("a certificate");
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    let config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).expect("a key");
            builder.with_client_auth_cert(vec![own.cert.der().clone()], key).expect("it fits")
        }
    };
    let name = ServerName::try_from("mta.example").expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, io).await.expect("handshake")
}
