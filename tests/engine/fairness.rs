//! Nobody waits for somebody else's trouble.

use std::time::Duration;

use crate::peer::{At, Do, Peer};
use crate::world::{World, listeners, zone};

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_receiver_delays_nobody_else() {
    let mut hosts = listeners(2).await.into_iter();
    let slow = Peer::start(hosts.next().unwrap(), |_| Do::After(Duration::from_millis(300)));
    let quick = Peer::good(hosts.next().unwrap());
    let world = World::start(zone(&["slow", "quick"]), quick.address().port(), |config| {
        config.delivery.connections_per_site = 2;
    })
    .await;
    let mut door = world.door().await;
    for n in 0..50 {
        door.send("a@us.test", &[&format!("b{n}@slow.test"), &format!("b{n}@quick.test")], "").await;
    }
    world.until("delivered", "quick.test", 50).await;
    assert!(slow.count() < 25, "{} at the slow one", slow.count());
    assert_eq!(quick.count(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_does_not_delay_transactional_mail() {
    let host = Peer::start(listeners(1).await.remove(0), |ask| match ask.at {
        At::End => Do::After(Duration::from_millis(20)),
        _ => Do::Take,
    });
    let world = World::start(zone(&["them"]), host.address().port(), |config| {
        config.delivery.connections_per_site = 2;
    })
    .await;
    let mut door = world.door().await;
    for n in 0..500 {
        door.send("a@us.test", &[&format!("b{n}@them.test")], "X-Posthaste-Class: bulk\r\n").await;
    }
    let before = host.count();
    door.send("a@us.test", &["reset@them.test"], "X-Posthaste-Class: transactional\r\n").await;
    world.until("delivered", "reset@them.test", 1).await;
    let place = host.taken().iter().position(|taken| taken.recipient == "reset@them.test").unwrap();
    assert!(place - before <= 12, "{} transactions went first", place - before);
    assert!(host.count() < 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn few_connections_and_many_sites() {
    let names = ["a", "b", "c", "d", "e", "f"];
    let hosts: Vec<Peer> = listeners(6)
        .await
        .into_iter()
        .map(|listener| {
            Peer::start(listener, |ask| match ask.at {
                At::End => Do::After(Duration::from_millis(20)),
                _ => Do::Take,
            })
        })
        .collect();
    let world = World::start(zone(&names), hosts[0].address().port(), |config| {
        config.delivery.connections_max = 2;
        config.delivery.idle_timeout = Duration::from_secs(60);
    })
    .await;
    let mut door = world.door().await;
    // Two sites with much to do, four with little, which comes later.
    for n in 0..150 {
        door.send("a@us.test", &[&format!("x{n}@a.test"), &format!("x{n}@b.test")], "").await;
    }
    for name in &names[2..] {
        for n in 0..3 {
            door.send("a@us.test", &[&format!("x{n}@{name}.test")], "").await;
        }
    }
    let before = hosts[0].count() + hosts[1].count();
    world.see("the small ones got their turn", || hosts[2..].iter().all(|host| host.count() == 3).then_some(())).await;
    let meanwhile = hosts[0].count() + hosts[1].count() - before;
    assert!(meanwhile <= 60, "{meanwhile} transactions of the big ones went first");
    world.until("delivered", "", 312).await;
    assert!(hosts.iter().all(|host| host.connections_at_once() <= 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_in_use_make_room_without_being_cut_all_at_once() {
    let names = ["a", "b"];
    let mut hosts = listeners(2).await.into_iter();
    let slow = |ask: &crate::peer::Ask<'_>| match ask.at {
        At::End => Do::After(Duration::from_millis(20)),
        _ => Do::Take,
    };
    let (busy, small) = (Peer::start(hosts.next().unwrap(), slow), Peer::start(hosts.next().unwrap(), slow));
    let world = World::start(zone(&names), busy.address().port(), |config| {
        config.delivery.connections_max = 8;
        config.delivery.connections_per_site = 8;
    })
    .await;
    let mut door = world.door().await;
    for n in 0..300 {
        door.send("a@us.test", &[&format!("x{n}@a.test")], "").await;
    }
    world.see("all connections in use", || (busy.connections_at_once() == 8).then_some(())).await;
    let before = busy.connections();
    door.send("a@us.test", &["x@b.test"], "").await;
    world.until("delivered", "x@b.test", 1).await;
    world.until("delivered", "a.test", 300).await;
    assert_eq!(small.count(), 1);
    assert!(busy.connections() - before <= 4, "{} new connections", busy.connections() - before);
}
