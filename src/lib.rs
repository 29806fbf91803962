//! posthaste, an outbound mail engine. The modules stand in the order a message meets them; `ARCHITECTURE.md` tells the
//! way.

pub mod clock;
pub mod config;
pub mod delivery;
pub mod mail;
pub mod routing;
pub mod telemetry;

pub mod log;
pub mod spool;

pub mod queue;

pub mod delivery;
pub mod feedback;
pub mod routing;
pub mod signing;

pub mod events;

pub mod demo;
