//! Recipients leave lists: by one click of their mailbox provider, by the page, by mail; and nobody leaves by accident.

use posthaste::config::Config;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::peer::Peer;
use crate::world::{World, exchange, listeners, zone};

const BULK: &str = "X-Posthaste-Tenant: shop\r\nX-Posthaste-Class: bulk\r\nX-Posthaste-Campaign: spring\r\n";

async fn world(change: impl FnOnce(&mut Config)) -> (World, Peer) {
    let them = Peer::good(listeners(1).await.remove(0));
    let world = World::start(zone(&["them"]), them.address().port(), |config| {
        config.feedback.bounce_domain = Some("b.us.test".parse().unwrap());
        config.inbound.listen = vec!["127.0.0.1:0".parse().unwrap()];
        config.unsubscribe.url = Some("https://us.test/leave".into());
        config.unsubscribe.listen = vec!["127.0.0.1:0".parse().unwrap()];
        change(config);
    })
    .await;
    (world, them)
}

/// Sends to a list and returns the token of the link that arrived; `None`: there was none.
async fn link(world: &World, them: &Peer, to: &str, headers: &str) -> Option<String> {
    let before = them.count();
    world.send_with(&[to], headers).await;
    world.see("delivery", || (them.count() > before).then_some(())).await;
    let content = them.taken().pop().unwrap().content;
    let (_, rest) = content.split_once("List-Unsubscribe: <https://us.test/leave/")?;
    assert!(content.contains("\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"), "{content}");
    let (token, rest) = rest.split_once('>').unwrap();
    assert!(rest.starts_with(&format!(",\r\n <mailto:unsubscribe@b.us.test?subject={token}>\r\n")), "{content}");
    Some(token.to_owned())
}

/// A request to the page: status and body.
async fn page(world: &World, method: &str, path: &str, body: &str) -> (u16, String) {
    exchange(world.daemon().page_addresses()[0], method, path, "application/x-www-form-urlencoded", body).await
}

