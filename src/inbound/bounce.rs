//! What came back to a return path: events, and what follows from a bounce.

use super::desk::{Arrived, Desk, not_stored};
use super::seen::Item;
use super::verdict::{self, Said};
use crate::events::{Feedback, FeedbackKind};
use crate::feedback;
use crate::feedback::bounce::{Action, Bounced};
use crate::feedback::classify::Permanence;
use crate::feedback::token::{RecipientHash, Sent};
use crate::mail::{EnvelopeAddress, Stream};
use crate::queue::{Mailed, QueryError};
use crate::submission::Rejection;
use crate::suppression::{Evidence, Reason};

/// Recipients of one message that are looked for, when its token names none.
const LOOKED_FOR_MAX: usize = 100;

/// What a report says of a recipient of ours.
struct Finding<'a> {
    said: Said<'a>,
    /// Whose mail it was; `None`: nobody knows any more.
    mailed: Option<Mailed>,
    /// The recipient; `None`: the report is about nobody we sent this message to.
    address: Option<EnvelopeAddress>,
}

/// Weights of what was said of a recipient: that it failed, that it is dead.
const FAILED: u8 = 1;
const DEAD: u8 = 2;

impl Finding<'_> {
    fn failed(&self) -> bool {
        self.said.bounced.action == Action::Failed
    }

    /// A failure of a recipient, with its weight: it counts once.
    fn item(&self, sent: Sent) -> Option<(Item, u8)> {
        let address = self.address.as_ref().filter(|_| self.failed())?;
        let item = Item::Bounce(sent.message, RecipientHash::of(address));
        Some((item, if self.said.hard { DEAD } else { FAILED }))
    }
}

impl Desk {
    /// A bounce, or another report of delivery.
    pub(super) async fn returned(&self, arrived: &Arrived, sent: Sent, report: &[Bounced]) -> Result<(), Rejection> {
        let findings = self.findings(sent, report).await.map_err(not_found)?;
        let _turn = self.seen.turn(sent.message.0).await;
        let (mut lines, mut news) = (Vec::new(), Vec::new());
        for finding in &findings {
            let item = finding.item(sent);
            let is_new = match item {
                Some((item, weight)) => self.came_before(item)? < weight,
                None => true,
            };
            if is_new {
                news.push((finding, item));
            }
            let Bounced { action, status, verdict, diagnostic, .. } = finding.said.bounced;
            let (by, recipient) = (from(arrived), printed(finding.address.as_ref()));
            let what = if is_new { word(*action) } else { "repeated" };
            Feedback {
                recipient: &recipient,
                by: &by,
                reason: verdict.reason.as_str(),
                permanence: permanence(verdict.permanence),
                enhanced: *status,
                reply: diagnostic,
                ..line(arrived, sent, FeedbackKind::Returned, what, finding.mailed.as_ref())
            }
            .write_line(&mut lines);
        }
        self.keep(lines).await?;
        for (finding, _) in &news {
            self.learn(arrived, sent, finding).await?;
        }
        let items: Vec<_> = news.iter().filter_map(|(_, item)| *item).collect();
        self.note(&items, arrived.at).await?;
        // What only counts in memory comes last: up to here all of it may be said again.
        news.iter().filter(|(finding, _)| finding.failed()).for_each(|(finding, _)| self.count(finding));
        Ok(())
    }

    /// Mail from somebody, or from a machine on his behalf: no report.
    pub(super) async fn replied(&self, arrived: &Arrived, sent: Sent, what: &'static str) -> Result<(), Rejection> {
        self.tell(arrived, sent, FeedbackKind::Replied, what).await
    }

    /// A report that says nothing we understand.
    pub(super) async fn unknown(&self, arrived: &Arrived, sent: Sent) -> Result<(), Rejection> {
        self.tell(arrived, sent, FeedbackKind::Returned, "unknown").await
    }

    async fn tell(
        &self,
        arrived: &Arrived,
        sent: Sent,
        event: FeedbackKind,
        what: &'static str,
    ) -> Result<(), Rejection> {
        let mailed = self.mailed(sent).await.map_err(not_found)?;
        let recipient = mailed.as_ref().filter(|_| sent.recipient.is_some()).map(|mailed| &mailed.recipient);
        let (by, recipient) = (from(arrived), printed(recipient));
        let mut lines = Vec::new();
        Feedback { recipient: &recipient, by: &by, ..line(arrived, sent, event, what, mailed.as_ref()) }
            .write_line(&mut lines);
        self.keep(lines).await
    }

    /// The recipient that a token names, or any if it names none.
    async fn mailed(&self, sent: Sent) -> Result<Option<Mailed>, QueryError> {
        let named = sent.recipient;
        let matches = move |address: &EnvelopeAddress| named.is_none_or(|hash| RecipientHash::of(address) == hash);
        self.parts.queue.mailed(sent.message, matches).await
    }

