//! How recipients leave lists: the fields that say so, and the page they lead to.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::check::Check;
use super::{Api, ApiConfig, ByteSize, Config, PageTemplate, Problem};

/// Longest [`UnsubscribeConfig::url`]: it stands in a header line with a token behind it.
const URL_MAX: usize = 200;

/// `[unsubscribe]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UnsubscribeConfig {
    /// Where `listen` is reached from outside; the fields are added to bulk mail if it is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Bulk mail that names no list gets the fields too; whoever follows them leaves the tenant's mail of that campaign.
    pub without_list: bool,
    /// A `mailto:` is offered too, if there is a `feedback.bounce_domain` to take it.
    pub mailto: bool,
    /// HTML of the operator's own, with `{{places}}` in it; else the page built in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page_file: Option<PathBuf>,
    /// Addresses the page listens on; empty: none.
    pub listen: Vec<SocketAddr>,
    /// Connections at once.
    pub connections_max: usize,
    /// Connections at once from one address.
    pub connections_per_client_max: usize,
    /// PEM chain; with it every connection is TLS. Without it a proxy in front does that: RFC 8058 wants HTTPS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_cert_file: Option<PathBuf>,
    /// PEM key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key_file: Option<PathBuf>,
}

impl Default for UnsubscribeConfig {
    fn default() -> UnsubscribeConfig {
        UnsubscribeConfig {
            url: None,
            without_list: false,
            mailto: true,
            page_file: None,
            listen: Vec::new(),
            connections_max: 1000,
            connections_per_client_max: 1000,
            tls_cert_file: None,
            tls_key_file: None,
        }
    }
}

/// The page.
#[derive(Debug, Clone, PartialEq)]
pub struct Page;

impl Api for Page {
    const NAME: &'static str = "unsubscribe";
    const PORT: u16 = 0;
}

impl UnsubscribeConfig {
    /// The operator's page as it stands on disk, if there is one. Blocks.
    ///
    /// # Errors
    /// It cannot be read, or is wrong.
    pub fn page(&self) -> Result<Option<PageTemplate>, Vec<Problem>> {
        self.page_file.as_deref().map(PageTemplate::load).transpose()
    }

    /// The same for the listener of requests.
    pub fn api(&self) -> ApiConfig<Page> {
        ApiConfig {
            listen: self.listen.clone(),
            trusted_networks: Vec::new(),
            trusted_users: Vec::new(),
            connections_max: self.connections_max,
            connections_per_client_max: self.connections_per_client_max,
            memory_max: ByteSize(16 << 20),
            unread_timeout: Duration::from_secs(30),
            tls_cert_file: self.tls_cert_file.clone(),
            tls_key_file: self.tls_key_file.clone(),
            ..ApiConfig::default()
        }
    }
}

/// What is wrong with `[unsubscribe]`.
pub(super) fn check(check: &mut Check<'_>, config: &Config) {
    let unsubscribe = &config.unsubscribe;
    let key = |name: &str| format!("unsubscribe.{name}");
    if let Some(url) = &unsubscribe.url {
        let good = |b: u8| b.is_ascii_graphic() && !b"<>,\"?#".contains(&b);
        let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
        if !url.bytes().all(good) || host.is_none_or(|host| host.is_empty() || host.starts_with('/')) {
            check.error(&key("url"), "is no address that a token can follow", "write https://HOST/PATH");
        } else if url.len() > URL_MAX {
            check.error(&key("url"), format!("is longer than {URL_MAX} octets"), "shorten it");
        } else if url.starts_with("http://") {
            let why = "RFC 8058 wants HTTPS; mailbox providers ignore anything else";
            check.warning(&key("url"), why, "put a certificate here or a proxy in front, and write https://");
        }
        if unsubscribe.listen.is_empty() {
            let why = "mail leads there, and nothing here answers";
            check.warning(&key("listen"), why, "set it, or let another host with the same key answer");
        }
    }
    unsubscribe.page().err().into_iter().flatten().for_each(|problem| check.report(problem));
    check.not_zero(&key("connections_max"), unsubscribe.connections_max as u64);
    check.not_zero(&key("connections_per_client_max"), unsubscribe.connections_per_client_max as u64);
    check.certificate(&key, unsubscribe.tls_cert_file.as_deref(), unsubscribe.tls_key_file.as_deref());
}
