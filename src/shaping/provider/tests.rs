mod differences;
mod lint;

use std::path::Path;
use std::time::Duration;

use super::*;
use crate::feedback::classify::{Class, classify_line};
use crate::mail::wording::codes;

fn own(text: &str) -> (PathBuf, String) {
    ("own.toml".into(), text.into())
}

/// What one more file makes of it, as lines.
fn problems(text: &str) -> Vec<String> {
    let found = match Profiles::read(&[own(text)]) {
        Ok((_, warnings)) => warnings,
        Err(problems) => problems,
    };
    found.iter().map(ToString::to_string).collect()
}

fn advise<'a>(profiles: &'a Profiles, provider: &str, line: &str) -> Advice<'a> {
    let (code, enhanced) = codes(line);
    profiles.advise_text(provider, code, enhanced, line)
}

fn check_advice(profiles: &Profiles, provider: &str, line: &str, expected: &str) {
    let advice = advise(profiles, provider, line);
    let wait = advice.wait.map_or("by schedule".to_owned(), |wait| format!("{}s", wait.as_secs()));
    let shown = format!(
        "{}/{}: {} {} {wait}{}",
        advice.provider,
        advice.rule,
        advice.reason.as_str(),
        advice.action.as_str(),
        if advice.transient { ", transient" } else { "" }
    );
    assert_eq!(shown, expected, "{provider}: {line}");
}

#[test]
fn what_is_compiled_in_has_no_problems() {
    let found = match Profiles::read(&[]) {
        Ok((_, warnings)) => warnings,
        Err(problems) => problems,
    };
    let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "\n{}", lines.join("\n"));
}

#[test]
fn every_file_of_the_folder_is_compiled_in_under_its_name() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/providers");
    let mut files: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let mut known: Vec<String> = BUILT_IN.iter().map(|(name, _)| (*name).to_owned()).collect();
    files.sort();
    known.sort();
    assert_eq!(files, known);
    let profiles = Profiles::built_in();
    for (name, _) in BUILT_IN {
        let name = name.trim_end_matches(".toml");
        assert_eq!(profiles.get(name).name, name);
    }
    assert_eq!(profiles.iter().next().unwrap().name, DEFAULT);
}

/// What a rule waits for must never be taken for a dead address, or it would be suppressed meanwhile.
#[test]
fn what_is_waited_for_is_no_hard_bounce() {
    let (merged, _) = file::merge(BUILT_IN.iter().map(|(name, text)| (PathBuf::from(name), *text)));
    for profile in &merged {
        for rule in profile.rules.iter().map(|rule| &rule.rule) {
            for sample in &rule.sample {
                let verdict = classify_line(sample, hint(&profile.name));
                assert_eq!(verdict.class, Class::Soft, "{}/{}: {sample}: {verdict:?}", profile.name, rule.name);
            }
        }
    }
}

/// What the tables of replies call a provider.
fn hint(name: &str) -> &str {
    match name {
        "outlook" | "microsoft365" => "microsoft",
        name => name,
    }
}

