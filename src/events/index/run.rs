//! Runs: the lines of a stretch of a file, sorted by message.

use std::fs::File;
use std::io;
use std::ops::Range;

use super::{Entry, Reads};

/// Octets of a head. It begins with the mark; numbers are little-endian.
pub(super) const HEAD_LEN: usize = 64;
/// Octets of an entry: message, offset.
pub(super) const ENTRY_LEN: usize = 16;
/// What a head begins with; the last figure is the version.
const MARK: &[u8; 8] = b"PHEVIDX1";
/// Entries read in one go at the end of a search.
const AT_ONCE: u64 = 256;

/// What a run says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// The stretch it covers, in octets of its file, from the begin of a line to the end of one.
    pub(super) from: u64,
    /// Its end.
    pub(super) to: u64,
    /// The least message in it, and the greatest.
    pub(super) least: u64,
    pub(super) greatest: u64,
    /// Entries.
    pub(super) count: u64,
    /// Checksum of the entries.
    pub(super) crc: u32,
    /// It was synced before it got its name: its entries need no check.
    pub(super) settled: bool,
}

impl Head {
    /// Of a stretch without entries yet.
    pub(super) fn of(stretch: Range<u64>, settled: bool) -> Head {
        Head { from: stretch.start, to: stretch.end, least: u64::MAX, greatest: 0, count: 0, crc: 0, settled }
    }

    /// Adds entries that come in order, as they are written.
    pub(super) fn add(&mut self, entries: &[Entry], octets: &[u8]) {
        if let (Some(first), Some(last)) = (entries.first(), entries.last()) {
            self.least = self.least.min(first.message);
            self.greatest = self.greatest.max(last.message);
        }
        self.count += entries.len() as u64;
        let mut crc = crc32fast::Hasher::new_with_initial(self.crc);
        crc.update(octets);
        self.crc = crc.finalize();
    }

    pub(super) fn write(&self) -> [u8; HEAD_LEN] {
        let mut head = [0; HEAD_LEN];
        head[..8].copy_from_slice(MARK);
        let numbers = [self.from, self.to, self.least, self.greatest, self.count, u64::from(self.crc)];
        for (place, number) in head[8..56].as_chunks_mut::<8>().0.iter_mut().zip(numbers) {
            *place = number.to_le_bytes();
        }
        head[52] = u8::from(self.settled);
        let crc = crc32fast::hash(&head[..60]);
        head[60..].copy_from_slice(&crc.to_le_bytes());
        head
    }

    /// `None`: it is no head, or damaged.
    fn read(head: &[u8; HEAD_LEN]) -> Option<Head> {
        let crc = u32::from_le_bytes(*head.last_chunk::<4>().expect("longer than that"));
        if !head.starts_with(MARK) || crc32fast::hash(&head[..60]) != crc {
            return None;
        }
        let number = |place: usize| u64::from_le_bytes(head[8..56].as_chunks::<8>().0[place]);
        let (from, to, count) = (number(0), number(1), number(4));
        let crc = number(5) as u32;
        let head = Head { from, to, least: number(2), greatest: number(3), count, crc, settled: head[52] != 0 };
        // A line is longer than an entry by far: nobody is to reckon with numbers that cannot be.
        (from < to && count < to - from).then_some(head)
    }
}

/// A run in its file.
#[derive(Debug, Clone, Copy)]
pub(in crate::events) struct Run {
    pub(super) head: Head,
    /// Where its entries begin.
    pub(super) at: u64,
}

/// The runs in a file, as far as their heads are whole and their entries there.
pub(in crate::events) fn runs(reads: &Reads, file: &File) -> io::Result<Vec<Run>> {
    let len = file.metadata()?.len();
    let (mut runs, mut at) = (Vec::new(), 0);
    while at + HEAD_LEN as u64 <= len {
        let mut head = [0; HEAD_LEN];
        let read = reads.read_at(file, &mut head, at)?;
        let Some(head) = Some(head).filter(|_| read == HEAD_LEN).as_ref().and_then(Head::read) else { break };
        let run = Run { head, at: at + HEAD_LEN as u64 };
        if run.end().is_none_or(|end| end > len) {
            break;
        }
        at = run.at + head.count * ENTRY_LEN as u64;
        runs.push(run);
    }
    Ok(runs)
}

