//! Look-ups: a caching stub resolver (hickory's, and a short way to it), and what its many errors mean to us.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::Resolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::{DnsError as Answer, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use tokio::sync::Semaphore;

use super::fixed::RoutingError;
use super::quick::{Quick, Records};
use super::udp::Connections;
use crate::config::DnsConfig;
use crate::mail::Domain;

/// How long a no without an SOA record is believed.
pub(super) const NEGATIVE_TTL: Duration = Duration::from_secs(300);

/// How long after a look-up that failed the next one waits.
const FAILURE_WAIT: Duration = Duration::from_secs(60);

/// Questions at once, each of which has a socket.
const QUESTIONS_MAX: usize = 512;

/// TTLs are believed within these bounds; 0 would have every message ask anew.
pub(super) const TTL_MIN: Duration = Duration::from_secs(1);
pub(super) const TTL_MAX: Duration = Duration::from_secs(86_400);

/// Who is asked, and how long.
pub(super) struct Dns {
    source: Source,
    /// One for each question that may be under way.
    slots: Semaphore,
    timeout: Duration,
}

enum Source {
    Resolver(Box<Quick>),
    Table(Arc<dyn NameTable>),
}

/// Stands in for the DNS in simulations, whose time hickory's cache does not follow.
pub trait NameTable: Send + Sync {
    /// The MX records of a domain.
    fn mx(&self, domain: &Domain) -> Said<MxAnswer>;
    /// The addresses of a host, and how long they hold.
    fn addresses(&self, host: &Domain) -> Said<(Vec<IpAddr>, Duration)>;
}

/// What a [`NameTable`] says, and after how long. Longer than `dns.timeout` means never.
#[derive(Debug, Clone)]
pub struct Said<T> {
    /// How long it takes.
    pub after: Duration,
    /// What it is.
    pub answer: Result<T, DnsError>,
}

/// MX records as they came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MxAnswer {
    /// Preference and name (without trailing dot; `.` for the root).
    pub records: Vec<(u16, String)>,
    /// How long they hold.
    pub ttl: Duration,
}

/// Addresses of a host, how long they hold, and why one family is not among them if that could not be learned.
pub(super) type Addresses = (Vec<IpAddr>, Duration, Option<DnsError>);

/// What a look-up without records means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DnsError {
    /// NXDOMAIN.
    NoDomain {
        /// How long that may be believed.
        ttl: Duration,
    },
    /// The name exists, such records do not.
    NoRecords {
        /// How long that may be believed.
        ttl: Duration,
    },
    /// Anything else: SERVFAIL, REFUSED, time-out, nonsense. Says nothing about the name.
    Unknown {
        /// What happened.
        what: String,
        /// How long until it is worth asking again.
        wait: Duration,
    },
}

/// Who is asked, and how, for those who ask for more than the way.
///
/// # Errors
/// The system names no servers.
pub fn resolver(config: &DnsConfig) -> Result<(ResolverConfig, ResolverOpts), RoutingError> {
    let (servers, system) = if config.nameservers.is_empty() {
        read_system_conf().map_err(|e| RoutingError::Resolver(e.to_string()))?
    } else {
        let servers = config.nameservers.iter().map(|server| {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = server.port();
                connection
            });
            NameServerConfig::new(server.ip(), true, connections.into())
        });
        (ResolverConfig::from_parts(None, Vec::new(), servers.collect()), ResolverOpts::default())
    };
    Ok((servers, options(config, system)))
}

impl Dns {
    /// Prepares; asks nothing.
    pub(super) fn new(config: &DnsConfig) -> Result<Dns, RoutingError> {
        let (servers, options) = resolver(config)?;
        let mut builder = Resolver::builder_with_config(servers.clone(), Connections::default());
        // A try has a tenth of a second at least; nobody waits longer than the operator says.
        let timeout = options.timeout.min(config.timeout);
        *builder.options_mut() = options;
        let hickory = builder.build().map_err(|e| RoutingError::Resolver(e.to_string()))?;
        let resolver = Quick::new(hickory, &servers, timeout, config.cache_entries);
        Ok(Dns::asking(Source::Resolver(Box::new(resolver)), config))
    }

