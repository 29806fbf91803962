//! How facts and receipts stand in the ledger's logs. What is on disk changes only by a new version octet.

use bytes::Bytes;

use super::Table;
use crate::clock::Timestamp;
use crate::log::{Position, SegmentId};
use crate::mail::{Fingerprint, MessageId, Receipt};

/// The record cannot be read: damaged, or written by a newer version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the record's {0} cannot be read")]
pub struct CodecError(pub &'static str);

type Result<T> = std::result::Result<T, CodecError>;

/// Of facts.
const VERSION: u8 = 1;

/// Of batches and runs. In version 1 the first octet of a fingerprint did not say what made it, so that those are of no use.
const RECEIPTS_VERSION: u8 = 2;

/// Octets of a receipt on disk.
pub(super) const KEPT_LEN: usize = 44;

/// Octets of a page of a run, the last four of them its checksum.
pub(super) const PAGE: usize = 4096;

/// Receipts in a page.
pub(super) const PER_PAGE: usize = (PAGE - 4) / KEPT_LEN;

/// A receipt as it is kept.
///
/// `name` is SHA-256 of tenant and key, cut to 128 bits: among ten million keys two share a name with a chance of 10^-25, and
/// then the second is refused as a contradiction, since the fingerprints differ too; no mail is lost or doubled. The
/// fingerprint is cut to 64 bits: it is compared with one other only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kept {
    pub name: u128,
    pub fingerprint: u64,
    pub id: MessageId,
    pub accepted_at: Timestamp,
    pub messages: u32,
    /// Forgotten from this hour on, counted from 1970.
    pub until: u32,
}

/// What three octets hold.
const U24_MAX: u32 = 0xff_ffff;

const HOUR_MS: u64 = 3_600_000;

/// The first whole hour not before `time`.
pub(super) fn hour_after(time: Timestamp) -> u32 {
    u32::try_from(time.0.div_ceil(HOUR_MS)).unwrap_or(u32::MAX).min(U24_MAX)
}

/// Whether that hour has not begun yet.
pub(super) fn is_before(now: Timestamp, hour: u32) -> bool {
    now.0 / HOUR_MS < u64::from(hour)
}

impl Kept {
    pub(super) fn receipt(&self) -> Receipt {
        Receipt { id: self.id, messages: self.messages, accepted_at: self.accepted_at, replayed: false }
    }

    /// Whether it still counts.
    pub(super) fn holds(&self, now: Timestamp) -> bool {
        is_before(now, self.until)
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.name.to_be_bytes());
        out.extend_from_slice(&self.fingerprint.to_le_bytes());
        out.extend_from_slice(&self.id.0.to_le_bytes());
        out.extend_from_slice(&self.accepted_at.0.to_le_bytes()[..6]);
        out.extend_from_slice(&self.messages.min(U24_MAX).to_le_bytes()[..3]);
        out.extend_from_slice(&self.until.min(U24_MAX).to_le_bytes()[..3]);
    }

    /// `printed`: its fingerprint says what made it.
    pub(super) fn read(octets: &[u8; KEPT_LEN], printed: bool) -> Kept {
        let mut r = Reader(octets);
        let mut read = || -> Result<Kept> {
            Ok(Kept {
                name: u128::from_be_bytes(r.array("name")?),
                fingerprint: u64::from_le_bytes(r.array("fingerprint")?),
                id: MessageId(u64::from_le_bytes(r.array("id")?)),
                accepted_at: Timestamp(r.short::<6>("time")?),
                messages: r.short::<3>("messages")? as u32,
                until: r.short::<3>("until")? as u32,
            })
        };
        let kept = read().expect("the lengths add up to KEPT_LEN");
        if printed { kept } else { Kept { fingerprint: Fingerprint::UNKNOWN.short(), ..kept } }
    }
}

/// Reads fields; fails with the field's name rather than panic.
#[derive(Debug)]
pub(super) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn bytes(&mut self, len: usize, field: &'static str) -> Result<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(CodecError(field))?;
        self.0 = rest;
        Ok(bytes)
    }

    pub(super) fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk().ok_or(CodecError(field))?;
        self.0 = rest;
        Ok(*array)
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32> {
        self.array(field).map(u32::from_le_bytes)
    }

    /// `N` octets, little end first.
    fn short<const N: usize>(&mut self, field: &'static str) -> Result<u64> {
        let octets: [u8; N] = self.array(field)?;
        let mut whole = [0; 8];
        whole[..N].copy_from_slice(&octets);
        Ok(u64::from_le_bytes(whole))
    }

    pub(super) fn position(&mut self, field: &'static str) -> Result<Position> {
        Ok(Position { segment: SegmentId(self.u32(field)?), offset: self.u32(field)? })
    }

    fn version(&mut self, newest: u8) -> Result<u8> {
        let [version] = self.array("version")?;
        if (1..=newest).contains(&version) { Ok(version) } else { Err(CodecError("version")) }
    }

    fn end(&self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(CodecError("length")) }
    }
}