    /// What the report says of recipients that the message had, one at least.
    async fn findings<'a>(&self, sent: Sent, report: &'a [Bounced]) -> Result<Vec<Finding<'a>>, QueryError> {
        if sent.recipient.is_some() {
            let mailed = self.mailed(sent).await?;
            let address = match &mailed {
                Some(mailed) => Some(mailed.recipient.clone()),
                // Of mail long gone the token still knows its recipient when it sees him.
                None => addresses(report).find(|address| Some(RecipientHash::of(address)) == sent.recipient),
            };
            let said = verdict::of_one(report, address.as_ref());
            return Ok(said.map(|said| Finding { said, mailed, address }).into_iter().collect());
        }
        let mut findings: Vec<Finding<'_>> = Vec::new();
        // Who was mailed at one domain has nothing to say of another.
        let spoken_for = addresses(report).filter(|address| sent.domain.is_none() || sent.covers(address));
        for address in spoken_for.take(LOOKED_FOR_MAX) {
            let wanted = RecipientHash::of(&address);
            let known = findings.iter().any(|one| one.address.as_ref().map(RecipientHash::of) == Some(wanted));
            if known {
                continue;
            }
            let same = move |address: &EnvelopeAddress| RecipientHash::of(address) == wanted;
            if let Some(mailed) = self.parts.queue.mailed(sent.message, same).await?
                && let Some(said) = verdict::of_one(report, Some(&mailed.recipient))
            {
                findings.push(Finding {
                    said: doubted(said),
                    address: Some(mailed.recipient.clone()),
                    mailed: Some(mailed),
                });
            }
        }
        if findings.is_empty()
            && let Some(said) = verdict::of_one(report, None)
        {
            findings.push(Finding { said: doubted(said), mailed: self.mailed(sent).await?, address: None });
        }
        Ok(findings)
    }

    /// A failure goes to the metrics, and one that says that the address is dead is counted against the stream.
    fn count(&self, finding: &Finding<'_>) {
        let provider = finding.mailed.as_ref().map_or("", |mailed| &mailed.provider);
        let verdict = &finding.said.bounced.verdict;
        self.parts.metrics.bounces.with_label_values(&[provider, verdict.reason.as_str()]).inc();
        let mailed = finding.mailed.as_ref().filter(|_| finding.said.hard && !provider.is_empty());
        if let (Some(mailed), Some(_)) = (mailed, &finding.address) {
            self.parts.queue.returned_unknown(&mailed.stream, provider, 1);
        }
    }

    /// A dead address goes to the suppression list.
    async fn learn(&self, arrived: &Arrived, sent: Sent, finding: &Finding<'_>) -> Result<(), Rejection> {
        let Some(address) = finding.address.as_ref().filter(|_| finding.said.hard) else { return Ok(()) };
        let nobody = Stream::default();
        let stream = finding.mailed.as_ref().map_or(&nobody, |mailed| &mailed.stream);
        let evidence = Evidence {
            cause: Reason::HardBounce,
            address,
            stream,
            list: finding.mailed.as_ref().and_then(|mailed| mailed.list.as_deref()),
            evidence: arrived.id.to_string(),
            source: "bounce",
            at: arrived.at,
        };
        match self.parts.suppressions.learn(evidence).await.map_err(not_stored)? {
            Some(entry) => self.keep(feedback::suppressed_line(&entry, sent.message)).await,
            None => Ok(()),
        }
    }
}

/// Who shares a token with others can say anything of them: it is told, and nobody is dead for it.
fn doubted(said: Said<'_>) -> Said<'_> {
    Said { hard: false, ..said }
}

/// A line that says whose mail it was.
pub(super) fn line<'a>(
    arrived: &Arrived,
    sent: Sent,
    event: FeedbackKind,
    what: &'a str,
    mailed: Option<&'a Mailed>,
) -> Feedback<'a> {
    let line =
        Feedback { id: Some(arrived.id), message_id: Some(sent.message), ..Feedback::new(arrived.at, event, what) };
    let Some(mailed) = mailed else { return line };
    Feedback {
        sender: &mailed.sender,
        tenant: &mailed.stream.tenant,
        class: mailed.stream.class.as_str(),
        campaign: &mailed.stream.campaign,
        list: mailed.list.as_deref().unwrap_or_default(),
        source: &mailed.source,
        provider: &mailed.provider,
        ..line
    }
}

/// The addresses that a report names, the original ones first: those are what we sent to.
fn addresses(report: &[Bounced]) -> impl Iterator<Item = EnvelopeAddress> {
    let original = report.iter().filter_map(|one| one.original.as_deref());
    original.chain(report.iter().map(|one| &*one.recipient)).filter_map(|text| text.parse().ok())
}

pub(super) fn not_found(error: QueryError) -> Rejection {
    tracing::warn!(%error, "something came back, and whose it was cannot be looked up; its sender is told to try again");
    Rejection::trouble("it cannot be looked up now, try again later")
}

pub(super) fn from(arrived: &Arrived) -> String {
    arrived.client.map(|client| client.to_string()).unwrap_or_default()
}

pub(super) fn printed(address: Option<&EnvelopeAddress>) -> String {
    address.map(ToString::to_string).unwrap_or_default()
}

fn word(action: Action) -> &'static str {
    match action {
        Action::Failed => "failed",
        Action::Delayed => "delayed",
        Action::Delivered => "delivered",
        Action::Relayed => "relayed",
        Action::Expanded => "expanded",
    }
}

fn permanence(permanence: Permanence) -> &'static str {
    match permanence {
        Permanence::Permanent => "permanent",
        Permanence::Transient => "transient",
        Permanence::Unknown => "",
    }
}
