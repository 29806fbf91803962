//! `posthaste check`: every problem of the configuration, with place and remedy.

use std::process::ExitCode;

use super::{BAD_USAGE, ConfigArgument};
use crate::shaping::provider::{Profiles, RELAY};
use crate::signing::Signer;

pub(super) fn run(arguments: &ConfigArgument) -> ExitCode {
    let config = match arguments.load() {
        Ok(config) => config,
        Err(code) => return code,
    };
    let mut sound = true;
    let mut complain = |text: String| {
        eprintln!("{}: {text}", arguments.config.display());
        sound = false;
    };
    if let Err(error) = config.hostname() {
        complain(format!("hostname: {error}"));
    }
    let (_, problems) = Signer::load(&config.dkim);
    problems.iter().for_each(|problem| complain(format!("dkim: {problem}")));
    match Profiles::load(&config.shaping) {
        Ok((profiles, warnings)) => {
            warnings.iter().for_each(|warning| eprintln!("{warning}"));
            let mut known: Vec<&str> = profiles.iter().map(|profile| profile.name).collect();
            known.push(RELAY);
            let unknown = config.unknown_providers(&arguments.config, &known);
            unknown.iter().for_each(|problem| eprintln!("{problem}"));
            sound &= unknown.is_empty();
        }
        Err(problems) => {
            problems.iter().for_each(|problem| eprintln!("{problem}"));
            sound = false;
        }
    }
    let mut complain = |text: String| {
        eprintln!("{}: {text}", arguments.config.display());
        sound = false;
    };
    let smtp = &config.submission.smtp;
    if let (Some(cert), Some(key)) = (&smtp.tls_cert_file, &smtp.tls_key_file)
        && let Err(error) = crate::submission::load_tls(cert, key, smtp.tls_client_ca_file.as_deref())
    {
        complain(format!("submission.smtp: {error}"));
    }
    match sound {
        true => {
            println!("{}: no problems", arguments.config.display());
            ExitCode::SUCCESS
        }
        false => ExitCode::from(BAD_USAGE),
    }
}
