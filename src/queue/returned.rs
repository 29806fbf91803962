//! Something came back of a message that we sent: whose it was, and what it says of the stream.

use std::sync::Arc;

use super::Queue;
use super::status::{QueryError, TOLD_WITHIN};
use crate::events::Origin;
use crate::mail::{EnvelopeAddress, MessageId, Stream};
use crate::spool::SpoolError;

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
        }))
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

fn of_event(origin: Origin) -> Option<Mailed> {
    Some(Mailed {
        recipient: origin.recipient.parse().ok()?,
        sender: origin.sender,
        stream: Stream { tenant: origin.tenant.into(), class: origin.class, campaign: origin.campaign.into() },
        list: origin.list.map(Into::into),
        source: origin.source,
        provider: origin.provider,
    })
}
