//! `posthaste suppression`: who is not mailed any more.

use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use http_body_util::{BodyExt, Full, StreamBody};
use humantime_serde::re::humantime;
use hyper::Method;
use hyper::body::{Bytes, Frame};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{ConfigArgument, FAILED, block_on, client};
use crate::admin::{AddAnswer, AddRequest, RemoveRequest, SuppressionList, SuppressionQuery};
use crate::clock::Clock;
use crate::config::Config;
use crate::suppression::{EntryText, Format, Imported, Subject};

/// Octets of a file sent at once.
const PIECE: usize = 64 << 10;
/// Progress is told every so many rows.
const PROGRESS_ROWS: u64 = 100_000;

#[derive(Debug, Subcommand)]
pub(super) enum SuppressionCommand {
    /// Some entries, and how many there are.
    List {
        #[command(flatten)]
        which: Which,
        /// At most so many.
        #[arg(long, default_value_t = 100)]
        limit: usize,
        /// Where to go on, as the last list said.
        #[arg(long)]
        cursor: Option<String>,
        #[command(flatten)]
        daemon: DaemonArguments,
    },
    /// All that keeps mail from an address: its own entries, and those of its domain.
    Show {
        /// An address, @DOMAIN, or sha256:HASH.
        subject: Subject,
        #[command(flatten)]
        daemon: DaemonArguments,
    },
    /// Mail these no more.
    Add {
        /// Addresses, @DOMAIN, or sha256:HASH.
        #[arg(required = true)]
        subjects: Vec<Subject>,
        #[command(flatten)]
        said: Said,
        /// For how long; not said: for good.
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
        keep: Option<std::time::Duration>,
        /// The event that led to it.
        #[arg(long, default_value = "")]
        evidence: String,
        #[command(flatten)]
        daemon: DaemonArguments,
    },
    /// Mail it again.
    Remove {
        /// An address, @DOMAIN, or sha256:HASH.
        subject: Subject,
        /// Only in this scope: global, tenant:NAME, list:TENANT/LIST.
        #[arg(long)]
        scope: Option<String>,
        #[command(flatten)]
        daemon: DaemonArguments,
    },
    /// Add all entries of a file: CSV with a header, an address or a hash a line, or NDJSON.
    Import {
        /// The file; \"-\": standard input.
        file: PathBuf,
        #[command(flatten)]
        said: Said,
        /// How it is written; not said: as its name ends, or CSV.
        #[arg(long)]
        format: Option<FileFormat>,
        /// Only say what is wrong with it.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        daemon: DaemonArguments,
    },
    /// Write all entries to standard output, as `import` reads them.
    Export {
        #[command(flatten)]
        which: Which,
        /// How they are written.
        #[arg(long, default_value = "csv")]
        format: FileFormat,
        #[command(flatten)]
        config: ConfigArgument,
    },
}

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum FileFormat {
    /// Comma-separated values.
    Csv,
    /// A JSON object a line.
    Ndjson,
}

impl From<FileFormat> for Format {
    fn from(format: FileFormat) -> Format {
        match format {
            FileFormat::Csv => Format::Csv,
            FileFormat::Ndjson => Format::Ndjson,
        }
    }
}

/// Which daemon, and how to print.
#[derive(Debug, Clone, Args)]
pub(super) struct DaemonArguments {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgument,
}

/// Which entries.
#[derive(Debug, Args)]
pub(super) struct Which {
    /// Only in this scope: global, tenant:NAME, list:TENANT/LIST.
    #[arg(long)]
    scope: Option<String>,
    /// Only of this tenant and its lists.
    #[arg(long)]
    tenant: Option<String>,
    /// Only for this reason: hard-bounce, complaint, unsubscribe, manual.
    #[arg(long)]
    reason: Option<String>,
}

impl Which {
    fn query(self) -> SuppressionQuery {
        let Which { scope, tenant, reason } = self;
        SuppressionQuery { scope, tenant, reason, ..SuppressionQuery::default() }
    }
}

/// What new entries say, unless a row says otherwise.
#[derive(Debug, Args)]
pub(super) struct Said {
    /// Whose mail: global, tenant:NAME, list:TENANT/LIST.
    #[arg(long, default_value = "global")]
    scope: String,
    /// Why: hard-bounce, complaint, unsubscribe, manual.
    #[arg(long, default_value = "manual")]
    reason: String,
    /// Who says so.
    #[arg(long, default_value = "operator")]
    source: String,
}

