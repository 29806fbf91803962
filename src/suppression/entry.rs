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

    /// That of a tenant or its list, by names that people give. `None`: one of them is none.
    pub(super) fn named(tenant: &str, list: Option<&str>) -> Option<Scope> {
        let is_name = |name: &str| name.len() <= NAME_MAX && !name.chars().any(char::is_control);
        match list {
            None => is_name(tenant).then(|| Scope::Tenant(tenant.into())),
            Some(list) => (is_name(tenant) && is_name(list) && !list.is_empty())
                .then(|| Scope::List { tenant: tenant.into(), list: list.into() }),
        }
    }

    /// Whose it is; `None`: everybody's.
    pub fn tenant(&self) -> Option<&str> {
        match self {
            Scope::Global => None,
            Scope::Tenant(tenant) | Scope::List { tenant, .. } => Some(tenant),
        }
    }
}

/// `global`, `tenant:NAME`, `list:TENANT/LIST`. A slash in the name of a list's tenant is `%2F`, a percent sign `%25`.
impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::Global => f.write_str("global"),
            Scope::Tenant(tenant) => write!(f, "tenant:{tenant}"),
            Scope::List { tenant, list } if tenant.contains(['/', '%']) => {
                write!(f, "list:{}/{list}", tenant.replace('%', "%25").replace('/', "%2F"))
            }
            Scope::List { tenant, list } => write!(f, "list:{tenant}/{list}"),
        }
    }
}

impl FromStr for Scope {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Scope, TextError> {
        let scope = match text.split_once(':') {
            None if text == "global" => Some(Scope::Global),
            Some(("tenant", tenant)) => Scope::named(tenant, None),
            Some(("list", list)) => list
                .split_once('/')
                .and_then(|(tenant, list)| Scope::named(&tenant.replace("%2F", "/").replace("%25", "%"), Some(list))),
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
