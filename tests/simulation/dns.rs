//! The names of the world: what each says, when, and when nobody knows.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use posthaste::clock::Timestamp;
use posthaste::mail::Domain;
use posthaste::routing::{DnsError, MxAnswer, Said};

use crate::receiver::habits::Window;

/// How long everything holds.
const TTL: Duration = Duration::from_secs(1800);

/// What a domain's MX records say.
#[derive(Debug, Clone)]
pub enum Mail {
    /// These hosts, best preference first.
    Hosts(Vec<String>),
    /// The first, and from then on the second.
    Moves(Vec<String>, Timestamp, Vec<String>),
    /// No MX: the domain is its own host.
    Itself(IpAddr),
    /// RFC 7505.
    NullMx,
    /// NXDOMAIN.
    Nobody,
}

/// What is wrong with a domain's name servers for a while.
#[derive(Debug, Clone)]
pub enum Trouble {
    ServFail(Window),
    Silent(Window),
}

/// All names there are.
#[derive(Debug, Default)]
pub struct Names {
    domains: HashMap<String, (Mail, Option<Trouble>)>,
    hosts: HashMap<String, IpAddr>,
}

impl Names {
    pub fn domain(&mut self, name: &str, mail: Mail, trouble: Option<Trouble>) {
        self.domains.insert(name.into(), (mail, trouble));
    }

    pub fn host(&mut self, name: &str, address: IpAddr) {
        self.hosts.insert(name.into(), address);
    }

    pub fn mx(&self, domain: &Domain, now: Timestamp) -> Said<MxAnswer> {
        let records = |hosts: &[String]| {
            let records = (1..).zip(hosts).map(|(place, host)| (10 * place, host.clone()));
            Ok(MxAnswer { records: records.collect(), ttl: TTL })
        };
        let Some((mail, trouble)) = self.domains.get(domain.as_str()) else {
            return prompt(Err(DnsError::NoDomain { ttl: TTL }));
        };
        let unknown = || Err(DnsError::Unknown { what: "SERVFAIL".into(), wait: Duration::from_secs(60) });
        match trouble {
            Some(Trouble::ServFail(window)) if window.contains(&now) => return prompt(unknown()),
            Some(Trouble::Silent(window)) if window.contains(&now) => {
                return Said { after: Duration::MAX, answer: unknown() };
            }
            _ => {}
        }
        prompt(match mail {
            Mail::Hosts(hosts) => records(hosts),
            Mail::Moves(before, at, _) if now < *at => records(before),
            Mail::Moves(_, _, after) => records(after),
            Mail::Itself(_) => Err(DnsError::NoRecords { ttl: TTL }),
            Mail::NullMx => Ok(MxAnswer { records: vec![(0, ".".into())], ttl: TTL }),
            Mail::Nobody => Err(DnsError::NoDomain { ttl: TTL }),
        })
    }

    pub fn addresses(&self, host: &Domain) -> Said<(Vec<IpAddr>, Duration)> {
        let own = match self.domains.get(host.as_str()) {
            Some((Mail::Itself(address), _)) => Some(address),
            _ => None,
        };
        let found = self.hosts.get(host.as_str()).or(own).copied();
        prompt(found.map(|address| (vec![address], TTL)).ok_or(DnsError::NoDomain { ttl: TTL }))
    }
}

fn prompt<T>(answer: Result<T, DnsError>) -> Said<T> {
    Said { after: Duration::from_millis(15), answer }
}
