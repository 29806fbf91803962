//! What an event says.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::mail::{Blame, EnhancedCode, Envelope, MessageId, Notify, Recipient, TlsFacts};

/// Octets that most lines fit into; a buffer that grows with its line is allocated eight times.
const LINE_USUAL: usize = 1024;

/// What happened to a recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The receiver took it. An end.
    Delivered,
    /// An attempt failed; another will follow.
    Deferred,
    /// Refused for good. An end.
    Bounced,
    /// Its time ran out. An end.
    Expired,
    /// Taken back. An end.
    Cancelled,
    /// The suppression list names it. An end.
    Suppressed,
}

impl Kind {
    /// Nothing more happens to the recipient; every recipient has exactly one such event.
    pub fn is_end(self) -> bool {
        match self {
            Kind::Delivered | Kind::Bounced | Kind::Expired | Kind::Cancelled | Kind::Suppressed => true,
            Kind::Deferred => false,
        }
    }
}

/// Milliseconds each stage of an attempt took; connect and tls are those of the session, zero on a reused one.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Timings {
    /// From acceptance, or from when it was due, to the start of the transaction.
    pub queue: u64,
    /// TCP, greeting and EHLO.
    pub connect: u64,
    /// STARTTLS.
    pub tls: u64,
    /// MAIL and RCPT.
    pub envelope: u64,
    /// The content.
    pub data: u64,
    /// From the last octet of the content to the final reply.
    pub reply: u64,
}

/// What the client asked of reports on a recipient (RFC 3461 §4): what may come back after its end is told by it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Dsn {
    /// Which it wants.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notify: Option<Notify>,
    /// The address that the message was first sent to, xtext-encoded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub orcpt: Option<Box<str>>,
    /// The client's name for the envelope, xtext-encoded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub envid: Option<Box<str>>,
}

impl Dsn {
    /// `None`: it asked for nothing, as most do.
    pub fn of(envelope: &Envelope, recipient: &Recipient) -> Option<Dsn> {
        let asked = recipient.notify.is_some() || recipient.orcpt.is_some() || envelope.envid.is_some();
        asked.then(|| Dsn { notify: recipient.notify, orcpt: recipient.orcpt.clone(), envid: envelope.envid.clone() })
    }
}

/// One line of the event log. Fields that do not apply are left out.
#[derive(Debug, Serialize)]
pub struct Event<'a> {
    /// When, RFC 3339 with milliseconds.
    #[serde(serialize_with = "display")]
    pub time: Timestamp,
    /// What.
    pub event: Kind,
    /// Of which message.
    pub message_id: MessageId,
    /// Its recipient.
    pub recipient: &'a str,
    /// Its envelope sender; empty for reports.
    pub sender: &'a str,
    /// Whose.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub tenant: &'a str,
    /// The class.
    pub class: &'static str,
    /// The campaign.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub campaign: &'a str,
    /// The list.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub list: &'a str,
    /// The client's words.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub tags: &'a [Box<str>],
    /// When the message was accepted.
    #[serde(serialize_with = "display")]
    pub accepted_at: Timestamp,
    /// Number of the attempt, from 1; 0 when there was none.
    pub attempt: u32,
    /// When it is due again.
    #[serde(serialize_with = "display_some", skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<Timestamp>,
    /// The site.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub site: &'a str,
    /// The family that the site belongs to; `default`: to none that is known, `relay`: it is a fixed route.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub provider: &'a str,
    /// Our source, by name.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub source: &'a str,
    /// The address it sent from, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_address: Option<std::net::IpAddr>,
    /// The host spoken to.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub mx_host: &'a str,
    /// Its address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mx_address: Option<std::net::SocketAddr>,
    /// Absent: in the clear.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<&'a TlsFacts>,
    /// The reply's code.
    pub code: u16,
    /// The reply's enhanced code, or the general one of its class.
    pub enhanced: EnhancedCode,
    /// The reply's text.
    pub reply: &'a str,
    /// The command that drew the reply; absent when it is our own judgement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<&'static str>,
    /// What the failure belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blame: Option<Blame>,
    /// Of what was delivered: what the client asked of reports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dsn: Option<Dsn>,
    /// Octets sent.
    pub size: usize,
    /// Where the time went.
    pub timings_ms: Timings,
}

impl<'a> Event<'a> {
    /// An event of a message's recipient with everything filled in that the envelope knows.
    pub fn new(time: Timestamp, event: Kind, id: MessageId, envelope: &'a Envelope, recipient: &'a str) -> Event<'a> {
        Event {
            time,
            event,
            message_id: id,
            recipient,
            sender: "",
            tenant: &envelope.stream.tenant,
            class: envelope.stream.class.as_str(),
            campaign: &envelope.stream.campaign,
            list: envelope.list.as_deref().unwrap_or_default(),
            tags: &envelope.tags,
            accepted_at: envelope.accepted_at,
            attempt: 0,
            next_attempt: None,
            site: "",
            provider: "",
            source: "",
            source_address: None,
            mx_host: "",
            mx_address: None,
            tls: None,
            code: 0,
            enhanced: EnhancedCode(2, 0, 0),
            reply: "",
            command: None,
            blame: None,
            dsn: None,
            size: 0,
            timings_ms: Timings::default(),
        }
    }

    /// Appends the event to `out` as one line.
    pub fn write_line(&self, out: &mut Vec<u8>) {
        out.reserve(LINE_USUAL);
        serde_json::to_writer(&mut *out, self).expect("every field is plain text or a number");
        out.push(b'\n');
    }
}

pub(super) fn display<S: serde::Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

pub(super) fn display_some<S: serde::Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.collect_str(time),
        None => serializer.serialize_none(),
    }
}
