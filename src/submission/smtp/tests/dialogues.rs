//! Runs the transcripts in `tests/dialogues/server`: one odd client each.
//!
//! ```text
//! # a comment
//! @ recipients_max 1          settings, before anything else; `auth`: from here without TLS, as `user` with `pencil`
//! C: NOOP                     the client sends a line; \r \n \0 \xFF \\ are octets, CRLF is added
//! C| NO                       the same without CRLF
//! C* 5 NOOP                   a line, this many times
//! ! close                     the client closes its side; also: ! wait 10s, ! shutdown
//! S: 250 2.0.0 ok             the server answers exactly this ...
//! S| \x15                     these octets, without CRLF
//! S- closed                   ... and closes
//! D: <from> -> <to>           what the door got, at the end of the file: envelope,
//! D| Received: …              and content, line by line; dates of today as {date}
//! ```
//!
//! All that is sent in a row is sent in one piece; at an `S` line the server is heard until it has nothing more to say. A
//! transcript that begins with the client is one of a client that does not wait for the banner. With
//! `BLESS=1` in the environment the `S` and `D` lines are written anew instead of compared: read the difference.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use humantime_serde::re::humantime::parse_duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::timeout;

use super::super::super::rejection::Rejection;
use super::super::sasl::example::Example;
use super::super::serve::{Opening, serve};
use super::{CLIENT, Recorder, certificate, config, shared_with};
use crate::access::{How, Principal};
use crate::mail::{Envelope, Reply};

#[tokio::test(start_paused = true)]
async fn every_odd_client_gets_its_answers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialogues/server");
    let mut files: Vec<_> = fs::read_dir(folder).expect("the folder").map(|f| f.expect("readable").path()).collect();
    files.sort();
    let mut wrong = Vec::new();
    let bless = std::env::var_os("BLESS").is_some();
    for file in files.iter().filter(|file| file.extension().is_some_and(|e| e == "txt")) {
        let expected = fs::read_to_string(file).expect("text");
        let got = run(&expected).await;
        if got != expected {
            wrong.push(format!("{}:\n{}", file.display(), difference(&expected, &got)));
            if bless {
                fs::write(file, &got).expect("writable");
            }
        }
    }
    assert!(bless || wrong.is_empty(), "{} transcripts differ:\n\n{}", wrong.len(), wrong.join("\n"));
    assert!(files.len() >= 200, "where are the transcripts?");
}

fn difference(expected: &str, got: &str) -> String {
    let (mut expected, mut got) = (expected.lines().peekable(), got.lines().peekable());
    let mut out = String::new();
    while expected.peek().is_some() || got.peek().is_some() {
        match (expected.next(), got.next()) {
            (Some(e), Some(g)) if e == g => writeln!(out, "    {e}"),
            (e, g) => writeln!(out, "  - {}\n  + {}", e.unwrap_or(""), g.unwrap_or("")),
        }
        .expect("a String takes all");
    }
    out
}

/// Plays the client's lines of a transcript and returns it with the lines the server gave.
async fn run(script: &str) -> String {
    let mut stage = Stage::new(script);
    let mut transcript = String::new();
    let mut to_send = Vec::new();
    for line in script.lines() {
        let (mark, rest) = line.split_at_checked(2).unwrap_or((line, ""));
        let rest = rest.strip_prefix(' ').unwrap_or(rest);
        let is_ours = matches!(mark, "S:" | "S|" | "S-" | "D:" | "D|");
        if is_ours && !to_send.is_empty() {
            stage.send(&std::mem::take(&mut to_send)).await;
        }
        match mark {
            "C:" => to_send.extend([unescape(rest), b"\r\n".to_vec()].concat()),
            "C|" => to_send.extend(unescape(rest)),
            "C*" => {
                let (count, line) = rest.split_once(' ').expect("a count and a line");
                let line = [unescape(line), b"\r\n".to_vec()].concat();
                to_send.extend(line.repeat(count.parse().expect("a count")));
            }
            _ if is_ours => {
                stage.hear(&mut transcript).await;
                continue;
            }
            _ if line.starts_with("! ") => {
                stage.send(&std::mem::take(&mut to_send)).await;
                stage.happen(&line[2..]).await;
            }
            _ => {}
        }
        transcript.push_str(line);
        transcript.push('\n');
    }
    if !to_send.is_empty() {
        stage.send(&to_send).await;
    }
    stage.hear(&mut transcript).await;
    let principals = stage.door.principals.lock().expect("not poisoned");
    let taken = stage.door.taken.lock().expect("not poisoned");
    for ((_, envelope, content), principal) in taken.iter().zip(principals.iter()) {
        describe(&mut transcript, principal, envelope, content);
    }
    drop((principals, taken));
    transcript
}

