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
mod egress;
mod hostname;
mod inbound;
mod limit;
mod load;
#[doc(hidden)]
pub mod probe;
mod problem;
mod rate;
mod reputation;
mod scope;
mod shaping;
mod size;
mod suppression;
mod unsubscribe;

use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use check::UNIX_PATH_MAX;
pub use credentials::Credentials;
pub use egress::{DEFAULT, EgressConfig, POOL_SOURCES_MAX, PoolConfig, Proxy, ProxyKind, ProxyUrl, SourceConfig};
pub use hostname::HostnameError;
pub use inbound::{FeedbackConfig, InboundConfig};
pub use limit::{Dimension, LimitConfig};
pub use load::{Places, read_table};
pub use problem::{Problem, Severity};
pub use rate::{ByteRate, RateLimit};
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

/// `[submission]`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SubmissionConfig {
    /// The SMTP door.
    pub smtp: SmtpConfig,
    /// The gRPC door.
    pub grpc: GrpcConfig,
    /// The HTTP door.
    pub http: HttpConfig,
}

/// `[submission.grpc]`.
pub type GrpcConfig = ApiConfig<Grpc>;

/// `[submission.http]`.
pub type HttpConfig = ApiConfig<Http>;

/// Which door an [`ApiConfig`] is for.
pub trait Api {
    /// Its name: the table is `[submission.NAME]`.
    const NAME: &'static str;
    /// Where it listens unless the operator says otherwise.
    const PORT: u16;
}

/// The gRPC door.
#[derive(Debug, Clone, PartialEq)]
pub struct Grpc;

/// The HTTP door.
#[derive(Debug, Clone, PartialEq)]
pub struct Http;

impl Api for Grpc {
    const NAME: &'static str = "grpc";
    const PORT: u16 = 2580;
}

impl Api for Http {
    const NAME: &'static str = "http";
    const PORT: u16 = 2581;
}

/// A door for requests: the same keys for gRPC and HTTP, which differ in their ports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, bound(deserialize = "A: Api", serialize = ""))]
pub struct ApiConfig<A> {
    /// Addresses to listen on; empty: none.
    pub listen: Vec<SocketAddr>,
    /// Unix sockets to listen on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub listen_unix: Vec<PathBuf>,
    /// Clients that may submit without a token or certificate.
    pub trusted_networks: Vec<IpNet>,
    /// Users that may submit over a Unix socket without a token, by name or number.
    pub trusted_users: Vec<String>,
    /// Largest message accepted, headers included.
    pub max_message_size: ByteSize,
    /// Recipients of one request.
    pub recipients_max: usize,
    /// Connections at once.
    pub connections_max: usize,
    /// Connections at once from one address.
    pub connections_per_client_max: usize,
    /// Memory that requests being received may take together.
    pub memory_max: ByteSize,
    /// A client that for this long takes nothing of the answers it asked for is given up.
    #[serde(with = "humantime_serde")]
    pub unread_timeout: Duration,
    /// PEM chain; with it every TCP connection is TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_cert_file: Option<PathBuf>,
    /// PEM key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key_file: Option<PathBuf>,
    /// PEM certificates of authorities whose client certificates name tenants.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_client_ca_file: Option<PathBuf>,
    #[serde(skip)]
    #[doc(hidden)]
    pub door: PhantomData<A>,
}

impl<A: Api> Default for ApiConfig<A> {
    fn default() -> ApiConfig<A> {
        ApiConfig {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], A::PORT))],
            listen_unix: Vec::new(),
            trusted_networks: loopback(),
            trusted_users: vec!["root".into()],
            max_message_size: ByteSize(50 << 20),
            recipients_max: 1000,
            connections_max: 1000,
            connections_per_client_max: 500,
            memory_max: ByteSize(256 << 20),
            unread_timeout: Duration::from_secs(120),
            tls_cert_file: None,
            tls_key_file: None,
            tls_client_ca_file: None,
            door: PhantomData,
        }
    }
}

