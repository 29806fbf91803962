//! Envelope addresses: what stands between the angle brackets of MAIL and RCPT.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::domain::{Domain, DomainError, short};

/// A mailbox as SMTP carries it (RFC 5321 §4.1.2, RFC 6531 §3.3): the local part exactly as given (quotes included), the
/// host parsed. Holds no control character, so it can be written into a command as it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EnvelopeAddress {
    local: Box<str>,
    host: AddressHost,
}

/// What stands right of the `@`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AddressHost {
    /// A domain, to be looked up.
    Domain(Domain),
    /// An address literal: `[192.0.2.1]`, `[IPv6:2001:db8::1]` (RFC 5321 §4.1.3).
    Literal(IpAddr),
}

/// Why a text is no envelope address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// There is no `@`.
    #[error("the address has no @")]
    NoAt,
    /// The local part is empty, longer than 64 octets, or holds what it must not (RFC 5321 §4.1.2).
    #[error("the part before the @ is not valid")]
    LocalPart,
    /// The domain is none.
    #[error(transparent)]
    Domain(#[from] DomainError),
    /// The address literal is none.
    #[error("{0:?} is not an address literal")]
    Literal(String),
}

impl EnvelopeAddress {
    /// The part before the `@`, as given.
    pub fn local(&self) -> &str {
        &self.local
    }

    /// The part after the `@`.
    pub fn host(&self) -> &AddressHost {
        &self.host
    }

    /// Whether it can be sent only to a receiver with SMTPUTF8 (RFC 6531).
    pub fn needs_smtputf8(&self) -> bool {
        !self.local.is_ascii()
    }
}

impl FromStr for EnvelopeAddress {
    type Err = AddressError;

    /// Reads `local@domain` or `local@[literal]`, without angle brackets. Never accepts a control character.
    fn from_str(text: &str) -> Result<EnvelopeAddress, AddressError> {
        let at = text.rfind('@').ok_or(AddressError::NoAt)?;
        let (local, host) = (&text[..at], &text[at + 1..]);
        check_local(local)?;
        let host = match host.strip_prefix('[') {
            Some(literal) => AddressHost::Literal(parse_literal(literal)?),
            None => AddressHost::Domain(host.parse()?),
        };
        Ok(EnvelopeAddress { local: local.into(), host })
    }
}

/// Dot-string (dots anywhere: some large providers have handed out such addresses) or quoted-string; UTF-8 allowed.
fn check_local(local: &str) -> Result<(), AddressError> {
    // RFC 5321 §4.5.3.1.1 says 64; VERP return paths (ours too) are longer and work everywhere we looked.
    // Controls above ASCII (U+0080 to U+009F) are as foul in a command or a log line as those within.
    if local.is_empty() || local.len() > 255 || local.chars().any(char::is_control) {
        return Err(AddressError::LocalPart);
    }
    let valid = match local.strip_prefix('"') {
        None => local.bytes().all(is_atom_octet),
        Some(rest) => rest.strip_suffix('"').is_some_and(is_quoted_content),
    };
    valid.then_some(()).ok_or(AddressError::LocalPart)
}

fn is_atom_octet(b: u8) -> bool {
    b >= 0x80 || b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.".contains(&b)
}

fn is_quoted_content(content: &str) -> bool {
    let mut escaped = false;
    for b in content.bytes() {
        match (escaped, b) {
            (_, 0..=0x1f | 0x7f) => return false,
            (true, _) => escaped = false,
            (false, b'\\') => escaped = true,
            (false, b'"') => return false,
            (false, _) => {}
        }
    }
    !escaped
}

fn parse_literal(text: &str) -> Result<IpAddr, AddressError> {
    let bad = || AddressError::Literal(format!("[{}", short(text)));
    let inner = text.strip_suffix(']').ok_or_else(bad)?;
    let v6 = inner.get(..5).filter(|tag| tag.eq_ignore_ascii_case("IPv6:"));
    match v6 {
        Some(_) => inner[5..].parse::<Ipv6Addr>().map(IpAddr::V6).map_err(|_| bad()),
        None => inner.parse::<Ipv4Addr>().map(IpAddr::V4).map_err(|_| bad()),
    }
}

