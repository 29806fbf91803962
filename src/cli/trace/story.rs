//! What happened to a message, told to a person.

use std::fmt::Write;

use humantime_serde::re::humantime::format_duration;
use serde_json::Value;

use super::{Trace, text};
use crate::clock::Timestamp;
use crate::queue::RecipientView;

/// What the head says once, and what an event's own lines say in words; of the rest each is shown by its name.
const SAID: [&str; 28] = [
    "time",
    "event",
    "what",
    "message_id",
    "recipient",
    "sender",
    "tenant",
    "class",
    "campaign",
    "list",
    "tags",
    "accepted_at",
    "attempt",
    "next_attempt",
    "site",
    "provider",
    "source",
    "source_address",
    "mx_host",
    "mx_address",
    "tls",
    "code",
    "enhanced",
    "reply",
    "command",
    "blame",
    "size",
    "timings_ms",
];

pub(super) fn in_words(trace: &Trace) -> String {
    let mut out = String::new();
    head(&mut out, trace);
    for event in &trace.events {
        out.push('\n');
        tell(&mut out, event, &trace.accepted_at);
    }
    if let Some(view) = &trace.queue {
        let waiting: Vec<&RecipientView> = view.recipients.iter().filter(|one| waits(trace, one)).collect();
        if !waiting.is_empty() {
            let _ = writeln!(out, "\nstill waiting, given up at {}", view.expires_at);
        }
        for one in waiting {
            let due = one.next_attempt.as_deref().unwrap_or("now");
            let _ = writeln!(out, "    <{}>: due {due} after {} attempts", clean(&one.address), one.attempts);
        }
        view.listed.held.iter().for_each(|held| out.push_str(&format!("    {}\n", clean(held))));
    }
    out
}

/// Whether no event that came after the daemon's answer tells of its end.
fn waits(trace: &Trace, one: &RecipientView) -> bool {
    let last = trace
        .events
        .iter()
        .rev()
        .find(|event| text(event, "recipient") == Some(&one.address) && event.get("attempt").is_some());
    one.state == "waiting" && last.is_none_or(|event| text(event, "event") == Some("deferred"))
}

/// What all events have in common.
fn head(out: &mut String, trace: &Trace) {
    let event = |field| trace.events.iter().find_map(|event| text(event, field));
    let view = trace.queue.as_ref();
    let sender = event("sender").or(view.map(|view| view.listed.sender.as_str()));
    let class = event("class").or(view.map(|view| view.listed.class.as_str())).unwrap_or_default();
    // What was not said is not in the events; the queue has it as empty text.
    let tenant = event("tenant").or(view.map(|view| view.tenant.as_str())).unwrap_or_default();
    let campaign = event("campaign").or(view.map(|view| view.campaign.as_str())).unwrap_or_default();
    let mut say = |name: &str, value: String| out.push_str(&format!("{name:<10}{value}\n"));
    say("message", trace.message_id.to_string());
    say("sender", sender.map_or_else(|| "unknown".into(), |sender| format!("<{}>", clean(sender))));
    say("accepted", trace.accepted_at.clone());
    say("stream", format!("tenant {tenant:?}, {class}, campaign {campaign:?}"));
    if let Some(list) = event("list") {
        say("list", clean(list));
    }
    let tags = trace.events.iter().find_map(|event| event.get("tags")?.as_array());
    if let Some(tags) = tags {
        let tags: Vec<String> = tags.iter().filter_map(Value::as_str).map(clean).collect();
        say("tags", tags.join(", "));
    }
}