#[test]
fn sites_belong_to_whom_all_their_hosts_belong() {
    let profiles = Profiles::built_in();
    for (hosts, expected) in [
        (&["gmail-smtp-in.l.google.com", "alt1.gmail-smtp-in.l.google.com"][..], "google"),
        (&["smtp.google.com"], "google"),
        (&["aspmx.l.google.com", "aspmx2.googlemail.com"], "google"),
        (&["mta5.am0.yahoodns.net", "mx-aol.mail.gm0.yahoodns.net"], "yahoo"),
        (&["hotmail-com.olc.protection.outlook.com"], "outlook"),
        (&["example-com.mail.protection.outlook.com"], "microsoft365"),
        (&["example-com.k-v1.mx.microsoft"], "microsoft365"),
        (&["mx01.mail.icloud.com", "mx02.mail.icloud.com"], "apple"),
        (&["mx1h1.comcast.net"], "comcast"),
        (&["mx00.gmx.net"], "gmx"),
        (&["mx-ha02.web.de"], "gmx"),
        (&["smtp-in.orange.fr"], "orange"),
        (&["mxs.mail.ru"], "mailru"),
        (&["mx.yandex.ru"], "yandex"),
        (&["mx1.qq.com"], "qq"),
        (&["163mx01.mxmail.netease.com"], "163"),
        (&["mxa-00000001.gslb.pphosted.com"], "proofpoint"),
        (&["eu-smtp-inbound-1.mimecast.com"], "mimecast"),
        (&["d12345a.ess.barracudanetworks.com"], "barracuda"),
        (&["mx.example.com"], "default"),
        // Not all of them, not at a dot, nothing at all.
        (&["aspmx.l.google.com", "mx.example.com"], "default"),
        (&["mx.example.com", "aspmx.l.google.com"], "default"),
        (&["aspmx.l.google.com", "mta5.am0.yahoodns.net"], "default"),
        (&["notgoogle.com"], "default"),
        (&["google.com.example.org"], "default"),
        (&["[192.0.2.1]"], "default"),
        (&[], "default"),
    ] {
        assert_eq!(profiles.of_hosts(hosts.iter().copied()).name, expected, "{hosts:?}");
    }
}

#[test]
fn replies_ask_for_what_their_rules_say() {
    let profiles = Profiles::built_in();
    for (provider, line, expected) in [
        (
            "google",
            "450 4.2.1 The user you are trying to contact is receiving mail at a rate that prevents",
            "google/mailbox-rate: rate-limit mailbox-wait 3600s",
        ),
        ("google", "452 4.2.2 mailbox full", "default/mailbox-full-code: mailbox-full mailbox-wait 14400s"),
        ("google", "250 ok", "google/: other none by schedule"),
        ("google", "550 5.1.1 no such user", "google/: other none by schedule"),
        ("qq", "550 Ip frequency limited", "qq/source-frequency: rate-limit pause-source 1800s, transient"),
        // Another provider's words mean nothing here.
        ("default", "550 Ip frequency limited", "default/: other none by schedule"),
        ("nobody", "421 4.7.0 too many connections", "default/too-many-connections: rate-limit slow by schedule"),
        // What the reply says goes before what the rule says.
        (
            "default",
            "451 4.7.1 Greylisting in action, please come back in 00:04:32",
            "default/greylisted: policy greylist 272s",
        ),
        ("default", "450 4.7.1 Greylisted", "default/greylisted: policy greylist 300s"),
        ("default", "421 rate limit exceeded, try again in 10 minutes", "default/too-fast: rate-limit slow 600s"),
        // A wait without a rule.
        ("default", "451 no luck, try again in 10 minutes", "default/: other none 600s"),
        ("mimecast", "451 Internal resources are temporarily unavailable", "mimecast/greylisted: policy greylist 120s"),
    ] {
        check_advice(&profiles, provider, line, expected);
    }
}

#[test]
fn own_files_are_laid_over_what_is_known() {
    let text = r#"
        name = "google"
        [limits]
        connections = 3
        [controller]
        rate_ceiling = "50/s"

        [[rule]]
        name = "busy"
        reason = "system-error"
        action = "none"
        any = ["server busy"]
        sample = ["421 4.4.5 Server busy"]

        [[rule]]
        name = "mine"
        reason = "policy"
        action = "pause-stream"
        wait = "2h"
        any = ["not from you"]
        sample = ["451 4.7.0 Not from you"]
    "#;
    let (profiles, warnings) = Profiles::read(&[own(text)]).expect("sound");
    assert_eq!(warnings, []);
    let google = profiles.get("google");
    assert_eq!((google.limits.connections, google.limits.messages_per_connection), (Some(3), Some(100)));
    assert_eq!(google.bounds.rate_ceiling.map(|rate| rate.to_string()).as_deref(), Some("50/s"));
    assert_eq!(google.bounds.connections_ceiling, Some(50));
    assert_eq!(google.mx, ["google.com", "googlemail.com"]);
    for (line, expected) in [
        ("421 4.4.5 Server busy, try again later.", "google/busy: system-error none by schedule"),
        ("451 4.7.0 Not from you", "google/mine: policy pause-stream 7200s"),
        ("450 4.2.1 receiving mail too quickly", "google/mailbox-rate: rate-limit mailbox-wait 3600s"),
    ] {
        check_advice(&profiles, "google", line, expected);
    }
}

