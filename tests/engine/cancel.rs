//! Messages taken back: nothing of them goes out any more, and their ends are told once and for ever.

use crate::peer::{At, Do, Peer};
use crate::world::{World, listeners, zone};

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_taken_back_for_good() {
    let mut hosts = listeners(1).await.into_iter();
    let them = Peer::good(hosts.next().unwrap());
    let mut world = World::start(zone(&["them"]), them.address().port(), |_| {}).await;
    let later = "X-Posthaste-Not-Before: 1h\r\nX-Posthaste-Campaign: spring\r\nX-Posthaste-Tenant: shop\r\n";
    let one = world.send_with(&["one@them.test", "two@them.test"], later).await;
    for n in 0..20 {
        world.send_with(&[&format!("many{n}@them.test")], later).await;
    }
    let other = later.replace("spring", "summer").replace("1h", "1s");
    world.send_with(&["kept@them.test"], &other).await;

    let (status, answer) = world.http("POST", "/v1/queue/cancel", &format!("{{\"message_id\":\"{one}\"}}")).await;
    assert_eq!((status, answer.as_str()), (200, r#"{"messages":1,"recipients":2,"in_flight":0}"#));
    let spring = r#"{"tenant":"shop","campaign":"spring"}"#;
    let (status, answer) = world.http("POST", "/v1/queue/cancel", spring).await;
    assert_eq!((status, answer.as_str()), (200, r#"{"messages":20,"recipients":20,"in_flight":0}"#));
    // Nothing is left of them, and of one that is gone we say so.
    let (_, answer) = world.http("POST", "/v1/queue/cancel", spring).await;
    assert_eq!(answer, r#"{"messages":0,"recipients":0,"in_flight":0}"#);
    let (status, answer) = world.http("POST", "/v1/queue/cancel", &format!("{{\"message_id\":\"{one}\"}}")).await;
    assert!(status == 404 && answer.contains(&one), "{status} {answer}");

    // It was on disk when it was answered: a start from what is there has none of them.
    world.stop(std::time::Duration::from_secs(5)).await;
    world.start_again().await;
    world.until("delivered", "kept@them.test", 1).await;
    world.until_empty().await;
    assert_eq!(them.recipients(), ["kept@them.test"]);
    let ends = world.events();
    assert_eq!(ends.iter().filter(|event| event.name() == "cancelled").count(), 22);
    assert_eq!(ends.len(), 23);
    assert_eq!(world.metric("posthaste_queue_recipients", &[]).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_flight_ends_as_its_receiver_says() {
    let mut hosts = listeners(1).await.into_iter();
    let them = Peer::start(hosts.next().unwrap(), |ask| if ask.at == At::Rcpt { Do::Hold } else { Do::Take });
    let world = World::start(zone(&["them"]), them.address().port(), |_| {}).await;
    let id = world.send(&["taken@them.test", "deferred@them.test"]).await;
    world.see("a session", || (them.connections() > 0 && them.mails() > 0).then_some(())).await;
    let (_, answer) = world.http("POST", "/v1/queue/cancel", &format!("{{\"message_id\":\"{id}\"}}")).await;
    assert_eq!(answer, r#"{"messages":0,"recipients":0,"in_flight":2}"#);
    them.behave(|ask| match ask.at {
        At::Rcpt if ask.text.contains("deferred") => Do::Say("451 4.2.0 busy"),
        _ => Do::Take,
    });
    world.until("delivered", "taken@them.test", 1).await;
    world.until("cancelled", "deferred@them.test", 1).await;
    world.until_empty().await;
    assert_eq!(world.events().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_back_in_flight_is_not_sent_again_after_a_crash() {
    let mut hosts = listeners(1).await.into_iter();
    let them = Peer::start(hosts.next().unwrap(), |ask| if ask.at == At::End { Do::Hold } else { Do::Take });
    let mut world = World::start(zone(&["them"]), them.address().port(), |_| {}).await;
    let id = world.send(&["one@them.test", "two@them.test"]).await;
    world.see("the transaction", || (them.asked().len() == 2).then_some(())).await;
    let (_, answer) = world.http("POST", "/v1/queue/cancel", &format!("{{\"message_id\":\"{id}\"}}")).await;
    assert_eq!(answer, r#"{"messages":0,"recipients":0,"in_flight":2}"#);
    // Its outcome is lost.
    assert!(!world.stop(std::time::Duration::from_millis(300)).await);
    them.behave(|_| Do::Take);
    world.start_again().await;
    world.until("cancelled", "them.test", 2).await;
    world.until_empty().await;
    assert_eq!((world.events().len(), them.asked().len()), (2, 2));
    let status = world.daemon().queue().status(id.parse().unwrap()).await.unwrap().unwrap();
    assert!(!status.waiting && status.recipients.len() == 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_message_is_still_known() {
    let mut hosts = listeners(1).await.into_iter();
    let them = Peer::start(hosts.next().unwrap(), |ask| match ask.at {
        At::Rcpt if ask.text.contains("nobody") => Do::Say("550 5.1.1 no such user"),
        _ => Do::Take,
    });
    let world = World::start(zone(&["them"]), them.address().port(), |_| {}).await;
    let id = world.send_with(&["you@them.test", "nobody@them.test"], "X-Posthaste-Tenant: shop\r\n").await;
    world.until("delivered", "you@them.test", 1).await;
    world.until("bounced", "nobody@them.test", 1).await;
    let queue = world.daemon().queue();
    let status = queue.status(id.parse().unwrap()).await.unwrap().unwrap();
    assert!(!status.waiting);
    assert_eq!((status.sender.as_str(), &*status.tenant), ("a@us.test", "shop"));
    let states: Vec<(&str, &str)> =
        status.recipients.iter().map(|r| (r.view.address.as_str(), r.view.state.as_str())).collect();
    assert!(states.contains(&("you@them.test", "delivered")) && states.contains(&("nobody@them.test", "bounced")));
    let refused = status.recipients.iter().find(|r| r.view.state == "bounced").unwrap();
    assert_eq!(refused.view.reply.as_deref(), Some("550 5.1.1 no such user"));
    assert!(queue.status("0000000000001".parse().unwrap()).await.unwrap().is_none());
}
