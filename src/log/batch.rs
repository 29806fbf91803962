//! One batch: groups side by side, written with as few calls as the system allows, none of it copied but the heads.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::ops::Range;

use super::files::LogFile;
use super::pending::Entry;
use super::record::{BATCH, HEADER_LEN, Header, Stamp};
use super::segment::{PAGE, page_up};
use super::{Location, Position, SegmentId};

/// A batch takes no further group beyond this many octets.
const BATCH_MAX: u64 = 8 << 20;
/// Pieces in one call (IOV_MAX on Linux).
const PIECES_MAX: usize = 1024;

static ZEROS: [u8; PAGE as usize] = [0; PAGE as usize];

/// Octets that a batch of this much content takes on disk.
pub(super) fn batch_len(content: u64) -> u64 {
    page_up(HEADER_LEN + content)
}

/// Octets of the first group in `queue`; 0 if it is empty.
pub(super) fn first_group_len(queue: &VecDeque<Entry>) -> u64 {
    let mut len = 0;
    for entry in queue {
        len += entry.len();
        if !entry.header.has_more() {
            break;
        }
    }
    len
}

enum Piece {
    /// Headers and heads.
    Arena(Range<usize>),
    /// Part of the body of an entry.
    Body(usize, usize),
}

/// Groups about to be written at `offset`, which is a multiple of [`PAGE`].
pub(super) struct Batch {
    pub entries: Vec<Entry>,
    pub locations: Vec<Location>,
    pub offset: u64,
    /// Octets of content, the batch header included, the padding not.
    pub len: u64,
    arena: Vec<u8>,
    pieces: Vec<Piece>,
}

impl Batch {
    /// Takes whole groups from `queue`: at least one, then as many as fit into `room` and [`BATCH_MAX`]. The first is
    /// known to fit.
    pub fn take(queue: &mut VecDeque<Entry>, stamp: Stamp, offset: u64, room: u64, arena: Vec<u8>) -> Batch {
        let mut batch =
            Batch { entries: Vec::new(), locations: Vec::new(), offset, len: HEADER_LEN, arena, pieces: Vec::new() };
        batch.arena.clear();
        // Its length is known only at the end, so the batch header's place is kept free.
        batch.arena.resize(HEADER_LEN as usize, 0);
        batch.pieces.push(Piece::Arena(0..HEADER_LEN as usize));
        loop {
            let group = first_group_len(queue);
            let fits = page_up(batch.len + group) <= room && batch.len + group <= BATCH_MAX;
            if group == 0 || !(fits || batch.entries.is_empty()) {
                break;
            }
            while let Some(entry) = queue.pop_front() {
                let more = entry.header.has_more();
                batch.push(entry, stamp);
                if !more {
                    break;
                }
            }
        }
        let mut header = Vec::with_capacity(HEADER_LEN as usize);
        Header::internal(BATCH, batch.len).encode(stamp, &[], &mut header);
        batch.arena[..HEADER_LEN as usize].copy_from_slice(&header);
        batch
    }

    fn push(&mut self, entry: Entry, stamp: Stamp) {
        let position = Position { segment: SegmentId(stamp.generation), offset: (self.offset + self.len) as u32 };
        self.locations.push(Location { position, head_len: entry.header.head_len, body_len: entry.header.body_len });
        self.len += entry.len();
        let start = self.arena.len();
        entry.header.encode(stamp, &entry.head, &mut self.arena);
        match self.pieces.last_mut() {
            Some(Piece::Arena(range)) => range.end = self.arena.len(),
            _ => self.pieces.push(Piece::Arena(start..self.arena.len())),
        }
        let index = self.entries.len();
        let parts = entry.body.iter().enumerate().filter(|(_, part)| !part.is_empty());
        self.pieces.extend(parts.map(|(part, _)| Piece::Body(index, part)));
        self.entries.push(entry);
    }

    /// Writes the batch with its padding. On an error nobody knows what was written.
    pub fn write(&self, file: &dyn LogFile) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = self
            .pieces
            .iter()
            .map(|piece| match piece {
                Piece::Arena(range) => IoSlice::new(&self.arena[range.clone()]),
                Piece::Body(entry, part) => IoSlice::new(&self.entries[*entry].body[*part]),
            })
            .collect();
        let padding = (page_up(self.len) - self.len) as usize;
        if padding > 0 {
            slices.push(IoSlice::new(&ZEROS[..padding]));
        }
        write_all(file, &mut slices, self.offset)
    }

    /// Gives the arena back for the next batch.
    pub fn into_parts(self) -> (Vec<Entry>, Vec<Location>, Vec<u8>) {
        (self.entries, self.locations, self.arena)
    }
}

/// Writes all of `slices` at `offset`.
pub(super) fn write_all(file: &dyn LogFile, mut slices: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
    while !slices.is_empty() {
        let count = slices.len().min(PIECES_MAX);
        match file.write_at(&slices[..count], offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                offset += n as u64;
                IoSlice::advance_slices(&mut slices, n);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