    /// Asks `table` instead of the network.
    pub(super) fn simulated(config: &DnsConfig, table: Arc<dyn NameTable>) -> Dns {
        Dns::asking(Source::Table(table), config)
    }

    fn asking(source: Source, config: &DnsConfig) -> Dns {
        Dns { source, slots: Semaphore::new(QUESTIONS_MAX), timeout: config.timeout }
    }

    /// The MX records of `domain`, through CNAMEs.
    pub(super) async fn mx(&self, domain: &Domain) -> Result<MxAnswer, DnsError> {
        let resolver = match &self.source {
            Source::Resolver(resolver) => resolver,
            Source::Table(table) => return self.hear(table.mx(domain)).await,
        };
        Ok(mx_answer(&self.lookup(resolver, domain, RecordType::MX).await?))
    }

    /// The addresses of `host`, through CNAMEs: IPv6 and IPv4 by turns, never empty, how long they hold, and why one
    /// family is not among them if that could not be learned.
    pub(super) async fn addresses(&self, host: &Domain) -> Result<Addresses, DnsError> {
        let resolver = match &self.source {
            Source::Resolver(resolver) => resolver,
            Source::Table(table) => {
                return self.hear(table.addresses(host)).await.map(|(addresses, ttl)| (addresses, ttl, None));
            }
        };
        let lookup = |record_type| self.lookup(resolver, host, record_type);
        let (v6, v4) = tokio::join!(lookup(RecordType::AAAA), lookup(RecordType::A));
        addresses_of(v6, v4)
    }

    /// Waits for what a table says.
    async fn hear<T>(&self, said: Said<T>) -> Result<T, DnsError> {
        tokio::time::sleep(said.after.min(self.timeout)).await;
        match said.after < self.timeout {
            true => said.answer,
            false => Err(no_answer(self.timeout)),
        }
    }

    async fn lookup(&self, resolver: &Quick, domain: &Domain, record_type: RecordType) -> Result<Records, DnsError> {
        // Waiting for our own turn is no fault of the name server.
        let _slot = self.slots.acquire().await.expect("never closed");
        let unknown = |what: String| DnsError::Unknown { what, wait: FAILURE_WAIT };
        // Ours are checked ASCII names, so this parses; `from_ascii` would also keep underscores.
        let mut name = Name::from_ascii(domain.as_str()).map_err(|e| unknown(e.to_string()))?;
        name.set_fqdn(true);
        // hickory's own time-out is per try, server and transport; this one is what the operator meant.
        match resolver.lookup(name, record_type, self.timeout).await {
            Ok(Ok(lookup)) => Ok(lookup),
            Ok(Err(error)) => Err(meaning(&error)),
            Err(_) => Err(no_answer(self.timeout)),
        }
    }
}

fn no_answer(within: Duration) -> DnsError {
    DnsError::Unknown { what: format!("no answer within {within:?}"), wait: FAILURE_WAIT }
}

pub(super) fn options(config: &DnsConfig, system: ResolverOpts) -> ResolverOpts {
    let mut options = system;
    options.ndots = 0;
    options.use_hosts_file = ResolveHosts::Never;
    options.cache_size = config.cache_entries as u64;
    options.max_active_requests = 1024;
    // Three tries fit into the wait.
    options.timeout = (config.timeout / 3).max(Duration::from_millis(100));
    options.attempts = 2;
    options.positive_max_ttl = Some(TTL_MAX);
    options.negative_max_ttl = Some(TTL_MAX);
    // Which records answer is told from the CNAMEs in between.
    options.preserve_intermediates = true;
    options
}

