//! `posthaste bounce unknown`: which refusals no rule knows.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, stdin};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use serde::Deserialize;
use serde_json::json;

use crate::feedback::classify::{Cluster, Unknown, classify_line, classify_reply};

/// Longer lines are cut, in bytes.
const LINE_MAX: u64 = 1024 * 1024;

/// What is read of an event line.
#[derive(Debug, Deserialize)]
struct Line {
    event: String,
    #[serde(default)]
    code: u16,
    #[serde(default)]
    enhanced: String,
    #[serde(default)]
    reply: String,
    #[serde(default)]
    provider: String,
    /// Absent when the reply is our own.
    #[serde(default)]
    command: String,
}

pub(super) fn run(file: &Path, as_json: bool, limit: usize) -> anyhow::Result<ExitCode> {
    let unknown = if file.as_os_str() == "-" {
        gather(stdin().lock())?
    } else {
        let shown = || file.display().to_string();
        gather(BufReader::new(File::open(file).with_context(shown)?)).with_context(shown)?
    };
    let (read, number, left_out) = (unknown.read(), unknown.unknown(), unknown.left_out());
    let clusters = unknown.clusters();
    let shown = &clusters[..clusters.len().min(limit)];
    if as_json {
        let one = |one: &Cluster| json!({"count": one.count, "text": one.text, "example": one.example});
        let shown: Vec<_> = shown.iter().map(one).collect();
        println!("{}", json!({"read": read, "unknown": number, "left_out": left_out, "clusters": shown}));
    } else {
        println!("{read} refusals, {number} of them unknown, in {} clusters", clusters.len());
        for Cluster { count, text, example } in shown {
            println!("{count:8}  {text}\n{:10}{example}", "");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads lines to their end. Lines that are no refusal are passed over.
fn gather(mut input: impl BufRead) -> std::io::Result<Unknown> {
    let mut unknown = Unknown::default();
    let mut line = Vec::new();
    loop {
        line.clear();
        if input.by_ref().take(LINE_MAX).read_until(b'\n', &mut line)? == 0 {
            return Ok(unknown);
        }
        add(&mut unknown, String::from_utf8_lossy(&line).trim());
    }
}

fn add(unknown: &mut Unknown, line: &str) {
    if !line.starts_with('{') {
        if !line.is_empty() && !line.starts_with(['2', '3', '#']) {
            unknown.add(line, &classify_line(line, ""));
        }
        return;
    }
    let Ok(event) = serde_json::from_str::<Line>(line) else { return };
    if !matches!(event.event.as_str(), "bounced" | "deferred" | "expired") || event.command.is_empty() {
        return;
    }
    let enhanced = event.enhanced.parse().ok();
    let verdict = classify_reply(Some(event.code), enhanced, &event.reply, &event.provider);
    unknown.add(&format!("{} {} {}", event.code, event.enhanced, event.reply), &verdict);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_events_and_replies() {
        let lines = concat!(
            r#"{"event":"bounced","code":550,"enhanced":"5.0.0","reply":"blarg 1","command":"RCPT"}"#,
            "\n",
            r#"{"event":"deferred","code":451,"enhanced":"4.0.0","reply":"blarg 2","command":"DATA"}"#,
            "\n",
            // Our own words, a delivery, another kind of line, no JSON.
            r#"{"event":"expired","code":451,"enhanced":"4.4.7","reply":"blarg 3"}"#,
            "\n",
            r#"{"event":"delivered","code":250,"enhanced":"2.0.0","reply":"blarg 4","command":"DATA"}"#,
            "\n{\"notice\":\"x\"}\n{\n\n",
            "550 blarg 5\r\n250 blarg 6\n550 5.1.1 no such user",
        );
        let unknown = gather(lines.as_bytes()).expect("memory");
        assert_eq!((unknown.read(), unknown.unknown()), (4, 3));
        let clusters = unknown.clusters();
        assert_eq!((clusters.len(), clusters[0].count, clusters[0].text.as_str()), (1, 3, "blarg <id>"));
        assert_eq!(clusters[0].example, "550 5.0.0 blarg 1");
    }
}
