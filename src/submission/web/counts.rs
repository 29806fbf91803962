//! What became of submissions, in the metrics.

use prometheus::{IntCounter, IntCounterVec};

use super::super::rejection::Rejection;
use crate::mail::Receipt;
use crate::telemetry::Metrics;

/// Counts for one listener. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Counts {
    listener: &'static str,
    accepted: IntCounter,
    refused: IntCounterVec,
}

impl Counts {
    /// For the listener that metrics call so.
    pub fn new(listener: &'static str, metrics: &Metrics) -> Counts {
        let accepted = metrics.messages_accepted.with_label_values(&[listener]);
        Counts { listener, accepted, refused: metrics.submissions_refused.clone() }
    }

    /// One was accepted, or had been.
    pub fn accepted(&self, receipt: &Receipt) {
        if !receipt.replayed {
            self.accepted.inc_by(receipt.messages.into());
        }
    }

    /// One was refused.
    pub fn refused(&self, rejection: &Rejection) {
        self.refused_as(rejection.kind.label());
    }

    /// Something was refused for a reason that is none of a submission's.
    pub fn refused_as(&self, reason: &str) {
        self.refused.with_label_values(&[self.listener, reason]).inc();
    }
}
