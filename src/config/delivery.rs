//! `[delivery]`: sessions to receivers, and when what did not go through is tried again (`[retry]`).

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ByteSize;

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
