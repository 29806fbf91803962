use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::clock::Clock;
use crate::telemetry::Metrics;
use keygen::{KeyAlgorithm, KeygenError};
use verifier::{base64, tags, verify};

mod verifier;

const NOW: Timestamp = Timestamp(1_528_637_909_123);

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/dkim").join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(data(name)).expect("a test file")
}

fn config(domain: &str, selector: &str, key: &str) -> DkimConfig {
    let key_file = data("keys").join(key);
    DkimConfig { domain: domain.parse().expect("a domain"), selector: selector.into(), key_file }
}

/// Signs for example.com with RSA and Ed25519.
fn both() -> Signer {
    let configs = [config("example.com", "rsa", "rsa-pkcs1.pem"), config("example.com", "ed", "ed25519.pem")];
    let (signer, problems) = Signer::load(&configs);
    assert!(problems.is_empty(), "{problems:?}");
    signer
}

/// What DNS would hold for the keys of [`both`].
fn records() -> BTreeMap<&'static str, String> {
    let record = |key: &str| keygen::dns_record(&text(&format!("keys/{key}"))).expect("a usable key");
    BTreeMap::from([("rsa", record("rsa-pkcs1.pem")), ("ed", record("ed25519.pem"))])
}

fn signed(signer: &Signer, content: &[u8]) -> Vec<u8> {
    [signer.sign(content, NOW).expect("signs").as_ref(), content].concat()
}

#[test]
fn signatures_hold_whatever_the_message_looks_like() {
    let from = "From: Ann <ann@example.com>\r\n";
    let huge = format!("{from}X-Huge: {}\r\nSubject: {}\r\n\r\nx\r\n", "y".repeat(200_000), " word".repeat(20_000));
    let many = format!("{from}{}\r\nx\r\n", "References: <a@b>\r\n".repeat(3_000));
    let cases = [
        format!("{from}To: bob@example.net\r\nSubject: Hi\r\n\r\nHello Bob.\r\n"),
        format!("{from}\r\n"),
        from.to_owned(),
        from.trim_end().to_owned(),
        format!("{from}Subject: no line end"),
        format!("{from}\r\nno line end"),
        format!("{from}\r\n\r\n\r\n"),
        format!("{from}\r\nHello\r\n\r\n \r\n\t\r\n"),
        format!("{from}\r\n \t \r\n"),
        format!("{from}\r\n  two  words \t here \r\n.\r\n..\r\n"),
        format!("{from}Subject :  folded \r\n\t over \r\n  lines\r\n\r\nx\r\n"),
        format!("{from}Subject:\r\nTo:\r\n nobody\r\n\r\nx\r\n"),
        format!("{from}stray line\r\nSubject: behind it\r\n\r\nx\r\n"),
        format!("{from}To: a@b.example\r\nTo: c@d.example\r\nCc: e@f.example\r\nCc: g@h.example\r\n\r\nx\r\n"),
        format!("{from}Subject: Grüße\r\n\r\nÜber\r\n"),
        format!("{from}Subject: form\u{c} feed\r\n\r\nform \u{c} feed\r\n"),
        "fRoM : ann@EXAMPLE.com\r\n\r\nx\r\n".to_owned(),
        huge,
        many,
    ];
    for content in cases {
        let message = signed(&both(), content.as_bytes());
        let shown: String = content.chars().take(80).collect();
        assert_eq!(verify(&message, &records()), Ok(2), "{shown}");
        let longest =
            message.split(|b| *b == b'\n').take_while(|line| line.first() != Some(&b'F')).map(<[u8]>::len).max();
        assert!(longest <= Some(998), "{shown}");
    }
}

#[test]
fn what_is_added_or_changed_breaks_the_signatures() {
    let content = "From: ann@example.com\r\nTo: bob@example.net\r\nSubject: Hi\r\n\r\nHello\r\n";
    let message = String::from_utf8(signed(&both(), content.as_bytes())).expect("ASCII");
    let broken = Err("the rsa-sha256 signature does not hold".to_owned());
    let with = |field: &str| message.replace("From: ann", &format!("{field}\r\nFrom: ann"));
    for name in
        ["From", "Subject", "To", "Date", "Message-ID", "List-Unsubscribe", "List-Unsubscribe-Post", "Feedback-ID"]
    {
        assert_eq!(verify(with(&format!("{name}: x@evil.example")).as_bytes(), &records()), broken, "{name}");
    }
    assert_eq!(verify(with("List-Id: <list.example.net>").as_bytes(), &records()), Ok(2));
    assert_eq!(verify(with("Received: by mx.example.net").as_bytes(), &records()), Ok(2));
    assert_eq!(verify(message.replace("Subject: Hi", "Subject: Ho").as_bytes(), &records()), broken);
    let body = Err("the body does not match".to_owned());
    assert_eq!(verify(message.replace("Hello", "Hullo").as_bytes(), &records()), body);
}

