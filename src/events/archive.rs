//! Looking back: the lines of one message, as far back as event files are kept.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use serde::Deserialize;
use tokio::sync::Semaphore;

use crate::clock::{Clock, Timestamp};

use crate::mail::MessageId;

/// Octets read at a time. Lines are far shorter.
const BLOCK: usize = 1 << 20;

/// The longest rest behind a block.
const REST_MAX: Duration = Duration::from_millis(100);

/// Searches of files at the same time, over all callers.
const SEARCHES: usize = 2;

/// Callers that wait for their search; more are turned away.
const WAITING: usize = 64;

/// Who is older than the oldest line by more than this has no line: messages hardly live that long.
const LIVES_AT_MOST: Duration = Duration::from_secs(31 * 86_400);

/// The event files of a folder.
#[derive(Debug, Clone)]
pub struct Archive {
    dir: PathBuf,
    keep: usize,
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

/// What a line says of a recipient.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Told {
    /// What happened.
    pub event: String,
    /// To whom.
    pub recipient: String,
    /// The envelope sender.
    pub sender: String,
    /// The tenant.
    pub tenant: String,
    /// The class.
    pub class: String,
    /// The campaign.
    pub campaign: String,
    /// The list.
    pub list: String,
    /// Our source, by name.
    pub source: String,
    /// The host spoken to.
    pub mx_host: String,
    /// When the message was accepted; empty in lines about what came back.
    pub accepted_at: String,
    /// Number of the attempt.
    pub attempt: u32,
    /// The reply's code.
    pub code: u16,
    /// Its enhanced code.
    pub enhanced: String,
    /// Its text.
    pub reply: String,
}

impl Archive {
    /// The files in `dir`, with at most `keep` set aside; one always is, as the log has it.
    pub fn new(dir: impl Into<PathBuf>, keep: usize) -> Archive {
        let (searches, line) = (Arc::new(Semaphore::new(SEARCHES)), Arc::new(Semaphore::new(WAITING)));
        Archive { dir: dir.into(), keep: keep.max(1), searches, line }
    }

