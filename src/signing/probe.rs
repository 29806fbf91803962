//! Ways in for fuzz targets and benchmarks; see [`crate::probe`].

use rustls_pki_types::PrivateKeyDer;

use super::key::Key;
use super::{author, canonical};
use crate::mail::header;

/// A message to be signed: its author and its canonical form are found without a panic, and the body's hash does not
/// depend on empty lines at its end (RFC 6376 §3.4.4).
pub fn message(octets: &[u8]) {
    let section = &octets[..header::section_len(octets)];
    if let Some(from) = canonical::fields(section).find(|field| field.is("From"))
        && let Some(domain) = author::domain(from.value)
    {
        assert_eq!(domain.as_str().parse().as_ref(), Ok(&domain));
    }
    let body = octets.get(section.len() + 2..).unwrap_or_default();
    if body.is_empty() || body.ends_with(b"\r\n") {
        let longer = [body, b"\r\n \t\r\n"].concat();
        assert_eq!(canonical::body_hash(body).as_ref(), canonical::body_hash(&longer).as_ref());
    }
    let _ = canonical::body_hash(octets);
    let _ = canonical::SignedFields::of(section);
}

/// A private key, in PEM, or in DER behind `8` (PKCS#8) or `1` (PKCS#1): what is read can be read again from what it was read as; what is
/// not is refused in one short line, which holds no more of the file than a few octets.
pub fn key(octets: &[u8]) {
    let read = match octets {
        [b'8', der @ ..] => Key::from_der(PrivateKeyDer::Pkcs8(der.to_vec().into())),
        [b'1', der @ ..] => Key::from_der(PrivateKeyDer::Pkcs1(der.to_vec().into())),
        pem => Key::from_pem(pem),
    };
    match read {
        Ok(key) => assert!(Key::from_der(key.der().clone_key()).is_ok_and(|again| again.der() == key.der())),
        Err(error) => {
            let told = error.to_string();
            assert!(!told.chars().any(char::is_control) && told.len() < 200, "{told:?}");
        }
    }
}
