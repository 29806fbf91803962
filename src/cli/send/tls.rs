//! TLS to the server: which authorities are believed, which name it must have, and the handshake.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};

use super::{EX_CONFIG, EX_TEMPFAIL, EX_USAGE, Failure};
use crate::config::pem_fault;

/// When TLS begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Begin {
    /// Never.
    #[default]
    Off,
    /// After STARTTLS (RFC 3207).
    StartTls,
    /// With the first octet (RFC 8314 §3.3).
    Implicit,
}

impl Begin {
    /// What `--tls` says.
    pub(super) fn parse(word: &str) -> Option<Begin> {
        match word {
            "off" => Some(Begin::Off),
            "starttls" => Some(Begin::StartTls),
            "implicit" => Some(Begin::Implicit),
            _ => None,
        }
    }
}

/// Whom to believe that it is the server.
#[derive(Debug, Clone)]
pub(super) struct Trust {
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
}

impl Trust {
    /// A server that has this name by a certificate of an authority in `ca_file`; without a file, of one that the public
    /// trusts.
    ///
    /// # Errors
    /// [`EX_USAGE`]: no server can have this name. [`EX_CONFIG`]: the file is of no use.
    pub(super) fn new(name: &str, ca_file: Option<&Path>) -> Result<Trust, Failure> {
        let bare = name.trim_start_matches('[').trim_end_matches(']').to_owned();
        let usage =
            |_| Failure { code: EX_USAGE, why: format!("{name} is no name a certificate can have; say --tls-name") };
        let name = ServerName::try_from(bare).map_err(usage)?;
        let roots = match ca_file {
            None => RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() },
            Some(file) => authorities(file)?,
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider knows TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Trust { name, config: Arc::new(config) })
    }

    /// Shakes hands.
    ///
    /// # Errors
    /// [`EX_TEMPFAIL`]: the connection failed, or this is not the server that was meant; a person must look, and then the
    /// message can be sent.
    pub(super) fn secure(&self, stream: TcpStream) -> Result<Stream, Failure> {
        let failed = |why: String| Failure { code: EX_TEMPFAIL, why: format!("TLS failed: {why}") };
        let connection = ClientConnection::new(Arc::clone(&self.config), self.name.clone());
        let connection = connection.map_err(|error| failed(error.to_string()))?;
        let mut stream = StreamOwned::new(connection, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).map_err(|error| failed(error.to_string()))?;
        }
        Ok(Stream::Tls(Box::new(stream)))
    }
}

fn authorities(file: &Path) -> Result<RootCertStore, Failure> {
    let failed = |why: String| Failure { code: EX_CONFIG, why: format!("{}: {why}", PathBuf::from(file).display()) };
    let found = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let mut roots = RootCertStore::empty();
    match roots.add_parsable_certificates(found.map_err(|error| failed(pem_fault(&error)))?) {
        (0, _) => Err(failed("no certificate of an authority in it".into())),
        _ => Ok(roots),
    }
}

/// A connection, in the clear or not.
#[derive(Debug)]
pub(super) enum Stream {
    /// In the clear.
    Plain(TcpStream),
    /// Not.
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.read(buffer),
            Stream::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.write(octets),
            Stream::Tls(stream) => stream.write(octets),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(stream) => stream.flush(),
            Stream::Tls(stream) => stream.flush(),
        }
    }
}
