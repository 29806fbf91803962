//! The profiles say what a reply asks of us, `config/replies/` what it means. Both give a reason, and the queue asks both: the
//! one for its schedule, the other for what it learns of lists and sources. Here is where they differ.

use std::path::PathBuf;

use super::super::{BUILT_IN, Profiles, file};
use crate::feedback::bounce::score;
use crate::feedback::classify::{Class, Permanence, Reason, classify_line};
use crate::mail::wording::codes;

/// Replies on which they differ: the profile, the beginning of the reply, what the profile says, what the replies' table says,
/// why both stand.
const DIFFERENCES: [(&str, &str, &str, &str, &str); 3] = [
    (
        "apple",
        "421 4.7.0 me.com Error: too many errors",
        "rate-limit",
        "blocked-ip",
        "it asks for a slower pace; elsewhere the same words end sessions of hosts that are not wanted. Both brake.",
    ),
    (
        "comcast",
        "450 4.2.0 <example@comcast.net> - Recipient temporarily unavailable",
        "other",
        "system-error",
        "nobody says why; the code says \"other mailbox trouble\". Neither is the recipient's fault, neither brakes.",
    ),
    (
        "qq",
        "550 Suspected spam ip.",
        "spam-block",
        "blocked-ip",
        "its page speaks of content, the words of the address. Both brake.",
    ),
];

/// What the queue learns of a reason: that an address is dead, that the source is not wanted, nothing.
fn learned(reason: Reason) -> u8 {
    match reason {
        reason if reason.is_lasting() => 0,
        Reason::RateLimit | Reason::BlockedIp | Reason::SpamBlock => 1,
        _ => 2,
    }
}

/// Every sample of every rule compiled in, with the name of its profile.
fn samples() -> Vec<(String, String)> {
    let (merged, _) = file::merge(BUILT_IN.iter().map(|(name, text)| (PathBuf::from(name), *text)));
    let rules = merged.iter().flat_map(|profile| profile.rules.iter().map(|rule| (profile.name.to_string(), rule)));
    rules.flat_map(|(name, rule)| rule.rule.sample.iter().map(move |line| (name.clone(), line.clone()))).collect()
}

/// What the tables of replies call a profile, and the other way round.
fn hint(profile: &str) -> &str {
    if matches!(profile, "outlook" | "microsoft365") { "microsoft" } else { profile }
}

fn profile(hint: &str) -> &str {
    match hint {
        "microsoft" => "outlook",
        "mail.ru" => "mailru",
        other => other,
    }
}

/// The differences among replies, each with who is asked and how the table calls it.
fn differences<'a>(replies: impl Iterator<Item = (&'a str, &'a str, &'a str)>) -> Vec<[String; 4]> {
    let profiles = Profiles::built_in();
    let mut found = Vec::new();
    for (profile, hint, line) in replies {
        let (code, enhanced) = codes(line);
        let advice = profiles.advise_text(profile, code, enhanced, line);
        let verdict = classify_line(line, hint);
        if advice.rule.is_empty()
            || verdict.reason == advice.reason && !(advice.transient && verdict.class == Class::Hard)
        {
            continue;
        }
        found.push([profile, line, advice.reason.as_str(), verdict.reason.as_str()].map(str::to_owned));
    }
    found
}

#[test]
fn profiles_and_replies_differ_only_where_it_is_said_why() {
    let samples: Vec<(String, String)> = samples();
    let table = include_str!("../../../../tests/data/smtp-replies.tsv");
    let rows = score::rows(table);
    let tuned = rows.iter().filter(|row| !score::is_held_out(row["source"]));
    let replies = samples
        .iter()
        .map(|(name, line)| (name.as_str(), hint(name), line.as_str()))
        .chain(tuned.map(|row| (profile(row["provider"]), row["provider"], row["reply"])));
    let mut wrong: Vec<String> = Vec::new();
    let mut met = [false; DIFFERENCES.len()];
    for [profile, line, one, other] in differences(replies) {
        let listed = DIFFERENCES
            .iter()
            .position(|known| known.0 == profile && line.starts_with(known.1) && known.2 == one && known.3 == other);
        match listed {
            Some(place) => met[place] = true,
            None => wrong.push(format!("{profile}: {one}, replies: {other}: {line}")),
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert_eq!(met, [true; DIFFERENCES.len()], "a difference is gone: take it from the list");
}

/// The same among replies that nobody looked at: only counted.
#[test]
fn profiles_and_replies_seldom_differ_among_others() {
    let table = include_str!("../../../../tests/data/smtp-replies.tsv");
    let rows = score::rows(table);
    let others = rows.iter().filter(|row| score::is_held_out(row["source"]));
    let found = differences(others.map(|row| (profile(row["provider"]), row["provider"], row["reply"])));
    assert!(found.len() <= 3, "{} differ", found.len());
}

#[test]
fn what_they_differ_in_teaches_the_queue_the_same() {
    for (_, reply, one, other, why) in DIFFERENCES {
        let reason = |name: &str| Reason::ALL.into_iter().find(|reason| reason.as_str() == name).expect("a reason");
        assert_eq!(learned(reason(one)), learned(reason(other)), "{reply}");
        assert!(!why.is_empty());
    }
}

#[test]
fn no_profile_waits_for_what_is_dead_for_good() {
    let profiles = Profiles::built_in();
    for (name, line) in samples() {
        let (code, enhanced) = codes(&line);
        let verdict = classify_line(&line, hint(&name));
        let advice = profiles.advise_text(&name, code, enhanced, &line);
        let dead = verdict.class == Class::Hard && verdict.permanence == Permanence::Permanent;
        assert!(!dead || !advice.transient, "{name}: {line}");
    }
}
