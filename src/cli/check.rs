//! `posthaste check`: every problem of the configuration, with place and remedy.

use std::path::Path;
use std::process::ExitCode;

use super::{BAD_USAGE, ConfigArgument};
use crate::config::{Config, Places, Problem, Severity};
use crate::shaping::provider::{Profiles, RELAY};
use crate::signing::Signer;
use crate::submission::{TlsError, load_tls};

pub(super) fn run(arguments: &ConfigArgument) -> ExitCode {
    let file = &arguments.config;
    let problems = problems(file);
    problems.iter().for_each(|problem| eprintln!("{problem}"));
    if problems.iter().any(|problem| problem.severity == Severity::Error) {
        return ExitCode::from(BAD_USAGE);
    }
    match problems.len() {
        0 => println!("{}: no problems", file.display()),
        1 => println!("{}: no errors, 1 warning", file.display()),
        warnings => println!("{}: no errors, {warnings} warnings", file.display()),
    }
    ExitCode::SUCCESS
}

/// All that is wrong with it; what the parts find that are to use it only if it can be used at all.
fn problems(file: &Path) -> Vec<Problem> {
    let (config, mut problems) = match Config::load(file) {
        Ok(loaded) => loaded,
        Err(problems) => return problems,
    };
    let places = Places::read(file);
    problems.extend(hostname(&config, file, &places));
    problems.extend(keys(&config, file, &places));
    problems.extend(certificates(&config, file, &places));
    problems.sort_by_key(|problem| problem.line);
    problems.extend(profiles(&config, file));
    problems
}

fn hostname(config: &Config, file: &Path, places: &Places) -> Option<Problem> {
    let error = config.hostname().err()?;
    Some(Problem::error(file, places, "hostname", error.to_string(), "set it to this host's full name"))
}

/// Signing keys that cannot sign.
fn keys(config: &Config, file: &Path, places: &Places) -> Vec<Problem> {
    let (_, unusable) = Signer::load(&config.dkim);
    let problem = |(index, key): (usize, &crate::config::DkimConfig)| {
        let found = unusable.iter().find(|one| (&one.domain, &one.selector) == (&key.domain, &key.selector))?;
        let why = format!("{}: {}", key.key_file.display(), found.why);
        let remedy = "name a file with a PEM private key; `posthaste dkim generate` makes one";
        Some(Problem::error(file, places, format!("dkim[{index}].key_file"), why, remedy))
    };
    config.dkim.iter().enumerate().filter_map(problem).collect()
}

/// What is wrong with what stands in the files of certificates.
fn certificates(config: &Config, file: &Path, places: &Places) -> Vec<Problem> {
    let (doors, inbound, page) = (&config.submission, &config.inbound, &config.unsubscribe);
    let tables = [
        ("submission.smtp", &doors.smtp.tls_cert_file, &doors.smtp.tls_key_file, &doors.smtp.tls_client_ca_file),
        ("submission.grpc", &doors.grpc.tls_cert_file, &doors.grpc.tls_key_file, &doors.grpc.tls_client_ca_file),
        ("submission.http", &doors.http.tls_cert_file, &doors.http.tls_key_file, &doors.http.tls_client_ca_file),
        ("inbound", &inbound.tls_cert_file, &inbound.tls_key_file, &None),
        ("unsubscribe", &page.tls_cert_file, &page.tls_key_file, &None),
    ];
    let mut problems = Vec::new();
    for (table, cert, key, authorities) in tables {
        let (Some(cert), Some(key)) = (cert, key) else { continue };
        let Err(error) = load_tls(cert, key, authorities.as_deref()) else { continue };
        let blamed = match &error {
            // Certificate and key may stand in one file.
            TlsError::NoKey { .. } => "tls_key_file",
            error if error.file() == cert => "tls_cert_file",
            error if error.file() == key => "tls_key_file",
            _ => "tls_client_ca_file",
        };
        let why = format!("{:#}", anyhow::Error::from(error));
        let remedy = "name PEM files that belong together";
        problems.push(Problem::error(file, places, format!("{table}.{blamed}"), why, remedy));
    }
    problems
}

/// What is wrong with own profiles of providers, and names of providers that no profile has.
fn profiles(config: &Config, file: &Path) -> Vec<Problem> {
    match Profiles::load(&config.shaping) {
        Ok((profiles, mut problems)) => {
            let mut known: Vec<&str> = profiles.iter().map(|profile| profile.name).collect();
            known.push(RELAY);
            problems.extend(config.unknown_providers(file, &known));
            problems
        }
        Err(problems) => problems,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_line_of_files_that_hold_something_else() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let own = rcgen::generate_simple_self_signed(vec!["mta.example.net".to_owned()]).unwrap();
        let (cert, key) = (put("cert.pem", &own.cert.pem()), put("key.pem", &own.signing_key.serialize_pem()));
        let empty = put("empty.pem", "");
        let table = |name: &str, cert: &str, key: &str| {
            format!("[{name}]\ntls_cert_file = \"{cert}\"\ntls_key_file = \"{key}\"\n")
        };
        let text = [
            "hostname = \"mta.example.net\"\n".to_owned(),
            table("submission.smtp", &cert, &key),
            format!("tls_client_ca_file = \"{empty}\"\n"),
            table("submission.grpc", &empty, &key),
            table("submission.http", &cert, &empty),
            table("inbound", &empty, &key),
            table("unsubscribe", &cert, &cert),
            format!("[[dkim]]\ndomain = \"a.example\"\nselector = \"s\"\nkey_file = \"{empty}\"\n"),
        ];
        let file = put("posthaste.toml", &text.concat());
        let found = problems(Path::new(&file));
        let errors = found.iter().filter(|problem| problem.severity == Severity::Error);
        let told: Vec<String> = errors.map(|one| format!("{} {}", one.line.unwrap_or_default(), one.key)).collect();
        let expected = [
            "5 submission.smtp.tls_client_ca_file",
            "7 submission.grpc.tls_cert_file",
            "11 submission.http.tls_key_file",
            "13 inbound.tls_cert_file",
            "17 unsubscribe.tls_key_file",
            "21 dkim[0].key_file",
        ];
        assert_eq!(told, expected, "{found:?}");
    }
}
