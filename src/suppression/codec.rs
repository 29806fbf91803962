//! How entries stand in the ledger: in blocks, sorted by the hash of who is meant. What is on disk changes only by a new
//! version octet.
//!
//! | field | octets |
//! |---|---|
//! | version, count of entries, count of contexts | 1, 2, 2 |
//! | hashes, in order | 8 each, big end first |
//! | where each entry ends | 2 each |
//! | contexts (scope, reason, source: what many entries share) | length in 2, then: kind of scope, tenant, list, reason, source |
//! | entries | context, flags, epoch, since in 6, until in 6, evidence with its length, subject |

use std::ops::Range;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use smallvec::SmallVec;

use super::{Entry, Reason, Scope, Subject};
use crate::clock::Timestamp;

const VERSION: u8 = 1;
/// A block is closed when its entries have so many octets.
const BLOCK_OCTETS: usize = 8 << 10;
/// Entries of a block, at most: each has ten octets and more.
pub(super) const BLOCK_ROWS: usize = BLOCK_OCTETS / 10 + 1;
/// Evidence and sources are cut to so many octets.
const TEXT_MAX: usize = 255;

const HAS_UNTIL: u8 = 0x10;

/// What is on disk cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a block of the suppression list is damaged, or of a newer version")]
pub(super) struct BlockError;

type Result<T> = std::result::Result<T, BlockError>;

/// SHA-256 of who is meant.
pub(super) type Name = [u8; 32];

pub(super) fn name_of(text: &[u8]) -> Name {
    digest(&SHA256, text).as_ref().try_into().expect("SHA-256 has 32 octets")
}

/// What it is sorted and filtered by.
pub(super) fn hash_of(name: &Name) -> u64 {
    u64::from_be_bytes(*name.first_chunk().expect("it has 32 octets"))
}

impl Subject {
    pub(super) fn name(&self) -> Name {
        match self {
            Subject::Address(address) => name_of(address.as_bytes()),
            Subject::Domain(domain) => name_of(format!("@{domain}").as_bytes()),
            Subject::Hash(hash) => *hash,
        }
    }
}

/// What stands in the subject's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// An address as text.
    Address = 0,
    /// `@` and a domain.
    Domain = 1,
    /// A name.
    Hash = 2,
    /// A name; nobody is meant any more.
    Gone = 3,
}

/// An entry as it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row<'a> {
    pub hash: u64,
    pub context: &'a [u8],
    pub kind: Kind,
    pub subject: &'a [u8],
    pub since: Timestamp,
    pub until: Option<Timestamp>,
    pub evidence: &'a [u8],
    /// Of two about the same the one of the later epoch counts.
    pub epoch: u32,
}

/// Scope, reason and source of entries.
pub(super) fn write_context(scope: &Scope, reason: Reason, source: &str) -> Vec<u8> {
    let mut out = write_scope(scope);
    out.push(Reason::ALL.iter().position(|other| *other == reason).expect("all are there") as u8);
    write_text(&mut out, source);
    out
}

/// What a context begins with.
pub(super) fn write_scope(scope: &Scope) -> Vec<u8> {
    let (kind, tenant, list) = match scope {
        Scope::Global => (0, "", ""),
        Scope::Tenant(tenant) => (1, &**tenant, ""),
        Scope::List { tenant, list } => (2, &**tenant, &**list),
    };
    let mut out = vec![kind];
    for name in [tenant, list] {
        out.extend_from_slice(&(name.len().min(usize::from(u16::MAX)) as u16).to_le_bytes());
        out.extend_from_slice(&name.as_bytes()[..name.len().min(usize::from(u16::MAX))]);
    }
    out
}

/// With its length in front, in one octet.
fn write_text(out: &mut Vec<u8>, text: &str) {
    let text = &text.as_bytes()[..text.floor_char_boundary(TEXT_MAX)];
    out.push(text.len() as u8);
    out.extend_from_slice(text);
}