fn to_list(list: &str) -> String {
    format!("{BULK}X-Posthaste-List: {list}\r\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn one_click_leaves_that_list_and_no_other() {
    let (world, them) = world(|_| {}).await;
    let token = link(&world, &them, "ann@them.test", &to_list("news")).await.unwrap();
    // A scanner follows every link, with whatever method changes nothing.
    let (status, shown) = page(&world, "GET", &format!("/leave/{token}"), "").await;
    assert!(status == 200 && shown.contains("<form method=\"post\">") && shown.contains("ann@them.test"), "{shown}");
    assert_eq!(page(&world, "POST", &format!("/leave/{token}"), "").await.0, 400);
    assert!(world.told("unsubscribed", "").is_empty());
    let (status, _) = page(&world, "POST", &format!("/leave/{token}"), "List-Unsubscribe=One-Click").await;
    assert_eq!(status, 200);
    // It holds at once; the event tells whose, and the suppression points to it.
    world.send_with(&["ann@them.test"], &to_list("news")).await;
    world.until("suppressed", "ann@them.test", 1).await;
    let left = world.until("unsubscribed", "ann@them.test", 1).await.remove(0);
    assert_eq!((left.text("list"), left.text("tenant"), left.text("what")), ("news", "shop", "one-click"));
    let added = world.until("suppression", "ann@them.test", 1).await.remove(0);
    assert_eq!((added.text("evidence"), added.text("reason")), (left.text("id"), "unsubscribe"));
    // Twice is as good as once.
    assert_eq!(page(&world, "POST", &format!("/leave/{token}"), "confirm=yes").await.0, 200);
    assert_eq!(world.told("unsubscribed", "").len(), 1);
    // Another list, and mail that is no bulk, still come.
    assert!(link(&world, &them, "ann@them.test", &to_list("offers")).await.is_some());
    world.send_with(&["ann@them.test"], "X-Posthaste-Tenant: shop\r\n").await;
    world.until("delivered", "ann@them.test", 3).await;
    assert_eq!(world.metric("posthaste_unsubscribes_total", &["one-click"]).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_to_the_mailto_leaves_too() {
    let (world, them) = world(|_| {}).await;
    let token = link(&world, &them, "bob@them.test", &to_list("news")).await.unwrap();
    let mut door = world.back().await;
    for (subject, expected) in [("unsubscribe", "550 5.7.1"), (token.as_str(), "250")] {
        door.say("MAIL FROM:<bob@elsewhere.test>", "250").await;
        door.say("RCPT TO:<unsubscribe@b.us.test>", "250").await;
        door.say("DATA", "354").await;
        door.say(&format!("From: bob@elsewhere.test\r\nSubject: {subject}\r\n\r\nplease\r\n."), expected).await;
    }
    let left = world.until("unsubscribed", "bob@them.test", 1).await.remove(0);
    assert_eq!(left.text("what"), "mailto");
    world.send_with(&["bob@them.test"], &to_list("news")).await;
    world.until("suppressed", "bob@them.test", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_are_added_only_where_they_belong_and_nobody_forges_a_link() {
    let (world, them) = world(|_| {}).await;
    assert_eq!(link(&world, &them, "a@them.test", BULK).await, None);
    assert_eq!(link(&world, &them, "b@them.test", "X-Posthaste-List: news\r\n").await, None);
    let own = format!("{}List-Unsubscribe: <https://shop.test/bye>\r\n", to_list("news"));
    assert_eq!(link(&world, &them, "c@them.test", &own).await, None);
    let token = link(&world, &them, "d@them.test", &to_list("news")).await.unwrap();
    for forged in [&token[1..], &format!("{token}A"), "", "x"] {
        let (status, _) = page(&world, "POST", &format!("/leave/{forged}"), "List-Unsubscribe=One-Click").await;
        assert_eq!(status, 404, "{forged}");
    }
    let (status, _) = page(&world, "DELETE", &format!("/leave/{token}"), "").await;
    assert_eq!(status, 405);
    let (status, _) = page(&world, "POST", &format!("/leave/{token}"), &"x".repeat(10_000)).await;
    assert_eq!(status, 413);
    assert!(world.told("unsubscribed", "").is_empty());
}

/// A `GET` with this header line: head and body.
async fn shown(world: &World, token: &str, field: &str) -> (String, String) {
    let mut stream = TcpStream::connect(world.daemon().page_addresses()[0]).await.unwrap();
    let request = format!("GET /leave/{token} HTTP/1.1\r\nHost: us.test\r\nConnection: close\r\n{field}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_lowercase(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn people_see_a_page_in_their_language_that_can_do_nothing() {
    let (world, them) = world(|_| {}).await;
    // Whatever a list is called, and whoever leaves it.
    let hostile = "X-Posthaste-List: <img src=//evil.test/x>\r\n";
    let headers = format!("{BULK}{hostile}");
    let token = link(&world, &them, "\"<script>alert(1)</script>\"@them.test", &headers).await.unwrap();
    for (field, language, word) in [
        ("", "en", "Unsubscribe"),
        ("Accept-Language: de-CH, de;q=0.9, en;q=0.8\r\n", "de", "Abmelden"),
        ("Accept-Language: xx, fr;q=0.5\r\n", "fr", "Se d\u{e9}sabonner"),
        ("Accept-Language: ja\r\n", "ja", "\u{914d}\u{4fe1}\u{505c}\u{6b62}"),
    ] {
        let (head, body) = shown(&world, &token, field).await;
        assert!(head.starts_with("http/1.1 200") && head.contains(&format!("content-language: {language}")), "{head}");
        assert!(body.contains(&format!("<html lang=\"{language}\"")) && body.contains(word), "{body}");
        assert!(head.contains("content-security-policy: default-src 'none'; ") && !head.contains("script"), "{head}");
        assert!(head.contains("frame-ancestors 'none'") && !head.contains("set-cookie"), "{head}");
        assert!(head.contains("content-type: text/html; charset=utf-8"), "{head}");
        for bad in ["<script", "<img", "//evil", "http"] {
            assert!(!body.contains(bad), "{bad} in {body}");
        }
        assert!(body.contains("&#60;script&#62;") && body.contains("&#60;img"), "{body}");
    }
    let (head, body) = shown(&world, "nonsense", "Accept-Language: ar\r\n").await;
    assert!(head.starts_with("http/1.1 404") && body.contains("<html lang=\"ar\" dir=\"rtl\">"), "{head} {body}");
    assert!(world.told("unsubscribed", "").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_may_be_the_operators() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("page.html");
    std::fs::write(&file, "<html lang={{language}}><h1>Shop</h1><i>{{address}}</i>{{text}}{{action}}").unwrap();
    let (world, them) = world(|config| config.unsubscribe.page_file = Some(file.clone())).await;
    let token = link(&world, &them, "ann@them.test", &to_list("news")).await.unwrap();
    let (head, body) = shown(&world, &token, "Accept-Language: nl\r\n").await;
    assert!(body.starts_with("<html lang=nl><h1>Shop</h1><i>ann@them.test</i>Wilt u <b>"), "{body}");
    assert!(head.contains("default-src 'none'") && body.contains("<form method=\"post\">"), "{head}");
    // A page that is wrong changes nothing; a good one is in force after a reload.
    std::fs::write(&file, "{{text}}").unwrap();
    let error = world.daemon().reload(&world.config).unwrap_err().to_string();
    assert!(error.contains("page.html: unsubscribe.page_file: it has no {{action}}"), "{error}");
    assert!(shown(&world, &token, "").await.1.contains("<h1>Shop</h1>"));
    std::fs::write(&file, "New {{text}}{{action}}").unwrap();
    world.daemon().reload(&world.config).unwrap();
    assert!(shown(&world, &token, "").await.1.starts_with("New Do you want"));
    let (status, left) = page(&world, "POST", &format!("/leave/{token}"), "confirm=yes").await;
    assert!(status == 200 && left.starts_with("New <b>") && !left.contains("<form"), "{left}");
    assert_eq!(world.until("unsubscribed", "ann@them.test", 1).await[0].text("what"), "page");
}
