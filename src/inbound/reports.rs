//! Reports on our domains: told, and counted once each. Nothing else follows from them.
//!
//! Anybody may send one, and few who read them ask who did. The event says whether the domain of the report's From signed it;
//! such a report and an unsigned copy of it are two, so that nobody can keep a true report from being counted by
//! sending a false one of its name first.

use aws_lc_rs::digest;
use serde_json::{Value, json};

use super::bounce::from;
use super::desk::{Arrived, Desk};
use super::seen::Item;
use crate::events::{Feedback, FeedbackKind};
use crate::feedback::complaint::cfbl::Signed;
use crate::feedback::reports::{self, Aggregate, Report, TlsReport};
use crate::submission::Rejection;

impl Desk {
    /// What came to an address for reports. Returns what it was, for metrics.
    pub(super) async fn reported(&self, arrived: &Arrived) -> Result<&'static str, Rejection> {
        let content = arrived.content.clone();
        let turn = self.turn().await?;
        let read = tokio::task::spawn_blocking(move || reports::read(&content));
        let report = read.await.map_err(|_| Rejection::trouble("it could not be read"))?;
        drop(turn);
        let report = match report {
            Ok(report) => report,
            Err(why) => {
                self.tell_report(arrived, "unreadable", &from(arrived), &why.to_string(), None).await?;
                return Ok("report");
            }
        };
        let signature = signature(&self.parts.verifier.verify(&arrived.content).await);
        let hash = identity(&report, &signature);
        let _turn = self.seen.turn(u64::from_be_bytes(*hash.first_chunk().expect("sixteen octets"))).await;
        let (what, org) = match &report {
            Report::Dmarc(sums) => ("dmarc", &sums.org),
            Report::Tls(sums) => ("tls", &sums.org),
        };
        if self.came_before(Item::Report(hash))? > 0 {
            let why = format!("this {what} report was told before");
            self.tell_report(arrived, "repeated", org, &why, None).await?;
            return Ok("report");
        }
        let mut details = json!(report);
        details["signature"] = signature;
        self.tell_report(arrived, what, org, "", Some(&details)).await?;
        self.note(&[(Item::Report(hash), 1)], arrived.at).await?;
        match &report {
            Report::Dmarc(sums) => self.count_dmarc(sums),
            Report::Tls(sums) => self.count_tls(sums),
        }
        Ok("report")
    }

    async fn tell_report(
        &self,
        arrived: &Arrived,
        what: &'static str,
        by: &str,
        why: &str,
        details: Option<&Value>,
    ) -> Result<(), Rejection> {
        let told = Feedback::new(arrived.at, FeedbackKind::Report, what);
        let mut lines = Vec::new();
        Feedback { id: Some(arrived.id), by, reply: why, details, ..told }.write_line(&mut lines);
        self.keep(lines).await?;
        self.parts.metrics.reports.with_label_values(&[what]).inc();
        Ok(())
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

/// `{"by": DOMAIN}`, or `{"lacks": WHY}`.
fn signature(signed: &Signed) -> Value {
    match signed {
        Signed::By(domain) => json!({ "by": domain }),
        Signed::Not(why) => json!({ "lacks": why }),
        // A report is not worth to be put off for.
        Signed::Unknown => json!({ "lacks": "the key could not be looked up" }),
    }
}

/// What makes two reports the same: who reports, under which name, about what and when (RFC 7489 Appendix C, RFC 8460 §4.4),
/// and who signed it. Those without a name are the same if all they say is.
fn identity(report: &Report, signature: &Value) -> [u8; 16] {
    let named = match report {
        Report::Dmarc(sums) => json!(["dmarc", sums.org, sums.report_id, sums.domain, sums.begin, sums.end]),
        Report::Tls(sums) => json!(["tls", sums.org, sums.report_id, sums.begin, sums.end]),
    };
    let has_name = !named[2].as_str().unwrap_or_default().is_empty();
    let all = if has_name { named } else { json!(report) };
    // How a signature fails may differ between copies; that none holds does not.
    let hash = digest::digest(&digest::SHA256, json!([all, signature.get("by")]).to_string().as_bytes());
    *hash.as_ref().first_chunk().expect("a hash has 32 octets")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_two_reports_the_same() {
        let base = Aggregate { org: "them".into(), report_id: "1".into(), rows: 3, ..Aggregate::default() };
        let unnamed = Aggregate { report_id: String::new(), ..base.clone() };
        let tls = TlsReport { org: "them".into(), report_id: "1".into(), ..TlsReport::default() };
        let (ours, theirs, none) = (json!({ "by": "them.test" }), json!({ "by": "x.test" }), json!({ "lacks": "a" }));
        let dmarc = |sums: &Aggregate, signature: &Value| identity(&Report::Dmarc(sums.clone()), signature);
        let some = [
            dmarc(&base, &ours),
            dmarc(&base, &theirs),
            dmarc(&base, &none),
            dmarc(&Aggregate { org: "they".into(), ..base.clone() }, &ours),
            dmarc(&Aggregate { report_id: "2".into(), ..base.clone() }, &ours),
            dmarc(&Aggregate { domain: "us.test".into(), ..base.clone() }, &ours),
            dmarc(&Aggregate { begin: 1, ..base.clone() }, &ours),
            dmarc(&Aggregate { end: 1, ..base.clone() }, &ours),
            dmarc(&unnamed, &ours),
            dmarc(&Aggregate { rows: 4, ..unnamed.clone() }, &ours),
            identity(&Report::Tls(tls), &ours),
        ];
        for (place, one) in some.iter().enumerate() {
            assert!(!some[..place].contains(one), "{place}");
        }
        // The rows do not make it another one, nor why its signature does not hold.
        assert_eq!(dmarc(&Aggregate { rows: 4, ..base.clone() }, &ours), some[0]);
        assert_eq!(dmarc(&base, &json!({ "lacks": "b" })), some[2]);
        assert_eq!(dmarc(&unnamed, &ours), some[8]);
    }
}
