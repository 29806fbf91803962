//! What lines say, read back.

use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::StrDeserializer;

use crate::clock::Timestamp;
use crate::events::{Dsn, Kind};
use crate::mail::{Class, MessageId};

/// What a line says of a recipient.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Told {
    /// When, RFC 3339.
    pub time: String,
    /// What happened.
    pub event: String,
    /// To whom.
    pub recipient: String,
    /// The envelope sender.
    pub sender: String,
    /// The tenant.
    pub tenant: String,
    /// The class.
    pub class: String,
    /// The campaign.
    pub campaign: String,
    /// When the message was accepted.
    pub accepted_at: String,
    /// Number of the attempt.
    pub attempt: u32,
    /// The reply's code.
    pub code: u16,
    /// Its enhanced code.
    pub enhanced: String,
    /// Its text.
    pub reply: String,
    /// When it is due again, RFC 3339; empty, as all that follow: not said.
    pub next_attempt: String,
    /// The host spoken to.
    pub mx_host: String,
    /// Our source, by name.
    pub source: String,
    /// Of what came back: what happened, in a word.
    pub what: String,
    /// Of what came back: who says so.
    pub by: String,
    /// Of what came back: why.
    pub reason: String,
}

impl Told {
    /// What it tells of; `None`: of no attempt and no end, but of what came back later.
    pub fn kind(&self) -> Option<Kind> {
        let name: StrDeserializer<'_, serde::de::value::Error> = self.event.as_str().into_deserializer();
        Kind::deserialize(name).ok()
    }
}

/// Where a recipient's mail came from, which way it took, and how it ended. Texts that are empty were not said.
#[derive(Debug, Clone, PartialEq)]
pub struct Origin {
    /// The message.
    pub message_id: MessageId,
    /// The envelope recipient, as it was given.
    pub recipient: String,
    /// The envelope sender; empty: null.
    pub sender: String,
    /// Whose.
    pub tenant: String,
    /// How urgent.
    pub class: Class,
    /// The campaign.
    pub campaign: String,
    /// The list that it was sent to, if the line names one.
    pub list: Option<String>,
    /// The client's words.
    pub tags: Vec<String>,
    /// Our source, by name; empty: no attempt was made.
    pub source: String,
    /// The family of sites; empty as above, and in lines of versions that did not name it.
    pub provider: String,
    /// The site; empty as above.
    pub site: String,
    /// What the client asked of reports; nothing, if the line says nothing.
    pub dsn: Dsn,
    /// When the message was accepted.
    pub accepted_at: Timestamp,
    /// When this was the end.
    pub ended_at: Timestamp,
    /// Which end.
    pub end: Kind,
}

impl Origin {
    /// As [`Origin::read`], for probes.
    pub(in crate::events) fn probe(line: &[u8]) -> Option<Origin> {
        Origin::read(line)
    }

    /// `None`: the line tells of no end, or of nothing we know.
    pub(super) fn read(line: &[u8]) -> Option<Origin> {
        let line: Line = serde_json::from_slice(line).ok().filter(|line: &Line| line.event.is_end())?;
        Some(Origin {
            message_id: line.message_id,
            recipient: line.recipient,
            sender: line.sender,
            tenant: line.tenant,
            class: Class::parse(&line.class).unwrap_or_default(),
            campaign: line.campaign,
            list: line.list,
            tags: line.tags,
            source: line.source,
            provider: line.provider,
            site: line.site,
            dsn: line.dsn,
            accepted_at: Timestamp::parse_rfc3339(&line.accepted_at)?,
            ended_at: Timestamp::parse_rfc3339(&line.time)?,
            end: line.event,
        })
    }
}

#[derive(Deserialize)]
struct Line {
    time: String,
    event: Kind,
    message_id: MessageId,
    recipient: String,
    #[serde(default)]
    sender: String,
    #[serde(default)]
    tenant: String,
    #[serde(default)]
    class: String,
    #[serde(default)]
    campaign: String,
    #[serde(default)]
    list: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    source: String,
    #[serde(default)]
    provider: String,
    #[serde(default)]
    site: String,
    #[serde(default)]
    dsn: Dsn,
    accepted_at: String,
}
