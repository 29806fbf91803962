//! Which way mail takes, and how fast: routes, sources, pools, egress, limits.

use super::*;

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