#[test]
fn the_time_is_the_one_given() {
    let field = both().sign(b"From: ann@example.com\r\n\r\nx\r\n", NOW).expect("signs");
    let field = String::from_utf8(field.to_vec()).expect("ASCII");
    assert!(
        field.starts_with("DKIM-Signature: v=1; a=rsa-sha256; s=rsa; d=example.com; c=relaxed/relaxed;\r\n\t"),
        "{field}"
    );
    assert_eq!(tags(&field)["t"], "1528637909");
    assert_eq!(field.matches("DKIM-Signature:").count(), 2);
}

/// RFC 8463 appendix A: both keys, one message, `b=` to the octet. The RSA key has 1024 bits, so the daemon refuses it; its
/// signature covers the same canonical input.
#[test]
fn gives_the_published_signature() {
    let secret = [
        b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20".to_vec(),
        base64(&text("rfc8463-ed25519-secret.b64")),
    ]
    .concat();
    let key = Key::from_der(rustls_pki_types::PrivatePkcs8KeyDer::from(secret).into()).expect("a key");
    let published = text("rfc8463-a-ed25519-and-rsa.eml").replace("\r\n", "\n").replace('\n', "\r\n");
    let content = text("rfc8463-message-unsigned.eml").replace("\r\n", "\n").replace('\n', "\r\n");
    let section = &content.as_bytes()[..header::section_len(content.as_bytes())];
    let body = &content.as_bytes()[section.len() + 2..];
    let signature = canonical::fields(published.as_bytes()).next().expect("a signature");
    let expected = tags(&signature.text());
    assert_eq!(canonical::body_hash(body).as_ref(), base64(&expected["bh"]));

    let mut input = Vec::new();
    let fields: Vec<_> = canonical::fields(section).collect();
    for name in ["From", "To", "Subject", "Date", "Message-ID"] {
        let field = fields.iter().find(|field| field.is(name)).expect("there");
        canonical::relaxed_field(name, field.value, &mut input);
    }
    let own = String::from_utf8_lossy(signature.value).into_owned();
    let without_b = &own[..own.rfind("b=").expect("a b= tag") + 2];
    canonical::relaxed_field("dkim-signature", without_b.as_bytes(), &mut input);
    input.truncate(input.len() - 2);
    assert_eq!(key.signing().sign(input.as_slice()).expect("signs"), base64(&expected["b"]));
}

#[track_caller]
fn check_domain(signer: &Signer, from: &str, expected: Option<&str>) {
    let content = format!("From: {from}\r\nSender: x@two.example\r\n\r\nx\r\n");
    assert_eq!(signer.applies(content.as_bytes()), expected.is_some(), "{from}");
    let field = signer.sign(content.as_bytes(), NOW).expect("signs");
    let field = String::from_utf8(field.to_vec()).expect("ASCII");
    assert_eq!(tags(&field).get("d").map(String::as_str), expected, "{from}");
}

#[test]
fn the_author_chooses_the_key() {
    let configs = [
        config("example.com", "s1", "ed25519.pem"),
        config("news.example.com", "s1", "ed25519.pem"),
        config("two.example", "s1", "ed25519.pem"),
    ];
    let (signer, problems) = Signer::load(&configs);
    assert!(problems.is_empty() && !signer.is_empty());
    check_domain(&signer, "ann@example.com", Some("example.com"));
    check_domain(&signer, "ann@news.example.com", Some("news.example.com"));
    check_domain(&signer, "ann@a.news.example.com", Some("news.example.com"));
    check_domain(&signer, "ann@shop.example.com", Some("example.com"));
    check_domain(&signer, "ann@two.example, bob@example.com", Some("two.example"));
    check_domain(&signer, "ann@notexample.com", None);
    check_domain(&signer, "ann@example.org", None);
    check_domain(&signer, "nobody", None);
    assert!(Signer::none().is_empty());
    assert_eq!(Signer::none().sign(b"From: ann@example.com\r\n\r\n", NOW).expect("nothing to do"), Bytes::new());
    assert!(!signer.applies(b"\r\nFrom: ann@example.com\r\n"));
    assert!(!signer.applies(b""));
}

