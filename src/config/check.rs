//! What serde cannot see: values that contradict each other, the RFCs, or the machine.

mod egress;

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use humantime_serde::re::humantime::format_duration;

use super::load::Places;
use super::problem::{Problem, Severity};
use super::{
    Api, ApiConfig, ByteSize, Config, RouteConfig, TlsPolicy, hostname, inbound, reputation, suppression, unsubscribe,
};
use crate::mail::Domain;

/// The longest path of a Unix socket in octets (`sun_path` on Linux, without the NUL at its end).
pub const UNIX_PATH_MAX: usize = 107;

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

    fn listeners(&mut self, config: &Config) {
        let doors = &config.submission;
        let all = [
            ("smtp.listen", &doors.smtp.listen),
            ("smtp.listen_tls", &doors.smtp.listen_tls),
            ("grpc.listen", &doors.grpc.listen),
            ("http.listen", &doors.http.listen),
        ];
        let mut listeners: Vec<(String, SocketAddr)> = Vec::new();
        for (key, addresses) in all {
            let named = addresses.iter().enumerate();
            listeners.extend(named.map(|(index, address)| (format!("submission.{key}[{index}]"), *address)));
        }
        let inbound = config.inbound.listen.iter().enumerate();
        listeners.extend(inbound.map(|(index, address)| (format!("inbound.listen[{index}]"), *address)));
        listeners.push(("admin.listen".into(), config.admin.listen));
        for (index, (key, address)) in listeners.iter().enumerate() {
            if address.port() == 0 {
                self.error(key, "port 0 is none that a client could know", "write the port, as in 127.0.0.1:2525");
            } else if let Some((other, taken)) = listeners[..index].iter().find(|(_, one)| overlap(one, address)) {
                let why = format!("{address} is taken by {other} ({taken})");
                self.error(key, why, "use another port or address");
            }
        }
        let sockets = doors.grpc.listen_unix.iter().chain(&doors.http.listen_unix).count();
        if all.iter().all(|(_, addresses)| addresses.is_empty()) && sockets == 0 {
            self.warning("submission.smtp.listen", "there is no door for mail", "list at least one address");
        }
        if !config.admin.listen.ip().is_loopback() {
            let why = format!("whoever reaches {} may steer the queue", config.admin.listen);
            self.warning("admin.listen", why, "listen on 127.0.0.1, or keep the port behind a firewall");
        }
    }

    fn submission(&mut self, config: &Config) {
        let smtp = &config.submission.smtp;
        let key = |name: &str| format!("submission.smtp.{name}");
        for (index, network) in smtp.trusted_networks.iter().enumerate() {
            if network.prefix_len() == 0 {
                let why = "everybody who reaches the port may send mail through this host";
                self.warning(&key(&format!("trusted_networks[{index}]")), why, "list the networks of your clients");
            }
        }
        self.not_zero(&key("max_message_size"), smtp.max_message_size.0);
        self.not_zero(&key("recipients_max"), smtp.recipients_max as u64);
        self.not_zero(&key("commands_max"), smtp.commands_max);
        self.not_zero(&key("errors_max"), smtp.errors_max.into());
        self.not_zero(&key("connections_max"), smtp.connections_max as u64);
        self.not_zero(&key("connections_per_client_max"), smtp.connections_per_client_max as u64);
        self.lasts(&key("idle_timeout"), smtp.idle_timeout);
        if smtp.max_message_size > ByteSize(1 << 30) {
            let why = format!("{} is more than the 1GiB a message may have", smtp.max_message_size);
            self.error(&key("max_message_size"), why, "lower it");
        }
        if smtp.memory_max < smtp.max_message_size {
            let why = format!("{} has no room for one message of max_message_size", smtp.memory_max);
            self.error(&key("memory_max"), why, format!("raise it to at least {}", smtp.max_message_size));
        }
        if (1..100).contains(&smtp.recipients_max) {
            let why = "RFC 5321 §4.5.3.1.8 lets clients expect 100";
            self.warning(&key("recipients_max"), why, "raise it to at least 100");
        }
        if smtp.line_length_max < 998 {
            let why = "RFC 5322 §2.1.1 lets clients send lines of 998 octets";
            self.error(&key("line_length_max"), why, "raise it to at least 998");
        }
        for (index, network) in smtp.auth_without_tls.iter().enumerate() {
            if !network.network().is_loopback() {
                let why = format!("passwords from {network} can be read on the way");
                let key = key(&format!("auth_without_tls[{index}]"));
                self.warning(&key, why, "remove it, and let these clients say STARTTLS");
            }
        }
        if smtp.tls_cert_file.is_none() && smtp.tls_key_file.is_none() && !smtp.listen_tls.is_empty() {
            self.error(&key("listen_tls"), "TLS without a certificate", "set tls_cert_file and tls_key_file");
        }
        self.certificate(&key, smtp.tls_cert_file.as_deref(), smtp.tls_key_file.as_deref());
        self.client_authorities(&key, smtp.tls_client_ca_file.as_deref(), smtp.tls_cert_file.is_some());
    }

    pub(super) fn certificate(&mut self, key: &dyn Fn(&str) -> String, cert: Option<&Path>, private: Option<&Path>) {
        match (cert, private) {
            (None, None) => {}
            (Some(cert), Some(private)) => {
                self.readable(&key("tls_cert_file"), cert, false);
                self.readable(&key("tls_key_file"), private, true);
            }
            (Some(_), None) => {
                self.error(&key("tls_cert_file"), "a certificate without its key", "set tls_key_file too");
            }
            (None, Some(_)) => {
                self.error(&key("tls_key_file"), "a key without its certificate", "set tls_cert_file too");
            }
        }
    }

    fn client_authorities(&mut self, key: &dyn Fn(&str) -> String, file: Option<&Path>, tls: bool) {
        let Some(file) = file else { return };
        self.readable(&key("tls_client_ca_file"), file, false);
        if !tls {
            let why = "client certificates need TLS, and there is no certificate of our own";
            self.error(&key("tls_client_ca_file"), why, "set tls_cert_file and tls_key_file too");
        }
    }

    fn api<A: Api>(&mut self, api: &ApiConfig<A>) {
        let key = |name: &str| format!("submission.{}.{name}", A::NAME);
        for (index, network) in api.trusted_networks.iter().enumerate() {
            if network.prefix_len() == 0 {
                let why = "everybody who reaches the port may send mail through this host";
                self.warning(&key(&format!("trusted_networks[{index}]")), why, "list the networks of your clients");
            }
        }
        self.not_zero(&key("max_message_size"), api.max_message_size.0);
        self.not_zero(&key("recipients_max"), api.recipients_max as u64);
        self.not_zero(&key("connections_max"), api.connections_max as u64);
        self.not_zero(&key("connections_per_client_max"), api.connections_per_client_max as u64);
        self.lasts(&key("unread_timeout"), api.unread_timeout);
        if api.max_message_size > ByteSize(1 << 30) {
            let why = format!("{} is more than the 1GiB a message may have", api.max_message_size);
            self.error(&key("max_message_size"), why, "lower it");
        }
        if api.memory_max < api.max_message_size {
            let why = format!("{} has no room for one message of max_message_size", api.memory_max);
            self.error(&key("memory_max"), why, format!("raise it to at least {}", api.max_message_size));
        }
        self.certificate(&key, api.tls_cert_file.as_deref(), api.tls_key_file.as_deref());
        self.client_authorities(&key, api.tls_client_ca_file.as_deref(), api.tls_cert_file.is_some());
    }

    fn unix_sockets(&mut self, config: &Config) {
        let doors = &config.submission;
        let mut seen: Vec<(String, &Path)> = Vec::new();
        for (door, paths) in [("grpc", &doors.grpc.listen_unix), ("http", &doors.http.listen_unix)] {
            for (index, path) in paths.iter().enumerate() {
                let key = format!("submission.{door}.listen_unix[{index}]");
                let length = path.as_os_str().len();
                if !path.is_absolute() {
                    let why = format!("{} depends on where the daemon is started", path.display());
                    self.error(&key, why, "write an absolute path");
                } else if length > UNIX_PATH_MAX {
                    let why = format!("a Unix socket's path has at most {UNIX_PATH_MAX} octets, this has {length}");
                    self.error(&key, why, "use a shorter one, as in /run/posthaste/grpc.sock");
                } else if let Some((other, _)) = seen.iter().find(|(_, taken)| taken == path) {
                    let why = format!("{} is taken by {other}", path.display());
                    self.error(&key, why, "use another path");
                }
                seen.push((key, path));
            }
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

/// Whether one of two listeners would find the other in its place.
fn overlap(one: &SocketAddr, other: &SocketAddr) -> bool {
    let covers = |a: IpAddr, b: IpAddr| a.is_unspecified() && a.is_ipv4() == b.is_ipv4();
    let (a, b) = (one.ip(), other.ip());
    one.port() == other.port() && (a == b || covers(a, b) || covers(b, a))
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
