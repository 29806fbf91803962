//! What became of a recipient in one attempt.

use serde::Serialize;

use super::reply::{EnhancedCode, Reply};

/// What became of one recipient in one attempt. A remote refusal is an outcome, never an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver took responsibility.
    Delivered {
        /// Its reply to the end of the content.
        reply: Reply,
    },
    /// Not now; the retry schedule says when.
    Deferred(Failure),
    /// Never; the sender gets a report.
    Failed(Failure),
}

/// Why an attempt did not deliver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What the trouble belongs to, which decides what else waits.
    pub blame: Blame,
    /// Who spoke.
    pub origin: Origin,
    /// The receiver's reply whole, or our own words in the same form.
    pub reply: Reply,
}

impl Failure {
    /// A judgement of our own.
    pub fn ours(blame: Blame, enhanced: EnhancedCode, text: impl Into<std::borrow::Cow<'static, str>>) -> Failure {
        let code = if enhanced.0 == 5 { 550 } else { 451 };
        Failure { blame, origin: Origin::Local, reply: Reply::ours(code, enhanced, text) }
    }
}

/// What a failure belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Blame {
    /// This address only.
    Recipient,
    /// This message, for any recipient.
    Message,
    /// The receiving site: its DNS, its hosts, its policy of the moment.
    Site,
    /// Our source address or the connection from it.
    EgressPath,
}

/// Who gave a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The receiver, in answer to this command (`MAIL`, `RCPT`, `DATA`, `BDAT`, `.`).
    Remote {
        /// The command's verb; `.` is the end of the content.
        command: &'static str,
    },
    /// We ourselves.
    Local,
}

/// What TLS a session had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TlsFacts {
    /// `TLSv1.3`.
    pub version: &'static str,
    /// `TLS13_AES_256_GCM_SHA384`.
    pub cipher: &'static str,
    /// A session was resumed.
    pub resumed: bool,
    /// The certificate was verified against a policy (never so when opportunistic).
    pub verified: bool,
}
