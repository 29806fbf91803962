//! When the sender is to hear that a message still waits.

use crate::clock::Timestamp;
use crate::config::{Reporting, ReportsConfig};
use crate::mail::{Envelope, Recipient};

/// When a report of delay is due about a message that still waits then. The client's own time, where it gave one
/// (RFC 2852 §4, mode N); otherwise `delay_after` from when it could be tried, where zero means never.
///
/// `None`: nobody wants one. There is none about a report itself (RFC 3461 §6.2), and the queue makes one for each
/// recipient at most.
pub fn delay_report_due(original: &Envelope, reports: &ReportsConfig) -> Option<Timestamp> {
    original.reverse_path.address()?;
    let (reporting, delay_after) = (reports.of(&original.stream), reports.delay_after);
    original.recipients.iter().find(|recipient| is_wanted(original, recipient, reporting))?;
    let configured = || {
        let waits_since = original.accepted_at.max(original.not_before);
        (!delay_after.is_zero()).then(|| waits_since.after(delay_after))
    };
    original.delay_report_at.or_else(configured)
}

/// Whether the sender wants to hear that this recipient waits: who said NOTIFY hears what it says (RFC 3461 §4.1), who
/// did not only if the message has a time for it, or its stream wants that.
pub(super) fn is_wanted(original: &Envelope, recipient: &Recipient, reporting: Reporting) -> bool {
    recipient.notify.map_or(original.delay_report_at.is_some() || reporting.delays, |notify| notify.delay)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::StreamReportsConfig;
    use crate::feedback::report::tests::{ACCEPTED, envelope, recipient};
    use crate::mail::Notify;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn is_due_when_it_was_asked_for() {
        let at = |hours| Some(ACCEPTED.after(hours * HOUR));
        let delay = Some(Notify { delay: true, ..Notify::default() });
        let failure = Some(Notify { failure: true, ..Notify::default() });
        for (sender, notify, by, held, configured, expected) in [
            ("a@us.example", None, None, 0, 4, None),
            ("a@us.example", failure, None, 0, 4, None),
            ("a@us.example", delay, None, 0, 4, at(4)),
            ("a@us.example", delay, None, 0, 0, None),
            ("a@us.example", delay, None, 24, 4, at(28)),
            ("a@us.example", delay, at(1), 0, 4, at(1)),
            ("a@us.example", None, at(1), 0, 0, at(1)),
            ("a@us.example", failure, at(1), 0, 4, None),
            ("a@us.example", Some(Notify::default()), at(1), 0, 4, None),
            ("", delay, at(1), 0, 4, None),
        ] {
            let mut original = envelope(sender, vec![recipient("b@them.example")]);
            original.recipients[0].notify = notify;
            original.delay_report_at = by;
            original.not_before = ACCEPTED.after(held * HOUR);
            let mut reports = ReportsConfig { delay_after: configured * HOUR, ..ReportsConfig::default() };
            let due = delay_report_due(&original, &reports);
            assert_eq!(due, expected, "{sender:?} {notify:?} {by:?} {held} {configured}");
            // A stream that wants to hear of delay speaks for who did not say.
            reports.stream.push(StreamReportsConfig { delays: true, ..StreamReportsConfig::default() });
            let unsaid = notify.is_none() && by.is_none() && !sender.is_empty();
            let wanted = if unsaid { at(4) } else { expected };
            assert_eq!(delay_report_due(&original, &reports), wanted, "{sender:?} {notify:?} {by:?} {held}");
        }
    }
}
