//! `[reports]`: what senders hear of their mail, and of which streams they hear it by events only.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::check::Check;
use super::{Config, Scope};
use crate::mail::Stream;

/// `[reports]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReportsConfig {
    /// Who asked for it (NOTIFY=DELAY, or [`StreamReportsConfig::delays`]) hears of recipients that have waited so long;
    /// zero: never.
    #[serde(with = "humantime_serde")]
    pub delay_after: Duration,
    /// What some streams want instead; the first match counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stream: Vec<StreamReportsConfig>,
}

impl Default for ReportsConfig {
    fn default() -> ReportsConfig {
        ReportsConfig { delay_after: Duration::from_secs(4 * 3600), stream: Vec::new() }
    }
}

/// One `[[reports.stream]]`: what senders of these streams hear without asking. Who asks by NOTIFY hears what he asked for.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StreamReportsConfig {
    /// Which streams, by tenant, class and campaign.
    #[serde(rename = "match")]
    pub scope: Scope,
    /// How they hear of what failed, expired, is suppressed or came back by mail.
    pub send: ReportsSend,
    /// They hear of delay, too.
    pub delays: bool,
}

/// How a sender hears of what was not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReportsSend {
    /// By a report (RFC 3464) to the envelope sender, and by the event.
    #[default]
    Mail,
    /// By the event only.
    Event,
}

/// What the senders of a stream get by mail if they did not say by NOTIFY (RFC 3461 §4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reporting {
    /// Reports of what was not delivered.
    pub failures: bool,
    /// Reports of what still waits.
    pub delays: bool,
}

impl Default for Reporting {
    fn default() -> Reporting {
        Reporting { failures: true, delays: false }
    }
}

impl ReportsConfig {
    /// What the senders of a stream get by mail.
    pub fn of(&self, stream: &Stream) -> Reporting {
        let row = self.stream.iter().find(|row| row.scope.matches_stream(stream));
        row.map_or_else(Reporting::default, |row| Reporting {
            failures: row.send == ReportsSend::Mail,
            delays: row.delays,
        })
    }
}

/// What is wrong with `[reports]`.
pub(super) fn check(check: &mut Check<'_>, config: &Config) {
    let reports = &config.reports;
    let scopes: Vec<&Scope> = reports.stream.iter().map(|row| &row.scope).collect();
    check.of_streams("reports.stream", &scopes, "senders hear of a whole stream, wherever its mail goes");
    for (index, row) in reports.stream.iter().enumerate().filter(|(_, row)| row.delays) {
        let key = format!("reports.stream[{index}].delays");
        if row.send == ReportsSend::Event {
            check.error(&key, "nothing is mailed to senders of these streams", "remove it, or set send = \"mail\"");
        } else if reports.delay_after.is_zero() {
            check.error(&key, "reports.delay_after is 0s: nobody hears of delay", "remove it, or set delay_after");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Class;

    #[test]
    fn the_first_row_that_matches_counts() {
        let text = "
            [[stream]]
            match = { tenant = 'Shop', class = 'transactional' }
            delays = true
            [[stream]]
            match = { tenant = 'shop' }
            send = 'event'
        ";
        let reports: ReportsConfig = toml::from_str(text).unwrap();
        for (tenant, class, failures, delays) in [
            ("shop", Class::Transactional, true, true),
            ("shop", Class::Bulk, false, false),
            ("press", Class::Bulk, true, false),
            ("", Class::Transactional, true, false),
        ] {
            let stream = Stream { tenant: tenant.into(), class, campaign: "".into() };
            assert_eq!(reports.of(&stream), Reporting { failures, delays }, "{tenant} {class:?}");
        }
    }
}
