//! `[[source]]`, `[[pool]]`, `[[egress]]`: names that mean something, addresses that are ours.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use super::Check;
use crate::config::problem::nearest;
use crate::config::{Config, DEFAULT, POOL_SOURCES_MAX, ProxyKind, Scope, SourceConfig};

/// The longest user name or password of a SOCKS5 proxy (RFC 1929 §2), in octets.
const SOCKS_WORD_MAX: usize = 255;

impl Check<'_> {
    pub(super) fn sources(&mut self, config: &Config) {
        for (index, source) in config.source.iter().enumerate() {
            let key = |name: &str| format!("source[{index}].{name}");
            self.name(&key("name"), &source.name, config.source[..index].iter().map(|other| other.name.as_str()));
            if source.name == DEFAULT {
                let why = "\"default\" is the source there is when none is configured";
                self.error(&key("name"), why, "give it another name");
            }
            if let Some(ehlo) = source.ehlo.as_ref().filter(|ehlo| !ehlo.as_str().contains('.')) {
                let why = format!("{ehlo} is not fully qualified; many receivers refuse such an EHLO name");
                self.warning(&key("ehlo"), why, "set the full name of the source's address");
            }
            self.addresses(config, index, source);
            self.proxy(source, &key);
        }
        for (index, address) in config.delivery.source_addresses.iter().enumerate() {
            self.address(&format!("delivery.source_addresses[{index}]"), *address, false);
        }
        if !config.delivery.source_addresses.is_empty() && default_has_sources(config) {
            let why = "the pool \"default\" has sources of its own, so nothing is sent from these";
            self.warning("delivery.source_addresses", why, "remove them, or make them a [[source]]");
        }
    }

    fn addresses(&mut self, config: &Config, index: usize, source: &SourceConfig) {
        let local = source.proxy.is_none();
        for (place, address) in source.addresses.iter().enumerate() {
            let key = format!("source[{index}].addresses[{place}]");
            self.address(&key, *address, !local);
            let taken = |other: &&SourceConfig| other.proxy == source.proxy && other.addresses.contains(address);
            if let Some(other) = config.source[..index].iter().find(taken) {
                let why =
                    format!("{address} is also an address of {:?}: receivers cannot tell the two apart", other.name);
                self.warning(&key, why, "give each source addresses of its own");
            }
        }
    }

    /// An address to send from; `elsewhere`: on another host than this.
    fn address(&mut self, key: &str, address: IpAddr, elsewhere: bool) {
        if address.is_unspecified() || address.is_multicast() {
            let whose = if elsewhere { "the proxy's" } else { "this host's" };
            let why = format!("{address} is no address to send from");
            return self.error(key, why, format!("write one of {whose}"));
        }
        if !elsewhere && UdpSocket::bind(SocketAddr::new(address, 0)).is_err() {
            let why =
                format!("{address} is no address of this host at present, and nothing is sent from it until it is");
            self.warning(key, why, "add it to an interface, or correct it");
        }
    }

    fn proxy(&mut self, source: &SourceConfig, key: &dyn Fn(&str) -> String) {
        if source.proxy.is_some_and(|proxy| proxy.kind == ProxyKind::Haproxy) && source.addresses.is_empty() {
            let why = "the forwarder must be told which of its addresses to send from";
            self.error(&key("proxy"), why, "set addresses");
        }
        match (&source.username, &source.password_file) {
            (None, None) => return,
            (Some(_), None) => self.error(&key("username"), "a user without password", "set password_file too"),
            (None, Some(_)) => self.error(&key("password_file"), "a password without user", "set username too"),
            (Some(_), Some(file)) => self.readable(&key("password_file"), file, true),
        }
        let name = if source.username.is_some() { "username" } else { "password_file" };
        match source.proxy {
            Some(proxy) if proxy.kind == ProxyKind::Socks5 => {}
            Some(_) => self.error(&key(name), "a forwarder asks for no user", "remove it"),
            None => self.error(&key(name), "there is no proxy to ask for it", "set proxy, or remove it"),
        }
        if source.username.as_ref().is_some_and(|user| user.is_empty() || user.len() > SOCKS_WORD_MAX) {
            self.error(&key("username"), "RFC 1929 §2 wants 1 to 255 octets", "correct it");
        }
    }

    pub(super) fn pools(&mut self, config: &Config) {
        let known: Vec<&str> = config.source.iter().map(|source| source.name.as_str()).collect();
        for (index, pool) in config.pool.iter().enumerate() {
            let key = |name: &str| format!("pool[{index}].{name}");
            self.name(&key("name"), &pool.name, config.pool[..index].iter().map(|other| other.name.as_str()));
            match pool.sources.len() {
                0 => self.error(&key("sources"), "no source to send from", "name at least one: { name = 1 }"),
                len if len > POOL_SOURCES_MAX => {
                    let why = format!("{len} sources are more than the {POOL_SOURCES_MAX} a pool may have");
                    self.error(&key("sources"), why, "make several pools of it");
                }
                _ => {}
            }
            for (source, weight) in &pool.sources {
                let key = key(&format!("sources.{source}"));
                if !known.contains(&source.as_str()) {
                    self.unknown(&key, "source", source, &known);
                }
                if *weight == 0 {
                    self.error(&key, "0 gives it nothing to send", "leave it out, or give it a weight of at least 1");
                }
            }
            let chosen = config.egress.iter().any(|rule| rule.pool == pool.name);
            if !chosen && pool.name != DEFAULT {
                self.warning(&key("name"), "no [[egress]] sends anything by it", "add one, or remove the pool");
            }
        }
        let listed: HashSet<&str> =
            config.pool.iter().flat_map(|pool| pool.sources.keys().map(String::as_str)).collect();
        let has_default = config.pool.iter().any(|pool| pool.name == DEFAULT);
        for (index, source) in config.source.iter().enumerate() {
            if has_default && !listed.contains(source.name.as_str()) {
                let why = "no pool has it, so nothing is sent from it";
                self.warning(&format!("source[{index}].name"), why, "add it to a pool, or remove it");
            }
        }
    }

    pub(super) fn egress(&mut self, config: &Config) {
        let mut known: Vec<&str> = config.pool.iter().map(|pool| pool.name.as_str()).collect();
        known.push(DEFAULT);
        for (index, rule) in config.egress.iter().enumerate() {
            let key = |name: &str| format!("egress[{index}].{name}");
            if !known.contains(&rule.pool.as_str()) {
                self.unknown(&key("pool"), "pool", &rule.pool, &known);
            }
        }
        let scopes: Vec<&Scope> = config.egress.iter().map(|rule| &rule.scope).collect();
        self.of_streams("egress", &scopes, "the pool is chosen by stream, before it is known where the mail goes");
    }

    /// Rows of `table` about streams, of which the first that matches counts. `why` no row is about anything else.
    pub(in crate::config) fn of_streams(&mut self, table: &str, scopes: &[&Scope], why: &str) {
        for (index, scope) in scopes.iter().enumerate() {
            let others = [
                ("provider", &scope.provider),
                ("site", &scope.site),
                ("domain", &scope.domain),
                ("source", &scope.source),
                ("pool", &scope.pool),
            ];
            for (name, _) in others.iter().filter(|(_, value)| value.is_some()) {
                self.error(&format!("{table}[{index}].match.{name}"), why, "use tenant, class and campaign");
            }
            if let Some(earlier) = scopes[..index].iter().position(|earlier| covers(earlier, scope)) {
                let why = format!("{table}[{earlier}] takes all of it first");
                self.warning(&format!("{table}[{index}]"), why, "move this rule up, or remove it");
            }
        }
    }

    /// A plan for a source that is not there would warm up nothing.
    pub(super) fn warmup_sources(&mut self, config: &Config) {
        let mut known: Vec<&str> = config.source.iter().map(|source| source.name.as_str()).collect();
        if !default_has_sources(config) {
            known.push(DEFAULT);
        }
        for (index, plan) in config.warmup.iter().enumerate() {
            if !known.contains(&plan.source.as_str()) {
                self.unknown(&format!("warmup[{index}].source"), "source", &plan.source, &known);
            }
        }
    }

    /// A name that can stand in metrics, paths and files, and is there once.
    fn name<'a>(&mut self, key: &str, name: &str, mut earlier: impl Iterator<Item = &'a str>) {
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        if name.is_empty() || name.len() > 64 || !name.bytes().all(fits) {
            let why = format!("{name:?} is no name");
            self.error(key, why, "use 1 to 64 letters, digits, dots, hyphens and underscores");
        } else if earlier.any(|other| other == name) {
            self.error(key, format!("{name:?} is there twice"), "give each a name of its own");
        }
    }

    fn unknown(&mut self, key: &str, what: &str, name: &str, known: &[&str]) {
        let remedy = match nearest(name, known) {
            Some(meant) => format!("did you mean {meant:?}?"),
            None => format!("add a [[{what}]] of that name, or correct it"),
        };
        self.error(key, format!("there is no {what} {name:?}"), remedy);
    }
}

/// Whether the pool `default` has sources, configured or left over.
fn default_has_sources(config: &Config) -> bool {
    let listed = |name: &String| config.pool.iter().any(|pool| pool.sources.contains_key(name));
    config.pool.iter().any(|pool| pool.name == DEFAULT) || config.source.iter().any(|source| !listed(&source.name))
}

/// Whether the earlier rule takes whatever the later one could.
fn covers(earlier: &Scope, later: &Scope) -> bool {
    let name = |earlier: &Option<String>, later: &Option<String>| match (earlier, later) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(earlier), Some(later)) => earlier.eq_ignore_ascii_case(later),
    };
    name(&earlier.tenant, &later.tenant)
        && name(&earlier.campaign, &later.campaign)
        && (earlier.class.is_none() || earlier.class == later.class)
}
