//! Refuse: who must not be mailed, why, until when.
//!
//! An [`Entry`] keeps mail from an address or a whole domain, in a scope: everybody's mail, a tenant's, a list's. It is asked
//! at acceptance and again right before a message is sent ([`Suppressions::check`]); what asks never waits for a disk unless
//! the address is likely to be there.
//!
//! Entries come from operators and files, and from what comes back: a [`Evidence`] of a failed address, a complaint, an
//! unsubscribe ([`Suppressions::learn`]) becomes one by the rules of `[suppression]`.
//!
//! 1. An address becomes a name: SHA-256 of its canonical form (lower case). So a list of hashes works like one of addresses.
//! 2. A filter in memory says "no" to nearly all who are not on the list (`filter.rs`).
//! 3. For the others the ledger is asked: for an entry by itself, and for a block of each run that may hold it (`store.rs`, `run.rs`).
//! 4. Every change is told, by whoever is connected ([`Suppressions::connect`], `telling.rs`); what ends, and what can be merged,
//!    is seen to by [`Suppressions::tend`].

mod batch;
mod bounces;
mod codec;
mod csv;
mod entry;
mod filter;
mod import;
mod learn;
mod place;
#[doc(hidden)]
pub mod probe;
mod read;
mod run;
mod store;
mod stream;
mod telling;
mod tend;
#[cfg(test)]
mod tests;
mod text;

pub use batch::Batch;
pub use entry::{Entry, Reason, Scope, Subject, TextError};
pub use import::{Format, Imported, Importer, RowError, export, export_header};
pub use learn::Evidence;
pub use read::Listed;
pub use stream::{Importing, Wanted};
pub use telling::{Change, Teller, Told, What};
pub use text::{Defaults, EntryText, Wrong};

use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use tokio::sync::Semaphore;

use crate::clock::{Clock, Timestamp};
use crate::config::SuppressionConfig;
use crate::ledger::{Ledger, LedgerError};
use crate::mail::{AddressHost, EnvelopeAddress, Stream};
use crate::telemetry::Metrics;
use batch::{row_of, subject_octets};
use bounces::Bounces;
use codec::{Name, hash_of, name_of, write_context};
use store::Store;
use telling::{Telling, Written};

/// Who changes entries of one address waits for another; of different ones seldom.
const SHARDS: usize = 64;
/// Imports that anybody may begin, at once.
const SEATS: usize = 4;
/// Domains of an address that are looked for: its own and so many above.
const LABELS_MAX: usize = 8;

/// The suppression list. Shared by `Arc`. The default one is in memory only, for tests.
pub struct Suppressions {
    store: Store,
    bounces: Bounces,
    rules: ArcSwap<SuppressionConfig>,
    shards: [tokio::sync::Mutex<()>; SHARDS],
    /// Held by who merges runs.
    merging: Mutex<()>,
    telling: Arc<Telling>,
    /// Of imports that anybody may begin.
    seats: Arc<Semaphore>,
    metrics: Arc<Metrics>,
    clock: Clock,
}

impl Default for Suppressions {
    fn default() -> Suppressions {
        let (ledger, metrics) = (Arc::new(Ledger::default()), Arc::new(Metrics::new()));
        Suppressions::open(ledger, &SuppressionConfig::default(), metrics, Clock).expect("memory can be read")
    }
}

impl std::fmt::Debug for Suppressions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Suppressions").field("entries", &self.store.entries()).finish_non_exhaustive()
    }
}

impl Suppressions {
    /// Reads the list from the ledger: all of it, for the filters. Blocks.
    ///
    /// # Errors
    /// The ledger cannot be read, or holds what a newer version wrote.
    pub fn open(
        ledger: Arc<Ledger>,
        config: &SuppressionConfig,
        metrics: Arc<Metrics>,
        clock: Clock,
    ) -> Result<Suppressions, LedgerError> {
        Ok(Suppressions {
            bounces: Bounces::open(Arc::clone(&ledger))?,
            telling: Arc::new(Telling::open(Arc::clone(&ledger))?),
            store: Store::open(ledger, Arc::clone(&metrics))?,
            rules: ArcSwap::from_pointee(config.clone()),
            shards: std::array::from_fn(|_| tokio::sync::Mutex::new(())),
            merging: Mutex::new(()),
            seats: Arc::new(Semaphore::new(SEATS)),
            metrics,
            clock,
        })
    }

    /// Puts new rules in force. Entries that there are stay as they are.
    pub fn reload(&self, config: &SuppressionConfig) {
        self.rules.store(Arc::new(config.clone()));
    }

    /// The rules in force.
    pub fn rules(&self) -> Arc<SuppressionConfig> {
        self.rules.load_full()
    }

