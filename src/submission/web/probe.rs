//! The way in for a fuzz target: who a client says it is.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustls_pki_types::CertificateDer;

use super::identity::Authorization;
use crate::submission::certificate;

/// What a client shows, after an octet that says what it is: the field Authorization, or a certificate.
///
/// Of the field, what is read stands in it: a token as it is, user and password in base64. Names of a certificate stand in
/// it, each once, and are what webpki reads if it reads any.
pub fn identity(octets: &[u8]) {
    let Some((&kind, octets)) = octets.split_first() else { return };
    if kind % 2 == 1 {
        return names(octets);
    }
    let Ok(field) = std::str::from_utf8(octets) else { return };
    match Authorization::read(field) {
        Some(Authorization::Bearer(token)) => assert!(field.contains(token) && token.trim() == token),
        Some(Authorization::Basic { user, password }) => {
            assert!(!user.contains(':'), "{user}");
            let again = format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")));
            assert!(Authorization::read(&again) == Some(Authorization::Basic { user, password }));
        }
        None => {}
    }
}

fn names(octets: &[u8]) {
    let names = certificate::names(&CertificateDer::from(octets));
    for (at, name) in names.iter().enumerate() {
        assert!(!names[..at].contains(name), "{name:?} twice");
        assert!(memchr::memmem::find(octets, name.as_bytes()).is_some(), "{name:?} does not stand there");
    }
    if let Ok(certificate) = webpki::EndEntityCert::try_from(&CertificateDer::from(octets)) {
        for name in certificate.valid_dns_names() {
            assert!(names.iter().any(|known| known == name), "{name} is missing");
        }
    }
}
