//! posthaste, an outbound mail engine. The modules stand in the order a message meets them; `ARCHITECTURE.md` tells the
//! way.

pub mod daemon;

pub mod submission;

pub mod log;
pub mod spool;

pub mod queue;

pub mod delivery;
pub mod feedback;
pub mod routing;
pub mod signing;

pub mod events;

pub mod admin;
pub mod cli;
pub mod demo;

pub mod clock;
pub mod config;
pub mod mail;
pub mod telemetry;
