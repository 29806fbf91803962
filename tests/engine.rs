//! The whole daemon in this process, between SMTP clients and receivers that behave as told, all on loopback.
//!
//! Each test builds a [`world::World`]: a name server, receivers ([`peer::Peer`]) on one port of several loopback
//! addresses, and the real daemon on a temporary directory with short waits. It hands mail over by SMTP and then waits
//! for what must be seen from outside: lines of the event log, what receivers wrote down, the admin surface. Nothing
//! looks inside the queue.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "engine/peer.rs"]
mod peer;
#[path = "engine/world.rs"]
mod world;

#[path = "engine/books.rs"]
mod books;
#[path = "engine/cancel.rs"]
mod cancel;
#[path = "engine/complaints.rs"]
mod complaints;
#[path = "engine/damage.rs"]
mod damage;
#[path = "engine/fairness.rs"]
mod fairness;
#[path = "engine/grpc.rs"]
mod grpc;
#[path = "engine/heed.rs"]
mod heed;
#[path = "engine/http.rs"]
mod http;
#[path = "engine/inbound.rs"]
mod inbound;
#[path = "engine/orders.rs"]
mod orders;
#[path = "engine/outcomes.rs"]
mod outcomes;
#[path = "engine/repeated.rs"]
mod repeated;
#[path = "engine/reports.rs"]
mod reports;
#[path = "engine/restart.rs"]
mod restart;
#[path = "engine/routes.rs"]
mod routes;
#[path = "engine/sendmail.rs"]
mod sendmail;
#[path = "engine/signing.rs"]
mod signing;
#[path = "engine/sites.rs"]
mod sites;
#[path = "engine/sources.rs"]
mod sources;
#[path = "engine/submission.rs"]
mod submission;
#[path = "engine/suppressed.rs"]
mod suppressed;
#[path = "engine/tenants.rs"]
mod tenants;
#[path = "engine/times.rs"]
mod times;
#[path = "engine/trace.rs"]
mod trace;
#[path = "engine/unsubscribe.rs"]
mod unsubscribe;
#[path = "engine/verp.rs"]
mod verp;
