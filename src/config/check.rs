//! What serde cannot see: values that contradict each other, the RFCs, or the machine.

mod doors;
mod egress;
mod providers;

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use humantime_serde::re::humantime::format_duration;

pub use doors::UNIX_PATH_MAX;

use super::load::Places;
use super::problem::{Problem, Severity};
use super::{
    ByteSize, Config, RouteConfig, TlsPolicy, hostname, inbound, reports, reputation, suppression, unsubscribe,
};
use crate::mail::Domain;

/// Everything about `config` that is wrong or looks so.
pub(super) fn problems(config: &Config, places: &Places, file: &Path) -> Vec<Problem> {
    let mut check = Check { places, file, problems: Vec::new() };
    check.host(config, &hostname::system_name());
    check.listeners(config);
    check.submission(config);
    check.api(&config.submission.grpc);
    check.api(&config.submission.http);
    check.unix_sockets(config);
    check.spool(config);
    check.delivery(config);
    check.retry(config);
    check.routes(config);
    check.sources(config);
    check.pools(config);
    check.egress(config);
    check.dkim(config);
    check.limits(config);
    check.reputation(config);
    reports::check(&mut check, config);
    inbound::check(&mut check, config);
    unsubscribe::check(&mut check, config);
    for (severity, key, why, remedy) in suppression::problems(&config.suppression) {
        check.add(severity, key, why, remedy.into());
    }
    check.problems
}

pub(super) struct Check<'a> {
    pub(super) places: &'a Places,
    file: &'a Path,
    problems: Vec<Problem>,
}