impl Run {
    /// The stretch of events it covers.
    pub(in crate::events) fn stretch(&self) -> Range<u64> {
        self.head.from..self.head.to
    }

    /// Where it ends in its file; `None`: nowhere.
    pub(super) fn end(&self) -> Option<u64> {
        self.head.count.checked_mul(ENTRY_LEN as u64)?.checked_add(self.at)
    }

    /// Whether its entries are what was written.
    pub(in crate::events) fn is_sound(&self, reads: &Reads, file: &File) -> io::Result<bool> {
        let mut crc = crc32fast::Hasher::new();
        let mut octets = vec![0; AT_ONCE as usize * ENTRY_LEN * 4];
        let (mut at, end) = (self.at, self.end().expect("checked when it was read"));
        while at < end && !self.head.settled {
            let wanted = octets.len().min((end - at) as usize);
            let read = reads.read_at(file, &mut octets[..wanted], at)?;
            if read == 0 {
                return Ok(false);
            }
            crc.update(&octets[..read]);
            at += read as u64;
        }
        Ok(self.head.settled || crc.finalize() == self.head.crc)
    }

    /// Adds where the lines of a message begin, in order.
    pub(in crate::events) fn find(
        &self,
        reads: &Reads,
        file: &File,
        message: u64,
        lines: &mut Vec<u64>,
    ) -> io::Result<()> {
        if message < self.head.least || message > self.head.greatest {
            return Ok(());
        }
        // The first entry of the message, if there is one, is at `low` or behind, and at `high` or before.
        let (mut low, mut high) = (0, self.head.count);
        while high - low > AT_ONCE {
            let middle = low + (high - low) / 2;
            match self.entries(reads, file, middle, 1)?.first() {
                Some(entry) if entry.message < message => low = middle + 1,
                _ => high = middle,
            }
        }
        loop {
            let entries = self.entries(reads, file, low, AT_ONCE)?;
            lines.extend(entries.iter().filter(|entry| entry.message == message).map(|entry| entry.offset));
            low += entries.len() as u64;
            if entries.last().is_none_or(|last| last.message > message) {
                return Ok(());
            }
        }
    }

    /// All its entries, and where it ends, which is behind `before` and within a file of `len` octets. And whether they are as a writer
    /// leaves them: in order, and between the least and the greatest.
    pub(in crate::events) fn probe(
        &self,
        reads: &Reads,
        file: &File,
        len: u64,
        before: u64,
    ) -> (Vec<Entry>, u64, bool) {
        let end = self.end().expect("checked when it was read");
        assert!(before < self.at && self.at <= end && end <= len);
        let entries = self.entries(reads, file, 0, self.head.count).expect("memory can be read");
        assert_eq!(entries.len() as u64, self.head.count);
        let known = self.head.least..=self.head.greatest;
        let as_written = entries.is_sorted() && entries.iter().all(|entry| known.contains(&entry.message));
        (entries, end, as_written)
    }

    /// At most `count` entries from this one on; none behind the end.
    pub(super) fn entries(&self, reads: &Reads, file: &File, first: u64, count: u64) -> io::Result<Vec<Entry>> {
        let count = count.min(self.head.count.saturating_sub(first)) as usize;
        let mut octets = vec![0; count * ENTRY_LEN];
        let read = if count == 0 { 0 } else { reads.read_at(file, &mut octets, self.at + first * ENTRY_LEN as u64)? };
        Ok(octets[..read].as_chunks::<ENTRY_LEN>().0.iter().map(decode).collect())
    }
}

/// Entries as they stand on disk.
pub(super) fn encode(entries: &[Entry]) -> Vec<u8> {
    let mut octets = Vec::with_capacity(entries.len() * ENTRY_LEN);
    for entry in entries {
        octets.extend_from_slice(&entry.message.to_le_bytes());
        octets.extend_from_slice(&entry.offset.to_le_bytes());
    }
    octets
}

fn decode(octets: &[u8; ENTRY_LEN]) -> Entry {
    let (numbers, _) = octets.as_chunks::<8>();
    Entry { message: u64::from_le_bytes(numbers[0]), offset: u64::from_le_bytes(numbers[1]) }
}
