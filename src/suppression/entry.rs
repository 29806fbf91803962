//! What an entry says.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Evidence;
use crate::clock::Timestamp;
use crate::mail::{AddressHost, Domain, EnvelopeAddress, Stream};

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

    /// What may stand for an address.
    pub fn all_of(address: &EnvelopeAddress) -> Vec<Subject> {
        let domain = match address.host() {
            AddressHost::Domain(domain) => Some(Subject::Domain(domain.clone())),
            AddressHost::Literal(_) => None,
        };
        std::iter::once(Subject::address(address)).chain(domain).collect()
    }
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
    /// As events, files and metrics spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::HardBounce => "hard-bounce",
            Reason::Complaint => "complaint",
            Reason::Unsubscribe => "unsubscribe",
            Reason::Manual => "manual",
        }
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

    /// What a piece of evidence comes to.
    pub(super) fn of(evidence: &Evidence<'_>) -> Entry {
        let Evidence { cause, address, stream, list, evidence, source, at } = evidence;
        let scope = match cause {
            Reason::HardBounce => Scope::Global,
            Reason::Complaint | Reason::Manual => Scope::Tenant((*stream.tenant).into()),
            Reason::Unsubscribe => Scope::list_of(stream, *list),
        };
        Entry {
            subject: Subject::address(address),
            scope,
            reason: *cause,
            evidence: evidence.as_str().into(),
            source: (*source).into(),
            since: *at,
            until: None,
        }
    }
}
