use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::net::TcpListener;

use super::{Egress, NoAddress, Source, SourceId};
use crate::config::Config;
use crate::mail::{Class, Stream};

fn egress(text: &str) -> Egress {
    let text = format!("hostname = \"mta.us.example\"\n{text}");
    let (config, _) = Config::parse(&text, Path::new("f")).unwrap_or_else(|problems| panic!("{problems:?}"));
    Egress::new(&config, None).expect("nothing to read")
}

/// The pool, with its sources and weights, of each stream `TENANT/CLASS/CAMPAIGN`.
#[track_caller]
fn check(text: &str, expected: &[(&str, &str)]) {
    let egress = egress(text);
    for (stream, pool) in expected {
        let words: Vec<&str> = stream.split('/').collect();
        let class = Class::parse(words[1]).expect("a class");
        let id = egress.pool_of(&Stream { tenant: words[0].into(), class, campaign: words[2].into() });
        let named = |(source, weight): &(SourceId, u32)| format!(" {}*{weight}", egress.source(*source).name);
        let sources: String = egress.sources_of(id).iter().map(named).collect();
        assert_eq!(format!("{}:{sources}", egress.pool(id).name), *pool, "{stream}");
    }
}

#[test]
fn without_configuration_there_is_one_of_each() {
    check("", &[("shop/bulk/spring", "default: default*1")]);
    let egress = egress("[delivery]\nsource_addresses = [\"127.0.0.1\", \"127.0.0.2\"]\n");
    let addresses: [IpAddr; 2] = [[127, 0, 0, 1].into(), [127, 0, 0, 2].into()];
    assert_eq!(egress.source(SourceId(0)).addresses, addresses);
}

const SOURCES: &str = r#"
[[source]]
name = "a"
[[source]]
name = "b"
[[source]]
name = "c"
[[pool]]
name = "news"
sources = { b = 3, a = 1 }
"#;

#[test]
fn the_first_rule_that_matches_says_the_pool() {
    let rules = r#"
[[egress]]
match = { tenant = "shop", campaign = "weekly" }
pool = "news"
[[egress]]
match = { class = "system" }
pool = "default"
[[egress]]
match = { tenant = "club" }
pool = "news"
[[egress]]
match = { tenant = "shop", campaign = "", class = "bulk" }
pool = "news"
"#;
    let (news, default) = ("news: a*1 b*3", "default: c*1");
    check(
        &format!("{SOURCES}{rules}"),
        &[
            ("shop/bulk/weekly", news),
            ("Shop/transactional/Weekly", news),
            ("shop/bulk/weekly-7", default),
            ("shop/bulk/", news),
            ("shop/transactional/", default),
            ("club/bulk/weekly-7", news),
            ("club/system/", default),
            ("shopper/bulk/weekly", default),
            ("/transactional/", default),
        ],
    );
}

#[test]
fn names_keep_their_places_over_a_reload() {
    let first = egress(SOURCES);
    let news = first.pool_named("news").expect("there");
    let (config, _) = Config::parse(
        "hostname = \"mta.us.example\"\n[[source]]\nname = \"d\"\n[[source]]\nname = \"b\"\n[[pool]]\nname = \"default\"\nsources = { d = 1, b = 2 }\n",
        Path::new("f"),
    )
    .expect("good");
    let second = Egress::new(&config, Some(&first)).expect("nothing to read");
    for name in ["a", "b", "c"] {
        assert_eq!(first.source_named(name), second.source_named(name), "{name}");
    }
    assert_eq!(first.pool_named("default"), second.pool_named("default"));
    assert_eq!((second.pool_named("news"), second.sources_of(news)), (None, &[][..]));
    let names: Vec<&str> = second.sources().map(|(_, source)| &*source.name).collect();
    assert_eq!(names, ["b", "d"]);
    assert_eq!(second.source_named("d"), Some(SourceId(3)));
}

#[test]
fn the_default_pool_is_what_is_left_over() {
    check(SOURCES, &[("shop/bulk/", "default: c*1")]);
    check(&SOURCES.replace("a = 1", "a = 1, c = 1"), &[("shop/bulk/", "default: default*1")]);
    check(&SOURCES.replace("news", "default"), &[("shop/bulk/", "default: a*1 b*3")]);
}

