//! Ways in for fuzz targets; see [`crate::probe`].

use std::sync::Arc;

use bytes::Bytes;

use super::bounces::Failures;
use super::codec::{Block, BlockBuilder};
use super::run::About;
use super::{Defaults, Entry, Format, Imported, Importer, Reason, Scope, Suppressions, export, export_header};
use crate::clock::Timestamp;

/// Rows larger than this are written by nobody: addresses have at most 320 octets, what else stands in them 255.
const ROW_MAX: usize = 1 << 10;

/// A file to be imported; the first octet says how it is cut, and whose it is. However it is cut, the same comes of it. What it stored
/// is listed, and exported and imported again it is the same list. Each problem is told on one line and names the line it is about; without
/// those lines nothing else comes of the file, so that none hides another. Nothing of a tenant's file is about anybody else's mail.
pub fn import(octets: &[u8]) {
    let Some((&mode, file)) = octets.split_first() else { return };
    let format = if mode & 1 == 0 { Format::Csv } else { Format::Ndjson };
    let tenant = (mode & 2 != 0).then_some("shop");
    let (done, entries) = imported(format, tenant, &[file]);
    let (first, second) = file.split_at(usize::from(mode >> 2) * 4 % (file.len() + 1));
    assert_eq!(imported(format, tenant, &[first, second]), (done.clone(), entries.clone()), "it depends on the cut");
    // What has ended already is stored, and not shown.
    let may_have_ended = memchr::memmem::find(file, b"until").is_some();
    assert!(entries.len() as u64 == done.stored || may_have_ended && (entries.len() as u64) < done.stored);
    assert!(done.stored + done.refused <= done.rows && done.errors.len() as u64 == done.refused.min(1000));
    assert!(done.errors.iter().all(|error| !error.why.chars().any(char::is_control)), "{:?}", done.errors);
    let lines: Vec<&[u8]> = file.split(|octet| *octet == b'\n').collect();
    let wrong: Vec<u64> = done.errors.iter().map(|error| error.line).collect();
    assert!(
        wrong.is_sorted_by(|one, next| one < next) && wrong.iter().all(|line| (1..=lines.len() as u64).contains(line))
    );
    if wrong.len() as u64 == done.refused {
        let kept = lines.iter().zip(1..).map(|(line, number)| if wrong.contains(&number) { &[] } else { *line });
        let (good, listed) = imported(format, tenant, &[&kept.collect::<Vec<_>>().join(&b'\n')]);
        assert_eq!((good.rows, good.refused, good.stored), (done.rows - done.refused, 0, done.stored));
        assert_eq!(listed, entries, "a row hides others");
    }
    let theirs = |scope: &Scope| match scope {
        Scope::Global => false,
        Scope::Tenant(name) | Scope::List { tenant: name, .. } => **name == *"shop",
    };
    assert!(tenant.is_none() || entries.iter().all(|entry| theirs(&entry.scope)), "somebody else's list is changed");
    for format in [Format::Csv, Format::Ndjson] {
        let mut out = String::from(export_header(format));
        entries.iter().for_each(|entry| export(&mut out, format, entry));
        let (again, listed) = imported(format, None, &[out.as_bytes()]);
        assert_eq!((again.errors, listed), (Vec::new(), entries.clone()), "an export says something else: {out:?}");
    }
}

fn imported(format: Format, tenant: Option<&str>, pieces: &[&[u8]]) -> (Imported, Vec<Entry>) {
    let list = Arc::new(Suppressions::default());
    let defaults = Defaults {
        tenant: tenant.map(Box::from),
        scope: Some(Scope::Global).filter(|_| tenant.is_none()),
        reason: Reason::Manual,
        source: "import".into(),
        since: Timestamp(1_795_348_800_000),
    };
    let mut import = Importer::new(Arc::clone(&list), format, defaults, false);
    pieces.iter().for_each(|piece| import.take(piece).expect("memory can be written"));
    let done = import.finish().expect("memory can be written");
    (done, list.list(0, 1 << 20).expect("memory can be read").entries)
}

/// What the list has in the ledger: a block of entries, what is said of a run, or when an address failed. Rows are read or refused, and
/// those that are read are written so that they read the same; a row that stands in order is found.
pub fn block(octets: &[u8]) {
    if let Some(about) = About::read(octets) {
        assert_eq!(About::read(&about.write()), Some(about));
        assert!(about.entries() <= u64::from(about.blocks) << 16);
    }
    let failures = Failures::read(octets);
    assert_eq!(Failures::read(&failures.write()), failures);
    let Ok(block) = Block::read(Bytes::copy_from_slice(octets)) else { return };
    let hashes: Vec<u64> = (0..block.len()).map(|row| block.hash(row)).collect();
    let (mut builder, mut rows) = (BlockBuilder::default(), Vec::new());
    let in_order = hashes.is_sorted();
    for (place, hash) in hashes.iter().enumerate() {
        assert!(!in_order || block.find(*hash).contains(&place));
        let Ok(row) = block.row(place) else { continue };
        if let (Ok(Some(entry)), Ok(name)) = (row.entry(), row.name()) {
            let _ = (entry.holds(Timestamp(0)), name);
            assert_eq!(row.is_about(&row), Ok(true));
        }
        if !builder.is_full() && row.subject.len() <= ROW_MAX {
            builder.push(&row);
            rows.push(row);
        }
    }
    if rows.is_empty() {
        return;
    }
    let again = Block::read(builder.finish()).expect("it was written");
    assert_eq!(
        (0..again.len()).map(|row| again.row(row)).collect::<Vec<_>>(),
        rows.into_iter().map(Ok).collect::<Vec<_>>()
    );
}
