//! posthaste, an outbound mail engine. The modules stand in the order a message meets them; `ARCHITECTURE.md` tells the
//! way.

pub mod daemon;

pub mod submission;

pub mod inbound;

pub mod ledger;
pub mod log;
pub mod spool;

pub mod queue;

pub mod delivery;
pub mod feedback;
pub mod routing;
pub mod shaping;
pub mod signing;

pub mod access;
pub mod events;
pub mod suppression;

pub mod admin;
pub mod cli;
pub mod demo;

pub mod clock;
pub mod config;
pub mod mail;
pub mod telemetry;

/// Ways in for fuzz targets, the replay of their seeds and benchmarks. No part of the API: may change at any time.
#[doc(hidden)]
pub mod probe {
    use crate::{
        access, admin, cli, config, delivery, events, feedback, inbound, ledger, log, mail, queue, routing, shaping,
        signing, spool, submission, suppression,
    };

    /// Takes foreign octets; panics if what is promised of them does not hold.
    pub type Target = fn(&[u8]);

    /// Every target, by the name of its folder in `fuzz/seeds` and of its program in `fuzz/fuzz_targets`.
    pub const TARGETS: [(&str, Target); 41] = [
        ("address", mail::probe::address),
        ("domain", mail::probe::domain),
        ("header", |octets| _ = mail::probe::header(octets)),
        ("command", submission::probe::command),
        ("content", submission::probe::content),
        ("dialogue", submission::probe::dialogue),
        ("submission", submission::http::probe::submission),
        ("http", submission::http::probe::http),
        ("grpc", submission::grpc::probe::grpc),
        ("identity", submission::web::probe::identity),
        ("admin", admin::probe::admin),
        ("replies", delivery::probe::replies),
        ("capabilities", delivery::probe::capabilities),
        ("receiver", delivery::probe::receiver),
        ("receiver_auth", delivery::probe::receiver_auth),
        ("stuffing", delivery::probe::stuffing),
        ("socks", delivery::probe::socks),
        ("dns", routing::probe::dns),
        ("wait", shaping::probe::wait),
        ("envelope", spool::probe::envelope),
        ("state", spool::probe::state),
        ("segment", log::probe::segment),
        ("life", log::probe::life),
        ("disk", disk),
        ("operator", operator),
        ("import", suppression::probe::import),
        ("ledger", ledger::probe::record),
        ("config", config::probe::config),
        ("report", feedback::probe::report),
        ("bounce", feedback::probe::bounce),
        ("complaint", feedback::probe::complaint),
        ("cfbl", feedback::probe::cfbl),
        ("dmarc", feedback::probe::dmarc),
        ("tlsrpt", feedback::probe::tlsrpt),
        ("mime", feedback::probe::mime),
        ("mailbox", inbound::probe::mailbox),
        ("unsubscribe", inbound::probe::unsubscribe),
        ("signing", signing::probe::message),
        ("schedule", queue::probe::schedule),
        ("author", access::probe::author),
        ("token", access::probe::token),
    ];

    /// What else is read back from a disk; the first octet, a letter of these, says what.
    const ON_DISK: [(u8, Target); 8] = [
        (b's', suppression::probe::block),
        (b'r', ledger::probe::run),
        (b'v', ledger::probe::indexed),
        (b'i', events::probe::index),
        (b'e', events::probe::tail),
        (b't', access::probe::tenant),
        (b'k', shaping::probe::kept),
        (b'b', queue::probe::kept),
    ];

    /// What operators write and programs of this host hand us; the first octet, a letter of these, says what.
    const OF_OPERATORS: [(u8, Target); 4] = [
        (b'p', shaping::probe::profile),
        (b'k', signing::probe::key),
        (b'l', cli::probe::letter),
        (b'a', cli::probe::arguments),
    ];

    fn disk(octets: &[u8]) {
        choose(&ON_DISK, octets);
    }

    fn operator(octets: &[u8]) {
        choose(&OF_OPERATORS, octets);
    }

    fn choose(targets: &[(u8, Target)], octets: &[u8]) {
        if let Some((which, rest)) = octets.split_first()
            && let Some((_, target)) = targets.iter().find(|(letter, _)| letter == which)
        {
            target(rest);
        }
    }

    /// The target of that name.
    ///
    /// # Panics
    /// There is none.
    pub fn target(name: &str) -> Target {
        TARGETS.iter().find(|target| target.0 == name).unwrap_or_else(|| panic!("no target {name}")).1
    }
}
