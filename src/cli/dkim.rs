//! `posthaste dkim`: keys, and what to publish for them.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;

use super::ConfigArgument;
use crate::mail::Domain;
use crate::signing::keygen::{self, KeyAlgorithm};

#[derive(Debug, Subcommand)]
pub(super) enum DkimCommand {
    /// Make a key and print the DNS record to publish and the lines for the configuration.
    Generate {
        /// The From domain it will sign for.
        #[arg(long)]
        domain: Domain,
        /// The selector, a label below `_domainkey`.
        #[arg(long)]
        selector: String,
        /// `rsa` (2048 bits; every receiver takes it) or `ed25519` (as a second signature).
        #[arg(long, default_value = "rsa")]
        algorithm: KeyAlgorithm,
        /// Where the private key goes (mode 0600, never overwritten); without it, standard output.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Print the DNS records of the configured keys.
    Dns {
        /// Only keys of this domain.
        #[arg(long)]
        domain: Option<Domain>,
        #[command(flatten)]
        config: ConfigArgument,
    },
}

pub(super) fn run(command: DkimCommand) -> anyhow::Result<ExitCode> {
    match command {
        DkimCommand::Generate { domain, selector, algorithm, out } => {
            print!("{}", keygen::generate_command(&domain, &selector, algorithm, out.as_deref())?);
        }
        DkimCommand::Dns { domain, config } => {
            let config = match config.load() {
                Ok(config) => config,
                Err(code) => return Ok(code),
            };
            if config.dkim.is_empty() {
                eprintln!("posthaste dkim dns: the configuration has no [[dkim]] key");
            }
            for key in config.dkim.iter().filter(|key| domain.as_ref().is_none_or(|domain| *domain == key.domain)) {
                print!("{}", keygen::dns_command(&key.domain, &key.selector, &key.key_file)?);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
