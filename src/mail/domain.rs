//! Mail domains.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A mail domain in ASCII, lower case, without trailing dot, at most 253 octets (RFC 5321 §4.1.2, §4.5.3.1.2). Cheap
/// to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Domain(Arc<str>);

/// Why a text is no mail domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DomainError {
    /// Nothing there.
    #[error("the domain is empty")]
    Empty,
    /// More than 253 octets in ASCII, or a label of more than 63.
    #[error("the domain or one of its labels is too long")]
    TooLong,
    /// A label is empty, starts or ends with a hyphen, or holds another octet than a letter, digit, hyphen, underscore.
    #[error("{0:?} is not a domain name")]
    Syntax(String),
    /// Looks like an IP address without brackets.
    #[error("{0:?} is an IP address; write it as a literal: [{0}]")]
    IpAddress(String),
}

/// Most characters of a text that an error repeats.
const ECHO_MAX: usize = 80;

impl Domain {
    /// The domain as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Domain {
    type Err = DomainError;

    /// Lower-cases, drops one trailing dot and converts U-labels to A-labels (RFC 5891 §5.5), or says why `text` is no
    /// domain. Underscores are let through: receivers that have them exist.
    fn from_str(text: &str) -> Result<Domain, DomainError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Err(DomainError::Empty);
        }
        let ascii = if text.is_ascii() {
            text.to_ascii_lowercase()
        } else {
            idna::domain_to_ascii(text).map_err(|_| DomainError::Syntax(short(text)))?
        };
        check_labels(&ascii, text)?;
        Ok(Domain(ascii.into()))
    }
}

/// What an error repeats of a text: enough to find it, however long it is.
pub(super) fn short(text: &str) -> String {
    text.chars().take(ECHO_MAX).collect()
}

fn check_labels(ascii: &str, original: &str) -> Result<(), DomainError> {
    if ascii.len() > 253 {
        return Err(DomainError::TooLong);
    }
    for label in ascii.split('.') {
        if label.len() > 63 {
            return Err(DomainError::TooLong);
        }
        let inner = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if label.is_empty() || !inner || label.starts_with('-') || label.ends_with('-') {
            return Err(DomainError::Syntax(short(original)));
        }
    }
    // RFC 3696 §2: a top-level label is never all digits, so this can only be an address.
    if ascii.rsplit('.').next().is_some_and(|tld| tld.bytes().all(|b| b.is_ascii_digit())) {
        return Err(DomainError::IpAddress(short(original)));
    }
    Ok(())
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Domain {
    type Error = DomainError;
    fn try_from(text: String) -> Result<Domain, DomainError> {
        text.parse()
    }
}

impl From<Domain> for String {
    fn from(domain: Domain) -> String {
        domain.0.as_ref().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, DomainError>) {
        assert_eq!(text.parse::<Domain>().map(|d| d.to_string()), expected.map(str::to_owned));
    }

    #[test]
    fn reads_domains() {
        check("Example.COM.", Ok("example.com"));
        check("bücher.example", Ok("xn--bcher-kva.example"));
        check("_dmarc.example", Ok("_dmarc.example"));
        check("localhost", Ok("localhost"));
        check("", Err(DomainError::Empty));
        check("a..b", Err(DomainError::Syntax("a..b".into())));
        check("-a.example", Err(DomainError::Syntax("-a.example".into())));
        check("a b.example", Err(DomainError::Syntax("a b.example".into())));
        check("a\r\n.example", Err(DomainError::Syntax("a\r\n.example".into())));
        check("10.0.0.1", Err(DomainError::IpAddress("10.0.0.1".into())));
        check(&format!("{}.example", "a".repeat(64)), Err(DomainError::TooLong));
        check(&"a.".repeat(140), Err(DomainError::TooLong));
    }
}
