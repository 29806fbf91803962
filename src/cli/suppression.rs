//! `posthaste suppression`: who is not mailed any more. Its files are read and written in `file.rs`.

mod file;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use humantime_serde::re::humantime;
use hyper::Method;

use super::{ConfigArgument, FAILED, block_on, client};
use crate::admin::{AddAnswer, AddRequest, RemoveRequest, SuppressionList, SuppressionQuery};
use crate::clock::Clock;
use crate::config::Config;
use crate::suppression::{EntryText, Format, Subject};

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
