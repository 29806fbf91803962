//! Pace: how fast each receiver may be spoken to. Pure: no clock, no network, no disk.

pub mod provider;
