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
fn a_file_of_nonsense_ends_somewhere() {
    let text: String = (0..5000).map(|n| format!("nonsense{n} = 1\n")).collect();
    assert!(problems(&text).len() <= 101);
    check(
        "retry = 5\nroute = 5\n[[dkim.x]]\n",
        &[
            "f:2: retry: invalid type: integer `5`, expected a section; write its keys below the section's name in brackets",
            "f:3: route: invalid type: integer `5`, expected a sequence; write it as a list: [ … ]",
            "f:4: dkim.x[0]: invalid type: map, expected a sequence; write it as a list: [ … ]",
        ],
    );
}

#[test]
fn tells_everything_serde_refuses() {
    check(
        r#"data_dir = 5
[retry]
delay_mim = "5m"
delay_max = "soon"
[submission.smtp]
listen = ["127.0.0.1", "127.0.0.1:2525", "x"]
trusted_networks = ["10.0.0.0/33"]
max_message_size = "50 apples"
recipients_max = -1
colour = "red"
[delivery]
port = 70000
tls = "requird"
allow_loopback = "yes"
[admin]
listen = 1
[nothing]
"#,
        &[
            "f:2: data_dir: invalid type: integer `5`, expected path string; write it in quotes",
            "f:4: retry.delay_mim: unknown key; did you mean delay_min?",
            "f:5: retry.delay_max: invalid value: string \"soon\", expected a duration; write it as \"90s\", \"5m\", \"4h\" or \"4d\"",
            "f:7: submission.smtp.listen[0]: invalid socket address syntax; write it as \"IP:PORT\", as in \"127.0.0.1:2525\" or \"[::1]:2525\"",
            "f:7: submission.smtp.listen[2]: invalid socket address syntax; write it as \"IP:PORT\", as in \"127.0.0.1:2525\" or \"[::1]:2525\"",
            "f:8: submission.smtp.trusted_networks[0]: invalid IP address syntax; write it as \"192.0.2.1\" or \"2001:db8::1\"; a network as \"10.0.0.0/8\"",
            "f:9: submission.smtp.max_message_size: \"50 apples\" is not a size; write it as \"50MiB\", \"64KB\" or a number of octets",
            "f:10: submission.smtp.recipients_max: invalid value: integer `-1`, expected a number from 0 up; write a number in that range",
            "f:11: submission.smtp.colour: unknown key; remove it; known here: listen, max_message_size, recipients_max, connections_max, connections_per_client_max, memory_max, tls_cert_file, tls_key_file, listen_tls, trusted_networks, auth_without_tls, line_length_max, commands_max, errors_max, idle_timeout, tls_client_ca_file",
            "f:13: delivery.port: invalid value: integer `70000`, expected a number from 0 to 65535; write a number in that range",
            "f:14: delivery.tls: \"requird\" is not known; use one of: none, opportunistic, required, verified",
            "f:15: delivery.allow_loopback: invalid type: string \"yes\", expected a boolean; write true or false, without quotes",
            "f:17: admin.listen: invalid type: integer `1`, expected socket address; write it as \"IP:PORT\", as in \"127.0.0.1:2525\" or \"[::1]:2525\"",
            "f:18: nothing: unknown key; remove it; known here: hostname, data_dir, submission, spool, admin, dns, delivery, retry, reports, feedback, inbound, unsubscribe, events, ledger, suppression, shaping, brake, warmup, route, source, pool, egress, dkim, limit",
        ],
    );
}

#[test]
fn tells_what_lists_of_tables_lack() {
    check(
        r#"[[route]]
match = "*"
[[dkim]]
domain = "not a domain"
selector = "s1"
key_file = "/nowhere"
[[route]]
relay = ["127.0.0.1:25"]
match = "a.example"
user = "me"
"#,
        &[
            "f:2: route[0]: relay is missing; add relay = …",
            "f:5: dkim[0].domain: \"not a domain\" is not a domain name; write a domain name, as in \"example.com\"",
            "f:11: route[1].user: unknown key; did you mean username?",
        ],
    );
}