pub(super) fn write_position(out: &mut Vec<u8>, position: Position) {
    out.extend_from_slice(&position.segment.0.to_le_bytes());
    out.extend_from_slice(&position.offset.to_le_bytes());
}

/// Receipts in the order they came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BatchHead {
    /// All keys of the spool's log up to here stand in this record or before it.
    pub through: Position,
    pub kept: Vec<Kept>,
}

impl BatchHead {
    pub(super) fn write(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(9 + self.kept.len() * KEPT_LEN);
        out.push(RECEIPTS_VERSION);
        write_position(&mut out, self.through);
        self.kept.iter().for_each(|kept| kept.write(&mut out));
        out
    }

    pub(super) fn read(head: &[u8]) -> Result<BatchHead> {
        let mut r = Reader(head);
        let printed = r.version(RECEIPTS_VERSION)? > 1;
        let through = r.position("position")?;
        let (kept, rest) = r.0.as_chunks();
        if !rest.is_empty() {
            return Err(CodecError("length"));
        }
        Ok(BatchHead { through, kept: kept.iter().map(|kept| Kept::read(kept, printed)).collect() })
    }
}

/// What stands in front of a run of receipts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RunHead {
    /// As [`BatchHead::through`].
    pub through: Position,
    /// Batches up to here stand in runs.
    pub covers: Position,
    /// How many receipts.
    pub count: u32,
    /// When the last of them is forgotten.
    pub until_max: u32,
    /// It holds those that are kept longer than others.
    pub long: bool,
    /// The fingerprints say what made them.
    pub printed: bool,
    /// The runs that it takes the place of.
    pub replaces: Vec<Position>,
    /// First 32 bits of the first name of each page.
    pub fences: Vec<u32>,
    /// The words of the filter.
    pub filter: Vec<u64>,
}

impl RunHead {
    pub(super) fn write(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.fences.len() * 4 + self.filter.len() * 8);
        out.push(if self.printed { RECEIPTS_VERSION } else { 1 });
        write_position(&mut out, self.through);
        write_position(&mut out, self.covers);
        let lengths = [self.replaces.len(), self.fences.len(), self.filter.len()].map(|len| len as u32);
        for number in [self.count, self.until_max, self.long.into()].into_iter().chain(lengths) {
            out.extend_from_slice(&number.to_le_bytes());
        }
        self.replaces.iter().for_each(|position| write_position(&mut out, *position));
        self.fences.iter().for_each(|fence| out.extend_from_slice(&fence.to_le_bytes()));
        self.filter.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
        out
    }

    pub(super) fn read(head: &[u8]) -> Result<RunHead> {
        let mut r = Reader(head);
        let printed = r.version(RECEIPTS_VERSION)? > 1;
        let (through, covers) = (r.position("position")?, r.position("position")?);
        let (count, until_max) = (r.u32("count")?, r.u32("until")?);
        let long = match r.u32("flags")? {
            0 => false,
            1 => true,
            _ => return Err(CodecError("flags")),
        };
        let lengths = [r.u32("length")?, r.u32("length")?, r.u32("length")?].map(|len| len as usize);
        let mut replaces = Reader(r.bytes(lengths[0].saturating_mul(8), "replaces")?);
        let replaces = (0..lengths[0]).map(|_| replaces.position("replaces")).collect::<Result<_>>()?;
        let (fences, _) = r.bytes(lengths[1].saturating_mul(4), "fences")?.as_chunks();
        let fences = fences.iter().map(|fence| u32::from_le_bytes(*fence)).collect();
        let (filter, _) = r.bytes(lengths[2].saturating_mul(8), "filter")?.as_chunks();
        let filter = filter.iter().map(|word| u64::from_le_bytes(*word)).collect();
        r.end()?;
        // Whoever merges runs makes room for all they count.
        if (count as usize).div_ceil(PER_PAGE) != lengths[1] {
            return Err(CodecError("count"));
        }
        Ok(RunHead { through, covers, count, until_max, long, printed, replaces, fences, filter })
    }
}

