//! Looking back: the lines of one message, as far back as event files are kept.
//!
//! Where those lines stand the indexes say, in some ten reads a file; what no index covers is searched, which takes a while
//! and is rationed.

mod lookup;
#[cfg(test)]
mod tests;
mod told;

use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::index::Recent;
use crate::mail::MessageId;
use lookup::Located;
pub(super) use lookup::Order;
pub use told::{Origin, Told};

/// Searches of files at the same time, over all callers.
const SEARCHES: usize = 2;

/// Callers that wait for their search; more are turned away.
const WAITING: usize = 64;

/// Look-ups by index at the same time. Each is a matter of microseconds.
const LOOKUPS: usize = 8;

/// Octets without index that may be read in passing: the lines that the daemon has in memory, for others.
const IN_PASSING: u64 = 4 << 20;

/// Lines that may be read in passing.
const LINES_IN_PASSING: usize = 1000;

/// Who is older than the oldest line by more than this has no line: messages hardly live that long.
const LIVES_AT_MOST: Duration = Duration::from_secs(31 * 86_400);

/// The event files of a folder.
#[derive(Debug, Clone)]
pub struct Archive {
    dir: PathBuf,
    keep: usize,
    /// What the log that is open has in memory.
    recent: Option<Arc<Recent>>,
    lookups: Arc<Semaphore>,
    searches: Arc<Semaphore>,
    line: Arc<Semaphore>,
}

/// A message could not be looked for.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Too many others are looked for at present.
    #[error("too many messages are being looked for")]
    Busy,
    /// A file that is there cannot be read.
    #[error(transparent)]
    Read(#[from] io::Error),
}

impl Archive {
    /// The files in `dir`, with at most `keep` set aside; one always is, as the log has it. Of a log that is being written,
    /// [`EventLog::archive`](super::EventLog::archive) knows more, and is quicker.
    pub fn new(dir: impl Into<PathBuf>, keep: usize) -> Archive {
        Archive {
            dir: dir.into(),
            keep: keep.max(1),
            recent: None,
            lookups: Arc::new(Semaphore::new(LOOKUPS)),
            searches: Arc::new(Semaphore::new(SEARCHES)),
            line: Arc::new(Semaphore::new(WAITING)),
        }
    }

    pub(super) fn with_recent(self, recent: &Arc<Recent>) -> Archive {
        Archive { recent: Some(Arc::clone(recent)), ..self }
    }

    /// What the lines of a message say, oldest first; none at all if the files do not reach back to it. Less than a
    /// millisecond where there are indexes. Files without are read if they were written to since the message was accepted,
    /// about two seconds a gigabyte: it rests for as long as it reads, since anybody may ask after any number.
    ///
    /// # Errors
    /// See [`ArchiveError`].
    ///
    /// # Cancel safety
    /// Safe; the search ends on its own.
    pub async fn find(&self, id: MessageId) -> Result<Vec<Told>, ArchiveError> {
        self.collect(id, |line| serde_json::from_slice::<Told>(line).ok()).await
    }

    /// The last `count` of them, oldest first; what is older is not read where indexes tell where the lines stand. Otherwise as
    /// [`find`](Archive::find).
    ///
    /// # Errors
    /// See [`ArchiveError`].
    ///
    /// # Cancel safety
    /// Safe; the search ends on its own.
    pub async fn last(&self, id: MessageId, count: usize) -> Result<Vec<Told>, ArchiveError> {
        let mut found = Vec::new();
        let visit = move |line: &[u8], found: &mut Vec<Told>| {
            found.extend(serde_json::from_slice::<Told>(line).ok());
            if found.len() < count { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        self.visit(id, Order::NewestFirst, &mut found, visit).await?;
        found.reverse();
        Ok(found)
    }

    /// The lines themselves, as they were written, oldest first. Otherwise as [`find`](Archive::find).
    ///
    /// # Errors
    /// See [`ArchiveError`].
    ///
    /// # Cancel safety
    /// Safe; the search ends on its own.
    pub async fn lines(&self, id: MessageId) -> Result<Vec<String>, ArchiveError> {
        self.collect(id, |line| String::from_utf8(line.to_vec()).ok()).await
    }

    /// Of a recipient of the message that `matches`: where it came from and how it ended, from the newest line that tells of
    /// an end. `None`: there is none that is kept. `matches` sees the envelope recipient as it was given, and is
    /// called for each line of an end until it says yes. As quick as [`find`](Archive::find) for a message of few recipients; of
    /// more, each line is read until one matches.
    ///
    /// # Errors
    /// See [`ArchiveError`].
    ///
    /// # Cancel safety
    /// Safe; the search ends on its own.
    pub async fn origin(
        &self,
        message: MessageId,
        matches: impl Fn(&str) -> bool + Send + 'static,
    ) -> Result<Option<Origin>, ArchiveError> {
        let mut found = None;
        let visit = move |line: &[u8], found: &mut Option<Origin>| {
            *found = Origin::read(line).filter(|origin| matches(&origin.recipient));
            if found.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        self.visit(message, Order::NewestFirst, &mut found, visit).await?;
        Ok(found)
    }

    async fn collect<T: Send + 'static>(
        &self,
        id: MessageId,
        read: impl Fn(&[u8]) -> Option<T> + Send + 'static,
    ) -> Result<Vec<T>, ArchiveError> {
        let mut found = Vec::new();
        let visit = move |line: &[u8], found: &mut Vec<T>| {
            found.extend(read(line));
            ControlFlow::Continue(())
        };
        self.visit(id, Order::OldestFirst, &mut found, visit).await?;
        Ok(found)
    }

    /// Shows the lines of a message, off the runtime's threads.
    async fn visit<T: Default + Send + 'static>(
        &self,
        id: MessageId,
        order: Order,
        found: &mut T,
        visit: impl Fn(&[u8], &mut T) -> ControlFlow<()> + Send + 'static,
    ) -> Result<(), ArchiveError> {
        let look = Arc::clone(&self.lookups).acquire_owned().await.map_err(io::Error::other)?;
        let archive = self.clone();
        let looking = tokio::task::spawn_blocking(move || -> io::Result<Looked<T, _>> {
            let _look = look;
            let mut located = archive.locate(id)?;
            if located.unindexed() > IN_PASSING || located.lines() > LINES_IN_PASSING {
                return Ok(Looked::Long(located, visit));
            }
            let mut found = T::default();
            match located.visit(order, false, &mut |line| visit(line, &mut found))? {
                true => Ok(Looked::Found(found)),
                // An index lied. Nothing that was shown counts.
                false => Ok(Looked::Long(located, visit)),
            }
        });
        let (mut located, visit) = match looking.await.map_err(io::Error::other)?? {
            Looked::Found(those) => {
                *found = those;
                return Ok(());
            }
            Looked::Long(located, visit) => (located, visit),
        };
        let place = Arc::clone(&self.line).try_acquire_owned().map_err(|_| ArchiveError::Busy)?;
        let permit = Arc::clone(&self.searches).acquire_owned().await.map_err(io::Error::other)?;
        drop(place);
        let search = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            loop {
                let mut found = T::default();
                if located.visit(order, true, &mut |line| visit(line, &mut found))? {
                    return io::Result::Ok(found);
                }
            }
        });
        *found = search.await.map_err(io::Error::other)??;
        Ok(())
    }
}

/// How far a look-up came.
enum Looked<T, V> {
    Found(T),
    /// There is much to be read yet.
    Long(Located, V),
}
