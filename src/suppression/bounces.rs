//! How often addresses failed for good, in the ledger: a record an address, until it takes mail or the window has passed.

use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use bytes::Bytes;

use super::codec::{Name, hash_of, name_of};
use super::filter::Filter;
use crate::clock::Timestamp;
use crate::config::SuppressionConfig;
use crate::ledger::{Ledger, LedgerError, Table};

const VERSION: u8 = 1;
/// Octets of a name that stand in a key.
const KEY_LEN: usize = 16;
/// Facts looked at in one go.
const PAGE: usize = 4096;
/// The filter is made for so many; it is made anew, larger, when it is full.
const FILTER_MIN: usize = 1 << 16;

/// When an address failed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Failures {
    /// In order.
    pub times: Vec<Timestamp>,
    /// What the last was told by, as a hash.
    pub evidence: u64,
}

impl Failures {
    /// Notes one more. False: it does not count.
    pub(super) fn note(&mut self, at: Timestamp, evidence: &str, rules: &SuppressionConfig) -> bool {
        let evidence = hash_of(&name_of(evidence.as_bytes()));
        self.times.retain(|time| at.since(*time) < rules.hard_bounce_window);
        let soon = self.times.last().is_some_and(|last| at.since(*last) < rules.hard_bounce_apart);
        if soon || evidence == self.evidence && !self.times.is_empty() {
            return false;
        }
        self.times.push(at);
        self.evidence = evidence;
        true
    }

    pub(super) fn write(&self) -> Bytes {
        let times = self.times.iter().flat_map(|time| time.0.to_le_bytes());
        std::iter::once(VERSION).chain(self.evidence.to_le_bytes()).chain(times).collect()
    }

    /// What cannot be read was never counted.
    pub(super) fn read(octets: &[u8]) -> Failures {
        let read = || {
            let (evidence, times) = octets.strip_prefix(&[VERSION])?.split_first_chunk()?;
            let (times, rest) = times.as_chunks();
            let times = times.iter().map(|time| Timestamp(u64::from_le_bytes(*time))).collect();
            rest.is_empty().then_some(Failures { times, evidence: u64::from_le_bytes(*evidence) })
        };
        read().unwrap_or_default()
    }
}

/// Which addresses failed lately.
#[derive(Debug)]
pub(super) struct Bounces {
    ledger: Arc<Ledger>,
    filter: ArcSwap<Filter>,
    /// Hashes in it; who makes it anew holds this.
    held: Mutex<usize>,
}

fn key(name: &Name) -> &[u8] {
    &name[..KEY_LEN]
}

impl Bounces {
    /// Reads what is in the ledger. Blocks.
    pub(super) fn open(ledger: Arc<Ledger>) -> Result<Bounces, LedgerError> {
        let (filter, held) = Bounces::filter(&ledger)?;
        Ok(Bounces { ledger, filter: ArcSwap::from_pointee(filter), held: Mutex::new(held) })
    }

    fn filter(ledger: &Ledger) -> Result<(Filter, usize), LedgerError> {
        let mut hashes = Vec::new();
        let mut from = Some(Vec::new());
        while let Some(start) = from {
            let page = ledger.page(Table::HardBounces, &[], &start, PAGE)?;
            hashes.extend(
                page.facts.iter().filter_map(|(key, _)| key.first_chunk().map(|hash| u64::from_be_bytes(*hash))),
            );
            from = page.next;
        }
        let filter = Filter::new((hashes.len() * 2).max(FILTER_MIN));
        hashes.iter().for_each(|hash| filter.insert(*hash));
        Ok((filter, hashes.len()))
    }

    /// "No" is sure.
    pub(super) fn may_hold(&self, name: &Name) -> bool {
        self.filter.load().may_hold(hash_of(name))
    }

    pub(super) fn get(&self, name: &Name) -> Result<Failures, LedgerError> {
        if !self.may_hold(name) {
            return Ok(Failures::default());
        }
        let found = self.ledger.get(Table::HardBounces, key(name))?;
        Ok(found.map(|octets| Failures::read(&octets)).unwrap_or_default())
    }

    /// Durable when it resolves. `None`: they are forgotten.
    pub(super) async fn put(&self, name: &Name, failures: Option<&Failures>) -> Result<(), LedgerError> {
        self.ledger.put(Table::HardBounces, vec![(key(name).to_vec(), failures.map(Failures::write))]).await?;
        if failures.is_some() {
            let mut held = self.held.lock().expect("no code panics under this lock");
            let filter = self.filter.load();
            *held += usize::from(!filter.may_hold(hash_of(name)));
            filter.insert(hash_of(name));
        }
        Ok(())
    }

    /// Forgets those whose last failure is out of the window, and makes the filter anew if it is full. Blocks.
    pub(super) fn tidy(&self, now: Timestamp, rules: &SuppressionConfig) -> Result<(), LedgerError> {
        let mut from = Some(Vec::new());
        while let Some(start) = from {
            let page = self.ledger.page(Table::HardBounces, &[], &start, PAGE)?;
            let old = page.facts.into_iter().filter(|(_, value)| {
                let failures = value.as_deref().map(Failures::read).unwrap_or_default();
                failures.times.last().is_none_or(|last| now.since(*last) >= rules.hard_bounce_window)
            });
            let old: Vec<_> = old.map(|(key, _)| (key, None)).collect();
            if !old.is_empty() {
                // Whether it works is of no matter: it is done again.
                self.ledger.put_then(Table::HardBounces, old, |_| ());
            }
            from = page.next;
        }
        let mut held = self.held.lock().expect("no code panics under this lock");
        if *held > self.filter.load().room() {
            let (filter, count) = Bounces::filter(&self.ledger)?;
            self.filter.store(Arc::new(filter));
            *held = count;
        }
        Ok(())
    }
}
