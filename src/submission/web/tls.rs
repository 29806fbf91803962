//! The certificate of a service.

use std::sync::Arc;

use rustls::ServerConfig;

use super::super::tls::{ServerTls, load};
use super::TlsError;
use crate::config::ApiConfig;

/// What `config` says about TLS, read from its files; `None`: connections are in the clear. Blocks on the file system;
/// meant for start and reload.
///
/// # Errors
/// See [`TlsError`].
pub fn tls<A>(config: &ApiConfig<A>) -> Result<Option<Arc<ServerConfig>>, TlsError> {
    let (Some(cert), Some(key)) = (&config.tls_cert_file, &config.tls_key_file) else { return Ok(None) };
    let client_ca = config.tls_client_ca_file.as_deref();
    load(&ServerTls { cert, key, client_ca, protocols: &[b"h2", b"http/1.1"] }).map(Some)
}
