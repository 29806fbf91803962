//! Complaints: whose they are, and what follows.
//!
//! Nothing follows but from a token of ours: in the address that it was sent to (RFC 9477), or anywhere in the report. What came
//! to such an address must be signed by who sends it, too. Everything else is told as an event, with what is missing.

use super::bounce::{from, line, not_found, printed};
use super::desk::{Arrived, Desk, not_stored};
use super::seen::Item;
use crate::events::{Feedback, FeedbackKind};
use crate::feedback::complaint::Complaint;
use crate::feedback::complaint::cfbl::Signed;
use crate::feedback::suppressed_line;
use crate::feedback::token::{RecipientHash, Sent, Subscription};
use crate::mail::{EnvelopeAddress, MessageId, Stream};
use crate::queue::{Mailed, QueryError};
use crate::submission::Rejection;
use crate::suppression::{Evidence, Reason};

/// Addresses of one report that are looked for, when its token names none: each look-up may read the event log.
const LOOKED_FOR_MAX: usize = 10;

/// Why nothing follows from what followed before.
const REPEATED: &str = "it was told before";

/// Whose complaint it is.
#[derive(Debug, Default)]
struct Complainant {
    message: Option<MessageId>,
    /// Proven by a token.
    proven: bool,
    /// Several share the token: any of them can have sent this for another.
    is_anybody: bool,
    /// `None`: of that message, but nobody knows which recipient.
    address: Option<EnvelopeAddress>,
    mailed: Option<Mailed>,
    /// Of mail that nobody remembers: what its unsubscribe link says.
    subscription: Option<Subscription>,
}

impl Complainant {
    /// The stream and list of the mail; `None`: nobody knows any more.
    fn stream(&self) -> Option<(&Stream, Option<&str>)> {
        let mailed = self.mailed.as_ref().map(|mailed| (&mailed.stream, mailed.list.as_deref()));
        mailed.or(self.subscription.as_ref().map(|one| (&one.stream, one.list.as_deref())))
    }

    fn provider(&self) -> &str {
        self.mailed.as_ref().map_or("", |mailed| &mailed.provider)
    }
}

