//! What an entry says.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::mail::{AddressError, Domain, DomainError, EnvelopeAddress, Stream};

/// Whose mail is kept away.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Everybody's.
    Global,
    /// A tenant's.
    Tenant(Box<str>),
    /// A tenant's mail to one list; without lists, of one campaign.
    List {
        /// Whose.
        tenant: Box<str>,
        /// Which.
        list: Box<str>,
    },
}

impl Scope {
    /// Those that mail of a stream and list falls into.
    pub fn all_of(stream: &Stream, list: Option<&str>) -> Vec<Scope> {
        vec![Scope::Global, Scope::Tenant((*stream.tenant).into()), Scope::list_of(stream, list)]
    }

    /// The narrowest.
    pub fn list_of(stream: &Stream, list: Option<&str>) -> Scope {
        let list = list.unwrap_or(&stream.campaign);
        Scope::List { tenant: (*stream.tenant).into(), list: list.into() }
    }
}

/// `global`, `tenant:NAME`, `list:TENANT/LIST`.
impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::Global => f.write_str("global"),
            Scope::Tenant(tenant) => write!(f, "tenant:{tenant}"),
            Scope::List { tenant, list } => write!(f, "list:{tenant}/{list}"),
        }
    }
}

impl FromStr for Scope {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Scope, TextError> {
        let names = |all: &[&str]| all.iter().all(|name| name.len() <= NAME_MAX && !name.chars().any(char::is_control));
        let scope = match text.split_once(':') {
            None if text == "global" => Some(Scope::Global),
            Some(("tenant", tenant)) if names(&[tenant]) => Some(Scope::Tenant(tenant.into())),
            Some(("list", list)) => list
                .split_once('/')
                .filter(|(tenant, list)| !list.is_empty() && names(&[tenant, list]))
                .map(|(tenant, list)| Scope::List { tenant: tenant.into(), list: list.into() }),
            _ => None,
        };
        scope.ok_or(TextError::Scope)
    }
}

/// Longest name of a tenant or list, in octets.
const NAME_MAX: usize = 255;

/// What is none of the words of an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// No scope.
    #[error("a scope is global, tenant:NAME or list:TENANT/LIST")]
    Scope,
    /// No address.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// No domain.
    #[error(transparent)]
    Domain(#[from] DomainError),
    /// No hash.
    #[error("a hash is SHA-256 in 64 hexadecimal digits")]
    Hash,
    /// No reason.
    #[error("a reason is hard-bounce, complaint, unsubscribe or manual")]
    Reason,
}

/// Who is not mailed. Addresses are kept in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// An address.
    Address(Box<str>),
    /// All addresses of a domain.
    Domain(Domain),
    /// An address of which only the SHA-256 is known.
    Hash([u8; 32]),
}

impl Subject {
    /// An address.
    pub fn address(address: &EnvelopeAddress) -> Subject {
        Subject::Address(address.to_string().to_lowercase().into())
    }
}

/// The address, `@DOMAIN`, or `sha256:` and 64 hexadecimal digits.
impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Address(address) => f.write_str(address),
            Subject::Domain(domain) => write!(f, "@{domain}"),
            Subject::Hash(hash) => {
                f.write_str("sha256:")?;
                hash.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
            }
        }
    }
}

impl FromStr for Subject {
    type Err = TextError;

    /// Reads an address, `@DOMAIN`, or a hash with or without `sha256:`.
    fn from_str(text: &str) -> Result<Subject, TextError> {
        if let Some(domain) = text.strip_prefix('@') {
            return Ok(Subject::Domain(domain.parse()?));
        }
        let digits = text.strip_prefix("sha256:");
        if digits.is_some() || text.len() == 64 && !text.contains('@') {
            return hash(digits.unwrap_or(text)).map(Subject::Hash).ok_or(TextError::Hash);
        }
        Ok(Subject::address(&text.parse()?))
    }
}

/// SHA-256 in hexadecimal digits.
fn hash(digits: &str) -> Option<[u8; 32]> {
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    let mut hash = [0; 32];
    if pairs.len() != hash.len() || !rest.is_empty() {
        return None;
    }
    for (octet, [high, low]) in hash.iter_mut().zip(pairs) {
        let digit = |digit: &u8| char::from(*digit).to_digit(16);
        *octet = (digit(high)? * 16 + digit(low)?) as u8;
    }
    Some(hash)
}

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The address failed for good.
    HardBounce,
    /// Its owner called a message spam.
    Complaint,
    /// Its owner left.
    Unsubscribe,
    /// Somebody decided so.
    Manual,
}

impl Reason {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::HardBounce => "hard-bounce",
            Reason::Complaint => "complaint",
            Reason::Unsubscribe => "unsubscribe",
            Reason::Manual => "manual",
        }
    }

    /// All of them.
    pub const ALL: [Reason; 4] = [Reason::HardBounce, Reason::Complaint, Reason::Unsubscribe, Reason::Manual];
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Reason {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Reason, TextError> {
        Reason::ALL.into_iter().find(|reason| reason.as_str() == text).ok_or(TextError::Reason)
    }
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Who.
    pub subject: Subject,
    /// Whose mail.
    pub scope: Scope,
    /// Why.
    pub reason: Reason,
    /// The event that led to it, by its id; empty: none.
    pub evidence: Box<str>,
    /// Who says so.
    pub source: Box<str>,
    /// Since when.
    pub since: Timestamp,
    /// Until when; `None`: for good.
    pub until: Option<Timestamp>,
}

impl fmt::Display for Entry {
    /// Why mail to it is refused, for events.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "suppressed: {} by {}, since {}", self.reason.as_str(), self.source, self.since)?;
        match &self.scope {
            Scope::Global => Ok(()),
            Scope::Tenant(tenant) => write!(f, ", for tenant {tenant:?}"),
            Scope::List { tenant, list } => write!(f, ", for list {list:?} of tenant {tenant:?}"),
        }
    }
}

impl Entry {
    /// Whether it holds at this time.
    pub fn holds(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}
