//! A segment file: its name, its header page, where its records may stand.
//!
//! ```text
//! 0        header page: magic, version, generation, salt, size, where the segment before this one ends, which segments
//!          there were when this one was begun
//! 4096     batches, each starting on a multiple of 4096 and padded to one
//! size-4096  seal page: where the segment's last batch ends, and which segment was begun behind it; written when that one stands,
//!          or when the log is closed
//! ```

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use super::record::{HEADER_LEN, Header, SEAL, Stamp};
use super::{Position, SegmentId};

/// All batches start on a multiple of this, so that no page of a file used again is read back before it is written.
pub(super) const PAGE: u64 = 4096;
/// Where the first batch stands.
pub(super) const FIRST: u64 = PAGE;
/// Smallest segment that makes sense: header, seal and a few batches.
pub(super) const SIZE_MIN: u64 = 8 * PAGE;
/// Offsets are 32 bits.
pub(super) const SIZE_MAX: u64 = u32::MAX as u64 & !(PAGE - 1);

const MAGIC: [u8; 8] = *b"posthlog";
/// Files of version 1 are read. They were not written full before they were used, and do not say which others there were.
const VERSION: u32 = 2;
/// What both versions have; a CRC follows in version 1.
const FIXED: usize = 36;
/// Ranges of segments that a header page has room for.
const RANGES_MAX: usize = (PAGE as usize - FIXED - 8) / 8;

/// The next multiple of [`PAGE`].
pub(super) fn page_up(offset: u64) -> u64 {
    offset.next_multiple_of(PAGE)
}

/// The first page of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub stamp: Stamp,
    /// Size of the file; the seal page is its last.
    pub size: u64,
    /// The segment written before this one, and the offset at which it ends. Whatever stands behind that, a batch
    /// that failed for one, is not part of the log.
    pub prior: Option<Position>,
    /// Which segments there were when this one was begun; `None` in version 1.
    pub others: Option<Others>,
}

/// Which segments there were at some moment: all of them, or the newest of them, as far as a header page has room.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Others {
    /// In order, apart from each other.
    ranges: Vec<(u32, u32)>,
}

impl Others {
    /// Of ids in rising order.
    pub fn new(ids: impl IntoIterator<Item = SegmentId>) -> Others {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for SegmentId(id) in ids {
            match ranges.last_mut() {
                Some((_, last)) if last.checked_add(1) == Some(id) => *last = id,
                _ => ranges.push((id, id)),
            }
        }
        let untold = ranges.len().saturating_sub(RANGES_MAX);
        ranges.drain(..untold);
        Others { ranges }
    }

    pub fn contains(&self, id: u32) -> bool {
        self.ranges().any(|range| range.contains(&id))
    }

    /// Those that are told of.
    pub fn ranges(&self) -> impl Iterator<Item = RangeInclusive<u32>> {
        self.ranges.iter().map(|(first, last)| *first..=*last)
    }

    fn encode(&self, page: &mut Vec<u8>) {
        page.extend_from_slice(&(self.ranges.len() as u32).to_le_bytes());
        for (first, last) in &self.ranges {
            page.extend_from_slice(&first.to_le_bytes());
            page.extend_from_slice(&last.to_le_bytes());
        }
    }

    /// The ranges and how long they are.
    fn parse(octets: &[u8]) -> Option<(Others, usize)> {
        let count = Some(word(octets, 0)? as usize).filter(|count| *count <= RANGES_MAX)?;
        let pair = |n: usize| Some((word(octets, 4 + n * 8)?, word(octets, 8 + n * 8)?));
        let ranges = (0..count).map(pair).collect::<Option<Vec<_>>>()?;
        Some((Others { ranges }, 4 + count * 8))
    }
}

fn word(octets: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(octets.get(at..at + 4)?.try_into().ok()?))
}

