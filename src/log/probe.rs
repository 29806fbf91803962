//! Ways in for fuzz targets and benchmarks; see [`crate::probe`].

mod life;
pub mod owner;

use std::any::Any;
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::record::{BATCH, Header, MORE, Stamp, body_crc};
use super::segment::{FIRST, FileName, PAGE, SIZE_MIN, Seal, SegmentHeader, page_up};
use super::{Files, Log, LogFile, LogOptions, verify_with};
use crate::telemetry::Metrics;

pub use life::life;

/// Files in memory, for as long as the value lives. Nothing ever fails but what must: a name that is not there, or taken.
#[derive(Debug, Clone, Default)]
pub struct MemoryFiles {
    files: Arc<Mutex<BTreeMap<PathBuf, Arc<MemoryFile>>>>,
}

/// A file; what was never written reads as zeros and takes no memory.
#[derive(Debug, Default)]
struct MemoryFile {
    size: u64,
    octets: Mutex<Vec<u8>>,
}

impl MemoryFiles {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Arc<MemoryFile>>> {
        self.files.lock().expect("no code panics under this lock")
    }

    fn put(&self, path: PathBuf, octets: Vec<u8>) {
        let file = MemoryFile { size: octets.len() as u64, octets: Mutex::new(octets) };
        self.lock().insert(path, Arc::new(file));
    }
}

impl Files for MemoryFiles {
    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, _path: &Path) -> io::Result<Box<dyn Any + Send + Sync>> {
        Ok(Box::new(()))
    }

    fn create(&self, path: &Path, size: u64) -> io::Result<Arc<dyn LogFile>> {
        let mut files = self.lock();
        if files.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = Arc::new(MemoryFile { size, octets: Mutex::default() });
        files.insert(path.to_owned(), file.clone());
        Ok(file)
    }

    fn open(&self, path: &Path, _writable: bool) -> io::Result<Arc<dyn LogFile>> {
        let file = self.lock().get(path).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(file)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = self.lock();
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.lock().remove(path).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        let mut files = self.lock();
        let file = files.get_mut(path).ok_or(io::ErrorKind::NotFound)?;
        let mut octets = file.octets.lock().expect("no code panics under this lock").clone();
        octets.truncate(len as usize);
        *file = Arc::new(MemoryFile { size: len, octets: Mutex::new(octets) });
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let name = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        Ok(self.lock().keys().filter(|path| path.parent() == Some(dir)).filter_map(name).collect())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn free_space(&self, _dir: &Path) -> io::Result<u64> {
        Ok(1 << 40)
    }
}

const ZEROS: [u8; 4096] = [0; 4096];

impl LogFile for MemoryFile {
    fn write_at(&self, pieces: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let mut octets = self.octets.lock().expect("no code panics under this lock");
        let mut at = offset as usize;
        for piece in pieces {
            let end = at + piece.len();
            // Of these it takes no note, unless the file grows.
            if at >= octets.len()
                && end as u64 <= self.size
                && piece.chunks(ZEROS.len()).all(|p| p == &ZEROS[..p.len()])
            {
                at = end;
                continue;
            }
            if octets.is_empty() {
                // All of it at once, which the system gives when it is touched.
                *octets = vec![0; end.max(self.size as usize)];
            } else if octets.len() < end {
                octets.resize(end, 0);
            }
            octets[at..end].copy_from_slice(piece);
            at = end;
        }
        Ok(at - offset as usize)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let octets = self.octets.lock().expect("no code panics under this lock");
        let there = (self.size.max(octets.len() as u64)).saturating_sub(offset).min(buffer.len() as u64) as usize;
        let written = octets.get(offset as usize..).unwrap_or_default();
        let written = &written[..written.len().min(there)];
        buffer[..written.len()].copy_from_slice(written);
        buffer[written.len()..there].fill(0);
        Ok(there)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let octets = self.octets.lock().expect("no code panics under this lock");
        Ok(self.size.max(octets.len() as u64))
    }
}

/// A record in the target: kind, id, head.
type Shown = (u8, u64, Vec<u8>);

const DIR: &str = "log";
const STAMP: Stamp = Stamp { generation: 1, salt: 0x5a17_ed00 };

/// A segment that was written in order and then damaged, or octets that were never one.
///
/// Checking it and opening it show the same records, each of them written, in order, and all of those in front of the
/// damage. Opened a second time, behind whatever was begun meanwhile, it shows what it did the first time.
pub fn segment(octets: &[u8]) {
    let Some((&mode, rest)) = octets.split_first() else { return };
    let plan = if mode & 1 == 0 { Plan::follow(rest) } else { Plan { file: rest.to_vec(), ..Plan::default() } };
    let files = MemoryFiles::default();
    files.put(FileName::Segment(STAMP.generation).in_dir(Path::new(DIR)), plan.file);
    let mut verified: Vec<Shown> = Vec::new();
    let mut bodies_intact = true;
    verify_with(&files, Path::new(DIR), &mut |record| {
        bodies_intact &= record.body_intact;
        verified.push((record.kind, record.id, record.head.to_vec()));
    })
    .expect("nothing fails to be read");
    let shown = open(&files);
    assert_eq!(verified, shown, "checking shows other records than opening");
    assert_eq!(open(&files), shown, "the second time it shows other records");
    if mode & 1 == 0 {
        let mut written = plan.records.iter().map(|(_, record)| record);
        assert!(shown.iter().all(|one| written.any(|other| other == one)), "never written, or out of order");
        let safe = plan.records.iter().filter(|(end, _)| *end <= plan.damaged_from).count();
        assert!(shown.len() >= safe, "{} of {safe} records in front of the damage are lost", safe - shown.len());
        assert!(plan.damaged_from < u64::MAX || bodies_intact);
    }
}

