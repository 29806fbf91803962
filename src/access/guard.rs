//! Wrong credentials are counted, told of, and answered late.
//!
//! Only the answer to a failure waits, never a check: whoever has the right secret is let in at once, whatever others
//! do at the same address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::AccessError;
use crate::clock::{Clock, Instant};
use crate::telemetry::Metrics;

/// How late the first failure is answered; each further one twice as late.
const DELAY_MIN: Duration = Duration::from_millis(250);

/// The latest answer: within what clients wait for one.
const DELAY_MAX: Duration = Duration::from_secs(5);

/// After so long without a failure, an address starts afresh.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(15 * 60);

/// Addresses remembered. One that is forgotten early only gets its next answer sooner.
const ADDRESSES_MAX: usize = 4096;

/// How a client shows who it is; the label of the metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mechanism {
    Token,
    Password,
    Scram,
    Certificate,
}

/// Why it is not let in. It is not told, but the metric and the log are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    Wrong,
    Expired,
    Disabled,
}

impl Mechanism {
    fn as_str(self) -> &'static str {
        match self {
            Mechanism::Token => "token",
            Mechanism::Password => "password",
            Mechanism::Scram => "scram",
            Mechanism::Certificate => "certificate",
        }
    }
}

impl Why {
    fn as_str(self) -> &'static str {
        match self {
            Why::Wrong => "wrong",
            Why::Expired => "expired",
            Why::Disabled => "disabled",
        }
    }
}

/// What shares a count of failures: an IPv4 address, an IPv6 network of 64 bits (a host has as many addresses in it as it
/// likes), or all clients without an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Origin {
    Address(IpAddr),
    Local,
}

impl Origin {
    fn of(client: Option<IpAddr>) -> Origin {
        match client.map(|client| client.to_canonical()) {
            None => Origin::Local,
            Some(IpAddr::V6(v6)) => Origin::Address(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into()),
            Some(v4) => Origin::Address(v4),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
}

/// Counts failures.
#[derive(Debug)]
pub(super) struct Guard {
    failures: Mutex<HashMap<Origin, Failures>>,
    metrics: Arc<Metrics>,
    clock: Clock,
}

impl Guard {
    pub(super) fn new(metrics: Arc<Metrics>, clock: Clock) -> Guard {
        Guard { failures: Mutex::default(), metrics, clock }
    }

    /// Somebody was let in. Takes no failure back: an attacker with a credential of its own would use that.
    pub(super) fn passed(&self, mechanism: Mechanism) {
        self.metrics.authentications.with_label_values(&["ok", mechanism.as_str()]).inc();
    }

    /// Somebody was not. `who` is a tenant or credential that exists: what else a client sends as its name may be a
    /// secret. Resolves when it is time to answer, to the answer.
    pub(super) async fn failed(
        &self,
        mechanism: Mechanism,
        why: Why,
        client: Option<IpAddr>,
        who: Option<&str>,
    ) -> AccessError {
        tokio::time::sleep(self.count(mechanism, why, client, who)).await;
        AccessError::Unauthenticated
    }

    /// A certificate that is good stands for nobody, or nobody who may. It cannot be guessed at: nothing waits.
    pub(super) fn certificate_refused(&self, why: Why, names: &[String]) {
        self.metrics.authentications.with_label_values(&[why.as_str(), Mechanism::Certificate.as_str()]).inc();
        tracing::info!(?names, reason = why.as_str(), "a client certificate stands for no tenant");
    }

    /// Counts a failure; how late it is to be answered.
    pub(super) fn count(&self, mechanism: Mechanism, why: Why, client: Option<IpAddr>, who: Option<&str>) -> Duration {
        self.metrics.authentications.with_label_values(&[why.as_str(), mechanism.as_str()]).inc();
        let failures = self.remember(Origin::of(client), self.clock.instant());
        // Not a line for each: the log is not the attacker's to fill.
        if failures.is_power_of_two() {
            let (client, mechanism, reason) = (client.map(tracing::field::display), mechanism.as_str(), why.as_str());
            tracing::info!(client, mechanism, reason, credential = who, failures, "authentication failed");
        }
        DELAY_MIN.saturating_mul(1 << (failures - 1).min(16)).min(DELAY_MAX)
    }

    fn remember(&self, origin: Origin, now: Instant) -> u32 {
        let mut known = self.failures.lock().expect("no code panics under this lock");
        if known.len() >= ADDRESSES_MAX && !known.contains_key(&origin) {
            known.retain(|_, failures| now.duration_since(failures.last) < FORGOTTEN_AFTER);
            let oldest = known.iter().min_by_key(|(_, failures)| failures.last).map(|(origin, _)| *origin);
            if let Some(oldest) = oldest.filter(|_| known.len() >= ADDRESSES_MAX) {
                known.remove(&oldest);
            }
        }
        let failures = known.entry(origin).or_insert(Failures { count: 0, last: now });
        if now.duration_since(failures.last) >= FORGOTTEN_AFTER {
            failures.count = 0;
        }
        *failures = Failures { count: failures.count.saturating_add(1), last: now };
        failures.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard() -> Guard {
        Guard::new(Arc::new(Metrics::new()), Clock)
    }

    fn fail(guard: &Guard, client: &str) -> u128 {
        let client = Some(client.parse().expect("an address"));
        guard.count(Mechanism::Token, Why::Wrong, client, None).as_millis()
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_answered_later_and_later() {
        let guard = guard();
        let delays: Vec<_> = (0..7).map(|_| fail(&guard, "192.0.2.1")).collect();
        assert_eq!(delays, [250, 500, 1000, 2000, 4000, 5000, 5000]);
        assert_eq!(fail(&guard, "192.0.2.2"), 250, "another address");
        assert_eq!(fail(&guard, "::ffff:192.0.2.2"), 500, "the same in other clothes");
        assert_eq!((fail(&guard, "2001:db8::1"), fail(&guard, "2001:db8::ffff:2")), (250, 500), "one network");
        assert_eq!(fail(&guard, "2001:db8:0:1::1"), 250, "another network");
        tokio::time::advance(FORGOTTEN_AFTER).await;
        assert_eq!(fail(&guard, "192.0.2.1"), 250, "forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn the_answer_comes_when_it_is_time() {
        let (guard, start) = (guard(), Clock.instant());
        let answer = guard.failed(Mechanism::Scram, Why::Expired, None, Some("shop")).await;
        assert_eq!((answer, start.elapsed()), (AccessError::Unauthenticated, DELAY_MIN));
        let text = guard.metrics.render();
        assert!(text.contains("posthaste_authentications_total{mechanism=\"scram\",result=\"expired\"} 1"), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded() {
        let guard = guard();
        for n in 0..ADDRESSES_MAX as u32 + 10 {
            guard.count(Mechanism::Token, Why::Wrong, Some(IpAddr::V4(n.into())), None);
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(guard.failures.lock().expect("free").len(), ADDRESSES_MAX);
        assert_eq!(fail(&guard, "0.0.0.0"), 250, "the oldest was forgotten");
    }
}
