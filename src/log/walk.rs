//! Reading a segment from front to back: large buffered reads, bodies hopped over, damage stepped around.

use std::io;

use super::files::LogFile;
use super::record::{BATCH, HEADER_LEN, Header, INTERNAL, Stamp, read_full};
use super::segment::{FIRST, page_up};
use super::{Location, Position, SegmentId};

/// Octets read at once when records follow each other closely.
const WINDOW: usize = 256 << 10;
/// Octets read at once after a hop over a body that is larger than [`HOP`].
const WINDOW_SMALL: usize = 16 << 10;
const HOP: u64 = 32 << 10;

/// A buffered view of a file up to a limit.
struct Window<'f> {
    file: &'f dyn LogFile,
    limit: u64,
    buffer: Vec<u8>,
    start: u64,
    /// Octets read so far.
    read: u64,
}

impl Window<'_> {
    fn end(&self) -> u64 {
        self.start + self.buffer.len() as u64
    }

    /// `len` octets at `at`; fewer than that if the limit comes first.
    fn view(&mut self, at: u64, len: usize) -> io::Result<&[u8]> {
        let len = (len as u64).min(self.limit.saturating_sub(at)) as usize;
        if at < self.start || at + len as u64 > self.end() {
            let hopped = at > self.end() + HOP || self.buffer.is_empty() && at > FIRST;
            let want = len.max(if hopped { WINDOW_SMALL } else { WINDOW });
            let want = (want as u64).min(self.limit.saturating_sub(at)) as usize;
            self.buffer.resize(want, 0);
            self.start = at;
            let got = read_full(self.file, &mut self.buffer, at)?;
            self.buffer.truncate(got);
            self.read += got as u64;
        }
        let from = (at - self.start) as usize;
        Ok(self.buffer.get(from..(from + len).min(self.buffer.len())).unwrap_or_default())
    }

    /// Whatever is at hand from `at` on, at least `least` octets unless the limit comes first.
    fn at_hand(&mut self, at: u64, least: usize) -> io::Result<&[u8]> {
        if at < self.start || at + least as u64 > self.end() {
            return self.view(at, WINDOW);
        }
        Ok(self.buffer.get((at - self.start) as usize..).unwrap_or_default())
    }
}

/// What comes next in a segment.
pub(super) enum Step {
    /// A record with an intact head.
    Record(Found),
    /// Nothing readable from here to there; `in_batch`: something should be.
    Gap { from: u64, to: u64, in_batch: bool },
    /// The end that was given.
    End,
}

/// A record with an intact head.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub header: Header,
    pub location: Location,
}

impl Found {
    pub fn offset(&self) -> u64 {
        u64::from(self.location.position.offset)
    }

    pub fn end(&self) -> u64 {
        self.offset() + self.header.record_len()
    }
}

/// A reader of the records of one segment between [`FIRST`] and an end.
pub(super) struct Walk<'f> {
    window: Window<'f>,
    stamp: Stamp,
    at: u64,
    /// The end of the batch that the walk is in, as its header has it; unknown behind a gap.
    batch_end: Option<u64>,
}

