//! What replies say of our pace, and who hears of a change.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use bytes::Bytes;

use super::Queue;
use super::scheduler::{Answer, PathId, PathName};
use crate::events::{About, Notice, NoticeKind};
use crate::feedback::classify::{Reason, classify_reply};
use crate::ledger::{Ledger, LedgerError, Table};
use crate::mail::{EnhancedCode, Failure, Origin, Outcome};
use crate::routing::{Route, SourceId};
use crate::shaping::controller::{Change, Saved};
use crate::shaping::provider::{Action, Profiles};

/// A crash loses what was learned in this time at most, and it is learned again as fast.
const SAVE_EVERY: Duration = Duration::from_secs(300);

/// What the answers to one message say of the pace.
pub(super) fn answer(
    outcomes: &[Option<Outcome>],
    failure: Option<&Failure>,
    (profiles, provider): (&Profiles, &str),
) -> Answer {
    let refused = outcomes.iter().flatten().filter_map(|outcome| match outcome {
        Outcome::Delivered { .. } => None,
        Outcome::Deferred(failure) | Outcome::Failed(failure) => Some(failure),
    });
    let mut heard = refused.chain(failure);
    let taken = outcomes.iter().flatten().any(|outcome| matches!(outcome, Outcome::Delivered { .. }));
    match (heard.any(|failure| says_slow(failure, (profiles, provider))), outcomes.iter().any(Option::is_some)) {
        (true, _) => Answer::Throttled,
        (false, true) if taken => Answer::Passed,
        (false, true) => Answer::TurnedDown,
        (false, false) => Answer::Lost,
    }
}

/// Whether a reply means "slow down", and not only this mailbox: the provider's profile knows, or else what such replies mean
/// everywhere.
pub(super) fn says_slow(failure: &Failure, (profiles, provider): (&Profiles, &str)) -> bool {
    let reply = &failure.reply;
    if failure.origin == Origin::Local || matches!(reply.enhanced, Some(EnhancedCode(_, 2, _))) {
        return false;
    }
    let advice = profiles.advise(provider, reply);
    if !advice.rule.is_empty() {
        return advice.action == Action::Slow;
    }
    // "System not accepting network messages", "mail system congestion" (RFC 3463 §3.4, §3.5).
    let busy = matches!(reply.enhanced, Some(EnhancedCode(4, 3, 2) | EnhancedCode(4, 4, 5)));
    busy || classify_reply(Some(reply.code), reply.enhanced, &reply.text, provider).reason == Reason::RateLimit
}

impl Queue {
    /// What a receiver made of a message that was begun at `began`, on the scheduler's clock.
    pub(super) fn learn_pace(self: &Arc<Queue>, path: PathId, began: u64, answer: Answer) {
        self.with_actions(|scheduler, now, actions| scheduler.answered(now, path, began, answer, actions));
    }

    /// Tells of a change: as an event, in the log, in metrics.
    pub(super) fn tell_pace(&self, route: &Route, source: SourceId, change: Change) {
        let parts = self.parts.load();
        let source = &*parts.egress.source(source).name;
        let cause = change.cause.as_str();
        let about = About { provider: route.provider, site: route.site.as_str(), source, ..About::default() };
        let what = if change.slower { "slower" } else { "faster" };
        let mut notice = Notice::new(self.clock.timestamp(), NoticeKind::Pace, what, about);
        notice.cause = cause;
        // Two digits after the point say all there is to know of a pace.
        notice.per_second = change.per_second.map(|rate| (rate * 100.0).round() / 100.0);
        notice.connections = change.sessions;
        self.spool.note(notice.line());
        self.metrics.pace_changes.with_label_values(&[route.provider, cause]).inc();
        tracing::debug!(site = %route.site, source, cause, per_second = ?notice.per_second,
            connections = ?notice.connections, "pace {what}");
    }

