//! SMTP replies.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// An enhanced status code: class, subject, detail (RFC 3463 §2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EnhancedCode(pub u8, pub u16, pub u16);

impl fmt::Display for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl FromStr for EnhancedCode {
    type Err = ();

    /// `5.1.1`; the class is 2, 4 or 5, the others at most 999.
    fn from_str(text: &str) -> Result<EnhancedCode, ()> {
        let mut parts = text.split('.');
        let mut part = |max: u16| {
            let digits =
                parts.next().filter(|p| !p.is_empty() && p.len() <= 3 && p.bytes().all(|b| b.is_ascii_digit()));
            digits.and_then(|p| p.parse::<u16>().ok()).filter(|n| *n <= max).ok_or(())
        };
        let code = EnhancedCode(part(9)? as u8, part(999)?, part(999)?);
        (parts.next().is_none() && matches!(code.0, 2 | 4 | 5)).then_some(code).ok_or(())
    }
}

impl Serialize for EnhancedCode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A reply of an SMTP server, or our own words in its form when it is we who judge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reply {
    /// The three digits, 200..=599.
    pub code: u16,
    /// The enhanced code, when one was given and its class agrees with `code`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enhanced: Option<EnhancedCode>,
    /// The text without codes, lines joined by a line feed; control characters replaced, cut at 2,000 bytes.
    pub text: Cow<'static, str>,
}

impl Reply {
    /// Our own words.
    pub fn ours(code: u16, enhanced: EnhancedCode, text: impl Into<Cow<'static, str>>) -> Reply {
        Reply { code, enhanced: Some(enhanced), text: text.into() }
    }

    /// 2yz.
    pub fn is_positive(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// 4yz.
    pub fn is_transient(&self) -> bool {
        (400..500).contains(&self.code)
    }

    /// 5yz.
    pub fn is_permanent(&self) -> bool {
        (500..600).contains(&self.code)
    }

    /// The enhanced code, or the general one of the reply's class (`4.0.0`).
    pub fn enhanced_or_general(&self) -> EnhancedCode {
        self.enhanced.unwrap_or(EnhancedCode((self.code / 100) as u8, 0, 0))
    }
}

/// On one line, as logs and reports show it: `550 5.1.1 no such user`.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(enhanced) = self.enhanced {
            write!(f, " {enhanced}")?;
        }
        for line in self.text.split('\n').filter(|line| !line.is_empty()) {
            write!(f, " {line}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_enhanced_codes() {
        assert_eq!("5.1.1".parse(), Ok(EnhancedCode(5, 1, 1)));
        assert_eq!("4.7.650".parse(), Ok(EnhancedCode(4, 7, 650)));
        for bad in ["", "5", "5.1", "5.1.1.1", "3.1.1", "5.1.1000", "5.-1.1", "a.b.c", "5..1", "5.+1.1"] {
            assert_eq!(bad.parse::<EnhancedCode>(), Err(()), "{bad}");
        }
    }

    #[test]
    fn prints_on_one_line() {
        let reply = Reply::ours(550, EnhancedCode(5, 1, 1), "no such user\nreally");
        assert_eq!(reply.to_string(), "550 5.1.1 no such user really");
    }
}