fn tell(out: &mut String, event: &Value, accepted_at: &str) {
    let at = |name| text(event, name).filter(|value| !value.is_empty());
    let number = |name: &str| event.get(name).and_then(Value::as_u64).filter(|number| *number > 0);
    let time = at("time").unwrap_or("at an unknown time");
    let recipient = at("recipient").map_or_else(String::new, |recipient| format!("  <{}>", clean(recipient)));
    let attempt = number("attempt").map_or_else(String::new, |attempt| format!(", attempt {attempt}"));
    let after = since(accepted_at, time).map_or_else(String::new, |after| format!(", {after} after acceptance"));
    let what = at("what").map_or_else(String::new, |what| format!(": {}", clean(what)));
    let event_name = clean(at("event").unwrap_or("event"));
    let _ = writeln!(out, "{time}{recipient}  {event_name}{what}{attempt}{after}");
    let mut say = |line: String| out.push_str(&format!("    {line}\n"));
    if let Some(way) = way(event) {
        say(way);
    }
    if let Some(reply) = reply(event) {
        say(reply);
    }
    let blame = at("blame").map(|blame| format!("it is up to the {}", clean(blame)));
    let next = at("next_attempt").map(|next| format!("next attempt {next}"));
    let both: Vec<String> = blame.into_iter().chain(next).collect();
    if !both.is_empty() {
        say(both.join(", "));
    }
    if let Some(timings) = timings(event) {
        say(timings);
    }
    for (name, value) in event.as_object().into_iter().flatten().filter(|(name, _)| !SAID.contains(&name.as_str())) {
        let value = value.as_str().map_or_else(|| value.to_string(), clean);
        say(format!("{} {value}", clean(name)));
    }
}

/// What was answered, or what a report rests on.
fn reply(event: &Value) -> Option<String> {
    let at = |name| text(event, name).filter(|value| !value.is_empty());
    let code = event.get("code").and_then(Value::as_u64).filter(|code| *code > 0).map(|code| code.to_string());
    let words = at("reply").map(|reply| reply.split('\n').map(clean).collect::<Vec<_>>().join("\n        "));
    let command = code.is_some().then(|| match at("command") {
        Some(".") => "(the answer to the content)".to_owned(),
        Some(command) => format!("(the answer to {})", clean(command)),
        None => "(our own judgement)".to_owned(),
    });
    let parts = [code, at("enhanced").map(clean), words, command];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(" "))
}

/// Which way it went.
fn way(event: &Value) -> Option<String> {
    let at = |name| text(event, name).filter(|value| !value.is_empty());
    let mut way = String::new();
    if let Some(source) = at("source") {
        let address = at("source_address").map_or_else(String::new, |address| format!(" ({address})"));
        let _ = write!(way, "from {}{address} ", clean(source));
    }
    if let Some(host) = at("mx_host") {
        let address = at("mx_address").map_or_else(String::new, |address| format!(" ({address})"));
        let tls = event.get("tls").map_or_else(
            || "in the clear".to_owned(),
            |tls| {
                let verified =
                    if tls.get("verified") == Some(&Value::Bool(true)) { "verified" } else { "not verified" };
                let word = |name| clean(text(tls, name).unwrap_or("?"));
                format!("{} {}, {verified}", word("version"), word("cipher"))
            },
        );
        let _ = write!(way, "to {}{address}, {tls}, ", clean(host));
    }
    if let Some(site) = at("site") {
        let provider = at("provider").map_or_else(String::new, |provider| format!(" ({})", clean(provider)));
        let _ = write!(way, "site {}{provider}", clean(site));
    } else if let Some(provider) = at("provider") {
        let _ = write!(way, "by way of {}", clean(provider));
    }
    let way = way.trim_end_matches([' ', ',']);
    (!way.is_empty()).then(|| way.to_owned())
}

/// Where the time went; nothing if it went nowhere.
fn timings(event: &Value) -> Option<String> {
    let stages = ["queue", "connect", "tls", "envelope", "data", "reply"];
    let of = |stage: &str| event.get("timings_ms")?.get(stage)?.as_u64().filter(|ms| *ms > 0);
    let took: Vec<String> = stages.iter().filter_map(|stage| Some(format!("{stage} {} ms", of(stage)?))).collect();
    let size = event.get("size").and_then(Value::as_u64).filter(|size| *size > 0);
    let sent = size.map(|size| format!("{size} octets"));
    let all: Vec<String> = sent.into_iter().chain(took).collect();
    (!all.is_empty()).then(|| all.join(", "))
}

