//! One record, as octets: a header of 36, the head, the body. All numbers are little-endian.
//!
//! | octets | field |
//! |---|---|
//! | 0..2 | magic `PR` |
//! | 2 | kind, the owner's (or the log's own, see [`INTERNAL`]) |
//! | 3 | flags |
//! | 4..8 | generation of the segment |
//! | 8..12 | salt of the segment |
//! | 12..16 | length of the head |
//! | 16..20 | length of the body |
//! | 20..24 | CRC-32 of the body |
//! | 24..32 | id, the owner's |
//! | 32..36 | CRC-32 of octets 0..32 and the head |
//!
//! Generation and salt tie a record to its segment: a file that is used again still holds the old records. The salt is
//! random, so that a body (foreign bytes) cannot pass for a record when a damaged segment is searched.

use super::files::LogFile;
use std::io;

/// Octets before the head.
pub(super) const HEADER_LEN: u64 = 36;
/// Longest head; longer lengths in a header are damage.
pub(super) const HEAD_MAX: usize = 16 << 20;
/// Longest head and body together.
pub(super) const RECORD_MAX: u64 = 1 << 30;

/// Flag: the group goes on with the next record.
pub(super) const MORE: u8 = 0x01;
/// Flag: the log's own record; `kind` is one of the two below.
pub(super) const INTERNAL: u8 = 0x80;
/// Starts each batch; the id is the batch's length. That one stands means that all batches before it were synced.
pub(super) const BATCH: u8 = 1;
/// In the last page of a segment that was ended in order; the id is the offset of its end, the head the next segment, if there was one.
pub(super) const SEAL: u8 = 2;

const MAGIC: [u8; 2] = *b"PR";

/// What ties records to their segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub generation: u32,
    pub salt: u32,
}

impl Stamp {
    /// Octets 4..12 of every record of the segment: what a search looks for.
    pub fn pattern(self) -> [u8; 8] {
        let mut pattern = [0; 8];
        pattern[..4].copy_from_slice(&self.generation.to_le_bytes());
        pattern[4..].copy_from_slice(&self.salt.to_le_bytes());
        pattern
    }
}

/// A record's header without what is the same for the whole segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub kind: u8,
    pub flags: u8,
    pub head_len: u32,
    pub body_len: u32,
    pub body_crc: u32,
    pub id: u64,
}

impl Header {
    /// One of the log's own records.
    pub fn internal(kind: u8, id: u64) -> Header {
        Header { kind, flags: INTERNAL, head_len: 0, body_len: 0, body_crc: 0, id }
    }

    pub fn is_internal(&self, kind: u8) -> bool {
        self.flags & INTERNAL != 0 && self.kind == kind
    }

    pub fn has_more(&self) -> bool {
        self.flags & MORE != 0
    }

    /// Octets of the whole record.
    pub fn record_len(&self) -> u64 {
        HEADER_LEN + u64::from(self.head_len) + u64::from(self.body_len)
    }

    /// Appends header and `head` (of `head_len` octets) to `out`.
    pub fn encode(&self, stamp: Stamp, head: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[self.kind, self.flags]);
        out.extend_from_slice(&stamp.pattern());
        out.extend_from_slice(&self.head_len.to_le_bytes());
        out.extend_from_slice(&self.body_len.to_le_bytes());
        out.extend_from_slice(&self.body_crc.to_le_bytes());
        out.extend_from_slice(&self.id.to_le_bytes());
        let crc = head_crc(&out[start..], head);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(head);
    }

    /// Reads a header whose segment is known. `None`: no record of this segment starts here. The CRC is not yet
    /// checked, since it covers the head; see [`Header::is_intact`].
    pub fn parse(bytes: &[u8], stamp: Stamp) -> Option<Header> {
        let (header, found) = Header::parse_any(bytes)?;
        (found == stamp).then_some(header)
    }

    /// Reads a header of whatever segment.
    pub fn parse_any(bytes: &[u8]) -> Option<(Header, Stamp)> {
        let bytes: &[u8; HEADER_LEN as usize] = bytes.get(..HEADER_LEN as usize)?.try_into().ok()?;
        if bytes[..2] != MAGIC {
            return None;
        }
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let header = Header {
            kind: bytes[2],
            flags: bytes[3],
            head_len: word(12),
            body_len: word(16),
            body_crc: word(20),
            id: u64::from(word(24)) | u64::from(word(28)) << 32,
        };
        let sane = header.head_len as usize <= HEAD_MAX && header.record_len() <= HEADER_LEN + RECORD_MAX;
        sane.then_some((header, Stamp { generation: word(4), salt: word(8) }))
    }

    /// Whether the CRC at the end of `header` (36 octets) fits it and the head.
    pub fn is_intact(header: &[u8], head: &[u8]) -> bool {
        let (covered, crc) = header.split_at(HEADER_LEN as usize - 4);
        head_crc(covered, head).to_le_bytes() == crc
    }
}

fn head_crc(header: &[u8], head: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(header);
    crc.update(head);
    crc.finalize()
}

/// The CRC-32 of a body in pieces.
pub(super) fn body_crc<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    for piece in pieces {
        crc.update(piece);
    }
    crc.finalize()
}

/// Fills `buffer` from `offset`, unless the file ends before.
pub(super) fn read_full(file: &dyn LogFile, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(kind: u8, flags: u8, id: u64, generation: u32, salt: u32, body_len in 0u32..1 << 20,
                body_crc: u32, head in proptest::collection::vec(any::<u8>(), 0..300), before in 0usize..9) {
            let stamp = Stamp { generation, salt };
            let header = Header { kind, flags, head_len: head.len() as u32, body_len, body_crc, id };
            let mut out = vec![7; before];
            header.encode(stamp, &head, &mut out);
            let bytes = &out[before..];
            prop_assert_eq!(bytes.len() as u64, header.record_len() - u64::from(body_len));
            prop_assert_eq!(Header::parse(bytes, stamp), Some(header));
            let (raw, rest) = bytes.split_at(HEADER_LEN as usize);
            prop_assert!(Header::is_intact(raw, rest));
            prop_assert_eq!(Header::parse(bytes, Stamp { generation: generation ^ 1, salt }), None);
            prop_assert_eq!(Header::parse(bytes, Stamp { generation, salt: salt ^ 1 }), None);
        }

        #[test]
        fn one_flipped_bit_is_noticed(head in proptest::collection::vec(any::<u8>(), 0..60), bit in 0usize..768) {
            let stamp = Stamp { generation: 3, salt: 9 };
            let header = Header { kind: 1, flags: 0, head_len: head.len() as u32, body_len: 5, body_crc: 8, id: 77 };
            let mut out = Vec::new();
            header.encode(stamp, &head, &mut out);
            let bit = bit % (out.len() * 8);
            out[bit / 8] ^= 1 << (bit % 8);
            let intact = Header::parse(&out, stamp).is_some_and(|h| {
                let end = HEADER_LEN as usize + h.head_len as usize;
                out.get(HEADER_LEN as usize..end).is_some_and(|head| Header::is_intact(&out[..HEADER_LEN as usize], head))
            });
            prop_assert!(!intact);
        }

        #[test]
        fn garbage_is_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100), stamped: bool) {
            let mut bytes = bytes;
            if stamped && bytes.len() > 2 {
                bytes[..2].copy_from_slice(&MAGIC);
            }
            let _ = Header::parse_any(&bytes);
        }
    }
}