/// A fact that was set (`Some`) or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fact {
    pub table: Table,
    pub key: Vec<u8>,
    pub value: Option<Bytes>,
}

impl Fact {
    /// What it takes in memory.
    pub(super) fn octets(&self) -> usize {
        64 + self.key.len() + self.value.as_ref().map_or(0, Bytes::len)
    }

    /// What it takes in its record.
    pub(super) fn len(&self) -> u64 {
        fact_len(self.key.len(), self.value.as_ref().map_or(0, Bytes::len))
    }
}

const NO_VALUE: u32 = u32::MAX;

/// Octets of a fact in its record.
pub(super) fn fact_len(key: usize, value: usize) -> u64 {
    (9 + key + value) as u64
}

pub(super) fn write_facts<'a>(facts: impl IntoIterator<Item = &'a Fact>) -> Vec<u8> {
    let mut out = vec![VERSION];
    for Fact { table, key, value } in facts {
        out.push(*table as u8);
        out.extend_from_slice(&(key.len() as u32).to_le_bytes());
        out.extend_from_slice(&value.as_ref().map_or(NO_VALUE, |value| value.len() as u32).to_le_bytes());
        out.extend_from_slice(key);
        out.extend_from_slice(value.as_deref().unwrap_or_default());
    }
    out
}

pub(super) fn read_facts(head: &[u8]) -> Result<Vec<Fact>> {
    let mut r = Reader(head);
    r.version(VERSION)?;
    let mut facts = Vec::new();
    while !r.0.is_empty() {
        let [table] = r.array("table")?;
        let table = Table::from_number(table).ok_or(CodecError("table"))?;
        let (key_len, value_len) = (r.u32("key")?, r.u32("value")?);
        let key = r.bytes(key_len as usize, "key")?.to_vec();
        let value = match value_len {
            NO_VALUE => None,
            len => Some(Bytes::copy_from_slice(r.bytes(len as usize, "value")?)),
        };
        facts.push(Fact { table, key, value });
    }
    Ok(facts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back_and_cut_off_does_not() {
        let position = |n| Position { segment: SegmentId(n), offset: 4096 * n };
        let kept = |n: u32| Kept {
            name: u128::from(n) << 100 | 7,
            fingerprint: 11,
            id: MessageId(u64::MAX),
            accepted_at: Timestamp(1_795_348_800_123),
            messages: n,
            until: 500_000,
        };
        let batch = BatchHead { through: position(3), kept: vec![kept(1), kept(70_000)] };
        let head = batch.write();
        assert_eq!(head.len(), 9 + 2 * KEPT_LEN);
        assert_eq!(BatchHead::read(&head), Ok(batch.clone()));
        let unprinted = batch.kept.iter().map(|kept| Kept { fingerprint: 0, ..*kept }).collect();
        let first_version = [&[1], &head[1..]].concat();
        assert_eq!(BatchHead::read(&first_version), Ok(BatchHead { kept: unprinted, ..batch }));
        assert_eq!(BatchHead::read(&head[..head.len() - 1]), Err(CodecError("length")));
        let run = RunHead {
            through: position(9),
            covers: position(2),
            count: PER_PAGE as u32 + 5,
            until_max: 77,
            long: true,
            printed: true,
            replaces: vec![position(1), position(2)],
            fences: vec![0, 9],
            filter: vec![u64::MAX; 8],
        };
        let head = run.write();
        assert_eq!(RunHead::read(&head), Ok(run.clone()));
        let unprinted = RunHead { printed: false, ..run.clone() };
        assert_eq!(RunHead::read(&[&[1], &head[1..]].concat()), Ok(unprinted));
        assert!((0..head.len()).all(|len| RunHead::read(&head[..len]).is_err()));
        for count in [0, PER_PAGE as u32, 2 * PER_PAGE as u32 + 1, u32::MAX] {
            assert_eq!(RunHead::read(&RunHead { count, ..run.clone() }.write()), Err(CodecError("count")));
        }
        let facts = vec![
            Fact { table: Table::Tenants, key: b"shop".to_vec(), value: Some(Bytes::from_static(b"{}")) },
            Fact { table: Table::Usage, key: b"".to_vec(), value: None },
        ];
        assert_eq!(read_facts(&write_facts(&facts)), Ok(facts));
    }
}