impl fmt::Display for AddressHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AddressHost::Domain(domain) => domain.fmt(f),
            AddressHost::Literal(IpAddr::V4(ip)) => write!(f, "[{ip}]"),
            AddressHost::Literal(IpAddr::V6(ip)) => write!(f, "[IPv6:{ip}]"),
        }
    }
}

impl fmt::Display for EnvelopeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.local)?;
        f.write_str("@")?;
        self.host.fmt(f)
    }
}

impl TryFrom<String> for EnvelopeAddress {
    type Error = AddressError;
    fn try_from(text: String) -> Result<EnvelopeAddress, AddressError> {
        text.parse()
    }
}

impl From<EnvelopeAddress> for String {
    fn from(address: EnvelopeAddress) -> String {
        address.to_string()
    }
}

/// The sender in the envelope: an address, or null (`<>`), which marks a message that must never draw a bounce.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ReversePath {
    /// `MAIL FROM:<>` (RFC 5321 §4.5.5).
    Null,
    /// Where reports go.
    Address(EnvelopeAddress),
}

impl ReversePath {
    /// The address, unless null.
    pub fn address(&self) -> Option<&EnvelopeAddress> {
        match self {
            ReversePath::Null => None,
            ReversePath::Address(address) => Some(address),
        }
    }
}

/// Without the angle brackets; null is the empty string.
impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReversePath::Null => Ok(()),
            ReversePath::Address(address) => address.fmt(f),
        }
    }
}

impl FromStr for ReversePath {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<ReversePath, AddressError> {
        if text.is_empty() { Ok(ReversePath::Null) } else { text.parse().map(ReversePath::Address) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, AddressError>) {
        assert_eq!(text.parse::<EnvelopeAddress>().map(|a| a.to_string()), expected.map(str::to_owned));
    }

    #[test]
    fn reads_addresses() {
        check("Ann.Lee+tag@Example.COM", Ok("Ann.Lee+tag@example.com"));
        check("..dots..@docomo.example", Ok("..dots..@docomo.example"));
        check(r#""a@b \" c"@example.com"#, Ok(r#""a@b \" c"@example.com"#));
        check("jürgen@bücher.example", Ok("jürgen@xn--bcher-kva.example"));
        check("a@[192.0.2.1]", Ok("a@[192.0.2.1]"));
        check("a@[ipv6:2001:db8::1]", Ok("a@[IPv6:2001:db8::1]"));
        check("nobody", Err(AddressError::NoAt));
        check("@example.com", Err(AddressError::LocalPart));
        check("a b@example.com", Err(AddressError::LocalPart));
        check("a\r\nRCPT TO:<b@c>@example.com", Err(AddressError::LocalPart));
        check("\"a\r\nb\"@example.com", Err(AddressError::LocalPart));
        check("a\u{85}b@example.com", Err(AddressError::LocalPart));
        check("\"open@example.com", Err(AddressError::LocalPart));
        check("\"esc\\\"@example.com", Err(AddressError::LocalPart));
        check("a@", Err(AddressError::Domain(DomainError::Empty)));
        check("a@[192.0.2.999]", Err(AddressError::Literal("[192.0.2.999]".into())));
        check("a@192.0.2.1", Err(AddressError::Domain(DomainError::IpAddress("192.0.2.1".into()))));
    }

    proptest! {
        #[test]
        fn printing_then_parsing_is_identity(local in "[a-zA-Z0-9.!#$%+=_-]{1,40}", host in "[a-z][a-z0-9]{0,20}(\\.[a-z][a-z0-9]{0,10}){0,3}") {
            let address: EnvelopeAddress = format!("{local}@{host}").parse().expect("well formed");
            prop_assert_eq!(address.to_string().parse::<EnvelopeAddress>(), Ok(address));
        }

        #[test]
        fn whatever_is_accepted_can_stand_in_a_command(text in "\\PC{0,30}[\r\n\0<> ]?\\PC{0,30}@[a-z\\[\\]0-9.\r\n]{1,20}") {
            if let Ok(address) = text.parse::<EnvelopeAddress>() {
                let printed = address.to_string();
                prop_assert!(!printed.chars().any(char::is_control));
                prop_assert_eq!(printed.parse::<EnvelopeAddress>(), Ok(address));
            }
        }
    }
}
