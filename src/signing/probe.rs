//! Ways in for fuzz targets and benchmarks; see [`crate::probe`].

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