    /// All lines of a message, oldest first. Reads every file that was written to since the message was accepted, about
    /// two seconds a gigabyte: it rests for as long as it reads, since anybody may ask after any number. None at all if the files do
    /// not reach back to the message.
    ///
    /// # Errors
    /// See [`ArchiveError`].
    ///
    /// # Cancel safety
    /// Safe; the search ends on its own.
    pub async fn find(&self, id: MessageId) -> Result<Vec<Told>, ArchiveError> {
        let place = Arc::clone(&self.line).try_acquire_owned().map_err(|_| ArchiveError::Busy)?;
        let permit = Arc::clone(&self.searches).acquire_owned().await.map_err(io::Error::other)?;
        drop(place);
        let archive = self.clone();
        let search = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            archive.search(id)
        });
        Ok(search.await.map_err(io::Error::other)??)
    }

    fn search(&self, id: MessageId) -> io::Result<Vec<Told>> {
        let mut files = Vec::new();
        // The present one first: what is set aside while we open the others is among them, too, and seen twice at worst.
        for age in 0..=self.keep {
            let name = if age == 0 { "events.jsonl".into() } else { format!("events.jsonl.{age}") };
            match File::open(self.dir.join(name)) {
                Ok(file) if ended_before(&file, id.time().0)? => break,
                Ok(file) => files.push(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        if let Some(oldest) = files.last()
            && first_time(oldest)?.is_some_and(|first| id.time().after(LIVES_AT_MOST) < first)
        {
            return Ok(Vec::new());
        }
        let needle = format!("\"message_id\":\"{id}\"");
        let finder = memchr::memmem::Finder::new(&needle);
        let mut found = Vec::new();
        for file in files.into_iter().rev() {
            lines(file, |lines| {
                // One look at the whole block; most hold nothing.
                if finder.find(lines).is_some() {
                    let those = lines.split(|b| *b == b'\n').filter(|line| finder.find(line).is_some());
                    found.extend(those.filter_map(|line| serde_json::from_slice::<Told>(line).ok()));
                }
            })?;
        }
        found.dedup();
        Ok(found)
    }
}

/// Whether nothing was written to the file since `time`, in milliseconds since 1970. A clock that was set back hides
/// nothing: a minute is allowed for.
fn ended_before(file: &File, time: u64) -> io::Result<bool> {
    let written = file.metadata()?.modified()?;
    let written = written.duration_since(UNIX_EPOCH).map_or(u64::MAX, |since| since.as_millis() as u64);
    Ok(written.saturating_add(60_000) < time)
}

/// When the first line was written; `None`: there is none, or it cannot be read.
fn first_time(file: &File) -> io::Result<Option<Timestamp>> {
    #[derive(Deserialize)]
    struct Line<'a> {
        time: &'a str,
    }
    let mut start = vec![0; 16 << 10];
    let read = file.read_at(&mut start, 0)?;
    let line = start[..read].split(|b| *b == b'\n').next().unwrap_or_default();
    Ok(serde_json::from_slice::<Line<'_>>(line).ok().and_then(|line| Timestamp::parse_rfc3339(line.time)))
}

/// Shows the file's whole lines, a block at a time, with a rest behind each.
fn lines(mut file: File, mut show: impl FnMut(&[u8])) -> io::Result<()> {
    let mut block = Vec::with_capacity(BLOCK);
    loop {
        let begun = Clock.instant();
        let read = (&mut file).take((BLOCK - block.len().min(BLOCK - 1)) as u64).read_to_end(&mut block)?;
        if read == 0 {
            return Ok(());
        }
        let whole = memchr::memrchr(b'\n', &block).map_or(0, |at| at + 1);
        show(&block[..whole]);
        block.drain(..whole);
        std::thread::sleep((Clock.instant() - begun).min(REST_MAX));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn finds_the_lines_of_a_message_in_all_files() {
        let dir = tempfile::tempdir().unwrap();
        let line = |id: u64, event: &str| {
            let id = MessageId(id << 22);
            format!("{{\"event\":\"{event}\",\"message_id\":\"{id}\",\"recipient\":\"a@b.example\",\"attempt\":1}}\n")
        };
        let filler = line(8, "deferred").repeat(20_000);
        fs::write(dir.path().join("events.jsonl.2"), line(7, "deferred") + &filler + &line(7, "deferred")).unwrap();
        fs::write(dir.path().join("events.jsonl.1"), filler.clone()).unwrap();
        fs::write(dir.path().join("events.jsonl"), filler + &line(7, "delivered") + "{\"event\":\"torn").unwrap();
        let archive = Archive::new(dir.path(), 2);
        let found = archive.search(MessageId(7 << 22)).unwrap();
        let events: Vec<&str> = found.iter().map(|told| told.event.as_str()).collect();
        assert_eq!(events, ["deferred", "delivered"], "equal neighbours count once");
        assert_eq!(archive.search(MessageId(9 << 22)).unwrap(), []);
        // Accepted long after everything here was written.
        assert_eq!(archive.search(MessageId(u64::MAX)).unwrap(), []);
    }

    #[test]
    fn the_file_set_aside_is_searched_with_keep_zero() {
        // As the log is: one is always set aside, or who follows it would miss what was just written.
        let dir = tempfile::tempdir().unwrap();
        let id = MessageId(7 << 22);
        fs::write(dir.path().join("events.jsonl.1"), format!("{{\"message_id\":\"{id}\"}}\n")).unwrap();
        fs::write(dir.path().join("events.jsonl"), "").unwrap();
        assert_eq!(Archive::new(dir.path(), 0).search(id).unwrap().len(), 1);
    }

    #[test]
    fn who_is_older_than_all_files_is_not_looked_for() {
        let dir = tempfile::tempdir().unwrap();
        let id = MessageId(7 << 22);
        let found = |days: u64| {
            let time = id.time().after(Duration::from_secs(days * 86_400));
            let line = format!("{{\"time\":\"{time}\",\"event\":\"delivered\",\"message_id\":\"{id}\"}}\n");
            fs::write(dir.path().join("events.jsonl"), line).unwrap();
            Archive::new(dir.path(), 2).search(id).unwrap().len()
        };
        assert_eq!((found(1), found(30), found(32)), (1, 1, 0));
    }

    #[tokio::test]
    async fn only_so_many_wait_for_a_search() {
        let dir = tempfile::tempdir().unwrap();
        let archive = Archive::new(dir.path(), 2);
        let all = Arc::clone(&archive.searches).acquire_many_owned(SEARCHES as u32).await.unwrap();
        let find = || {
            let archive = archive.clone();
            tokio::spawn(async move { archive.find(MessageId(7 << 22)).await })
        };
        let waiting: Vec<_> = (0..WAITING).map(|_| find()).collect();
        while archive.line.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(matches!(find().await.unwrap(), Err(ArchiveError::Busy)));
        drop(all);
        for found in waiting {
            assert_eq!(found.await.unwrap().unwrap(), []);
        }
        assert_eq!(find().await.unwrap().unwrap(), []);
    }
}
