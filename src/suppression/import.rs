//! Import and export: CSV and NDJSON of any length, a batch in memory at a time.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::csv::{self, Columns};
use super::text::{Defaults, EntryText};
use super::{Batch, Entry, Suppressions};
use crate::ledger::LedgerError;

/// A batch is stored when it has so many rows, or octets in memory.
const ROWS: usize = 1 << 19;
const OCTETS: usize = 48 << 20;
/// Longest line, in octets.
const LINE_MAX: usize = 64 << 10;
/// So many errors are told one by one.
const ERRORS_MAX: usize = 1000;

/// How entries stand in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A header, or an address a line.
    #[default]
    Csv,
    /// A JSON object a line, as [`EntryText`].
    Ndjson,
}

/// What came of an import, or has come of it so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// Rows that were read.
    pub rows: u64,
    /// Entries that were stored, or would have been; of rows about the same within a batch the last.
    pub stored: u64,
    /// Rows that are wrong.
    pub refused: u64,
    /// What is wrong with the first thousand of them.
    pub errors: Vec<RowError>,
    /// Nothing was stored, as was asked.
    pub dry_run: bool,
}

/// What is wrong with a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowError {
    /// Its line, from 1.
    pub line: u64,
    /// What.
    pub why: String,
}

/// Takes a file piece by piece. What it stored stays if it is dropped; what it holds is lost.
#[derive(Debug)]
pub struct Importer {
    list: Arc<Suppressions>,
    format: Format,
    defaults: Defaults,
    columns: Option<Columns>,
    line: u64,
    /// The beginning of a line.
    begun: Vec<u8>,
    /// The rest of a line that is too long.
    skipping: bool,
    batch: Batch,
    rows_max: usize,
    done: Imported,
}

impl Importer {
    /// For a file; a row says for itself what it does not want to be as in `defaults`.
    pub fn new(list: Arc<Suppressions>, format: Format, defaults: Defaults, dry_run: bool) -> Importer {
        Importer {
            list,
            format,
            defaults,
            columns: None,
            line: 0,
            begun: Vec::new(),
            skipping: false,
            batch: Batch::default(),
            rows_max: ROWS,
            done: Imported { dry_run, ..Imported::default() },
        }
    }

    /// The same, with so many rows in memory at most.
    pub fn in_batches_of(mut self, rows: usize) -> Importer {
        self.rows_max = rows;
        self
    }

    /// The next piece. Blocks while batches are stored.
    ///
    /// # Errors
    /// The ledger cannot be written; earlier batches are stored.
    pub fn take(&mut self, mut octets: &[u8]) -> Result<(), LedgerError> {
        while let Some(end) = memchr::memchr(b'\n', octets) {
            let (line, rest) = (&octets[..end], &octets[end + 1..]);
            octets = rest;
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            if self.begun.is_empty() {
                self.line(line)?;
            } else {
                let mut whole = std::mem::take(&mut self.begun);
                whole.extend_from_slice(line);
                self.line(&whole)?;
                whole.clear();
                self.begun = whole;
            }
        }
        if !self.skipping {
            self.begun.extend_from_slice(octets);
            if self.begun.len() > LINE_MAX {
                let begun = std::mem::take(&mut self.begun);
                self.skipping = true;
                self.line(&begun)?;
            }
        }
        Ok(())
    }

    /// The file is at its end: stores what is left. Blocks.
    ///
    /// # Errors
    /// The ledger cannot be written; earlier batches are stored.
    pub fn finish(mut self) -> Result<Imported, LedgerError> {
        let last = std::mem::take(&mut self.begun);
        if !last.is_empty() {
            self.line(&last)?;
        }
        self.store()?;
        Ok(self.done)
    }

    /// What came of it so far.
    pub fn progress(&self) -> &Imported {
        &self.done
    }

