//! Ways that need no name server.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::{DeliveryConfig, DnsConfig, RouteConfig};
use crate::mail::AddressHost;
use crate::routing::{Route, Router};

pub(super) const HOSTS: [&str; 4] = ["a.example", "b.example", "c.example", "d.example"];

/// Routes for [`HOSTS`], the first two at one site.
fn routes() -> HashMap<AddressHost, Arc<Route>> {
    let relay = |(place, host): (usize, &&str)| RouteConfig {
        pattern: (*host).into(),
        relay: vec![format!("127.0.0.1:{}", place.max(1))],
        tls: None,
        username: None,
        password_file: None,
    };
    let fixed: Vec<RouteConfig> = HOSTS.iter().enumerate().map(relay).collect();
    let dns = DnsConfig { nameservers: vec![([127, 0, 0, 1], 9).into()], ..DnsConfig::default() };
    let router = Router::new(&dns, &DeliveryConfig::default(), &fixed).expect("the routes are well formed");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let hosts = HOSTS.iter().map(|host| AddressHost::Domain(host.parse().expect("a domain")));
    let route = |host: AddressHost| {
        let route = runtime.block_on(router.route(&host)).expect("a fixed route asks nobody");
        (host, route)
    };
    hosts.map(route).collect()
}

/// So many hosts, each a site of its own.
#[cfg(test)]
pub(in crate::queue) fn literals(count: u32) -> Vec<(AddressHost, Arc<Route>)> {
    let dns = DnsConfig { nameservers: vec![([127, 0, 0, 1], 9).into()], ..DnsConfig::default() };
    let router = Router::new(&dns, &DeliveryConfig::default(), &[]).expect("there is nothing to be wrong");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let route = |n: u32| {
        let host = AddressHost::Literal(std::net::Ipv4Addr::from_bits(0x0b00_0000 + n).into());
        let route = runtime.block_on(router.route(&host)).expect("a literal asks nobody");
        (host, route)
    };
    (0..count).map(route).collect()
}

/// Routes to so many sites.
#[cfg(test)]
pub(in crate::queue) fn relays(count: u16) -> Vec<Arc<Route>> {
    let relay = |port: u16| RouteConfig {
        pattern: format!("h{port}.example"),
        relay: vec![format!("127.0.0.1:{port}")],
        tls: None,
        username: None,
        password_file: None,
    };
    let relays: Vec<RouteConfig> = (1..=count).map(relay).collect();
    let dns = DnsConfig { nameservers: vec![([127, 0, 0, 1], 9).into()], ..DnsConfig::default() };
    let router = Router::new(&dns, &DeliveryConfig::default(), &relays).expect("the routes are well formed");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let route = |relay: &RouteConfig| {
        let host = AddressHost::Domain(relay.pattern.parse().expect("a domain"));
        runtime.block_on(router.route(&host)).expect("a fixed route asks nobody")
    };
    relays.iter().map(route).collect()
}

thread_local! {
    /// Made once a thread: a resolver reads files.
    pub(super) static ROUTES: HashMap<AddressHost, Arc<Route>> = routes();
}

/// A host and the way there.
#[cfg(test)]
pub(in crate::queue) fn a_route() -> (AddressHost, Arc<Route>) {
    let host = AddressHost::Domain(HOSTS[0].parse().expect("a domain"));
    let route = ROUTES.with(|routes| Arc::clone(&routes[&host]));
    (host, route)
}
