//! The commands, one file each. Exit codes: 0 done, 1 failed, 2 bad usage or configuration; those of `send` are its own.

mod bounce;
mod check;
mod client;
mod demo;
mod dkim;
mod explain;
mod orders;
#[doc(hidden)]
pub mod probe;
mod queue;
mod send;
mod serve;
mod shaping;
mod spool;
mod suppression;
mod tenant;
mod trace;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::Config;

/// An outbound mail engine: takes mail over SMTP, HTTP and gRPC, keeps it durably, signs it and delivers it.
#[derive(Debug, Parser)]
#[command(name = "posthaste", version, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon in the foreground.
    Serve(ConfigArgument),
    /// Check the configuration; exit 2 if it has problems.
    Check(ConfigArgument),
    /// Send real messages through a real daemon to receivers of its own, no set-up needed.
    Demo(demo::DemoArguments),
    /// Make DKIM keys and their DNS records.
    #[command(subcommand)]
    Dkim(dkim::DkimCommand),
    /// Send the message on stdin through the running daemon, with the options of sendmail (`--help` shows them).
    #[command(disable_help_flag = true)]
    Send {
        /// Options and recipients.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Look at the queue of the running daemon, and steer it.
    #[command(subcommand)]
    Queue(queue::QueueCommand),
    /// Tell everything that happened to a message, and what waits of it.
    Trace(trace::TraceArguments),
    /// Say where mail to an address would go now, at what pace, and why.
    Explain(explain::ExplainArguments),
    /// Say who may submit: tenants of the running daemon, their tokens and quotas.
    #[command(subcommand)]
    Tenant(tenant::TenantCommand),
    /// Say who is not mailed any more: the suppression list of the running daemon.
    #[command(subcommand)]
    Suppression(suppression::SuppressionCommand),
    /// Say what a refusal or a bounce means.
    #[command(subcommand)]
    Bounce(bounce::BounceCommand),
    /// Try provider profiles on what was recorded.
    #[command(subcommand)]
    Shaping(shaping::ShapingCommand),
    /// Look after the spool on disk.
    #[command(subcommand)]
    Spool(spool::SpoolCommand),
}

/// Which configuration.
#[derive(Debug, Clone, Args)]
struct ConfigArgument {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
}

impl ConfigArgument {
    /// The checked configuration; otherwise every problem has been printed.
    fn load(&self) -> Result<Config, ExitCode> {
        let (config, problems) = match Config::load(&self.config) {
            Ok((config, warnings)) => (Ok(config), warnings),
            Err(problems) => (Err(ExitCode::from(BAD_USAGE)), problems),
        };
        problems.iter().for_each(|problem| eprintln!("{problem}"));
        config
    }
}

const DEFAULT_CONFIG: &str = "/etc/posthaste/posthaste.toml";

const FAILED: u8 = 1;
const BAD_USAGE: u8 = 2;

/// Reads the arguments, runs the command, gives the exit code. Called as `sendmail`, `mailq` or `newaliases`, it is that.
pub fn run() -> ExitCode {
    let mut words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    let program = words.next().unwrap_or_default();
    match program.rsplit('/').next() {
        Some("sendmail") => return send::run("sendmail", &words.collect::<Vec<_>>()),
        Some("mailq") => return send::print_queue(),
        Some("newaliases") => return ExitCode::SUCCESS,
        _ => {}
    }
    let outcome = match Arguments::parse().command {
        Command::Serve(arguments) => serve::run(&arguments),
        Command::Check(arguments) => return check::run(&arguments),
        Command::Demo(arguments) => demo::run(arguments),
        Command::Dkim(command) => dkim::run(command),
        Command::Send { words } => return send::run("posthaste send", &words),
        Command::Queue(command) => queue::run(command),
        Command::Trace(arguments) => trace::run(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Spool(command) => spool::run(command),
        Command::Shaping(command) => shaping::run(command),
        Command::Bounce(command) => bounce::run(command),
        Command::Tenant(command) => tenant::run(command),
        Command::Suppression(command) => suppression::run(command),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("posthaste: {error:#}");
        ExitCode::from(FAILED)
    })
}

/// A runtime for the short commands.
fn block_on<T>(deed: impl Future<Output = T>) -> anyhow::Result<T> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(deed))
}
