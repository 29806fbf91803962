//! What a log's folder holds, before any record is read: segments in order, each with its end as far as it is known.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::{Files, LogFile};
use super::record::{Stamp, read_full};
use super::segment::{FIRST, FileName, Others, PAGE, SIZE_MAX, Seal, SegmentHeader};
use super::walk::{Found, Step, Walk, find_stamp};
use super::{Damage, LogError, SegmentId};

/// More missing segments than this are not told of one by one.
const MISSING_MAX: usize = 1000;

/// Where the segment is missing whose header would not name those that were freed when it was begun.
const MAY_BE_MISSING: &str =
    "the file is missing, or was given back before: the segment that would tell is missing too";

/// A segment on disk.
pub(super) struct Surveyed {
    pub id: SegmentId,
    pub path: PathBuf,
    pub file: Arc<dyn LogFile>,
    pub stamp: Stamp,
    /// Size of the file.
    pub size: u64,
    pub end: End,
    /// By its seal: the segment that was begun behind it.
    pub next: Option<SegmentId>,
    /// The header page is damaged; the salt was learnt from a record.
    pub headless: bool,
    /// Its header says that every page was written before it was used.
    pub written: bool,
    /// The file is shorter than this, as its header has it.
    pub cut_off: Option<u64>,
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

    /// Its last page is where the seal stands, or is to stand.
    pub fn has_seal_page(&self) -> bool {
        self.written && self.cut_off.is_none()
    }

    /// What is wrong with the file itself.
    pub fn file_damage(&self) -> impl Iterator<Item = Damage> {
        let headless = self.headless.then(|| self.damage(0, PAGE, "the header page is not readable"));
        let cut_off = self.cut_off.map(|whole| self.damage(self.size, whole - self.size, "the file is cut off here"));
        headless.into_iter().chain(cut_off)
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
    /// Names that only tell that a segment was given back.
    pub gone: Vec<u32>,
    pub has_reserve: bool,
    pub has_ready: bool,
    /// Files that were being made when the process ended.
    pub unfinished: Vec<FileName>,
    /// Segments that have to be there, by header and seal of the newest one, and are not, or hold nothing that can be read.
    pub missing: Vec<Damage>,
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
            gone: Vec::new(),
            has_reserve: false,
            has_ready: false,
            unfinished: Vec::new(),
            missing: Vec::new(),
            generation_max: 0,
        };
        let names = files.list(dir).map_err(LogError::io("list", dir))?;
        let mut names: Vec<FileName> = names.iter().filter_map(|name| FileName::parse(name)).collect();
        names.sort_unstable();
        let mut headers = Vec::new();
        for name in &names {
            match *name {
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
                        Some((segment, header)) => {
                            survey.segments.push(segment);
                            headers.push(header);
                        }
                        None => survey.residue.push(generation),
                    }
                }
                FileName::Free(generation) => {
                    survey.generation_max = survey.generation_max.max(generation);
                    survey.pool.push(generation);
                }
                FileName::Gone(generation) => {
                    survey.generation_max = survey.generation_max.max(generation);
                    survey.gone.push(generation);
                }
                FileName::Reserve => survey.has_reserve = true,
                FileName::Ready => survey.has_ready = true,
                FileName::Zero | FileName::Begin => survey.unfinished.push(*name),
            }
        }
        survey.compare(dir, &headers, &names);
        Ok(survey)
    }

    /// What segments say about others: where they end, which there have to be. `headers` are those of `segments`.
    fn compare(&mut self, dir: &Path, headers: &[Option<SegmentHeader>], names: &[FileName]) {
        let ids: Vec<SegmentId> = self.segments.iter().map(|segment| segment.id).collect();
        let mut ends = BTreeMap::new();
        for (by, header) in ids.iter().zip(headers) {
            let prior = header.as_ref().and_then(|header| header.prior).filter(|prior| prior.segment < *by);
            ends.extend(prior.map(|prior| (prior.segment, (*by, u64::from(prior.offset)))));
        }
        for segment in &mut self.segments {
            if let Some((by, end)) = ends.get(&segment.id)
                && !matches!(segment.end, End::Sealed(_))
            {
                segment.end = End::NamedBy(*by, (*end).clamp(FIRST, segment.size.max(FIRST)));
                // What stood there of the log, rather than of the file.
                segment.cut_off = segment.cut_off.map(|whole| if *end > segment.size { *end } else { whole });
            }
        }
        let others = headers.last().and_then(|header| header.as_ref()?.others.as_ref());
        // What had begun behind it is newer than all there are; and the next one is to come behind that.
        let next = self.segments.last().and_then(|newest| newest.next).map(|next| next.0);
        self.generation_max = self.generation_max.max(next.unwrap_or(0));
        let stands = |id: u32| {
            let named =
                [FileName::Segment(id), FileName::Free(id), FileName::Gone(id)].map(|n| names.binary_search(&n));
            named.iter().any(Result::is_ok) && !self.residue.contains(&id)
        };
        let lost = next.filter(|id| !stands(*id));
        let others = others.into_iter().flat_map(Others::ranges).flatten().filter(|id| !stands(*id));
        for id in others.take(MISSING_MAX).chain(lost) {
            let len = ends.get(&SegmentId(id)).map_or(0, |(_, end)| *end);
            let why = match lost {
                Some(lost) if lost != id => MAY_BE_MISSING,
                _ if self.residue.contains(&id) => "nothing in the file is readable",
                _ => "the file is missing",
            };
            self.missing.push(Damage { file: FileName::Segment(id).in_dir(dir), offset: 0, len, why });
        }
    }
}

/// Reads header and seal. `None`: nothing was ever written to it.
fn look(
    generation: u32,
    path: PathBuf,
    file: Arc<dyn LogFile>,
) -> io::Result<Option<(Surveyed, Option<SegmentHeader>)>> {
    let size = file.len()?.min(SIZE_MAX);
    let mut page = vec![0; PAGE as usize];
    let got = read_full(&*file, &mut page, 0)?;
    let header = SegmentHeader::parse(&page[..got]).filter(|h| h.stamp.generation == generation);
    let stamp = match &header {
        Some(header) => header.stamp,
        None => match find_stamp(&*file, generation, size)? {
            Some(stamp) => stamp,
            None => return Ok(None),
        },
    };
    let mut seal = None;
    if size >= 2 * PAGE {
        let got = read_full(&*file, &mut page, size - PAGE)?;
        seal = Seal::parse(&page[..got], stamp).filter(|seal| (FIRST..=size - PAGE).contains(&seal.end));
    }
    let segment = Surveyed {
        id: SegmentId(generation),
        path,
        file,
        stamp,
        size,
        end: seal.map_or(End::Unknown, |seal| End::Sealed(seal.end)),
        next: seal.and_then(|seal| seal.next).filter(|next| next.0 > generation),
        headless: header.is_none(),
        written: header.as_ref().is_some_and(|header| header.others.is_some()),
        cut_off: header.as_ref().map(|header| header.size.min(SIZE_MAX)).filter(|whole| *whole > size),
    };
    Ok(Some((segment, header)))
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
    // The last page is the seal's, unless it is not the last.
    let seal = if segment.cut_off.is_some() { 0 } else { PAGE };
    let mut walk = Walk::new(&*segment.file, segment.stamp, segment.size.saturating_sub(seal));
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
