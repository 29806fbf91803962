//! `posthaste spool verify`: reads every record of the logs, the ledger's too, and says what is wrong. Changes nothing.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Subcommand;

use super::{ConfigArgument, FAILED};
use crate::{ledger, log, spool};

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
            println!("{}: {:?}: {error}", dir.display(), record.location.position);
        }
    })?;
    let ledger = config.data_dir.join("ledger");
    let remembered = ledger::verify(&ledger, &mut |record, kind| match kind {
        Ok(kind) => *kinds.entry(kind).or_default() += 1,
        Err(error) => {
            unreadable += 1;
            println!("{}: {:?}: {error}", ledger.display(), record.location.position);
        }
    })?;
    for (kind, count) in &kinds {
        println!("{count:>10} {kind} records");
    }
    for damage in report.damaged.iter().chain(&remembered.damaged) {
        println!("damaged: {damage}");
    }
    let torn = match report.torn {
        0 => String::new(),
        torn => format!(", {torn} end in a write that was cut short (nothing in it was acknowledged)"),
    };
    println!("{} records, {} octets in {} segments{torn}", report.records, report.bytes, report.segments);
    let log::VerifyReport { records, bytes, segments, .. } = remembered;
    println!("ledger: {records} records, {bytes} octets in {segments} segments");
    Ok(if report.damaged.is_empty() && remembered.damaged.is_empty() && unreadable == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILED)
    })
}
