//! The envelope: everything about a message that is not its content.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::address::{EnvelopeAddress, ReversePath};
use super::receipt::Keyed;
use crate::clock::Timestamp;

/// What the queue needs to know of a message. Never changes once accepted; what becomes of each recipient is kept apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Where reports go; null for reports themselves.
    pub reverse_path: ReversePath,
    /// In the order given; the index of a recipient here names it everywhere else. At least one.
    pub recipients: Vec<Recipient>,
    /// Whose turn it is when streams share a site.
    pub stream: Stream,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// Not attempted before this time; `accepted_at` when the client asked for nothing.
    pub not_before: Timestamp,
    /// Recipients still waiting at this time are given up.
    pub expires_at: Timestamp,
    /// The client said SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// The sender is told when recipients still wait at this time (RFC 2852 §4, mode N); `None`: no such wish.
    pub delay_report_at: Option<Timestamp>,
    /// The content holds octets above 127.
    pub eight_bit: bool,
    /// How much of the message a failure report returns (RFC 3461 §4.3); `None`: not said.
    pub ret: Option<Ret>,
    /// The client's name for the envelope, xtext-encoded as given (RFC 3461 §4.4).
    pub envid: Option<Box<str>>,
    /// The list it goes to, in the client's own terms: whoever unsubscribes leaves this list. `None`: it goes to none.
    pub list: Option<Box<str>>,
    /// Free words for the events, from X-Posthaste-Tags.
    pub tags: Vec<Box<str>>,
    /// How the client calls the submission this message is the first of; `None`: not at all.
    pub key: Option<Box<Keyed>>,
}

impl Envelope {
    /// Stands in for an envelope that cannot be read: no sender, no recipients.
    pub fn unreadable(stream: Stream, accepted_at: Timestamp) -> Envelope {
        Envelope {
            reverse_path: ReversePath::Null,
            recipients: Vec::new(),
            stream,
            accepted_at,
            not_before: accepted_at,
            expires_at: accepted_at,
            delay_report_at: None,
            smtputf8: false,
            eight_bit: false,
            ret: None,
            envid: None,
            list: None,
            tags: Vec::new(),
            key: None,
        }
    }

    /// Whether a transaction with these recipients needs SMTPUTF8 at the receiver: for an address in it, or for octets
    /// above 127 in the header section (RFC 6531 §3.1). In the body they need 8BITMIME only.
    pub fn needs_smtputf8(&self, recipients: &[&Recipient], content: &[u8]) -> bool {
        let from = self.reverse_path.address().is_some_and(EnvelopeAddress::needs_smtputf8);
        let header = || self.eight_bit && !content[..super::header::section_len(content)].is_ascii();
        self.smtputf8 && (from || recipients.iter().any(|r| r.address.needs_smtputf8()) || header())
    }

    /// How long after acceptance it is given up.
    pub fn lifetime(&self) -> Duration {
        self.expires_at.since(self.accepted_at)
    }
}

/// One recipient: the unit of delivery and of state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// Where to.
    pub address: EnvelopeAddress,
    /// Which reports the sender wants (RFC 3461 §4.1); `None`: not said, which means failures.
    pub notify: Option<Notify>,
    /// The address the message was first sent to, `type;xtext` as given (RFC 3461 §4.2).
    pub orcpt: Option<Box<str>>,
}

impl Recipient {
    /// A recipient without DSN parameters.
    pub fn new(address: EnvelopeAddress) -> Recipient {
        Recipient { address, notify: None, orcpt: None }
    }
}

/// The NOTIFY parameter; all false is `NEVER`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Notify {
    /// `SUCCESS`.
    pub success: bool,
    /// `FAILURE`.
    pub failure: bool,
    /// `DELAY`.
    pub delay: bool,
}

/// The RET parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ret {
    /// The whole message.
    Full,
    /// Its headers.
    Hdrs,
}

/// What share of a site's capacity a message competes for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Somebody waits for it: password resets, receipts.
    #[default]
    Transactional,
    /// Nobody waits for it: newsletters, campaigns.
    Bulk,
    /// Our own reports.
    System,
}

impl Class {
    /// All classes, in order of their numbers.
    pub const ALL: [Class; 3] = [Class::Transactional, Class::Bulk, Class::System];

    /// The name in configuration, headers, metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Transactional => "transactional",
            Class::Bulk => "bulk",
            Class::System => "system",
        }
    }

    /// The class of that name.
    pub fn parse(name: &str) -> Option<Class> {
        Class::ALL.into_iter().find(|class| class.as_str().eq_ignore_ascii_case(name))
    }
}

/// The unit of fairness, pacing, pausing and counting. Empty texts mean: not said. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Stream {
    /// Who sends, in the client's own terms.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub tenant: Arc<str>,
    /// What share it competes for.
    pub class: Class,
    /// What it belongs to, in the client's own terms.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub campaign: Arc<str>,
}
