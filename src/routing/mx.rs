//! From an MX answer to hosts, without asking anything (RFC 5321 §5.1, RFC 7505).

use std::time::Duration;

use super::dns::{DnsError, MxAnswer};
use super::route::{Hop, HopHost, NoRoute};
use crate::clock::Instant;
use crate::mail::{Blame, Domain, EnhancedCode, Failure, Origin, Reply};

/// Hosts of one domain that are used at most, best preference first, so that no zone can make us hold or try thousands.
pub(super) const HOSTS_MAX: usize = 32;

/// What an MX answer means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// These hosts, best preference first, for so long.
    Hosts(Vec<MxHost>, Duration),
    /// No MX record: the domain itself, if it has an address. How long the absence holds, if that was said.
    Itself(Option<Duration>),
    /// Nobody.
    None(Trouble),
}

/// One usable MX record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MxHost {
    pub(super) exchange: Domain,
    pub(super) preference: u16,
}

/// Why a domain leads nowhere.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    NoDomain {
        ttl: Duration,
    },
    /// Neither MX nor address.
    NoHost {
        ttl: Duration,
    },
    /// RFC 7505.
    NullMx {
        ttl: Duration,
    },
    /// MX records, none of which names a host.
    NoneNamesAHost {
        ttl: Duration,
    },
    Unknown {
        what: String,
        wait: Duration,
    },
}

/// Reads an answer.
pub(super) fn choose(answer: Result<MxAnswer, DnsError>) -> Choice {
    let MxAnswer { records, ttl } = match answer {
        Ok(answer) => answer,
        Err(DnsError::NoDomain { ttl }) => return Choice::None(Trouble::NoDomain { ttl }),
        Err(DnsError::NoRecords { ttl }) => return Choice::Itself(Some(ttl)),
        Err(DnsError::Unknown { what, wait }) => return Choice::None(Trouble::Unknown { what, wait }),
    };
    // RFC 7505 §3: the null MX stands alone. Beside others it means nothing, and `.` is no host name.
    if matches!(records.as_slice(), [(_, only)] if only == ".") {
        return Choice::None(Trouble::NullMx { ttl });
    }
    let mut hosts: Vec<MxHost> = records
        .iter()
        // RFC 5321 §5.1 wants a domain name here. What is none (an address, most often) is skipped, and the rest used.
        .filter_map(|(preference, name)| Some(MxHost { exchange: name.parse().ok()?, preference: *preference }))
        .collect();
    hosts.sort_by(|a, b| (a.preference, &a.exchange).cmp(&(b.preference, &b.exchange)));
    if hosts.len() > 1 {
        let mut seen = std::collections::HashSet::new();
        hosts.retain(|host| seen.insert(host.exchange.clone()));
    }
    hosts.truncate(HOSTS_MAX);
    if hosts.is_empty() { Choice::None(Trouble::NoneNamesAHost { ttl }) } else { Choice::Hosts(hosts, ttl) }
}

impl MxHost {
    pub(super) fn into_hop(self, port: u16) -> Hop {
        Hop { host: HopHost::Domain(self.exchange), port, preference: self.preference }
    }
}

impl Trouble {
    /// In the words of a reply. All of it is the site's: its DNS says so for every address.
    pub(super) fn into_no_route(self, domain: &Domain, now: Instant) -> NoRoute {
        let never = |code, enhanced, text: String, ttl| NoRoute::Never {
            failure: Failure { blame: Blame::Site, origin: Origin::Local, reply: Reply::ours(code, enhanced, text) },
            until: now + ttl,
        };
        match self {
            Trouble::NoDomain { ttl } => {
                never(550, EnhancedCode(5, 1, 2), format!("the domain {domain} does not exist"), ttl)
            }
            Trouble::NoHost { ttl } => {
                never(550, EnhancedCode(5, 4, 4), format!("{domain} has neither an MX record nor an address"), ttl)
            }
            // RFC 7505 §4.2.
            Trouble::NullMx { ttl } => {
                never(556, EnhancedCode(5, 1, 10), format!("{domain} does not accept mail (null MX)"), ttl)
            }
            Trouble::NoneNamesAHost { ttl } => {
                never(550, EnhancedCode(5, 4, 4), format!("no MX record of {domain} names a host"), ttl)
            }
            Trouble::Unknown { what, wait } => NoRoute::Later {
                failure: Failure::ours(
                    Blame::Site,
                    EnhancedCode(4, 4, 3),
                    format!("cannot look up the mail servers of {domain}: {what}"),
                ),
                until: now + wait,
            },
        }
    }
}
