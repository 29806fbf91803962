//! Looking back: the lines of one message, as far back as event files are kept.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use serde::Deserialize;

use crate::mail::MessageId;

/// Octets read at a time. Lines are far shorter.
const BLOCK: usize = 1 << 20;

/// Searches of files at the same time, over all callers: each reads as fast as it can.
static SEARCHES: tokio::sync::Semaphore = tokio::sync::Semaphore::const_new(2);

/// The event files of a folder.
#[derive(Debug, Clone)]
pub struct Archive {
    dir: PathBuf,
    keep: usize,
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
    /// When the message was accepted.
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
    /// The files in `dir`, with at most `keep` set aside.
    pub fn new(dir: impl Into<PathBuf>, keep: usize) -> Archive {
        Archive { dir: dir.into(), keep }
    }

    /// All lines of a message, oldest first. Reads every file that was written to since the message was accepted, about
    /// a second a gigabyte.
    ///
    /// # Errors
    /// A file that is there cannot be read.
    ///
    /// # Cancel safety
    /// Safe; the search ends on its own.
    pub async fn find(&self, id: MessageId) -> io::Result<Vec<Told>> {
        let permit = SEARCHES.acquire().await.map_err(io::Error::other)?;
        let archive = self.clone();
        let search = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            archive.search(id)
        });
        search.await.map_err(io::Error::other)?
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

/// Shows the file's whole lines, a block at a time.
fn lines(mut file: File, mut show: impl FnMut(&[u8])) -> io::Result<()> {
    let mut block = Vec::with_capacity(BLOCK);
    loop {
        let read = (&mut file).take((BLOCK - block.len().min(BLOCK - 1)) as u64).read_to_end(&mut block)?;
        if read == 0 {
            return Ok(());
        }
        let whole = memchr::memrchr(b'\n', &block).map_or(0, |at| at + 1);
        show(&block[..whole]);
        block.drain(..whole);
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
}
