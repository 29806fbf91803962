//! TLS reports (RFC 8460 §4.4): their sums.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ReportError, clipped};

/// Policies of one report that are kept.
const POLICIES_MAX: usize = 100;

/// Kinds of failure of one policy that are kept; RFC 8460 §4.3 knows eleven.
const KINDS_MAX: usize = 20;

/// A TLS report. Counts are sessions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TlsReport {
    /// Who reports.
    pub org: String,
    /// Its address.
    pub contact: String,
    /// Its name for the report.
    pub report_id: String,
    /// From when, as written (RFC 3339).
    pub begin: String,
    /// Until when.
    pub end: String,
    /// By policy.
    pub policies: Vec<TlsPolicy>,
}

/// What was found of one policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TlsPolicy {
    /// About which domain.
    pub domain: String,
    /// `tlsa`, `sts`, `no-policy-found`.
    pub kind: String,
    /// Sessions that succeeded.
    pub success: u64,
    /// Sessions that failed.
    pub failure: u64,
    /// Those that failed, by kind (RFC 8460 §4.3); unknown kinds are `other`.
    pub failures: BTreeMap<String, u64>,
}

/// The kinds of RFC 8460 §4.3.
const KINDS: [&str; 11] = [
    "starttls-not-supported",
    "certificate-host-mismatch",
    "certificate-expired",
    "certificate-not-trusted",
    "validation-failure",
    "tlsa-invalid",
    "dnssec-invalid",
    "dane-required",
    "sts-policy-fetch-error",
    "sts-policy-invalid",
    "sts-webpki-invalid",
];

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    organization_name: Option<String>,
    #[serde(default)]
    contact_info: Option<String>,
    #[serde(default)]
    report_id: Option<String>,
    date_range: DateRange,
    policies: Vec<Policy>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct DateRange {
    start_datetime: String,
    end_datetime: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Policy {
    policy: Details,
    summary: Summary,
    #[serde(default)]
    failure_details: Vec<Failure>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Details {
    #[serde(default)]
    policy_type: String,
    #[serde(default)]
    policy_domain: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Summary {
    #[serde(default, alias = "total-success-session-count")]
    total_successful_session_count: u64,
    #[serde(default)]
    total_failure_session_count: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Failure {
    #[serde(default)]
    result_type: String,
    #[serde(default)]
    failed_session_count: u64,
}

/// Reads a TLS report. serde_json goes no deeper than 128 levels, and what is not wanted is passed over without being kept.
pub(super) fn read(text: &[u8]) -> Result<TlsReport, ReportError> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let file: File = serde_json::from_slice(text).map_err(|_| ReportError::Malformed)?;
    let some = |text: Option<String>| clipped(&text.unwrap_or_default());
    Ok(TlsReport {
        org: some(file.organization_name),
        contact: some(file.contact_info),
        report_id: some(file.report_id),
        begin: clipped(&file.date_range.start_datetime),
        end: clipped(&file.date_range.end_datetime),
        policies: file.policies.into_iter().take(POLICIES_MAX).map(policy).collect(),
    })
}

fn policy(Policy { policy, summary, failure_details }: Policy) -> TlsPolicy {
    let mut failures = BTreeMap::new();
    for Failure { result_type, failed_session_count } in failure_details {
        let kind = KINDS.into_iter().find(|kind| *kind == result_type).unwrap_or("other");
        if failures.len() < KINDS_MAX {
            let sum: &mut u64 = failures.entry(kind.to_owned()).or_default();
            *sum = sum.saturating_add(failed_session_count);
        }
    }
    TlsPolicy {
        domain: clipped(&policy.policy_domain).to_ascii_lowercase(),
        kind: match policy.policy_type.as_str() {
            kind @ ("tlsa" | "sts" | "no-policy-found") => kind.to_owned(),
            _ => "other".to_owned(),
        },
        success: summary.total_successful_session_count,
        failure: summary.total_failure_session_count,
        failures,
    }
}
