//! What comes back: how it finds us, and the listener that takes it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::check::Check;
use super::doors::{DoorLimits, door};
use super::{ByteSize, Config, SmtpConfig};
use crate::mail::{Domain, EnvelopeAddress};

/// The largest message that may come back.
const BACK_MAX: ByteSize = ByteSize(256 << 20);

/// `[feedback]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FeedbackConfig {
    /// The domain of return paths, so that bounces come to us; `None`: the client's own return paths go out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bounce_domain: Option<Domain>,
    /// Others for mail of some senders, by the domain of the envelope sender; for those below it too.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub bounce_domains: BTreeMap<Domain, Domain>,
    /// Whom such a return path names.
    pub verp: VerpNames,
    /// What comes back later than this after the message was accepted is not believed.
    #[serde(with = "humantime_serde")]
    pub token_lifetime: Duration,
    /// Ask receivers for complaints (RFC 9477): `CFBL-Address` and `CFBL-Feedback-ID` on mail whose author's domain signs.
    pub cfbl: bool,
    /// Add `Feedback-ID` for Gmail's postmaster tools to mail whose author's domain signs.
    pub feedback_id: bool,
    /// The secret behind all tokens; `None`: `tokens.key` in `data_dir`. Made if it is not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_key_file: Option<PathBuf>,
}

/// Whom a return path of ours names, and so whom its holder can speak for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VerpNames {
    /// One recipient: each goes in a transaction of its own.
    #[default]
    Recipient,
    /// All recipients of a transaction. What comes back to a path that several share suppresses nobody.
    Transaction,
}

impl Default for FeedbackConfig {
    fn default() -> FeedbackConfig {
        FeedbackConfig {
            bounce_domain: None,
            bounce_domains: BTreeMap::new(),
            verp: VerpNames::default(),
            token_lifetime: Duration::from_secs(30 * 86_400),
            cfbl: false,
            feedback_id: false,
            token_key_file: None,
        }
    }
}

impl FeedbackConfig {
    /// Every domain that stands in our return paths.
    pub fn domains(&self) -> BTreeSet<Domain> {
        self.bounce_domain.iter().chain(self.bounce_domains.values()).cloned().collect()
    }

    /// Where the secret is, for a daemon whose data is in `data_dir`.
    pub fn key_file(&self, data_dir: &Path) -> PathBuf {
        self.token_key_file.clone().unwrap_or_else(|| data_dir.join("tokens.key"))
    }
}

door! {
    /// `[inbound]`. Without a certificate there is no STARTTLS.
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub struct InboundConfig {
        /// Longest line of a message in octets, without CRLF.
        pub line_length_max: usize,
        /// Refused or unknown commands in one session before it is cut off.
        pub errors_max: u32,
        /// A session that this long neither ends a command nor sends 4 KiB is closed.
        #[serde(with = "humantime_serde")]
        pub idle_timeout: Duration,
        /// Who gets mail to postmaster and abuse of our domains; `None`: it is refused.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub postmaster: Option<EnvelopeAddress>,
    }
}

impl Default for InboundConfig {
    fn default() -> InboundConfig {
        InboundConfig {
            listen: Vec::new(),
            max_message_size: ByteSize(10 << 20),
            recipients_max: 100,
            line_length_max: 16 << 10,
            errors_max: 10,
            connections_max: 500,
            connections_per_client_max: 50,
            idle_timeout: Duration::from_secs(120),
            memory_max: ByteSize(64 << 20),
            postmaster: None,
            tls_cert_file: None,
            tls_key_file: None,
        }
    }
}

impl InboundConfig {
    /// The same for the SMTP listener: nobody is trusted, nobody authenticates.
    pub fn smtp(&self) -> SmtpConfig {
        SmtpConfig {
            listen: self.listen.clone(),
            listen_tls: Vec::new(),
            trusted_networks: Vec::new(),
            auth_without_tls: Vec::new(),
            max_message_size: self.max_message_size,
            recipients_max: self.recipients_max,
            line_length_max: self.line_length_max,
            errors_max: self.errors_max,
            connections_max: self.connections_max,
            connections_per_client_max: self.connections_per_client_max,
            idle_timeout: self.idle_timeout,
            memory_max: self.memory_max,
            tls_cert_file: self.tls_cert_file.clone(),
            tls_key_file: self.tls_key_file.clone(),
            ..SmtpConfig::default()
        }
    }
}

/// What is wrong with `[feedback]` and `[inbound]`.
pub(super) fn check(check: &mut Check<'_>, config: &Config) {
    let Config { feedback, inbound, .. } = config;
    check.lasts("feedback.token_lifetime", feedback.token_lifetime);
    if !feedback.token_lifetime.is_zero() && feedback.token_lifetime < Duration::from_secs(5 * 86_400) {
        let why = "receivers try for up to five days (RFC 5321 §4.5.4.1), and what comes back then is not believed";
        check.warning("feedback.token_lifetime", why, "make it longer: 30d");
    }
    if feedback.cfbl && (feedback.domains().is_empty() || config.dkim.is_empty()) {
        let why = "complaints are asked for at an address in bounce_domain, on mail that is signed";
        check.error("feedback.cfbl", why, "set feedback.bounce_domain and a [[dkim]] key, or leave it out");
    }
    if let Some(file) = feedback.token_key_file.as_deref().filter(|file| file.exists()) {
        check.readable("feedback.token_key_file", file, true);
    }
    if feedback.domains().is_empty() != inbound.listen.is_empty() {
        match inbound.listen.is_empty() {
            // Another host of ours may take what comes back.
            true => check.warning(
                "feedback.bounce_domain",
                "bounces are asked for, and nothing here takes them",
                "set inbound.listen, or let another host with the same key take them",
            ),
            false => check.error(
                "inbound.listen",
                "there is no address that mail could come in for",
                "set feedback.bounce_domain, too",
            ),
        }
    }
    let key = |name: &str| format!("inbound.{name}");
    check.door(&key, inbound.limits(), BACK_MAX);
    check.dialogue(&key, inbound.line_length_max, inbound.errors_max, inbound.idle_timeout);
    check.certificate(&key, inbound.tls_cert_file.as_deref(), inbound.tls_key_file.as_deref());
}
