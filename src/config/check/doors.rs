//! `[submission]` and where else we listen: addresses that get in each other's way, limits that fit, certificates.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;

use super::Check;
use crate::config::doors::DoorLimits;
use crate::config::{Api, ApiConfig, ByteSize, Config};

/// The longest path of a Unix socket in octets (`sun_path` on Linux, without the NUL at its end).
pub const UNIX_PATH_MAX: usize = 107;

/// The largest message that any door may let in.
const MESSAGE_MAX: ByteSize = ByteSize(1 << 30);

impl Check<'_> {
    pub(super) fn listeners(&mut self, config: &Config) {
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

    pub(super) fn submission(&mut self, config: &Config) {
        let smtp = &config.submission.smtp;
        let key = |name: &str| format!("submission.smtp.{name}");
        self.trusted(&key, &smtp.trusted_networks);
        self.door(&key, smtp.limits(), MESSAGE_MAX);
        self.not_zero(&key("commands_max"), smtp.commands_max);
        self.dialogue(&key, smtp.line_length_max, smtp.errors_max, smtp.idle_timeout);
        if (1..100).contains(&smtp.recipients_max) {
            let why = "RFC 5321 §4.5.3.1.8 lets clients expect 100";
            self.warning(&key("recipients_max"), why, "raise it to at least 100");
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

    /// What holds for every listener that speaks SMTP.
    pub(in crate::config) fn dialogue(
        &mut self,
        key: &dyn Fn(&str) -> String,
        line_length_max: usize,
        errors_max: u32,
        idle_timeout: Duration,
    ) {
        self.not_zero(&key("errors_max"), errors_max.into());
        self.lasts(&key("idle_timeout"), idle_timeout);
        if line_length_max < 998 {
            let why = "RFC 5322 §2.1.1 lets clients send lines of 998 octets";
            self.error(&key("line_length_max"), why, "raise it to at least 998");
        }
    }

    /// What holds for every door; no message may be larger than `most`.
    pub(in crate::config) fn door(&mut self, key: &dyn Fn(&str) -> String, limits: DoorLimits, most: ByteSize) {
        let DoorLimits { max_message_size: message, memory_max: memory, .. } = limits;
        self.not_zero(&key("recipients_max"), limits.recipients_max as u64);
        self.not_zero(&key("connections_max"), limits.connections_max as u64);
        self.not_zero(&key("connections_per_client_max"), limits.connections_per_client_max as u64);
        self.not_zero(&key("max_message_size"), message.0);
        if message > most {
            let why = format!("{message} is more than the {most} a message may have");
            self.error(&key("max_message_size"), why, "lower it");
        }
        // There is memory for at least one message.
        if memory < message {
            let why = format!("{memory} has no room for one message of max_message_size");
            self.error(&key("memory_max"), why, format!("raise it to at least {message}"));
        }
    }

    fn trusted(&mut self, key: &dyn Fn(&str) -> String, networks: &[IpNet]) {
        for (index, network) in networks.iter().enumerate() {
            if network.prefix_len() == 0 {
                let why = "everybody who reaches the port may send mail through this host";
                self.warning(&key(&format!("trusted_networks[{index}]")), why, "list the networks of your clients");
            }
        }
    }

    pub(in crate::config) fn certificate(
        &mut self,
        key: &dyn Fn(&str) -> String,
        cert: Option<&Path>,
        private: Option<&Path>,
    ) {
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

    pub(super) fn api<A: Api>(&mut self, api: &ApiConfig<A>) {
        let key = |name: &str| format!("submission.{}.{name}", A::NAME);
        self.trusted(&key, &api.trusted_networks);
        self.door(&key, api.limits(), MESSAGE_MAX);
        self.lasts(&key("unread_timeout"), api.unread_timeout);
        self.certificate(&key, api.tls_cert_file.as_deref(), api.tls_key_file.as_deref());
        self.client_authorities(&key, api.tls_client_ca_file.as_deref(), api.tls_cert_file.is_some());
    }

    pub(super) fn unix_sockets(&mut self, config: &Config) {
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
}

/// Whether one of two listeners would find the other in its place.
fn overlap(one: &SocketAddr, other: &SocketAddr) -> bool {
    let covers = |a: IpAddr, b: IpAddr| a.is_unspecified() && a.is_ipv4() == b.is_ipv4();
    let (a, b) = (one.ip(), other.ip());
    one.port() == other.port() && (a == b || covers(a, b) || covers(b, a))
}
