//! Routing against a DNS server of our own on loopback: a table of names, some of which misbehave.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, MX, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::net::UdpSocket;

use super::*;
use crate::config::{DeliveryConfig, DnsConfig, RouteConfig};

/// `name type data`, one a line. The types `SERVFAIL`, `REFUSED`, `SILENT` and `OTHER` (records of a name nobody asked
/// for) stand for what a name does instead of answering; names that are not here do not exist.
const ZONE: &str = "
    plain.example      MX 10 mx1.plain.example
    plain.example      MX 20 mx3.plain.example
    plain.example      MX 10 MX2.plain.example.
    mx1.plain.example  A 9.0.0.1
    mx1.plain.example  A 9.0.0.2
    mx1.plain.example  AAAA 2a00::1
    mx1.plain.example  AAAA 2a00::2
    mx1.plain.example  AAAA 2a00::3
    same.example       MX 5 mx3.plain.example
    same.example       MX 5 mx2.plain.example
    same.example       MX 7 mx1.plain.example
    same.example       MX 9 mx1.plain.example
    implicit.example   A 9.0.0.3
    null.example       MX 0 .
    notnull.example    MX 0 .
    notnull.example    MX 10 mx1.plain.example
    alias.example      CNAME plain.example
    viacname.example   MX 10 cname.example
    cname.example      CNAME mx1.plain.example
    toaddress.example  MX 10 9.0.0.4
    toaddress.example  MX 20 mx1.plain.example
    garbage.example    MX 10 9.0.0.4
    garbage.example    MX 20 .
    nothing.example    TXT x
    private.example    MX 10 inside.example
    inside.example     A 127.0.0.1
    inside.example     A 10.0.0.1
    mixed.example      A 192.168.0.1
    mixed.example      A 9.0.0.5
    zero.example       A 0.0.0.0
    missing.example    MX 10 gone.example
    six.example        AAAA 2a00::6
    _under.example     MX 10 mx_1.example
    broken.example     SERVFAIL
    refused.example    REFUSED
    silent.example     SILENT
    lied.example       OTHER
    tobroken.example   MX 10 broken.example
";

struct FakeDns {
    address: SocketAddr,
    queries: Arc<AtomicUsize>,
}

impl FakeDns {
    async fn start() -> FakeDns {
        let mut zone: HashMap<String, Vec<(String, String)>> = HashMap::new();
        for line in ZONE.lines().filter(|line| !line.trim().is_empty()) {
            let (name, rest) = line.trim().split_once(' ').expect("name");
            let (kind, data) = rest.trim().split_once(' ').unwrap_or((rest.trim(), ""));
            zone.entry(name.into()).or_default().push((kind.into(), data.trim().into()));
        }
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let address = socket.local_addr().expect("bound");
        let queries = Arc::new(AtomicUsize::new(0));
        let counter = queries.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok((n, peer)) = socket.recv_from(&mut buffer).await {
                counter.fetch_add(1, Ordering::SeqCst);
                let query = Message::from_vec(&buffer[..n]).expect("hickory asks properly");
                if let Some(reply) = answer(&zone, &query) {
                    socket.send_to(&reply.to_vec().expect("encodes"), peer).await.expect("loopback");
                }
            }
        });
        FakeDns { address, queries }
    }

    fn router(&self, delivery: &DeliveryConfig, routes: &[RouteConfig]) -> Router {
        let dns =
            DnsConfig { nameservers: vec![self.address], timeout: Duration::from_millis(900), cache_entries: 1000 };
        Router::new(&dns, delivery, routes).expect("configuration is right")
    }
}

fn answer(zone: &HashMap<String, Vec<(String, String)>>, query: &Message) -> Option<Message> {
    let question = query.queries.first().expect("one").clone();
    let name = question.name().to_ascii().trim_end_matches('.').to_owned();
    let mut reply = Message::response(query.metadata.id, OpCode::Query);
    reply.metadata.recursion_available = true;
    reply.add_query(question.clone());
    let Some(entries) = zone.get(&name) else {
        reply.metadata.response_code = ResponseCode::NXDomain;
        reply.add_authority(soa());
        return Some(reply);
    };
    let owner = question.name().clone();
    for (kind, data) in entries {
        let data = match kind.as_str() {
            "SILENT" => return None,
            "SERVFAIL" => return Some(refusal(reply, ResponseCode::ServFail)),
            "OTHER" => {
                reply.add_answer(Record::from_rdata(host("other.example"), 300, RData::A(A([9, 0, 0, 7].into()))));
                continue;
            }
            "REFUSED" => return Some(refusal(reply, ResponseCode::Refused)),
            "MX" => {
                let (preference, exchange) = data.split_once(' ').expect("two");
                RData::MX(MX::new(preference.parse().expect("a number"), host(exchange)))
            }
            "A" => RData::A(A(data.parse().expect("IPv4"))),
            "AAAA" => RData::AAAA(AAAA(data.parse().expect("IPv6"))),
            "CNAME" => RData::CNAME(CNAME(host(data))),
            _ => continue,
        };
        if data.record_type() == question.query_type() || data.record_type() == RecordType::CNAME {
            reply.add_answer(Record::from_rdata(owner.clone(), 300, data));
        }
    }
    if reply.answers.is_empty() {
        reply.add_authority(soa());
    }
    Some(reply)
}

