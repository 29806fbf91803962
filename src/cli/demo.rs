//! `posthaste demo`: real messages through a real daemon, without any set-up.

use std::process::ExitCode;

use clap::Args;

use super::FAILED;
use crate::config::ByteSize;
use crate::demo::{self, DemoOptions};

#[derive(Debug, Args)]
pub(super) struct DemoArguments {
    /// Messages to send.
    #[arg(long, value_name = "N", default_value_t = DemoOptions::default().messages)]
    messages: u64,
    /// Size of each, such as 10KiB.
    #[arg(long, value_name = "BYTES", default_value_t = ByteSize(DemoOptions::default().size as u64))]
    size: ByteSize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: DemoArguments) -> anyhow::Result<ExitCode> {
    let DemoArguments { messages, size, json } = arguments;
    let options = DemoOptions { messages, size: size.bytes(), json };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(demo::run(options))?;
    match json {
        true => println!("{}", serde_json::to_string_pretty(&report)?),
        false => println!("{report}"),
    }
    Ok(if report.is_complete() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}