/// `[submission.smtp]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SmtpConfig {
    /// Addresses to listen on.
    pub listen: Vec<SocketAddr>,
    /// Addresses where every connection begins with TLS (RFC 8314 §3.3).
    pub listen_tls: Vec<SocketAddr>,
    /// Clients that may submit without AUTH; all others must authenticate.
    pub trusted_networks: Vec<IpNet>,
    /// Clients that may authenticate without TLS: nobody listens on the way.
    pub auth_without_tls: Vec<IpNet>,
    /// Largest message accepted, headers included.
    pub max_message_size: ByteSize,
    /// Recipients in one transaction.
    pub recipients_max: usize,
    /// Longest line of a message in octets, without CRLF (RFC 5322 §2.1.1).
    pub line_length_max: usize,
    /// Commands in one session.
    pub commands_max: u64,
    /// Refused or unknown commands in one session before it is cut off.
    pub errors_max: u32,
    /// Sessions at once, in all.
    pub connections_max: usize,
    /// Sessions at once from one client address.
    pub connections_per_client_max: usize,
    /// A session that this long neither ends a command nor sends 4 KiB is closed.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// Memory that messages being received may take together; beyond it DATA and BDAT get 452.
    pub memory_max: ByteSize,
    /// PEM chain; without it there is no STARTTLS and no `listen_tls`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_cert_file: Option<PathBuf>,
    /// PEM key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key_file: Option<PathBuf>,
    /// PEM certificates of authorities whose client certificates name tenants.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_client_ca_file: Option<PathBuf>,
}

impl Default for SmtpConfig {
    fn default() -> SmtpConfig {
        SmtpConfig {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 2525))],
            listen_tls: Vec::new(),
            trusted_networks: loopback(),
            auth_without_tls: loopback(),
            max_message_size: ByteSize(50 << 20),
            recipients_max: 1000,
            line_length_max: 998,
            commands_max: 1_000_000,
            errors_max: 20,
            connections_max: 1000,
            connections_per_client_max: 500,
            idle_timeout: Duration::from_secs(300),
            memory_max: ByteSize(256 << 20),
            tls_cert_file: None,
            tls_key_file: None,
            tls_client_ca_file: None,
        }
    }
}

fn loopback() -> Vec<IpNet> {
    vec!["127.0.0.0/8".parse().expect("a network"), "::1/128".parse().expect("a network")]
}

/// `[spool]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SpoolConfig {
    /// Size of one log file.
    pub segment_size: ByteSize,
    /// Memory for messages that wait for their first attempt.
    pub cache_size: ByteSize,
    /// Below this much free disk new mail gets 452.
    pub disk_free_min: ByteSize,
    /// Recipients waiting at once; beyond it new mail gets 452.
    pub recipients_max: usize,
}

impl Default for SpoolConfig {
    fn default() -> SpoolConfig {
        SpoolConfig {
            segment_size: ByteSize(64 << 20),
            cache_size: ByteSize(32 << 20),
            disk_free_min: ByteSize(256 << 20),
            recipients_max: 10_000_000,
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

/// `delivery.tls`: what a session to a receiver must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsPolicy {
    /// Never STARTTLS.
    None,
    /// STARTTLS where offered; in the clear where it fails.
    Opportunistic,
    /// TLS or no delivery; any certificate.
    Required,
    /// TLS with a certificate that names the host, from a known authority.
    Verified,
}

/// `[delivery]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeliveryConfig {
    /// Port of the receivers found by MX.
    pub port: u16,
    /// Also deliver to private, loopback and link-local addresses found by DNS or given as literals.
    pub allow_loopback: bool,
    /// What a session must have.
    pub tls: TlsPolicy,
    /// Sessions at once, in all.
    pub connections_max: usize,
    /// Sessions at once to one site.
    pub connections_per_site: usize,
    /// Messages on one connection before it is closed.
    pub messages_per_connection: u32,
    /// Recipients in one transaction.
    pub recipients_per_transaction: usize,
    /// Memory for contents on their way out, together; sessions wait for it.
    pub memory_max: ByteSize,
    /// A session with nothing to send is kept this long.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// Addresses of the source `default`, which sends when no `[[source]]` does; empty: the system chooses.
    pub source_addresses: Vec<IpAddr>,
    /// How long a host whose TLS is broken is spoken to in the clear, where `tls` allows it.
    #[serde(with = "humantime_serde")]
    pub tls_broken_ttl: Duration,
    /// A site of which no host answers is left alone this long at first, doubling to `site_pause_max`.
    #[serde(with = "humantime_serde")]
    pub site_pause_min: Duration,
    /// The longest pause of a site that does not answer.
    #[serde(with = "humantime_serde")]
    pub site_pause_max: Duration,
    /// Waits for each step of a session.
    pub timeout: TimeoutConfig,
}

impl Default for DeliveryConfig {
    fn default() -> DeliveryConfig {
        DeliveryConfig {
            port: 25,
            allow_loopback: false,
            tls: TlsPolicy::Opportunistic,
            connections_max: 1000,
            connections_per_site: 20,
            messages_per_connection: 1000,
            recipients_per_transaction: 100,
            memory_max: ByteSize(256 << 20),
            idle_timeout: Duration::from_secs(5),
            source_addresses: Vec::new(),
            tls_broken_ttl: Duration::from_secs(86_400),
            site_pause_min: Duration::from_secs(60),
            site_pause_max: Duration::from_secs(1800),
            timeout: TimeoutConfig::default(),
        }
    }
}

/// `[delivery.timeout]`: RFC 5321 §4.5.3.2, connect shorter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TimeoutConfig {
    /// TCP connection.
    #[serde(with = "humantime_serde")]
    pub connect: Duration,
    /// The 220 greeting.
    #[serde(with = "humantime_serde")]
    pub greeting: Duration,
    /// EHLO, HELO, AUTH, RSET and QUIT.
    #[serde(with = "humantime_serde")]
    pub ehlo: Duration,
    /// STARTTLS and the handshake.
    #[serde(with = "humantime_serde")]
    pub tls: Duration,
    /// MAIL and RCPT.
    #[serde(with = "humantime_serde")]
    pub envelope: Duration,
    /// The 354 to DATA.
    #[serde(with = "humantime_serde")]
    pub data_start: Duration,
    /// Each block of content to be taken.
    #[serde(with = "humantime_serde")]
    pub data_block: Duration,
    /// The reply to the end of the content.
    #[serde(with = "humantime_serde")]
    pub data_end: Duration,
}

