//! `[submission]`: the doors, each with what a client may ask of it, and what they have in common with `[inbound]`.

use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::ByteSize;

/// The struct of a door's table: its own keys, and those that every door for messages has, written once.
///
/// serde's `flatten` would do without a macro, but it forgets on which line a key stands and which keys there are; our
/// problems name both.
macro_rules! door {
    (
        $(#[$meta:meta])*
        pub struct $door:ident $(<$api:ident>)? { $($own:tt)* }
    ) => {
        $(#[$meta])*
        pub struct $door $(<$api>)? {
            /// Addresses to listen on; empty: none.
            pub listen: Vec<SocketAddr>,
            /// Largest message accepted, headers included.
            pub max_message_size: ByteSize,
            /// Recipients of one message: in one transaction or request.
            pub recipients_max: usize,
            /// Connections at once, in all.
            pub connections_max: usize,
            /// Connections at once from one client address.
            pub connections_per_client_max: usize,
            /// Memory that messages being received may take together; beyond it they are refused for a while.
            pub memory_max: ByteSize,
            /// PEM chain; without it there is no TLS.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub tls_cert_file: Option<PathBuf>,
            /// PEM key.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub tls_key_file: Option<PathBuf>,
            $($own)*
        }

        impl $(<$api>)? $door $(<$api>)? {
            pub(in crate::config) fn limits(&self) -> DoorLimits {
                DoorLimits {
                    max_message_size: self.max_message_size,
                    recipients_max: self.recipients_max,
                    connections_max: self.connections_max,
                    connections_per_client_max: self.connections_per_client_max,
                    memory_max: self.memory_max,
                }
            }
        }
    };
}
pub(super) use door;

/// How much a door lets in.
#[derive(Debug, Clone, Copy)]
pub(super) struct DoorLimits {
    pub(super) max_message_size: ByteSize,
    pub(super) recipients_max: usize,
    pub(super) connections_max: usize,
    pub(super) connections_per_client_max: usize,
    pub(super) memory_max: ByteSize,
}

impl DoorLimits {
    /// Of a door for applications, unless the operator says otherwise.
    const SUBMISSION: DoorLimits = DoorLimits {
        max_message_size: ByteSize(50 << 20),
        recipients_max: 1000,
        connections_max: 1000,
        connections_per_client_max: 500,
        memory_max: ByteSize(256 << 20),
    };
}

/// `[submission]`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SubmissionConfig {
    /// The SMTP door.
    pub smtp: SmtpConfig,
    /// The gRPC door.
    pub grpc: GrpcConfig,
    /// The HTTP door.
    pub http: HttpConfig,
}

/// `[submission.grpc]`.
pub type GrpcConfig = ApiConfig<Grpc>;

/// `[submission.http]`.
pub type HttpConfig = ApiConfig<Http>;

/// Which door an [`ApiConfig`] is for.
pub trait Api {
    /// Its name: the table is `[submission.NAME]`.
    const NAME: &'static str;
    /// Where it listens unless the operator says otherwise.
    const PORT: u16;
}

/// The gRPC door.
#[derive(Debug, Clone, PartialEq)]
pub struct Grpc;

/// The HTTP door.
#[derive(Debug, Clone, PartialEq)]
pub struct Http;

impl Api for Grpc {
    const NAME: &'static str = "grpc";
    const PORT: u16 = 2580;
}

impl Api for Http {
    const NAME: &'static str = "http";
    const PORT: u16 = 2581;
}

door! {
    /// A door for requests: the same keys for gRPC and HTTP, which differ in their ports. With a certificate every TCP
    /// connection is TLS.
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields, bound(deserialize = "A: Api", serialize = ""))]
    pub struct ApiConfig<A> {
        /// Unix sockets to listen on.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pub listen_unix: Vec<PathBuf>,
        /// Clients that may submit without a token or certificate.
        pub trusted_networks: Vec<IpNet>,
        /// Users that may submit over a Unix socket without a token, by name or number.
        pub trusted_users: Vec<String>,
        /// A client that for this long takes nothing of the answers it asked for is given up.
        #[serde(with = "humantime_serde")]
        pub unread_timeout: Duration,
        /// PEM certificates of authorities whose client certificates name tenants.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub tls_client_ca_file: Option<PathBuf>,
        #[serde(skip)]
        #[doc(hidden)]
        pub door: PhantomData<A>,
    }
}

impl<A: Api> Default for ApiConfig<A> {
    fn default() -> ApiConfig<A> {
        let DoorLimits { max_message_size, recipients_max, connections_max, connections_per_client_max, memory_max } =
            DoorLimits::SUBMISSION;
        ApiConfig {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], A::PORT))],
            listen_unix: Vec::new(),
            trusted_networks: loopback(),
            trusted_users: vec!["root".into()],
            max_message_size,
            recipients_max,
            connections_max,
            connections_per_client_max,
            memory_max,
            unread_timeout: Duration::from_secs(120),
            tls_cert_file: None,
            tls_key_file: None,
            tls_client_ca_file: None,
            door: PhantomData,
        }
    }
}

door! {
    /// `[submission.smtp]`. Without a certificate there is no STARTTLS and no `listen_tls`.
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub struct SmtpConfig {
        /// Addresses where every connection begins with TLS (RFC 8314 §3.3).
        pub listen_tls: Vec<SocketAddr>,
        /// Clients that may submit without AUTH; all others must authenticate.
        pub trusted_networks: Vec<IpNet>,
        /// Clients that may authenticate without TLS: nobody listens on the way.
        pub auth_without_tls: Vec<IpNet>,
        /// Longest line of a message in octets, without CRLF (RFC 5322 §2.1.1).
        pub line_length_max: usize,
        /// Commands in one session.
        pub commands_max: u64,
        /// Refused or unknown commands in one session before it is cut off.
        pub errors_max: u32,
        /// A session that this long neither ends a command nor sends 4 KiB is closed.
        #[serde(with = "humantime_serde")]
        pub idle_timeout: Duration,
        /// PEM certificates of authorities whose client certificates name tenants.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub tls_client_ca_file: Option<PathBuf>,
    }
}

impl Default for SmtpConfig {
    fn default() -> SmtpConfig {
        let DoorLimits { max_message_size, recipients_max, connections_max, connections_per_client_max, memory_max } =
            DoorLimits::SUBMISSION;
        SmtpConfig {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 2525))],
            listen_tls: Vec::new(),
            trusted_networks: loopback(),
            auth_without_tls: loopback(),
            max_message_size,
            recipients_max,
            line_length_max: 998,
            commands_max: 1_000_000,
            errors_max: 20,
            connections_max,
            connections_per_client_max,
            idle_timeout: Duration::from_secs(300),
            memory_max,
            tls_cert_file: None,
            tls_key_file: None,
            tls_client_ca_file: None,
        }
    }
}

fn loopback() -> Vec<IpNet> {
    vec!["127.0.0.0/8".parse().expect("a network"), "::1/128".parse().expect("a network")]
}