impl Desk {
    /// A complaint, or what came to the address for them. `addressed`: the token in the address. Returns what it was, for metrics.
    pub(super) async fn complained(
        &self,
        arrived: &Arrived,
        addressed: Option<Sent>,
        complaint: Option<&Complaint>,
    ) -> Result<&'static str, Rejection> {
        let Some(complaint) = complaint else {
            let mut lines = Vec::new();
            let by = from(arrived);
            let told = Feedback::new(arrived.at, FeedbackKind::Complained, "unknown");
            let message_id = addressed.map(|sent| sent.message);
            Feedback { id: Some(arrived.id), message_id, by: &by, ..told }.write_line(&mut lines);
            self.keep(lines).await?;
            return Ok("unknown");
        };
        let who = self.complainant(addressed, complaint).await.map_err(not_found)?;
        let signed = match addressed {
            Some(_) => Some(self.parts.verifier.verify(&arrived.content).await),
            None => None,
        };
        let lacking = match &signed {
            // RFC 9477 §3.5: not to be processed. Whether it holds is not known yet, so the sender keeps it.
            Some(Signed::Unknown) => {
                return Err(Rejection::trouble("its signature cannot be verified now, try again later"));
            }
            Some(Signed::Not(why)) => Some(*why),
            Some(Signed::By(_)) | None => who.lacks(complaint),
        };
        let item = who.item(complaint).filter(|_| lacking.is_none());
        let _turn = match (item, who.message) {
            (Some(_), Some(message)) => Some(self.seen.turn(message.0).await),
            _ => None,
        };
        let lacking = match item {
            Some((item, weight)) if self.came_before(item)? >= weight => Some(REPEATED),
            _ => lacking,
        };
        self.tell_complaint(arrived, complaint, &who, signed.as_ref(), lacking).await?;
        if lacking.is_none() {
            self.heed_complaint(arrived, complaint, &who).await?;
            self.note(item.as_slice(), arrived.at).await?;
        }
        self.count_complaint(complaint, &who, lacking);
        Ok("complaint")
    }

    /// Finds out whose complaint it is, by the best token there is.
    async fn complainant(&self, addressed: Option<Sent>, complaint: &Complaint) -> Result<Complainant, QueryError> {
        let (tokens, now) = (&self.parts.tokens, self.parts.clock.timestamp());
        let lifetime = self.token_lifetime();
        let found = complaint.tokens.iter().filter_map(|text| tokens.read_sent(text, now, lifetime).ok());
        let found: Vec<Sent> = addressed.into_iter().chain(found).collect();
        let subscription = complaint.subscriptions.iter().find_map(|text| tokens.read_subscription(text).ok());
        // The one in the address says which message; of the others the first. One that names the recipient says more.
        let message = found.first().map(|sent| sent.message);
        let named = found.iter().find(|sent| Some(sent.message) == message && sent.recipient.is_some());
        let Some(sent) = named.or(found.first()).copied() else {
            let Some(subscription) = subscription else {
                return Ok(Complainant { message: self.unproven(complaint), ..Complainant::default() });
            };
            let (message, hash) = (subscription.message, RecipientHash::of(&subscription.address));
            let same = move |address: &EnvelopeAddress| RecipientHash::of(address) == hash;
            let mailed = self.parts.queue.mailed(message, same).await?;
            let address = Some(subscription.address.clone());
            return Ok(Complainant {
                message: Some(message),
                proven: true,
                address,
                mailed,
                subscription: Some(subscription),
                ..Complainant::default()
            });
        };
        let subscription = subscription.filter(|one| one.message == sent.message);
        let is_anybody = sent.recipient.is_none() && subscription.is_none();
        let message = Some(sent.message);
        let mut who = Complainant { message, proven: true, is_anybody, subscription, ..Complainant::default() };
        let said = complaint.original_rcpt.iter().chain([&complaint.original_to]);
        let said = said.filter_map(|text| text.parse::<EnvelopeAddress>().ok());
        let said = who.subscription.iter().map(|one| one.address.clone()).chain(said);
        let said: Vec<EnvelopeAddress> = said.filter(|address| sent.domain.is_none() || sent.covers(address)).collect();
        let wanted: Vec<RecipientHash> = match sent.recipient {
            Some(hash) => vec![hash],
            None => said.iter().map(RecipientHash::of).take(LOOKED_FOR_MAX).collect(),
        };
        for hash in wanted {
            let same = move |address: &EnvelopeAddress| RecipientHash::of(address) == hash;
            if let Some(mailed) = self.parts.queue.mailed(sent.message, same).await? {
                who.address = Some(mailed.recipient.clone());
                who.mailed = Some(mailed);
                return Ok(who);
            }
            // Of mail long gone the token still knows its recipient when it sees him.
            let known = said.iter().find(|address| sent.recipient == Some(RecipientHash::of(address)));
            who.address = who.address.or(known.cloned());
        }
        // It was this message, whoever complains.
        who.mailed = self.parts.queue.mailed(sent.message, |_| true).await?;
        Ok(who)
    }

    /// The message that the trace in a report names as ours. Anybody could have written that.
    fn unproven(&self, complaint: &Complaint) -> Option<MessageId> {
        let ours = complaint.ids.iter().filter(|(host, _)| host == self.hostname.as_str());
        ours.filter_map(|(_, id)| id.parse().ok()).next()
    }

    async fn tell_complaint(
        &self,
        arrived: &Arrived,
        complaint: &Complaint,
        who: &Complainant,
        signed: Option<&Signed>,
        lacking: Option<&str>,
    ) -> Result<(), Rejection> {
        let (by, recipient) = match signed {
            Some(Signed::By(domain)) => (domain.clone(), printed(who.address.as_ref())),
            _ => (from(arrived), printed(who.address.as_ref())),
        };
        let base = Feedback {
            id: Some(arrived.id),
            message_id: who.message,
            recipient: &recipient,
            by: &by,
            reply: lacking.unwrap_or_default(),
            ..Feedback::new(arrived.at, FeedbackKind::Complained, complaint.kind())
        };
        let mut lines = Vec::new();
        match (who.message, &who.mailed) {
            (Some(message), Some(mailed)) => {
                let sent = Sent::any(message);
                let known = line(arrived, sent, FeedbackKind::Complained, complaint.kind(), Some(mailed));
                Feedback { recipient: &recipient, by: &by, reply: base.reply, ..known }.write_line(&mut lines);
            }
            _ => base.write_line(&mut lines),
        }
        self.keep(lines).await
    }

    /// The recipient gets no more of it.
    async fn heed_complaint(
        &self,
        arrived: &Arrived,
        complaint: &Complaint,
        who: &Complainant,
    ) -> Result<(), Rejection> {
        let (Some(address), Some(message), Some((stream, list))) = (&who.address, who.message, who.stream()) else {
            return Ok(());
        };
        let evidence = Evidence {
            cause: if leaves(complaint) { Reason::Unsubscribe } else { Reason::Complaint },
            address,
            stream,
            list,
            evidence: arrived.id.to_string(),
            source: "complaint",
            at: arrived.at,
        };
        match self.parts.suppressions.learn(evidence).await.map_err(not_stored)? {
            Some(entry) => self.keep(suppressed_line(&entry, message)).await,
            None => Ok(()),
        }
    }

    /// Metrics hear of every complaint but repeated ones; brake and warm-up of what was heeded.
    fn count_complaint(&self, complaint: &Complaint, who: &Complainant, lacking: Option<&str>) {
        if lacking == Some(REPEATED) {
            return;
        }
        let provider = if who.provider().is_empty() { "unknown" } else { who.provider() };
        self.parts.metrics.complaints.with_label_values(&[provider, complaint.kind()]).inc();
        let mailed = who.mailed.as_ref().filter(|mailed| !mailed.provider.is_empty() && !leaves(complaint));
        if let Some(mailed) = mailed.filter(|_| lacking.is_none() && who.address.is_some()) {
            self.parts.queue.complained(&mailed.stream, &mailed.source, &mailed.provider, 1);
        }
    }
}

/// Whether it only asks to get no more of it, and blames nobody.
fn leaves(complaint: &Complaint) -> bool {
    complaint.feedback_type.starts_with("opt-out")
}

impl Complainant {
    /// It counts once for each recipient of a message; a complaint weighs more than a wish to leave.
    fn item(&self, complaint: &Complaint) -> Option<(Item, u8)> {
        let item = Item::Complaint(self.message?, RecipientHash::of(self.address.as_ref()?));
        Some((item, if leaves(complaint) { 1 } else { 2 }))
    }

    /// What keeps the complaint from having an effect.
    fn lacks(&self, complaint: &Complaint) -> Option<&'static str> {
        match () {
            () if !self.proven => Some("no token of ours in it"),
            () if !complaint.is_against_sender() => Some("not a complaint against the sender"),
            () if self.address.is_none() => Some("none of the message's recipients is named"),
            // A signature says which domain sent it, not which of its users.
            () if self.is_anybody => Some("several recipients share its token"),
            () if self.stream().is_none() => Some("nobody remembers the message"),
            () => None,
        }
    }
}
