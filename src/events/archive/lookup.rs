//! Where the lines of a message stand: by the indexes of the files, else by reading them.

use std::fs::File;
use std::io;
use std::ops::{ControlFlow, Range};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use serde::Deserialize;

use super::{Archive, LIVES_AT_MOST};
use crate::clock::{Clock, Timestamp};
use crate::events::index::{self, Reads, each_block, first_position, gaps, needle_of, runs};
use crate::mail::MessageId;

/// The longest rest behind a block.
const REST_MAX: Duration = Duration::from_millis(100);

/// Octets read of a line at first; most are shorter.
const LINE: usize = 2 << 10;

/// Which lines come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::events) enum Order {
    OldestFirst,
    NewestFirst,
}

/// Where to look for a message.
#[derive(Debug)]
pub(in crate::events) struct Located {
    id: MessageId,
    /// Oldest first.
    files: Vec<Place>,
    reads: Reads,
}

/// Where to look in a file.
#[derive(Debug)]
struct Place {
    file: File,
    len: u64,
    index: PathBuf,
    /// Where its lines begin, by the index, in order.
    lines: Vec<u64>,
    /// What the index does not cover, in order.
    unindexed: Vec<Range<u64>>,
}

impl Archive {
    /// Asks the indexes. Blocking.
    pub(in crate::events) fn locate(&self, id: MessageId) -> io::Result<Located> {
        let mut located = Located { id, files: Vec::new(), reads: Reads::default() };
        let mut seen = Vec::new();
        // The present one first: what is set aside while we open the others is among them, too, and the same file.
        for age in 0..=self.keep {
            let name = if age == 0 { "events.jsonl".into() } else { format!("events.jsonl.{age}") };
            let file = match File::open(self.dir.join(name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                file => file?,
            };
            let metadata = file.metadata()?;
            if ended_before(&metadata, id.time().0)? {
                break;
            }
            let same = (metadata.dev(), metadata.ino());
            if !seen.contains(&same) {
                seen.push(same);
                located.files.push(self.place(&located.reads, file, metadata.len(), id)?);
            }
        }
        if let Some(oldest) = located.files.last().filter(|_| located.unindexed() > 0)
            && first_time(&located.reads, &oldest.file)?.is_some_and(|first| id.time().after(LIVES_AT_MOST) < first)
        {
            located.files.iter_mut().for_each(|place| place.unindexed.clear());
        }
        located.files.reverse();
        Ok(located)
    }

    fn place(&self, reads: &Reads, file: File, len: u64, id: MessageId) -> io::Result<Place> {
        let (mut lines, mut known, mut path) = (Vec::new(), Vec::new(), PathBuf::new());
        if let Some(first) = first_position(reads, &file)? {
            // Before the runs: what becomes one in between is seen twice, and not missed.
            known.extend(self.recent.as_ref().and_then(|recent| recent.find(first, id.0, &mut lines)));
            path = index::path_of(&self.dir, first);
            match File::open(&path) {
                Ok(index) => {
                    for run in runs(reads, &index)? {
                        // The log that is open has checked them when it started. They may be ahead of the file after a crash.
                        let sound = self.recent.is_some() || run.is_sound(reads, &index)?;
                        if sound && run.stretch().end <= len {
                            run.find(reads, &index, id.0, &mut lines)?;
                            known.push(run.stretch());
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        lines.sort_unstable();
        lines.dedup();
        Ok(Place { file, len, index: path, lines, unindexed: gaps(known, len) })
    }
}

impl Located {
    /// Octets that are to be read as no index covers them.
    pub(in crate::events) fn unindexed(&self) -> u64 {
        self.files.iter().flat_map(|place| &place.unindexed).map(|stretch| stretch.end - stretch.start).sum()
    }

    /// Lines that are known.
    pub(super) fn lines(&self) -> usize {
        self.files.iter().map(|place| place.lines.len()).sum()
    }

    #[cfg(test)]
    pub(in crate::events) fn reads(&self) -> u64 {
        self.reads.count()
    }

    /// Shows the lines, without their ends, until `show` has seen enough; `rests` behind each block that is searched. False:
    /// an index led to a line of another message, nothing that was shown counts, and next time that file is read.
    pub(in crate::events) fn visit(
        &mut self,
        order: Order,
        rests: bool,
        show: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> io::Result<bool> {
        let needle = needle_of(self.id);
        let count = self.files.len();
        for nth in 0..count {
            let place = match order {
                Order::OldestFirst => &mut self.files[nth],
                Order::NewestFirst => &mut self.files[count - 1 - nth],
            };
            match place.visit(&self.reads, &needle, order, rests, show)? {
                Seen::All => {}
                Seen::Enough => return Ok(true),
                Seen::Wrong => {
                    tracing::warn!(message_id = %self.id, file = %place.index.display(),
                        "an index of the event log is damaged; delete it, and the next start makes it anew");
                    (place.lines, place.unindexed) = (Vec::new(), gaps([], place.len));
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

/// How looking through a file ended.
enum Seen {
    All,
    Enough,
    Wrong,
}

impl Place {
    fn visit(
        &self,
        reads: &Reads,
        needle: &str,
        order: Order,
        rests: bool,
        show: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> io::Result<Seen> {
        let lines = self.lines.iter().map(|line| *line..*line);
        let mut parts: Vec<Range<u64>> = lines.chain(self.unindexed.iter().cloned()).collect();
        parts.sort_unstable_by_key(|part| (part.start, part.end));
        if order == Order::NewestFirst {
            parts.reverse();
        }
        for part in parts {
            let mut found = Vec::new();
            if part.is_empty() {
                match reads.line_at(&self.file, part.start, LINE)? {
                    Some(line) if memchr::memmem::find(&line, needle.as_bytes()).is_some() => found.push(line),
                    _ => return Ok(Seen::Wrong),
                }
            } else {
                found = self.search(part, needle, rests)?;
            }
            if order == Order::NewestFirst {
                found.reverse();
            }
            if found.iter().any(|line| show(line).is_break()) {
                return Ok(Seen::Enough);
            }
        }
        Ok(Seen::All)
    }

    /// The lines of a stretch that have the needle in them.
    fn search(&self, stretch: Range<u64>, needle: &str, rests: bool) -> io::Result<Vec<Vec<u8>>> {
        let finder = memchr::memmem::Finder::new(needle);
        let mut found = Vec::new();
        let mut begun = Clock.instant();
        each_block(&self.file, stretch, |_, lines| {
            // One look at the whole block; most hold nothing.
            if finder.find(lines).is_some() {
                let those = lines.split(|b| *b == b'\n').filter(|line| finder.find(line).is_some());
                found.extend(those.map(<[u8]>::to_vec));
            }
            if rests {
                std::thread::sleep((Clock.instant() - begun).min(REST_MAX));
                begun = Clock.instant();
            }
            true
        })?;
        Ok(found)
    }
}

/// Whether nothing was written to the file since `time`, in milliseconds since 1970. A clock that was set back hides
/// nothing: a minute is allowed for.
fn ended_before(file: &std::fs::Metadata, time: u64) -> io::Result<bool> {
    let written = file.modified()?.duration_since(UNIX_EPOCH).map_or(u64::MAX, |since| since.as_millis() as u64);
    Ok(written.saturating_add(60_000) < time)
}

/// When the first line was written; `None`: there is none, or it cannot be read.
fn first_time(reads: &Reads, file: &File) -> io::Result<Option<Timestamp>> {
    #[derive(Deserialize)]
    struct Line<'a> {
        time: &'a str,
    }
    let line = reads.line_at(file, 0, LINE)?.unwrap_or_default();
    Ok(serde_json::from_slice::<Line<'_>>(&line).ok().and_then(|line| Timestamp::parse_rfc3339(line.time)))
}