#[test]
fn tells_every_mistake_in_syntax() {
    check(
        "a = \n[retry\n",
        &[
            "f:2: string values must be quoted, expected literal string; correct the TOML syntax here",
            "f:3: unclosed table, expected `]`; correct the TOML syntax here",
        ],
    );
    check("data_dir = \"/a\"\ndata_dir = \"/b\"\n", &["f:3: duplicate key; remove one of the two"]);
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
fn checks_routes() {
    let dir = tempfile::tempdir().expect("a directory");
    let password = dir.path().join("password");
    std::fs::write(&password, "secret\n").expect("writes");
    std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o640)).expect("its owner");
    let password = format!("username = \"me\"\npassword_file = \"{}\"\n", password.display());
    let check = |pattern: &str, relay: &str, rest: &str, expected: &[&str]| {
        check(&format!("[[route]]\nmatch = \"{pattern}\"\nrelay = [{relay}]\n{rest}"), expected);
    };
    let form = "write \"HOST:PORT\", \"IP:PORT\" or \"[IPv6]:PORT\"";
    check("*.example.com", r#""127.0.0.1:25", "[::1]:25", "mx.example:587""#, "", &[]);
    check(
        "*x",
        r#""mx.example", "mx.example:0", "::1:25", "a b:25", "mx.example:70000""#,
        "",
        &[
            "f:3: route[0].match: \"*x\" matches nothing; write a domain, \"*.domain\" for all below it, or \"*\"",
            &format!("f:4: route[0].relay[0]: \"mx.example\" has no port; {form}"),
            &format!("f:4: route[0].relay[1]: \"mx.example:0\" has port 0; {form}"),
            &format!("f:4: route[0].relay[2]: \"::1:25\": \"::1\" is not a domain name; {form}"),
            &format!("f:4: route[0].relay[3]: \"a b:25\": \"a b\" is not a domain name; {form}"),
            &format!("f:4: route[0].relay[4]: \"mx.example:70000\" has no valid port; {form}"),
        ],
    );
    check(
        "*",
        "",
        "[[route]]\nmatch = \"a.example\"\nrelay = [\"127.0.0.1:25\"]\n",
        &[
            "f:4: route[0].relay: no host to send to; list at least one \"HOST:PORT\"",
            "f:6: warning: route[1].match: the route for \"*\" above takes all of it first; move this route up, or remove it",
        ],
    );
    let clear =
        "f:5: route[0].username: the password could go to somebody in between; set tls = \"verified\" in this route";
    check("*", "\"mx.example:587\"", &password, &[clear]);
    check("*", "\"mx.example:587\"", &format!("{password}tls = \"required\""), &[clear]);
    check("*", "\"mx.example:587\"", &format!("{password}tls = \"verified\""), &[]);
    check("*", "\"127.0.0.1:587\", \"localhost:25\"", &password, &[]);
    let half = "f:5: route[0].username: a user without password; set password_file too";
    check("*", "\"127.0.0.1:587\"", "username = \"me\"", &[half]);
    let half = "f:5: route[0].password_file: a password without user; set username too";
    check("*", "\"127.0.0.1:587\"", "password_file = \"/nowhere\"", &[half]);
}

#[test]
fn takes_sources_pools_and_egress() {
    let good = r#"[[source]]
name = "a"
addresses = ["127.0.0.1"]
ehlo = "a.us.example"
[[source]]
name = "b"
addresses = ["127.0.0.2"]
[[source]]
name = "c"
proxy = "socks5://127.0.0.1:1080"
[[pool]]
name = "bulk"
sources = { b = 3, c = 1 }
[[egress]]
match = { tenant = "shop", campaign = "weekly" }
pool = "bulk"
[[egress]]
pool = "default"
"#;
    check(good, &[]);
    check(
        &format!("[delivery]\nsource_addresses = [\"127.0.0.1\", \"192.0.2.1\"]\n{good}"),
        &[
            "f:3: warning: delivery.source_addresses[1]: 192.0.2.1 is no address of this host at present, and nothing is sent from it until it is; add it to an interface, or correct it",
            "f:3: warning: delivery.source_addresses: the pool \"default\" has sources of its own, so nothing is sent from these; remove them, or make them a [[source]]",
        ],
    );
}

#[test]
fn checks_sources() {
    check(
        r#"[[source]]
name = "a b"
addresses = ["0.0.0.0", "192.0.2.1"]
ehlo = "mta"
username = "me"
[[source]]
name = "default"
addresses = ["192.0.2.9"]
proxy = "haproxy://127.0.0.1:25"
password_file = "/"
[[source]]
name = "default"
proxy = "haproxy://127.0.0.1:26"
[[source]]
name = "mta1"
addresses = ["127.0.0.1"]
[[source]]
name = "mta2"
addresses = ["127.0.0.1"]
"#,
        &[
            "f:3: source[0].name: \"a b\" is no name; use 1 to 64 letters, digits, dots, hyphens and underscores",
            "f:4: source[0].addresses[0]: 0.0.0.0 is no address to send from; write one of this host's",
            "f:4: warning: source[0].addresses[1]: 192.0.2.1 is no address of this host at present, and nothing is sent from it until it is; add it to an interface, or correct it",
            "f:5: warning: source[0].ehlo: mta is not fully qualified; many receivers refuse such an EHLO name; set the full name of the source's address",
            "f:6: source[0].username: a user without password; set password_file too",
            "f:6: source[0].username: there is no proxy to ask for it; set proxy, or remove it",
            "f:8: source[1].name: \"default\" is the source there is when none is configured; give it another name",
            "f:11: source[1].password_file: a password without user; set username too",
            "f:11: source[1].password_file: a forwarder asks for no user; remove it",
            "f:13: source[2].name: \"default\" is there twice; give each a name of its own",
            "f:13: source[2].name: \"default\" is the source there is when none is configured; give it another name",
            "f:14: source[2].proxy: the forwarder must be told which of its addresses to send from; set addresses",
            "f:20: warning: source[4].addresses[0]: 127.0.0.1 is also an address of \"mta1\": receivers cannot tell the two apart; give each source addresses of its own",
        ],
    );
}

