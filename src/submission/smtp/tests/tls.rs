//! Sessions over TLS, without sockets: from the first octet on, after STARTTLS, and SCRAM bound to them.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::{hmac, pbkdf2};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};

use super::super::serve::{Opening, serve};
use super::client::{Client, shake_hands, shake_hands_as};
use super::{CLIENT, Recorder, certificate, certificate_and, config, shared};
use crate::config::SmtpConfig;

/// A session with a client that is trusted in nothing.
fn begin(opening: Opening) -> (Arc<Recorder>, DuplexStream, CertificateDer<'static>) {
    let (tls, cert) = certificate();
    let door = Arc::new(Recorder::default());
    let config = SmtpConfig { trusted_networks: Vec::new(), ..config() };
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    tokio::spawn(serve(theirs, CLIENT, opening, shared(door.clone(), config, Some(tls))));
    (door, ours, cert)
}

fn said(door: &Recorder, words: &str) -> bool {
    memchr::memmem::find(&door.contents()[0], words.as_bytes()).is_some()
}

#[tokio::test]
async fn tls_from_the_first_octet_on() {
    let (door, io, cert) = begin(Opening::Tls);
    let mut client = Client::new(shake_hands(io, cert).await);
    assert_eq!(client.hear().await, "220 mta.example ESMTP posthaste");
    let offers = client.ask("EHLO app.example").await;
    assert!(!offers.contains("STARTTLS"), "{offers}");
    assert!(offers.contains("250-AUTH SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN\r\n"), "{offers}");
    assert_eq!(client.ask("MAIL FROM:<a@b.example>").await, "530 5.7.0 authentication required");
    assert_eq!(client.ask("AUTH PLAIN AHVzZXIAcGVuY2ls").await, "235 2.7.0 you are authenticated");
    client.submit().await;
    assert!(said(&door, "with ESMTPSA\r\n"));
}

#[tokio::test]
async fn auth_is_for_after_starttls() {
    let (door, io, cert) = begin(Opening::InTheClear);
    let mut clear = Client::new(io);
    clear.hear().await;
    let offers = clear.ask("EHLO app.example").await;
    assert!(offers.contains("STARTTLS") && !offers.contains("AUTH"), "{offers}");
    assert_eq!(clear.ask("MAIL FROM:<a@b.example>").await, "530 5.7.0 authentication required; say STARTTLS first");
    assert_eq!(clear.ask("STARTTLS").await, "220 2.0.0 go ahead");
    let mut client = Client::new(shake_hands(clear.into_inner(), cert).await);
    assert_eq!(client.ask("AUTH PLAIN AHVzZXIAcGVuY2ls").await, "503 5.5.1 say EHLO first");
    client.ask("EHLO app.example").await;
    assert_eq!(client.ask("AUTH LOGIN dXNlcg==").await, "334 UGFzc3dvcmQ6");
    assert_eq!(client.ask("cGVuY2ls").await, "235 2.7.0 you are authenticated");
    client.submit().await;
    assert!(said(&door, "with ESMTPSA\r\n"));
}

#[tokio::test]
async fn scram_is_bound_to_the_tls_session() {
    for (flag, plus, honest, expected) in [
        ("p=tls-exporter", "-PLUS", true, "235 2.7.0 you are authenticated"),
        ("p=tls-exporter", "-PLUS", false, "535 5.7.8 the channel bindings do not match"),
        ("n", "", true, "235 2.7.0 you are authenticated"),
        ("y", "", true, "535 5.7.8 this server does support channel binding"),
        ("n", "-PLUS", true, "535 5.7.8 this channel binding is not supported here; tls-exporter is, with -PLUS"),
        (
            "p=tls-unique",
            "-PLUS",
            true,
            "535 5.7.8 this channel binding is not supported here; tls-exporter is, with -PLUS",
        ),
    ] {
        let (_door, io, cert) = begin(Opening::Tls);
        let tls = shake_hands(io, cert).await;
        let exported =
            tls.get_ref().1.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", None).expect("TLS 1.3");
        let mut client = Client::new(tls);
        client.hear().await;
        client.ask("EHLO app.example").await;
        let binding = match (plus, honest) {
            ("", _) => Vec::new(),
            (_, true) => exported.to_vec(),
            (_, false) => vec![0; 32],
        };
        let got = scram(&mut client, flag, plus, &binding).await;
        assert_eq!(got, expected, "{flag} {plus}");
    }
}

