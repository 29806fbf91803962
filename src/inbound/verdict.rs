//! What a report says of the recipient that we sent to. Pure.

use crate::feedback::bounce::{Action, Bounced};
use crate::feedback::classify::{Class, Fault};
use crate::mail::EnvelopeAddress;

/// What a report comes to for one recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Said<'a> {
    /// The entry that tells of it.
    pub(super) bounced: &'a Bounced,
    /// The address is dead.
    pub(super) hard: bool,
}

/// Whether an entry speaks of that address.
pub(super) fn names(bounced: &Bounced, address: &EnvelopeAddress) -> bool {
    let address = address.to_string();
    let same = |text: &str| text.to_lowercase() == address.to_lowercase();
    same(&bounced.recipient) || bounced.original.as_deref().is_some_and(same)
}

/// Whether an entry says that the address is dead: a failure for good, and the recipient's own.
fn is_hard(bounced: &Bounced) -> bool {
    bounced.action == Action::Failed
        && bounced.verdict.class == Class::Hard
        && bounced.verdict.blame == Fault::Recipient
}

/// What the report says of the one recipient that the token names, or of `address` if that is known. Where it was forwarded
/// the report may name others instead; where it is an alias, several. It is dead only if all of them are.
pub(super) fn of_one<'a>(report: &'a [Bounced], address: Option<&EnvelopeAddress>) -> Option<Said<'a>> {
    let named: Vec<&Bounced> = match address {
        Some(address) => report.iter().filter(|one| names(one, address)).collect(),
        None => Vec::new(),
    };
    let about = if named.is_empty() { report.iter().collect() } else { named };
    let hard = about.iter().all(|one| is_hard(one));
    let told = about.iter().find(|one| is_hard(one) == hard).or(about.first())?;
    Some(Said { bounced: told, hard })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feedback::classify::classify_line;

    /// `recipient|original|action|line`
    fn report(lines: &[&str]) -> Vec<Bounced> {
        let entry = |line: &&str| {
            let parts: Vec<&str> = line.split('|').collect();
            let [recipient, original, action, line] = parts[..] else { panic!("{line}") };
            let action = match action {
                "failed" => Action::Failed,
                "delayed" => Action::Delayed,
                "expanded" => Action::Expanded,
                "relayed" => Action::Relayed,
                _ => Action::Delivered,
            };
            Bounced {
                recipient: recipient.into(),
                original: Some(original).filter(|original| !original.is_empty()).map(Into::into),
                action,
                status: None,
                reply: None,
                verdict: classify_line(line, ""),
                diagnostic: line.into(),
                host: String::new(),
            }
        };
        lines.iter().map(entry).collect()
    }

    #[track_caller]
    fn check(lines: &[&str], expected: Option<(usize, bool)>) {
        let report = report(lines);
        let address: EnvelopeAddress = "a@them.example".parse().unwrap();
        let said = of_one(&report, Some(&address));
        let place = |said: Said<'_>| report.iter().position(|one| std::ptr::eq(one, said.bounced)).unwrap();
        assert_eq!(said.map(|said| (place(said), said.hard)), expected);
    }

    const DEAD: &str = "550 5.1.1 user unknown";
    const FULL: &str = "552 5.2.2 mailbox full";

    #[test]
    fn only_a_dead_recipient_is_hard() {
        let line = |recipient: &str, action: &str, said: &str| format!("{recipient}||{action}|{said}");
        check(&[&line("a@them.example", "failed", DEAD)], Some((0, true)));
        check(&[&line("A@THEM.example", "failed", DEAD)], Some((0, true)));
        check(&[&line("a@them.example", "failed", FULL)], Some((0, false)));
        check(&[&line("a@them.example", "failed", "550 5.7.1 blocked by policy")], Some((0, false)));
        for action in ["delayed", "relayed", "delivered", "expanded"] {
            check(&[&line("a@them.example", action, DEAD)], Some((0, false)));
        }
        check(&[], None);
    }

    #[test]
    fn others_in_the_report_do_not_count_if_it_names_ours() {
        let (ours, other) = (format!("a@them.example||failed|{FULL}"), format!("b@them.example||failed|{DEAD}"));
        check(&[&other, &ours], Some((1, false)));
        let forwarded = format!("b@elsewhere.example|a@them.example|failed|{DEAD}");
        check(&[&other, &forwarded], Some((1, true)));
        // The original recipient was lost on the way.
        check(&[&other], Some((0, true)));
    }

    #[test]
    fn an_alias_of_which_one_lives_is_alive() {
        let (dead, alive) = (
            format!("x@elsewhere.example|a@them.example|failed|{DEAD}"),
            "y@e.example|a@them.example|delivered|250 ok",
        );
        check(&[&dead, alive], Some((1, false)));
        let full = format!("y@e.example|a@them.example|failed|{FULL}");
        check(&[&dead, &full], Some((1, false)));
        check(&[&dead, &dead], Some((0, true)));
        let lost = [format!("x@elsewhere.example||failed|{DEAD}"), format!("y@elsewhere.example||failed|{FULL}")];
        check(&[&lost[0], &lost[1]], Some((1, false)));
    }
}
