//! Choose: where mail for a host goes now.
//!
//! The promise: what DNS says is followed to the letter (RFC 5321 §5.1, RFC 7505), what it does not say for certain is
//! never taken for a no, and nothing here ever sees a message.
//!
//! 1. A fixed `[[route]]` that matches wins (`fixed`).
//! 2. An address literal goes where it says.
//! 3. Otherwise the MX records, or the domain itself if it has none (`mx`), asked through a caching resolver (`dns`,
//!    over sockets of our own: `udp`, by a short way if that will do: `quick`).
//!
//! By whose address mail leaves is another question, which the stream answers and not the host: `egress`.
//!
//! The result is a [`Route`]: hops in order of preference, and the [`Site`] they form together, which is what limits
//! and connections belong to. The addresses of a hop are looked up only when it is that hop's turn; those in private
//! and other special networks are left out (`special`).

mod dns;
mod egress;
mod fixed;
mod mx;
#[doc(hidden)]
pub mod probe;
mod quick;
mod route;
mod special;
#[cfg(test)]
mod tests;
mod udp;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

pub use dns::{DnsError, MxAnswer, NameTable, Said, resolver};
pub use egress::{Egress, NoAddress, Pool, PoolId, Source, SourceId};
pub use fixed::RoutingError;
pub use route::{Hop, HopHost, NoRoute, Route, Site};

use crate::clock::Clock;
use crate::config::{DeliveryConfig, DnsConfig, RouteConfig, TlsPolicy};
use crate::mail::{AddressHost, Blame, Domain, EnhancedCode, Failure};

/// Addresses of one hop that are used at most; Postfix stops at 5 for all hops together.
const ADDRESSES_MAX: usize = 16;

/// A route is asked for again after this long at most.
const VALID_MAX: Duration = Duration::from_secs(86_400);

/// Knows where mail goes. A cheap handle on shared state.
#[derive(Clone)]
pub struct Router {
    shared: Arc<Shared>,
}

struct Shared {
    dns: dns::Dns,
    fixed: Vec<fixed::FixedRoute>,
    port: u16,
    allow_loopback: bool,
    tls: TlsPolicy,
    /// Our own name, if we are to know ourselves among a domain's hosts.
    hostname: Option<Domain>,
    clock: Clock,
}

impl Router {
    /// Reads the fixed routes (and the password files they name) and prepares the resolver. Asks nothing yet.
    ///
    /// # Errors
    /// A `[[route]]` that makes no sense, or the system's resolver configuration cannot be read.
    pub fn new(dns: &DnsConfig, delivery: &DeliveryConfig, routes: &[RouteConfig]) -> Result<Router, RoutingError> {
        Router::with_dns(dns::Dns::new(dns)?, delivery, routes)
    }

    /// The same, asking `table` instead of the DNS: for simulations.
    ///
    /// # Errors
    /// A `[[route]]` that makes no sense.
    pub fn simulated(
        dns: &DnsConfig,
        delivery: &DeliveryConfig,
        routes: &[RouteConfig],
        table: Arc<dyn NameTable>,
    ) -> Result<Router, RoutingError> {
        Router::with_dns(dns::Dns::simulated(dns, table), delivery, routes)
    }

    fn with_dns(dns: dns::Dns, delivery: &DeliveryConfig, routes: &[RouteConfig]) -> Result<Router, RoutingError> {
        let fixed =
            routes.iter().map(|route| fixed::FixedRoute::read(route, delivery.tls)).collect::<Result<_, _>>()?;
        let shared = Shared {
            dns,
            fixed,
            port: delivery.port,
            allow_loopback: delivery.allow_loopback,
            tls: delivery.tls,
            hostname: None,
            clock: Clock,
        };
        Ok(Router { shared: Arc::new(shared) })
    }