/// The MX records that were found.
pub(super) fn mx_answer(found: &Records) -> MxAnswer {
    let records = found.records.iter().filter_map(|record| match &record.data {
        RData::MX(mx) => Some((mx.preference, exchange_text(&mx.exchange))),
        _ => None,
    });
    MxAnswer { records: records.collect(), ttl: ttl_of(found) }
}

/// The addresses of both families.
pub(super) fn addresses_of(
    v6: Result<Records, DnsError>,
    v4: Result<Records, DnsError>,
) -> Result<Addresses, DnsError> {
    let ttl = [&v6, &v4].into_iter().flatten().map(ttl_of).min().unwrap_or(NEGATIVE_TTL);
    let found = interleave(ips(&v6), ips(&v4));
    if !found.is_empty() {
        let unknown = [v6, v4].into_iter().filter_map(Result::err);
        return Ok((found, ttl, unknown.into_iter().find(|error| matches!(error, DnsError::Unknown { .. }))));
    }
    let none = || DnsError::NoRecords { ttl: NEGATIVE_TTL };
    Err(both(v6.err().unwrap_or_else(none), v4.err().unwrap_or_else(none)))
}

fn exchange_text(name: &Name) -> String {
    let text = name.to_ascii();
    match text.strip_suffix('.') {
        Some(host) if !host.is_empty() => host.to_owned(),
        _ => text,
    }
}

fn ips(lookup: &Result<Records, DnsError>) -> Vec<IpAddr> {
    let answers = lookup.as_ref().map(|lookup| &lookup.records[..]).unwrap_or_default();
    answers.iter().filter_map(|record| record.data.ip_addr()).collect()
}

fn interleave(v6: Vec<IpAddr>, v4: Vec<IpAddr>) -> Vec<IpAddr> {
    let mut all = Vec::with_capacity(v6.len() + v4.len());
    let (mut v6, mut v4) = (v6.into_iter(), v4.into_iter());
    loop {
        match (v6.next(), v4.next()) {
            (None, None) => return all,
            (six, four) => all.extend(six.into_iter().chain(four)),
        }
    }
}

fn ttl_of(lookup: &Records) -> Duration {
    lookup.ttl.clamp(TTL_MIN, TTL_MAX)
}

/// What AAAA and A without records say together.
fn both(v6: DnsError, v4: DnsError) -> DnsError {
    match (v6, v4) {
        (unknown @ DnsError::Unknown { .. }, _) | (_, unknown @ DnsError::Unknown { .. }) => unknown,
        (DnsError::NoDomain { ttl: a }, DnsError::NoDomain { ttl: b }) => DnsError::NoDomain { ttl: a.min(b) },
        (
            DnsError::NoDomain { ttl: a } | DnsError::NoRecords { ttl: a },
            DnsError::NoDomain { ttl: b } | DnsError::NoRecords { ttl: b },
        ) => DnsError::NoRecords { ttl: a.min(b) },
    }
}

/// Only NXDOMAIN and an empty answer are a no; every other error says nothing about the name.
pub(super) fn meaning(error: &NetError) -> DnsError {
    let unknown = |what: String, wait| DnsError::Unknown { what, wait };
    match error {
        NetError::Dns(Answer::NoRecordsFound(none)) => {
            let said = none.negative_ttl.map(|seconds| Duration::from_secs(seconds.into()));
            let ttl = said.unwrap_or(NEGATIVE_TTL).clamp(TTL_MIN, TTL_MAX);
            match none.response_code {
                ResponseCode::NXDomain => DnsError::NoDomain { ttl },
                ResponseCode::NoError => DnsError::NoRecords { ttl },
                code => unknown(code.to_string(), FAILURE_WAIT),
            }
        }
        NetError::Dns(Answer::ResponseCode(code)) => unknown(code.to_string(), FAILURE_WAIT),
        // Our own limit, not the domain's fault.
        NetError::Busy => unknown("too many look-ups at once".into(), TTL_MIN),
        other => unknown(other.to_string(), FAILURE_WAIT),
    }
}
