//! The demo and the peers it needs.
pub mod dns;
pub mod receiver;
