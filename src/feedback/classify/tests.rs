use std::collections::HashSet;

use super::*;

#[test]
fn every_rule_has_a_name_of_its_own_and_meets_its_sample() {
    let mut names = HashSet::new();
    for rule in RULES.all() {
        assert!(names.insert(&rule.name), "{} twice", rule.name);
        let verdict = classify_line(&rule.sample, "");
        assert_eq!(verdict.reason, rule.reason, "{}: {verdict:?}", rule.name);
    }
}

#[test]
fn policy_never_counts_against_the_recipient() {
    for line in [
        "550 5.7.515 Access denied, sending domain a.example doesn't meet the required authentication level",
        "550 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org",
        "421 4.7.0 Too many connections",
        "550 5.1.8 Sender address rejected: Domain not found",
        "",
        "550",
        "550 5.0.0",
    ] {
        let verdict = classify_line(line, "");
        assert!(verdict.class == Class::Soft && verdict.blame != Fault::Recipient, "{line}: {verdict:?}");
    }
}

#[test]
fn addresses_do_not_steer() {
    let verdict = classify_line("554 5.7.1 <user-unknown.mailbox-full@spam.example>: Relay access denied", "");
    assert_eq!(verdict.reason, Reason::RelayingDenied);
}

#[test]
fn transient_unknown_users_are_kept() {
    let verdict = classify_line("450 4.1.1 <a@example.com>: user unknown", "");
    assert_eq!((verdict.reason, verdict.class), (Reason::UserUnknown, Class::Soft));
}
