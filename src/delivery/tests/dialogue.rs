//! Plays `tests/dialogues/client/*.txt`: one odd server each.
//!
//! A file has three sections, divided by `===`. The first says what we do, in order:
//!
//! - `tls: POLICY` and `auth: USER PASSWORD` (once, before the rest),
//! - `job: from=A to=B,C content=NAME …` (see [`Work::read`]), `idle:`, `quit:`.
//!
//! The second is the server's script. `C:` lines must be sent by us, octet for octet, `S:` lines are sent to us; a
//! server about to speak makes sure that we have said no more than the script. `C>` and `S>` take escapes (`\r`, `\n`,
//! `\0`, `\xff`) and add no CRLF; `S~` sends one octet at a time; `S*N TEXT` sends a line N times; `C#N` takes N octets
//! whatever they are; `close` closes; `hang` says nothing for ever;
//! `stall` does not even read.
//!
//! The third is what we make of it. `UPDATE_DIALOGUES=1 cargo test dialogue` writes it anew; read the diff.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::timeout;

use super::super::client::{Client, Local, Target};
use super::super::connection::Connection;
use super::super::memory::Quirks;
use super::super::transaction::{Job, Transaction};
use crate::clock::Clock;
use crate::config::{Credentials, DeliveryConfig, TlsPolicy};
use crate::mail::{Failure, Notify, Origin, Outcome, Recipient, Ret, ReversePath};
use crate::telemetry::Metrics;

#[test]
fn dialogues() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialogues/client");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("readable").path()).collect();
    files.sort();
    assert!(files.len() >= 30, "only {} dialogues", files.len());
    let failures: Vec<String> = files.iter().filter_map(|file| check_dialogue(file).err()).collect();
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

fn check_dialogue(file: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(file).expect("readable");
    let sections: Vec<&str> = text.split("===\n").collect();
    let [head, script, expected] = sections[..] else { return Err(format!("{file:?}: not three sections")) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let (seen, complaint) = runtime.expect("a runtime").block_on(play(head, script));
    if std::env::var_os("UPDATE_DIALOGUES").is_some() {
        std::fs::write(file, [head, script, &seen].join("===\n")).expect("writable");
    } else if seen != expected {
        return Err(format!("{file:?}\n--- expected\n{expected}--- seen\n{seen}{}", complaint.unwrap_or_default()));
    }
    complaint.map_or(Ok(()), |complaint| Err(format!("{file:?}: {complaint}")))
}

/// What we made of it, and what the server complains about.
async fn play(head: &str, script: &str) -> (String, Option<String>) {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let server = tokio::spawn(serve(theirs, read_script(script)));
    let seen = timeout(Duration::from_secs(86_400), act(ours, head)).await.expect("ends some day");
    let complaint = match timeout(Duration::from_secs(86_400), server).await {
        Ok(done) => done.expect("the server does not panic").err(),
        Err(_) => Some("the script did not end\n".into()),
    };
    (seen, complaint)
}

async fn act(stream: DuplexStream, head: &str) -> String {
    let metrics = Arc::new(Metrics::new());
    let config = DeliveryConfig::default();
    let client = Client::new(&config, &"mta.us.example".parse().expect("a domain"), metrics.clone());
    let mut target = Target {
        host: "mx.them.example".into(),
        address: "127.0.0.1:25".parse().expect("an address"),
        local: Local::default(),
        tls: TlsPolicy::Opportunistic,
        credentials: None,
    };
    let mut deeds = Vec::new();
    for line in head.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (key, value) = line.split_once(':').expect("key: value");
        match (key, value.trim()) {
            ("tls", policy) => target.tls = toml::Value::from(policy).try_into().expect("a policy"),
            ("auth", both) => {
                let (username, password) = both.split_once(' ').expect("two words");
                target.credentials =
                    Some(Arc::new(Credentials { username: username.into(), password: password.into() }));
            }
            (key, value) => deeds.push((key, value)),
        }
    }
    let mut seen = String::new();
    let now = Clock.instant();
    let upgrade = client.upgrade_for(&target, now);
    match client.open(stream, &target, None, upgrade, now).await {
        Err(refusal) => {
            seen = format!("no session: {} {}\n", refusal.stage.as_str(), show_failure(&refusal.failure));
        }
        Ok(connection) => perform(connection, &deeds, &mut seen).await,
    }
    let quirks = client.shared.quirks(&target, Clock.instant());
    if quirks != Quirks::default() {
        seen += &format!("remembered: {quirks:?}\n");
    }
    if metrics.unanswered_content.get() > 0 {
        seen += &format!("unanswered: {}\n", metrics.unanswered_content.get());
    }
    seen
}

