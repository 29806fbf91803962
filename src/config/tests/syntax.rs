//! What is no TOML, or a key or value that does not exist.

use super::*;

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
