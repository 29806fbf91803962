//! What routing answers: hops, the site they form, or why there are none.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use rand::Rng;
use rand::seq::SliceRandom;

use crate::clock::Instant;
use crate::config::{Credentials, TlsPolicy};
use crate::mail::{Domain, Failure};

/// Where mail for some host goes, while it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// What limits and connections belong to.
    pub site: Site,
    /// The hosts to try, best preference first; never empty.
    pub hops: Vec<Hop>,
    /// Ask again after this time: 1 s to 1 day ahead, from the records' TTLs.
    pub valid_until: Instant,
    /// What a session must have.
    pub tls: TlsPolicy,
    /// For AUTH; only at fixed routes.
    pub credentials: Option<Arc<Credentials>>,
    /// From a `[[route]]`, so that private addresses are meant and hops are tried as written.
    pub fixed: bool,
    /// The family of sites, as a metric label: `default`, or `relay` for fixed routes.
    pub provider: &'static str,
}

/// One host to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// The host; its name is also what a certificate must name.
    pub host: HopHost,
    /// TCP port.
    pub port: u16,
    /// Lower is better (RFC 5321 §5.1); the place in the list at fixed routes.
    pub preference: u16,
}

/// A host by name or by address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HopHost {
    /// To be looked up.
    Domain(Domain),
    /// Given as such.
    Address(IpAddr),
}

/// The set of hosts that share limits and connections: all domains behind one MX set meet here. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Site(Arc<str>);

/// Why there is nowhere to send to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoRoute {
    /// Nobody could say. The same question before `until` would get the same answer.
    Later {
        /// For the outcome: deferred.
        failure: Failure,
        /// When to ask again.
        until: Instant,
    },
    /// DNS says for certain that there is no way.
    Never {
        /// For the outcome: failed.
        failure: Failure,
        /// How long that may be believed without asking again.
        until: Instant,
    },
}

impl Route {
    /// Indices into `hops` in the order to try them: by preference, in random order among equals so that load spreads
    /// (RFC 5321 §5.1); as written at fixed routes.
    pub fn order(&self, rng: &mut impl Rng) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.hops.len()).collect();
        if !self.fixed {
            order.shuffle(rng);
            order.sort_by_key(|index| self.hops[*index].preference);
        }
        order
    }
}

impl NoRoute {
    /// What two hops without addresses say together: `Later` beats `Never`, and of two equals the one that holds
    /// shorter stays.
    pub fn or(self, other: NoRoute) -> NoRoute {
        match (&self, &other) {
            (NoRoute::Later { .. }, NoRoute::Never { .. }) => self,
            (NoRoute::Never { .. }, NoRoute::Later { .. }) => other,
            (NoRoute::Later { .. }, NoRoute::Later { .. }) | (NoRoute::Never { .. }, NoRoute::Never { .. }) => {
                if other.until() < self.until() { other } else { self }
            }
        }
    }

    /// How long the answer holds.
    pub fn until(&self) -> Instant {
        match self {
            NoRoute::Later { until, .. } | NoRoute::Never { until, .. } => *until,
        }
    }

    /// The failure in either case.
    pub fn failure(&self) -> &Failure {
        match self {
            NoRoute::Later { failure, .. } | NoRoute::Never { failure, .. } => failure,
        }
    }
}

impl Site {
    /// The site of these hosts, best preference first: equals sorted and joined by commas, preferences by bars, so that
    /// nobody who publishes the same hosts in another order changes where others' mail goes. The TLS policy is part of
    /// it: connections made under one must never carry what was meant for another.
    pub(super) fn of_hosts<'a>(hosts: impl Iterator<Item = (u16, &'a str)>, tls: TlsPolicy) -> Site {
        let mut hosts: Vec<(u16, &str)> = hosts.collect();
        hosts.sort_unstable();
        hosts.dedup_by_key(|(_, name)| *name);
        let mut text = String::with_capacity(hosts.iter().map(|(_, name)| name.len() + 1).sum());
        let mut before = None;
        for (preference, name) in hosts {
            match before {
                None => {}
                Some(same) if same == preference => text.push(','),
                Some(_) => text.push('|'),
            }
            text.push_str(name);
            before = Some(preference);
        }
        text.push_str(&policy(tls));
        Site(text.into())
    }

    /// The site of an address literal.
    pub(super) fn literal(ip: IpAddr, port: u16, tls: TlsPolicy) -> Site {
        Site(format!("{}:{port}{}", HopHost::Address(ip), policy(tls)).into())
    }

    /// The site of a fixed route. Policy and account are part of it: connections made under one must never carry what
    /// was meant for another.
    pub(super) fn relay(hops: &[Hop], tls: TlsPolicy, username: Option<&str>) -> Site {
        // In the order written, which is the order they are tried in.
        let names: Vec<String> = hops.iter().map(|hop| format!("{}:{}", hop.host, hop.port)).collect();
        let account = username.map(|name| format!(";user={name}")).unwrap_or_default();
        Site(format!("{};tls={tls:?}{account}", names.join(",")).to_ascii_lowercase().into())
    }

    /// The site as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a site's name says of its policy: nothing when it is the usual one.
fn policy(tls: TlsPolicy) -> String {
    match tls {
        TlsPolicy::Opportunistic => String::new(),
        TlsPolicy::None | TlsPolicy::Required | TlsPolicy::Verified => format!(";tls={tls:?}").to_ascii_lowercase(),
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A domain as it is, an address as a literal: `[192.0.2.1]`, `[2001:db8::1]`.
impl fmt::Display for HopHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HopHost::Domain(domain) => domain.fmt(f),
            HopHost::Address(ip) => write!(f, "[{ip}]"),
        }
    }
}
