//! Files and the problems they draw.

mod syntax;
mod traffic;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;

/// What the file draws, errors and warnings, one a line. `hostname` is given so that the system's does not matter.
fn problems(text: &str) -> Vec<String> {
    let text = format!("hostname = \"mta1.example.net\"\n{text}");
    let problems = match Config::parse(&text, Path::new("f")) {
        Ok((_, warnings)) => warnings,
        Err(problems) => problems,
    };
    problems.iter().map(Problem::to_string).collect()
}

#[track_caller]
fn check(text: &str, expected: &[&str]) {
    assert_eq!(problems(text), expected, "{text}");
}

#[test]
fn takes_a_good_file() {
    let (config, warnings) =
        Config::parse("hostname = \"Mta1.Example.net.\"\n[retry]\ndelay_min = \"1m\"\n", Path::new("f")).expect("good");
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(config.hostname().expect("set").as_str(), "mta1.example.net");
    assert_eq!(config.retry.delay_min, Duration::from_secs(60));
    assert_eq!(config.spool, SpoolConfig::default());
    check("", &[]);
}

#[test]
fn a_short_hostname_is_a_warning() {
    let (_, warnings) = Config::parse("hostname = \"mta1\"", Path::new("f")).expect("usable");
    assert_eq!(
        warnings[0].to_string(),
        "f:1: warning: hostname: mta1 is not fully qualified; many receivers refuse such an EHLO name; set this host's \
         full name, as in \"mta1.example.net\""
    );
    let problems = Config::parse("hostname = \"10.0.0.1\"", Path::new("f")).expect_err("no name");
    assert!(problems[0].to_string().starts_with("f:1: hostname: \"10.0.0.1\" is an IP address; "), "{}", problems[0]);
}

#[test]
fn tells_what_is_wrong_with_doors_for_requests() {
    check(
        &format!(
            r#"data_dir = "/data"
[submission.grpc]
listen = ["127.0.0.1:2525", "127.0.0.1:0"]
listen_unix = ["grpc.sock", "/run/{}", "/run/one.sock", "/run/one.sock"]
trusted_networks = ["::/0"]
max_message_size = "2GiB"
recipients_max = 0
connections_max = 0
tls_key_file = "/nowhere"
tls_client_ca_file = "/nowhere"
[submission.http]
listen = ["127.0.0.1:2590"]
listen_unix = ["/run/one.sock"]
memory_max = "1MiB"
"#,
            "x".repeat(110)
        ),
        &[
            "f: admin.listen: 127.0.0.1:2590 is taken by submission.http.listen[0] (127.0.0.1:2590); use another port or address",
            "f:3: submission.grpc.memory_max: 256MiB has no room for one message of max_message_size; raise it to at least 2GiB",
            "f:4: submission.grpc.listen[0]: 127.0.0.1:2525 is taken by submission.smtp.listen[0] (127.0.0.1:2525); use another port or address",
            "f:4: submission.grpc.listen[1]: port 0 is none that a client could know; write the port, as in 127.0.0.1:2525",
            "f:5: submission.grpc.listen_unix[0]: grpc.sock depends on where the daemon is started; write an absolute path",
            "f:5: submission.grpc.listen_unix[1]: a Unix socket's path has at most 107 octets, this has 115; use a shorter one, as in /run/posthaste/grpc.sock",
            "f:5: submission.grpc.listen_unix[3]: /run/one.sock is taken by submission.grpc.listen_unix[2]; use another path",
            "f:6: warning: submission.grpc.trusted_networks[0]: everybody who reaches the port may send mail through this host; list the networks of your clients",
            "f:7: submission.grpc.max_message_size: 2GiB is more than the 1GiB a message may have; lower it",
            "f:8: submission.grpc.recipients_max: 0 lets nothing through; set a limit of at least 1",
            "f:9: submission.grpc.connections_max: 0 lets nothing through; set a limit of at least 1",
            "f:10: submission.grpc.tls_key_file: a key without its certificate; set tls_cert_file too",
            "f:11: submission.grpc.tls_client_ca_file: cannot read /nowhere: No such file or directory (os error 2); correct the path, or let the daemon's user read the file",
            "f:11: submission.grpc.tls_client_ca_file: client certificates need TLS, and there is no certificate of our own; set tls_cert_file and tls_key_file too",
            "f:14: submission.http.listen_unix[0]: /run/one.sock is taken by submission.grpc.listen_unix[2]; use another path",
            "f:15: submission.http.memory_max: 1MiB has no room for one message of max_message_size; raise it to at least 50MiB",
        ],
    );
}