    fn line(&mut self, line: &[u8]) -> Result<(), LedgerError> {
        self.line += 1;
        match self.read(line) {
            Ok(None) => return Ok(()),
            Ok(Some(entry)) => {
                self.done.rows += 1;
                self.batch.push(&entry);
            }
            Err(why) => {
                self.done.rows += 1;
                self.done.refused += 1;
                if self.done.errors.len() < ERRORS_MAX {
                    // Some quote what the row says.
                    let why = why.replace(char::is_control, "\u{fffd}");
                    self.done.errors.push(RowError { line: self.line, why });
                }
            }
        }
        if self.batch.len() >= self.rows_max || self.batch.octets() >= OCTETS { self.store() } else { Ok(()) }
    }

    /// What a line says; `None`: nothing.
    fn read(&mut self, line: &[u8]) -> Result<Option<Entry>, String> {
        if line.len() > LINE_MAX {
            return Err(format!("longer than {LINE_MAX} octets"));
        }
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = if self.line == 1 { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line) } else { line };
        let line = std::str::from_utf8(line).map_err(|_| "not UTF-8".to_owned())?;
        if line.trim().is_empty() {
            return Ok(None);
        }
        let text: EntryText<'_> = match self.format {
            Format::Ndjson => serde_json::from_str(line).map_err(|error| json_error(&error))?,
            Format::Csv => {
                if self.columns.is_none() {
                    let columns = Columns::of_header(line);
                    let header = columns.is_some();
                    self.columns = Some(Columns::plain());
                    if let Some(columns) = columns {
                        self.columns = Some(columns?);
                    }
                    if header {
                        return Ok(None);
                    }
                }
                self.columns.as_ref().expect("set above").read(line)?
            }
        };
        text.entry(&self.defaults, &self.list.rules()).map(Some).map_err(|wrong| wrong.to_string())
    }

    fn store(&mut self) -> Result<(), LedgerError> {
        let batch = std::mem::take(&mut self.batch);
        self.done.stored += match self.done.dry_run {
            true => batch.len() as u64,
            false => self.list.add_run(batch, &self.defaults.source)?,
        };
        Ok(())
    }
}

/// Without the line, which is always the first.
fn json_error(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line 1 column ") {
        Some((why, column)) => format!("{why} at column {column}"),
        None => text,
    }
}

/// What an export begins with.
pub fn export_header(format: Format) -> &'static str {
    match format {
        Format::Csv => csv::HEADER,
        Format::Ndjson => "",
    }
}

