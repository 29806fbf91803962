//! `[[source]]`, `[[pool]]`, `[[egress]]`: where mail leaves from.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Credentials, Scope};
use crate::mail::Domain;

/// The source there is when none is configured, and the pool of all streams that no `[[egress]]` sends elsewhere.
pub const DEFAULT: &str = "default";

/// Sources of one pool: whoever takes a message looks at all of them.
pub const POOL_SOURCES_MAX: usize = 250;

/// One `[[source]]`: who we are to a receiver.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// Its name in pools, events, metrics.
    pub name: String,
    /// Addresses to send from: this host's, or with a proxy the proxy's. Empty: whatever the system or proxy chooses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// Name in EHLO; `None`: `hostname`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ehlo: Option<Domain>,
    /// What connects for us.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxyUrl>,
    /// For a SOCKS5 proxy that asks (RFC 1929).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// File whose first line is the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
}

/// One `[[pool]]`: sources that share the mail of some streams.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolConfig {
    /// Its name in `[[egress]]`, events, metrics.
    pub name: String,
    /// Names of sources, each with its weight.
    pub sources: BTreeMap<String, u32>,
}

/// One `[[egress]]`: mail of the streams that match leaves by `pool`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EgressConfig {
    /// Which streams, by tenant, class and campaign.
    #[serde(rename = "match", default)]
    pub scope: Scope,
    /// Where their mail leaves.
    pub pool: String,
}

/// How a proxy is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProxyKind {
    /// SOCKS version 5 (RFC 1928).
    Socks5,
    /// A forwarder that is told by a PROXY header, version 2, where from and where to.
    Haproxy,
}

/// `socks5://IP:PORT` or `haproxy://IP:PORT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProxyUrl {
    /// How it is spoken to.
    pub kind: ProxyKind,
    /// Where it listens.
    pub address: SocketAddr,
}

/// A proxy with what it asks for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Proxy {
    /// Where and how.
    pub url: ProxyUrl,
    /// For SOCKS5.
    pub credentials: Option<Credentials>,
}

impl ProxyKind {
    fn scheme(self) -> &'static str {
        match self {
            ProxyKind::Socks5 => "socks5",
            ProxyKind::Haproxy => "haproxy",
        }
    }
}

impl FromStr for ProxyUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<ProxyUrl, String> {
        let bad = || {
            let form = "\"socks5://IP:PORT\" or \"haproxy://IP:PORT\", as in \"socks5://192.0.2.1:1080\"";
            format!("{text:?} is no proxy; write {form}")
        };
        let (scheme, address) = text.split_once("://").ok_or_else(bad)?;
        let kind = [ProxyKind::Socks5, ProxyKind::Haproxy].into_iter().find(|kind| kind.scheme() == scheme);
        let address: SocketAddr = address.trim_end_matches('/').parse().map_err(|_| bad())?;
        match kind {
            Some(kind) if address.port() != 0 => Ok(ProxyUrl { kind, address }),
            _ => Err(bad()),
        }
    }
}

impl TryFrom<String> for ProxyUrl {
    type Error = String;

    fn try_from(text: String) -> Result<ProxyUrl, String> {
        text.parse()
    }
}

impl From<ProxyUrl> for String {
    fn from(url: ProxyUrl) -> String {
        url.to_string()
    }
}

impl fmt::Display for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.kind.scheme(), self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_url_of_a_proxy() {
        for (text, read) in [
            ("socks5://127.0.0.1:1080", Some("socks5://127.0.0.1:1080")),
            ("haproxy://[::1]:25/", Some("haproxy://[::1]:25")),
            ("socks5://127.0.0.1", None),
            ("socks5://127.0.0.1:0", None),
            ("socks5://proxy.example:1080", None),
            ("socks4://127.0.0.1:1080", None),
            ("127.0.0.1:1080", None),
            ("", None),
        ] {
            let url: Result<ProxyUrl, String> = text.parse();
            assert_eq!(url.ok().map(|url| url.to_string()).as_deref(), read, "{text}");
        }
    }
}