#[test]
fn own_files_may_replace_and_add() {
    let replaced = "name = \"google\"\nreplace = true\nmx = [\"google.com\"]\n";
    let added = "name = \"tiny\"\nmx = [\"tiny.example\", \"aspmx.l.google.com\"]\n";
    let (profiles, warnings) = Profiles::read(&[own(replaced), own(added)]).expect("sound");
    assert_eq!(warnings, []);
    assert_eq!(profiles.get("google").limits, Limits::default());
    assert_eq!(advise(&profiles, "google", "421 4.7.28 unusual rate of unsolicited mail").provider, DEFAULT);
    assert_eq!(profiles.of_hosts(["mx.tiny.example"]).name, "tiny");
    // The longer suffix wins.
    assert_eq!(profiles.of_hosts(["aspmx.l.google.com"]).name, "tiny");
    assert_eq!(profiles.of_hosts(["alt1.aspmx.l.google.com"]).name, "tiny");
    assert_eq!(profiles.of_hosts(["smtp.google.com"]).name, "google");
    assert_eq!(profiles.of_hosts(["aspmx2.googlemail.com"]).name, DEFAULT);
}

/// A profile of one or two rules, whose lint is expected to say exactly this.
#[track_caller]
/// Replies of the field, each judged by its provider's profile: the reason is the one labelled, wherever a rule decides.
#[test]
fn replies_of_the_field_are_judged_as_labelled() {
    let profiles = Profiles::built_in();
    let table = include_str!("../../../tests/data/smtp-replies.tsv");
    let (mut wrong, mut judged) = (Vec::new(), 0);
    for row in table.lines().skip(1) {
        let columns: Vec<&str> = row.split('\t').collect();
        let (line, provider, reason, also) = (columns[0], columns[1], columns[4], columns[5]);
        let provider = match provider {
            "microsoft" => "outlook",
            "mail.ru" => "mailru",
            other => other,
        };
        let advice = advise(&profiles, provider, line);
        if advice.rule.is_empty() {
            continue;
        }
        judged += 1;
        let told = advice.reason.as_str();
        // A spam check that failed, says its postmaster; the code says mailbox.
        let known = line.contains("(#id-5.9.4)");
        if told != reason && !also.split(',').any(|other| other == told) && !known {
            wrong.push(format!("{}/{}: {told}, not {reason}: {line}", advice.provider, advice.rule));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert!(judged >= 40, "only {judged} were judged");
}

#[test]
fn nothing_that_is_temporary_waits_longer_than_a_day() {
    for profile in BUILT_IN {
        let (merged, _) = file::merge(std::iter::once((PathBuf::from(profile.0), profile.1)));
        for rule in merged.iter().flat_map(|profile| &profile.rules) {
            assert!(rule.rule.wait.is_none_or(|wait| wait <= Duration::from_secs(86_400)), "{}", rule.rule.name);
        }
    }
}

#[test]
fn the_profile_in_the_docs_is_sound() {
    let docs = include_str!("../../../docs/traffic.md");
    let start = docs.find("name = \"example\"").expect("there is an example");
    let text = docs[start..].split("```").next().unwrap();
    assert_eq!(problems(text), [""; 0]);
    let (profiles, _) = Profiles::read(&[own(text)]).unwrap();
    assert!(profiles.get("example").row().is_some_and(|row| row.messages_per_connection == Some(50)));
}

#[test]
fn rows_say_what_profiles_limit() {
    let profiles = Profiles::built_in();
    let row = profiles.get("yahoo").row().expect("limits");
    assert_eq!((row.scope.provider.as_deref(), row.messages_per_connection), (Some("yahoo"), Some(20)));
    assert!(profiles.get(DEFAULT).row().is_none() && profiles.get(RELAY).row().is_none());
}