/// Reads fields.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, len: usize) -> Result<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(BlockError)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk().ok_or(BlockError)?;
        self.0 = rest;
        Ok(*array)
    }

    fn octet(&mut self) -> Result<u8> {
        self.array().map(|[octet]| octet)
    }

    fn u16(&mut self) -> Result<usize> {
        self.array().map(|octets| u16::from_le_bytes(octets).into())
    }

    fn number(&mut self) -> Result<u32> {
        let mut number = 0;
        for shift in [0, 7, 14, 21, 28] {
            let octet = self.octet()?;
            number |= u64::from(octet & 0x7f) << shift;
            if octet < 0x80 {
                return u32::try_from(number).map_err(|_| BlockError);
            }
        }
        Err(BlockError)
    }

    fn time(&mut self) -> Result<Timestamp> {
        let short: [u8; 6] = self.array()?;
        let mut whole = [0; 8];
        whole[..6].copy_from_slice(&short);
        Ok(Timestamp(u64::from_le_bytes(whole)))
    }

    fn text(&mut self) -> Result<&'a str> {
        let len = self.octet()?.into();
        std::str::from_utf8(self.bytes(len)?).map_err(|_| BlockError)
    }

    fn name(&mut self) -> Result<&'a str> {
        let len = self.u16()?;
        std::str::from_utf8(self.bytes(len)?).map_err(|_| BlockError)
    }

    fn scope(&mut self) -> Result<Scope> {
        let (kind, tenant, list) = (self.octet()?, self.name()?, self.name()?);
        match kind {
            0 => Ok(Scope::Global),
            1 => Ok(Scope::Tenant(tenant.into())),
            2 => Ok(Scope::List { tenant: tenant.into(), list: list.into() }),
            _ => Err(BlockError),
        }
    }
}

fn write_number(out: &mut Vec<u8>, mut number: u32) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn write_time(out: &mut Vec<u8>, time: Timestamp) {
    out.extend_from_slice(&time.0.min((1 << 48) - 1).to_le_bytes()[..6]);
}

/// Appends all of a row but its hash and its context, which is named by a number.
pub(super) fn write_row(out: &mut Vec<u8>, context: u32, row: &Row<'_>) {
    write_number(out, context);
    out.push(row.kind as u8 | if row.until.is_some() { HAS_UNTIL } else { 0 });
    write_number(out, row.epoch);
    write_time(out, row.since);
    if let Some(until) = row.until {
        write_time(out, until);
    }
    out.push(row.evidence.len().min(TEXT_MAX) as u8);
    out.extend_from_slice(&row.evidence[..row.evidence.len().min(TEXT_MAX)]);
    out.extend_from_slice(row.subject);
}

/// Reads what [`write_row`] wrote: the context's number and the row without it.
pub(super) fn read_row(hash: u64, octets: &[u8]) -> Result<(u32, Row<'_>)> {
    let mut r = Reader(octets);
    let context = r.number()?;
    let flags = r.octet()?;
    let kinds = [Kind::Address, Kind::Domain, Kind::Hash, Kind::Gone];
    let kind = *kinds.get(usize::from(flags & !HAS_UNTIL)).ok_or(BlockError)?;
    let (epoch, since) = (r.number()?, r.time()?);
    let until = if flags & HAS_UNTIL != 0 { Some(r.time()?) } else { None };
    let len = r.octet()?.into();
    let evidence = r.bytes(len)?;
    Ok((context, Row { hash, context: &[], kind, subject: r.0, since, until, evidence, epoch }))
}

impl Row<'_> {
    pub(super) fn name(&self) -> Result<Name> {
        match self.kind {
            Kind::Address | Kind::Domain => Ok(name_of(self.subject)),
            Kind::Hash | Kind::Gone => self.subject.try_into().map_err(|_| BlockError),
        }
    }

    /// The octets of its scope.
    pub(super) fn scope(&self) -> Result<&[u8]> {
        let mut r = Reader(self.context);
        r.scope()?;
        Ok(&self.context[..self.context.len() - r.0.len()])
    }

    /// 0: global, 1: a tenant's, 2: a list's.
    pub(super) fn scope_kind(&self) -> usize {
        self.context.first().map_or(0, |kind| usize::from(*kind).min(2))
    }

    /// Whether both are about the same subject in the same scope.
    pub(super) fn is_about(&self, other: &Row<'_>) -> Result<bool> {
        Ok(self.hash == other.hash && self.scope()? == other.scope()? && self.name()? == other.name()?)
    }

    /// `None`: nobody is meant any more.
    pub(super) fn entry(&self) -> Result<Option<Entry>> {
        let mut r = Reader(self.context);
        let (scope, reason) = (r.scope()?, r.octet()?);
        let reason = *Reason::ALL.get(usize::from(reason)).ok_or(BlockError)?;
        let text = || std::str::from_utf8(self.subject).map_err(|_| BlockError);
        let subject = match self.kind {
            Kind::Address => Subject::Address(text()?.into()),
            Kind::Domain => {
                let domain = text()?.strip_prefix('@').and_then(|domain| domain.parse().ok());
                Subject::Domain(domain.ok_or(BlockError)?)
            }
            Kind::Hash => Subject::Hash(self.name()?),
            Kind::Gone => return Ok(None),
        };
        Ok(Some(Entry {
            subject,
            scope,
            reason,
            evidence: std::str::from_utf8(self.evidence).map_err(|_| BlockError)?.into(),
            source: r.text()?.into(),
            since: self.since,
            until: self.until,
        }))
    }
}

