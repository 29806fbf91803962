//! Unpacks gzip (RFC 1952) and zip. What an archive says of its sizes is not believed: so many octets come out, or none.

use std::borrow::Cow;
use std::io::Read;

use flate2::read::{DeflateDecoder, MultiGzDecoder};

use super::ReportError;

/// The largest packed report, in octets. RFC 7489 §7.2.1.1 lets domain owners name less; large ones have a few MiB.
pub const PACKED_MAX: usize = 8 << 20;

/// The largest unpacked report, in octets.
pub const UNPACKED_MAX: usize = 64 << 20;

/// Reports of rows that are much alike shrink to a fortieth; what shrinks to less than this part is a bomb.
pub const RATIO_MAX: usize = 200;

/// Small packets may say the same often.
const RATIO_FREE: usize = 1 << 20;

/// Entries of an archive that are looked at.
const ENTRIES_MAX: usize = 8;

/// The text of a report.
pub(super) fn unpack(octets: &[u8]) -> Result<Cow<'_, [u8]>, ReportError> {
    if octets.len() > PACKED_MAX {
        return Err(ReportError::TooLarge);
    }
    match octets {
        [0x1f, 0x8b, ..] => limited(MultiGzDecoder::new(octets), octets.len()).map(Cow::Owned),
        [b'P', b'K', 3, 4, ..] => unzip(octets).map(Cow::Owned),
        _ => Ok(Cow::Borrowed(octets)),
    }
}

/// Everything that comes out, up to what may.
fn limited(decoder: impl Read, packed: usize) -> Result<Vec<u8>, ReportError> {
    let most = packed.saturating_mul(RATIO_MAX).clamp(RATIO_FREE, UNPACKED_MAX);
    let mut out = Vec::new();
    match decoder.take(most as u64 + 1).read_to_end(&mut out) {
        Ok(_) if out.len() > most => Err(ReportError::TooLarge),
        // Cut short on the way: what is there may still be a whole report.
        Err(_) if out.is_empty() => Err(ReportError::Packed),
        Ok(_) | Err(_) => Ok(out),
    }
}

/// The first entry that is a file. Local headers are followed; the directory at the end would only say the same again.
fn unzip(octets: &[u8]) -> Result<Vec<u8>, ReportError> {
    let mut rest = octets;
    let mut error = ReportError::Packed;
    for _ in 0..ENTRIES_MAX {
        let Some(entry) = Entry::read(rest) else { return Err(error) };
        if !entry.is_folder {
            match entry.unpack() {
                Ok(text) => return Ok(text),
                Err(why) => error = why,
            }
        }
        // Without a size (bit 3) there is no next one to be found.
        match entry.packed {
            Some(packed) => rest = rest.get(entry.start + packed..).unwrap_or_default(),
            None => return Err(error),
        }
    }
    Err(error)
}

/// A local file header, with all that lies behind it.
struct Entry<'a> {
    is_folder: bool,
    encrypted: bool,
    method: u16,
    /// Octets, if it says.
    packed: Option<usize>,
    start: usize,
    data: &'a [u8],
}

impl<'a> Entry<'a> {
    fn read(octets: &'a [u8]) -> Option<Entry<'a>> {
        let header = octets.get(..30).filter(|header| header.starts_with(b"PK\x03\x04"))?;
        let two = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let four =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]) as usize;
        let (flags, method, packed) = (two(6), two(8), four(18));
        let name = octets.get(30..30 + usize::from(two(26)))?;
        let start = 30 + usize::from(two(26)) + usize::from(two(28));
        let told = flags & 8 == 0 && packed != u32::MAX as usize;
        Some(Entry {
            is_folder: name.ends_with(b"/"),
            encrypted: flags & 1 != 0,
            method,
            packed: told.then_some(packed),
            start,
            data: octets.get(start..)?,
        })
    }

    fn unpack(&self) -> Result<Vec<u8>, ReportError> {
        let data = match self.packed {
            Some(packed) => self.data.get(..packed).ok_or(ReportError::Packed)?,
            None => self.data,
        };
        match self.method {
            _ if self.encrypted => Err(ReportError::Packed),
            0 if self.packed.is_some() => Ok(data.to_vec()),
            8 => limited(DeflateDecoder::new(data), data.len()),
            _ => Err(ReportError::Packed),
        }
    }
}
