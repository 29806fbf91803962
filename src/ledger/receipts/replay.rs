//! The records of the receipts' log, and what they show when it is opened.

use std::sync::Arc;

use super::run::Run;
use super::{Batch, State};
use crate::ledger::codec::{BatchHead, CodecError, RunHead};
use crate::log::{Location, Log, Position, Replayed};

pub(super) const BATCH: u8 = 1;
pub(super) const RUN: u8 = 2;

/// What `posthaste spool verify` prints for a record of this log.
pub(in crate::ledger) fn describe(kind: u8, head: &[u8]) -> Result<&'static str, CodecError> {
    match kind {
        BATCH => BatchHead::read(head).map(|_| "batch of receipts"),
        RUN => RunHead::read(head).map(|_| "run of receipts"),
        _ => Err(CodecError("kind")),
    }
}

/// What the log shows when it is opened.
#[derive(Default)]
pub(super) struct Replay {
    batches: Vec<(Location, BatchHead)>,
    runs: Vec<Arc<Run>>,
    replaced: Vec<Position>,
    pub(super) unreadable: u64,
}

impl Replay {
    pub(super) fn visit(&mut self, record: Replayed<'_>) {
        let read = match record.kind {
            BATCH => BatchHead::read(record.head).map(|head| self.batches.push((record.location, head))),
            RUN => RunHead::read(record.head).map(|mut head| {
                self.replaced.append(&mut head.replaces);
                let run = Arc::new(Run::new(record.location, head));
                // Batches in it are in no run that comes before; so they need not be held in memory any longer.
                self.batches.retain(|(location, _)| location.position > run.covers);
                self.runs.push(run);
            }),
            _ => Err(CodecError("kind")),
        };
        if let Err(error) = read {
            self.unreadable += 1;
            tracing::error!(position = ?record.location.position, %error, "a record in the ledger is passed over");
        }
    }

    pub(super) fn finish(self, log: &Log) -> State {
        let Replay { batches, mut runs, replaced, .. } = self;
        let newest = runs.iter().max_by_key(|run| run.covers).map(|run| (run.covers, run.through));
        runs.retain(|run| !replaced.contains(&run.location.position));
        runs.iter().for_each(|run| log.retain(run.location));
        let mut state = State { runs: Arc::new(runs), through: newest.map(|(_, through)| through), ..State::default() };
        for (location, head) in batches {
            if newest.is_some_and(|(covers, _)| location.position <= covers) {
                continue;
            }
            log.retain(location);
            state.batch += 1;
            state.through = Some(head.through);
            state.batches.push_back(Batch { number: state.batch, location, through: head.through });
            state.recent.extend(head.kept.iter().map(|kept| (kept.name, *kept)));
        }
        state
    }
}