#[test]
fn tells_what_contradicts_itself() {
    check(
        r#"data_dir = "data"
[submission.smtp]
listen = ["127.0.0.1:2525", "0.0.0.0:2525", "[::1]:2525", "127.0.0.1:0", "127.0.0.1:2590"]
trusted_networks = ["0.0.0.0/0"]
max_message_size = "2GiB"
recipients_max = 10
line_length_max = 100
errors_max = 0
tls_key_file = "/nowhere"
[spool]
segment_size = "2GiB"
recipients_max = 0
[admin]
listen = "0.0.0.0:2590"
[dns]
nameservers = ["127.0.0.1:0"]
timeout = "0s"
[delivery]
connections_per_site = 2000
source_addresses = ["0.0.0.0"]
site_pause_min = "1h"
[delivery.timeout]
connect = "0s"
data_end = "1m"
[retry]
delay_min = "6h"
expire_after = "1h"
"#,
        &[
            "f:2: data_dir: data depends on where the daemon is started; write an absolute path",
            "f:3: submission.smtp.memory_max: 256MiB has no room for one message of max_message_size; raise it to at least 2GiB",
            "f:4: submission.smtp.listen[1]: 0.0.0.0:2525 is taken by submission.smtp.listen[0] (127.0.0.1:2525); use another port or address",
            "f:4: submission.smtp.listen[3]: port 0 is none that a client could know; write the port, as in 127.0.0.1:2525",
            "f:5: warning: submission.smtp.trusted_networks[0]: everybody who reaches the port may send mail through this host; list the networks of your clients",
            "f:6: submission.smtp.max_message_size: 2GiB is more than the 1GiB a message may have; lower it",
            "f:7: warning: submission.smtp.recipients_max: RFC 5321 §4.5.3.1.8 lets clients expect 100; raise it to at least 100",
            "f:8: submission.smtp.line_length_max: RFC 5322 §2.1.1 lets clients send lines of 998 octets; raise it to at least 998",
            "f:9: submission.smtp.errors_max: 0 lets nothing through; set a limit of at least 1",
            "f:10: submission.smtp.tls_key_file: a key without its certificate; set tls_cert_file too",
            "f:12: spool.segment_size: 2GiB is not within 1MiB and 1GiB; 64MiB suits nearly everybody",
            "f:13: spool.recipients_max: 0 lets nothing through; set a limit of at least 1",
            "f:15: admin.listen: 0.0.0.0:2590 is taken by submission.smtp.listen[4] (127.0.0.1:2590); use another port or address",
            "f:15: warning: admin.listen: whoever reaches 0.0.0.0:2590 may steer the queue; listen on 127.0.0.1, or keep the port behind a firewall",
            "f:17: dns.nameservers[0]: port 0 is none; write the port: it is mostly 53",
            "f:18: dns.timeout: 0s leaves no time at all; set a longer time",
            "f:20: warning: delivery.connections_per_site: 2000 can never be reached; lower it to connections_max (1000) or less",
            "f:21: delivery.source_addresses[0]: 0.0.0.0 is no address to send from; write one of this host's",
            "f:22: delivery.site_pause_min: 1h is longer than site_pause_max (30m); lower it or raise site_pause_max",
            "f:24: delivery.timeout.connect: 0s leaves no time at all; set a longer time",
            "f:25: warning: delivery.timeout.data_end: a receiver that takes longer gets the message twice (RFC 5321 §4.5.3.2.6 asks 10 minutes); raise it to 10m",
            "f:27: retry.delay_min: 6h is longer than delay_max (4h); lower it or raise delay_max",
            "f:28: retry.expire_after: 1h is over before the second attempt (delay_min 6h); raise it; RFC 5321 §4.5.4.1 asks 4 to 5 days",
        ],
    );
}

#[test]
fn checks_reports_of_streams() {
    check(
        r#"[reports]
delay_after = "0s"
[[reports.stream]]
match = { tenant = "shop" }
send = "event"
delays = true
[[reports.stream]]
match = { tenant = "Shop", class = "bulk" }
[[reports.stream]]
match = { provider = "google" }
delays = true
"#,
        &[
            "f:7: reports.stream[0].delays: nothing is mailed to senders of these streams; remove it, or set send = \"mail\"",
            "f:8: warning: reports.stream[1]: reports.stream[0] takes all of it first; move this rule up, or remove it",
            "f:11: reports.stream[2].match.provider: senders hear of a whole stream, wherever its mail goes; use tenant, class and campaign",
            "f:12: reports.stream[2].delays: reports.delay_after is 0s: nobody hears of delay; remove it, or set delay_after",
        ],
    );
}

