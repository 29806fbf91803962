//! What a log's folder holds, before any record is read: segments in order, each with its end as far as it is known.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::{Files, LogFile};
use super::record::{Stamp, read_full};
use super::segment::{FIRST, FileName, PAGE, SIZE_MAX, SegmentHeader, parse_seal};
use super::walk::{Found, Step, Walk, find_stamp};
use super::{Damage, LogError, SegmentId};

/// A segment on disk.
pub(super) struct Surveyed {
    pub id: SegmentId,
    pub path: PathBuf,
    pub file: Arc<dyn LogFile>,
    pub stamp: Stamp,
    /// Size of the file.
    pub size: u64,
    pub end: End,
    /// The header page is damaged; the salt was learnt from a record.
    pub headless: bool,
}

/// Where the records of a segment end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The seal page says so.
    Sealed(u64),
    /// The header of the segment after it says so; that one has to stay as long as this one does.
    NamedBy(SegmentId, u64),
    /// Nothing says so: it was open when the process ended. See [`find_end`].
    Unknown,
}

impl Surveyed {
    /// A report of damage in it.
    pub fn damage(&self, offset: u64, len: u64, why: &'static str) -> Damage {
        Damage { file: self.path.clone(), offset, len, why }
    }
}

/// A log's folder.
pub(super) struct Survey {
    /// Oldest first.
    pub segments: Vec<Surveyed>,
    /// Segments in which nothing was ever written.
    pub residue: Vec<u32>,
    /// Files to be used again.
    pub pool: Vec<u32>,
    pub has_reserve: bool,
    /// The highest generation named by any file.
    pub generation_max: u32,
}

impl Survey {
    /// Reads names, headers and seals.
    pub fn take(files: &dyn Files, dir: &Path, writable: bool) -> Result<Survey, LogError> {
        let mut survey = Survey {
            segments: Vec::new(),
            residue: Vec::new(),
            pool: Vec::new(),
            has_reserve: false,
            generation_max: 0,
        };
        let names = files.list(dir).map_err(LogError::io("list", dir))?;
        let mut names: Vec<FileName> = names.iter().filter_map(|name| FileName::parse(name)).collect();
        names.sort_unstable();
        let mut priors = Vec::new();
        for name in names {
            match name {
                FileName::Segment(generation) => {
                    survey.generation_max = survey.generation_max.max(generation);
                    let path = name.in_dir(dir);
                    let file = match files.open(&path, writable) {
                        Ok(file) => file,
                        // A daemon at work may reclaim under the eyes of `verify`.
                        Err(e) if e.kind() == io::ErrorKind::NotFound && !writable => continue,
                        Err(e) => return Err(LogError::io("open", &path)(e)),
                    };
                    let looked = look(generation, path.clone(), file).map_err(LogError::io("read", &path))?;
                    match looked {
                        Some((segment, prior)) => {
                            priors.extend(prior.map(|prior| (segment.id, prior)));
                            survey.segments.push(segment);
                        }
                        None => survey.residue.push(generation),
                    }
                }
                FileName::Free(generation) => {
                    survey.generation_max = survey.generation_max.max(generation);
                    survey.pool.push(generation);
                }
                FileName::Reserve => survey.has_reserve = true,
            }
        }
        for (by, prior) in priors {
            let named = survey.segments.binary_search_by_key(&prior.segment, |s| s.id);
            if let Ok(index) = named
                && let segment = &mut survey.segments[index]
                && !matches!(segment.end, End::Sealed(_))
            {
                segment.end = End::NamedBy(by, u64::from(prior.offset).clamp(FIRST, segment.size.max(FIRST)));
            }
        }
        Ok(survey)
    }
}

/// Reads header and seal. `None`: nothing was ever written to it.
fn look(
    generation: u32,
    path: PathBuf,
    file: Arc<dyn LogFile>,
) -> io::Result<Option<(Surveyed, Option<super::Position>)>> {
    let size = file.len()?.min(SIZE_MAX);
    let mut page = vec![0; PAGE as usize];
    let got = read_full(&*file, &mut page, 0)?;
    let header = SegmentHeader::parse(&page[..got]).filter(|h| h.stamp.generation == generation);
    let stamp = match header {
        Some(header) => header.stamp,
        None => match find_stamp(&*file, generation, size)? {
            Some(stamp) => stamp,
            None => return Ok(None),
        },
    };
    let mut end = End::Unknown;
    if size >= 2 * PAGE {
        let got = read_full(&*file, &mut page, size - PAGE)?;
        if let Some(sealed) = parse_seal(&page[..got], stamp).filter(|end| (FIRST..=size - PAGE).contains(end)) {
            end = End::Sealed(sealed);
        }
    }
    let id = SegmentId(generation);
    let prior = header.and_then(|h| h.prior).filter(|prior| prior.segment < id);
    Ok(Some((Surveyed { id, path, file, stamp, size, end, headless: header.is_none() }, prior)))
}

/// The end of a segment that was open when the process ended.
pub(super) struct FoundEnd {
    /// Behind the last whole group.
    pub end: u64,
    /// The log goes on behind the end, but not in a way that can be used: the batch in flight.
    pub torn: bool,
    /// What is broken before the last batch, so that it had been synced. Gaps are left out: reading up to `end` meets them again.
    pub bodies: Vec<Found>,
}

/// Finds the end: every record is checked, bodies too, up to the first one that is broken in the last batch.
///
/// What is broken before the last batch is damage, and reading goes on behind it: that batch was begun only after a sync.
pub(super) fn find_end(segment: &Surveyed) -> io::Result<FoundEnd> {
    let mut walk = Walk::new(&*segment.file, segment.stamp, segment.size.saturating_sub(PAGE));
    let mut found = FoundEnd { end: FIRST, torn: false, bodies: Vec::new() };
    // Found once, at the first break, since it may take a search through the rest of the file.
    let mut last_batch: Option<Option<u64>> = None;
    loop {
        let (broken_at, torn) = match walk.step()? {
            Step::End => return Ok(found),
            Step::Gap { from, in_batch, .. } => (from, in_batch),
            Step::Record(record) if walk.body_intact(&record)? => {
                if !record.header.has_more() {
                    found.end = record.end();
                }
                continue;
            }
            Step::Record(record) => {
                found.bodies.push(record);
                (record.offset(), true)
            }
        };
        let last = match last_batch {
            Some(last) => last,
            None => *last_batch.insert(walk.last_batch_start(broken_at)?),
        };
        if last.is_none_or(|last| broken_at >= last) {
            found.bodies.retain(|record| record.offset() < broken_at);
            found.torn = torn;
            return Ok(found);
        }
    }
}
