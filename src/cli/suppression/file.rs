//! Files of the suppression list, to the daemon and from it, a piece after the other.

use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::Method;
use hyper::body::{Bytes, Frame};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Daemon, FileFormat, Said, path};
use crate::admin::SuppressionQuery;
use crate::cli::{FAILED, client};
use crate::suppression::{Format, Imported};

/// Octets of a file sent at once.
const PIECE: usize = 64 << 10;
/// Progress is told every so many rows.
const PROGRESS_ROWS: u64 = 100_000;

impl Daemon {
    /// Exit code 1 if a row was refused.
    pub(super) async fn import(
        &self,
        file: PathBuf,
        said: Said,
        format: Option<FileFormat>,
        dry_run: bool,
    ) -> anyhow::Result<ExitCode> {
        let by_name = match file.extension().and_then(|extension| extension.to_str()) {
            Some("ndjson" | "jsonl" | "json") => Format::Ndjson,
            _ => Format::Csv,
        };
        let query = SuppressionQuery {
            scope: Some(said.scope),
            reason: Some(said.reason),
            source: Some(said.source),
            format: Some(format.map_or(by_name, Format::from)),
            dry_run,
            ..SuppressionQuery::default()
        };
        let reader: Box<dyn Read + Send> = match file.as_os_str() == "-" {
            true => Box::new(std::io::stdin()),
            false => Box::new(std::fs::File::open(&file).with_context(|| format!("{}", file.display()))?),
        };
        let (pieces, sent) = mpsc::channel::<std::io::Result<Frame<Bytes>>>(4);
        let reading = std::thread::spawn(move || read(reader, &pieces));
        let body = StreamBody::new(ReceiverStream::new(sent)).boxed();
        let path = path("/import", &query)?;
        let answer = client::stream(&self.config, &self.arguments, Method::POST, &path, body).await?;
        let answer = client::collect(answer).await?;
        // It has ended: its channel has.
        _ = reading.join();
        let done: Imported = serde_json::from_slice(&answer).context("the daemon's answer makes no sense")?;
        self.print(&done, || {
            for error in &done.errors {
                eprintln!("{}:{}: {}", file.display(), error.line, error.why);
            }
            let untold = done.refused - done.errors.len() as u64;
            if untold > 0 {
                eprintln!("and {untold} more");
            }
            let stored = if done.dry_run { "could be stored" } else { "stored" };
            println!("{} rows: {} {stored}, {} refused", done.rows, done.stored, done.refused);
        })?;
        Ok(if done.refused > 0 { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
    }

    pub(super) async fn export(&self, query: &SuppressionQuery) -> anyhow::Result<ExitCode> {
        let path = path("/export", query)?;
        let nothing = Full::new(Bytes::new()).map_err(|never| match never {}).boxed();
        let mut answer = client::stream(&self.config, &self.arguments, Method::GET, &path, nothing).await?;
        let mut progress = Progress::new("written");
        let mut out = std::io::stdout().lock();
        while let Some(frame) = answer.frame().await {
            if let Ok(piece) = frame.context("the export broke off")?.into_data() {
                progress.see(&piece);
                out.write_all(&piece)?;
            }
        }
        out.flush()?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Reads a file into the channel until one of them ends.
fn read(mut file: Box<dyn Read + Send>, pieces: &mpsc::Sender<std::io::Result<Frame<Bytes>>>) {
    let mut progress = Progress::new("sent");
    let mut piece = vec![0; PIECE];
    loop {
        let read = match file.read(&mut piece) {
            Ok(0) => return,
            Ok(read) => Ok(Frame::data(Bytes::copy_from_slice(&piece[..read]))),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
        let failed = read.is_err();
        if let Ok(frame) = &read {
            frame.data_ref().into_iter().for_each(|piece| progress.see(piece));
        }
        if pieces.blocking_send(read).is_err() || failed {
            return;
        }
    }
}

/// Tells on standard error how far it is; nothing is said of short files.
struct Progress {
    what: &'static str,
    rows: u64,
    told: u64,
    terminal: bool,
}

impl Progress {
    fn new(what: &'static str) -> Progress {
        Progress { what, rows: 0, told: 0, terminal: std::io::stderr().is_terminal() }
    }

    fn see(&mut self, piece: &[u8]) {
        self.rows += memchr::memchr_iter(b'\n', piece).count() as u64;
        if self.rows - self.told >= PROGRESS_ROWS {
            self.told = self.rows;
            let end = if self.terminal { '\r' } else { '\n' };
            eprint!("{} rows {}{end}", self.rows, self.what);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.told > 0 && self.terminal {
            eprintln!();
        }
    }
}
