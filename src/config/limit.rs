//! `[[limit]]`: what may go where at once, and how fast.

use serde::{Deserialize, Serialize};

use super::check::Check;
use super::{ByteRate, Config, RateLimit, Scope};
use crate::mail::Domain;

/// One `[[limit]]`: everything that matches shares what it allows. Several may apply at
/// once; then all of them hold.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitConfig {
    /// What it is about; nothing named: all mail.
    #[serde(rename = "match")]
    pub scope: Scope,
    /// What has a limit of its own for each of its values, instead of all that match sharing one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub each: Vec<Dimension>,
    /// Connections at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// New connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_rate: Option<RateLimit>,
    /// Transactions; one carries one message to one recipient or several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<RateLimit>,
    /// Recipients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipients: Option<RateLimit>,
    /// Octets of content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<ByteRate>,
    /// Recipients in one transaction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipients_per_transaction: Option<u32>,
    /// Messages on one connection before it is closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages_per_connection: Option<u32>,
}

/// What mail and its way may be told apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dimension {
    /// A family of sites.
    Provider,
    /// A set of MX hosts.
    Site,
    /// What stands right of the `@`.
    Domain,
    /// A local address.
    Source,
    /// Sources that share mail.
    Pool,
    /// Who sends.
    Tenant,
    /// What share it competes for.
    Class,
    /// What it belongs to.
    Campaign,
}

impl Dimension {
    /// The name in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Dimension::Provider => "provider",
            Dimension::Site => "site",
            Dimension::Domain => "domain",
            Dimension::Source => "source",
            Dimension::Pool => "pool",
            Dimension::Tenant => "tenant",
            Dimension::Class => "class",
            Dimension::Campaign => "campaign",
        }
    }

    /// Whether it tells mail apart that may ride on one connection.
    pub fn is_of_mail(self) -> bool {
        match self {
            Dimension::Domain | Dimension::Tenant | Dimension::Class | Dimension::Campaign => true,
            Dimension::Provider | Dimension::Site | Dimension::Source | Dimension::Pool => false,
        }
    }
}

/// The keys that limit something.
const LIMITS: [&str; 7] = [
    "connections",
    "connection_rate",
    "messages",
    "recipients",
    "bytes",
    "recipients_per_transaction",
    "messages_per_connection",
];

impl Scope {
    /// The dimensions in which it names something.
    pub fn named(&self) -> Vec<Dimension> {
        let all = [
            (Dimension::Provider, self.provider.is_some()),
            (Dimension::Site, self.site.is_some()),
            (Dimension::Domain, self.domain.is_some()),
            (Dimension::Source, self.source.is_some()),
            (Dimension::Pool, self.pool.is_some()),
            (Dimension::Tenant, self.tenant.is_some()),
            (Dimension::Class, self.class.is_some()),
            (Dimension::Campaign, self.campaign.is_some()),
        ];
        all.into_iter().filter(|(_, named)| *named).map(|(dimension, _)| dimension).collect()
    }
}

impl Check<'_> {
    pub(super) fn limits(&mut self, config: &Config) {
        for (index, limit) in config.limit.iter().enumerate() {
            let key = |name: &str| format!("limit[{index}].{name}");
            self.limit_scope(limit, &key);
            self.limit_values(config, limit, &key, index);
        }
    }

    fn limit_scope(&mut self, limit: &LimitConfig, key: &dyn Fn(&str) -> String) {
        if let Some(domain) = limit.scope.domain.as_ref().filter(|domain| domain.parse::<Domain>().is_err()) {
            let why = format!("{domain:?} matches nothing");
            self.error(&key("match.domain"), why, "write a domain, as in \"example.com\"");
        }
        let named = limit.scope.named();
        for (place, dimension) in limit.each.iter().enumerate() {
            let key = key(&format!("each[{place}]"));
            let name = dimension.as_str();
            if limit.each[..place].contains(dimension) {
                self.warning(&key, format!("{name} is there twice"), "remove one of the two");
            } else if named.contains(dimension) {
                self.warning(&key, format!("this row is about one {name} only"), "remove it here");
            }
        }
        let by_source = named.contains(&Dimension::Source) || limit.each.contains(&Dimension::Source);
        let of_mail = named.iter().chain(&limit.each).find(|dimension| dimension.is_of_mail());
        if let Some(dimension) = of_mail.filter(|_| by_source) {
            let of_time = [
                ("messages", limit.messages.is_some()),
                ("recipients", limit.recipients.is_some()),
                ("bytes", limit.bytes.is_some()),
            ];
            for (name, _) in of_time.into_iter().filter(|(_, there)| *there) {
                let what = dimension.as_str();
                let why =
                    format!("what one source may send of a {what} would hold that mail at all sources of its pool");
                let remedy = format!("name the pool instead of the source, or leave out the {what}");
                self.error(&key(name), why, remedy);
            }
        }
        if let Some(dimension) = of_mail {
            let of_connections = [
                ("connections", limit.connections.is_some()),
                ("connection_rate", limit.connection_rate.is_some()),
                ("messages_per_connection", limit.messages_per_connection.is_some()),
            ];
            for (name, _) in of_connections.into_iter().filter(|(_, there)| *there) {
                let why = format!("a connection carries mail of more than one {}", dimension.as_str());
                self.error(&key(name), why, "put it into a row about provider, site, source or pool");
            }
        }
    }

    fn limit_values(&mut self, config: &Config, limit: &LimitConfig, key: &dyn Fn(&str) -> String, index: usize) {
        if !LIMITS.iter().any(|name| self.places.has(&key(name))) {
            self.error(&format!("limit[{index}]"), "it limits nothing", format!("set one of: {}", LIMITS.join(", ")));
        }
        let delivery = &config.delivery;
        for (name, value, most, of_all) in [
            ("connections", limit.connections, delivery.connections_max, "connections_max"),
            (
                "recipients_per_transaction",
                limit.recipients_per_transaction,
                delivery.recipients_per_transaction,
                "recipients_per_transaction",
            ),
            (
                "messages_per_connection",
                limit.messages_per_connection,
                delivery.messages_per_connection as usize,
                "messages_per_connection",
            ),
        ] {
            let Some(value) = value else { continue };
            self.not_zero(&key(name), value.into());
            if value as usize > most {
                let remedy = format!("lower it, or raise delivery.{of_all} ({most})");
                self.warning(&key(name), format!("{value} can never be reached"), remedy);
            }
        }
        for (name, rate) in [
            ("connection_rate", limit.connection_rate),
            ("messages", limit.messages),
            ("recipients", limit.recipients),
            ("bytes", limit.bytes.map(|rate| rate.0)),
        ] {
            if rate.is_some_and(|rate| rate.burst == Some(0)) {
                self.error(&key(name), "a burst of 0 lets nothing through", "set a burst of at least 1, or none");
            }
        }
    }
}
