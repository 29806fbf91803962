//! What a client's certificate says.

use rustls_pki_types::CertificateDer;

/// The names in the certificate that the client showed, if it showed one. It is from an authority we believe.
pub(super) fn shown(tls: &rustls::ServerConnection) -> Option<Vec<String>> {
    tls.peer_certificates().and_then(|chain| chain.first()).map(names)
}

/// What a verified certificate calls its owner, each name once: DNS names, then the common name.
pub(super) fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let parsed = webpki::EndEntityCert::try_from(certificate).ok();
    let dns_names = parsed.iter().flat_map(|parsed| parsed.valid_dns_names()).map(str::to_owned);
    let mut names = Vec::new();
    for name in dns_names.chain(common_name(certificate)) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// The last common name of the subject (RFC 5280 §4.1.2.6).
fn common_name(certificate: &[u8]) -> Option<String> {
    const SEQUENCE: u8 = 0x30;
    const SET: u8 = 0x31;
    const OID: u8 = 0x06;
    const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
    let mut certificate = Der(certificate).expect_value(SEQUENCE)?;
    let mut fields = certificate.expect_value(SEQUENCE)?;
    // The version is optional; then serial number, signature, issuer, validity.
    let (tag, _) = fields.value()?;
    for _ in 0..if tag == 0xa0 { 4 } else { 3 } {
        fields.value()?;
    }
    let mut subject = fields.expect_value(SEQUENCE)?;
    let mut found = None;
    while let Some(mut set) = subject.expect_value(SET) {
        while let Some(mut pair) = set.expect_value(SEQUENCE) {
            let kind = pair.expect_value(OID)?;
            let (tag, text) = pair.value()?;
            // UTF8String, PrintableString, IA5String; others are not in use and not all of them UTF-8.
            if kind.0 == COMMON_NAME && matches!(tag, 0x0c | 0x13 | 0x16) {
                found = std::str::from_utf8(text).ok().map(str::to_owned);
            }
        }
    }
    found
}

/// DER values one after another.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The next value's tag and content; `None` at the end, or if it is no DER.
    fn value(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, mut rest) = rest.split_first()?;
        let mut length = usize::from(first);
        if first >= 0x80 {
            let octets = usize::from(first & 0x7f);
            if octets == 0 || octets > 4 {
                return None;
            }
            let (long, behind) = rest.split_at_checked(octets)?;
            length = long.iter().fold(0, |length, &octet| length << 8 | usize::from(octet));
            rest = behind;
        }
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    /// The content of the next value if it has this tag.
    fn expect_value(&mut self, tag: u8) -> Option<Der<'a>> {
        let (found, content) = self.value()?;
        (found == tag).then_some(Der(content))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(dns: &[&str], common: Option<&str>, expected: &[&str]) {
        let mut params = rcgen::CertificateParams::new(dns.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
            .expect("names");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "An Organisation");
        if let Some(common) = common {
            params.distinguished_name.push(rcgen::DnType::CommonName, common);
        }
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        assert_eq!(names(certificate.der()), expected);
    }

    #[test]
    fn names_come_from_alternative_names_and_the_subject() {
        check(&["shop.example", "b.example"], None, &["shop.example", "b.example"]);
        check(&["shop.example"], Some("Shop"), &["shop.example", "Shop"]);
        check(&["shop.example"], Some("shop.example"), &["shop.example"]);
        check(&["a.example", "b.example", "a.example"], None, &["a.example", "b.example"]);
        check(&[], Some("shop-1"), &["shop-1"]);
        check(&[], None, &[]);
    }

    #[test]
    fn what_is_no_certificate_has_no_name() {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).expect("names");
        let certificate = params.self_signed(&key).expect("a certificate").der().to_vec();
        for length in 0..certificate.len() {
            let _ = names(&CertificateDer::from(&certificate[..length]));
        }
        for at in 0..certificate.len().min(200) {
            let mut broken = certificate.clone();
            broken[at] ^= 0x5a;
            let _ = names(&CertificateDer::from(broken));
        }
    }
}
