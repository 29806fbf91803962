//! What clients of the SMTP door may ask for: to be known by a password, to be sent later, to be sent once.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use posthaste::clock::Clock;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::peer::{At, Do, Peer};
use crate::world::{Door, World, listeners, time, zone};

/// A world whose door has a certificate and trusts nobody.
pub async fn guarded(port: u16) -> World {
    let key = rcgen::generate_simple_self_signed(vec!["mta.us.test".to_owned()]).unwrap();
    World::start(zone(&["them"]), port, |config| {
        let file = |name: &str, text: String| {
            let path = config.data_dir.join(name);
            std::fs::write(&path, text).unwrap();
            Some(path)
        };
        let smtp = &mut config.submission.smtp;
        smtp.tls_cert_file = file("cert.pem", key.cert.pem());
        smtp.tls_key_file = file("key.pem", key.signing_key.serialize_pem());
        smtp.listen_tls = smtp.listen.clone();
        smtp.trusted_networks = Vec::new();
        smtp.auth_without_tls = Vec::new();
    })
    .await
}

async fn ask(world: &World, path: &str, body: &Value) -> Value {
    let (status, answer) = world.http("POST", path, &body.to_string()).await;
    assert_eq!(status, 201, "{answer}");
    serde_json::from_str(&answer).unwrap()
}

/// A tenant that may write from `us.test`; its token.
pub async fn tenant(world: &World, name: &str) -> String {
    ask(world, "/v1/tenants", &json!({ "name": name, "from_domains": ["us.test"] })).await;
    let issued = ask(world, &format!("/v1/tenants/{name}/credentials"), &json!({ "label": "test" })).await;
    issued["token"].as_str().unwrap().to_owned()
}