#[track_caller]
fn check_key(key: &str, expected: Option<&str>) {
    let (signer, problems) = Signer::load(&[config("example.com", "s1", key)]);
    let why: Vec<String> = problems.iter().map(|problem| problem.why.to_string()).collect();
    match expected {
        None => assert!(why.is_empty(), "{key}: {why:?}"),
        Some(expected) => {
            assert!(why.len() == 1 && why[0].contains(expected), "{key}: {why:?}");
            // The message waits: no signature is an error, not an empty one.
            let content = b"From: ann@sub.example.com\r\n\r\nx\r\n";
            assert!(signer.applies(content));
            let error = signer.sign(content, NOW).expect_err("the key is broken");
            assert!(error.to_string().contains(expected), "{error}");
            assert!(signer.sign(b"From: ann@other.example\r\n\r\nx\r\n", NOW).expect("not concerned").is_empty());
        }
    }
}

#[test]
fn keys_are_taken_or_refused_with_a_reason() {
    check_key("rsa-pkcs1.pem", None);
    check_key("rsa-pkcs8.pem", None);
    check_key("ed25519.pem", None);
    check_key("../rfc8463-rsa-private.pem", Some("a 1024-bit RSA key is too short"));
    check_key("rsa-1024-pkcs8.pem", Some("a 1024-bit RSA key is too short"));
    check_key("rsa-encrypted.pem", Some("encrypted with a passphrase"));
    check_key("rsa-encrypted-legacy.pem", Some("encrypted with a passphrase"));
    check_key("rsa-pss.pem", Some("an RSA-PSS key; DKIM signs with RSA or Ed25519"));
    check_key("ec-sec1.pem", Some("an elliptic-curve key"));
    check_key("ec-pkcs8.pem", Some("an elliptic-curve key"));
    check_key("public.pem", Some("a public key, not a private key"));
    check_key("../SOURCES", Some("no PEM private key"));
    check_key("missing.pem", Some("cannot read it: No such file"));
    check_key(".", Some("cannot read it: Is a directory"));
}

#[test]
fn damaged_keys_never_panic() {
    for file in ["keys/rsa-pkcs1.pem", "keys/rsa-pkcs8.pem", "keys/ed25519.pem"] {
        let pem = text(file).into_bytes();
        for at in (0..pem.len()).step_by(7) {
            let mut damaged = pem.clone();
            damaged[at] ^= 1;
            let _ = Key::from_pem(&damaged);
            let _ = Key::from_pem(&pem[..at]);
        }
    }
}

#[test]
fn one_broken_key_of_two_holds_the_mail_back() {
    let configs = [config("example.com", "good", "ed25519.pem"), config("example.com", "bad", "ec-sec1.pem")];
    let (signer, problems) = Signer::load(&configs);
    assert_eq!(problems.len(), 1);
    let problem = problems[0].to_string();
    assert!(problem.starts_with("dkim key bad._domainkey.example.com (/"), "{problem}");
    let error = signer.sign(b"From: ann@example.com\r\n\r\nx\r\n", NOW).expect_err("half signed is not signed");
    assert!(error.failure().reply.is_transient());
    assert!(matches!(error, SigningError::KeyUnusable { selector, .. } if &*selector == "bad"));
}

#[test]
fn generated_keys_sign_and_their_records_verify() {
    for (algorithm, name) in [(KeyAlgorithm::Rsa, "rsa"), (KeyAlgorithm::Ed25519, "ed25519")] {
        assert_eq!(name.parse(), Ok(algorithm));
        let made = keygen::generate(algorithm).expect("makes a key");
        assert!(made.private_pem.starts_with("-----BEGIN PRIVATE KEY-----"));
        let mut signer = Signer::none();
        signer.add(&"example.com".parse().expect("a domain"), "new", Key::from_pem(made.private_pem.as_bytes()));
        let message = signed(&signer, b"From: ann@example.com\r\n\r\nx\r\n");
        assert_eq!(verify(&message, &BTreeMap::from([("new", made.record)])), Ok(1));
    }
    assert!("dsa".parse::<KeyAlgorithm>().is_err());
}