impl Check<'_> {
    pub(super) fn error(&mut self, key: &str, why: impl Into<String>, remedy: impl Into<String>) {
        self.add(Severity::Error, key, why.into(), remedy.into());
    }

    pub(super) fn warning(&mut self, key: &str, why: impl Into<String>, remedy: impl Into<String>) {
        self.add(Severity::Warning, key, why.into(), remedy.into());
    }

    /// What is wrong in another file.
    pub(super) fn report(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    fn add(&mut self, severity: Severity, key: &str, why: String, remedy: String) {
        let line = self.places.line(key);
        self.problems.push(Problem { file: self.file.into(), line, severity, key: key.into(), why, remedy });
    }

    pub(super) fn not_zero(&mut self, key: &str, value: u64) {
        if value == 0 {
            self.error(key, "0 lets nothing through", "set a limit of at least 1");
        }
    }

    pub(super) fn lasts(&mut self, key: &str, value: Duration) {
        if value.is_zero() {
            self.error(key, "0s leaves no time at all", "set a longer time");
        }
    }

    /// `low` must not be more than `high`.
    fn ordered(&mut self, key: &str, low: Duration, high_key: &str, high: Duration) {
        if low > high {
            let name = high_key.rsplit('.').next().unwrap_or(high_key);
            let why = format!("{} is longer than {name} ({})", format_duration(low), format_duration(high));
            self.error(key, why, format!("lower it or raise {name}"));
        }
    }

    /// A file that will be read. `secret`: others should not be able to.
    pub(super) fn readable(&mut self, key: &str, file: &Path, secret: bool) {
        let opened = std::fs::File::open(file).and_then(|open| open.metadata());
        match opened {
            Err(why) => {
                let why = format!("cannot read {}: {why}", file.display());
                self.error(key, why, "correct the path, or let the daemon's user read the file");
            }
            Ok(metadata) if !metadata.is_file() => {
                self.error(key, format!("{} is no file", file.display()), "name a file");
            }
            Ok(metadata) if secret && metadata.permissions().mode() & 0o007 != 0 => {
                let why = format!("every user of this host can read the secret in {}", file.display());
                self.warning(key, why, "chmod 0640 it");
            }
            Ok(_) => {}
        }
    }

    fn host(&mut self, config: &Config, system: &str) {
        match hostname::resolve(config.hostname.as_ref(), system) {
            Err(error) => {
                let why = format!("not set, and the system's host name {system:?} is none ({})", error.why);
                self.error("hostname", why, "set it to this host's full name, as in \"mta1.example.net\"");
            }
            Ok(name) if !name.as_str().contains('.') => {
                let why = format!("{name} is not fully qualified; many receivers refuse such an EHLO name");
                self.warning("hostname", why, "set this host's full name, as in \"mta1.example.net\"");
            }
            Ok(_) => {}
        }
        if !config.data_dir.is_absolute() {
            let why = format!("{} depends on where the daemon is started", config.data_dir.display());
            self.error("data_dir", why, "write an absolute path");
        } else if config.data_dir.exists() && !config.data_dir.is_dir() {
            self.error("data_dir", format!("{} is no directory", config.data_dir.display()), "name a directory");
        }
    }

    fn spool(&mut self, config: &Config) {
        let (least, most) = (ByteSize(1 << 20), ByteSize(1 << 30));
        let size = config.spool.segment_size;
        if size < least || size > most {
            let why = format!("{size} is not within {least} and {most}");
            self.error("spool.segment_size", why, "64MiB suits nearly everybody");
        }
        self.not_zero("spool.recipients_max", config.spool.recipients_max as u64);
        self.not_zero("events.rotate_size", config.events.rotate_size.0);
        self.not_zero("dns.cache_entries", config.dns.cache_entries as u64);
        self.lasts("dns.timeout", config.dns.timeout);
        for (index, server) in config.dns.nameservers.iter().enumerate() {
            if server.port() == 0 {
                self.error(&format!("dns.nameservers[{index}]"), "port 0 is none", "write the port: it is mostly 53");
            }
        }
    }

    fn delivery(&mut self, config: &Config) {
        let delivery = &config.delivery;
        let key = |name: &str| format!("delivery.{name}");
        if delivery.port == 0 {
            self.error(&key("port"), "port 0 is none", "receivers listen on 25");
        }
        self.not_zero(&key("connections_max"), delivery.connections_max as u64);
        self.not_zero(&key("connections_per_site"), delivery.connections_per_site as u64);
        self.not_zero(&key("messages_per_connection"), delivery.messages_per_connection.into());
        self.not_zero(&key("recipients_per_transaction"), delivery.recipients_per_transaction as u64);
        self.not_zero(&key("memory_max"), delivery.memory_max.0);
        if delivery.connections_per_site > delivery.connections_max {
            let why = format!("{} can never be reached", delivery.connections_per_site);
            let remedy = format!("lower it to connections_max ({}) or less", delivery.connections_max);
            self.warning(&key("connections_per_site"), why, remedy);
        }
        self.lasts(&key("site_pause_min"), delivery.site_pause_min);
        let pauses = (delivery.site_pause_min, delivery.site_pause_max);
        self.ordered(&key("site_pause_min"), pauses.0, "delivery.site_pause_max", pauses.1);
        let timeout = &delivery.timeout;
        for (name, value) in [
            ("connect", timeout.connect),
            ("greeting", timeout.greeting),
            ("ehlo", timeout.ehlo),
            ("tls", timeout.tls),
            ("envelope", timeout.envelope),
            ("data_start", timeout.data_start),
            ("data_block", timeout.data_block),
            ("data_end", timeout.data_end),
        ] {
            self.lasts(&key(&format!("timeout.{name}")), value);
        }
        if timeout.data_end < Duration::from_secs(600) && !timeout.data_end.is_zero() {
            let why = "a receiver that takes longer gets the message twice (RFC 5321 §4.5.3.2.6 asks 10 minutes)";
            self.warning(&key("timeout.data_end"), why, "raise it to 10m");
        }
    }

    fn retry(&mut self, config: &Config) {
        let retry = &config.retry;
        self.lasts("retry.delay_min", retry.delay_min);
        self.ordered("retry.delay_min", retry.delay_min, "retry.delay_max", retry.delay_max);
        if retry.expire_after < retry.delay_min {
            let why = format!(
                "{} is over before the second attempt (delay_min {})",
                format_duration(retry.expire_after),
                format_duration(retry.delay_min)
            );
            self.error("retry.expire_after", why, "raise it; RFC 5321 §4.5.4.1 asks 4 to 5 days");
        }
    }

    fn reputation(&mut self, config: &Config) {
        let problems = [reputation::brake_problems(&config.brake), reputation::warmup_problems(&config.warmup)];
        for (severity, key, why, remedy) in problems.into_iter().flatten() {
            self.add(severity, &key, why, remedy.into());
        }
        self.warmup_sources(config);
    }

    fn routes(&mut self, config: &Config) {
        let mut seen: Vec<&str> = Vec::new();
        for (index, route) in config.route.iter().enumerate() {
            let key = |name: &str| format!("route[{index}].{name}");
            let pattern = route.pattern.as_str();
            let domain = pattern.strip_prefix("*.").unwrap_or(pattern);
            if pattern != "*" && domain.parse::<Domain>().is_err() {
                let why = format!("{pattern:?} matches nothing");
                self.error(&key("match"), why, "write a domain, \"*.domain\" for all below it, or \"*\"");
            }
            if let Some(earlier) = seen.iter().find(|earlier| **earlier == "*" || **earlier == pattern) {
                let why = format!("the route for {earlier:?} above takes all of it first");
                self.warning(&key("match"), why, "move this route up, or remove it");
            }
            seen.push(pattern);
            if route.relay.is_empty() {
                self.error(&key("relay"), "no host to send to", "list at least one \"HOST:PORT\"");
            }
            for (place, relay) in route.relay.iter().enumerate() {
                if let Err(why) = relay_host(relay) {
                    let remedy = "write \"HOST:PORT\", \"IP:PORT\" or \"[IPv6]:PORT\"";
                    self.error(&key(&format!("relay[{place}]")), why, remedy);
                }
            }
            self.credentials(config, route, &key);
        }
    }

    fn credentials(&mut self, config: &Config, route: &RouteConfig, key: &dyn Fn(&str) -> String) {
        match (&route.username, &route.password_file) {
            (None, None) => return,
            (Some(_), None) => self.error(&key("username"), "a user without password", "set password_file too"),
            (None, Some(_)) => self.error(&key("password_file"), "a password without user", "set username too"),
            (Some(_), Some(file)) => self.readable(&key("password_file"), file, true),
        }
        // `required` takes any certificate: whoever stands in between would get the password.
        let safe = route.tls.unwrap_or(config.delivery.tls) == TlsPolicy::Verified;
        let stays_here = route.relay.iter().all(|relay| relay_host(relay).is_ok_and(|host| host.is_loopback()));
        if !safe && !stays_here {
            let why = "the password could go to somebody in between";
            self.error(&key("username"), why, "set tls = \"verified\" in this route");
        }
    }

    fn dkim(&mut self, config: &Config) {
        for (index, dkim) in config.dkim.iter().enumerate() {
            let key = |name: &str| format!("dkim[{index}].{name}");
            let name = format!("{}._domainkey.{}", dkim.selector, dkim.domain);
            if dkim.selector.parse::<Domain>().is_err() && !dkim.selector.bytes().all(|b| b.is_ascii_digit())
                || name.len() > 253
                || dkim.selector.is_empty()
            {
                let why = format!("{:?} cannot stand in the name of a DNS record", dkim.selector);
                self.error(&key("selector"), why, "use letters, digits, hyphens and dots, as in \"s1\"");
            }
            let same = |other: &&super::DkimConfig| other.domain == dkim.domain && other.selector == dkim.selector;
            if config.dkim[..index].iter().any(|other| same(&other)) {
                let why = format!("{name} is there twice");
                self.error(&key("selector"), why, "give each key a selector of its own");
            }
            self.readable(&key("key_file"), &dkim.key_file, true);
        }
    }
}

enum RelayHost {
    Address(IpAddr),
    Name(Domain),
}

impl RelayHost {
    fn is_loopback(&self) -> bool {
        match self {
            RelayHost::Address(ip) => ip.is_loopback(),
            RelayHost::Name(name) => name.as_str() == "localhost",
        }
    }
}

/// The host of `HOST:PORT`, or what is wrong with it.
fn relay_host(relay: &str) -> Result<RelayHost, String> {
    let (host, port) = match relay.parse::<SocketAddr>() {
        Ok(address) => (RelayHost::Address(address.ip()), address.port()),
        Err(_) => {
            let (host, port) = relay.rsplit_once(':').ok_or_else(|| format!("{relay:?} has no port"))?;
            let port = port.parse().map_err(|_| format!("{relay:?} has no valid port"))?;
            (RelayHost::Name(host.parse().map_err(|why| format!("{relay:?}: {why}"))?), port)
        }
    };
    if port == 0 { Err(format!("{relay:?} has port 0")) } else { Ok(host) }
}