#[test]
fn checks_keys_and_certificates() {
    let dir = tempfile::tempdir().expect("a directory");
    let key = dir.path().join("key.pem");
    std::fs::write(&key, "").expect("writes");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("its owner");
    let key = key.display();
    let dkim = |selector: &str| {
        format!("[[dkim]]\ndomain = \"example.com\"\nselector = \"{selector}\"\nkey_file = \"{key}\"\n")
    };
    check(&format!("{}{}", dkim("s1"), dkim("2026")), &[]);
    check(
        &format!("{}{}{}", dkim("s1"), dkim("s1"), dkim("s 2")),
        &[
            "f:8: dkim[1].selector: s1._domainkey.example.com is there twice; give each key a selector of its own",
            "f:12: dkim[2].selector: \"s 2\" cannot stand in the name of a DNS record; use letters, digits, hyphens and dots, as in \"s1\"",
        ],
    );
    let missing = "cannot read /nowhere: No such file or directory (os error 2); correct the path, or let the daemon's user read the file";
    check(
        "[[dkim]]\ndomain = \"example.com\"\nselector = \"s1\"\nkey_file = \"/nowhere\"\n",
        &[&format!("f:5: dkim[0].key_file: {missing}")],
    );
    check(
        "[submission.smtp]\ntls_cert_file = \"/nowhere\"\ntls_key_file = \"/\"\n",
        &[
            &format!("f:3: submission.smtp.tls_cert_file: {missing}"),
            "f:4: submission.smtp.tls_key_file: / is no file; name a file",
        ],
    );
    check(
        "[submission.smtp]\nlisten_tls = [\"127.0.0.1:2465\", \"127.0.0.1:2525\"]\nauth_without_tls = [\"10.0.0.0/8\", \"127.0.0.1/32\"]\n",
        &[
            "f:3: submission.smtp.listen_tls[1]: 127.0.0.1:2525 is taken by submission.smtp.listen[0] (127.0.0.1:2525); use another port or address",
            "f:3: submission.smtp.listen_tls: TLS without a certificate; set tls_cert_file and tls_key_file",
            "f:4: warning: submission.smtp.auth_without_tls[0]: passwords from 10.0.0.0/8 can be read on the way; remove it, and let these clients say STARTTLS",
        ],
    );
    check(
        &format!("[submission.smtp]\ntls_cert_file = \"{key}\"\n"),
        &["f:3: submission.smtp.tls_cert_file: a certificate without its key; set tls_key_file too"],
    );
    std::fs::set_permissions(dir.path().join("key.pem"), std::fs::Permissions::from_mode(0o644)).expect("its owner");
    check(
        &dkim("s1"),
        &[&format!(
            "f:5: warning: dkim[0].key_file: every user of this host can read the secret in {key}; chmod 0640 it"
        )],
    );
}

#[test]
fn what_would_stop_or_lose_things_later_is_told_now() {
    check(
        "[feedback]\nbounce_domain = \"b.example\"\n[unsubscribe]\nlisten = [\"127.0.0.1:2525\"]\n[events]\n\
         rotate_size = \"10KiB\"\n[ledger]\nkeep_keys = \"0s\"\n[inbound]\nlisten = [\"127.0.0.1:25\"]\n[delivery]\n\
         tls = true\n",
        &[
            "f:5: unsubscribe.listen[0]: 127.0.0.1:2525 is taken by submission.smtp.listen[0] (127.0.0.1:2525); use \
             another port or address",
            "f:7: events.rotate_size: 10KiB is full in no time, and only events.keep such files are kept; raise it to at \
             least 1MiB; 256MiB suits nearly everybody",
            "f:9: ledger.keep_keys: 0s leaves no time at all; set a longer time",
            "f:13: delivery.tls: expected a word; write it in quotes",
        ],
    );
}

#[test]
fn a_missing_file_is_one_problem() {
    let problems = Config::load(Path::new("/nowhere/posthaste.toml")).expect_err("not there");
    let lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
    assert_eq!(
        lines,
        [
            "/nowhere/posthaste.toml: cannot read the file: No such file or directory (os error 2); create it, or name another one with --config"
        ]
    );
}