/// TLS over a connection on which the server has said that it is ready.
pub async fn shake_hands(world: &World, stream: TcpStream) -> Door<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(world.path("cert.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("mta.us.test").unwrap();
    Door::over(TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap())
}

fn plain(user: &str, password: &str) -> String {
    format!("AUTH PLAIN {}", BASE64_STANDARD.encode(format!("\0{user}\0{password}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_submits_with_its_token() {
    let host = Peer::good(listeners(1).await.remove(0));
    let world = guarded(host.address().port()).await;
    let token = tenant(&world, "shop").await;

    let mut door = world.door().await;
    door.say("MAIL FROM:<a@us.test>", "530 5.7.0 authentication required; say STARTTLS first").await;
    door.say(&plain("shop", &token), "538 5.7.11").await;
    door.say("STARTTLS", "220").await;
    let mut door = shake_hands(&world, door.into_inner()).await;
    door.say("EHLO client.us.test", "250").await;
    door.say("MAIL FROM:<a@us.test>", "530 5.7.0 authentication required").await;
    let took = time(async { _ = door.say(&plain("shop", "wrong"), "535 5.7.8 authentication failed").await }).await;
    assert!(took > Duration::from_millis(100), "a wrong password is answered late, not after {took:?}");
    door.say(&plain("shop", &token), "235 2.7.0").await;
    door.send("a@us.test", &["b@them.test"], "").await;

    // What it may not.
    door.say("MAIL FROM:<a@us.test>", "250").await;
    door.say("RCPT TO:<c@them.test>", "250").await;
    door.say("DATA", "354").await;
    door.say("From: a@elsewhere.test\r\n\r\nbody\r\n.", "550 5.7.1 ").await;

    world.until("delivered", "b@them.test", 1).await;
    let taken = &host.taken()[0].content;
    assert!(taken.contains("with ESMTPSA\r\n"), "{taken}");
    assert_eq!(world.told("delivered", "b@them.test")[0].text("tenant"), "shop");
    assert_eq!(host.recipients(), ["b@them.test"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_from_the_first_octet_on() {
    let host = Peer::good(listeners(1).await.remove(0));
    let world = guarded(host.address().port()).await;
    let token = tenant(&world, "shop").await;
    let stream = TcpStream::connect(world.daemon().smtp_addresses()[1]).await.unwrap();
    let mut door = shake_hands(&world, stream).await;
    door.reply("220").await;
    door.say("EHLO client.us.test", "250").await;
    door.say(&plain("shop", &token), "235 2.7.0").await;
    door.send("a@us.test", &["b@them.test"], "").await;
    world.until("delivered", "b@them.test", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_waits_for_its_hour_and_ends_with_it() {
    let mut hosts = listeners(3).await.into_iter();
    let host = Peer::good(hosts.next().unwrap());
    let busy =
        Peer::start(hosts.next().unwrap(), |ask| if ask.at == At::Rcpt { Do::Say("451 4.2.0 busy") } else { Do::Take });
    let _us = Peer::good(hosts.next().unwrap());
    let world = World::start(zone(&["them", "busy", "us"]), host.address().port(), |_| {}).await;
    let mut door = world.door().await;
    let took = time(async {
        door.send_as("<a@us.test> HOLDFOR=2 MT-PRIORITY=-1", &["<b@them.test>".into()], "").await;
        world.until("delivered", "b@them.test", 1).await;
    })
    .await;
    assert!((1950..3000).contains(&took.as_millis()), "{took:?}");
    assert_eq!(world.told("delivered", "b@them.test")[0].text("class"), "bulk");
    let took = time(async {
        door.send_as("<a@us.test> BY=2;R", &["<c@busy.test>".into()], "").await;
        world.until("expired", "c@busy.test", 1).await;
    })
    .await;
    assert!((1950..3000).contains(&took.as_millis()), "{took:?}");
    assert!(busy.asked().iter().any(|to| to.contains("c@busy.test")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_makes_one_message_of_many() {
    let host = Peer::good(listeners(1).await.remove(0));
    let mut world = World::start(zone(&["them"]), host.address().port(), |_| {}).await;
    let key = "X-Posthaste-Idempotency-Key: order-1\r\n";
    let first = world.send_with(&["b@them.test"], key).await;
    assert_eq!(answer(&world, key).await, format!("250 2.0.0 ok, queued as {first} (accepted before)"));
    // Programs write these anew each time.
    let again = format!("Date: today\r\nMessage-ID: <new@us.test>\r\n{key}");
    assert_eq!(answer(&world, &again).await, format!("250 2.0.0 ok, queued as {first} (accepted before)"));
    let other = answer(&world, &format!("{key}X-Other: y\r\n")).await;
    assert_eq!(other, "550 5.7.0 this idempotency key was used for a different message");
    world.until("delivered", "b@them.test", 1).await;
    assert!(world.stop(Duration::from_secs(5)).await);
    world.start_again().await;
    assert_eq!(answer(&world, key).await, format!("250 2.0.0 ok, queued as {first} (accepted before)"));
    world.until_empty().await;
    let taken = host.taken();
    assert_eq!(taken.len(), 1);
    assert!(!taken[0].content.contains("Idempotency"), "{}", taken[0].content);
    assert_eq!(world.told("delivered", "b@them.test").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repetition_is_known_after_its_time() {
    let host = Peer::good(listeners(1).await.remove(0));
    let world = World::start(zone(&["them"]), host.address().port(), |_| {}).await;
    let end = Clock.timestamp().after(Duration::from_secs(2));
    let headers = |key: &str| format!("X-Posthaste-Idempotency-Key: {key}\r\nX-Posthaste-Expires: {end}\r\n");
    let first = world.send_with(&["b@them.test"], &headers("k")).await;
    tokio::time::sleep(end.since(Clock.timestamp()) + Duration::from_millis(20)).await;
    assert_eq!(answer(&world, &headers("k")).await, format!("250 2.0.0 ok, queued as {first} (accepted before)"));
    let new = answer(&world, &headers("new")).await;
    assert_eq!(new, format!("550 5.6.0 X-Posthaste-Expires: \"{end}\": has passed"));
    let again = answer(&world, &headers("new")).await;
    assert_eq!(again, new, "the key is as free as before");
}

/// What is said to the message of [`World::send_with`].
pub async fn answer(world: &World, headers: &str) -> String {
    let mut door = world.door().await;
    door.say("MAIL FROM:<a@us.test>", "250").await;
    door.say("RCPT TO:<b@them.test>", "250").await;
    door.say("DATA", "354").await;
    let content = format!("{headers}From: A <a@us.test>\r\nTo: you\r\nSubject: hello\r\n\r\nHello.\r\n.");
    door.say(&content, "").await
}