    /// From now on every change is told by `teller`: its lines are durable together with it. The first call counts; call it
    /// before anything is changed.
    pub fn connect(&self, teller: impl Teller + 'static) {
        self.telling.connect(Box::new(teller));
    }

    /// The line of a change of one entry.
    fn line(&self, what: What, entry: &Entry, by: &str) -> Vec<u8> {
        let at = self.clock.timestamp();
        self.telling.lines([Change { at, what, entry: Some(entry), count: 1, tenant: "", by }])
    }

    /// The entry that keeps mail of that stream and list from this address at this time; `None`: it may be sent. Takes a
    /// microsecond for nearly all who are not on the list; for the others it may read from disk.
    ///
    /// # Errors
    /// The ledger cannot be read. Whoever sends must hold the mail back then.
    pub fn check(
        &self,
        stream: &Stream,
        list: Option<&str>,
        address: &EnvelopeAddress,
        now: Timestamp,
    ) -> Result<Option<Arc<Entry>>, LedgerError> {
        let entry = self.look(stream, list, address, now)?;
        if let Some(entry) = &entry {
            self.metrics.suppressed.with_label_values(&[entry.reason.as_str()]).inc();
        }
        Ok(entry.map(Arc::new))
    }

    /// As [`check`](Suppressions::check), for who only wants to know: it is not counted.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn look(
        &self,
        stream: &Stream,
        list: Option<&str>,
        address: &EnvelopeAddress,
        now: Timestamp,
    ) -> Result<Option<Entry>, LedgerError> {
        if self.store.is_empty() {
            return Ok(None);
        }
        let names = self.names(address);
        if !self.store.may_hold(names.iter().map(hash_of)) {
            return Ok(None);
        }
        let scopes = Scope::all_of(stream, list);
        let mut found = Vec::new();
        for name in names.iter().filter(|name| self.store.may_hold(std::iter::once(hash_of(name)))) {
            found.extend(self.store.find(name, Some(&scopes))?);
        }
        // The widest scope counts; within it the address before its domain, as they were found.
        let holds = |scope: &Scope| found.iter().find(|entry| entry.scope == *scope && entry.holds(now)).cloned();
        Ok(scopes.iter().find_map(holds))
    }

    /// The names that may stand for an address: its own, without its tag, its domain's, those above.
    fn names(&self, address: &EnvelopeAddress) -> smallvec::SmallVec<[Name; 4]> {
        let rules = self.rules.load();
        let mut text = address.to_string();
        if text.is_ascii() {
            text.make_ascii_lowercase();
        } else {
            text = text.to_lowercase();
        }
        let mut names = smallvec::smallvec![name_of(text.as_bytes())];
        if rules.subaddress
            && let Some(base) = without_tag(&text)
        {
            names.push(name_of(base.as_bytes()));
        }
        if let AddressHost::Domain(domain) = address.host() {
            // The host stands at the end of the text, with its `@`.
            let at = text.len() - domain.as_str().len() - 1;
            names.push(name_of(&text.as_bytes()[at..]));
            if rules.subdomains {
                let above = domain.as_str().match_indices('.').map(|(dot, _)| &domain.as_str()[dot + 1..]);
                names.extend(above.take(LABELS_MAX).map(|above| name_of(format!("@{above}").as_bytes())));
            }
        }
        names
    }

    /// Adds entries, all or none, over older ones of the same scope and subject. They hold once this resolves. For more than some
    /// thousands there is [`add_run`](Suppressions::add_run).
    ///
    /// # Errors
    /// The ledger cannot be written, and nothing was added; or it was, and cannot be told of yet.
    ///
    /// # Cancel safety
    /// They may be added all the same, and are told of then.
    pub async fn add(&self, new: Vec<Entry>) -> Result<(), LedgerError> {
        let locks = self.lock(new.iter().map(|entry| hash_of(&entry.subject.name()))).await;
        let lines = new.iter().flat_map(|entry| self.line(What::Added, entry, &entry.source)).collect();
        let written = self.put(&new, lines).await?;
        drop(locks);
        written.told().await
    }

    /// Stores many at once, all or none, over older ones; how many there are, of those about the same counted once. One change tells of
    /// them. Blocks.
    ///
    /// # Errors
    /// The ledger cannot be written; nothing was added.
    pub fn add_run(&self, many: Batch, by: &str) -> Result<u64, LedgerError> {
        let tenant: Box<str> = many.tenant().unwrap_or_default().into();
        let at = self.clock.timestamp();
        let line = |count| Change { at, what: What::Added, entry: None, count, tenant: &tenant, by };
        let (count, lines) =
            many.store(&self.store, &mut |count| self.telling.begin(self.telling.lines([line(count)])))?;
        lines.into_iter().for_each(|lines| self.telling.tell(lines, None));
        self.merge(batch::RUNS_MAX)?;
        Ok(count)
    }

    /// The shards of these hashes, in order, so that two who take several never wait for each other.
    async fn lock(&self, hashes: impl Iterator<Item = u64>) -> Vec<tokio::sync::MutexGuard<'_, ()>> {
        let mut shards: Vec<usize> = hashes.map(|hash| (hash % SHARDS as u64) as usize).collect();
        shards.sort_unstable();
        shards.dedup();
        let mut locks = Vec::with_capacity(shards.len());
        for shard in shards {
            locks.push(self.shards[shard].lock().await);
        }
        locks
    }

    /// Writes entries by themselves, and the lines that tell of them; whoever calls this holds their shards.
    async fn put(&self, new: &[Entry], lines: Vec<u8>) -> Result<Written, LedgerError> {
        let kept: Vec<_> = new
            .iter()
            .map(|entry| {
                let name = entry.subject.name();
                (name, write_context(&entry.scope, entry.reason, &entry.source), subject_octets(&entry.subject))
            })
            .collect();
        let epoch = self.store.epoch();
        // Of two about the same the later counts.
        let mut rows = std::collections::BTreeMap::new();
        for (entry, (name, context, subject)) in new.iter().zip(&kept) {
            let row = row_of(entry, context, subject, hash_of(name), epoch);
            let scope = row.scope().map_err(|error| LedgerError(error.to_string()))?.to_vec();
            rows.insert((*name, scope), row);
        }
        let mut before = Vec::new();
        for (name, scope) in rows.keys() {
            before.extend(self.store.single_there(name, scope)?);
        }
        let after: Vec<_> = rows.values().copied().collect();
        let facts = self.store.facts_of(&after)?;
        let added = facts.iter().filter(|(key, _)| key.first() == Some(&place::SINGLE));
        let added: Vec<_> = added.filter_map(|(_, value)| value.clone()).collect();
        // First: if nobody waits for this any more, they are written and found all the same.
        self.store.let_find(after.iter().map(|row| row.hash));
        let written = self.telling.write(facts, lines).await?;
        before.into_iter().for_each(|value| self.store.count_single(value, -1));
        added.into_iter().for_each(|value| self.store.count_single(value, 1));
        self.store.publish();
        Ok(written)
    }

    /// Takes an entry out; whether there was one. `by`: who does so.
    ///
    /// # Errors
    /// The ledger cannot be written, and nothing was changed; or it was, and cannot be told of yet.
    ///
    /// # Cancel safety
    /// It may be removed all the same, and is told of then.
    pub async fn remove_by(&self, scope: &Scope, subject: &Subject, by: &str) -> Result<bool, LedgerError> {
        let name = subject.name();
        let locks = self.lock(std::iter::once(hash_of(&name))).await;
        let found = self.store.find(&name, Some(std::slice::from_ref(scope)))?;
        let Some(entry) = found.into_iter().next() else { return Ok(false) };
        let written = self.take_out(&name, &entry, self.line(What::Removed, &entry, by)).await?;
        drop(locks);
        written.told().await.map(|()| true)
    }

    /// As [`remove_by`](Suppressions::remove_by) the operator.
    ///
    /// # Errors
    /// See [`remove_by`](Suppressions::remove_by).
    pub async fn remove(&self, scope: &Scope, subject: &Subject) -> Result<bool, LedgerError> {
        self.remove_by(scope, subject, "operator").await
    }

    /// Removes an entry that is there, and writes the lines that tell of it; whoever calls this holds its shard.
    async fn take_out(&self, name: &Name, entry: &Entry, lines: Vec<u8>) -> Result<Written, LedgerError> {
        let context = write_context(&entry.scope, entry.reason, &entry.source);
        let subject = subject_octets(&entry.subject);
        let row = row_of(entry, &context, &subject, hash_of(name), self.store.epoch());
        let scope = row.scope().map_err(|error| LedgerError(error.to_string()))?;
        let before = self.store.single_there(name, scope)?;
        let (key, value) = self.store.fact_of_removal(name, &row)?;
        let gone = value.is_some();
        let mut facts = Vec::new();
        if let Some(until) = entry.until.filter(|_| before.is_some()) {
            facts.push((place::end(until, &key), None));
        }
        facts.push((key, value));
        if gone {
            self.store.let_find(std::iter::once(row.hash));
        }
        let written = self.telling.write(facts, lines).await?;
        before.into_iter().for_each(|value| self.store.count_single(value, -1));
        self.store.publish();
        Ok(written)
    }
}

/// An address in lower case without what follows the first `+` of its local part; `None`: it has none, or is quoted.
fn without_tag(address: &str) -> Option<String> {
    let at = address.rfind('@')?;
    let plus = address[..at].find('+').filter(|plus| *plus > 0 && !address.starts_with('"'))?;
    Some(format!("{}{}", &address[..plus], &address[at..]))
}
