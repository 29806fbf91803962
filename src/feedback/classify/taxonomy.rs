//! The words of a verdict. One taxonomy serves SMTP replies, reports and free-form bounces; why and whose fault are words
//! that all stages share.

use serde::{Deserialize, Serialize};

/// What it says of the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// The address or its domain will never work: suppress it.
    Hard,
    /// Everything else: the address may be alive.
    Soft,
}

/// What the receiver said of trying again: the first digit of its code (RFC 5321 §4.2.1, RFC 3463 §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Permanence {
    /// 5: not again in this form.
    Permanent,
    /// 4: later.
    Transient,
    /// There is no code.
    Unknown,
}

impl Class {
    /// `hard` or `soft`.
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Hard => "hard",
            Class::Soft => "soft",
        }
    }
}
