//! What an operator may say, its defaults, its checks.
//!
//! One TOML file becomes plain structs ([`Config`]); every default lives in a `Default` here, and
//! `config/posthaste.toml` shows all of them (a test compares the two). No other module reads the file.
//!
//! [`Config::load`] finds every problem at once: first what is no TOML, or a key or value that does not exist
//! (`load.rs`), then what contradicts itself, the RFCs or the machine (`check.rs`). Each is a [`Problem`] with its line
//! and its remedy. Keys of files are looked at only for being there; whether a DKIM key can sign, the signer says.

mod check;
mod credentials;
mod delivery;
mod doors;
mod egress;
mod hostname;
mod inbound;
mod kept;
mod limit;
mod load;
mod page;
mod pem;
#[doc(hidden)]
pub mod probe;
mod problem;
mod rate;
mod reports;
mod reputation;
mod scope;
mod shaping;
mod size;
mod suppression;
mod unsubscribe;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use check::UNIX_PATH_MAX;
pub use credentials::Credentials;
pub use delivery::{DeliveryConfig, RetryConfig, TimeoutConfig, TlsPolicy};
pub use doors::{Api, ApiConfig, Grpc, GrpcConfig, Http, HttpConfig, SmtpConfig, SubmissionConfig};
pub use egress::{DEFAULT, EgressConfig, POOL_SOURCES_MAX, PoolConfig, Proxy, ProxyKind, ProxyUrl, SourceConfig};
pub use hostname::HostnameError;
pub use inbound::{FeedbackConfig, InboundConfig, VerpNames};
pub use kept::{EventsConfig, LedgerConfig, SpoolConfig};
pub use limit::{Dimension, LimitConfig};
pub use load::{Places, read_table};
pub use page::{PageProblem, PageTemplate, Place};
pub use pem::pem_fault;
pub use problem::{Problem, Severity};
pub use rate::{ByteRate, RateLimit};
pub use reports::{Reporting, ReportsConfig, ReportsSend, StreamReportsConfig};
pub use reputation::{BrakeConfig, WarmupConfig};
pub use scope::{Scope, Subject};
pub use shaping::ShapingConfig;
pub use size::ByteSize;
pub use suppression::{SuppressionConfig, SuppressionScope};
pub use unsubscribe::{Page, UnsubscribeConfig};

use crate::mail::Domain;

/// The whole file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Name in EHLO, Received and reports; `None`: the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Domain>,
    /// Where everything durable lives.
    pub data_dir: PathBuf,
    /// The doors.
    pub submission: SubmissionConfig,
    /// The durable log of messages.
    pub spool: SpoolConfig,
    /// Metrics, health and control.
    pub admin: AdminConfig,
    /// Look-ups.
    pub dns: DnsConfig,
    /// Sessions to receivers.
    pub delivery: DeliveryConfig,
    /// When to try again, when to give up.
    pub retry: RetryConfig,
    /// What senders hear of their mail.
    pub reports: ReportsConfig,
    /// How what comes back finds us.
    pub feedback: FeedbackConfig,
    /// The listener for what comes back.
    pub inbound: InboundConfig,
    /// How recipients leave lists.
    pub unsubscribe: UnsubscribeConfig,
    /// The log of what happened.
    pub events: EventsConfig,
    /// Facts that outlive messages.
    pub ledger: LedgerConfig,
    /// Who is not mailed any more.
    pub suppression: SuppressionConfig,
    /// What is known of receivers.
    pub shaping: ShapingConfig,
    /// What keeps complaints and unknown users down.
    pub brake: BrakeConfig,
    /// Sources that earn their reputation.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warmup: Vec<WarmupConfig>,
    /// Fixed next hops; first match wins.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub route: Vec<RouteConfig>,
    /// Who we are to receivers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source: Vec<SourceConfig>,
    /// Sources that share mail.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pool: Vec<PoolConfig>,
    /// Which stream leaves by which pool; first match wins.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<EgressConfig>,
    /// Signing keys.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dkim: Vec<DkimConfig>,
    /// Limits; all that apply hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub limit: Vec<LimitConfig>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            hostname: None,
            data_dir: "/var/lib/posthaste".into(),
            submission: SubmissionConfig::default(),
            spool: SpoolConfig::default(),
            admin: AdminConfig::default(),
            dns: DnsConfig::default(),
            delivery: DeliveryConfig::default(),
            retry: RetryConfig::default(),
            reports: ReportsConfig::default(),
            feedback: FeedbackConfig::default(),
            inbound: InboundConfig::default(),
            unsubscribe: UnsubscribeConfig::default(),
            events: EventsConfig::default(),
            ledger: LedgerConfig::default(),
            suppression: SuppressionConfig::default(),
            shaping: ShapingConfig::default(),
            brake: BrakeConfig::default(),
            warmup: Vec::new(),
            route: Vec::new(),
            source: Vec::new(),
            pool: Vec::new(),
            egress: Vec::new(),
            dkim: Vec::new(),
            limit: Vec::new(),
        }
    }
}

/// `[admin]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminConfig {
    /// Where /metrics, /healthz, /readyz and the control API listen. Whoever reaches it may steer the queue.
    pub listen: SocketAddr,
}

impl Default for AdminConfig {
    fn default() -> AdminConfig {
        AdminConfig { listen: SocketAddr::from(([127, 0, 0, 1], 2590)) }
    }
}

/// `[dns]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DnsConfig {
    /// `"IP:PORT"`; empty: the system's.
    pub nameservers: Vec<SocketAddr>,
    /// Longest wait for one look-up, retries included.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Names kept in the cache.
    pub cache_entries: usize,
}

impl Default for DnsConfig {
    fn default() -> DnsConfig {
        DnsConfig { nameservers: Vec::new(), timeout: Duration::from_secs(10), cache_entries: 65_536 }
    }
}

/// One `[[route]]`: mail for `match` goes to fixed hosts instead of the domain's MX.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    /// A domain, `*.domain` for all below it, or `*`.
    #[serde(rename = "match")]
    pub pattern: String,
    /// `"HOST:PORT"` or `"IP:PORT"`, tried in order; loopback and private addresses are allowed here.
    pub relay: Vec<String>,
    /// Instead of `delivery.tls`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsPolicy>,
    /// For AUTH at the relay; wants `tls` to be `verified` unless the relay is on loopback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// File whose first line is the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
}

/// One `[[dkim]]` key. Several for one domain: all of them sign.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DkimConfig {
    /// The From domain it signs for, and the `d=` tag.
    pub domain: Domain,
    /// The `s=` tag.
    pub selector: String,
    /// PEM private key, PKCS#8 or PKCS#1: RSA of at least 2048 bits, or Ed25519.
    pub key_file: PathBuf,
}

#[cfg(test)]
mod tests;
