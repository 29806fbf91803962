//! `[suppression]`: who is not mailed any more, and for how long.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::problem::Severity;

/// `[suppression]`: the rules by which what comes back becomes an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SuppressionConfig {
    /// An address that failed for good so many times is not mailed any more; 0: it always is.
    pub hard_bounces: u32,
    /// Within this time.
    #[serde(with = "humantime_serde")]
    pub hard_bounce_window: Duration,
    /// Those that come sooner after the last that counted do not count.
    #[serde(with = "humantime_serde")]
    pub hard_bounce_apart: Duration,
    /// Whose mail is kept away then.
    pub hard_bounce_scope: SuppressionScope,
    /// For how long; 0s: for good.
    #[serde(with = "humantime_serde")]
    pub hard_bounce_keep: Duration,
    /// Whose mail is kept away after a complaint.
    pub complaint_scope: SuppressionScope,
    /// For how long; 0s: for good.
    #[serde(with = "humantime_serde")]
    pub complaint_keep: Duration,
    /// Whose mail is kept away after an unsubscribe.
    pub unsubscribe_scope: SuppressionScope,
    /// For how long; 0s: for good.
    #[serde(with = "humantime_serde")]
    pub unsubscribe_keep: Duration,
    /// Whether an entry for `user@domain` is one for `user+tag@domain` too.
    pub subaddress: bool,
    /// Whether an entry for a domain is one for all below it too.
    pub subdomains: bool,
}

/// How far an entry reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SuppressionScope {
    /// Everybody's mail.
    Global,
    /// The tenant's.
    Tenant,
    /// The tenant's to that list.
    List,
}

impl Default for SuppressionConfig {
    fn default() -> SuppressionConfig {
        SuppressionConfig {
            // Receivers judge a sender by the unknown mailboxes it mails, so the first verdict counts; only what names the
            // mailbox as the reason is one.
            hard_bounces: 1,
            hard_bounce_window: Duration::from_secs(90 * 86_400),
            hard_bounce_apart: Duration::ZERO,
            hard_bounce_scope: SuppressionScope::Global,
            hard_bounce_keep: Duration::ZERO,
            complaint_scope: SuppressionScope::Tenant,
            complaint_keep: Duration::ZERO,
            unsubscribe_scope: SuppressionScope::List,
            unsubscribe_keep: Duration::ZERO,
            subaddress: false,
            subdomains: false,
        }
    }
}

/// More are not counted.
const HARD_BOUNCES_MAX: u32 = 16;

/// What is wrong with it: severity, key, what, and the remedy.
pub(super) fn problems(config: &SuppressionConfig) -> Vec<(Severity, &'static str, String, &'static str)> {
    let mut found = Vec::new();
    let SuppressionConfig { hard_bounces, hard_bounce_window, hard_bounce_apart, .. } = config;
    if *hard_bounces > HARD_BOUNCES_MAX {
        let why = format!("no more than {HARD_BOUNCES_MAX} are counted");
        found.push((Severity::Error, "suppression.hard_bounces", why, "lower it"));
    }
    let needed = hard_bounce_apart.saturating_mul(hard_bounces.saturating_sub(1));
    if *hard_bounces > 1 && needed >= *hard_bounce_window {
        let why = "hard_bounces never come within it, so far apart as they must be".to_owned();
        found.push((Severity::Error, "suppression.hard_bounce_window", why, "raise it, or lower hard_bounce_apart"));
    }
    if *hard_bounces == 0 {
        let why =
            "0: addresses that fail are mailed again and again, which receivers hold against the sender".to_owned();
        found.push((Severity::Warning, "suppression.hard_bounces", why, "set it to 1 or 2"));
    }
    found
}
