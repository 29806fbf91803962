//! Something came back of a message that we sent: whose it was, what it says of the stream, and what its sender hears.

use std::sync::Arc;

use super::Queue;
use super::status::{QueryError, TOLD_WITHIN};
use crate::clock::Timestamp;
use crate::events::{Dsn, Kind, Origin};
use crate::feedback::{self, Fate, ReportedRecipient, Reporter};
use crate::mail::{Blame, EnhancedCode, Envelope, EnvelopeAddress, Failure, MessageId, Recipient, Reply, Stream};
use crate::mail::{Keyed, Origin as Said};
use crate::spool::{Message, SpoolError};

/// A recipient of a message that we sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mailed {
    /// To whom, as the client gave it.
    pub recipient: EnvelopeAddress,
    /// The envelope sender; empty: null.
    pub sender: String,
    /// Whose.
    pub stream: Stream,
    /// The list.
    pub list: Option<Box<str>>,
    /// Our source that sent it, by name; empty: not known.
    pub source: String,
    /// The family of sites it went to; empty: not known.
    pub provider: String,
    /// When the message was accepted.
    pub accepted_at: Timestamp,
    /// What the client asked of reports.
    pub dsn: Dsn,
    /// How it ended; `None`: it still waits.
    pub end: Option<Kind>,
}

/// What came back of a recipient, for its sender.
#[derive(Debug, Clone, Copy)]
pub struct Returned<'a> {
    /// Whose mail it was.
    pub mailed: &'a Mailed,
    /// What became of it.
    pub fate: Fate,
    /// The code of the report; `None`: it has none.
    pub status: Option<EnhancedCode>,
    /// What it rests on, in its own words.
    pub said: &'a str,
    /// The server that said so, if the report names it.
    pub host: Option<&'a str>,
}

impl Queue {
    /// The recipient of a message that `matches`, from the event log or, of a message that is not finished, from the spool.
    /// `None`: it had none, or nothing is known of it any more. `matches` sees addresses as clients gave them.
    ///
    /// # Errors
    /// The disk cannot be read.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn mailed(
        &self,
        id: MessageId,
        matches: impl Fn(&EnvelopeAddress) -> bool + Clone + Send + 'static,
    ) -> Result<Option<Mailed>, QueryError> {
        let waiting = match self.spool.load_envelope(id).await {
            Ok(message) => Some(message),
            Err(SpoolError::Unknown(_)) => {
                // It may have ended a moment ago: a receiver can be quick to return it.
                let _ = tokio::time::timeout(TOLD_WITHIN, self.until_told(id)).await;
                None
            }
            Err(error) => return Err(error.into()),
        };
        let archive = self.parts.load().archive.clone();
        let asked = matches.clone();
        let of_line = move |recipient: &str| recipient.parse().is_ok_and(|address| asked(&address));
        if let Some(mailed) = archive.origin(id, of_line).await?.and_then(of_event) {
            return Ok(Some(mailed));
        }
        let Some(message) = waiting else { return Ok(None) };
        let envelope = &message.envelope;
        let found = envelope.recipients.iter().find(|recipient| matches(&recipient.address));
        Ok(found.map(|recipient| Mailed {
            recipient: recipient.address.clone(),
            sender: envelope.reverse_path.to_string(),
            stream: envelope.stream.clone(),
            list: envelope.list.clone(),
            source: String::new(),
            provider: String::new(),
            accepted_at: envelope.accepted_at,
            dsn: Dsn::of(envelope, recipient).unwrap_or_default(),
            end: None,
        }))
    }

    /// The report to the sender of a message on what came back of one of its recipients, ready to be accepted under that id.
    /// `header` is what is left of the message. `None`: he wants none, as for what fails in a session
    /// ([`feedback::delivery_report`]).
    pub fn report_of_returned(
        &self,
        message: MessageId,
        returned: Returned<'_>,
        header: &[u8],
        (id, key): (MessageId, Keyed),
    ) -> Option<Message> {
        let Mailed { recipient, sender, stream, accepted_at, dsn, .. } = returned.mailed;
        let recipient = Recipient { address: recipient.clone(), notify: dsn.notify, orcpt: dsn.orcpt.clone() };
        let original = Envelope {
            reverse_path: sender.parse().ok()?,
            recipients: vec![recipient],
            envid: dsn.envid.clone(),
            ..Envelope::unreadable(stream.clone(), *accepted_at)
        };
        let reported = [ReportedRecipient {
            recipient: &original.recipients[0],
            failure: &failure(&returned),
            mx: returned.host,
            last_attempt: Timestamp(0),
            fate: returned.fate,
        }];
        let parts = self.parts.load();
        let reporter = Reporter { hostname: &parts.hostname, reporting: parts.reports.of(stream) };
        let now = self.clock.timestamp();
        let (envelope, content) = feedback::delivery_report(&original, message, header, &reported, reporter, id, now)?;
        Some(Message::new(id, Envelope { key: Some(Box::new(key)), ..envelope }, content.into()))
    }

    /// So many recipients of a stream whose mail a provider had taken came back: it knows no such user. The reputation brake
    /// counts them like those that it refused at once.
    pub fn returned_unknown(self: &Arc<Queue>, stream: &Stream, provider: &str, recipients: u32) {
        self.with_actions(|scheduler, now, actions| scheduler.returned(now, stream, provider, recipients, actions));
    }

    /// So many recipients of a stream complained of what a provider took, by this source of ours (empty: not known). Brake and
    /// warm-up hear of it; the share of what was delivered goes to the metrics.
    pub fn complained(self: &Arc<Queue>, stream: &Stream, source: &str, provider: &str, recipients: u32) {
        let path = (Some(source).filter(|source| !source.is_empty()), provider);
        self.with_actions(|scheduler, now, actions| scheduler.complained(now, stream, path, recipients, actions));
        let shares = self.lock().steering().shares(stream, provider);
        if let Some((complaints, _)) = shares {
            let labels = [&*stream.tenant, stream.class.as_str(), provider];
            self.metrics.complaint_share.with_label_values(&labels).set(complaints);
        }
    }
}

/// What a report said, as a receiver would have.
fn failure(returned: &Returned<'_>) -> Failure {
    let (classes, general) = match returned.fate {
        Fate::Confirmed(_) => (2..=2, 250),
        _ => (4..=5, 550),
    };
    let enhanced = returned.status.filter(|status| classes.contains(&status.0));
    let code = enhanced.map_or(general, |status| if status.0 == 4 { 450 } else { general });
    let reply = Reply { code, enhanced, text: returned.said.to_owned().into() };
    Failure { blame: Blame::Recipient, origin: Said::Remote { command: "." }, reply }
}

fn of_event(origin: Origin) -> Option<Mailed> {
    Some(Mailed {
        recipient: origin.recipient.parse().ok()?,
        sender: origin.sender,
        stream: Stream { tenant: origin.tenant.into(), class: origin.class, campaign: origin.campaign.into() },
        list: origin.list.map(Into::into),
        source: origin.source,
        provider: origin.provider,
        accepted_at: origin.accepted_at,
        dsn: origin.dsn,
        end: Some(origin.end),
    })
}