/// Appends an entry to an export; an import reads it back as it was.
pub fn export(out: &mut String, format: Format, entry: &Entry) {
    match format {
        Format::Csv => csv::write(out, entry),
        Format::Ndjson => {
            out.push_str(&serde_json::to_string(&EntryText::of(entry)).expect("every field is text"));
            out.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Reason, Scope};
    use super::*;
    use crate::clock::Timestamp;

    fn defaults(tenant: Option<&str>) -> Defaults {
        Defaults {
            tenant: tenant.map(Box::from),
            scope: Some(Scope::Global).filter(|_| tenant.is_none()),
            reason: Reason::Manual,
            source: "import".into(),
            since: Timestamp(1_795_348_800_000),
        }
    }

    /// Imports in pieces of `piece` octets; the export, and the errors.
    #[track_caller]
    fn check(format: Format, tenant: Option<&str>, text: &str, expected: &[&str], errors: &[&str]) {
        for piece in [1, 7, 1 << 20] {
            let list = Arc::new(Suppressions::default());
            let mut import = Importer::new(Arc::clone(&list), format, defaults(tenant), false);
            text.as_bytes().chunks(piece).for_each(|piece| import.take(piece).unwrap());
            let done = import.finish().unwrap();
            let found: Vec<String> = done.errors.iter().map(|error| format!("{}: {}", error.line, error.why)).collect();
            assert_eq!(found, errors);
            let entries = list.list(0, 100).unwrap().entries;
            let mut rows: Vec<String> = entries
                .iter()
                .map(|entry| {
                    let mut row = String::new();
                    csv::write(&mut row, entry);
                    row.trim_end().into()
                })
                .collect();
            rows.sort();
            assert_eq!(rows, expected);
            assert_eq!((done.stored, done.refused), (expected.len() as u64, errors.len() as u64));
            for format in [Format::Csv, Format::Ndjson] {
                let mut out = String::from(export_header(format));
                entries.iter().for_each(|entry| export(&mut out, format, entry));
                let again = Arc::new(Suppressions::default());
                let mut import = Importer::new(Arc::clone(&again), format, defaults(None), false);
                import.take(out.as_bytes()).unwrap();
                assert_eq!(import.finish().unwrap().errors, []);
                assert_eq!(again.list(0, 100).unwrap().entries, entries);
            }
        }
    }

    const SINCE: &str = "import,2026-11-22T12:00:00.000Z";

    #[test]
    fn rows_of_csv() {
        let plain = |subject: &str| format!("{subject},global,manual,,{SINCE},");
        check(
            Format::Csv,
            None,
            "Ann@us.example\r\n\n@spam.example\nnobody\n\"a,b\"@x.example\nann@US.example",
            &[&plain("@spam.example"), &plain("ann@us.example")],
            &["4: address: the address has no @", "5: text behind a closing quote"],
        );
        let hash = "0".repeat(64);
        check(
            Format::Csv,
            None,
            &format!(
                "email,Scope,reason,until,source,evidence\n\"\"\"a,b\"\"@x.example\",,,,,\n{hash},tenant:shop,complaint,2027-01-01T00:00:00Z,crm,e1\n\
                 x@y.example,nowhere\nx@y.example,,,soon\nx@y.example,,bad\na@b.example,,,,,,,\n\"open"
            ),
            &[
                &format!("\"\"\"a,b\"\"@x.example\",global,manual,,{SINCE},"),
                &format!(
                    "sha256:{hash},tenant:shop,complaint,e1,crm,2026-11-22T12:00:00.000Z,2027-01-01T00:00:00.000Z"
                ),
            ],
            &[
                "4: scope: a scope is global, tenant:NAME or list:TENANT/LIST",
                "5: until: not a time as in 2026-12-01T00:00:00Z",
                "6: reason: a reason is hard-bounce, complaint, unsubscribe or manual",
                "7: 8 fields in a row of 6",
                "8: a quote is not closed within its line",
            ],
        );
    }

    #[test]
    fn rows_of_json() {
        check(
            Format::Ndjson,
            Some("shop"),
            "{\"address\": \"ann@us.example\"}\n{\"domain\": \"us.example\", \"list\": \"news\"}\n{\"address\": \"x@y.example\", \"scope\": \"global\"}\n\
             {\"address\": \"x@y.example\", \"tenant\": \"other\"}\n{\"addres\": 1}\n{}\n{\"address\": \"a@b.example\", \"hash\": \"00\"}\n\
             {\"a\\u0007\\nb\": 1}\n",
            &[
                &format!("@us.example,list:shop/news,manual,,{SINCE},"),
                &format!("ann@us.example,tenant:shop,manual,,{SINCE},"),
            ],
            &[
                "3: scope: only entries of one's own can be changed",
                "4: tenant: only entries of one's own can be changed",
                "5: unknown field `addres`, expected one of `address`, `domain`, `hash`, `scope`, `tenant`, `list`, `reason`, `evidence`, `source`, `since`, `until` at column 9",
                "6: address: an address, a domain or a hash is needed",
                "7: address: one of address, domain and hash is enough",
                "8: unknown field `a\u{fffd}\u{fffd}b`, expected one of `address`, `domain`, `hash`, `scope`, `tenant`, `list`, `reason`, `evidence`, `source`, `since`, `until` at column 13",
            ],
        );
    }

    #[test]
    fn a_line_without_end_takes_no_memory_and_a_dry_run_stores_nothing() {
        let list = Arc::new(Suppressions::default());
        let mut import = Importer::new(Arc::clone(&list), Format::Csv, defaults(None), true);
        for _ in 0..100 {
            import.take(&[b'x'; 10_000]).unwrap();
            assert!(import.begun.len() <= LINE_MAX + 10_000);
        }
        import.take(b"\nann@us.example\n").unwrap();
        let done = import.finish().unwrap();
        let why = format!("longer than {LINE_MAX} octets");
        assert_eq!((done.rows, done.stored, done.errors), (2, 1, vec![RowError { line: 1, why }]));
        assert_eq!(list.counts(), [0, 0, 0]);
    }
}
