//! Telling: every change of the list is told by event lines, also when the power goes in between.
//!
//! | step | what a crash after it leaves |
//! |---|---|
//! | the change and its lines, in one record of the ledger | lines that are told again at the next start |
//! | the lines on disk where events are told from | the same, but whoever tells them sees that they stand there already |
//! | the lines go from the ledger | nothing |
//!
//! Lines that cannot be written (a full disk) are tried again every minute.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::store::FactOf;
use super::{Entry, place};
use crate::clock::Timestamp;
use crate::ledger::{Ledger, LedgerError, Table};

/// Octets of lines that stand in the ledger as one fact.
const PIECE: usize = 256 << 10;

/// What became of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change<'a> {
    /// When.
    pub at: Timestamp,
    /// What.
    pub what: What,
    /// Of which entry; `None`: of many.
    pub entry: Option<&'a Entry>,
    /// How many.
    pub count: u64,
    /// Of many: the tenant that all of them are of; empty: everybody's, or of several.
    pub tenant: &'a str,
    /// Who did so.
    pub by: &'a str,
}

/// What a [`Change`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// They hold from now on.
    Added,
    /// Somebody took them out.
    Removed,
    /// Their time is over.
    Expired,
}

impl What {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            What::Added => "added",
            What::Removed => "removed",
            What::Expired => "expired",
        }
    }
}

/// Who tells of changes.
pub trait Teller: Send + Sync {
    /// The event line of a change.
    fn line(&self, change: &Change<'_>) -> Vec<u8>;

    /// Tells these lines and then says so by [`Told::done`], once they are on disk. It must not block.
    fn tell(&self, lines: Bytes, told: Told);

    /// As [`tell`](Teller::tell), of lines that may have been told before a crash, or may not.
    fn tell_again(&self, lines: Bytes, told: Told) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// To be called when lines were told. Dropped before that, they are told again later.
#[must_use = "dropped, it says that the lines could not be told"]
pub struct Told {
    desk: Arc<Telling>,
    number: u64,
    /// `None`: it is done.
    lines: Option<Bytes>,
    waiting: Option<oneshot::Sender<()>>,
}

impl Told {
    /// The lines are on disk.
    pub fn done(mut self) {
        self.lines = None;
        // If this is lost they are told again, or rather not, since they stand there.
        let facts = vec![(place::telling(self.number), None)];
        self.desk.ledger.put_then(Table::Suppressions, facts, |_| ());
        self.waiting.take().map(|waiting| waiting.send(()));
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        if let Some(lines) = self.lines.take() {
            self.desk.untold().insert(self.number, lines);
        }
    }
}

impl std::fmt::Debug for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Told").field("number", &self.number).finish_non_exhaustive()
    }
}

/// Lines that stand in the ledger with the change they tell of, or soon will.
pub(super) struct Lines {
    number: u64,
    lines: Bytes,
}

impl Lines {
    /// What goes into the ledger with the change.
    pub(super) fn fact(&self) -> FactOf {
        (place::telling(self.number), Some(self.lines.clone()))
    }
}

/// A change that is durable, and perhaps not told yet.
#[derive(Debug)]
pub(super) struct Written(Vec<oneshot::Receiver<()>>);

impl Written {
    /// Until it is told, durably.
    ///
    /// # Errors
    /// It could not be told, and will be later.
    pub(super) async fn told(self) -> Result<(), LedgerError> {
        for told in self.0 {
            told.await.map_err(|_| LedgerError("what was stored cannot be told of yet".into()))?;
        }
        Ok(())
    }
}

/// What is being told, and what has to be told again.
pub(super) struct Telling {
    ledger: Arc<Ledger>,
    teller: OnceLock<Box<dyn Teller>>,
    next: AtomicU64,
    untold: Mutex<BTreeMap<u64, Bytes>>,
}