async fn perform(mut connection: Connection<DuplexStream>, deeds: &[(&str, &str)], seen: &mut String) {
    for deed in deeds {
        match *deed {
            ("job", work) => {
                let work = Work::read(work);
                let transaction = connection.deliver(&work.job(&work.recipients())).await;
                *seen += &show_transaction(&work, &transaction);
            }
            ("idle", _) => connection.idle().await,
            ("quit", _) => return connection.quit().await,
            other => panic!("{other:?} is no deed"),
        }
    }
    *seen += if connection.is_usable() { "usable\n" } else { "not usable\n" };
}

/// One `job:` line, owned.
struct Work {
    reverse_path: ReversePath,
    recipients: Vec<Recipient>,
    signature: Bytes,
    content: Bytes,
    eight_bit: bool,
    smtputf8: bool,
    ret: Option<Ret>,
    envid: Option<String>,
}

impl Work {
    /// `from=` `to=` `content=hello|dots|open|empty|big|eight` `signed` `8bit` `utf8` `ret=full|hdrs` `envid=`
    /// `notify=never|success,failure,delay` `orcpt=`
    fn read(line: &str) -> Work {
        let mut work = Work {
            reverse_path: "a@us.example".parse().expect("an address"),
            recipients: Vec::new(),
            signature: Bytes::new(),
            content: Bytes::from_static(b"Subject: hi\r\n\r\nhello\r\n"),
            eight_bit: false,
            smtputf8: false,
            ret: None,
            envid: None,
        };
        for word in line.split(' ') {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            match key {
                "from" => work.reverse_path = value.parse().expect("an address"),
                "to" => {
                    work.recipients =
                        value.split(',').map(|to| Recipient::new(to.parse().expect("an address"))).collect();
                }
                "content" => work.content = content(value),
                "signed" => work.signature = Bytes::from_static(b"DKIM-Signature: v=1\r\n"),
                "8bit" => work.eight_bit = true,
                "utf8" => work.smtputf8 = true,
                "ret" => work.ret = Some(if value == "full" { Ret::Full } else { Ret::Hdrs }),
                "envid" => work.envid = Some(value.into()),
                "notify" => {
                    let has = |name| value.split(',').any(|word| word == name);
                    let notify = Notify { success: has("success"), failure: has("failure"), delay: has("delay") };
                    work.recipients.iter_mut().for_each(|r| r.notify = Some(notify));
                }
                "orcpt" => work.recipients.iter_mut().for_each(|r| r.orcpt = Some(value.into())),
                other => panic!("{other:?} is no part of a job"),
            }
        }
        work
    }

    fn recipients(&self) -> Vec<&Recipient> {
        self.recipients.iter().collect()
    }

    fn job<'a>(&'a self, recipients: &'a [&'a Recipient]) -> Job<'a> {
        Job {
            reverse_path: &self.reverse_path,
            recipients,
            signature: &self.signature,
            content: &self.content,
            eight_bit: self.eight_bit,
            smtputf8: self.smtputf8,
            ret: self.ret,
            envid: self.envid.as_deref(),
        }
    }
}

fn content(name: &str) -> Bytes {
    match name {
        "dots" => Bytes::from_static(b".first\r\n..\r\n.\r\nmiddle.\r\n"),
        "open" => Bytes::from_static(b"Subject: hi\r\n\r\nno end"),
        "empty" => Bytes::new(),
        "eight" => Bytes::from_static("Subject: hi\r\n\r\nhällo\r\n".as_bytes()),
        // 1,500,000 octets.
        "big" => Bytes::from([b'x'; 98].iter().chain(b"\r\n").copied().cycle().take(1_500_000).collect::<Vec<u8>>()),
        other => panic!("{other:?} is no content"),
    }
}

fn show_transaction(work: &Work, transaction: &Transaction) -> String {
    let mut text = String::new();
    for (recipient, outcome) in work.recipients.iter().zip(&transaction.outcomes) {
        let outcome = match outcome {
            None => "none".into(),
            Some(Outcome::Delivered { reply }) => format!("delivered {reply}"),
            Some(Outcome::Deferred(failure)) => format!("deferred {}", show_failure(failure)),
            Some(Outcome::Failed(failure)) => format!("failed {}", show_failure(failure)),
        };
        text += &format!("{}: {outcome}\n", recipient.address);
    }
    if let Some(failure) = &transaction.session_failure {
        text += &format!("session: {}\n", show_failure(failure));
    }
    if transaction.content_unanswered {
        text += "content unanswered\n";
    }
    text
}

/// `blame command reply`; texts are cut.
fn show_failure(failure: &Failure) -> String {
    let origin = match failure.origin {
        Origin::Remote { command } => command,
        Origin::Local => "local",
    };
    let reply: String = failure.reply.to_string().chars().take(150).collect();
    format!("{:?} {origin} {reply}", failure.blame)
}