fn refusal(mut reply: Message, code: ResponseCode) -> Message {
    reply.metadata.response_code = code;
    reply
}

fn host(name: &str) -> Name {
    let mut name = Name::from_ascii(name).expect("a name");
    name.set_fqdn(true);
    name
}

fn soa() -> Record {
    let data = SOA::new(host("ns.example"), host("root.example"), 1, 60, 60, 60, 42);
    Record::from_rdata(host("example"), 42, RData::SOA(data))
}

fn at(domain: &str) -> AddressHost {
    format!("a@{domain}").parse::<crate::mail::EnvelopeAddress>().expect("an address").host().clone()
}

fn show_no_route(no: &NoRoute) -> String {
    match no {
        NoRoute::Later { failure, .. } => format!("later {:?} {}", failure.blame, failure.reply),
        NoRoute::Never { failure, .. } => format!("never {:?} {}", failure.blame, failure.reply),
    }
}

/// `site | host:port preference …`, or why not.
async fn show_route(router: &Router, host: &str) -> String {
    match router.route(&at(host)).await {
        Ok(route) => {
            let hops = route.hops.iter().map(|h| format!("{}:{} {}", h.host, h.port, h.preference));
            format!("{} | {}", route.site, hops.collect::<Vec<_>>().join(", "))
        }
        Err(no) => show_no_route(&no),
    }
}

async fn show_addresses(router: &Router, host: &str) -> String {
    let route = router.route(&at(host)).await.expect("has a route");
    match router.addresses(&route, &route.hops[0]).await {
        Ok(mut addresses) => {
            // Within a family the order is the server's; only the turns of the families are ours.
            addresses.iter_mut().for_each(|a| a.set_port(a.port() % 1000));
            addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(" ")
        }
        Err(no) => show_no_route(&no),
    }
}

#[tokio::test]
async fn routes_as_dns_says() {
    let dns = FakeDns::start().await;
    let router = dns.router(&DeliveryConfig::default(), &[]);
    let all = "mx1.plain.example,mx2.plain.example|mx3.plain.example";
    let plain = "mx1.plain.example:25 10, mx2.plain.example:25 10, mx3.plain.example:25 20";
    for (host, expected) in [
        ("plain.example", format!("{all} | {plain}")),
        ("alias.example", format!("{all} | {plain}")),
        // The same hosts in another order are another site: who publishes them so must not change where others' mail goes.
        (
            "same.example",
            "mx2.plain.example,mx3.plain.example|mx1.plain.example | \
             mx2.plain.example:25 5, mx3.plain.example:25 5, mx1.plain.example:25 7"
                .into(),
        ),
        ("implicit.example", "implicit.example | implicit.example:25 0".into()),
        ("six.example", "six.example | six.example:25 0".into()),
        ("null.example", "never Site 556 5.1.10 null.example does not accept mail (null MX)".into()),
        ("notnull.example", "mx1.plain.example | mx1.plain.example:25 10".into()),
        ("toaddress.example", "mx1.plain.example | mx1.plain.example:25 20".into()),
        ("garbage.example", "never Site 550 5.4.4 no MX record of garbage.example names a host".into()),
        ("nothing.example", "never Site 550 5.4.4 nothing.example has neither an MX record nor an address".into()),
        ("nowhere.example", "never Site 550 5.1.2 the domain nowhere.example does not exist".into()),
        ("_under.example", "mx_1.example | mx_1.example:25 10".into()),
        (
            "broken.example",
            "later Site 451 4.4.3 cannot look up the mail servers of broken.example: Server Failure".into(),
        ),
        (
            "refused.example",
            "later Site 451 4.4.3 cannot look up the mail servers of refused.example: Query Refused".into(),
        ),
        ("[9.0.0.9]", "[9.0.0.9]:25 | [9.0.0.9]:25 0".into()),
        ("[IPv6:2a00::9]", "[2a00::9]:25 | [2a00::9]:25 0".into()),
    ] {
        assert_eq!(show_route(&router, host).await, expected, "{host}");
    }
    // What is said in the end is what hickory's last try, by TCP, came to.
    for host in ["silent.example", "lied.example"] {
        let later = show_route(&router, host).await;
        assert!(later.starts_with("later Site 451 4.4.3 "), "{later}");
    }
}