impl<'f> Walk<'f> {
    pub fn new(file: &'f dyn LogFile, stamp: Stamp, end: u64) -> Walk<'f> {
        let window = Window { file, limit: end, buffer: Vec::new(), start: 0, read: 0 };
        Walk { window, stamp, at: FIRST, batch_end: None }
    }

    /// The next record, or the next gap.
    pub fn step(&mut self) -> io::Result<Step> {
        loop {
            if self.batch_end == Some(self.at) {
                self.at = page_up(self.at);
                self.batch_end = None;
            }
            if self.at >= self.window.limit {
                return Ok(Step::End);
            }
            match self.record_at(self.at)? {
                Some(header) if header.is_internal(BATCH) => {
                    self.batch_end = Some(self.at.saturating_add(header.id));
                    self.at += HEADER_LEN;
                }
                Some(header) if header.flags & INTERNAL != 0 => self.at += header.record_len(),
                Some(header) => {
                    let found = Found { header, location: self.location(&header) };
                    self.at = found.end();
                    return Ok(Step::Record(found));
                }
                None => {
                    // Behind a gap the batch's end may be unknown; then the next one starts on the next page.
                    let page = page_up(self.at);
                    let lost = self.batch_end.is_none() && page > self.at;
                    if lost && self.record_at(page)?.is_some_and(|h| h.is_internal(BATCH)) {
                        self.at = page;
                        continue;
                    }
                    return self.gap();
                }
            }
        }
    }

    /// Octets read so far; those of bodies that were hopped over are not among them.
    pub fn octets_read(&self) -> u64 {
        self.window.read
    }

    /// The head of a record found.
    pub fn head(&mut self, found: &Found) -> io::Result<&[u8]> {
        self.window.view(found.offset() + HEADER_LEN, found.header.head_len as usize)
    }

    /// Reads the body of a record found and checks it.
    pub fn body_intact(&mut self, found: &Found) -> io::Result<bool> {
        let mut crc = crc32fast::Hasher::new();
        let mut at = found.offset() + HEADER_LEN + u64::from(found.header.head_len);
        while at < found.end() {
            let part = self.window.view(at, (found.end() - at).min(WINDOW as u64) as usize)?;
            if part.is_empty() {
                return Ok(false);
            }
            crc.update(part);
            at += part.len() as u64;
        }
        Ok(crc.finalize() == found.header.body_crc)
    }

    /// Where the last batch that starts at or behind `from` starts. Whatever was written before it had been synced.
    pub fn last_batch_start(&mut self, from: u64) -> io::Result<Option<u64>> {
        let mut last = None;
        let mut at = from;
        while let Some((start, _)) = self.search(at, |h| h.is_internal(BATCH))? {
            last = Some(start);
            at = start + HEADER_LEN;
        }
        Ok(last)
    }

    fn location(&self, header: &Header) -> Location {
        let position = Position { segment: SegmentId(self.stamp.generation), offset: self.at as u32 };
        Location { position, head_len: header.head_len, body_len: header.body_len }
    }

    /// The header at `at` if a record of this segment starts there, its head is intact, and it ends before the limit.
    fn record_at(&mut self, at: u64) -> io::Result<Option<Header>> {
        let limit = self.window.limit;
        let Some(header) = Header::parse(self.window.view(at, HEADER_LEN as usize)?, self.stamp) else {
            return Ok(None);
        };
        if at.saturating_add(header.record_len()) > limit {
            return Ok(None);
        }
        let len = HEADER_LEN as usize + header.head_len as usize;
        let bytes = self.window.view(at, len)?;
        if bytes.len() < len {
            return Ok(None);
        }
        let (raw, head) = bytes.split_at(HEADER_LEN as usize);
        Ok(Header::is_intact(raw, head).then_some(header))
    }

    fn gap(&mut self) -> io::Result<Step> {
        let (from, in_batch) = (self.at, self.batch_end.is_some());
        let to = self.search(from + 1, |_| true)?.map_or(self.window.limit, |(at, _)| at);
        if self.batch_end.is_some_and(|end| to >= end) {
            self.batch_end = None;
        }
        self.at = to;
        Ok(Step::Gap { from, to, in_batch })
    }

    /// The first record of this segment at or behind `from` that `fits`.
    fn search(&mut self, from: u64, fits: impl Fn(&Header) -> bool) -> io::Result<Option<(u64, Header)>> {
        let pattern = self.stamp.pattern();
        let finder = memchr::memmem::Finder::new(&pattern);
        // The pattern stands 4 octets behind the start of a header.
        let mut at = from.saturating_add(4);
        while at < self.window.limit {
            let view = self.window.at_hand(at, HEADER_LEN as usize)?;
            if view.len() < pattern.len() {
                break;
            }
            match finder.find(view) {
                Some(hit) => {
                    let start = at + hit as u64 - 4;
                    if let Some(header) = self.record_at(start)?.filter(|h| fits(h)) {
                        return Ok(Some((start, header)));
                    }
                    at = start + 5;
                }
                None => at += (view.len() + 1 - pattern.len()) as u64,
            }
        }
        Ok(None)
    }
}

/// Looks through a whole segment without header page for a batch of that generation, to learn its salt.
pub(super) fn find_stamp(file: &dyn LogFile, generation: u32, size: u64) -> io::Result<Option<Stamp>> {
    let mut window = Window { file, limit: size, buffer: Vec::new(), start: 0, read: 0 };
    let mut at = FIRST;
    while at < size {
        let bytes = window.view(at, HEADER_LEN as usize)?;
        if let Some((header, stamp)) = Header::parse_any(bytes)
            && stamp.generation == generation
            && header.is_internal(BATCH)
            && Header::is_intact(bytes, &[])
        {
            return Ok(Some(stamp));
        }
        at += super::segment::PAGE;
    }
    Ok(None)
}
