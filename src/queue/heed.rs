//! What a reply asks of us beside its verdict: to wait so long, to leave one mailbox alone, to read "never" as "later", to
//! send nothing more for a while.
//!
//! The provider's profile says so ([`Profiles::advise`]); this carries it out. Delivery has judged before what the reply
//! means for the recipient, and the retry schedule says when to come again unless a wait is named.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;

use super::steer::NewOrder;
use super::{Queue, RetryPolicy};
use crate::clock::Timestamp;
use crate::config::Scope;
use crate::mail::{Class, Failure, Origin, Outcome, Reply, Stream};
use crate::routing::{HopHost, Route, SourceId};
use crate::shaping::orders::Deed;
use crate::shaping::provider::{Action, Advice, Profiles};
use crate::telemetry::Metrics;

/// After so many attempts a short wait is no longer believed: the schedule counts if it is longer.
const BELIEVED: u16 = 5;

/// Of a reply, as much is told as the reason of a pause.
const REASON_MAX: usize = 300;

/// The route, with the provider whose hosts these are.
pub(super) fn with_provider(profiles: &Profiles, mut route: Arc<Route>) -> Arc<Route> {
    if !route.fixed {
        let names = route.hops.iter().map(|hop| match &hop.host {
            HopHost::Domain(domain) => domain.as_str(),
            // Nobody's.
            HopHost::Address(_) => "",
        });
        let provider = profiles.of_hosts(names).name;
        if provider != route.provider {
            Arc::make_mut(&mut route).provider = provider;
        }
    }
    route
}

/// Reads the replies of one attempt; the same one that many recipients got, once.
pub(super) struct Reader<'a> {
    profiles: &'a Profiles,
    provider: &'a str,
    last: Option<(Reply, Advice<'a>)>,
}

impl<'a> Reader<'a> {
    /// For a site of this provider.
    pub(super) fn new(profiles: &'a Profiles, provider: &'a str) -> Reader<'a> {
        Reader { profiles, provider, last: None }
    }

    /// What the receiver asks of us; `None` if it was not the receiver that spoke, or it did not refuse.
    pub(super) fn read(&mut self, outcome: &Outcome) -> Option<&Advice<'a>> {
        match outcome {
            Outcome::Delivered { .. } => None,
            Outcome::Deferred(failure) | Outcome::Failed(failure) => self.read_failure(failure),
        }
    }

    /// The same of a failure.
    pub(super) fn read_failure(&mut self, failure: &Failure) -> Option<&Advice<'a>> {
        if failure.origin == Origin::Local {
            return None;
        }
        if self.last.as_ref().is_none_or(|(reply, _)| *reply != failure.reply) {
            let advice = self.profiles.advise(self.provider, &failure.reply);
            self.last = Some((failure.reply.clone(), advice));
        }
        self.last.as_ref().map(|(_, advice)| advice)
    }
}

/// What becomes of an outcome when the receiver means something else than its code says.
pub(super) fn reread(outcome: Option<Outcome>, advice: Option<&Advice<'_>>) -> Option<Outcome> {
    match (outcome, advice) {
        (Some(Outcome::Failed(failure)), Some(advice)) if advice.transient => Some(Outcome::Deferred(failure)),
        (outcome, _) => outcome,
    }
}

/// How long to wait for the next attempt as the receiver asks; `None`: by the schedule. `attempts`: those before this one.
/// What the receiver did not name itself is no longer than the schedule's longest wait.
pub(super) fn wait(advice: Option<&Advice<'_>>, retry: &RetryPolicy, attempts: u16) -> Option<Duration> {
    let advice = advice?;
    let wait = match advice.action {
        // The source waits, not the recipient: the line goes on when the pause is over, or by another source.
        Action::PauseSource | Action::PauseStream if !advice.named => return None,
        _ if advice.named => advice.wait?,
        _ => advice.wait?.min(retry.delay_max()),
    };
    (attempts < BELIEVED || wait >= Duration::from_secs(3600)).then_some(wait)
}

/// When to come again: after the wait asked for, or by the schedule.
pub(super) fn delay(wait: Option<Duration>, retry: &RetryPolicy, attempts: u16, chance: &mut impl Rng) -> Duration {
    match wait {
        Some(wait) => retry.after_wait(wait, chance),
        None => retry.delay(u32::from(attempts) + 1, chance),
    }
}

impl Queue {
    /// Pauses what the replies to one attempt ask to pause. They are orders like an operator's: `posthaste queue orders` shows
    /// them, `resume` takes them back. Without a `stream` there was no message yet.
    pub(super) fn heed(
        self: &Arc<Queue>,
        source: SourceId,
        route: &Route,
        stream: Option<&Stream>,
        outcomes: &[Option<Outcome>],
        ended: Option<&Failure>,
    ) {
        let refusals = outcomes.iter().flatten().filter_map(|outcome| match outcome {
            Outcome::Delivered { .. } => None,
            Outcome::Deferred(failure) | Outcome::Failed(failure) => Some(failure),
        });
        let mut refusals = refusals.chain(ended).peekable();
        if refusals.peek().is_none() {
            return;
        }
        let parts = self.parts.load();
        let mut reader = Reader::new(&parts.profiles, route.provider);
        for failure in refusals {
            let Some(advice) = reader.read_failure(failure) else { continue };
            let scope = match (advice.action, stream) {
                (Action::PauseSource, _) => Scope {
                    source: Some(parts.egress.source(source).name.to_string()),
                    site: Some(route.site.to_string()),
                    ..Scope::default()
                },
                (Action::PauseStream, Some(stream)) if may_be_paused(stream) => Scope {
                    provider: Some(route.provider.to_owned()),
                    tenant: Some(stream.tenant.to_string()),
                    class: Some(stream.class),
                    campaign: Some(stream.campaign.to_string()),
                    ..Scope::default()
                },
                _ => continue,
            };
            self.pause(scope, advice, failure);
        }
    }

