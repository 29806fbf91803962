//! TLS for sessions: two configurations, what each verifies, and the facts afterwards.
//!
//! A resumed session is not verified again, so the two keep their sessions apart: one handshake that nobody checked
//! must never open a session where checking is demanded.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, HandshakeKind, ProtocolVersion, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::TlsPolicy;
use crate::mail::TlsFacts;

/// Receivers whose sessions are kept for resumption, each configuration.
const SESSIONS_MAX: usize = 1_024;

/// Both configurations, shared by all sessions.
#[derive(Clone)]
pub(super) struct Tls {
    /// Opportunistic and required: any certificate.
    anyone: TlsConnector,
    /// Verified: a known authority, and the host's name.
    verified: TlsConnector,
}

impl Tls {
    /// `roots` are the authorities of `verified`.
    pub(super) fn new(roots: RootCertStore) -> Tls {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = || {
            ClientConfig::builder_with_provider(provider.clone())
                .with_safe_default_protocol_versions()
                .expect("the provider knows TLS 1.2 and 1.3")
        };
        let mut anyone = builder()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider.clone())))
            .with_no_client_auth();
        let mut verified = builder().with_root_certificates(roots).with_no_client_auth();
        for config in [&mut anyone, &mut verified] {
            config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
        }
        Tls { anyone: Arc::new(anyone).into(), verified: Arc::new(verified).into() }
    }

    pub(super) fn connector(&self, policy: TlsPolicy) -> &TlsConnector {
        match policy {
            TlsPolicy::Verified => &self.verified,
            TlsPolicy::None | TlsPolicy::Opportunistic | TlsPolicy::Required => &self.anyone,
        }
    }
}

/// Mozilla's authorities.
pub(super) fn public_roots() -> RootCertStore {
    RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }
}

/// The name to ask for and, if verified, to find in the certificate. Names that are none for TLS (they exist) fall back
/// to the address, which no public certificate carries.
pub(super) fn server_name(host: &str, address: std::net::IpAddr) -> ServerName<'static> {
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    ServerName::try_from(host).unwrap_or_else(|_| ServerName::from(address))
}

/// For events.
pub(super) fn facts<S>(stream: &TlsStream<S>, policy: TlsPolicy) -> TlsFacts {
    let session = stream.get_ref().1;
    let version = match session.protocol_version() {
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(_) | None => "unknown",
    };
    TlsFacts {
        version,
        cipher: session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or("unknown"),
        resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
        verified: policy == TlsPolicy::Verified,
    }
}

/// Takes any certificate: without a policy nobody said which one is right, and TLS with anyone is better than none. The
/// handshake must still be signed by that certificate's key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
