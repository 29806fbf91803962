//! What has come back already: whatever is said of a recipient of a message, and every report on our domains, counts once, also
//! after a restart.
//!
//! A fact of the ledger each, durable before the `250`. Those of a message are forgotten when its tokens have expired, since
//! nothing can come back for it then; those of reports after [`REPORTS_KEPT`].

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::MutexGuard;

use crate::clock::Timestamp;
use crate::feedback::token::RecipientHash;
use crate::ledger::{Ledger, LedgerError, Table};
use crate::mail::MessageId;

/// How long a report on our domains is remembered. Its sender repeats it for hours or days, whoever has a copy for longer.
const REPORTS_KEPT: Duration = Duration::from_secs(60 * 86_400);

/// How often what is too old is looked for.
const TIDY_EVERY: Duration = Duration::from_secs(3600);

/// Facts looked at in one go.
const PAGE: usize = 4096;

/// Messages whose reports wait for one another, by chance or because they are the same.
const TURNS: usize = 256;

/// Something that comes back once, or else repeats itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Item {
    /// A recipient of a message failed.
    Bounce(MessageId, RecipientHash),
    /// A recipient of a message complained.
    Complaint(MessageId, RecipientHash),
    /// A report on our domains, by a hash of what identifies it.
    Report([u8; 16]),
}

/// Kinds of items, the first octet of a key.
const BOUNCE: u8 = 1;
const COMPLAINT: u8 = 2;
const REPORT: u8 = 3;

impl Item {
    /// Kind, message, recipient: in the order of time.
    fn key(self) -> Vec<u8> {
        let of_message = |kind: u8, message: MessageId, recipient: RecipientHash| {
            [&[kind][..], &message.0.to_be_bytes(), &recipient.octets()].concat()
        };
        match self {
            Item::Bounce(message, recipient) => of_message(BOUNCE, message, recipient),
            Item::Complaint(message, recipient) => of_message(COMPLAINT, message, recipient),
            Item::Report(hash) => [&[REPORT][..], &hash].concat(),
        }
    }
}

/// What came back. An item has a weight: a report that says more than the one before is no repetition.
#[derive(Debug)]
pub(super) struct Seen {
    ledger: Arc<Ledger>,
    turns: Box<[tokio::sync::Mutex<()>]>,
    /// When it was last tidied up.
    tidied: Mutex<Option<Timestamp>>,
}

impl Seen {
    pub(super) fn new(ledger: Arc<Ledger>) -> Seen {
        Seen { ledger, turns: (0..TURNS).map(|_| tokio::sync::Mutex::default()).collect(), tidied: Mutex::default() }
    }

