//! Our certificate, for STARTTLS.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem};

/// Why a certificate cannot be used. Names the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read, or is no PEM.
    #[error("{path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: pem::Error,
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
}

/// Reads a PEM certificate chain (ours first) and its PEM key (PKCS#8, PKCS#1 or SEC1).
///
/// # Errors
/// See [`TlsError`]. Blocks on the file system; meant for start and reload.
pub fn load_tls(cert: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let read = |path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::Read { path, source }
    };
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_file_iter(cert).and_then(|found| found.collect()).map_err(read(cert))?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate { path: cert.into() });
    }
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|source| match source {
        pem::Error::NoItemsFound => TlsError::NoKey { path: key.into() },
        source => TlsError::Read { path: key.into(), source },
    })?;
    let unusable = |source| TlsError::Unusable { cert: cert.into(), key: key.into(), source };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(unusable)?;
    // Clients that connect for each message resume without our keeping anything.
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(unusable)?;
    Ok(Arc::new(config))
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

        assert!(load_tls(&cert, &key).is_ok());
        let check = |cert: &Path, key: &Path, expected: &str| {
            let error = load_tls(cert, key).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(&missing, &key, "missing.pem");
        check(&cert, &missing, "missing.pem");
        check(&empty, &key, "empty.pem: no certificate in it");
        check(&cert, &empty, "empty.pem: no private key in it");
        check(&cert, &other_key, "cert.pem with key ");
    }
}
