//! posthaste, an outbound mail engine. The modules stand in the order a message meets them; `ARCHITECTURE.md` tells the
//! way.

pub mod clock;
pub mod config;
pub mod mail;
pub mod submission;
pub mod telemetry;
