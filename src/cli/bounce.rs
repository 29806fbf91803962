//! `posthaste bounce`: what refusals and bounces mean, and how often we are right about it.

mod unknown;

use std::fs;
use std::io::{Read, stdin};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Subcommand;
use serde_json::{Value, json};

use super::FAILED;
use crate::feedback::bounce::score::{self, Figures};
use crate::feedback::bounce::{Action, Bounced, Incoming, Kind, read};
use crate::feedback::classify::{Verdict, classify_line, codes};
use crate::feedback::complaint;

/// More of standard input is not read, in bytes.
const INPUT_MAX: u64 = 64 * 1024 * 1024;

#[derive(Debug, Subcommand)]
pub(super) enum BounceCommand {
    /// Judge the message or the reply line on stdin: exit 0 for a bounce or refusal, 1 for anything else.
    Classify {
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Who said it, when known: `google`, `microsoft`, …
        #[arg(long, default_value = "")]
        provider: String,
    },
    /// List the refusals that no rule knows, those in the same words together, the most frequent first.
    Unknown {
        /// Event lines (`events.jsonl`) or reply lines; `-` is standard input.
        file: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Print as many.
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// Judge mail and replies whose meaning is known and print how often we are right.
    Score {
        /// Holds `smtp-replies.tsv`, or `expected.tsv` with its messages, or both (the latter in `bounces/` or `arf/`).
        dir: PathBuf,
        /// Print what went wrong too, of the samples that rules were written from.
        #[arg(long)]
        misses: bool,
    },
}

pub(super) fn run(command: BounceCommand) -> anyhow::Result<ExitCode> {
    match command {
        BounceCommand::Classify { json, provider } => classify(json, &provider),
        BounceCommand::Unknown { file, json, limit } => unknown::run(&file, json, limit),
        BounceCommand::Score { dir, misses } => print_score(&dir, misses),
    }
}

fn classify(as_json: bool, provider: &str) -> anyhow::Result<ExitCode> {
    let mut input = Vec::new();
    stdin().take(INPUT_MAX).read_to_end(&mut input).context("read standard input")?;
    let text = String::from_utf8_lossy(&input);
    let incoming = if is_reply(text.trim()) { read_reply(text.trim(), provider) } else { read(&input) };
    if as_json {
        println!("{}", shown(&incoming));
    } else {
        print_incoming(&incoming);
    }
    Ok(if incoming.kind == Kind::Bounce { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

/// A line or a few without a header.
fn is_reply(text: &str) -> bool {
    let line = text.lines().next().unwrap_or_default();
    let name = line.split(':').next().unwrap_or_default();
    let field = line.contains(':') && !name.is_empty() && !name.contains(' ');
    let coded = line.get(..3).is_some_and(|code| code.bytes().all(|b| b.is_ascii_digit()));
    !text.is_empty() && (coded || (!field && text.lines().count() == 1))
}

/// A reply as the bounce that it would have caused. One that refuses nothing (2xx, 3xx) is none.
fn read_reply(line: &str, provider: &str) -> Incoming {
    let (reply, status) = codes(line);
    let first = line.bytes().next().unwrap_or_default();
    if matches!(first, b'2' | b'3') && line.as_bytes().get(3).is_none_or(|b| !b.is_ascii_alphanumeric()) {
        return Incoming::of(Kind::Other);
    }
    let one = Bounced {
        recipient: String::new(),
        original: None,
        action: Action::Failed,
        status,
        reply,
        verdict: classify_line(line, provider),
        diagnostic: line.to_owned(),
        host: String::new(),
    };
    Incoming { recipients: vec![one], ..Incoming::of(Kind::Bounce) }
}

/// What programs read of it: these fields and no others.
fn shown(incoming: &Incoming) -> Value {
    let recipient = |one: &Bounced| {
        let Verdict { class, permanence, reason, confidence, .. } = &one.verdict;
        json!({
            "recipient": one.recipient,
            "action": one.action,
            "status": one.status,
            "reply": one.reply,
            "class": class,
            "permanence": permanence,
            "reason": reason,
            "confidence": confidence,
            "diagnostic": one.diagnostic,
        })
    };
    let recipients: Vec<Value> = incoming.recipients.iter().map(recipient).collect();
    json!({"kind": incoming.kind, "recipients": recipients, "complaint": incoming.complaint})
}

fn print_incoming(incoming: &Incoming) {
    println!("{}", json!(incoming.kind).as_str().unwrap_or_default());
    for Bounced { recipient, action, verdict, .. } in &incoming.recipients {
        let recipient = if recipient.is_empty() { "-" } else { recipient.as_str() };
        print!("{recipient}  {}  ", json!(action).as_str().unwrap_or_default());
        print_verdict(verdict);
    }
}

fn print_verdict(verdict: &Verdict) {
    let Verdict { class, reason, confidence, rule, .. } = verdict;
    println!("{}  {}  confidence {confidence}  {rule}", class.as_str(), reason.as_str());
}

fn print_score(dir: &Path, misses: bool) -> anyhow::Result<ExitCode> {
    let table =
        |path: PathBuf| path.exists().then(|| fs::read_to_string(&path).with_context(|| path.display().to_string()));
    let tuned = |name: &str| !score::is_held_out(name);
    let mut shown = false;
    if let Some(replies) = table(dir.join("smtp-replies.tsv")) {
        let replies = replies?;
        print_figures("replies, tuned on", &score::replies(&replies, tuned), misses);
        print_figures("replies, held out", &score::replies(&replies, score::is_held_out), false);
        print_by_reason(&score::replies(&replies, |_| true));
        shown = true;
    }
    for dir in [dir.to_owned(), dir.join("bounces")] {
        let Some(expected) = table(dir.join("expected.tsv")) else { continue };
        let expected = expected?;
        if expected.starts_with("file\tstandard") {
            continue;
        }
        let open = |file: &str| fs::read(dir.join(file));
        let own = |name: &str| name.starts_with("sisimai-");
        let figures = |wanted: &dyn Fn(&str) -> bool| score::bounces(&expected, open, wanted);
        print_figures("bounces, tuned on", &figures(&tuned)?, misses);
        print_figures("bounces, held out", &figures(&score::is_held_out)?, false);
        print_figures("bounces, independent", &figures(&|name| !own(name))?, false);
        print_figures("bounces, sisimai", &figures(&own)?, false);
        print_by_reason(&figures(&|_| true)?);
        shown = true;
    }
    for dir in [dir.to_owned(), dir.join("arf")] {
        let Some(expected) = table(dir.join("expected.tsv")) else { continue };
        let expected = expected?;
        if !expected.starts_with("file\tstandard") {
            continue;
        }
        for (name, standard) in [("complaints, standard", true), ("complaints, other forms", false)] {
            let open = |file: &str| fs::read(dir.join(file));
            print_complaints(name, &complaint::score::complaints(&expected, open, standard)?, misses);
        }
        shown = true;
    }
    if !shown {
        bail!("{} holds neither smtp-replies.tsv nor expected.tsv", dir.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn print_complaints(name: &str, figures: &complaint::score::Figures, misses: bool) {
    println!("{name}:");
    println!("  detected {}; fields {}", figures.detected, figures.fields());
    for (field, share) in &figures.by_field {
        println!("  {field:20} {share}");
    }
    for miss in figures.misses.iter().filter(|_| misses) {
        println!("    {miss}");
    }
}

fn print_figures(name: &str, figures: &Figures, misses: bool) {
    println!("{name}:");
    if figures.detected.all > 0 {
        println!("  detected {}; all recipients {}", figures.detected, figures.recipients);
        println!("  ordinary mail taken for a bounce {}; auto-replies {}", figures.ordinary, figures.auto_replies);
    }
    println!("  reason {}, strictly {}; hard/soft {}", figures.reason, figures.strict, figures.class);
    println!("  a live address suppressed {}", figures.live_suppressed);
    for miss in figures.misses.iter().filter(|_| misses) {
        println!("    {miss}");
    }
}

fn print_by_reason(figures: &Figures) {
    println!("by reason, all:");
    for (reason, share) in &figures.by_reason {
        println!("  {reason:16} {share}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: Value) {
        assert!(is_reply(line));
        assert_eq!(shown(&read_reply(line, "")), expected, "{line}");
    }

    #[test]
    fn a_reply_line_prints_what_a_bounce_prints() {
        check(
            "550 5.1.1 <a@b.example>: no such user",
            json!({"kind": "bounce", "recipients": [{
                "recipient": "", "action": "failed", "status": "5.1.1", "reply": 550, "class": "hard",
                "permanence": "permanent", "reason": "user-unknown", "confidence": 85,
                "diagnostic": "550 5.1.1 <a@b.example>: no such user",
            }], "complaint": null}),
        );
        check("250 2.0.0 OK", json!({"kind": "other", "recipients": [], "complaint": null}));
    }
}