impl SegmentHeader {
    /// The page.
    pub fn encode(&self) -> Vec<u8> {
        let mut page = Vec::with_capacity(PAGE as usize);
        page.extend_from_slice(&MAGIC);
        page.extend_from_slice(&if self.others.is_some() { VERSION } else { 1 }.to_le_bytes());
        page.extend_from_slice(&self.stamp.pattern());
        page.extend_from_slice(&self.size.to_le_bytes());
        // Generations count from 1, so 0 says: none.
        let prior = self.prior.unwrap_or(Position { segment: SegmentId(0), offset: 0 });
        page.extend_from_slice(&prior.segment.0.to_le_bytes());
        page.extend_from_slice(&prior.offset.to_le_bytes());
        self.others.iter().for_each(|others| others.encode(&mut page));
        let crc = crc32fast::hash(&page);
        page.extend_from_slice(&crc.to_le_bytes());
        page.resize(PAGE as usize, 0);
        page
    }

    /// `None`: not a header page of a version known, or damaged.
    pub fn parse(page: &[u8]) -> Option<SegmentHeader> {
        let version = word(page, 8).filter(|_| page.starts_with(&MAGIC))?;
        let (others, used) = match version {
            1 => (None, FIXED),
            VERSION => Others::parse(page.get(FIXED..)?).map(|(others, len)| (Some(others), FIXED + len))?,
            _ => return None,
        };
        if word(page, used)? != crc32fast::hash(&page[..used]) {
            return None;
        }
        let prior = Position { segment: SegmentId(word(page, 28)?), offset: word(page, 32)? };
        Some(SegmentHeader {
            stamp: Stamp { generation: word(page, 12)?, salt: word(page, 16)? },
            size: u64::from(word(page, 20)?) | u64::from(word(page, 24)?) << 32,
            prior: (prior.segment.0 != 0).then_some(prior),
            others,
        })
    }
}

/// What the last page of a segment says that was ended in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seal {
    /// Where its last batch ends.
    pub end: u64,
    /// The segment behind it, which stood when this was written. `None`: the log was closed.
    pub next: Option<SegmentId>,
}

impl Seal {
    /// The page.
    pub fn encode(&self, stamp: Stamp) -> Vec<u8> {
        let mut page = Vec::with_capacity(PAGE as usize);
        let head = self.next.map(|next| next.0.to_le_bytes());
        let head = head.as_ref().map_or(&[][..], |head| head);
        let header = Header { head_len: head.len() as u32, ..Header::internal(SEAL, self.end) };
        header.encode(stamp, head, &mut page);
        page.resize(PAGE as usize, 0);
        page
    }

    /// `None`: not a seal of this segment, or damaged.
    pub fn parse(page: &[u8], stamp: Stamp) -> Option<Seal> {
        let header = Header::parse(page, stamp).filter(|header| header.is_internal(SEAL) && header.head_len <= 4)?;
        let (fixed, rest) = page.split_at(HEADER_LEN as usize);
        let head = rest.get(..header.head_len as usize)?;
        let next = word(head, 0).map(SegmentId);
        Header::is_intact(fixed, head).then_some(Seal { end: header.id, next })
    }
}

/// What a file in the log's folder is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FileName {
    /// `seg-0000000017.log`: part of the log.
    Segment(u32),
    /// `free-0000000017.log`: was segment 17, waits to be used again.
    Free(u32),
    /// `gone-0000000017.log`: was segment 17, takes no space; only says that it is not missing.
    Gone(u32),
    /// `reserve.log`: space set aside for state records on a full disk.
    Reserve,
    /// `ready.log`: full of zeros, becomes the next segment.
    Ready,
    /// `zero.log`: is being filled with zeros, to become `ready.log`.
    Zero,
    /// `begin.log`: the same, in a hurry, to become a segment at once.
    Begin,
}

/// Held by flock while a log is open.
pub(super) const LOCK_NAME: &str = "lock";

impl FileName {
    pub fn in_dir(self, dir: &Path) -> PathBuf {
        dir.join(match self {
            FileName::Segment(generation) => format!("seg-{generation:010}.log"),
            FileName::Free(generation) => format!("free-{generation:010}.log"),
            FileName::Gone(generation) => format!("gone-{generation:010}.log"),
            FileName::Reserve => "reserve.log".to_owned(),
            FileName::Ready => "ready.log".to_owned(),
            FileName::Zero => "zero.log".to_owned(),
            FileName::Begin => "begin.log".to_owned(),
        })
    }