    /// Goes on from the paces in the ledger. Blocks; call it before mail is delivered.
    ///
    /// # Errors
    /// They cannot be read. What is not understood is passed over.
    pub fn recall_paces(&self, ledger: &Ledger) -> Result<(), LedgerError> {
        let facts = ledger.scan(Table::Paces, b"")?;
        let read = |(name, octets): (Vec<u8>, Bytes)| Some((PathName::from(name), Saved::read(&octets)?));
        let paces: HashMap<PathName, Saved> = facts.into_iter().filter_map(read).collect();
        self.saved_paces().clone_from(&paces);
        self.lock().keep_paces(paces);
        Ok(())
    }

    /// Writes what has changed since the last time into the ledger.
    ///
    /// # Errors
    /// It cannot be written; it is tried again the next time.
    ///
    /// # Cancel safety
    /// Dropped, all of it may be written again the next time, which does no harm.
    pub async fn save_paces(&self, ledger: &Ledger) -> Result<(), LedgerError> {
        let paces = self.lock().paces();
        let facts: Vec<(Vec<u8>, Option<Bytes>)> = {
            let saved = self.saved_paces();
            let gone = saved.keys().filter(|name| !paces.contains_key(*name)).map(|name| (name.to_vec(), None));
            let changed = paces.iter().filter(|(name, pace)| saved.get(*name) != Some(*pace));
            gone.chain(changed.map(|(name, pace)| (name.to_vec(), Some(pace.write().into())))).collect()
        };
        if !facts.is_empty() {
            ledger.put(Table::Paces, facts).await?;
            *self.saved_paces() = paces;
        }
        Ok(())
    }

    /// Saves the paces now and then, for ever.
    pub async fn keep_saving_paces(self: Arc<Queue>, ledger: Arc<Ledger>) {
        loop {
            tokio::time::sleep(SAVE_EVERY).await;
            if let Err(error) = self.save_paces(&ledger).await {
                tracing::warn!(%error, "the paces that were found could not be saved");
            }
        }
    }

    fn saved_paces(&self) -> MutexGuard<'_, HashMap<PathName, Saved>> {
        self.paces_saved.lock().expect("no code panics under this lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::{Blame, Reply};

    fn failure(line: &str) -> Failure {
        let (code, enhanced) = crate::feedback::classify::codes(line);
        let reply = Reply { code: code.expect("a code"), enhanced, text: line.to_owned().into() };
        Failure { blame: Blame::Site, origin: Origin::Remote { command: "MAIL" }, reply }
    }

    #[test]
    fn tells_a_brake_from_a_refusal() {
        for (line, slow) in [
            ("451 4.7.28 rate limited, slow down", true),
            ("421 4.7.0 too many connections from you", true),
            ("421 4.7.0 enough for one connection", false),
            ("451 4.3.2 too busy", true),
            ("450 4.7.1 greylisted, come back later", false),
            ("452 4.2.2 mailbox full", false),
            ("450 4.2.1 user receives mail too quickly", false),
            ("550 5.1.1 no such user", false),
        ] {
            assert_eq!(says_slow(&failure(line), (&Profiles::built_in(), "default")), slow, "{line}");
        }
        let ours = Failure::ours(Blame::Site, EnhancedCode(4, 4, 5), "too many");
        assert!(!says_slow(&ours, (&Profiles::built_in(), "default")));
    }

    #[test]
    fn one_slow_recipient_is_a_slow_message() {
        let slow = || failure("451 4.7.28 rate limited, slow down");
        let no = || Outcome::Failed(failure("550 5.1.1 no such user"));
        let yes = Outcome::Delivered { reply: failure("250 2.0.0 taken").reply };
        let profiles = Profiles::built_in();
        let receiver = (&profiles, "default");
        assert_eq!(answer(&[Some(no()), Some(Outcome::Deferred(slow()))], None, receiver), Answer::Throttled);
        assert_eq!(answer(&[Some(no()), None], None, receiver), Answer::TurnedDown);
        assert_eq!(answer(&[Some(no()), Some(yes)], None, receiver), Answer::Passed);
        assert_eq!(answer(&[None], Some(&slow()), receiver), Answer::Throttled);
        let broken = Failure::ours(Blame::EgressPath, EnhancedCode(4, 4, 2), "connection lost");
        assert_eq!(answer(&[None], Some(&broken), receiver), Answer::Lost);
    }
}
