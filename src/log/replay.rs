//! Replay: showing the owner what is there.

use std::io::{self, IoSlice};
use std::path::Path;

use super::batch::write_all;
use super::record::read_full;
use super::segment::{FIRST, FileName};
use super::survey::{End, Survey, Surveyed, find_end};
use super::table::{Pooled, Segment, Table};
use super::walk::{Step, Walk};
use super::{Damage, Files, LogError, LogFile, Position, Replayed};

/// What [`Log::open`](super::Log::open) found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplayReport {
    /// Segments read.
    pub segments: usize,
    /// Records shown.
    pub records: u64,
    /// Octets of those records.
    pub bytes: u64,
    /// Segments that were open when the process ended, and so were checked to the last octet.
    pub unsealed: usize,
    /// A batch was in flight when the process ended; nothing in it had been acknowledged.
    pub torn: bool,
    /// What should be readable and is not. Each is also a log line and counted in `spool_damaged`.
    pub damaged: Vec<Damage>,
    /// No segment here has reached [`LogOptions::after`](super::LogOptions::after): the numbers jump.
    pub renumbered: bool,
}

/// So much of a segment is fetched ahead at most.
const AHEAD_MAX: u64 = 128 << 20;

/// What `open` needs to go on from.
pub(super) struct Replay {
    pub report: ReplayReport,
    pub table: Table,
    /// Where the newest segment ends.
    pub prior: Option<Position>,
    /// Whether the newest segment has a seal; if not, the one that names its end has to stay as long.
    pub prior_sealed: bool,
    /// The newest segment and where it ends, if a seal can be written to it.
    pub newest: Option<(Surveyed, u64)>,
    pub generation_max: u32,
    pub has_reserve: bool,
    /// Files without use.
    pub residue: Vec<FileName>,
}