    /// Makes the router know our own name: where it stands among a domain's MX hosts, only better ones are tried
    /// (RFC 5321 §5.1). Call it before the handle is shared.
    pub fn with_hostname(mut self, hostname: &Domain) -> Router {
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.hostname = Some(hostname.clone());
        }
        self
    }

    /// Where mail for `host` goes now. The first `[[route]]` that matches wins, else an address literal means itself,
    /// else DNS decides.
    ///
    /// Look-ups of one name at one time are not joined: the caller asks once a domain.
    ///
    /// # Errors
    /// [`NoRoute::Never`] only where DNS says for certain that the host takes no mail.
    ///
    /// # Cancel safety
    /// Safe: what was learned stays in the resolver's cache.
    pub async fn route(&self, host: &AddressHost) -> Result<Arc<Route>, NoRoute> {
        let now = self.shared.clock.instant();
        if let Some(fixed) = self.shared.fixed.iter().find(|fixed| fixed.matches(host)) {
            return Ok(Arc::new(fixed.route(now + VALID_MAX)));
        }
        match host {
            AddressHost::Literal(ip) => Ok(Arc::new(self.literal(*ip))),
            AddressHost::Domain(domain) => self.by_mx(domain).await.map(Arc::new),
        }
    }

    /// The addresses of one hop of `route`, IPv6 and IPv4 by turns, at most 16. Special networks are left out unless
    /// the route is fixed or `allow_loopback` is set. Never empty.
    ///
    /// # Errors
    /// [`NoRoute::Later`] if an address may exist that could not be learned, or a relay of ours has none;
    /// [`NoRoute::Never`] if this hop has none. A route is hopeless only if every hop says `Never`: see [`NoRoute::or`].
    ///
    /// # Cancel safety
    /// Safe, as [`Router::route`].
    pub async fn addresses(&self, route: &Route, hop: &Hop) -> Result<Vec<SocketAddr>, NoRoute> {
        // Why one of the two families is not known, if so.
        let mut unknown = None;
        let found = match &hop.host {
            HopHost::Address(ip) => vec![*ip],
            HopHost::Domain(domain) => {
                let (found, _, missing) = match self.shared.dns.addresses(domain).await {
                    Ok(found) => found,
                    Err(error) => return Err(self.no_address(domain, error, route.fixed)),
                };
                unknown = missing;
                found
            }
        };
        let all = found.len();
        let mut usable: Vec<SocketAddr> = found
            .into_iter()
            .filter(|ip| route.fixed || special::may_be_sent_to(*ip, self.shared.allow_loopback))
            .map(|ip| SocketAddr::new(ip, hop.port))
            .collect();
        usable.truncate(ADDRESSES_MAX);
        match usable.is_empty() {
            false => Ok(usable),
            true => match (unknown, &hop.host) {
                // The family that could not be learned may have a public one.
                (Some(error), HopHost::Domain(domain)) => Err(self.no_address(domain, error, route.fixed)),
                _ => Err(self.only_special(hop, all)),
            },
        }
    }

    fn literal(&self, ip: IpAddr) -> Route {
        let hop = Hop { host: HopHost::Address(ip), port: self.shared.port, preference: 0 };
        Route {
            site: Site::literal(ip, self.shared.port, self.shared.tls),
            hops: vec![hop],
            valid_until: self.shared.clock.instant() + VALID_MAX,
            tls: self.shared.tls,
            credentials: None,
            fixed: false,
            provider: "default",
        }
    }

    async fn by_mx(&self, domain: &Domain) -> Result<Route, NoRoute> {
        let answer = self.shared.dns.mx(domain).await;
        let chosen = match mx::choose(answer) {
            mx::Choice::Hosts(hosts, ttl) => (hosts, ttl),
            // In a box of its own: few need it, and every look-up under way would have room for its two questions.
            mx::Choice::Itself(ttl) => Box::pin(self.implicit(domain, ttl)).await?,
            mx::Choice::None(trouble) => return Err(trouble.into_no_route(domain, self.shared.clock.instant())),
        };
        let (hosts, ttl) = chosen;
        let hosts = self.before_ourselves(domain, hosts, ttl)?;
        Ok(Route {
            site: Site::of_hosts(hosts.iter().map(|host| (host.preference, host.exchange.as_str())), self.shared.tls),
            hops: hosts.into_iter().map(|host| host.into_hop(self.shared.port)).collect(),
            valid_until: self.shared.clock.instant() + ttl,
            tls: self.shared.tls,
            credentials: None,
            fixed: false,
            provider: "default",
        })
    }

    /// The hosts that are better than we are, if we are among them: the others would send the mail back to us.
    fn before_ourselves(
        &self,
        domain: &Domain,
        mut hosts: Vec<mx::MxHost>,
        ttl: Duration,
    ) -> Result<Vec<mx::MxHost>, NoRoute> {
        let Some(own) = &self.shared.hostname else { return Ok(hosts) };
        let ours = hosts.iter().filter(|host| host.exchange == *own).map(|host| host.preference).min();
        if let Some(ours) = ours {
            hosts.retain(|host| host.preference < ours);
        }
        if hosts.is_empty() {
            let text = format!("mail for {domain} loops back to us: {own} is its best mail server");
            let failure = Failure::ours(Blame::Site, EnhancedCode(5, 4, 6), text);
            return Err(NoRoute::Never { failure, until: self.shared.clock.instant() + ttl });
        }
        Ok(hosts)
    }

    /// No MX record: the domain itself is the host, if it has an address (RFC 5321 §5.1).
    async fn implicit(&self, domain: &Domain, ttl: Option<Duration>) -> Result<(Vec<mx::MxHost>, Duration), NoRoute> {
        let (_, address_ttl, _) = self.shared.dns.addresses(domain).await.map_err(|error| {
            let trouble = match error {
                dns::DnsError::NoDomain { ttl } => mx::Trouble::NoDomain { ttl },
                dns::DnsError::NoRecords { ttl } => mx::Trouble::NoHost { ttl },
                dns::DnsError::Unknown { what, wait } => mx::Trouble::Unknown { what, wait },
            };
            trouble.into_no_route(domain, self.shared.clock.instant())
        })?;
        let host = mx::MxHost { exchange: domain.clone(), preference: 0 };
        Ok((vec![host], ttl.unwrap_or(address_ttl).min(address_ttl)))
    }

    fn no_address(&self, host: &Domain, error: dns::DnsError, fixed: bool) -> NoRoute {
        let now = self.shared.clock.instant();
        let text = format!("{host} has no address");
        match error {
            // A relay that is not in DNS is the operator's slip, which must not return anybody's mail.
            dns::DnsError::NoDomain { ttl } | dns::DnsError::NoRecords { ttl } if fixed => {
                NoRoute::Later { failure: Failure::ours(Blame::Site, EnhancedCode(4, 4, 4), text), until: now + ttl }
            }
            dns::DnsError::NoDomain { ttl } | dns::DnsError::NoRecords { ttl } => {
                NoRoute::Never { failure: Failure::ours(Blame::Site, EnhancedCode(5, 4, 4), text), until: now + ttl }
            }
            dns::DnsError::Unknown { what, wait } => NoRoute::Later {
                failure: Failure::ours(
                    Blame::Site,
                    EnhancedCode(4, 4, 3),
                    format!("cannot look up the address of {host}: {what}"),
                ),
                until: now + wait,
            },
        }
    }

    /// All addresses are such as nobody can be reached at from the outside. The owner published that, so it is a no and
    /// not a maybe: `127.0.0.1` is the old way of saying "no mail", and senders should hear of it today rather than in
    /// four days. Exim and Postfix refuse at once, too.
    fn only_special(&self, hop: &Hop, addresses: usize) -> NoRoute {
        let text = format!("none of the {addresses} addresses of {} is public", hop.host);
        NoRoute::Never {
            failure: Failure::ours(Blame::Site, EnhancedCode(5, 4, 4), text),
            until: self.shared.clock.instant() + dns::NEGATIVE_TTL,
        }
    }
}
