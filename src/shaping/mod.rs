//! Pace: how fast mail may go where.

pub mod bucket;
