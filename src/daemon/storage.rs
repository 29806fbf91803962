//! What is on disk: the event log, the ledger and the spool, opened in the order in which each needs the one before, and
//! closed the other way round.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use crate::clock::Clock;
use crate::config::Config;
use crate::events::EventLog;
use crate::ledger::Ledger;
use crate::log::{DiskFiles, Position};
use crate::spool::{Opened, Outlets, Spool};
use crate::suppression::Suppressions;
use crate::telemetry::Metrics;

/// How often segments are looked for that may be used again.
const FREE_EVERY: Duration = Duration::from_millis(200);

/// Every so many times, also for what is worth copying so that they may.
const RECLAIM_EVERY: u32 = 5;

/// Segments emptied before the next look, so that a disk that refuses copies is not asked without pause.
const ROUNDS_MAX: usize = 64;

/// What is open.
#[derive(Clone)]
pub(super) struct Storage {
    pub(super) events: Arc<EventLog>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) spool: Arc<Spool>,
}

impl Storage {
    /// Opens all of it; and what the spool has to say of what it found.
    pub(super) async fn open(
        config: &Config,
        clock: Clock,
        metrics: &Arc<Metrics>,
    ) -> anyhow::Result<(Storage, Opened)> {
        // The event log first: where it ends decides which events the spool hands over again.
        let (events, exported) = EventLog::open(&config.data_dir.join("events"), &config.events, Arc::clone(metrics))
            .context("the event log in data_dir")?;
        let events = Arc::new(events);
        // The ledger before the spool too, which hands over again the keys that it does not know.
        let ledger = open_ledger(config, clock, metrics).await?;
        let (spool, opened) = open_spool(config, clock, metrics, exported, &events, &ledger).await?;
        let floor = Arc::clone(&spool);
        events.on_synced(Box::new(move |segment| floor.set_exported(segment)));
        Ok((Storage { events, ledger, spool }, opened))
    }

    /// Syncs what waits and closes the spool, then the ledger and the event log, which hear of it.
    pub(super) async fn close(self) {
        let last = tokio::task::spawn_blocking(move || {
            self.spool.close();
            self.ledger.close();
            self.events.close();
        });
        if let Err(error) = last.await {
            tracing::error!(error = %error, "the spool did not close cleanly");
        }
    }
}

async fn open_ledger(config: &Config, clock: Clock, metrics: &Arc<Metrics>) -> anyhow::Result<Arc<Ledger>> {
    let dir = config.data_dir.join("ledger");
    let (limits, metrics) = (config.ledger.clone(), Arc::clone(metrics));
    let open = move || {
        let opened = Ledger::open(&dir, &limits, Arc::new(DiskFiles), metrics, clock);
        opened.with_context(|| format!("ledger in {}", dir.display())).map(Arc::new)
    };
    tokio::task::spawn_blocking(open).await?
}

pub(super) async fn open_suppressions(
    config: &Config,
    clock: Clock,
    metrics: &Arc<Metrics>,
    ledger: &Arc<Ledger>,
) -> anyhow::Result<Arc<Suppressions>> {
    let (rules, metrics, ledger) = (config.suppression.clone(), Arc::clone(metrics), Arc::clone(ledger));
    let open = move || Suppressions::open(ledger, &rules, metrics, clock).context("the suppression list");
    Ok(Arc::new(tokio::task::spawn_blocking(open).await??))
}

async fn open_spool(
    config: &Config,
    clock: Clock,
    metrics: &Arc<Metrics>,
    exported: Option<Position>,
    events: &Arc<EventLog>,
    ledger: &Arc<Ledger>,
) -> anyhow::Result<(Arc<Spool>, Opened)> {
    let dir = config.data_dir.join("spool");
    let (limits, metrics, events) = (config.spool.clone(), Arc::clone(metrics), Arc::clone(events));
    let ledger = Arc::clone(ledger);
    let open = move || {
        let export = Arc::new(move |position, lines| events.write(position, lines));
        let outlets = Outlets { exported, export, ledger };
        let files = Arc::new(DiskFiles);
        let (spool, opened) = Spool::open(&dir, &limits, files, metrics, outlets, clock)
            .with_context(|| format!("spool in {}", dir.display()))?;
        tracing::info!(messages = opened.messages, segments = opened.log.segments, "spool open");
        Ok::<_, anyhow::Error>((spool, opened))
    };
    tokio::task::spawn_blocking(open).await?
}

/// Gives dead disk space back; once a second, and for as long as there is more to do, by copying too.
pub(super) async fn housekeep(spool: Arc<Spool>) {
    let mut tick = tokio::time::interval(FREE_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for round in (0..RECLAIM_EVERY).cycle() {
        tick.tick().await;
        for _ in 0..ROUNDS_MAX {
            let spool = Arc::clone(&spool);
            let reclaim = move || match round {
                0 => spool.reclaim(),
                _ => {
                    spool.free();
                    Ok(false)
                }
            };
            match tokio::task::spawn_blocking(reclaim).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => break,
                Ok(Err(error)) => {
                    tracing::error!(error = %error, "disk space of the spool could not be reclaimed");
                    break;
                }
                Err(_) => return,
            }
        }
    }
}
