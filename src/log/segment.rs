//! A segment file: its name, its header page, where its records may stand.
//!
//! ```text
//! 0        header page: magic, version, generation, salt, size, and where the segment before this one ends
//! 4096     batches, each starting on a multiple of 4096 and padded to one
//! size-4096  seal page: where the segment's last batch ends; written when the segment is full or the log is closed
//! ```

use std::path::{Path, PathBuf};

use super::record::{Header, SEAL, Stamp};
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
const VERSION: u32 = 1;
const HEADER_USED: usize = 40;

/// The next multiple of [`PAGE`].
pub(super) fn page_up(offset: u64) -> u64 {
    offset.next_multiple_of(PAGE)
}

/// The first page of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub stamp: Stamp,
    /// Size of the file; the seal page is its last.
    pub size: u64,
    /// The segment written before this one, and the offset at which it ends. Whatever stands behind that, a batch
    /// that failed for one, is not part of the log.
    pub prior: Option<Position>,
}

impl SegmentHeader {
    /// The page.
    pub fn encode(&self) -> Vec<u8> {
        let mut page = Vec::with_capacity(PAGE as usize);
        page.extend_from_slice(&MAGIC);
        page.extend_from_slice(&VERSION.to_le_bytes());
        page.extend_from_slice(&self.stamp.pattern());
        page.extend_from_slice(&self.size.to_le_bytes());
        // Generations count from 1, so 0 says: none.
        let prior = self.prior.unwrap_or(Position { segment: SegmentId(0), offset: 0 });
        page.extend_from_slice(&prior.segment.0.to_le_bytes());
        page.extend_from_slice(&prior.offset.to_le_bytes());
        let crc = crc32fast::hash(&page);
        page.extend_from_slice(&crc.to_le_bytes());
        page.resize(PAGE as usize, 0);
        page
    }

    /// `None`: not a header page of this version, or damaged.
    pub fn parse(page: &[u8]) -> Option<SegmentHeader> {
        let page = page.get(..HEADER_USED)?;
        let word = |at: usize| u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]);
        if page[..8] != MAGIC || word(8) != VERSION || word(36) != crc32fast::hash(&page[..36]) {
            return None;
        }
        let prior = Position { segment: SegmentId(word(28)), offset: word(32) };
        Some(SegmentHeader {
            stamp: Stamp { generation: word(12), salt: word(16) },
            size: u64::from(word(20)) | u64::from(word(24)) << 32,
            prior: (prior.segment.0 != 0).then_some(prior),
        })
    }
}

/// The last page of a segment that was ended in order, naming the offset of its end.
pub(super) fn seal_page(stamp: Stamp, end: u64) -> Vec<u8> {
    let mut page = Vec::with_capacity(PAGE as usize);
    Header::internal(SEAL, end).encode(stamp, &[], &mut page);
    page.resize(PAGE as usize, 0);
    page
}

/// The end that a seal page names; `None` if it is no seal of this segment.
pub(super) fn parse_seal(page: &[u8], stamp: Stamp) -> Option<u64> {
    let header = Header::parse(page, stamp)?;
    let intact = Header::is_intact(page.get(..super::record::HEADER_LEN as usize)?, &[]);
    (intact && header.is_internal(SEAL)).then_some(header.id)
}

/// What a file in the log's folder is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FileName {
    /// `seg-0000000017.log`: part of the log.
    Segment(u32),
    /// `free-0000000017.log`: was segment 17, waits to be used again.
    Free(u32),
    /// `reserve.log`: space set aside for state records on a full disk.
    Reserve,
}

/// Held by flock while a log is open.
pub(super) const LOCK_NAME: &str = "lock";

impl FileName {
    pub fn in_dir(self, dir: &Path) -> PathBuf {
        dir.join(match self {
            FileName::Segment(generation) => format!("seg-{generation:010}.log"),
            FileName::Free(generation) => format!("free-{generation:010}.log"),
            FileName::Reserve => "reserve.log".to_owned(),
        })
    }

    /// `None`: not one of the log's files.
    pub fn parse(name: &str) -> Option<FileName> {
        if name == "reserve.log" {
            return Some(FileName::Reserve);
        }
        let (kind, number) = name.strip_suffix(".log")?.split_once('-')?;
        if number.len() != 10 || !number.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let generation = number.parse().ok().filter(|g| *g != 0)?;
        match kind {
            "seg" => Some(FileName::Segment(generation)),
            "free" => Some(FileName::Free(generation)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_printing() {
        for name in [FileName::Segment(1), FileName::Segment(u32::MAX), FileName::Free(17), FileName::Reserve] {
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
        for prior in [prior, None] {
            let header = SegmentHeader { stamp, size: 64 << 20, prior };
            let mut page = header.encode();
            assert_eq!(page.len() as u64, PAGE);
            assert_eq!(SegmentHeader::parse(&page), Some(header));
            for at in 0..HEADER_USED {
                page[at] ^= 0x10;
                assert_eq!(SegmentHeader::parse(&page), None, "octet {at}");
                page[at] ^= 0x10;
            }
        }
        assert_eq!(parse_seal(&seal_page(stamp, 8192), stamp), Some(8192));
        assert_eq!(parse_seal(&seal_page(stamp, 8192), Stamp { generation: 8, ..stamp }), None);
        assert_eq!(parse_seal(&[], stamp), None);
    }
}