#[test]
fn checks_pools_and_egress() {
    check(
        r#"[[source]]
name = "mta1"
[[source]]
name = "mta2"
[[pool]]
name = "default"
sources = { mtal = 1, mta1 = 0 }
[[pool]]
name = "bulk"
sources = {}
[[egress]]
match = { class = "bulk" }
pool = "bulc"
[[egress]]
match = { tenant = "abc", class = "bulk", site = "x" }
pool = "nothing"
"#,
        &[
            "f:5: warning: source[1].name: no pool has it, so nothing is sent from it; add it to a pool, or remove it",
            "f:8: pool[0].sources.mta1: 0 gives it nothing to send; leave it out, or give it a weight of at least 1",
            "f:8: pool[0].sources.mtal: there is no source \"mtal\"; did you mean \"mta1\"?",
            "f:10: warning: pool[1].name: no [[egress]] sends anything by it; add one, or remove the pool",
            "f:11: pool[1].sources: no source to send from; name at least one: { name = 1 }",
            "f:14: egress[0].pool: there is no pool \"bulc\"; did you mean \"bulk\"?",
            "f:15: warning: egress[1]: egress[0] takes all of it first; move this rule up, or remove it",
            "f:16: egress[1].match.site: the pool is chosen by stream, before it is known where the mail goes; use tenant, class and campaign",
            "f:17: egress[1].pool: there is no pool \"nothing\"; add a [[pool]] of that name, or correct it",
        ],
    );
    check(
        "[[source]]\nname = \"a\"\nproxy = \"socks5://proxy.example:1080\"\n[[pool]]\nname = \"b\"\nsources = [\"a\"]\n",
        &[
            "f:4: source[0].proxy: \"socks5://proxy.example:1080\" is no proxy; write \"socks5://IP:PORT\" or \"haproxy://IP:PORT\", as in \"socks5://192.0.2.1:1080\"",
            "f:7: pool[0].sources: invalid type: sequence, expected a map; write it as { name = number, … }",
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
fn checks_limits() {
    check(
        r#"[[limit]]
match = { provider = "google" }
each = ["source", "site"]
connections = 10
connection_rate = "5/s"
messages = "1000/min burst 50"
recipients = "20000/d"
bytes = "10MiB/s"
recipients_per_transaction = 50
messages_per_connection = 20
[[limit]]
match = { domain = "example.com", tenant = "shop" }
each = ["campaign"]
messages = "1/s"
[[limit]]
match = { pool = "default", tenant = "shop" }
messages = "1/s"
"#,
        &[],
    );
    check(
        r#"[[limit]]
match = { source = "one", tenant = "shop" }
messages = "1/s"
[[limit]]
each = ["source", "campaign"]
bytes = "1MB/s"
[[limit]]
match = { source = "one", tenant = "shop" }
recipients_per_transaction = 5
"#,
        &[
            "f:4: limit[0].messages: what one source may send of a tenant would hold that mail at all sources of its \
             pool; name the pool instead of the source, or leave out the tenant",
            "f:7: limit[1].bytes: what one source may send of a campaign would hold that mail at all sources of its \
             pool; name the pool instead of the source, or leave out the campaign",
        ],
    );
    check(
        r#"[[limit]]
match = { tenant = "shop" }
each = ["tenant", "campaign", "campaign"]
messages = "soon"
[[limit]]
match = { class = "bulk" }
connections = 0
connection_rate = "5/s burst 0"
[[limit]]
match = { domain = "*" }
each = ["colour"]
bytes = "many/s"
recipients_per_transaction = 1000
"#,
        &[
            "f:4: warning: limit[0].each[0]: this row is about one tenant only; remove it here",
            "f:4: warning: limit[0].each[2]: campaign is there twice; remove one of the two",
            "f:5: limit[0].messages: \"soon\" is not a rate; write it as \"100/s\", \"1000/h\", \"500/10m\" or \"100/s burst 20\"",
            "f:8: limit[1].connections: a connection carries mail of more than one class; put it into a row about provider, site, source or pool",
            "f:8: limit[1].connections: 0 lets nothing through; set a limit of at least 1",
            "f:9: limit[1].connection_rate: a connection carries mail of more than one class; put it into a row about provider, site, source or pool",
            "f:9: limit[1].connection_rate: a burst of 0 lets nothing through; set a burst of at least 1, or none",
            "f:11: limit[2].match.domain: \"*\" matches nothing; write a domain, as in \"example.com\"",
            "f:12: limit[2].each[0]: \"colour\" is not known; use one of: provider, site, domain, source, pool, tenant, class, campaign",
            "f:13: limit[2].bytes: \"many/s\" is not a rate of octets; write it as \"10MiB/s\", \"1GiB/h\" or \"10MiB/s burst 50MiB\"",
            "f:14: warning: limit[2].recipients_per_transaction: 1000 can never be reached; lower it, or raise delivery.recipients_per_transaction (100)",
        ],
    );
    check(
        "[[limit]]\nmatch = { tenant = \"shop\" }\n",
        &[
            "f:2: limit[0]: it limits nothing; set one of: connections, connection_rate, messages, recipients, bytes, recipients_per_transaction, messages_per_connection",
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
