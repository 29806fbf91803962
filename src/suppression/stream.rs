//! Imports and listings beside the tasks that ask for them: reading and writing the ledger blocks, so a thread of its own does it.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinHandle;

use super::{Defaults, Entry, Format, Imported, Importer, Listed, Reason, Scope, Suppressions};
use crate::ledger::LedgerError;

/// Pieces of a file that wait to be read; whoever sends more waits.
const PIECES_MAX: usize = 16;
/// Rows of a batch of an import that anybody may begin.
const SMALL_BATCH: usize = 1 << 16;
/// Entries read at once.
const PAGE: usize = 1000;
/// A listing ends after it has looked at so many entries, however few of them were wanted.
const LOOKED_MAX: usize = 50_000;

/// Which entries are wanted; what is not said does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Of this tenant and its lists.
    pub tenant: Option<Box<str>>,
    /// Of this scope.
    pub scope: Option<Scope>,
    /// For this reason.
    pub reason: Option<Reason>,
}

impl Wanted {
    /// Whether it is one of them.
    pub fn wants(&self, entry: &Entry) -> bool {
        let tenant = match &entry.scope {
            Scope::Global => None,
            Scope::Tenant(tenant) | Scope::List { tenant, .. } => Some(tenant),
        };
        self.tenant.as_ref().is_none_or(|wanted| tenant == Some(wanted))
            && self.scope.as_ref().is_none_or(|scope| *scope == entry.scope)
            && self.reason.is_none_or(|reason| reason == entry.reason)
    }
}

/// An import under way. Dropped, it is given up: earlier batches are stored, the last is not.
#[derive(Debug)]
pub struct Importing {
    pieces: mpsc::Sender<Option<Bytes>>,
    thread: JoinHandle<Result<Imported, LedgerError>>,
}

impl Importing {
    /// The next piece of the file; waits while batches are stored. False: it has failed, [`finish`](Importing::finish) says why.
    ///
    /// # Cancel safety
    /// The piece is taken or not.
    pub async fn take(&self, piece: Bytes) -> bool {
        self.pieces.send(Some(piece)).await.is_ok()
    }

    /// The file is at its end; what came of it.
    ///
    /// # Errors
    /// The ledger cannot be written; earlier batches are stored.
    ///
    /// # Cancel safety
    /// The end may be stored all the same.
    pub async fn finish(self) -> Result<Imported, LedgerError> {
        // If it has failed nobody takes this.
        _ = self.pieces.send(None).await;
        self.thread.await.unwrap_or_else(|_| Err(LedgerError("the import ended".into())))
    }
}

impl Suppressions {
    /// A seat for an import that anybody may begin: there are few, so that they do not fill the memory together. Waits for one.
    ///
    /// # Cancel safety
    /// It is given to the next.
    pub async fn seat(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.seats).acquire_owned().await.expect("it is never closed")
    }

    /// Begins an import; with a [`seat`](Suppressions::seat), in small batches. Must be called in a tokio runtime.
    pub fn import(
        self: &Arc<Self>,
        format: Format,
        defaults: Defaults,
        dry_run: bool,
        seat: Option<OwnedSemaphorePermit>,
    ) -> Importing {
        let (pieces, mut given) = mpsc::channel(PIECES_MAX);
        let mut importer = Importer::new(Arc::clone(self), format, defaults, dry_run);
        if seat.is_some() {
            importer = importer.in_batches_of(SMALL_BATCH);
        }
        let thread = tokio::task::spawn_blocking(move || {
            let _seat = seat;
            while let Some(piece) = given.blocking_recv() {
                let piece: Option<Bytes> = piece;
                match piece {
                    Some(piece) => importer.take(&piece)?,
                    None => return importer.finish(),
                }
            }
            Err(LedgerError("the import was given up".into()))
        });
        Importing { pieces, thread }
    }

    /// At most `limit` wanted entries from a place on; or fewer, and where to go on, when few are wanted. Of a subject with many
    /// entries all come at once.
    ///
    /// # Errors
    /// The ledger cannot be read.
    ///
    /// # Cancel safety
    /// It only reads.
    pub async fn page(self: &Arc<Self>, wanted: Wanted, from: u64, limit: usize) -> Result<Listed, LedgerError> {
        let this = Arc::clone(self);
        let looking = tokio::task::spawn_blocking(move || {
            let (mut entries, mut from, mut looked) = (Vec::new(), from, 0);
            loop {
                let listed = this.list(from, PAGE.min(limit.saturating_sub(entries.len())).max(1))?;
                looked += listed.entries.len();
                entries.extend(listed.entries.into_iter().filter(|entry| wanted.wants(entry)));
                match listed.next {
                    Some(next) if entries.len() < limit && looked < LOOKED_MAX => from = next,
                    next => return Ok(Listed { entries, next }),
                }
            }
        });
        looking.await.unwrap_or_else(|_| Err(LedgerError("the look ended".into())))
    }

    /// All wanted entries, some at a time; whoever takes them slowly holds up nobody else. Must be called in a tokio runtime.
    pub fn pages(self: &Arc<Self>, wanted: Wanted) -> mpsc::Receiver<Result<Vec<Entry>, LedgerError>> {
        let (pages, taken) = mpsc::channel(2);
        let this = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let mut from = Some(0);
            while let Some(start) = from {
                let page = match this.list(start, PAGE) {
                    Ok(listed) => {
                        from = listed.next;
                        Ok(listed.entries.into_iter().filter(|entry| wanted.wants(entry)).collect::<Vec<_>>())
                    }
                    Err(error) => {
                        from = None;
                        Err(error)
                    }
                };
                if page.as_ref().is_ok_and(Vec::is_empty) && !pages.is_closed() {
                    continue;
                }
                if pages.blocking_send(page).is_err() {
                    return;
                }
            }
        });
        taken
    }
}
