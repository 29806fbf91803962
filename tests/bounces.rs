//! How often replies and bounces are judged right, on those in `tests/data`. The floors are what `docs/bounces.md` says: a
//! change that goes below them has to say why.

use std::fs;
use std::path::{Path, PathBuf};

use posthaste::feedback::bounce::score::{self, Share};
use posthaste::feedback::bounce::{Kind, read};
use posthaste::feedback::classify::{Class, Fault, Verdict, classify_line};
use posthaste::feedback::complaint;

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

fn table(name: &str) -> String {
    fs::read_to_string(data().join(name)).expect("readable")
}

#[track_caller]
fn check_at_least(what: &str, share: Share, floor: u32) {
    assert!(share.right >= floor, "{what}: {share}, was {floor}");
}

#[track_caller]
fn check_at_most(what: &str, share: Share, ceiling: u32) {
    assert!(share.right <= ceiling, "{what}: {share}, was {ceiling}");
}

#[test]
fn replies_are_understood_as_well_as_documented() {
    let figures = score::replies(&table("smtp-replies.tsv"), |_| true);
    check_at_least("reason", figures.reason, 245);
    check_at_least("hard or soft", figures.class, 244);
    check_at_most("live addresses suppressed", figures.live_suppressed, 0);
}

#[test]
fn bounces_are_understood_as_well_as_documented() {
    let dir = data().join("bounces");
    let table = table("bounces/expected.tsv");
    let figures = score::bounces(&table, |file| fs::read(dir.join(file)), |_| true).expect("readable");
    check_at_least("detected", figures.detected, 234);
    check_at_least("all recipients", figures.recipients, 231);
    check_at_least("reason", figures.reason, 243);
    check_at_least("hard or soft", figures.class, 240);
    check_at_most("live addresses suppressed", figures.live_suppressed, 1);
    check_at_most("ordinary mail taken for a bounce", figures.ordinary, 0);
    check_at_most("auto-replies taken for a bounce", figures.auto_replies, 0);
}

#[test]
fn complaints_are_read_whole() {
    let dir = data().join("arf");
    let table = fs::read_to_string(dir.join("expected.tsv")).expect("readable");
    for standard in [true, false] {
        let open = |file: &str| fs::read(dir.join(file));
        let figures = complaint::score::complaints(&table, open, standard).expect("readable");
        assert_eq!(figures.misses, Vec::<String>::new());
        assert!(figures.detected.all >= 7 && figures.fields().all >= 20);
    }
}
/// What is refused for what we are or sent, or how fast, says nothing of the recipient.
const NOT_THE_RECIPIENTS: [&str; 6] =
    ["policy", "blocked-ip", "auth-failure", "rate-limit", "spam-block", "relaying-denied"];

/// Samples of those reasons: how many, and how many count against the recipient.
fn counted<'a>(judged: impl Iterator<Item = (&'a str, Verdict)>) -> (usize, usize) {
    let of_those = judged.filter(|(reason, _)| NOT_THE_RECIPIENTS.contains(reason));
    of_those.fold((0, 0), |(all, against), (_, verdict)| {
        // Suspension and quota are the recipient's, but suppress nobody.
        (all + 1, against + usize::from(verdict.class == Class::Hard))
    })
}

#[test]
fn policy_never_counts_against_the_recipient() {
    let replies = table("smtp-replies.tsv");
    let rows = score::rows(&replies);
    let judged = rows.iter().map(|row| (row["reason"], classify_line(row["reply"], row["provider"])));
    let (all, against) = counted(judged);
    assert!(all >= 110, "only {all} samples");
    assert_eq!(against, 0, "of {all} replies");

    let wordings = table("wordings.tsv");
    let rows = score::rows(&wordings);
    let judged = rows.iter().map(|row| (row["reason"], classify_line(row.get("reply").unwrap_or(&""), "")));
    let (all, against) = counted(judged);
    assert!(all >= 60, "only {all} samples");
    assert_eq!(against, 0, "of {all} wordings");
    for reply in ["550 5.7.515 Access denied", "421 4.7.0 blocked", "451 4.7.650 rate limited", "550 5.7.606 banned"] {
        let verdict = classify_line(reply, "");
        assert!(verdict.class == Class::Soft && verdict.blame != Fault::Recipient, "{reply}: {verdict:?}");
    }
}

/// What the mailers and providers of the world write, in our words where theirs vary: by what is known of their sources and
/// manuals, not from the samples that are scored.
#[test]
fn wordings_of_mailers_are_known() {
    let table = table("wordings.tsv");
    let mut wrong = Vec::new();
    for line in table.lines().skip(1).filter(|line| !line.starts_with('#')) {
        let columns: Vec<&str> = line.split('\t').collect();
        let verdict = classify_line(columns[2], "");
        if !columns[0].split(',').any(|reason| reason == verdict.reason.as_str())
            || columns[1] != verdict.class.as_str()
        {
            wrong.push(format!("{line}: {} {} by {}", verdict.reason.as_str(), verdict.class.as_str(), verdict.rule));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Their bounces and auto-replies, each with what it is in its first line.
#[test]
fn mailers_are_understood() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for entry in fs::read_dir(data().join("mailers")).expect("readable") {
        let path = entry.expect("readable").path();
        let text = fs::read_to_string(&path).expect("readable");
        let (expected, message) = text.split_once('\n').expect("a first line");
        let incoming = read(message.as_bytes());
        let kind = match incoming.kind {
            Kind::Bounce => "bounce",
            Kind::Complaint => "complaint",
            Kind::AutoReply => "auto-reply",
            Kind::Other => "other",
        };
        let mut found = vec![kind.to_owned()];
        found.extend(incoming.recipients.iter().map(|one| {
            let action =
                if one.action.is_trouble() { format!("{:?}", one.action).to_lowercase() } else { "done".into() };
            format!("{} {action} {} {}", one.recipient, one.verdict.reason.as_str(), one.verdict.class.as_str())
        }));
        seen += 1;
        if found.join("; ") != expected {
            wrong.push(format!("{}: {}, not {expected}", path.display(), found.join("; ")));
        }
    }
    assert!(wrong.is_empty() && seen > 70, "{seen} read\n{}", wrong.join("\n"));
}