#[derive(Debug)]
enum Act {
    Expect(Vec<u8>),
    Take(usize),
    Say(Vec<u8>),
    Drip(Vec<u8>),
    Close,
    Hang,
    Stall,
}

fn read_script(script: &str) -> Vec<Act> {
    let mut acts: Vec<Act> = Vec::new();
    for line in script.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let text = || format!("{}\r\n", line[2..].strip_prefix(' ').unwrap_or_default()).into_bytes();
        let raw = || unescape(line[2..].strip_prefix(' ').unwrap_or_default());
        let (client, bytes) = match &line[..2] {
            "C:" => (true, text()),
            "C>" => (true, raw()),
            "S:" => (false, text()),
            "S>" => (false, raw()),
            "S~" => {
                acts.push(Act::Drip(text()));
                continue;
            }
            "S*" => {
                let (times, text) = line[2..].split_once(' ').expect("S*N TEXT");
                (false, format!("{text}\r\n").repeat(times.parse().expect("a number")).into_bytes())
            }
            "C#" => {
                acts.push(Act::Take(line[2..].parse().expect("a number")));
                continue;
            }
            _ if line == "close" => {
                acts.push(Act::Close);
                continue;
            }
            _ if line == "stall" => {
                acts.push(Act::Stall);
                continue;
            }
            _ if line == "hang" => {
                acts.push(Act::Hang);
                continue;
            }
            _ => panic!("{line:?} is no line of a script"),
        };
        match (acts.last_mut(), client) {
            (Some(Act::Expect(before)), true) | (Some(Act::Say(before)), false) => before.extend(bytes),
            (_, true) => acts.push(Act::Expect(bytes)),
            (_, false) => acts.push(Act::Say(bytes)),
        }
    }
    acts
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = match (first, tail) {
            (b'\\', [b'r', tail @ ..]) => {
                bytes.push(b'\r');
                tail
            }
            (b'\\', [b'n', tail @ ..]) => {
                bytes.push(b'\n');
                tail
            }
            (b'\\', [b'0', tail @ ..]) => {
                bytes.push(0);
                tail
            }
            (b'\\', [b'x', hex @ ..]) => {
                let digits = std::str::from_utf8(&hex[..2]).expect("two digits");
                bytes.push(u8::from_str_radix(digits, 16).expect("two digits"));
                &hex[2..]
            }
            (other, tail) => {
                bytes.push(*other);
                tail
            }
        };
    }
    bytes
}

async fn serve(mut stream: DuplexStream, script: Vec<Act>) -> Result<(), String> {
    for act in script {
        match act {
            Act::Expect(expected) => expect(&mut stream, &expected).await?,
            Act::Take(octets) => {
                let mut room = vec![0; octets];
                stream.read_exact(&mut room).await.map_err(|e| format!("{octets} octets: {e}\n"))?;
            }
            Act::Say(bytes) => {
                let mut room = [0; 200];
                if let Ok(Ok(n @ 1..)) = timeout(Duration::from_millis(1), stream.read(&mut room)).await {
                    return Err(format!("the client did not wait: {:?}\n", String::from_utf8_lossy(&room[..n])));
                }
                // A client that left is not there to listen.
                let _ = stream.write_all(&bytes).await;
            }
            Act::Drip(bytes) => {
                for byte in bytes {
                    let _ = stream.write_all(&[byte]).await;
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
            Act::Close => return Ok(()),
            Act::Hang => return hang(stream).await,
            Act::Stall => {
                tokio::time::sleep(Duration::from_secs(3600)).await;
                return Ok(());
            }
        }
    }
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    match rest.is_empty() {
        true => Ok(()),
        false => Err(format!("the client went on: {:?}\n", String::from_utf8_lossy(&rest))),
    }
}

async fn expect(stream: &mut DuplexStream, expected: &[u8]) -> Result<(), String> {
    let mut seen = vec![0; expected.len()];
    let mut filled = 0;
    while filled < seen.len() {
        match timeout(Duration::from_secs(3600), stream.read(&mut seen[filled..])).await {
            Ok(Ok(n @ 1..)) => filled += n,
            _ => break,
        }
    }
    seen.truncate(filled);
    match seen == expected {
        true => Ok(()),
        false => Err(format!(
            "--- the client should send\n{}--- and sent\n{}\n",
            String::from_utf8_lossy(expected),
            String::from_utf8_lossy(&seen)
        )),
    }
}

/// Stays, silent, until the client leaves.
async fn hang(mut stream: DuplexStream) -> Result<(), String> {
    let mut room = [0; 4096];
    while let Ok(1..) = stream.read(&mut room).await {}
    Ok(())
}