    /// `None`: not one of the log's files.
    pub fn parse(name: &str) -> Option<FileName> {
        match name {
            "reserve.log" => return Some(FileName::Reserve),
            "ready.log" => return Some(FileName::Ready),
            "zero.log" => return Some(FileName::Zero),
            "begin.log" => return Some(FileName::Begin),
            _ => {}
        }
        let (kind, number) = name.strip_suffix(".log")?.split_once('-')?;
        if number.len() != 10 || !number.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let generation = number.parse().ok().filter(|g| *g != 0)?;
        match kind {
            "seg" => Some(FileName::Segment(generation)),
            "free" => Some(FileName::Free(generation)),
            "gone" => Some(FileName::Gone(generation)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_printing() {
        let numbered = [FileName::Segment(1), FileName::Segment(u32::MAX), FileName::Free(17), FileName::Gone(17)];
        for name in numbered.into_iter().chain([FileName::Reserve, FileName::Ready, FileName::Zero, FileName::Begin]) {
            let path = name.in_dir(Path::new("d"));
            assert_eq!(FileName::parse(path.file_name().unwrap().to_str().unwrap()), Some(name));
        }
        for other in ["lock", "seg-1.log", "seg-0000000000.log", "seg-0000000001", "seg-00000000x1.log", "a-b.log", ""]
        {
            assert_eq!(FileName::parse(other), None, "{other}");
        }
    }

    #[test]
    fn header_pages_survive_printing_and_notice_damage() {
        let stamp = Stamp { generation: 7, salt: 0xdead_beef };
        let prior = Some(Position { segment: SegmentId(6), offset: 8192 });
        let others = [None, Some(Others::new([])), Some(Others::new([1, 2, 3, 6].map(SegmentId)))];
        for (prior, others) in [prior, None].into_iter().flat_map(|p| others.clone().map(|o| (p, o))) {
            let used = FIXED + 4 + others.as_ref().map_or(0, |others| 4 + 8 * others.ranges.len());
            let header = SegmentHeader { stamp, size: 64 << 20, prior, others };
            let mut page = header.encode();
            assert_eq!(page.len() as u64, PAGE);
            assert_eq!(SegmentHeader::parse(&page).as_ref(), Some(&header));
            for at in 0..used {
                page[at] ^= 0x10;
                assert_eq!(SegmentHeader::parse(&page), None, "octet {at}");
                page[at] ^= 0x10;
            }
            (0..used).for_each(|len| assert_eq!(SegmentHeader::parse(&page[..len]), None, "{len} octets"));
        }
    }

    #[test]
    fn seals_survive_printing_and_notice_damage() {
        let stamp = Stamp { generation: 7, salt: 0xdead_beef };
        for (next, used) in [(None, 36), (Some(SegmentId(8)), 40), (Some(SegmentId(u32::MAX)), 40)] {
            let seal = Seal { end: 8192, next };
            let mut page = seal.encode(stamp);
            assert_eq!(page.len() as u64, PAGE);
            assert_eq!(Seal::parse(&page, stamp), Some(seal));
            assert_eq!(Seal::parse(&page, Stamp { generation: 8, ..stamp }), None);
            for at in 0..used {
                page[at] ^= 0x10;
                assert_eq!(Seal::parse(&page, stamp), None, "octet {at}");
                page[at] ^= 0x10;
            }
            (0..used).for_each(|len| assert_eq!(Seal::parse(&page[..len], stamp), None, "{len} octets"));
        }
    }

    #[test]
    fn a_header_page_tells_of_the_newest_others() {
        let stamp = Stamp { generation: 9001, salt: 1 };
        let all = || (1..4000).map(|n| SegmentId(n * 2));
        let header = SegmentHeader { stamp, size: 1 << 20, prior: None, others: Some(Others::new(all())) };
        let page = header.encode();
        assert_eq!(page.len() as u64, PAGE);
        let parsed = SegmentHeader::parse(&page).unwrap();
        assert_eq!(parsed, header);
        let told = all().filter(|id| parsed.others.as_ref().unwrap().contains(id.0));
        assert!(told.eq(all().skip(3999 - RANGES_MAX)));
        assert!(!parsed.others.unwrap().contains(7997));
    }
}