/// Shows every record in `dir` to `visit`, oldest first. Writes nothing new, but syncs segments whose end was not known.
pub(super) fn replay(
    files: &dyn Files,
    dir: &Path,
    segment_size: u64,
    visit: &mut dyn FnMut(Replayed<'_>),
) -> Result<Replay, LogError> {
    let survey = Survey::take(files, dir, true)?;
    let mut replay = Replay {
        report: ReplayReport::default(),
        table: Table::new(segment_size),
        prior: None,
        prior_sealed: true,
        newest: None,
        generation_max: survey.generation_max,
        has_reserve: survey.has_reserve,
        residue: survey.residue.into_iter().map(FileName::Segment).chain(survey.unfinished).collect(),
    };
    replay.report.damaged = survey.missing;
    let pooled = |generation| Pooled { generation, size: 0 };
    replay.table.pool = survey.pool.into_iter().map(pooled).collect();
    replay.table.gone = survey.gone;
    // Of which size these are is for `tidy` to find out.
    replay.table.ready = survey.has_ready.then_some(0);
    let mut named = Vec::new();
    let mut ahead = Ahead::default();
    let mut segments = survey.segments.into_iter();
    while let Some(segment) = segments.next() {
        ahead.fetch(segments.as_slice().first().map(|next| (&*next.file, next.size)));
        let end = settle_end(&segment, &mut replay.report).map_err(LogError::io("read", &segment.path))?;
        if let End::Unknown = segment.end {
            // What was read may be in the system's memory only, and from here on it counts as written.
            write_again(&segment, end).map_err(LogError::io("write", &segment.path))?;
            segment.file.sync_data().map_err(LogError::io("sync", &segment.path))?;
        }
        let read = show(&segment, end, &mut replay.report, visit).map_err(LogError::io("read", &segment.path))?;
        ahead.note(read, end);
        replay.report.segments += 1;
        replay.prior = Some(Position { segment: segment.id, offset: end as u32 });
        replay.prior_sealed = matches!(segment.end, End::Sealed(_));
        if let End::NamedBy(by, _) = segment.end {
            named.push((by, segment.id));
        }
        let Surveyed { id, stamp, size, written, .. } = segment;
        let state = Segment {
            file: segment.file.clone(),
            stamp,
            size,
            end,
            live: 0,
            ended: true,
            freeing: false,
            waits_for: [].into(),
            names_end_of: None,
            written,
        };
        replay.table.segments.insert(id, state);
        replay.newest = segment.has_seal_page().then_some((segment, end));
    }
    for (by, id) in named {
        if let Some(by) = replay.table.segments.get_mut(&by) {
            by.names_end_of = Some(id);
        }
    }
    Ok(replay)
}

/// Has the system fetch the next segment while one is read. Whether that pays shows in the one before: of long bodies nothing is
/// read, and segments full of them are not worth fetching.
#[derive(Default)]
pub(super) struct Ahead {
    /// Most of the last one was read.
    dense: bool,
}

impl Ahead {
    /// Before one is read: `next` comes behind it, and is so long.
    pub fn fetch(&self, next: Option<(&dyn LogFile, u64)>) {
        if let Some((file, size)) = next.filter(|_| self.dense) {
            file.will_need(size.min(AHEAD_MAX));
        }
    }

    /// Of a segment that ends at `end` so much was read.
    pub fn note(&mut self, read: u64, end: u64) {
        self.dense = read >= end / 2;
    }
}

/// The end of the segment, found if nothing names it, and damage noted on the way.
fn settle_end(segment: &Surveyed, report: &mut ReplayReport) -> io::Result<u64> {
    report.damaged.extend(segment.file_damage());
    match segment.end {
        End::Sealed(end) | End::NamedBy(_, end) => Ok(end),
        End::Unknown => {
            let found = find_end(segment)?;
            report.unsealed += 1;
            report.torn |= found.torn;
            let bodies = found.bodies.iter();
            report.damaged.extend(bodies.map(|b| segment.damage(b.offset(), b.header.record_len(), BODY)));
            Ok(found.end)
        }
    }
}

/// Writes the last batch of a segment once more, whose end is this. If its sync failed in the process before, the system shows it, but
/// counts it as written, and would not write it at the next sync. What stands before it was synced before it was begun.
fn write_again(segment: &Surveyed, end: u64) -> io::Result<()> {
    let Some(mut at) = Walk::new(&*segment.file, segment.stamp, end).last_batch_start(FIRST)? else { return Ok(()) };
    let mut piece = vec![0; PIECE.min((end - at) as usize)];
    while at < end {
        let wanted = piece.len().min((end - at) as usize);
        let got = read_full(&*segment.file, &mut piece[..wanted], at)?;
        if got == 0 {
            break;
        }
        match write_all(&*segment.file, &mut [IoSlice::new(&piece[..got])], at) {
            // Where even this takes space; and a full disk is not to hinder opening.
            Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(()),
            written => written?,
        }
        at += got as u64;
    }
    Ok(())
}

/// Octets written again at once.
const PIECE: usize = 1 << 20;

pub(super) const BODY: &str = "the body does not fit its checksum";
pub(super) const GAP: &str = "no record is readable here";

/// Shows the records of a segment up to `end`, without reading long bodies. Returns how many octets it read.
fn show(
    segment: &Surveyed,
    end: u64,
    report: &mut ReplayReport,
    visit: &mut dyn FnMut(Replayed<'_>),
) -> io::Result<u64> {
    let mut walk = Walk::new(&*segment.file, segment.stamp, end);
    loop {
        match walk.step()? {
            Step::End => return Ok(walk.octets_read()),
            Step::Gap { from, to, .. } => report.damaged.push(segment.damage(from, to - from, GAP)),
            Step::Record(found) => {
                report.records += 1;
                report.bytes += found.header.record_len();
                let (kind, id) = (found.header.kind, found.header.id);
                visit(Replayed { location: found.location, kind, id, head: walk.head(&found)? });
            }
        }
    }
}

/// See [`Log::scan`](super::Log::scan). Tells `ahead` how much it read; returns what is damaged.
pub(super) fn scan(
    segment: &Surveyed,
    ahead: &mut Ahead,
    visit: &mut dyn FnMut(Replayed<'_>),
) -> io::Result<Vec<Damage>> {
    let mut report = ReplayReport::default();
    let end = settle_end(segment, &mut report)?;
    ahead.note(show(segment, end, &mut report, visit)?, end);
    Ok(report.damaged)
}
