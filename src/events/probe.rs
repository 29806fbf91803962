//! Ways in for fuzz targets and benchmarks; see [`crate::probe`].

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{MemfdFlags, memfd_create};

use super::archive::{Origin, Told};
use super::index::{Indexer, Reads, runs};
use super::watch::position_of;

/// What the index adds to writing events.
#[derive(Debug)]
pub struct Indexing {
    indexer: Indexer,
    written: u64,
}

impl Indexing {
    /// Of a file in this folder.
    pub fn new(dir: &Path) -> Indexing {
        Indexing { indexer: Indexer::new(dir.to_owned()), written: 0 }
    }

    /// These whole lines, with positions, stand in the file next.
    pub fn written(&mut self, lines: &[u8]) {
        self.indexer.written(lines, self.written);
        self.written += lines.len() as u64;
    }
}

/// Octets of the head of a run, the last four of them its checksum.
const HEAD: usize = 64;

/// An index of events; the checksum of the head at its begin is made good if the first octet is odd. Runs stand behind one another within
/// the file, and looking for a message in one ends; if the run is as a writer leaves it, all its lines are found.
pub fn index(octets: &[u8]) {
    let Some((mode, rest)) = octets.split_first() else { return };
    let mut rest = rest.to_vec();
    if mode & 1 == 1
        && let Some(head) = rest.first_chunk_mut::<HEAD>()
    {
        let crc = crc32fast::hash(&head[..HEAD - 4]);
        head[HEAD - 4..].copy_from_slice(&crc.to_le_bytes());
    }
    let file = File::from(memfd_create("index", MemfdFlags::CLOEXEC).expect("memory has files"));
    file.write_all_at(&rest, 0).expect("memory can be written");
    let reads = Reads::default();
    let mut before = 0;
    for run in runs(&reads, &file).expect("memory can be read") {
        let stretch = run.stretch();
        assert!(stretch.start < stretch.end);
        let (entries, end, as_written) = run.probe(&reads, &file, rest.len() as u64, before);
        before = end;
        let _ = run.is_sound(&reads, &file).expect("memory can be read");
        for message in entries.iter().map(|entry| entry.message).chain([0, u64::MAX]).take(100) {
            let mut lines = Vec::new();
            run.find(&reads, &file, message, &mut lines).expect("memory can be read");
            let all: Vec<u64> =
                entries.iter().filter(|entry| entry.message == message).map(|entry| entry.offset).collect();
            assert!(lines.len() <= all.len() && lines.iter().all(|line| all.contains(line)));
            assert!(!as_written || lines == all, "{lines:?} of {all:?}");
        }
    }
}

/// The end of an event file, as a crash leaves it: what is kept are whole lines, and the last of them ends its group; a second look cuts
/// nothing more off, and what was cut off is a line without an end or belongs to a group without one. Each line is read, or passed over,
/// and those who look for a position in it agree.
pub fn tail(octets: &[u8]) {
    let (whole, position) = super::file::probe(octets);
    assert!(whole.is_empty() || whole.ends_with(b"\n") && !whole.ends_with(b"+\"}\n"));
    assert_eq!(super::file::probe(whole), (whole, position));
    let cut = &octets[whole.len()..];
    let lines = memchr::memrchr(b'\n', cut).map_or(&cut[..0], |end| &cut[..=end]);
    assert!(
        lines.split_inclusive(|octet| *octet == b'\n').all(|line| line.ends_with(b"+\"}\n")),
        "too much is cut off"
    );
    let last = whole.strip_suffix(b"\n").and_then(|lines| lines.rsplit(|octet| *octet == b'\n').next());
    let told = last.and_then(position_of);
    assert!(told.is_none_or(|(_, last)| last), "it belongs to a group without an end");
    if let (Some(position), Some((told, _))) = (position, told) {
        assert_eq!(position, told);
    }
    for line in octets.split(|octet| *octet == b'\n') {
        let _ = position_of(line);
        if let Some(origin) = Origin::probe(line) {
            assert!(origin.end.is_end());
        }
        if let Ok(told) = serde_json::from_slice::<Told>(line) {
            let _ = told.kind();
        }
    }
}