/// All records there are; begins a segment of its own, as each start does.
fn open(files: &MemoryFiles) -> Vec<Shown> {
    let options = LogOptions { segment_size: SIZE_MIN, recycle_max: 0, ..LogOptions::new(DIR) };
    let mut shown = Vec::new();
    let metrics = Arc::new(Metrics::new());
    let opened = Log::open(options, Arc::new(files.clone()), metrics, &mut |record| {
        shown.push((record.kind, record.id, record.head.to_vec()));
    });
    let (log, report) = opened.expect("damage is no error");
    assert_eq!(report.records, shown.len() as u64);
    drop(log);
    shown
}

/// A file made by following instructions.
#[derive(Default)]
struct Plan {
    file: Vec<u8>,
    /// What was written, each with the end of its batch.
    records: Vec<(u64, Shown)>,
    damaged_from: u64,
}

impl Plan {
    /// Instructions are an octet each, with operands behind them: a record, the end of a batch, or damage, which is done
    /// when all is written.
    fn follow(mut program: &[u8]) -> Plan {
        let mut take = |n: usize| {
            let (operand, rest) = program.split_at(n.min(program.len()));
            program = rest;
            operand.iter().fold(0usize, |value, b| value << 8 | usize::from(*b))
        };
        let mut plan = Plan { file: vec![0; FIRST as usize], records: Vec::new(), damaged_from: u64::MAX };
        let mut batch: Vec<(u8, usize, usize, bool)> = Vec::new();
        let mut damage: Vec<(usize, usize, u8)> = Vec::new();
        let mut sealed = false;
        // An operand of 0 that is not there ends it.
        loop {
            let instruction = take(1);
            match instruction % 8 {
                1..=3 if plan.records.len() + batch.len() < 200 => {
                    batch.push((instruction as u8, take(1), take(1) * 16, instruction % 8 == 3));
                }
                4 => plan.write(&mut batch),
                5 => damage.push((take(2), 1, (take(1) as u8).max(1))),
                6 => damage.push((take(2), take(1) * 16, 0)),
                7 => sealed = true,
                _ => break,
            }
        }
        plan.write(&mut batch);
        plan.finish(sealed, &damage);
        plan
    }

    fn write(&mut self, batch: &mut Vec<(u8, usize, usize, bool)>) {
        if batch.is_empty() {
            return;
        }
        let start = self.file.len();
        Header::internal(BATCH, 0).encode(STAMP, &[], &mut self.file);
        let first = self.records.len();
        let last = batch.len() - 1;
        for (place, (kind, head, body, more)) in batch.drain(..).enumerate() {
            let id = self.records.len() as u64 + 1;
            let (head, body) = (vec![kind; head], vec![id as u8; body]);
            let (head_len, body_len) = (head.len() as u32, body.len() as u32);
            let flags = if more && place < last { MORE } else { 0 };
            let header = Header { kind, flags, head_len, body_len, body_crc: body_crc([&body[..]]), id };
            header.encode(STAMP, &head, &mut self.file);
            self.file.extend_from_slice(&body);
            self.records.push((0, (kind, id, head)));
        }
        let len = (self.file.len() - start) as u64;
        let mut header = Vec::new();
        Header::internal(BATCH, len).encode(STAMP, &[], &mut header);
        self.file[start..start + header.len()].copy_from_slice(&header);
        let end = self.file.len() as u64;
        self.records[first..].iter_mut().for_each(|record| record.0 = end);
        self.file.resize(page_up(end) as usize, 0);
    }

    fn finish(&mut self, sealed: bool, damage: &[(usize, usize, u8)]) {
        let end = self.records.last().map_or(FIRST, |record| record.0);
        let size = (self.file.len() as u64 + PAGE).max(SIZE_MIN);
        self.file.resize((size - PAGE) as usize, 0);
        self.file.extend(if sealed { Seal { end, next: None }.encode(STAMP) } else { vec![0; PAGE as usize] });
        let header = SegmentHeader { stamp: STAMP, size, prior: None, others: None }.encode();
        self.file[..PAGE as usize].copy_from_slice(&header);
        for (at, len, flip) in damage {
            let at = at % self.file.len();
            let end = (at + len).min(self.file.len());
            self.damaged_from = self.damaged_from.min(at as u64);
            match flip {
                0 => self.file[at..end].fill(0),
                bits => self.file[at] ^= bits,
            }
        }
    }
}