/// Entries, for writing.
#[derive(Debug, Default)]
pub(super) struct BlockBuilder {
    hashes: Vec<u8>,
    ends: Vec<u8>,
    contexts: Vec<Vec<u8>>,
    last: usize,
    rows: Vec<u8>,
}

impl BlockBuilder {
    /// Rows come in the order of their hashes.
    pub(super) fn push(&mut self, row: &Row<'_>) {
        if self.contexts.get(self.last).is_none_or(|last| last != row.context) {
            let known = self.contexts.iter().position(|context| context == row.context);
            self.last = known.unwrap_or_else(|| {
                self.contexts.push(row.context.to_vec());
                self.contexts.len() - 1
            });
        }
        self.hashes.extend_from_slice(&row.hash.to_be_bytes());
        write_row(&mut self.rows, self.last as u32, row);
        self.ends.extend_from_slice(&(self.rows.len() as u16).to_le_bytes());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.rows.len() >= BLOCK_OCTETS
    }

    /// What was pushed, for the ledger; it begins anew.
    pub(super) fn finish(&mut self) -> Bytes {
        let block = std::mem::take(self);
        let contexts: usize = block.contexts.iter().map(|context| context.len() + 2).sum();
        let mut out = Vec::with_capacity(5 + block.ends.len() * 5 + contexts + block.rows.len());
        out.push(VERSION);
        out.extend_from_slice(&(block.ends.len() as u16 / 2).to_le_bytes());
        out.extend_from_slice(&(block.contexts.len() as u16).to_le_bytes());
        out.extend_from_slice(&block.hashes);
        out.extend_from_slice(&block.ends);
        for context in block.contexts {
            out.extend_from_slice(&(context.len() as u16).to_le_bytes());
            out.extend_from_slice(&context);
        }
        out.extend_from_slice(&block.rows);
        out.into()
    }
}

/// A row by itself.
pub(super) fn write_single(row: &Row<'_>) -> Bytes {
    let mut block = BlockBuilder::default();
    block.push(row);
    block.finish()
}

/// Entries, read.
#[derive(Debug)]
pub(super) struct Block {
    octets: Bytes,
    count: usize,
    contexts: SmallVec<[Range<usize>; 4]>,
    rows: usize,
}

impl Block {
    pub(super) fn read(octets: Bytes) -> Result<Block> {
        let mut r = Reader(&octets);
        if r.octet()? != VERSION {
            return Err(BlockError);
        }
        let (count, contexts) = (r.u16()?, r.u16()?);
        if count == 0 {
            // Whoever reads on looks at the first row.
            return Err(BlockError);
        }
        r.bytes(count * 10)?;
        let mut found = SmallVec::new();
        for _ in 0..contexts {
            let len = r.u16()?;
            let at = octets.len() - r.0.len();
            r.bytes(len)?;
            found.push(at..at + len);
        }
        let rows = octets.len() - r.0.len();
        Ok(Block { count, contexts: found, rows, octets })
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// The hash of a row that there is.
    pub(super) fn hash(&self, row: usize) -> u64 {
        let at = 5 + row * 8;
        u64::from_be_bytes(*self.octets[at..].first_chunk().expect("all hashes were there when it was read"))
    }

    pub(super) fn row(&self, row: usize) -> Result<Row<'_>> {
        let end = |row: usize| {
            let at = 5 + self.count * 8 + row * 2;
            let octets = self.octets[at..].first_chunk().expect("all ends were there when it was read");
            usize::from(u16::from_le_bytes(*octets))
        };
        let (from, to) = (if row == 0 { 0 } else { end(row - 1) }, end(row));
        let octets = self.octets[self.rows..].get(from..to).ok_or(BlockError)?;
        let (context, read) = read_row(self.hash(row), octets)?;
        let context = self.contexts.get(context as usize).ok_or(BlockError)?;
        Ok(Row { context: &self.octets[context.clone()], ..read })
    }

    /// The rows of that hash.
    pub(super) fn find(&self, hash: u64) -> Range<usize> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.hash(middle) < hash { low = middle + 1 } else { high = middle }
        }
        let mut end = low;
        while end < self.count && self.hash(end) == hash {
            end += 1;
        }
        low..end
    }
}