fn since(accepted_at: &str, time: &str) -> Option<String> {
    let (accepted, time) = (Timestamp::parse_rfc3339(accepted_at)?, Timestamp::parse_rfc3339(time)?);
    (time > accepted).then(|| format_duration(time.since(accepted)).to_string())
}

/// Foreign text on a terminal: what would steer it is shown instead.
fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { clean.extend(c.escape_default()) } else { clean.push(c) }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::MessageId;

    #[test]
    fn tells_what_happened_in_order_of_time() {
        let lines = [
            r#"{"time":"2026-11-22T12:00:09.000Z","event":"complained","what":"abuse","id":"0K3V9Z8Q2M1XB","message_id":"0K3V9Z8Q2M1XA","recipient":"b@them.test","source":"mta1","provider":"google","by":"them.test"}"#,
            r#"{"time":"2026-11-22T12:00:00.200Z","event":"deferred","message_id":"0K3V9Z8Q2M1XA","recipient":"b@them.test","sender":"a@us.test","tenant":"shop","class":"bulk","campaign":"spring","tags":["x","y"],"accepted_at":"2026-11-22T12:00:00.000Z","attempt":1,"next_attempt":"2026-11-22T12:00:05.000Z","code":451,"enhanced":"4.4.1","reply":"connection refused","blame":"site","size":0,"timings_ms":{"queue":3,"connect":0,"tls":0,"envelope":0,"data":0,"reply":0},"position":"1-4096"}"#,
            r#"{"time":"2026-11-22T12:00:06.000Z","event":"delivered","message_id":"0K3V9Z8Q2M1XA","recipient":"b@them.test","sender":"a@us.test","tenant":"shop","class":"bulk","campaign":"spring","accepted_at":"2026-11-22T12:00:00.000Z","attempt":2,"site":"mx.them.test","provider":"other","source":"mta1","source_address":"192.0.2.1","mx_host":"mx.them.test","mx_address":"192.0.2.9:25","tls":{"version":"TLSv1.3","cipher":"TLS13_AES_256_GCM_SHA384","resumed":false,"verified":false},"code":250,"enhanced":"2.0.0","reply":"ok\nqueued as \u001b[1m7","command":".","size":900,"timings_ms":{"queue":5005,"connect":30,"tls":41,"envelope":22,"data":1,"reply":9},"position":"1-8192"}"#,
        ];
        let id: MessageId = "0K3V9Z8Q2M1XA".parse().unwrap();
        let lines = lines.map(str::to_owned);
        let expected = r#"message   0K3V9Z8Q2M1XA
sender    <a@us.test>
accepted  2026-11-22T12:00:00.000Z
stream    tenant "shop", bulk, campaign "spring"
tags      x, y

2026-11-22T12:00:00.200Z  <b@them.test>  deferred, attempt 1, 200ms after acceptance
    451 4.4.1 connection refused (our own judgement)
    it is up to the site, next attempt 2026-11-22T12:00:05.000Z
    queue 3 ms

2026-11-22T12:00:06.000Z  <b@them.test>  delivered, attempt 2, 6s after acceptance
    from mta1 (192.0.2.1) to mx.them.test (192.0.2.9:25), TLSv1.3 TLS13_AES_256_GCM_SHA384, not verified, site mx.them.test (other)
    250 2.0.0 ok
        queued as \u{1b}[1m7 (the answer to the content)
    900 octets, queue 5005 ms, connect 30 ms, tls 41 ms, envelope 22 ms, data 1 ms, reply 9 ms

2026-11-22T12:00:09.000Z  <b@them.test>  complained: abuse, 9s after acceptance
    from mta1 by way of google
    by them.test
    id 0K3V9Z8Q2M1XB
"#;
        assert_eq!(in_words(&Trace::new(id, &lines, None)), expected);
    }
}
