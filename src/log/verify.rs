//! Checking a log without opening it.

use std::io;
use std::path::Path;

use super::replay::{BODY, GAP};
use super::survey::{End, Survey, Surveyed, find_end};
use super::walk::{Step, Walk};
use super::{Damage, DiskFiles, Files, Location, LogError};

/// How often it is looked again for what is missing.
const LOOKS_MORE: usize = 2;

/// A record that [`verify`] read, head intact.
#[derive(Debug, Clone, Copy)]
pub struct VerifiedRecord<'a> {
    /// Where it stands.
    pub location: Location,
    /// The owner's.
    pub kind: u8,
    /// The owner's.
    pub id: u64,
    /// The owner's.
    pub head: &'a [u8],
    /// Whether the body fits its checksum.
    pub body_intact: bool,
}

/// What [`verify`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Segments read.
    pub segments: usize,
    /// Records with an intact head.
    pub records: u64,
    /// Octets of those records.
    pub bytes: u64,
    /// What should be readable and is not.
    pub damaged: Vec<Damage>,
    /// Segments that end in a batch that was being written; nothing in it was acknowledged. Not damage.
    pub torn: usize,
}

/// Reads every record in `dir`, bodies too, and changes nothing. May run beside a daemon that uses the log: what it is
/// writing at the moment then looks torn. Blocks.
///
/// # Errors
/// [`LogError::Io`] if the folder or a file cannot be read. Damage is no error.
pub fn verify(dir: &Path, visit: &mut dyn FnMut(VerifiedRecord<'_>)) -> Result<VerifyReport, LogError> {
    verify_with(&DiskFiles, dir, visit)
}

/// [`verify`] on other files.
///
/// # Errors
/// As [`verify`].
pub fn verify_with(
    files: &dyn Files,
    dir: &Path,
    visit: &mut dyn FnMut(VerifiedRecord<'_>),
) -> Result<VerifyReport, LogError> {
    let mut survey = Survey::take(files, dir, false)?;
    // A daemon at work renames files while their names are listed.
    for _ in 0..LOOKS_MORE {
        if !survey.missing.is_empty() {
            survey = Survey::take(files, dir, false)?;
        }
    }
    let mut report = VerifyReport { damaged: survey.missing, ..VerifyReport::default() };
    for segment in survey.segments {
        let before = report.damaged.len();
        check(&segment, &mut report, visit).map_err(|e| LogError::io("read", &segment.path)(e))?;
        // A daemon at work may have reclaimed it meanwhile, and what was read is not what stood there.
        if report.damaged.len() > before
            && let Err(e) = files.open(&segment.path, false)
            && e.kind() == io::ErrorKind::NotFound
        {
            report.damaged.truncate(before);
        }
    }
    Ok(report)
}

fn check(segment: &Surveyed, report: &mut VerifyReport, visit: &mut dyn FnMut(VerifiedRecord<'_>)) -> io::Result<()> {
    report.segments += 1;
    report.damaged.extend(segment.file_damage());
    let end = match segment.end {
        End::Sealed(end) | End::NamedBy(_, end) => end,
        End::Unknown => {
            let found = find_end(segment)?;
            report.torn += usize::from(found.torn);
            found.end
        }
    };
    let mut walk = Walk::new(&*segment.file, segment.stamp, end);
    let mut head = Vec::new();
    loop {
        match walk.step()? {
            Step::End => return Ok(()),
            Step::Gap { from, to, .. } => report.damaged.push(segment.damage(from, to - from, GAP)),
            Step::Record(found) => {
                // What was checked. Behind a long body it would be read again, and a daemon at work may have used the file anew.
                head.clear();
                head.extend_from_slice(walk.head(&found)?);
                let body_intact = walk.body_intact(&found)?;
                if !body_intact {
                    report.damaged.push(segment.damage(found.offset(), found.header.record_len(), BODY));
                }
                report.records += 1;
                report.bytes += found.header.record_len();
                let (kind, id) = (found.header.kind, found.header.id);
                visit(VerifiedRecord { location: found.location, kind, id, head: &head, body_intact });
            }
        }
    }
}
