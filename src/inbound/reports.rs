//! Reports on our domains: told, and counted. Nothing follows from them; anybody may send one.

use serde_json::json;

use super::bounce::from;
use super::desk::{Arrived, Desk};
use crate::events::{Feedback, FeedbackKind};
use crate::feedback::reports::{self, Aggregate, Report, ReportError, TlsReport};
use crate::submission::Rejection;

impl Desk {
    /// What came to an address for reports. Returns what it was, for metrics.
    pub(super) async fn reported(&self, arrived: &Arrived) -> Result<&'static str, Rejection> {
        let content = arrived.content.clone();
        let turn = self.turn().await?;
        let read = tokio::task::spawn_blocking(move || reports::read(&content));
        let report = read.await.map_err(|_| Rejection::trouble("it could not be read"))?;
        drop(turn);
        let (what, by) = match &report {
            Ok(Report::Dmarc(sums)) => ("dmarc", sums.org.clone()),
            Ok(Report::Tls(sums)) => ("tls", sums.org.clone()),
            Err(_) => ("unreadable", from(arrived)),
        };
        let details = report.as_ref().ok().map(|report| json!(report)).unwrap_or_default();
        let why = report.as_ref().err().map(ReportError::to_string).unwrap_or_default();
        let mut lines = Vec::new();
        Feedback {
            id: Some(arrived.id),
            by: &by,
            reply: &why,
            details: report.is_ok().then_some(&details),
            ..Feedback::new(arrived.at, FeedbackKind::Report, what)
        }
        .write_line(&mut lines);
        self.keep(lines).await?;
        self.parts.metrics.reports.with_label_values(&[what]).inc();
        match &report {
            Ok(Report::Dmarc(sums)) => self.count_dmarc(sums),
            Ok(Report::Tls(sums)) => self.count_tls(sums),
            Err(_) => {}
        }
        Ok("report")
    }

    fn count_dmarc(&self, sums: &Aggregate) {
        for (check, share) in [("dkim", sums.dkim), ("spf", sums.spf), ("dmarc", sums.dmarc)] {
            for (result, count) in [("pass", share.pass), ("fail", share.fail)] {
                self.parts.metrics.dmarc_messages.with_label_values(&[check, result]).inc_by(count);
            }
        }
        for (disposition, count) in [("none", sums.none), ("quarantine", sums.quarantine), ("reject", sums.reject)] {
            self.parts.metrics.dmarc_dispositions.with_label_values(&[disposition]).inc_by(count);
        }
    }

    fn count_tls(&self, sums: &TlsReport) {
        let sessions = &self.parts.metrics.tls_report_sessions;
        for policy in &sums.policies {
            sessions.with_label_values(&[&*policy.kind, "success"]).inc_by(policy.success);
            let told: u64 = policy.failures.values().fold(0, |sum, one| sum.saturating_add(*one));
            for (kind, count) in &policy.failures {
                sessions.with_label_values(&[&*policy.kind, kind]).inc_by(*count);
            }
            // Failures that the report counts and does not explain.
            sessions.with_label_values(&[&*policy.kind, "other"]).inc_by(policy.failure.saturating_sub(told));
        }
    }
}
