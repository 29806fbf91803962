//! What the daemon tells the outside about itself: metrics and log lines.

pub mod logging;
mod metrics;

pub use metrics::Metrics;
