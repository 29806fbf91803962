//! What is seen to from time to time: entries that end, runs to be merged, what crashes left.

use std::sync::Arc;
use std::time::Duration;

use super::codec::{Block, hash_of};
use super::{Change, Suppressions, What, batch, place};
use crate::clock::Timestamp;
use crate::ledger::{LedgerError, Table};

/// How often ends are looked for.
const EVERY: Duration = Duration::from_secs(60);
/// Every so many times what takes longer is done too.
const LONG: u64 = 60;
/// Ends looked at in one go.
const PAGE: usize = 1000;

/// Who does it.
const BY: &str = "daemon";

impl Suppressions {
    /// Sees to the list until it is dropped. Cancel it when the daemon stops, before the ledger is closed.
    pub async fn tend(self: Arc<Self>) {
        // Beside each other: lines wait for as long as the disk is full.
        tokio::join!(self.keep_telling(), self.keep_tidy());
    }

    /// Tells what a crash may have kept from being told; later, what could not be written.
    async fn keep_telling(&self) {
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.telling.tell_again().await;
        }
    }

    async fn keep_tidy(self: &Arc<Self>) {
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let epoch = self.store.epoch();
        for round in 0u64.. {
            tick.tick().await;
            if let Err(error) = self.expire(self.clock.timestamp()).await {
                tracing::warn!(%error, "entries of the suppression list that have ended are not removed yet");
            }
            if !round.is_multiple_of(LONG) {
                continue;
            }
            let this = Arc::clone(self);
            let long = tokio::task::spawn_blocking(move || {
                if round == 0 {
                    this.store.remove_orphans(epoch)?;
                }
                this.bounces.tidy(this.clock.timestamp(), &this.rules.load())?;
                this.merge(batch::RUNS_AT_REST)
            });
            match long.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "the suppression list could not be tidied up"),
                Err(_) => return,
            }
        }
    }

    /// Removes entries by themselves that have ended.
    pub(super) async fn expire(&self, now: Timestamp) -> Result<(), LedgerError> {
        loop {
            let page = self.store.ledger.page(Table::Suppressions, &[place::END], &[place::END], PAGE)?;
            let ends = page.facts.iter().filter_map(|(key, _)| Some((key, place::end_in(key)?)));
            let ended: Vec<_> = ends.take_while(|(_, (until, _))| *until <= now).collect();
            if ended.is_empty() {
                return Ok(());
            }
            for (end, (_, single)) in ended {
                self.end(end, single, now).await?;
            }
        }
    }

    /// Removes an entry if it has ended: another may have taken its place.
    async fn end(&self, end: &[u8], single: &[u8], now: Timestamp) -> Result<(), LedgerError> {
        let ledger = &self.store.ledger;
        let Some(hash) = place::hash_in(single) else {
            return ledger.put(Table::Suppressions, vec![(end.to_vec(), None)]).await;
        };
        let _locks = self.lock(std::iter::once(hash)).await;
        if let Some(value) = ledger.get(Table::Suppressions, single)? {
            let read =
                || Block::read(value).and_then(|block| block.row(0).and_then(|row| Ok((row.name()?, row.entry()?))));
            let (name, entry) = read().map_err(|error| LedgerError(error.to_string()))?;
            if let Some(entry) = entry.filter(|entry| !entry.holds(now)) {
                debug_assert_eq!(hash_of(&name), hash);
                // Nobody waits for the telling: it goes on by itself.
                self.take_out(&name, &entry, self.line(What::Expired, &entry, BY)).await?;
            }
        }
        ledger.put(Table::Suppressions, vec![(end.to_vec(), None)]).await
    }

    /// Merges runs until there are at most `runs_max`, for as long as there are some to be merged. Blocks.
    pub(super) fn merge(&self, runs_max: usize) -> Result<(), LedgerError> {
        let _merging = self.merging.lock().expect("no code panics under this lock");
        loop {
            let now = self.clock.timestamp();
            let runs = batch::to_merge(&self.store.inner().runs, runs_max, now);
            if runs.is_empty() {
                return Ok(());
            }
            let line = |count| Change { at: now, what: What::Expired, entry: None, count, tenant: "", by: BY };
            batch::merge(&self.store, &runs, now, &mut |count| self.telling.begin(self.telling.lines([line(count)])))?
                .into_iter()
                .for_each(|lines| self.telling.tell(lines, None));
        }
    }
}
