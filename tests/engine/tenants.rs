//! Tenants of the running daemon: registered over the admin surface, held to what they may at the doors, across restarts.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::peer::Peer;
use crate::world::{Door, World, listeners, zone};

/// `POST /v1/messages` at the HTTP door with this authorization: status and body.
async fn submit(world: &World, authorization: &str, from: &str, extra: &str) -> (u16, String) {
    let body = format!(r#"{{"from":"{from}","to":["u@them.test"],"subject":"s","text":"t"{extra}}}"#);
    let mut stream = TcpStream::connect(world.daemon().http_addresses()[0]).await.unwrap();
    let request = format!(
        "POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Authorization: {authorization}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

/// Says these lines to the SMTP door, one after the other; the last line of the last reply.
async fn say(world: &World, lines: &[&str]) -> String {
    let stream = TcpStream::connect(world.daemon().smtp_addresses()[0]).await.unwrap();
    let mut door = Door::over(stream);
    let mut reply = door.reply("220").await;
    for line in lines {
        reply = door.say(line, "").await;
    }
    reply
}

async fn with_shop(quota: &str) -> (World, Peer, String) {
    let mut hosts = listeners(1).await.into_iter();
    let them = Peer::good(hosts.next().unwrap());
    let world = World::start(zone(&["them"]), them.address().port(), |_| {}).await;
    let shop = format!(r#"{{"name":"shop","from_domains":["us.test"],"quota":{quota}}}"#);
    let (status, answer) = world.http("POST", "/v1/tenants", &shop).await;
    assert_eq!(status, 201, "{answer}");
    let (status, answer) = world.http("POST", "/v1/tenants/shop/credentials", r#"{"label":"web"}"#).await;
    assert_eq!(status, 201, "{answer}");
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let token = answer["token"].as_str().unwrap().to_owned();
    (world, them, token)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_token_for_every_door() {
    let (world, _them, token) = with_shop("{}").await;
    let bearer = format!("Bearer {token}");
    let basic = format!("Basic {}", BASE64_STANDARD.encode(format!("shop:{token}")));
    for authorization in [&bearer, &basic] {
        let (status, answer) = submit(&world, authorization, "a@news.us.test", "").await;
        assert_eq!(status / 100, 2, "{answer}");
    }
    let plain = BASE64_STANDARD.encode(format!("\0shop\0{token}"));
    let auth = format!("AUTH PLAIN {plain}");
    let own =
        ["EHLO c.test", &auth, "MAIL FROM:<a@us.test>", "RCPT TO:<u@them.test>", "DATA", "From: a@us.test\r\n\r\n."];
    assert!(say(&world, &own).await.starts_with("250 "));
    let foreign = [&own[..5], &["From: ceo@bank.test\r\n\r\n."]].concat();
    let refused = say(&world, &foreign).await;
    assert!(refused.starts_with("550 5.7.1 ") && refused.contains("ceo@bank.test is not in the domains"), "{refused}");

    let (status, answer) = submit(&world, &bearer, "ceo@bank.test", "").await;
    assert!(status == 403 && answer.contains("ceo@bank.test is not in the domains"), "{answer}");
    let (status, answer) = submit(&world, &bearer, "a@us.test", r#","tenant":"other""#).await;
    assert!(status == 403 && answer.contains("\"tenant\""), "{answer}");
    let wrong = format!("{}{}", &bearer[..bearer.len() - 1], if bearer.ends_with('a') { 'b' } else { 'a' });
    assert_eq!(submit(&world, &wrong, "a@us.test", "").await.0, 401);

    world.until("delivered", "u@them.test", 3).await;
    world.until_empty().await;
    assert!(world.events().iter().all(|event| event.0["tenant"] == "shop"));
    assert_eq!(world.metric("posthaste_authentications_total", &["result=\"ok\""]).await, 6.0);
    assert_eq!(world.metric("posthaste_authentications_total", &["result=\"wrong\""]).await, 1.0);
    assert_eq!(world.http("DELETE", "/v1/tenants/shop", "").await.0, 200);
    assert_eq!(submit(&world, &bearer, "a@us.test", "").await.0, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_hold_over_a_restart_and_change_without_one() {
    let (mut world, _them, token) = with_shop(r#"{"per_hour":3}"#).await;
    let bearer = format!("Bearer {token}");
    let named = "X-Posthaste-Tenant: shop\r\n";
    // A trusted client that names the tenant draws on its quota, too.
    world.send_with(&["one@them.test", "two@them.test"], named).await;
    let (status, answer) = submit(&world, &bearer, "a@us.test", "").await;
    assert_eq!(status / 100, 2, "{answer}");
    let (status, answer) = submit(&world, &bearer, "a@us.test", "").await;
    assert!(status == 429 && answer.contains("has used up its hour"), "{status} {answer}");
    let lines = ["EHLO c.test", "MAIL FROM:<>", "RCPT TO:<u@them.test>", "DATA"];
    let content = format!("{named}From: a@us.test\r\n\r\n.");
    let refused = say(&world, &[&lines[..], &[&content]].concat()).await;
    assert!(refused.starts_with("452 4.7.1 "), "{refused}");

    world.stop(std::time::Duration::from_secs(5)).await;
    world.start_again().await;
    assert_eq!(submit(&world, &bearer, "a@us.test", "").await.0, 429);
    let (status, answer) = world.http("PATCH", "/v1/tenants/shop", r#"{"quota":{"per_hour":null}}"#).await;
    let tenant: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!((status, &tenant["used"]["hour"], &tenant["quota"]["per_hour"]), (200, &3.into(), &Value::Null));
    assert_eq!(submit(&world, &bearer, "a@us.test", "").await.0 / 100, 2);
    world.until_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_fields_are_named() {
    let (world, _them, token) = with_shop("{}").await;
    for (method, path, body, status, fields) in [
        ("POST", "", r#"{"name":"shop"}"#, 409, &[][..]),
        (
            "POST",
            "",
            r#"{"name":"A b","from_domains":["ok.test","a b"],"classes":["vip"],"quota":{"burst":0}}"#,
            400,
            &["from_domains[1]", "classes[0]", "name", "quota.burst", "quota.burst"],
        ),
        ("POST", "", r#"{"name":"x","quota":{"per_day":"many"}}"#, 400, &["quota.per_day"]),
        ("POST", "", r#"{"name":"x","quotas":{}}"#, 400, &["quotas"]),
        ("POST", "", r#"{"name":"#, 400, &[]),
        ("PATCH", "/none", "{}", 404, &[]),
        ("PATCH", "/shop", r#"{"name":"other"}"#, 400, &["name"]),
        ("POST", "/shop/credentials", r#"{"grace":"long"}"#, 400, &["grace"]),
        ("POST", "/shop/credentials", r#"{"replaces":["none"]}"#, 404, &[]),
        ("DELETE", "/shop/credentials/none", "", 404, &[]),
    ] {
        let (answered, answer) = world.http(method, &format!("/v1/tenants{path}"), body).await;
        let problem: Value = serde_json::from_str(&answer).unwrap();
        let violations = problem["violations"].as_array().cloned().unwrap_or_default();
        let named: Vec<_> = violations.iter().map(|violation| violation["field"].as_str().unwrap()).collect();
        assert_eq!((answered, &named[..]), (status, fields), "{body}: {answer}");
    }
    let (_, all) = world.http("GET", "/v1/tenants", "").await;
    let all: Value = serde_json::from_str(&all).unwrap();
    assert_eq!((all.as_array().unwrap().len(), &all[0]["name"]), (1, &"shop".into()));
    assert!(!all.to_string().contains(&token[16..]));
}