#[tokio::test]
async fn a_look_up_ends_when_the_operator_says() {
    let dns = FakeDns::start().await;
    // Shorter than any one try: the first server has its try, then hickory is asked and cut short at once.
    let config = DnsConfig { nameservers: vec![dns.address], timeout: Duration::from_millis(50), cache_entries: 1000 };
    let router = Router::new(&config, &DeliveryConfig::default(), &[]).expect("configuration is right");
    let expected = "later Site 451 4.4.3 cannot look up the mail servers of silent.example: no answer within 50ms";
    assert_eq!(show_route(&router, "silent.example").await, expected);
}

#[tokio::test]
async fn mail_never_comes_back_to_us() {
    let dns = FakeDns::start().await;
    let router = |own: &str| dns.router(&DeliveryConfig::default(), &[]).with_hostname(&own.parse().expect("a domain"));
    let last = show_route(&router("mx3.plain.example"), "plain.example").await;
    assert!(last.ends_with("| mx1.plain.example:25 10, mx2.plain.example:25 10"), "{last}");
    for (own, host) in [("mx2.plain.example", "plain.example"), ("implicit.example", "implicit.example")] {
        let expected = format!("never Site 550 5.4.6 mail for {host} loops back to us: {own} is its best mail server");
        assert_eq!(show_route(&router(own), host).await, expected);
    }
}

#[tokio::test]
async fn addresses_are_public_and_take_turns() {
    let dns = FakeDns::start().await;
    let router = dns.router(&DeliveryConfig::default(), &[]);
    for (host, expected) in [
        ("viacname.example", "[2a00::1]:25 9.0.0.1:25 [2a00::2]:25 9.0.0.2:25 [2a00::3]:25"),
        ("mixed.example", "9.0.0.5:25"),
        ("private.example", "never Site 550 5.4.4 none of the 2 addresses of inside.example is public"),
        ("zero.example", "never Site 550 5.4.4 none of the 1 addresses of zero.example is public"),
        ("missing.example", "never Site 550 5.4.4 gone.example has no address"),
        ("tobroken.example", "later Site 451 4.4.3 cannot look up the address of broken.example: Server Failure"),
        ("[127.0.0.1]", "never Site 550 5.4.4 none of the 1 addresses of [127.0.0.1] is public"),
    ] {
        assert_eq!(show_addresses(&router, host).await, expected, "{host}");
    }
    let open = dns.router(&DeliveryConfig { allow_loopback: true, port: 26, ..DeliveryConfig::default() }, &[]);
    assert_eq!(show_addresses(&open, "private.example").await, "127.0.0.1:26 10.0.0.1:26");
    assert_eq!(show_addresses(&open, "[127.0.0.1]").await, "127.0.0.1:26");
    assert!(show_addresses(&open, "zero.example").await.starts_with("never"));
}

#[tokio::test]
async fn answers_are_kept_as_long_as_their_ttl() {
    let dns = FakeDns::start().await;
    let router = dns.router(&DeliveryConfig::default(), &[]);
    let start = Clock.instant();
    let route = router.route(&at("plain.example")).await.expect("exists");
    let holds = route.valid_until.duration_since(start).as_secs();
    assert!((298..=301).contains(&holds), "{holds}");
    let no = router.route(&at("nowhere.example")).await.expect_err("does not exist");
    let holds = no.until().duration_since(start).as_secs();
    assert!((40..=43).contains(&holds), "{holds}: the SOA's minimum");
    let asked = dns.queries.load(Ordering::SeqCst);
    for host in ["plain.example", "nowhere.example"] {
        let _ = router.route(&at(host)).await;
    }
    assert_eq!(dns.queries.load(Ordering::SeqCst), asked, "both come from the cache");
}

fn fixed(pattern: &str, relay: &[&str]) -> RouteConfig {
    let relay = relay.iter().map(|r| r.to_string()).collect();
    RouteConfig { pattern: pattern.into(), relay, tls: None, username: None, password_file: None }
}