    /// A turn at what has this number: of two copies that come at once the second finds what the first has left. One task may
    /// hold one turn only.
    pub(super) async fn turn(&self, number: u64) -> MutexGuard<'_, ()> {
        // The low bits of message ids count within a millisecond, the next ones are the time.
        let place = (number ^ number >> 22) % TURNS as u64;
        self.turns[place as usize].lock().await
    }

    /// The weight it was noted with; 0: it never came.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub(super) fn weight(&self, item: Item) -> Result<u8, LedgerError> {
        let found = self.ledger.get(Table::Returned, &item.key())?;
        Ok(found.and_then(|value| value.first().copied()).unwrap_or(0))
    }

    /// These have had their effect. Durable when it resolves.
    ///
    /// # Errors
    /// The ledger cannot be written; nothing was noted.
    pub(super) async fn note(&self, items: &[(Item, u8)], at: Timestamp) -> Result<(), LedgerError> {
        if items.is_empty() {
            return Ok(());
        }
        let value = |weight: u8| Bytes::from([&[weight][..], &at.0.to_le_bytes()].concat());
        let facts = items.iter().map(|(item, weight)| (item.key(), Some(value(*weight))));
        self.ledger.put(Table::Returned, facts.collect()).await
    }

    /// Whether it is time to tidy up.
    pub(super) fn is_untidy(&self, now: Timestamp) -> bool {
        let mut tidied = self.tidied.lock().expect("no code panics under this lock");
        let due = tidied.is_none_or(|last| now.since(last) >= TIDY_EVERY);
        if due {
            *tidied = Some(now);
        }
        due
    }

    /// Forgets what belongs to messages older than `lifetime`, and old reports. Blocks.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub(super) fn tidy(&self, now: Timestamp, lifetime: Duration) -> Result<(), LedgerError> {
        let message_at = |key: &[u8]| {
            let id = key.get(1..9)?.first_chunk()?;
            Some(MessageId(u64::from_be_bytes(*id)).time())
        };
        for kind in [BOUNCE, COMPLAINT] {
            // The oldest come first, so what is not old ends it.
            self.forget(kind, true, |key, _| message_at(key).is_none_or(|at| now.since(at) > lifetime))?;
        }
        let noted_at = |value: &[u8]| Some(Timestamp(u64::from_le_bytes(*value.get(1..9)?.first_chunk()?)));
        self.forget(REPORT, false, |_, value| noted_at(value).is_none_or(|at| now.since(at) > REPORTS_KEPT))
    }

    fn forget(&self, kind: u8, in_order: bool, is_old: impl Fn(&[u8], &[u8]) -> bool) -> Result<(), LedgerError> {
        let mut from = Some(vec![kind]);
        while let Some(start) = from {
            let page = self.ledger.page(Table::Returned, &[kind], &start, PAGE)?;
            let looked_at = page.facts.len();
            let old = page.facts.into_iter().filter(|(key, value)| is_old(key, value.as_deref().unwrap_or_default()));
            let old: Vec<_> = old.map(|(key, _)| (key, None)).collect();
            let all_old = old.len() == looked_at;
            if !old.is_empty() {
                // Whether it works is of no matter: it is done again.
                self.ledger.put_then(Table::Returned, old, |_| ());
            }
            from = page.next.filter(|_| all_old || !in_order);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn recipient() -> RecipientHash {
        RecipientHash::of(&"a@them.example".parse().unwrap())
    }

    #[tokio::test]
    async fn each_is_known_by_itself_and_with_its_weight() {
        let seen = Seen::new(Arc::default());
        let at = Timestamp(1_700_000_000_000);
        let (one, other) = (MessageId(at.0 << 22), MessageId(at.0 << 22 | 1));
        let items = [
            Item::Bounce(one, recipient()),
            Item::Bounce(other, recipient()),
            Item::Complaint(one, recipient()),
            Item::Report([1; 16]),
        ];
        for (place, item) in items.iter().enumerate() {
            assert_eq!(seen.weight(*item).unwrap(), 0, "{item:?}");
            seen.note(&[(*item, place as u8 + 1)], at).await.unwrap();
        }
        for (place, item) in items.iter().enumerate() {
            assert_eq!(seen.weight(*item).unwrap(), place as u8 + 1, "{item:?}");
        }
    }

    #[tokio::test]
    async fn what_is_old_is_forgotten_and_nothing_else() {
        let seen = Seen::new(Arc::default());
        let start = Timestamp(1_700_000_000_000);
        let message = |day: u32| MessageId(start.after(DAY * day).0 << 22);
        for day in 0..100 {
            let items = [(Item::Bounce(message(day), recipient()), 1), (Item::Complaint(message(day), recipient()), 1)];
            seen.note(&items, start.after(DAY * 99)).await.unwrap();
            seen.note(&[(Item::Report([day as u8; 16]), 1)], start.after(DAY * day)).await.unwrap();
        }
        let now = start.after(DAY * 99);
        seen.tidy(now, DAY * 30).unwrap();
        for day in 0..100 {
            for item in [Item::Bounce(message(day), recipient()), Item::Complaint(message(day), recipient())] {
                assert_eq!(seen.weight(item).unwrap() == 1, 99 - day <= 30, "day {day}");
            }
            assert_eq!(seen.weight(Item::Report([day as u8; 16])).unwrap() == 1, 99 - day <= 60, "day {day}");
        }
        assert!(seen.is_untidy(now) && !seen.is_untidy(now.after(DAY / 48)) && seen.is_untidy(now.after(DAY)));
    }
}