pub(super) fn run(command: SuppressionCommand) -> anyhow::Result<ExitCode> {
    let (arguments, json) = match &command {
        SuppressionCommand::List { daemon, .. }
        | SuppressionCommand::Show { daemon, .. }
        | SuppressionCommand::Add { daemon, .. }
        | SuppressionCommand::Remove { daemon, .. }
        | SuppressionCommand::Import { daemon, .. } => (daemon.config.clone(), daemon.json),
        SuppressionCommand::Export { config, .. } => (config.clone(), false),
    };
    let config = match arguments.load() {
        Ok(config) => config,
        Err(code) => return Ok(code),
    };
    let daemon = Daemon { config, arguments, json };
    block_on(async {
        match command {
            SuppressionCommand::List { which, limit, cursor, .. } => {
                let query = SuppressionQuery { limit: Some(limit), cursor, ..which.query() };
                daemon.list(&query).await
            }
            SuppressionCommand::Show { subject, .. } => {
                let query = SuppressionQuery { subject: Some(subject.to_string()), ..SuppressionQuery::default() };
                daemon.list(&query).await
            }
            SuppressionCommand::Add { subjects, said, keep, evidence, .. } => {
                let until = keep.map(|keep| Clock.timestamp().after(keep).to_string());
                let entries =
                    subjects.iter().map(|subject| entry(subject, &said, until.as_deref(), &evidence)).collect();
                daemon.add(AddRequest { entries }).await
            }
            SuppressionCommand::Remove { subject, scope, .. } => {
                daemon.remove(RemoveRequest { subject: subject.to_string(), scope }).await
            }
            SuppressionCommand::Import { file, said, format, dry_run, .. } => {
                daemon.import(file, said, format, dry_run).await
            }
            SuppressionCommand::Export { which, format, .. } => {
                let query = SuppressionQuery { format: Some(format.into()), ..which.query() };
                daemon.export(&query).await
            }
        }
    })?
}

fn entry(subject: &Subject, said: &Said, until: Option<&str>, evidence: &str) -> EntryText<'static> {
    let text = |text: &str| Some(text.to_owned().into());
    let named = match subject {
        Subject::Address(address) => EntryText { address: text(address), ..EntryText::default() },
        Subject::Domain(domain) => EntryText { domain: text(domain.as_str()), ..EntryText::default() },
        hash @ Subject::Hash(_) => EntryText { hash: text(&hash.to_string()), ..EntryText::default() },
    };
    EntryText {
        scope: text(&said.scope),
        reason: text(&said.reason),
        source: text(&said.source),
        evidence: text(evidence).filter(|_| !evidence.is_empty()),
        until: until.and_then(text),
        ..named
    }
}

/// The running daemon, and how to print what it says.
struct Daemon {
    config: Config,
    arguments: ConfigArgument,
    json: bool,
}

/// The path with the query behind it.
fn path(below: &str, query: &SuppressionQuery) -> anyhow::Result<String> {
    let pairs = serde_json::to_value(query)?;
    let pairs = pairs.as_object().into_iter().flatten().map(|(name, value)| {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let octets = value.bytes().map(|octet| match octet {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => char::from(octet).to_string(),
            octet => format!("%{octet:02X}"),
        });
        format!("{name}={}", octets.collect::<String>())
    });
    Ok(format!("/v1/suppressions{below}?{}", pairs.collect::<Vec<_>>().join("&")))
}

impl Daemon {
    fn print(&self, answer: &impl serde::Serialize, text: impl FnOnce()) -> anyhow::Result<()> {
        match self.json {
            true => println!("{}", serde_json::to_string_pretty(answer)?),
            false => text(),
        }
        Ok(())
    }

    async fn list(&self, query: &SuppressionQuery) -> anyhow::Result<ExitCode> {
        let path = path("", query)?;
        let list: SuppressionList = client::ask(&self.config, &self.arguments, Method::GET, &path, None).await?;
        self.print(&list, || {
            list.entries.iter().for_each(show);
            if let Some([global, tenant, lists]) = list.counts {
                println!(
                    "{} entries in all: {global} global, {tenant} of tenants, {lists} of lists",
                    global + tenant + lists
                );
            } else if list.entries.is_empty() {
                println!("nothing keeps mail from it");
            }
            if let Some(next) = &list.next {
                println!("there are more: --cursor {next}");
            }
        })?;
        Ok(ExitCode::SUCCESS)
    }

    async fn add(&self, request: AddRequest) -> anyhow::Result<ExitCode> {
        let body = Some(serde_json::to_string(&request)?);
        let answer: AddAnswer =
            client::ask(&self.config, &self.arguments, Method::POST, "/v1/suppressions", body).await?;
        self.print(&answer, || println!("{} added", answer.added))?;
        Ok(ExitCode::SUCCESS)
    }

    /// Exit code 1 if there was none.
    async fn remove(&self, request: RemoveRequest) -> anyhow::Result<ExitCode> {
        let body = Some(serde_json::to_string(&request)?);
        let path = "/v1/suppressions/remove";
        let removed: SuppressionList = client::ask(&self.config, &self.arguments, Method::POST, path, body).await?;
        self.print(&removed, || {
            removed.entries.iter().for_each(show);
            println!("{} removed", removed.entries.len());
        })?;
        Ok(if removed.entries.is_empty() { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
    }

    /// Exit code 1 if a row was refused.
    async fn import(
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

    async fn export(&self, query: &SuppressionQuery) -> anyhow::Result<ExitCode> {
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

fn show(entry: &EntryText<'static>) {
    let said = |text: &Option<std::borrow::Cow<'static, str>>| text.as_deref().unwrap_or_default().to_owned();
    let subject = match (&entry.domain, &entry.hash) {
        (Some(domain), _) => format!("@{domain}"),
        (_, Some(hash)) => format!("sha256:{hash}"),
        _ => said(&entry.address),
    };
    let until = entry.until.as_ref().map_or(String::new(), |until| format!(" until {until}"));
    let evidence = entry.evidence.as_ref().map_or(String::new(), |evidence| format!(", {evidence}"));
    let (scope, reason, source, since) =
        (said(&entry.scope), said(&entry.reason), said(&entry.source), said(&entry.since));
    println!("{subject:<40} {scope:<24} {reason} ({source}{evidence}) since {since}{until}");
}
