//! `posthaste send`, and what it is when called as `sendmail`: the built program against the daemon.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::peer::Peer;
use crate::submission::{guarded, tenant};
use crate::world::{World, listeners, zone};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_posthaste");

/// Runs a program with `input` on stdin.
pub async fn run(program: &Path, words: &[&str], input: &str) -> Output {
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let input = input.to_owned();
    let run = move || {
        let mut child = command.spawn().unwrap();
        // One that has seen enough closes its end.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A configuration file for clients of this daemon, with a key that they may not read.
fn config_file(world: &World) -> String {
    let path = world.path("client.toml");
    let text = format!(
        "hostname = \"mta.us.test\"\n[submission.smtp]\nlisten = [\"{}\"]\ntls_key_file = \"/nowhere\"\n[admin]\nlisten = \"{}\"\n",
        world.daemon().smtp_addresses()[0],
        world.daemon().admin_address()
    );
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn sends_what_programs_pipe_into_sendmail() {
    let host = Peer::good(listeners(1).await.remove(0));
    let world = World::start(zone(&["them"]), host.address().port(), |_| {}).await;
    let config = config_file(&world);
    let sendmail = world.path("sendmail");
    std::os::unix::fs::symlink(PROGRAM, &sendmail).unwrap();

    // PHP's mail(), with line ends of its own, and blind copies.
    let message = "To: b@them.test\r\nBcc: c@them.test\nSubject: x\r\n\nHello.\n.\nstill text\n";
    let output = run(&sendmail, &["-t", "-i", "--config", &config, "-fa@us.test"], message).await;
    assert_eq!((output.status.code(), said(&output)), (Some(0), String::new()));
    world.until("delivered", "@them.test", 2).await;
    let taken = host.taken();
    let content = taken[0].content.replace("\r\n", "\n");
    assert!(content.contains("To: b@them.test\nSubject: x\n\nHello.\n.\nstill text\n"), "{content}");
    assert!(!content.contains("Bcc") && taken.iter().all(|taken| taken.sender == "a@us.test"), "{content}");

    // cron: bare addresses, a dot ends it.
    let message = "From: root (Cron Daemon)\nTo: d@them.test\nSubject: Cron\n\noutput\n.\nnot sent\n";
    let words = ["-FCronDaemon", "-odi", "-oem", "-v", "-f", "root", "--config", &config, "d@them.test"];
    let output = run(&sendmail, &words, message).await;
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("250 2.0.0 ok, queued as "));
    world.until("delivered", "d@them.test", 1).await;
    let content = &host.taken()[2].content;
    assert!(
        content.contains("From: root@mta.us.test (Cron Daemon)\r\n") && content.ends_with("output\r\n"),
        "{content}"
    );
    assert_eq!(host.taken()[2].sender, "root@mta.us.test");

    // A program that speaks SMTP, here without waiting for anything.
    let dialogue = "EHLO me\r\nMAIL FROM:<>\r\nRCPT TO:<e@them.test>\r\nBDAT 4 LAST\r\n\r\nx\nQUIT\r\n";
    let dialogue = dialogue.replace("\r\n\r\nx\nQUIT", "\r\n\r\n\r\nQUIT");
    let output = run(&sendmail, &["-bs", "--config", &config], &dialogue).await;
    let heard = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(heard.starts_with("220 mta.us.test") && heard.contains("250 2.0.0 ok, queued as "), "{heard}");
    assert!(heard.ends_with("221 2.0.0 bye\r\n") && output.status.success(), "{heard}");
    world.until("delivered", "e@them.test", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_are_those_of_sysexits() {
    let host = Peer::good(listeners(1).await.remove(0));
    let mut world = World::start(zone(&["them"]), host.address().port(), |config| {
        config.submission.smtp.recipients_max = 2;
    })
    .await;
    let config = config_file(&world);
    let send = |words: &'static [&'static str], input: &'static str| {
        let words: Vec<String> = ["send", "--config", &config].iter().chain(words).map(|word| (*word).into()).collect();
        async move {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let output = run(Path::new(PROGRAM), &words, input).await;
            (output.status.code().unwrap(), said(&output).trim_end().to_owned())
        }
    };
    const TEXT: &str = "Subject: x\n\ntext\n";
    for (words, input, code, why) in [
        (&["-f", "a@us.test"][..], TEXT, 64, "no recipients: name them, or say -t to take them from the header"),
        (&["-f"], TEXT, 64, "-f wants a value"),
        (
            &["-t", "-fa@us.test"],
            "To: b c\n\n",
            65,
            "To: \"b c\": an address is missing, or stands without its brackets",
        ),
        (
            &["-fa@us.test", "b@them.test"],
            "X-Posthaste-Class: x\n\n",
            65,
            "message: 550 5.6.0 X-Posthaste-Class: \"x\": must be transactional or bulk",
        ),
        (
            &["-fa@us.test", "a@x", "b@x", "c@x"],
            TEXT,
            75,
            "recipient c@x: 452 4.5.3 too many recipients: recipients_max is 2",
        ),
        (
            &["-fa@us.test", "--user", "u", "--password-file", "/nowhere", "b@them.test"],
            TEXT,
            78,
            "cannot read /nowhere: No such file or directory (os error 2)",
        ),
        (
            &["-fa@us.test", "--user", "u", "--password-file", "/dev/null", "b@them.test"],
            TEXT,
            69,
            "AUTH: 501 5.5.2 PLAIN is an empty name, the user and the password, each behind a NUL",
        ),
        (&["-fa@us.test", "-N", "success", "-R", "hdrs", "-V", "a=b", "b@them.test"], TEXT, 0, ""),
    ] {
        let expected = if why.is_empty() { String::new() } else { format!("posthaste send: {why}") };
        assert_eq!(send(words, input).await, (code, expected), "{words:?}");
    }
    world.until("delivered", "b@them.test", 1).await;
    assert_eq!(host.count(), 1, "nothing else was sent");
    let (code, why) = send(&["-bp"], "").await;
    assert_eq!((code, why.as_str()), (0, ""));

    assert!(world.stop(std::time::Duration::from_secs(5)).await);
    let (code, why) = send(&["-fa@us.test", "b@them.test"], TEXT).await;
    assert!(code == 75 && why.contains("no daemon answers at 127.0.0.1:"), "{code} {why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sends_over_tls_with_a_token_and_to_the_right_server_only() {
    let host = Peer::good(listeners(1).await.remove(0));
    let world = guarded(host.address().port()).await;
    let token = world.path("token");
    std::fs::write(&token, format!("{}\n", tenant(&world, "shop").await)).unwrap();
    let (token, cert) = (token.display().to_string(), world.path("cert.pem").display().to_string());
    let doors = world.daemon().smtp_addresses();
    let (clear, tls, plain) = (doors[0].to_string(), doors[1].to_string(), host.address().to_string());
    let (name, believed) = (["--tls-name", "mta.us.test"], ["--ca-file", &cert]);
    for (server, begin, trust, code, why) in [
        (&clear, "starttls", [&name[..], &believed].concat(), 0, ""),
        (&tls, "implicit", [&name[..], &believed].concat(), 0, ""),
        // Somebody else, or one whom nobody vouches for.
        (&clear, "starttls", believed.to_vec(), 75, "TLS failed: invalid peer certificate"),
        (&tls, "implicit", name.to_vec(), 75, "TLS failed: invalid peer certificate"),
        (&plain, "starttls", [&name[..], &believed].concat(), 75, "the server does not offer STARTTLS"),
        (&clear, "starttls", vec!["--ca-file", &token], 78, "no certificate of an authority in it"),
        (&clear, "off", Vec::new(), 77, "AUTH: 538 5.7.11 encryption required"),
    ] {
        let mut words = vec!["send", "--server", server, "--tls", begin, "--user", "shop", "--password-file", &token];
        words.extend(trust);
        words.extend(["-f", "a@us.test", "b@them.test"]);
        let output = run(Path::new(PROGRAM), &words, "From: a@us.test\nSubject: x\n\ntext\n").await;
        let said = said(&output);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {said}");
        assert!(said.contains(why), "{words:?}: {said}");
    }
    world.until("delivered", "b@them.test", 2).await;
    assert!(host.taken().iter().all(|taken| taken.content.contains(" with ESMTPSA\r\n")));
    assert_eq!(host.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn help_is_no_mistake() {
    for words in [&["send", "--help"][..], &["send", "-k", "--help"], &["send", "--help", "--colour"]] {
        let output = run(Path::new(PROGRAM), words, "").await;
        assert_eq!(output.status.code(), Some(if words[1] == "-k" { 64 } else { 0 }), "{words:?}");
    }
}
