//! What the daemon tells the outside about itself: metrics, log lines, health.

mod metrics;

pub use metrics::Metrics;