/// A client of SCRAM (RFC 5802 §3); the last reply.
async fn scram<S: AsyncRead + AsyncWrite + Unpin>(
    client: &mut Client<S>,
    flag: &str,
    plus: &str,
    binding: &[u8],
) -> String {
    let (header, bare) = (format!("{flag},,"), "n=user,r=abc");
    let first = BASE64_STANDARD.encode(format!("{header}{bare}"));
    let challenge = client.ask(&format!("AUTH SCRAM-SHA-256{plus} {first}")).await;
    let Some(challenge) = challenge.strip_prefix("334 ") else { return challenge };
    let challenge = String::from_utf8(BASE64_STANDARD.decode(challenge).expect("base64")).expect("text");
    let (nonce, rest) = challenge.strip_prefix("r=").and_then(|c| c.split_once(",s=")).expect("a challenge");
    let (salt, iterations) = rest.split_once(",i=").expect("a challenge");
    let mut salted = [0; 32];
    let (salt, iterations) = (BASE64_STANDARD.decode(salt).expect("base64"), iterations.parse().expect("a number"));
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, b"pencil", &mut salted);
    let sign = |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text);
    let client_key = sign(&salted, b"Client Key");
    let bound = BASE64_STANDARD.encode([header.as_bytes(), binding].concat());
    let without_proof = format!("c={bound},r={nonce}");
    let auth_message = format!("{bare},{challenge},{without_proof}");
    let signature = sign(digest(&SHA256, client_key.as_ref()).as_ref(), auth_message.as_bytes());
    let proof: Vec<u8> = client_key.as_ref().iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
    let last = BASE64_STANDARD.encode(format!("{without_proof},p={}", BASE64_STANDARD.encode(proof)));
    let reply = client.ask(&last).await;
    let Some(words) = reply.strip_prefix("334 ") else { return reply };
    let server = sign(sign(&salted, b"Server Key").as_ref(), auth_message.as_bytes());
    let expected = format!("v={}", BASE64_STANDARD.encode(server));
    assert_eq!(BASE64_STANDARD.decode(words).expect("base64"), expected.as_bytes());
    client.ask("").await
}

/// What MAIL is answered to a client that shows this certificate, if any, and may then authenticate.
async fn mail_with(
    own: Option<&rcgen::CertifiedKey<rcgen::KeyPair>>,
    authorities: &str,
    trusted: bool,
    auth: bool,
) -> String {
    let (tls, cert) = certificate_and(authorities);
    let door = Arc::new(Recorder::default());
    let mut config = config();
    config.trusted_networks.retain(|_| trusted);
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    tokio::spawn(serve(theirs, CLIENT, Opening::Tls, shared(door.clone(), config, Some(tls))));
    let mut client = Client::new(shake_hands_as(ours, cert, own).await);
    client.hear().await;
    client.ask("EHLO app.example").await;
    if auth {
        let answer = client.ask(&format!("AUTH PLAIN {}", BASE64_STANDARD.encode("\0user\0pencil"))).await;
        if !answer.starts_with("235 ") {
            return answer;
        }
    }
    client.ask("MAIL FROM:<a@b.example>").await
}

#[tokio::test]
async fn a_certificate_says_whose_client_it_is() {
    let new = |name: &str| rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("a certificate");
    let [shop, bank, nobody] = ["shop.example", "bank.example", "nobody.example"].map(new);
    let believed = [&shop, &bank, &nobody].map(|own| own.cert.pem()).concat();
    let required = "530 5.7.0 authentication required";
    let other = "535 5.7.8 the client certificate and the credentials mean different tenants";
    for (own, trusted, auth, expected) in [
        (None, true, false, "250 2.1.0 ok"),
        (None, false, false, required),
        (Some(&shop), false, false, "250 2.1.0 ok"),
        (Some(&shop), false, true, "250 2.1.0 ok"),
        (Some(&bank), true, true, other),
        // Who shows one that nobody has is not helped by its network.
        (Some(&nobody), true, false, required),
        (Some(&nobody), true, true, "250 2.1.0 ok"),
    ] {
        let told = mail_with(own, &believed, trusted, auth).await;
        assert_eq!(told, expected, "{} {trusted} {auth}", own.map_or_else(String::new, |own| own.cert.pem()));
    }
}