impl Default for TimeoutConfig {
    fn default() -> TimeoutConfig {
        TimeoutConfig {
            connect: Duration::from_secs(30),
            greeting: Duration::from_secs(300),
            ehlo: Duration::from_secs(300),
            tls: Duration::from_secs(60),
            envelope: Duration::from_secs(300),
            data_start: Duration::from_secs(120),
            data_block: Duration::from_secs(180),
            data_end: Duration::from_secs(600),
        }
    }
}

/// `[retry]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetryConfig {
    /// Wait before the second attempt. RFC 5321 §4.5.4.1 asks 30 min; shorter here, for greylisting.
    #[serde(with = "humantime_serde")]
    pub delay_min: Duration,
    /// The longest wait between attempts; each wait is twice the one before, up to this.
    #[serde(with = "humantime_serde")]
    pub delay_max: Duration,
    /// Recipients still waiting this long after acceptance are given up (RFC 5321 §4.5.4.1: 4 to 5 days).
    #[serde(with = "humantime_serde")]
    pub expire_after: Duration,
}

impl Default for RetryConfig {
    fn default() -> RetryConfig {
        RetryConfig {
            delay_min: Duration::from_secs(300),
            delay_max: Duration::from_secs(4 * 3600),
            expire_after: Duration::from_secs(4 * 86_400),
        }
    }
}

/// `[reports]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReportsConfig {
    /// Who asked for it (NOTIFY=DELAY) hears of recipients that have waited so long; zero: never.
    #[serde(with = "humantime_serde")]
    pub delay_after: Duration,
}

impl Default for ReportsConfig {
    fn default() -> ReportsConfig {
        ReportsConfig { delay_after: Duration::from_secs(4 * 3600) }
    }
}

/// `[events]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EventsConfig {
    /// A file of this size is set aside and a new one begun.
    pub rotate_size: ByteSize,
    /// Files set aside that are kept.
    pub keep: usize,
}

impl Default for EventsConfig {
    fn default() -> EventsConfig {
        EventsConfig { rotate_size: ByteSize(256 << 20), keep: 8 }
    }
}

/// `[ledger]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LedgerConfig {
    /// How long a submission's idempotency key is known at least, from its acceptance; longer where the message may live
    /// longer.
    #[serde(with = "humantime_serde")]
    pub keep_keys: Duration,
    /// Memory for reading the index.
    pub cache_size: ByteSize,
}

impl Default for LedgerConfig {
    fn default() -> LedgerConfig {
        LedgerConfig { keep_keys: Duration::from_secs(7 * 86_400), cache_size: ByteSize(32 << 20) }
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