impl Telling {
    /// Reads what a crash left. Blocks.
    pub(super) fn open(ledger: Arc<Ledger>) -> Result<Telling, LedgerError> {
        let left = ledger.scan(Table::Suppressions, &[place::TELLING])?;
        let untold: BTreeMap<_, _> =
            left.into_iter().filter_map(|(key, lines)| Some((place::telling_in(&key)?, lines))).collect();
        let next = untold.last_key_value().map_or(0, |(number, _)| number + 1);
        Ok(Telling { ledger, teller: OnceLock::new(), next: AtomicU64::new(next), untold: Mutex::new(untold) })
    }

    /// The first one counts.
    pub(super) fn connect(&self, teller: Box<dyn Teller>) {
        _ = self.teller.set(teller);
    }

    /// The lines of changes, as whoever is connected puts it.
    pub(super) fn lines<'a>(&self, changes: impl IntoIterator<Item = Change<'a>>) -> Vec<u8> {
        let line = |change| self.teller.get().map(|teller| teller.line(&change));
        changes.into_iter().filter_map(line).flatten().collect()
    }

    /// Lines on their way into the ledger; none if there is nobody who would tell them.
    pub(super) fn begin(&self, lines: Vec<u8>) -> Vec<Lines> {
        let pieces = pieces(lines.into()).filter(|_| self.teller.get().is_some());
        pieces.map(|lines| Lines { number: self.next.fetch_add(1, Ordering::Relaxed), lines }).collect()
    }

    /// They are durable with their change: tells them.
    pub(super) fn tell(self: &Arc<Self>, new: Lines, waiting: Option<oneshot::Sender<()>>) {
        let Lines { number, lines } = new;
        let told = Told { desk: Arc::clone(self), number, lines: Some(lines.clone()), waiting };
        if let Some(teller) = self.teller.get() {
            teller.tell(lines, told);
        }
    }

    /// Writes facts and the lines that tell of them, all or nothing; then tells these. Once begun it goes on by itself.
    ///
    /// # Errors
    /// Nothing was written.
    pub(super) async fn write(self: &Arc<Self>, facts: Vec<FactOf>, lines: Vec<u8>) -> Result<Written, LedgerError> {
        let (new, mut facts) = (self.begin(lines), facts);
        facts.extend(new.iter().map(Lines::fact));
        let (waiting, told): (Vec<_>, Vec<_>) = new.iter().map(|_| oneshot::channel()).unzip();
        let (durable, is_durable) = oneshot::channel();
        let desk = Arc::clone(self);
        // On the log's thread: it is told in the order in which it was written, whether anybody waits for it or not.
        self.ledger.put_then(Table::Suppressions, facts, move |result| {
            if result.is_ok() {
                new.into_iter().zip(waiting).for_each(|(new, waiting)| desk.tell(new, Some(waiting)));
            }
            _ = durable.send(result);
        });
        is_durable.await.unwrap_or_else(|_| Err(LedgerError("it is closed".into())))?;
        Ok(Written(told))
    }

    /// Tells what could not be told, or may not have been when the power went. What cannot be told now stays for the next time.
    pub(super) async fn tell_again(self: &Arc<Self>) {
        let Some(teller) = self.teller.get() else { return };
        let untold = std::mem::take(&mut *self.untold());
        for (number, lines) in untold {
            let told = Told { desk: Arc::clone(self), number, lines: Some(lines.clone()), waiting: None };
            teller.tell_again(lines, told).await;
        }
    }

    fn untold(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Bytes>> {
        self.untold.lock().expect("no code panics under this lock")
    }
}

/// Whole lines, a piece at a time.
fn pieces(lines: Bytes) -> impl Iterator<Item = Bytes> {
    let mut rest = lines;
    std::iter::from_fn(move || {
        let long = rest.get(PIECE..).map_or(rest.len(), |behind| {
            let line = |at: usize| at + 1;
            let within = memchr::memrchr(b'\n', &rest[..PIECE]).map(line);
            within.or(memchr::memchr(b'\n', behind).map(|at| PIECE + line(at))).unwrap_or(rest.len())
        });
        (!rest.is_empty()).then(|| rest.split_to(long))
    })
}

#[cfg(test)]
pub(super) mod tests;