struct Stage {
    door: Arc<Recorder>,
    controls: Arc<super::Controls>,
    client: DuplexStream,
    quiet: Duration,
    closed: bool,
}

impl Stage {
    fn new(script: &str) -> Stage {
        let (mut config, mut door, mut tls, mut client) = (config(), Recorder::default(), None, CLIENT);
        let mut authority = Example::default();
        let mut quiet = Duration::from_millis(10);
        for line in script.lines().filter_map(|line| line.strip_prefix("@ ")) {
            let (name, value) = line.split_once(' ').unwrap_or((line, ""));
            let number = || value.parse::<usize>().expect("a number");
            let time = || parse_duration(value).expect("a duration");
            match name {
                "client" => client = value.parse().expect("an address"),
                "recipients_max" => config.recipients_max = number(),
                "errors_max" => config.errors_max = number() as u32,
                "commands_max" => config.commands_max = number() as u64,
                "line_length_max" => config.line_length_max = number(),
                "max_message_size" => config.max_message_size.0 = number() as u64,
                "memory_max" => config.memory_max.0 = number() as u64,
                "idle_timeout" => config.idle_timeout = time(),
                "tls" => tls = Some(certificate().0),
                "quiet" => quiet = time(),
                "auth" => config.auth_without_tls = vec!["192.0.2.0/24".parse().expect("a network")],
                "auth_from" => config.auth_without_tls = vec![value.parse().expect("a network")],
                "auth_delay" => (authority.delay, quiet) = (time(), time() * 2),
                "auth_tired" => authority.tired = true,
                "door_delay" => (door.delay, quiet) = (time(), time() * 2),
                "door_not_ready" => door.not_ready = Some(reply(value)),
                "door_refuses" => {
                    door.refusals.lock().expect("not poisoned").push_back(Rejection::from_queue(reply(value)))
                }
                "door_knows" => door.replays = true,
                "door_knows_otherwise" => {
                    door.refusals.lock().expect("not poisoned").push_back(Rejection::key_reused());
                }
                _ => panic!("unknown setting {line:?}"),
            }
        }
        let door = Arc::new(door);
        let shared = shared_with(door.clone(), authority, config, tls);
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let controls = shared.controls.clone();
        tokio::spawn(serve(theirs, client, Opening::InTheClear, shared));
        Stage { door, controls, client: ours, quiet, closed: false }
    }

    async fn send(&mut self, octets: &[u8]) {
        // The server may have closed already; the transcript shows it.
        let _ = self.client.write_all(octets).await;
    }

    async fn happen(&mut self, what: &str) {
        match what.split_once(' ').unwrap_or((what, "")) {
            ("close", _) => self.client.shutdown().await.expect("open"),
            ("wait", time) => tokio::time::sleep(parse_duration(time).expect("a duration")).await,
            ("shutdown", _) => self.controls.closing.cancel(),
            _ => panic!("cannot make {what:?} happen"),
        }
    }

    /// Everything the server says until it is quiet.
    async fn hear(&mut self, transcript: &mut String) {
        let mut heard = Vec::new();
        let mut closes = false;
        while !self.closed {
            match timeout(self.quiet, self.client.read_buf(&mut heard)).await {
                Ok(Ok(0) | Err(_)) => (closes, self.closed) = (true, true),
                Ok(Ok(_)) => {}
                Err(_quiet) => break,
            }
        }
        for line in heard.split_inclusive(|b| *b == b'\n') {
            match line.strip_suffix(b"\r\n") {
                Some(line) => writeln!(transcript, "S: {}", without_day(&escape(line))),
                None => writeln!(transcript, "S| {}", escape(line)),
            }
            .expect("a String takes all");
        }
        if closes {
            transcript.push_str("S- closed\n");
        }
    }
}

