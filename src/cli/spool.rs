//! `posthaste spool verify`: reads every record of the log and says what is wrong. Changes nothing.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Subcommand;

use super::{ConfigArgument, FAILED};
use crate::{log, spool};

#[derive(Debug, Subcommand)]
pub(super) enum SpoolCommand {
    /// Check every record on disk; the daemon may be running.
    Verify(ConfigArgument),
}

pub(super) fn run(command: SpoolCommand) -> anyhow::Result<ExitCode> {
    let SpoolCommand::Verify(arguments) = command;
    let config = match arguments.load() {
        Ok(config) => config,
        Err(code) => return Ok(code),
    };
    let dir = config.data_dir.join("spool");
    let mut kinds: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut unreadable = 0u64;
    let report = log::verify(&dir, &mut |record| match spool::describe(record.kind, record.head) {
        Ok(kind) => *kinds.entry(kind).or_default() += 1,
        Err(error) => {
            unreadable += 1;
            println!("{}: segment {}, offset {}: {error}", dir.display(), record.position.segment.0, record.position.offset);
        }
    })?;
    for (kind, count) in &kinds {
        println!("{count:>10} {kind} records");
    }
    println!("{report}");
    Ok(if report.is_clean() && unreadable == 0 { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}
