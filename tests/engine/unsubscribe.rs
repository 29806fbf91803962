//! Recipients leave lists: by one click of their mailbox provider, by the page, by mail; and nobody leaves by accident.

use posthaste::config::Config;

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