    fn pause(self: &Arc<Queue>, scope: Scope, advice: &Advice<'_>, failure: &Failure) {
        let lasts = advice.wait.unwrap_or(Duration::from_secs(900));
        if self.is_paused(&scope, self.clock.timestamp().after(lasts / 2)) {
            return;
        }
        let mut reason = format!("{}: {}", advice.rule, failure.reply);
        reason.truncate(reason.floor_char_boundary(REASON_MAX));
        let by = format!("profile {}", advice.provider);
        self.order_at_once(NewOrder { deed: Deed::Pause, scope, reason, by, lasts: Some(lasts) });
    }

    /// Whether it is paused until then anyway. Sessions are told the same at the same time.
    fn is_paused(&self, scope: &Scope, until: Timestamp) -> bool {
        let now = self.now();
        let mut scheduler = self.lock();
        let pause = scheduler.steering().orders.pause(now, &scope.subject());
        pause.is_some_and(|pause| pause.until.is_none_or(|end| end >= until))
    }
}

/// A newsletter may be paused for what one reply says of it. A password reset never, nor mail of which nobody said what
/// it belongs to: that would be everything.
fn may_be_paused(stream: &Stream) -> bool {
    !stream.campaign.is_empty() || stream.class == Class::Bulk
}

/// Counts what was read.
pub(super) fn count(metrics: &Metrics, advice: &Advice<'_>, provider: &str) {
    let labels = [provider, advice.reason.as_str(), advice.action.as_str()];
    metrics.refusals.with_label_values(&labels).inc();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RetryConfig;
    use crate::mail::{Blame, EnhancedCode};

    fn failure(line: &str) -> Failure {
        let (code, enhanced) = crate::mail::wording::codes(line);
        let reply = Reply { code: code.unwrap(), enhanced, text: line.to_owned().into() };
        Failure { blame: Blame::Recipient, origin: Origin::Remote { command: "RCPT" }, reply }
    }

    fn check(provider: &str, line: &str, attempts: u16, expected: &str) {
        let profiles = Profiles::built_in();
        let mut reader = Reader::new(&profiles, provider);
        let failure = failure(line);
        let given = if failure.reply.is_permanent() { Outcome::Failed(failure) } else { Outcome::Deferred(failure) };
        let advice = reader.read(&given).cloned();
        let kind = match reread(Some(given), advice.as_ref()) {
            Some(Outcome::Failed(_)) => "failed",
            Some(Outcome::Deferred(_)) => "deferred",
            Some(Outcome::Delivered { .. }) | None => "?",
        };
        let retry = RetryPolicy::new(&RetryConfig::default());
        let wait =
            wait(advice.as_ref(), &retry, attempts).map_or("by schedule".into(), |wait| format!("{}s", wait.as_secs()));
        assert_eq!(format!("{kind}, {wait}"), expected, "{provider} {attempts}: {line}");
    }

    #[test]
    fn waits_as_long_as_the_receiver_asks() {
        for (provider, line, attempts, expected) in [
            ("default", "450 4.7.1 Greylisted, try again in 60 seconds", 0, "deferred, 60s"),
            ("default", "450 4.7.1 Greylisted", 0, "deferred, 300s"),
            // Whoever greylists for ever is asked ever more rarely.
            ("default", "450 4.7.1 Greylisted", 5, "deferred, by schedule"),
            ("default", "452 4.2.2 Over quota", 9, "deferred, 14400s"),
            ("default", "450 4.2.1 too much", 0, "deferred, 3600s"),
            ("default", "451 4.3.0 come back later", 0, "deferred, by schedule"),
            ("default", "550 5.1.1 no such user", 0, "failed, by schedule"),
            (
                "outlook",
                "554 5.2.122 The recipient has exceeded their limit for the number of messages they can receive per hour.",
                0,
                "deferred, 3600s",
            ),
            (
                "yahoo",
                "421 4.7.0 [TSS04] Messages from 192.0.2.25 temporarily deferred due to user complaints",
                0,
                "deferred, by schedule",
            ),
            (
                "google",
                "451 4.3.0 Multiple destination domains per transaction is unsupported. Please try again.",
                0,
                "deferred, 5s",
            ),
        ] {
            check(provider, line, attempts, expected);
        }
    }

    #[test]
    fn a_wait_that_nobody_named_is_no_longer_than_the_schedules() {
        let profiles = Profiles::built_in();
        let second = Duration::from_secs(1);
        let retry = RetryPolicy::new(&RetryConfig { delay_min: second, delay_max: second, ..RetryConfig::default() });
        for (line, expected) in [("450 greylisted", 1), ("450 greylisted, come back in 00:01:00", 60)] {
            let failure = failure(line);
            let advice = Reader::new(&profiles, "default").read_failure(&failure).cloned();
            assert_eq!(wait(advice.as_ref(), &retry, 0), Some(Duration::from_secs(expected)), "{line}");
        }
    }

    #[test]
    fn our_own_words_ask_for_nothing() {
        let profiles = Profiles::built_in();
        let ours = Failure::ours(Blame::Site, EnhancedCode(4, 4, 1), "try again in 300 seconds");
        assert_eq!(Reader::new(&profiles, "default").read_failure(&ours), None);
    }
}
