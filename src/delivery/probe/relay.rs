//! A relay with a password of ours, and receivers that offer TLS.

use std::sync::{Arc, Mutex};

use super::super::client::{Client, Local, Target};
use super::super::connection::Connection;
use super::{Line, Peer, check_heard, deliver_some};
use crate::clock::Clock;
use crate::config::{Credentials, DeliveryConfig, TlsPolicy};
use crate::mail::{Failure, Origin, Outcome};
use crate::telemetry::Metrics;

const USER: &str = "me";
const PASSWORD: &str = "secret";
/// User and password as AUTH PLAIN (RFC 4616) and AUTH LOGIN send them.
const PLAIN: &str = "AG1lAHNlY3JldA==";
const LOGIN: [&str; 2] = ["bWU=", "c2VjcmV0"];

/// As [`receiver`](super::receiver), after one more octet: its two lowest bits are our TLS policy, the next whether we have a
/// password.
///
/// The password goes out after an AUTH that was offered and in no other place, never in the clear where the policy asks for
/// TLS; nobody is logged in without a yes. Behind the yes to STARTTLS nothing but TLS is written. Texts of refusals are
/// harmless, and those of AUTH do not repeat the password.
pub fn receiver_auth(octets: &[u8]) {
    let &[how, piece, ref script @ ..] = octets else { return };
    let tls =
        [TlsPolicy::None, TlsPolicy::Opportunistic, TlsPolicy::Required, TlsPolicy::Verified][usize::from(how & 3)];
    let with_password = how & 4 != 0;
    let peer = Peer {
        parts: script.split(|b| *b == 0).map(<[u8]>::to_vec).collect(),
        piece: usize::from(piece).max(1),
        heard: Vec::new(),
    };
    let line = Arc::new(Mutex::new(peer));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let transactions = runtime.block_on(async {
        match open(Line(line.clone()), tls, with_password).await {
            Ok(connection) => {
                assert!(matches!(tls, TlsPolicy::None | TlsPolicy::Opportunistic), "mail in the clear under {tls:?}");
                assert!(!with_password || said(script, b"235"), "logged in without a yes");
                deliver_some(connection).await
            }
            Err(failure) => {
                check_failure(&failure);
                Vec::new()
            }
        }
    });
    let heard = std::mem::take(&mut line.lock().expect("no code panics under this lock").heard);
    let sent_whole = check_heard(&check_dialogue(&heard, script, tls, with_password));
    let delivered = |outcome: &Option<Outcome>| matches!(outcome, Some(Outcome::Delivered { .. }));
    let delivering = transactions.iter().filter(|transaction| transaction.outcomes.iter().any(delivered)).count();
    assert!(delivering <= sent_whole, "{delivering} delivered, content sent {sent_whole} times");
}

async fn open(line: Line, tls: TlsPolicy, with_password: bool) -> Result<Connection<Line>, Failure> {
    let hostname = "mta.us.example".parse().expect("a domain");
    let client = Client::new(&DeliveryConfig::default(), &hostname, Arc::new(Metrics::new()));
    let credentials = with_password.then(|| Arc::new(Credentials { username: USER.into(), password: PASSWORD.into() }));
    let address = ([127, 0, 0, 1], 25).into();
    let target = Target { host: "mx.them.example".into(), address, local: Local::default(), tls, credentials };
    let now = Clock.instant();
    let upgrade = client.upgrade_for(&target, now);
    client.open(line, &target, None, upgrade, now).await.map_err(|refusal| refusal.failure)
}

fn check_failure(failure: &Failure) {
    let reply = &failure.reply;
    assert!(reply.is_transient() || reply.is_permanent(), "refused: {reply}");
    // A text of five hundred characters, and what we say in front of it.
    assert!(reply.text.chars().count() <= 2_000, "{} characters", reply.text.chars().count());
    assert!(!reply.text.chars().any(|c| c.is_control() && c != '\n'), "{:?}", reply.text);
    // What a receiver says before it was told, it has from elsewhere.
    if let Origin::Remote { command: "AUTH" } = failure.origin {
        assert!(!reply.text.contains(PASSWORD) && !reply.text.contains(PLAIN) && !reply.text.contains(LOGIN[1]));
    }
}

/// Takes what belongs to TLS and AUTH out of what the receiver heard.
fn check_dialogue(heard: &[u8], script: &[u8], tls: TlsPolicy, with_password: bool) -> Vec<u8> {
    let mut clear = Vec::with_capacity(heard.len());
    let mut rest = heard;
    while let Some(at) = memchr::memmem::find(rest, b"\r\n") {
        let (line, behind) = rest.split_at(at + 2);
        match line {
            b"STARTTLS\r\n" => {
                assert_ne!(tls, TlsPolicy::None, "TLS that nobody wants");
                assert!(said(script, b"starttls"), "STARTTLS was not offered");
                // A record of a handshake or an alert (RFC 8446 §5.1), and no other line after it; or the next command, as
                // it refused.
                if let [0x15 | 0x16, 3, ..] = behind {
                    return clear;
                }
            }
            _ if line.starts_with(b"AUTH ") => {
                assert!(with_password && matches!(tls, TlsPolicy::None | TlsPolicy::Opportunistic), "AUTH unasked");
                rest = check_auth(line, behind, script);
                continue;
            }
            _ => {
                let text = String::from_utf8_lossy(line);
                assert!(!text.contains(LOGIN[1]) && !text.contains(PLAIN), "the password in {text:?}");
                clear.extend_from_slice(line);
            }
        }
        rest = behind;
    }
    clear.extend_from_slice(rest);
    clear
}

/// One AUTH; returns what stands behind it.
fn check_auth<'a>(line: &[u8], mut behind: &'a [u8], script: &[u8]) -> &'a [u8] {
    let text = std::str::from_utf8(line).expect("ASCII").trim_ascii_end();
    let answers: &[&str] = match text.split(' ').nth(1) {
        Some("PLAIN") => {
            assert!(said(script, b"plain"), "AUTH PLAIN was not offered");
            assert!(["AUTH PLAIN", &format!("AUTH PLAIN {PLAIN}")].contains(&text), "{text}");
            &[PLAIN]
        }
        Some("LOGIN") => {
            assert!(said(script, b"login"), "AUTH LOGIN was not offered");
            assert_eq!(text, "AUTH LOGIN");
            &LOGIN
        }
        _ => panic!("we said {text:?}"),
    };
    // It is a challenge that draws an answer.
    while let Some(at) = memchr::memmem::find(behind, b"\r\n") {
        let said_now = String::from_utf8_lossy(&behind[..at]);
        if !answers.contains(&&*said_now) {
            break;
        }
        assert!(said(script, b"334"), "an answer without a challenge");
        behind = &behind[at + 2..];
    }
    behind
}

/// Whether the receiver says that anywhere, in however many pieces; case does not matter.
fn said(script: &[u8], what: &[u8]) -> bool {
    let script: Vec<u8> = script.iter().copied().filter(|octet| *octet != 0).collect();
    script.windows(what.len()).any(|window| window.eq_ignore_ascii_case(what))
}
