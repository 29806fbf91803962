//! What cannot be meant so in rules and limits, told with line and remedy.
//!
//! - *unreachable*: an earlier rule takes all that a rule is for;
//! - *overlapping*: it takes some of it, or says the same again;
//! - *contradictory*: two rules say different things of one text, or the conditions of one cannot hold together;
//! - *unmatched*: a sample that its rule does not match, or that another rule takes first.

use super::file::{Merged, OwnedRule, RuleFile};
use super::rules::RuleBook;
use super::{Action, DEFAULT};
use crate::config::{Problem, RateLimit, Severity};
use crate::mail::wording::{codes, comparable, spread};

/// Looks at all profiles. The default one is the first; its rules stand behind those of every other.
pub(super) fn lint(profiles: &[Merged], book: &RuleBook, problems: &mut Vec<Problem>) {
    if let Some(last) = profiles.last().filter(|_| book.is_too_large()) {
        problems.push(last.origin.error("rule", "the texts of all rules are too many", "shorten the lists"));
        return;
    }
    for (place, profile) in profiles.iter().enumerate() {
        numbers(profile, problems);
        for (at, rule) in profile.rules.iter().enumerate() {
            alone(rule, problems);
            let earlier = &profile.rules[..at];
            if let Some(twin) = earlier.iter().find(|other| other.rule.name == rule.rule.name) {
                let why = format!("there is another rule {}", twin.rule.name);
                problems.push(rule.problem(Severity::Error, "name", why, "give each rule a name of its own"));
            }
            among(rule, earlier, problems);
            samples(place, profile, rule, book, problems);
        }
    }
}

/// Limits and bounds.
fn numbers(profile: &Merged, problems: &mut Vec<Problem>) {
    let origin = &profile.origin;
    let (limits, bounds) = (&profile.limits, &profile.bounds);
    for (key, value) in [
        ("limits.connections", limits.connections),
        ("limits.messages_per_connection", limits.messages_per_connection),
        ("limits.recipients_per_transaction", limits.recipients_per_transaction),
        ("controller.connections_floor", bounds.connections_floor),
        ("controller.connections_ceiling", bounds.connections_ceiling),
    ] {
        if value == Some(0) {
            problems.push(origin.error(key, "0 lets nothing through", "set a limit of at least 1"));
        }
    }
    if let (Some(floor), Some(ceiling)) = (bounds.connections_floor, bounds.connections_ceiling)
        && floor > ceiling
    {
        let why = format!("{floor} is more than connections_ceiling ({ceiling})");
        problems.push(origin.error("controller.connections_floor", why, "lower it"));
    }
    if let (Some(floor), Some(ceiling)) = (bounds.rate_floor, bounds.rate_ceiling)
        && per_second(floor) > per_second(ceiling)
    {
        let why = format!("{floor} is more than rate_ceiling ({ceiling})");
        problems.push(origin.error("controller.rate_floor", why, "lower it"));
    }
    if let (Some(floor), Some(limit)) = (bounds.connections_floor, limits.connections)
        && floor > limit
    {
        let why = format!("{floor} is more than limits.connections ({limit}), which holds");
        problems.push(origin.warning("controller.connections_floor", why, "lower it"));
    }
    if let (Some(floor), Some(limit)) = (bounds.rate_floor, limits.messages)
        && per_second(floor) > per_second(limit)
    {
        let why = format!("{floor} is more than limits.messages ({limit}), which holds");
        problems.push(origin.warning("controller.rate_floor", why, "lower it"));
    }
}

fn per_second(rate: RateLimit) -> f64 {
    rate.amount as f64 / rate.period.as_secs_f64()
}

/// A rule by itself.
fn alone(owned: &OwnedRule, problems: &mut Vec<Problem>) {
    let rule = &owned.rule;
    let mut error = |key: &str, why: String, remedy: &str| {
        problems.push(owned.problem(Severity::Error, key, why, remedy));
    };
    if rule.code.is_empty() && rule.enhanced.is_empty() && rule.any.is_empty() {
        let why = "it would take every reply".to_owned();
        error("", why, "say which: any = [ … ], code = [ … ] or enhanced = [ … ]");
    }
    for (index, code) in rule.code.iter().enumerate() {
        let digits = code.len() <= 3 && code.bytes().all(|b| b.is_ascii_digit()) && code.starts_with(['4', '5']);
        if !digits {
            let why = format!("{code:?} is no beginning of a reply code that refuses");
            error(&format!("code[{index}]"), why, "write it as \"421\" or \"4\"");
        }
    }
    for (index, name) in rule.enhanced.iter().enumerate() {
        if spread(name).is_empty() {
            let why = format!("{name:?} is no enhanced code");
            error(&format!("enhanced[{index}]"), why, "write it as \"4.7.28\", \"x.2.2\" or \"4.7.650-652\"");
        }
    }
    let enhanced: Vec<_> = rule.enhanced.iter().flat_map(|name| spread(name)).collect();
    let agree = |code: &String| enhanced.iter().any(|enhanced| code.starts_with(&enhanced.0.to_string()));
    if !rule.code.is_empty() && !enhanced.is_empty() && !rule.code.iter().any(agree) {
        error("enhanced", "no code of these goes with one in code".into(), "give both the same first digit");
    }
    for (key, texts) in [("any", &rule.any), ("unless", &rule.unless)] {
        for (index, text) in texts.iter().enumerate() {
            for part in text.split(" & ") {
                let meant = comparable(part);
                if meant.trim() != part.trim() || part.trim().is_empty() {
                    let why = format!("{part:?} stands in no text as it is compared");
                    error(&format!("{key}[{index}]"), why, &format!("write it as {:?}", meant.trim()));
                }
            }
        }
    }
    for (index, any) in rule.any.iter().enumerate() {
        if let Some(unless) = rule.unless.iter().find(|unless| covers_text(unless, any)) {
            let why = format!("{any:?} contradicts unless = {unless:?}: they cannot both hold");
            error(&format!("any[{index}]"), why, "remove one of the two");
        }
    }
    if rule.sample.is_empty() {
        error("sample", "there is none".into(), "give at least one reply that the rule is for");
    }
    let all_transient = !rule.code.is_empty() && rule.code.iter().all(|code| code.starts_with('4'));
    if rule.transient && all_transient {
        let why = "its codes say \"later\" anyway".to_owned();
        problems.push(owned.problem(Severity::Warning, "transient", why, "remove it"));
    }
    let only_permanent = !rule.code.is_empty() && rule.code.iter().all(|code| code.starts_with('5'));
    let for_waiting = matches!(rule.action, Action::MailboxWait | Action::Greylist);
    if for_waiting && only_permanent && !rule.transient {
        let why = format!("{} has nobody to wait: a reply with these codes is final", rule.action.as_str());
        problems.push(owned.problem(Severity::Error, "action", why, "set transient = true, or action = \"none\""));
    }
}