fn reply(text: &str) -> Reply {
    let mut parts = text.splitn(3, ' ');
    let mut part = || parts.next().expect("code, enhanced code, text");
    Reply::ours(part().parse().expect("a code"), part().parse().expect("a code"), part().to_owned())
}

fn describe(out: &mut String, principal: &Principal, envelope: &Envelope, content: &[u8]) {
    let Envelope { reverse_path, recipients, stream, accepted_at, not_before, expires_at, .. } = envelope;
    write!(out, "D: <{reverse_path}> ->").expect("a String takes all");
    for recipient in recipients {
        write!(out, " <{}>", recipient.address).expect("a String takes all");
        if let Some(notify) = recipient.notify {
            let names = [(notify.success, "success"), (notify.failure, "failure"), (notify.delay, "delay")];
            let names: Vec<_> = names.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
            write!(out, " notify=[{}]", names.join(",")).expect("a String takes all");
        }
        if let Some(orcpt) = &recipient.orcpt {
            write!(out, " orcpt={orcpt}").expect("a String takes all");
        }
    }
    let mut also = |text: String| write!(out, "; {text}").expect("a String takes all");
    if let How::Credential(id) = &principal.how {
        also(format!("credential={id}"));
    }
    if let Some(keyed) = &envelope.key {
        also(format!("key={}", keyed.key));
    }
    if envelope.smtputf8 {
        also("smtputf8".into());
    }
    if envelope.eight_bit {
        also("8bit".into());
    }
    if let Some(ret) = envelope.ret {
        also(format!("ret={ret:?}"));
    }
    if let Some(envid) = &envelope.envid {
        also(format!("envid={envid}"));
    }
    if *stream != crate::mail::Stream::default() {
        also(format!("stream={:?}/{}/{:?}", stream.tenant, stream.class.as_str(), stream.campaign));
    }
    if !envelope.tags.is_empty() {
        also(format!("tags={:?}", envelope.tags));
    }
    if not_before > accepted_at {
        also(format!("not before {:?}", about(not_before.since(*accepted_at))));
    }
    if envelope.lifetime() != Duration::from_secs(4 * 86_400) {
        also(format!("expires after {:?}", about(expires_at.since(*accepted_at))));
    }
    if let Some(at) = envelope.delay_report_at {
        also(format!("delay is told after {:?}", about(at.since(*accepted_at))));
    }
    out.push('\n');
    for line in content.split_inclusive(|b| *b == b'\n') {
        let line = escape(line.strip_suffix(b"\r\n").expect("content ends in CRLF"));
        writeln!(out, "D| {}", without_date(&line)).expect("a String takes all");
    }
}

/// To the second: what MAIL asks for counts from MAIL on.
fn about(time: Duration) -> Duration {
    Duration::from_secs((time + Duration::from_millis(500)).as_secs())
}

/// Replaces the day that EHLO tells, a year ahead.
fn without_day(line: &str) -> String {
    match line.split_once("FUTURERELEASE 31536000 ") {
        Some((mark, day)) if day.len() == 20 => format!("{mark}FUTURERELEASE 31536000 {{date}}"),
        _ => line.to_owned(),
    }
}

/// Replaces the dates we write, which all end in `+0000`; those in transcripts do not.
fn without_date(line: &str) -> String {
    match line.strip_suffix(" +0000") {
        Some(_) if line.trim_start_matches("\\t").trim_start_matches("Date: ").len() == 31 => {
            format!("{}{{date}}", &line[..line.len() - 31])
        }
        _ => line.to_owned(),
    }
}

fn escape(octets: &[u8]) -> String {
    octets.escape_ascii().to_string().replace("\\'", "'").replace("\\\"", "\"")
}

fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next().expect("an escape") {
                'r' => out.push(b'\r'),
                'n' => out.push(b'\n'),
                't' => out.push(b'\t'),
                '0' => out.push(0),
                's' => out.push(b' '),
                '\\' => out.push(b'\\'),
                'x' => {
                    let digits: String = chars.by_ref().take(2).collect();
                    out.push(u8::from_str_radix(&digits, 16).expect("two hexadecimal digits"));
                }
                other => panic!("unknown escape \\{other}"),
            },
            c => out.extend_from_slice(c.to_string().as_bytes()),
        }
    }
    out
}
