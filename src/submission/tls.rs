//! Our certificates, and the authorities whose client certificates we believe.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem};

use crate::config::pem_fault;

/// Why a certificate cannot be used. Names the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read, or is no PEM.
    #[error("{path}: {why}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why; nothing of the file.
        why: String,
    },
    /// There is no certificate in it.
    #[error("{path}: no certificate in it")]
    NoCertificate {
        /// Which.
        path: PathBuf,
    },
    /// There is no private key in it.
    #[error("{path}: no private key in it")]
    NoKey {
        /// Which.
        path: PathBuf,
    },
    /// They do not fit together, or are of a kind we cannot use.
    #[error("certificate {cert} with key {key}")]
    Unusable {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// None of the certificates is one of an authority.
    #[error("{path}: no certificate of an authority in it")]
    NoAuthority {
        /// Which file.
        path: PathBuf,
    },
}

impl TlsError {
    /// The file to look at.
    pub fn file(&self) -> &Path {
        match self {
            TlsError::Read { path, .. }
            | TlsError::NoCertificate { path }
            | TlsError::NoKey { path }
            | TlsError::NoAuthority { path } => path,
            TlsError::Unusable { cert, .. } => cert,
        }
    }
}

/// Reads a PEM certificate chain (ours first) and its PEM key (PKCS#8, PKCS#1 or SEC1). With `client_ca`, clients may show
/// a certificate of these authorities.
///
/// # Errors
/// See [`TlsError`]. Blocks on the file system; meant for start and reload.
pub fn load_tls(cert: &Path, key: &Path, client_ca: Option<&Path>) -> Result<Arc<ServerConfig>, TlsError> {
    load(&ServerTls { cert, key, client_ca, protocols: &[] })
}

/// What a TLS server needs to know.
#[derive(Debug, Clone, Copy)]
pub(super) struct ServerTls<'a> {
    /// PEM chain, ours first.
    pub(super) cert: &'a Path,
    /// PEM key.
    pub(super) key: &'a Path,
    /// PEM certificates of authorities; clients may, not must, show a certificate from one of them. `None`: not asked.
    pub(super) client_ca: Option<&'a Path>,
    /// What is spoken inside, preferred first (RFC 7301); empty: not negotiated.
    pub(super) protocols: &'a [&'a [u8]],
}

/// The same with all that can be said.
pub(super) fn load(files: &ServerTls<'_>) -> Result<Arc<ServerConfig>, TlsError> {
    let ServerTls { cert, key, client_ca, protocols } = *files;
    let chain = certificates(cert)?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|source| match source {
        pem::Error::NoItemsFound => TlsError::NoKey { path: key.into() },
        error => TlsError::Read { path: key.into(), why: pem_fault(&error) },
    })?;
    let clients = client_ca.map(authorities).transpose()?;
    let unusable = |source| TlsError::Unusable { cert: cert.into(), key: key.into(), source };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?;
    let builder = match (clients, client_ca) {
        (Some(clients), Some(path)) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(clients), provider)
                .allow_unauthenticated()
                .build()
                .map_err(|_| TlsError::NoAuthority { path: path.into() })?;
            builder.with_client_cert_verifier(verifier)
        }
        _ => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, secret).map_err(unusable)?;
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    // Clients that connect for each message resume without our keeping anything.
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(unusable)?;
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = |error| TlsError::Read { path: path.into(), why: pem_fault(&error) };
    let found: Vec<_> = CertificateDer::pem_file_iter(path).and_then(|found| found.collect()).map_err(read)?;
    if found.is_empty() { Err(TlsError::NoCertificate { path: path.into() }) } else { Ok(found) }
}

fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    let (added, _ignored) = store.add_parsable_certificates(certificates(path)?);
    if added == 0 { Err(TlsError::NoAuthority { path: path.into() }) } else { Ok(store) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("written");
            path
        };
        let new = || rcgen::generate_simple_self_signed(vec!["mta.example".to_owned()]).expect("a certificate");
        let (ours, other) = (new(), new());
        let cert = file("cert.pem", &ours.cert.pem());
        let key = file("key.pem", &ours.signing_key.serialize_pem());
        let other_key = file("other.pem", &other.signing_key.serialize_pem());
        let empty = file("empty.pem", "");
        let missing = folder.path().join("missing.pem");

        assert!(load_tls(&cert, &key, None).is_ok());
        let check = |cert: &Path, key: &Path, expected: &str| {
            let error = load_tls(cert, key, None).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(&missing, &key, "missing.pem");
        check(&cert, &missing, "missing.pem");
        check(&empty, &key, "empty.pem: no certificate in it");
        check(&cert, &empty, "empty.pem: no private key in it");
        check(&cert, &other_key, "cert.pem with key ");
        let one_line = file("line.pem", &ours.signing_key.serialize_pem().replace('\n', " "));
        let error = load_tls(&cert, &one_line, None).expect_err("no lines").to_string();
        assert!(
            error.ends_with(
                "line.pem: BEGIN and END do not stand on lines of their own; perhaps its line ends were lost"
            ),
            "{error}"
        );
        let error = load_tls(&cert, &key, Some(&empty)).expect_err("no authority").to_string();
        assert!(error.contains("empty.pem: no certificate in it"), "{error}");
    }
}