/// A rule among those that are asked before it.
fn among(owned: &OwnedRule, earlier: &[OwnedRule], problems: &mut Vec<Problem>) {
    let rule = &owned.rule;
    let nothing = [String::new()];
    let texts: &[String] = if rule.any.is_empty() { &nothing } else { &rule.any };
    let mut lost = 0;
    let mut overlaps = Vec::new();
    let first =
        |text: &str| earlier.iter().find(|other| takes(&other.rule, rule, text)).filter(|other| !other.is_over(owned));
    for (index, text) in texts.iter().enumerate() {
        let Some(other) = first(text) else { continue };
        lost += 1;
        let same = other.rule.any.contains(text) && !text.is_empty();
        let key = if text.is_empty() { String::new() } else { format!("any[{index}]") };
        let agree = (other.rule.action, other.rule.reason) == (rule.action, rule.reason);
        let (severity, why) = match (same, agree) {
            (true, false) => {
                let (name, action) = (&other.rule.name, other.rule.action.as_str());
                let why = format!("{text:?} contradicts rule {name}, which makes {action} of it and is asked first");
                (Severity::Error, why)
            }
            _ => (Severity::Warning, format!("{text:?} overlaps: rule {} takes it first", other.rule.name)),
        };
        overlaps.push(owned.problem(severity, &key, why, "remove it from one of the two, or ask this rule first"));
    }
    let contradicts = overlaps.iter().any(|problem| problem.severity == Severity::Error);
    if lost == texts.len() && !contradicts {
        let mut names: Vec<&str> =
            texts.iter().filter_map(|text| first(text)).map(|other| other.rule.name.as_str()).collect();
        names.dedup();
        let why = format!("it is never reached: {} before it takes all that it is for", names.join(", "));
        overlaps = vec![owned.problem(Severity::Error, "", why, "move it up, or remove it")];
    }
    problems.append(&mut overlaps);
}

/// Whether `other` matches whatever `rule` matches by `text`.
fn takes(other: &RuleFile, rule: &RuleFile, text: &str) -> bool {
    let any = other.any.is_empty() || other.any.iter().any(|wider| covers_text(wider, text));
    // What it leaves out it does not take, unless `rule` leaves it out as well.
    let unless = other.unless.iter().all(|text| rule.unless.iter().any(|own| covers_text(own, text)));
    any && unless && takes_codes(other, rule)
}

fn takes_codes(other: &RuleFile, rule: &RuleFile) -> bool {
    let enhanced = |rule: &RuleFile| rule.enhanced.iter().flat_map(|name| spread(name)).collect::<Vec<_>>();
    let (wide, narrow) = (enhanced(other), enhanced(rule));
    let by_enhanced = other.enhanced.is_empty() || !narrow.is_empty() && narrow.iter().all(|code| wide.contains(code));
    let wider = |code: &String| other.code.iter().any(|wide| code.starts_with(wide.as_str()));
    let by_code = other.code.is_empty() || !rule.code.is_empty() && rule.code.iter().all(wider);
    by_enhanced && by_code
}

/// Whether every text with `narrow` in it has `wide` in it, too: each part of `wide` stands in a part of `narrow`.
fn covers_text(wide: &str, narrow: &str) -> bool {
    wide.split(" & ").all(|part| narrow.split(" & ").any(|text| text.contains(part)))
}

/// Every sample must come to its rule.
fn samples(place: usize, profile: &Merged, owned: &OwnedRule, book: &RuleBook, problems: &mut Vec<Problem>) {
    let is_over = |name: &str| profile.rules.iter().any(|other| other.rule.name == name && other.is_over(owned));
    for (index, sample) in owned.rule.sample.iter().enumerate() {
        let (code, enhanced) = codes(sample);
        let first = book.first(place, code, enhanced, &comparable(sample));
        let why = match first {
            Some(first) if first.profile == place && first.name == owned.rule.name => continue,
            Some(first) if first.profile == place && is_over(&first.name) => continue,
            Some(first) if first.profile == place => format!("rule {} takes this sample first", first.name),
            Some(first) => {
                format!("unmatched: the rule does not match its sample (rule {} of {DEFAULT} does)", first.name)
            }
            None => "unmatched: the rule does not match its sample".to_owned(),
        };
        let remedy = format!("correct the rule, or the sample; profile {}", profile.name);
        problems.push(owned.problem(Severity::Error, &format!("sample[{index}]"), why, &remedy));
    }
}
