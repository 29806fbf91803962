//! Sources and pools: by whose address mail leaves, with which name, and what happens when one is gone.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use posthaste::config::{Config, EgressConfig, PoolConfig, Scope, SourceConfig};
use posthaste::mail::Class;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use crate::peer::{At, Do, Peer};
use crate::world::{World, listeners, logged, zone};

fn source(name: &str, address: &str) -> SourceConfig {
    SourceConfig {
        name: name.into(),
        addresses: vec![address.parse().unwrap()],
        ehlo: Some(format!("{name}.us.test").parse().unwrap()),
        proxy: None,
        username: None,
        password_file: None,
    }
}

fn pool(config: &mut Config, name: &str, sources: &[(&str, u32)]) {
    let sources = sources.iter().map(|(name, weight)| (name.to_string(), *weight)).collect();
    config.pool.push(PoolConfig { name: name.into(), sources });
}

/// How many messages came from each client.
fn clients(host: &Peer) -> BTreeMap<String, usize> {
    let mut clients = BTreeMap::new();
    host.taken().into_iter().for_each(|taken| *clients.entry(taken.client).or_default() += 1);
    clients
}

#[tokio::test(flavor = "multi_thread")]
async fn each_stream_leaves_by_its_pool() {
    let host = Peer::good(listeners(1).await.remove(0));
    let world = World::start(zone(&["them"]), host.address().port(), |config| {
        config.source = vec![source("a", "127.0.0.21"), source("b", "127.0.0.22"), source("c", "127.0.0.23")];
        pool(config, "news", &[("b", 1)]);
        pool(config, "shop", &[("c", 1)]);
        let bulk = Scope { class: Some(Class::Bulk), ..Scope::default() };
        let shop = Scope { tenant: Some("shop".into()), ..Scope::default() };
        config.egress =
            vec![EgressConfig { scope: shop, pool: "shop".into() }, EgressConfig { scope: bulk, pool: "news".into() }];
    })
    .await;
    world.send(&["usual@them.test"]).await;
    world.send_with(&["news@them.test"], "X-Posthaste-Class: bulk\r\n").await;
    world.send_with(&["shop@them.test"], "X-Posthaste-Class: bulk\r\nX-Posthaste-Tenant: shop\r\n").await;
    world.until("delivered", "them.test", 3).await;
    for (who, name, address) in [("usual", "a", "127.0.0.21"), ("news", "b", "127.0.0.22"), ("shop", "c", "127.0.0.23")]
    {
        let event = &world.told("delivered", who)[0];
        assert_eq!((event.text("source"), event.text("source_address")), (name, address), "{who}");
        let taken = host.taken().into_iter().find(|taken| taken.recipient.starts_with(who)).unwrap();
        assert_eq!(taken.client, format!("{name}.us.test {address}"), "{who}");
    }
    let (_, ready) = world.http("GET", "/readyz", "").await;
    assert_eq!(ready, "ready\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_share_by_weight() {
    let host = Peer::start(listeners(1).await.remove(0), |ask| match ask.at {
        At::End => Do::After(Duration::from_millis(2)),
        _ => Do::Take,
    });
    let world = World::start(zone(&["them"]), host.address().port(), |config| {
        config.source = vec![source("a", "127.0.0.21"), source("b", "127.0.0.22")];
        pool(config, "default", &[("a", 3), ("b", 1)]);
    })
    .await;
    let mut door = world.door().await;
    for n in 0..400 {
        door.send("a@us.test", &[&format!("b{n}@them.test")], "").await;
    }
    world.until("delivered", "them.test", 400).await;
    let clients = clients(&host);
    let light = clients.get("b.us.test 127.0.0.22").copied().unwrap_or_default();
    assert!((85..=115).contains(&light), "{clients:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rest_of_the_pool_takes_over_for_a_missing_address() {
    let host = Peer::good(listeners(1).await.remove(0));
    let world = World::start(zone(&["them"]), host.address().port(), |config| {
        // An address for documentation (RFC 5737), which no host has.
        config.source = vec![source("gone", "192.0.2.77"), source("there", "127.0.0.22")];
        config.retry.delay_min = Duration::from_secs(600);
        config.retry.delay_max = Duration::from_secs(600);
    })
    .await;
    let mut door = world.door().await;
    for n in 0..40 {
        door.send("a@us.test", &[&format!("b{n}@them.test")], "").await;
    }
    world.until("delivered", "them.test", 40).await;
    assert_eq!(world.told("deferred", "them.test").len(), 0, "no attempt was lost on it");
    assert_eq!(clients(&host), BTreeMap::from([("there.us.test 127.0.0.22".into(), 40)]));
    let (status, ready) = world.http("GET", "/readyz", "").await;
    assert_eq!((status, ready.as_str()), (200, "ready\nsource gone out: 192.0.2.77 is not on this host\n"));
    assert_eq!(world.metric("posthaste_sources", &["source=\"gone\"", "state=\"out\""]).await, 1.0);
    assert!(logged(&["source is out", "gone", "192.0.2.77 is not on this host"]));
    let (_, sites) = world.http("GET", "/v1/sites", "").await;
    assert!(sites.contains("\"health\":\"out\""), "{sites}");
}

/// A proxy in front of the receivers, which does what a SOCKS5 proxy does for a client that needs no password.
struct Socks {
    address: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

impl Socks {
    /// `from`: the address it sends from.
    fn start(listener: TcpListener, from: &'static str) -> Socks {
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Socks::forward(stream, from));
            }
        });
        Socks { address, _task: AbortOnDropHandle::new(task) }
    }

    async fn forward(mut stream: TcpStream, from: &str) -> std::io::Result<()> {
        let mut hello = [0; 3];
        stream.read_exact(&mut hello).await?;
        stream.write_all(&[5, 0]).await?;
        let mut request = [0; 10];
        stream.read_exact(&mut request).await?;
        let to = SocketAddr::from((
            [request[4], request[5], request[6], request[7]],
            u16::from_be_bytes([request[8], request[9]]),
        ));
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(from.parse().unwrap(), 0))?;
        let mut receiver = socket.connect(to).await?;
        stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
        copy_bidirectional(&mut stream, &mut receiver).await.map(drop)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_waits_for_the_only_source_and_goes_when_it_is_back() {
    let host = Peer::good(listeners(1).await.remove(0));
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = proxy.local_addr().unwrap();
    drop(proxy);
    let world = World::start(zone(&["them"]), host.address().port(), |config| {
        let proxy = Some(format!("socks5://{address}").parse().unwrap());
        config.source = vec![SourceConfig { addresses: Vec::new(), proxy, ..source("far", "127.0.0.1") }];
        // Were they put off, they would not come back within this test.
        config.retry.delay_min = Duration::from_secs(600);
        config.retry.delay_max = Duration::from_secs(600);
    })
    .await;
    let mut door = world.door().await;
    for n in 0..20 {
        door.send("a@us.test", &[&format!("b{n}@them.test")], "").await;
    }
    let out = format!("source far out: proxy socks5://{address}: ");
    let mut ready = String::new();
    for _ in 0..2000 {
        ready = world.http("GET", "/readyz", "").await.1;
        if ready.contains(&out) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(ready.contains(&out), "{ready}");
    assert_eq!(world.told("deferred", "them.test").len(), 0);
    let proxy = Socks::start(TcpListener::bind(address).await.unwrap(), "127.0.0.31");
    world.until("delivered", "them.test", 20).await;
    assert_eq!(clients(&host), BTreeMap::from([("far.us.test 127.0.0.31".into(), 20)]));
    assert_eq!(world.told("deferred", "them.test").len(), 0);
    assert_eq!(world.http("GET", "/readyz", "").await.1, "ready\n");
    assert_eq!(world.metric("posthaste_sources", &["source=\"far\""]).await, 0.0);
    let told: Vec<_> = world.events().into_iter().filter(|event| event.name() == "source").collect();
    let said: Vec<&str> = told.iter().map(|event| event.text("what")).collect();
    assert_eq!(said, ["out", "back"]);
    assert_eq!(proxy.address, address);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forwarder_is_told_where_from_and_where_to() {
    let host = Peer::good(listeners(1).await.remove(0));
    let forwarder = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = forwarder.local_addr().unwrap();
    let to = host.address();
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = forwarder.accept().await {
            tokio::spawn(async move {
                let mut header = [0; 28];
                stream.read_exact(&mut header).await.unwrap();
                assert_eq!(&header[..16], b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c");
                assert_eq!(header[20..24], [127, 0, 0, 2]);
                assert_eq!(u16::from_be_bytes([header[26], header[27]]), to.port());
                let from = [header[16], header[17], header[18], header[19]];
                let socket = tokio::net::TcpSocket::new_v4().unwrap();
                socket.bind(SocketAddr::from((from, 0))).unwrap();
                let mut receiver = socket.connect(to).await.unwrap();
                let _ = copy_bidirectional(&mut stream, &mut receiver).await;
            });
        }
    });
    let world = World::start(zone(&["them"]), to.port(), |config| {
        let proxy = Some(format!("haproxy://{address}").parse().unwrap());
        config.source = vec![SourceConfig { proxy, ..source("far", "127.0.0.41") }];
    })
    .await;
    world.send(&["b@them.test"]).await;
    let events = world.until("delivered", "them.test", 1).await;
    assert_eq!((events[0].text("source"), events[0].text("source_address")), ("far", "127.0.0.41"));
    assert_eq!(clients(&host), BTreeMap::from([("far.us.test 127.0.0.41".into(), 1)]));
    task.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_a_receiver_refuses_leaves_the_mail_to_others() {
    let host = Peer::start(listeners(1).await.remove(0), |ask| match ask.at {
        At::Connect if ask.text == "127.0.0.21" => Do::Close("554 5.7.1 not from you"),
        _ => Do::Take,
    });
    let world = World::start(zone(&["them"]), host.address().port(), |config| {
        config.source = vec![source("a", "127.0.0.21"), source("b", "127.0.0.22")];
        config.delivery.site_pause_min = Duration::from_secs(300);
        config.delivery.site_pause_max = Duration::from_secs(300);
    })
    .await;
    let mut door = world.door().await;
    for n in 0..40 {
        door.send("a@us.test", &[&format!("b{n}@them.test")], "").await;
    }
    world.until("delivered", "them.test", 40).await;
    assert_eq!(clients(&host), BTreeMap::from([("b.us.test 127.0.0.22".into(), 40)]));
    assert_eq!(world.told("deferred", "them.test").len(), 0);
    assert!(host.connections() <= 12, "{}", host.connections());
}

/// Says this to everybody's first RCPT, then takes them.
fn once_each(reply: &'static str) -> impl FnMut(&crate::peer::Ask<'_>) -> Do + Send + 'static {
    let mut seen = HashSet::new();
    move |ask| match ask.at {
        At::Rcpt if seen.insert(ask.text.to_owned()) => Do::Say(reply),
        _ => Do::Take,
    }
}

/// Thirty recipients who are put off once each: from which source they were put off and then delivered.
async fn put_off_once(world: &World) -> Vec<(String, String)> {
    let mut door = world.door().await;
    for n in 0..30 {
        door.send("a@us.test", &[&format!("b{n}@them.test")], "").await;
    }
    world.until("delivered", "them.test", 30).await;
    let mut ways = Vec::new();
    for delivered in world.told("delivered", "them.test") {
        let deferred = &world.told("deferred", delivered.recipient())[..];
        assert_eq!((deferred.len(), delivered.number("attempt")), (1, 2), "{}", delivered.recipient());
        ways.push((deferred[0].text("source").to_owned(), delivered.text("source").to_owned()));
    }
    assert_eq!(world.daemon().queue().census().wishes, 0, "nobody waits any more");
    ways
}

fn two_sources(config: &mut Config) {
    config.source = vec![source("a", "127.0.0.21"), source("b", "127.0.0.22")];
}

#[tokio::test(flavor = "multi_thread")]
async fn a_greylisted_retry_comes_from_the_same_source() {
    let host = Peer::start(listeners(1).await.remove(0), once_each("450 4.7.1 Greylisted, try again in 1 seconds"));
    let world = World::start(zone(&["them"]), host.address().port(), two_sources).await;
    let ways = put_off_once(&world).await;
    assert!(ways.iter().all(|(before, after)| before == after), "{ways:?}");
    assert!(["a", "b"].iter().all(|source| ways.iter().any(|(before, _)| before == source)), "both send: {ways:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_elsewhere_comes_from_another_source() {
    let host = Peer::start(listeners(1).await.remove(0), once_each("451 4.7.0 not by this door"));
    let profiles = tempfile::tempdir().unwrap();
    let profile = r#"
        name = "tiny"
        mx = ["them.test"]
        [[rule]]
        name = "door"
        reason = "blocked-ip"
        action = "elsewhere"
        any = ["not by this door"]
        sample = ["451 4.7.0 not by this door"]
    "#;
    std::fs::write(profiles.path().join("tiny.toml"), profile).unwrap();
    let world = World::start(zone(&["them"]), host.address().port(), |config| {
        two_sources(config);
        config.shaping.providers_dir = Some(profiles.path().to_owned());
    })
    .await;
    let ways = put_off_once(&world).await;
    assert!(ways.iter().all(|(before, after)| before != after), "{ways:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_greylisted_retry_does_not_wait_for_a_source_that_is_paused() {
    let host = Peer::start(listeners(1).await.remove(0), once_each("450 4.7.1 Greylisted, try again in 2 seconds"));
    let world = World::start(zone(&["them"]), host.address().port(), two_sources).await;
    world.send(&["b@them.test"]).await;
    let before = world.until("deferred", "b@them.test", 1).await[0].text("source").to_owned();
    assert_eq!(world.daemon().queue().census().wishes, 1);
    let pause = format!(r#"{{"deed":"pause","scope":{{"source":"{before}"}}}}"#);
    assert_eq!(world.http("POST", "/v1/orders", &pause).await.0, 201);
    let after = world.until("delivered", "b@them.test", 1).await[0].text("source").to_owned();
    assert_ne!(before, after);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cold_source_may_not_send_yet_goes_by_the_warm_one_at_once() {
    let host = Peer::good(listeners(1).await.remove(0));
    let world = World::start(zone(&["them"]), host.address().port(), |config| {
        two_sources(config);
        // An hour takes an eighth of its day: five.
        let plan = "source = \"a\"\nrecipients_per_day = [40, 80]";
        config.warmup = vec![toml::from_str(plan).unwrap()];
    })
    .await;
    let hour = || posthaste::clock::Clock.timestamp().0 / 3_600_000;
    let began = hour();
    let mut door = world.door().await;
    for n in 0..60 {
        door.send("a@us.test", &[&format!("b{n}@them.test")], "").await;
    }
    world.until("delivered", "them.test", 60).await;
    let by = clients(&host);
    let (cold, warm) = (by["a.us.test 127.0.0.21"], by["b.us.test 127.0.0.22"]);
    assert!(cold == 5 || hour() > began && cold <= 10, "{by:?}");
    assert_eq!((cold + warm, world.told("deferred", "them.test").len()), (60, 0));
    let progress = &world.daemon().queue().warmups()[0];
    assert_eq!((progress.source.as_str(), progress.day, progress.sent, progress.per_day), ("a", 1, cold as u64, 40));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_puts_other_sources_in_force() {
    let host = Peer::good(listeners(1).await.remove(0));
    let world = World::start(zone(&["them"]), host.address().port(), |config| {
        config.source = vec![source("a", "127.0.0.21")];
    })
    .await;
    world.send(&["b@them.test"]).await;
    world.until("delivered", "b@them.test", 1).await;
    let mut config = world.config.clone();
    config.source = vec![source("c", "127.0.0.23")];
    world.daemon().reload(&config).unwrap();
    world.send(&["c@them.test"]).await;
    let events = world.until("delivered", "c@them.test", 1).await;
    assert_eq!((events[0].text("source"), events[0].text("source_address")), ("c", "127.0.0.23"));
}