#[test]
fn records_are_those_openssl_would_give() {
    let spki: String = text("keys/public.pem").lines().filter(|line| !line.starts_with('-')).collect();
    for key in ["keys/rsa-pkcs1.pem", "keys/rsa-pkcs8.pem"] {
        assert_eq!(keygen::dns_record(&text(key)).expect("a key"), format!("v=DKIM1; k=rsa; p={spki}"));
    }
    assert!(matches!(keygen::dns_record(&text("keys/ec-sec1.pem")), Err(KeygenError::Key(KeyError::Algorithm(_)))));
}

#[test]
fn an_error_tells_nothing_of_a_key_that_lost_its_line_ends() {
    let key = text("keys/ed25519.pem");
    for between in [" ", "\\n", ""] {
        let line = key.replace('\n', between);
        let told = keygen::dns_record(&line).expect_err("no lines").to_string();
        assert!(told.len() < 150 && !told.contains("45, 45"), "{told}");
    }
}

#[test]
fn a_key_file_is_private_and_never_overwritten() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("k.pem");
    let domain: Domain = "example.com".parse().expect("a domain");
    let said = keygen::generate_command(&domain, "s1", KeyAlgorithm::Rsa, Some(&file)).expect("writes");
    assert!(said.contains("s1._domainkey.example.com. IN TXT ( \"v=DKIM1; k=rsa; p="), "{said}");
    assert!(said.split('"').all(|string| string.len() <= 255), "{said}");
    assert!(!said.contains("PRIVATE"));
    assert_eq!(std::fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
    let before = std::fs::read(&file).expect("readable");
    assert!(matches!(
        keygen::generate_command(&domain, "s1", KeyAlgorithm::Rsa, Some(&file)),
        Err(KeygenError::Write { .. })
    ));
    assert_eq!(std::fs::read(&file).expect("readable"), before);
    let dns = keygen::dns_command(&domain, "s1", &file).expect("reads");
    assert!(said.contains(&dns), "{dns}");
    let shown = keygen::generate_command(&domain, "s1", KeyAlgorithm::Ed25519, None).expect("prints");
    assert!(shown.starts_with("-----BEGIN PRIVATE KEY-----") && shown.contains("k=ed25519"), "{shown}");
}

#[tokio::test]
async fn the_pool_signs_many_at_once_and_counts() {
    let metrics = Arc::new(Metrics::new());
    let pool = Arc::new(SigningPool::new(2, Clock, Arc::clone(&metrics)));
    let signer = Arc::new(both());
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..20 {
        let (pool, signer) = (Arc::clone(&pool), Arc::clone(&signer));
        tasks.spawn(async move {
            let content = format!("From: ann@example.com\r\nSubject: {n}\r\n\r\nbody {n}\r\n");
            let fields = pool.sign(signer, content.clone().into(), NOW).await.expect("signs");
            verify(&[fields.as_ref(), content.as_bytes()].concat(), &records())
        });
    }
    while let Some(result) = tasks.join_next().await {
        assert_eq!(result.expect("no panic"), Ok(2));
    }
    assert_eq!(metrics.signing.get_sample_count(), 20);
    let none = pool.sign(Arc::clone(&signer), Bytes::from_static(b"From: x@y.example\r\n\r\n"), NOW).await;
    assert_eq!(none.expect("nothing to do"), Bytes::new());
    assert_eq!(metrics.signing.get_sample_count(), 20);

    let (broken, _) = Signer::load(&[config("example.com", "s1", "missing.pem")]);
    let content = Bytes::from_static(b"From: ann@example.com\r\n\r\nx\r\n");
    assert!(pool.sign(Arc::new(broken), content.clone(), NOW).await.is_err());
    assert_eq!(metrics.signing_failures.get(), 1);

    // A caller that goes away gives its turn back.
    for _ in 0..10 {
        let _ = tokio::time::timeout(Duration::ZERO, pool.sign(Arc::clone(&signer), content.clone(), NOW)).await;
    }
    pool.sign(signer, content, NOW).await.expect("turns are left");
}
