//! Reports on our domains: DMARC aggregates (RFC 7489 §7.2, Appendix C) and TLS reports (RFC 8460).
//!
//! [`read`] is pure and takes foreign octets. The steps:
//!
//! 1. The message is opened within bounds (`mime.rs`), and what looks like a report in it is taken: by its type, its file name,
//!    or its first octets.
//! 2. It is unpacked (`unpack.rs`): gzip or zip, so many octets and no more, whatever the archive says of itself.
//! 3. XML is walked without a tree (`xml.rs`), so deep and no deeper; JSON is read into what is wanted, the rest is passed over
//!    (`tlsrpt.rs`). Sums are kept, never the rows.
//!
//! mail-auth has readers for both, which build every row in memory and follow XML without a limit; sums need neither.

mod dmarc;
mod tlsrpt;
mod unpack;
mod xml;

use serde::Serialize;

pub use dmarc::{Aggregate, Share};
pub use tlsrpt::{TlsPolicy, TlsReport};
pub use unpack::{PACKED_MAX, RATIO_MAX, UNPACKED_MAX};

use super::mime::Opened;
use unpack::unpack;

/// Parts of one message that may be reports; there is one.
const REPORTS_MAX: usize = 4;

/// Texts of a report that are kept, in octets.
const TEXT_MAX: usize = 300;

/// What a report says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Report {
    /// How receivers found mail from our domains authenticated.
    Dmarc(Aggregate),
    /// How senders fared with TLS to our domains.
    Tls(TlsReport),
}

/// Why there is no report to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// Nothing in the message is a report.
    #[error("there is no report in it")]
    None,
    /// It is packed in a way that is not read: encrypted, another method, damaged.
    #[error("it cannot be unpacked")]
    Packed,
    /// It is larger than reports are, packed or unpacked, or unpacks to too many times its size.
    #[error("it is too large")]
    TooLarge,
    /// It is no XML or JSON of the kind, or nested too deep.
    #[error("it is not what it says")]
    Malformed,
}

/// Reads the first report in a message that can be read.
///
/// # Errors
/// See [`ReportError`]; of several, that of the last.
pub fn read(message: &[u8]) -> Result<Report, ReportError> {
    let opened = Opened::of(message);
    let mut error = ReportError::None;
    let looks = opened.parts.iter().filter(|part| may_be_report(&part.kind, &part.file_name())).take(REPORTS_MAX);
    for part in looks {
        match read_file(&part.decoded()) {
            Ok(report) => return Ok(report),
            Err(why) => error = why,
        }
    }
    Err(error)
}

/// Reads a report as it is in a file: packed or not.
///
/// # Errors
/// See [`ReportError`].
pub fn read_file(octets: &[u8]) -> Result<Report, ReportError> {
    let text = unpack(octets)?;
    let first = text.iter().find(|b| !b.is_ascii_whitespace() && !matches!(b, 0xef | 0xbb | 0xbf));
    match first {
        Some(b'<') => dmarc::read(&text).map(Report::Dmarc),
        Some(b'{') => tlsrpt::read(&text).map(Report::Tls),
        _ => Err(ReportError::Malformed),
    }
}

fn may_be_report(kind: &str, file: &str) -> bool {
    let file = file.to_ascii_lowercase();
    let kinds = ["zip", "xml", "json", "tlsrpt", "octet-stream", "x-compressed"];
    let endings = [".xml", ".gz", ".zip", ".json", ".gzip"];
    !kind.starts_with("text/plain") && kinds.iter().any(|one| kind.contains(one))
        || endings.iter().any(|ending| file.ends_with(ending))
}

/// As much of a text as is kept.
fn clipped(text: &str) -> String {
    let text = text.trim();
    text[..text.floor_char_boundary(TEXT_MAX)].to_owned()
}

#[cfg(test)]
mod tests;