fn source(addresses: &[&str]) -> Source {
    Source::new("a", addresses.iter().map(|address| address.parse().expect("an address")).collect())
}

/// What is sent from to reach a receiver of that family, over many tries.
fn used(source: &Source, peer: &str) -> Result<String, NoAddress> {
    let mut rng = SmallRng::seed_from_u64(1);
    let peer = peer.parse().expect("an address");
    let tries: Result<Vec<_>, _> = (0..50).map(|_| source.address_for(peer, &mut rng)).collect();
    let mut used: Vec<String> = tries?.into_iter().map(|a| a.map_or("any".into(), |a| a.to_string())).collect();
    used.sort();
    used.dedup();
    Ok(used.join(" "))
}

#[test]
fn a_missing_address_is_not_used_and_comes_back() {
    let (v4, v6) = ("192.0.2.99", "2001:db8::99");
    let source = source(&["192.0.2.1", "192.0.2.2", "2001:db8::1"]);
    let said = |source: &Source, peer| used(source, peer).unwrap_or_else(|why| why.to_string());
    assert_eq!((said(&source, v4).as_str(), said(&source, v6).as_str()), ("192.0.2.1 192.0.2.2", "2001:db8::1"));
    assert!(source.look_for_addresses(|address| address.to_string() == "192.0.2.2"), "that is news");
    assert!(!source.look_for_addresses(|address| address.to_string() == "192.0.2.2"), "that is not");
    assert!(!source.is_out());
    let out = "source a is out: 192.0.2.1, 2001:db8::1 is not on this host";
    assert_eq!((said(&source, v4).as_str(), said(&source, v6).as_str()), ("192.0.2.2", out));
    // A session may find out first.
    assert!(source.note_lost(Some("192.0.2.2".parse().expect("an address")), "cannot bind"));
    assert!(!source.note_lost(Some("192.0.2.2".parse().expect("an address")), "cannot bind"));
    assert!(source.is_out());
    assert!(source.look_for_addresses(|_| true));
    assert_eq!((source.is_out(), source.trouble()), (false, None));
}

#[test]
fn a_source_reaches_the_families_it_has() {
    assert_eq!(used(&source(&[]), "2001:db8::99").as_deref(), Ok("any"));
    assert_eq!(used(&source(&["192.0.2.1"]), "2001:db8::99"), Err(NoAddress::Family("a".into())));
}

#[tokio::test]
async fn addresses_are_looked_for_on_this_host() {
    let source = source(&["127.0.0.1", "192.0.2.1"]);
    assert!(source.look().await);
    assert_eq!(source.trouble().as_deref(), Some("192.0.2.1 is not on this host"));
}

#[tokio::test]
async fn a_source_is_out_while_its_proxy_is() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let text = format!("[[source]]\nname = \"a\"\nproxy = \"socks5://{address}\"\n");
    let egress = egress(&text);
    let source = egress.source(SourceId(0));
    assert!(!source.look().await && !source.is_out(), "nobody has missed it");
    assert!(source.note_lost(None, "connection refused"));
    assert!(!source.note_lost(None, "and again"), "no news");
    assert!(!source.look().await && source.is_out(), "it is still away");
    let why = used(source, "192.0.2.99").expect_err("out").to_string();
    assert!(why.starts_with(&format!("source a is out: proxy socks5://{address}: Connection refused")), "{why}");
    let _listener = TcpListener::bind(address).await.expect("the same port");
    assert!(source.look().await && !source.is_out());
    assert_eq!(used(source, "192.0.2.99").as_deref(), Ok("any"));
}

#[test]
fn passwords_of_proxies_are_read() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "secret\nmore\n").expect("writes");
    let path = file.path().display();
    let text = format!(
        "[[source]]\nname = \"a\"\nproxy = \"socks5://127.0.0.1:1\"\nusername = \"me\"\npassword_file = \"{path}\"\n"
    );
    let egress = egress(&text);
    let proxy: Option<&Arc<_>> = egress.source(SourceId(0)).proxy.as_ref();
    let credentials = proxy.and_then(|proxy| proxy.credentials.as_ref()).expect("read");
    assert_eq!((credentials.username.as_str(), credentials.password.as_str()), ("me", "secret"));
}
