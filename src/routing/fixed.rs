//! `[[route]]`: next hops that the operator fixed.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::route::{Hop, HopHost, Route, Site};
use crate::clock::Instant;
use crate::config::{Credentials, RouteConfig, TlsPolicy};
use crate::mail::{AddressHost, Domain};

/// Why routing cannot start with this configuration.
#[derive(Debug, thiserror::Error)]
pub enum RoutingError {
    /// `match` is neither a domain, nor `*.domain`, nor `*`.
    #[error("route.match: {0:?} is neither a domain, nor *.domain, nor *")]
    Pattern(String),
    /// A route without relays.
    #[error("route {0:?} names no relay")]
    NoRelay(String),
    /// A relay that is no `HOST:PORT`.
    #[error("route.relay: {0:?} is not HOST:PORT")]
    Relay(String),
    /// The file with the password cannot be read, or its first line is empty.
    #[error("password_file {path:?}")]
    PasswordFile {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A user name without a password file, or the other way round.
    #[error("route {0:?}: username and password_file go together")]
    HalfCredentials(String),
    /// The password would cross the network in the clear.
    #[error("route {0:?}: credentials need tls = \"required\" or \"verified\"")]
    CredentialsInTheClear(String),
    /// A pool names a source that does not exist.
    #[error("there is no source {0:?}")]
    Source(String),
    /// An `[[egress]]` names a pool that does not exist, or a pool has no sources.
    #[error("there is no pool {0:?}, or it has no sources")]
    Pool(String),
    /// The system's resolver configuration cannot be used.
    #[error("resolver: {0}")]
    Resolver(String),
}

/// One `[[route]]`, read.
pub(super) struct FixedRoute {
    pattern: Pattern,
    site: Site,
    hops: Vec<Hop>,
    tls: TlsPolicy,
    credentials: Option<Arc<Credentials>>,
}

enum Pattern {
    Everything,
    Domain(Domain),
    /// `.example.com`: whatever ends so.
    Below(String),
}

impl FixedRoute {
    /// Reads one, and its password file.
    pub(super) fn read(config: &RouteConfig, default_tls: TlsPolicy) -> Result<FixedRoute, RoutingError> {
        let hops: Vec<Hop> =
            config.relay.iter().enumerate().map(|(place, relay)| read_hop(relay, place)).collect::<Result<_, _>>()?;
        if hops.is_empty() {
            return Err(RoutingError::NoRelay(config.pattern.clone()));
        }
        let tls = config.tls.unwrap_or(default_tls);
        let credentials = read_credentials(config)?;
        let safe = matches!(tls, TlsPolicy::Required | TlsPolicy::Verified) || hops.iter().all(is_loopback);
        if credentials.is_some() && !safe {
            return Err(RoutingError::CredentialsInTheClear(config.pattern.clone()));
        }
        let site = Site::relay(&hops, tls, config.username.as_deref());
        Ok(FixedRoute { pattern: read_pattern(&config.pattern)?, site, hops, tls, credentials })
    }

    /// Whether mail for `host` goes this way. A literal is matched by `*` only.
    pub(super) fn matches(&self, host: &AddressHost) -> bool {
        match (&self.pattern, host) {
            (Pattern::Everything, _) => true,
            (Pattern::Domain(ours), AddressHost::Domain(theirs)) => ours == theirs,
            (Pattern::Below(suffix), AddressHost::Domain(theirs)) => theirs.as_str().ends_with(suffix.as_str()),
            (Pattern::Domain(_) | Pattern::Below(_), AddressHost::Literal(_)) => false,
        }
    }

    pub(super) fn route(&self, valid_until: Instant) -> Route {
        Route {
            site: self.site.clone(),
            hops: self.hops.clone(),
            valid_until,
            tls: self.tls,
            credentials: self.credentials.clone(),
            fixed: true,
            provider: "relay",
        }
    }
}

fn read_pattern(text: &str) -> Result<Pattern, RoutingError> {
    let bad = |_| RoutingError::Pattern(text.into());
    match (text, text.strip_prefix("*.")) {
        ("*", _) => Ok(Pattern::Everything),
        (_, Some(domain)) => Ok(Pattern::Below(format!(".{}", domain.parse::<Domain>().map_err(bad)?))),
        (domain, None) => Ok(Pattern::Domain(domain.parse().map_err(bad)?)),
    }
}

fn read_hop(text: &str, place: usize) -> Result<Hop, RoutingError> {
    let bad = || RoutingError::Relay(text.into());
    let preference = u16::try_from(place).map_err(|_| bad())?;
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(Hop { host: HopHost::Address(address.ip()), port: address.port(), preference });
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
    let host = HopHost::Domain(host.parse().map_err(|_| bad())?);
    Ok(Hop { host, port: port.parse().ok().filter(|port| *port != 0).ok_or_else(bad)?, preference })
}

fn is_loopback(hop: &Hop) -> bool {
    match &hop.host {
        HopHost::Address(IpAddr::V4(ip)) => ip.is_loopback(),
        HopHost::Address(IpAddr::V6(ip)) => ip.is_loopback(),
        HopHost::Domain(domain) => domain.as_str() == "localhost",
    }
}

fn read_credentials(config: &RouteConfig) -> Result<Option<Arc<Credentials>>, RoutingError> {
    match (&config.username, &config.password_file) {
        (None, None) => Ok(None),
        (Some(username), Some(path)) => {
            let password =
                read_password(path).map_err(|source| RoutingError::PasswordFile { path: path.clone(), source })?;
            Ok(Some(Arc::new(Credentials { username: username.clone(), password })))
        }
        (Some(_), None) | (None, Some(_)) => Err(RoutingError::HalfCredentials(config.pattern.clone())),
    }
}

pub(super) fn read_password(path: &Path) -> io::Result<String> {
    let text = std::fs::read_to_string(path)?;
    let first = text.lines().next().unwrap_or_default();
    match first.is_empty() {
        true => Err(io::Error::new(io::ErrorKind::InvalidData, "the first line is empty")),
        false => Ok(first.to_owned()),
    }
}