#[tokio::test]
async fn the_first_fixed_route_that_matches_wins() {
    let dns = FakeDns::start().await;
    let routes = [
        fixed("One.example", &["127.0.0.1:2526", "[::1]:2527"]),
        fixed("*.one.example", &["relay.example:587"]),
        fixed("three.example", &["gone.example:25"]),
        fixed("*", &["localhost:2528"]),
    ];
    let router = dns.router(&DeliveryConfig::default(), &routes);
    let first = "[127.0.0.1]:2526,[::1]:2527;tls=opportunistic | [127.0.0.1]:2526 0, [::1]:2527 1";
    for (host, expected) in [
        ("one.example", first),
        ("a.b.one.example", "relay.example:587;tls=opportunistic | relay.example:587 0"),
        ("two.example", "localhost:2528;tls=opportunistic | localhost:2528 0"),
        ("[9.9.9.9]", "localhost:2528;tls=opportunistic | localhost:2528 0"),
    ] {
        assert_eq!(show_route(&router, host).await, expected, "{host}");
    }
    assert_eq!(show_addresses(&router, "one.example").await, "127.0.0.1:526", "private addresses are meant");
    assert_eq!(show_addresses(&router, "two.example").await, "[::1]:528 127.0.0.1:528");
    let gone = show_addresses(&router, "three.example").await;
    assert_eq!(gone, "later Site 451 4.4.4 gone.example has no address", "a slip of ours fails no mail");
    let route = router.route(&at("one.example")).await.expect("fixed");
    assert!(route.fixed && route.provider == "relay");
    assert_eq!(route.order(&mut SmallRng::seed_from_u64(1)), [0, 1]);
}

#[test]
fn bad_fixed_routes_are_refused() {
    let check = |route: RouteConfig, expected: &str| {
        let error = Router::new(&DnsConfig::default(), &DeliveryConfig::default(), &[route]).err().expect("refused");
        assert_eq!(error.to_string(), expected);
    };
    check(fixed("a b", &["127.0.0.1:25"]), "route.match: \"a b\" is neither a domain, nor *.domain, nor *");
    check(fixed("*", &[]), "route \"*\" names no relay");
    for relay in ["relay.example", "relay.example:0", "relay.example:x", "300.1.1.1:25", ":25"] {
        check(fixed("*", &[relay]), &format!("route.relay: {relay:?} is not HOST:PORT"));
    }
    let file = tempfile::NamedTempFile::new().expect("a file");
    let half = RouteConfig { username: Some("u".into()), ..fixed("*", &["127.0.0.1:25"]) };
    check(half.clone(), "route \"*\": username and password_file go together");
    let whole = RouteConfig { password_file: Some(file.path().into()), ..half };
    check(whole.clone(), &format!("password_file {:?}", file.path()));
    std::fs::write(file.path(), "secret\nmore").expect("writes");
    let far = RouteConfig { relay: vec!["relay.example:25".into()], ..whole.clone() };
    check(far.clone(), "route \"*\": credentials need tls = \"required\" or \"verified\"");
    let safe = RouteConfig { tls: Some(TlsPolicy::Verified), ..far };
    for good in [whole, safe] {
        Router::new(&DnsConfig::default(), &DeliveryConfig::default(), &[good]).map(drop).expect("accepted");
    }
}

#[test]
fn hops_are_shuffled_within_a_preference() {
    let hop = |preference| Hop { host: HopHost::Address(IpAddr::from([9, 0, 0, 1])), port: 25, preference };
    let route = Route {
        site: Site::of_hosts([(0, "a")].into_iter(), TlsPolicy::Opportunistic),
        hops: [10, 20, 20, 20, 30].map(hop).into(),
        valid_until: Clock.instant(),
        tls: TlsPolicy::Opportunistic,
        credentials: None,
        fixed: false,
        provider: "default",
    };
    let mut seen = std::collections::HashSet::new();
    for seed in 0..100 {
        let order = route.order(&mut SmallRng::seed_from_u64(seed));
        assert_eq!((order[0], order[4]), (0, 4));
        seen.insert(order);
    }
    assert_eq!(seen.len(), 6, "all orders of the three equals");
}

#[test]
fn later_beats_never() {
    let now = Clock.instant();
    let failure = Failure::ours(Blame::Site, EnhancedCode(4, 4, 3), "x");
    let later = |s| NoRoute::Later { failure: failure.clone(), until: now + Duration::from_secs(s) };
    let never = |s| NoRoute::Never { failure: failure.clone(), until: now + Duration::from_secs(s) };
    assert_eq!(later(9).or(never(1)), later(9));
    assert_eq!(never(1).or(later(9)), later(9));
    assert_eq!(never(9).or(never(1)), never(1));
    assert_eq!(later(1).or(later(9)), later(1));
}
