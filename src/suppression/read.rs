//! Look through the list: page by page, in the order of the hashes.

use super::codec::Block;
use super::run::{Cursor, RunError};
use super::store::{Inner, Latest, Store};
use super::{Entry, Subject, Suppressions, place};
use crate::ledger::{LedgerError, Table};
use crate::mail::EnvelopeAddress;

/// A page of entries.
#[derive(Debug)]
pub struct Listed {
    /// Those that were found; ended ones too, until they are removed.
    pub entries: Vec<Entry>,
    /// Where the next page begins; `None`: this is the last.
    pub next: Option<u64>,
}

impl Suppressions {
    /// At least `limit` entries from a place on, if there are so many; 0 is the first place. What is added or removed meanwhile is
    /// in it or not.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn list(&self, from: u64, limit: usize) -> Result<Listed, LedgerError> {
        self.store.try_often(|inner| self.store.list(inner, from, limit))
    }

    /// All that keep mail from an address, or from somebody: whatever the scope. Ended ones too, until they are removed.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn find(&self, subject: &Subject) -> Result<Vec<Entry>, LedgerError> {
        let mut names: Vec<_> = match subject {
            Subject::Address(text) => match text.parse::<EnvelopeAddress>() {
                Ok(address) => self.names(&address).to_vec(),
                Err(_) => vec![subject.name()],
            },
            _ => vec![subject.name()],
        };
        names.dedup();
        let mut found = Vec::new();
        for name in names {
            found.extend(self.store.find(&name, None)?);
        }
        Ok(found)
    }

    /// The entries of just this subject, in all scopes. Ended ones too, until they are removed.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn exactly(&self, subject: &Subject) -> Result<Vec<Entry>, LedgerError> {
        self.store.find(&subject.name(), None)
    }

    /// How many entries there are, by scope: global, tenant, list. What an import repeats counts twice until runs are merged.
    pub fn counts(&self) -> [u64; 3] {
        self.store.entries()
    }
}

impl Store {
    fn list(&self, inner: &Inner, from: u64, limit: usize) -> Result<Listed, RunError> {
        let cursors = inner.runs.iter().map(|run| Cursor::new(&self.ledger, run, from));
        let mut cursors: Vec<Cursor<'_>> = cursors.collect::<Result<_, _>>()?;
        // Entries by themselves, and up to where all of them are known.
        let start = [&[place::SINGLE][..], &from.to_be_bytes()].concat();
        let mut take = limit.max(1);
        let (page, known) = loop {
            let page = self.ledger.page(Table::Suppressions, &[place::SINGLE], &start, take)?;
            let known = page
                .next
                .as_deref()
                .and_then(|next| next.get(1..)?.first_chunk().map(|hash| u64::from_be_bytes(*hash)));
            // All of a hash or nothing: somebody may be on more lists than the page holds.
            if known != Some(from) {
                break (page, known);
            }
            take *= 4;
        };
        let mut singles = Vec::new();
        for (key, value) in page.facts {
            if let (Some(hash), Some(value)) = (place::hash_in(&key), value) {
                singles.push((hash, Block::read(value)?));
            }
        }
        let mut singles = singles.into_iter().peekable();
        let mut entries = Vec::new();
        loop {
            let single = singles.peek().map(|(hash, _)| *hash);
            let Some(hash) = cursors.iter().filter_map(Cursor::hash).chain(single).min() else {
                // Behind the page there may be more; the hash at its end may go on there.
                return Ok(Listed { entries, next: known });
            };
            if entries.len() >= limit || known.is_some_and(|known| hash >= known) {
                return Ok(Listed { entries, next: Some(hash) });
            }
            let mut latest = Latest::default();
            while let Some((_, block)) = singles.next_if(|(other, _)| *other == hash) {
                (0..block.len()).try_for_each(|row| latest.hear(&block.row(row)?, true))?;
            }
            for cursor in &mut cursors {
                while cursor.hash() == Some(hash) {
                    if let Some(row) = cursor.row()? {
                        latest.hear(&row, false)?;
                    }
                    cursor.step()?;
                }
            }
            entries.extend(latest.entries());
        }
    }
}
