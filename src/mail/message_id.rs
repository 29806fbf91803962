//! Message identifiers.

use std::fmt;
use std::str::FromStr;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// Names a message in the spool, in receipts, events and logs; never used twice on a node. Orders by acceptance.
///
/// 42 bits of milliseconds since 1970 and 22 bits of sequence; printed as 13 letters and digits (Crockford's base 32).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MessageId(pub u64);

const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// What each digit is worth; 255: it is none.
const VALUES: [u8; 256] = {
    let mut values = [255; 256];
    let mut digit = 0;
    while digit < DIGITS.len() {
        values[DIGITS[digit] as usize] = digit as u8;
        values[DIGITS[digit].to_ascii_lowercase() as usize] = digit as u8;
        digit += 1;
    }
    values
};

impl MessageId {
    /// Letters and digits of its text.
    pub const DIGITS: usize = 13;

    /// Reads its text, in either case; `None` if it is anything else.
    pub fn from_digits(text: &[u8]) -> Option<MessageId> {
        let text: &[u8; MessageId::DIGITS] = text.try_into().ok()?;
        let (mut value, mut worst) = (0, 0);
        for b in text {
            let digit = VALUES[usize::from(*b)];
            worst |= digit;
            value = value << 5 | u64::from(digit & 31);
        }
        // 65 bits are one too many.
        (worst < 32 && VALUES[usize::from(text[0])] < 16).then_some(MessageId(value))
    }

    /// About when it was given out: no later than that, and before by more only where the wall clock had stepped back.
    pub fn time(self) -> Timestamp {
        Timestamp(self.0 >> 22)
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0u8; MessageId::DIGITS];
        for (place, digit) in text.iter_mut().rev().enumerate() {
            *digit = DIGITS[(self.0 >> (5 * place)) as usize & 31];
        }
        f.write_str(std::str::from_utf8(&text).expect("digits are ASCII"))
    }
}

/// Why a text is no message id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a message id: 13 letters and digits, as in 0K3V9Z8Q2M1XA")]
pub struct MessageIdError(String);

impl FromStr for MessageId {
    type Err = MessageIdError;

    fn from_str(text: &str) -> Result<MessageId, MessageIdError> {
        MessageId::from_digits(text.as_bytes()).ok_or_else(|| MessageIdError(text.into()))
    }
}

impl TryFrom<String> for MessageId {
    type Error = MessageIdError;
    fn try_from(text: String) -> Result<MessageId, MessageIdError> {
        text.parse()
    }
}

impl From<MessageId> for String {
    fn from(id: MessageId) -> String {
        id.to_string()
    }
}

/// Gives out ids that rise, even when the wall clock steps back.
#[derive(Debug)]
pub struct MessageIds {
    last: Mutex<u64>,
}

impl MessageIds {
    /// Continues behind `last`, the highest id known.
    pub fn after(last: MessageId) -> MessageIds {
        MessageIds { last: Mutex::new(last.0) }
    }

    /// The next id, greater than all before.
    pub fn next(&self, now: Timestamp) -> MessageId {
        self.next_row(now, 1)
    }

    /// The first of `count` ids that follow one another, all greater than all before.
    pub fn next_row(&self, now: Timestamp, count: u32) -> MessageId {
        let mut last = self.last.lock().expect("no code panics under this lock");
        let first = (*last + 1).max(now.0 << 22);
        *last = first + u64::from(count.max(1)) - 1;
        MessageId(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_rise_and_survive_printing() {
        let ids = MessageIds::after(MessageId(0));
        let first = ids.next(Timestamp(1_700_000_000_000));
        let second = ids.next(Timestamp(1_600_000_000_000));
        assert!(second > first);
        let row = ids.next_row(Timestamp(1_600_000_000_000), 3);
        assert_eq!((row.0, ids.next(Timestamp(0)).0), (second.0 + 1, second.0 + 4));
        for id in [first, second, MessageId(0), MessageId(u64::MAX)] {
            assert_eq!(id.to_string().parse(), Ok(id));
            assert_eq!(id.to_string().to_ascii_lowercase().parse(), Ok(id));
        }
        for text in ["ZZZZZZZZZZZZZ", "G000000000000", "short", "", "0K3V9Z8Q2M1XU", "0K3V9Z8Q2M1XÄ", "0K3V9Z8Q2M1XAA"]
        {
            assert_eq!(text.parse::<MessageId>(), Err(MessageIdError(text.into())));
        }
    }
}
