//! DMARC aggregate reports (RFC 7489 Appendix C): their sums.

use serde::Serialize;

use super::xml::{Step, Walk};
use super::{ReportError, clipped};

/// A sum and its part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Share {
    /// Messages that passed.
    pub pass: u64,
    /// Messages that did not.
    pub fail: u64,
}

/// An aggregate report. Counts are messages.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Aggregate {
    /// Who reports.
    pub org: String,
    /// Its address.
    pub email: String,
    /// Its name for the report.
    pub report_id: String,
    /// About which domain.
    pub domain: String,
    /// The policy it found: `none`, `quarantine`, `reject`.
    pub policy: String,
    /// From when, in seconds since 1970.
    pub begin: u64,
    /// Until when.
    pub end: u64,
    /// Rows.
    pub rows: u64,
    /// All messages.
    pub messages: u64,
    /// Those let through.
    pub none: u64,
    /// Those put aside.
    pub quarantine: u64,
    /// Those refused.
    pub reject: u64,
    /// By aligned DKIM.
    pub dkim: Share,
    /// By aligned SPF.
    pub spf: Share,
    /// By either: by DMARC.
    pub dmarc: Share,
}

/// A row as it is being read.
#[derive(Debug, Default)]
struct Row {
    count: u64,
    disposition: String,
    dkim: bool,
    spf: bool,
}

/// Reads an aggregate report.
pub(super) fn read(text: &[u8]) -> Result<Aggregate, ReportError> {
    let mut walk = Walk::new(text);
    let mut report = Aggregate::default();
    let (mut row, mut known) = (Row::default(), false);
    while let Some(step) = walk.next() {
        let step = step.map_err(|_| ReportError::Malformed)?;
        let path = walk.path();
        if path.first() != Some(&&b"feedback"[..]) {
            return Err(ReportError::Malformed);
        }
        match step {
            Step::Begin if path == [&b"feedback"[..], b"record"] => row = Row::default(),
            Step::End if path == [&b"feedback"[..], b"record"] => report.add(&row),
            Step::Text(said) => known |= note(&mut report, &mut row, path, &said),
            Step::Begin | Step::End => {}
        }
    }
    // A file of the right shape that says nothing is no report.
    if known { Ok(report) } else { Err(ReportError::Malformed) }
}

/// Whether it is something that every report says.
fn note(report: &mut Aggregate, row: &mut Row, path: &[&[u8]], said: &str) -> bool {
    let number = || said.trim().parse::<u64>().unwrap_or(0);
    let passed = || said.trim().eq_ignore_ascii_case("pass");
    match path.get(1..).unwrap_or_default() {
        [b"report_metadata", b"org_name"] => report.org = clipped(said),
        [b"report_metadata", b"email"] => report.email = clipped(said),
        [b"report_metadata", b"report_id"] => report.report_id = clipped(said),
        [b"report_metadata", b"date_range", b"begin"] => report.begin = number(),
        [b"report_metadata", b"date_range", b"end"] => report.end = number(),
        [b"policy_published", b"domain"] => {
            report.domain = clipped(said).to_ascii_lowercase();
            return true;
        }
        [b"policy_published", b"p"] => report.policy = clipped(said).to_ascii_lowercase(),
        [b"record", b"row", b"count"] => row.count = number(),
        [b"record", b"row", b"policy_evaluated", b"disposition"] => {
            row.disposition = clipped(said).to_ascii_lowercase()
        }
        [b"record", b"row", b"policy_evaluated", b"dkim"] => row.dkim = passed(),
        [b"record", b"row", b"policy_evaluated", b"spf"] => row.spf = passed(),
        _ => {}
    }
    false
}

impl Share {
    fn add(&mut self, passed: bool, count: u64) {
        let part = if passed { &mut self.pass } else { &mut self.fail };
        *part = part.saturating_add(count);
    }
}

impl Aggregate {
    fn add(&mut self, row: &Row) {
        self.rows += 1;
        self.messages = self.messages.saturating_add(row.count);
        let disposed = match row.disposition.as_str() {
            "quarantine" => &mut self.quarantine,
            "reject" => &mut self.reject,
            _ => &mut self.none,
        };
        *disposed = disposed.saturating_add(row.count);
        self.dkim.add(row.dkim, row.count);
        self.spf.add(row.spf, row.count);
        self.dmarc.add(row.dkim || row.spf, row.count);
    }
}
