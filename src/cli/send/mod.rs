//! `posthaste send`: a message on stdin to the running daemon; and what `sendmail`, `mailq` and `newaliases` do when
//! this program is called so.
//!
//! 1. [`arguments`] reads a command line as sendmail has it;
//! 2. [`letter`] reads the message, finds its recipients, and gives addresses a domain ([`addresses`]);
//! 3. [`session`] hands it to the daemon by SMTP, over TLS if that is asked for ([`tls`]): to all recipients or to none.
//!
//! Nothing is kept here: when the daemon is not there, or cannot take it now, the exit code says that the caller should
//! try again. Exit codes are those of sysexits(3), which callers of sendmail know; they are not those of the other
//! commands.

mod addresses;
mod arguments;
mod letter;
pub mod probe;
mod session;
mod tls;

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;

use self::arguments::{Arguments, Deed};
use self::letter::{Letter, Making};
use self::session::{Parameters, Session};
use self::tls::{Begin, Trust};
use super::{ConfigArgument, DEFAULT_CONFIG, queue};
use crate::config::Config;
use crate::mail::Domain;

/// The command line is wrong.
const EX_USAGE: u8 = 64;
/// The message is.
const EX_DATAERR: u8 = 65;
/// An address is.
const EX_NOUSER: u8 = 67;
/// It was refused.
const EX_UNAVAILABLE: u8 = 69;
/// Input could not be read.
const EX_IOERR: u8 = 74;
/// Try again later.
const EX_TEMPFAIL: u8 = 75;
/// The other side is no SMTP server.
const EX_PROTOCOL: u8 = 76;
/// You may not do that.
const EX_NOPERM: u8 = 77;
/// The configuration is wrong.
const EX_CONFIG: u8 = 78;

const HELP: &str = "\
Send the message on stdin through the running daemon.

Usage: posthaste send [OPTIONS] [RECIPIENT]...   (or `sendmail`, if called so)

  -t                    also to those whom To, Cc and Bcc name
  -f ADDRESS            the envelope's sender; default: the user at this host
  -F NAME               the author's name, if the message has no From
  -i, -oi               a line that is only a dot is text
  -N never|success,failure,delay   which reports to send
  -R full|hdrs          how much of the message a report returns
  -V ID                 a name for the envelope, for reports
  -v                    print what the daemon answered
  -bs                   speak SMTP on stdin and stdout
  -bp                   print the queue, as `mailq` does
  -q                    try again now whatever waits
  --config FILE         the daemon's configuration, for its address [default: /etc/posthaste/posthaste.toml]
  --server HOST:PORT    the daemon's address
  --tls starttls|implicit|off   when TLS begins [default: off]
  --tls-name NAME       the name in the server's certificate [default: HOST]
  --ca-file FILE        PEM certificates of the authorities to believe [default: the public ones]
  --user NAME, --password-file FILE   authenticate, with a token; to a server elsewhere over TLS only

Other options of sendmail are ignored. Exit codes are those of sysexits: 0 accepted, 64 usage, 65 bad message, 67 bad
address, 69 refused, 75 try again later, 77 not allowed, 78 configuration.
";

/// Why it was not sent.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Failure {
    /// The exit code.
    code: u8,
    /// In a sentence.
    why: String,
}

/// Runs with the words behind the program's name; `called` is the name.
pub(super) fn run(called: &str, words: &[String]) -> ExitCode {
    match Arguments::parse(words).and_then(|arguments| act(&arguments)) {
        Ok(code) => code,
        Err(Failure { code, why }) => {
            eprintln!("{called}: {why}");
            ExitCode::from(code)
        }
    }
}

/// `mailq`.
pub(super) fn print_queue() -> ExitCode {
    run("mailq", &["-bp".to_owned()])
}

fn act(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let config_file = ConfigArgument { config: arguments.config.clone().unwrap_or_else(|| DEFAULT_CONFIG.into()) };
    let failed = |error: anyhow::Error| Failure { code: EX_UNAVAILABLE, why: format!("{error:#}") };
    match arguments.deed {
        // Who reads no more of it has read enough.
        Deed::Help => _ = io::stdout().write_all(HELP.as_bytes()),
        // Addresses are all there is.
        Deed::NewAliases => {}
        Deed::PrintQueue => return queue::print(&configuration(arguments)?, &config_file).map_err(failed),
        Deed::Retry => return queue::retry_all(&configuration(arguments)?, &config_file).map_err(failed),
        Deed::Relay => {
            let config = configuration(arguments)?;
            session::relay(session::connect(&server(arguments, &config)?)?)?;
        }
        Deed::Send => send(arguments, &configuration(arguments)?)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn send(arguments: &Arguments, config: &Config) -> Result<(), Failure> {
    let domain = config.hostname().map_err(|error| Failure { code: EX_CONFIG, why: error.to_string() })?;
    let user = match &arguments.sender {
        Some(_) => None,
        None => Some(user_name()?),
    };
    let content = letter::read(io::stdin().lock(), arguments.dot_is_text, config.submission.smtp.max_message_size.0)?;
    let making = Making {
        sender: arguments.sender.as_deref().or(user.as_deref()).unwrap_or_default(),
        full_name: arguments.full_name.as_deref(),
        recipients: &arguments.recipients,
        from_header: arguments.from_header,
        domain: &domain,
    };
    let letter = Letter::new(content, &making)?;
    let parameters = Parameters {
        notify: arguments.notify.as_deref(),
        ret: arguments.ret.as_deref(),
        envid: arguments.envid.as_deref(),
    };
    let answer = open(arguments, config, &domain)?.submit(&letter, &parameters)?;
    if arguments.verbose {
        println!("{answer}");
    }
    Ok(())
}

fn open(arguments: &Arguments, config: &Config, hello: &Domain) -> Result<Session, Failure> {
    let server = server(arguments, config)?;
    let host = server.rsplit_once(':').map_or(server.as_str(), |(host, _)| host);
    let trust = || Trust::new(arguments.tls_name.as_deref().unwrap_or(host), arguments.ca_file.as_deref());
    let stream = session::connect(&server)?;
    let is_here = stream.peer_addr().is_ok_and(|peer| peer.ip().to_canonical().is_loopback());
    let mut session = match arguments.tls {
        Begin::Off => Session::open(stream, hello.as_str(), None)?,
        Begin::Implicit => Session::open(stream, hello.as_str(), Some(&trust()?))?,
        Begin::StartTls => {
            let trust = trust()?;
            Session::open(stream, hello.as_str(), None)?.start_tls(hello.as_str(), &trust)?
        }
    };
    if let (Some(user), Some(file)) = (&arguments.user, &arguments.password_file) {
        if !is_here && arguments.tls == Begin::Off {
            let why = "--user needs --tls, or a server on this host: the password would be read on the way";
            return Err(Failure { code: EX_USAGE, why: why.into() });
        }
        session.authenticate(user, &password(file)?)?;
    }
    Ok(session)
}

fn password(file: &Path) -> Result<String, Failure> {
    let failed = |error| Failure { code: EX_CONFIG, why: format!("cannot read {}: {error}", file.display()) };
    Ok(std::fs::read_to_string(file).map_err(failed)?.trim_end_matches(['\r', '\n']).to_owned())
}

/// What the daemon's file says. Without one that was asked for, all defaults: the daemon may be somewhere else.
fn configuration(arguments: &Arguments) -> Result<Config, Failure> {
    let file = arguments.config.as_deref().unwrap_or(Path::new(DEFAULT_CONFIG));
    match Config::glance(file) {
        Ok(config) => Ok(config),
        Err(error) if arguments.config.is_none() && error.kind() == io::ErrorKind::NotFound => Ok(Config::default()),
        Err(error) => Err(Failure { code: EX_CONFIG, why: format!("cannot read {}: {error}", file.display()) }),
    }
}

/// Where the daemon listens. An address that stands for all of this host's is reached by loopback.
fn server(arguments: &Arguments, config: &Config) -> Result<String, Failure> {
    if let Some(server) = &arguments.server {
        return Ok(server.clone());
    }
    let Some(address) = config.submission.smtp.listen.first() else {
        let why = "the daemon has no address in submission.smtp.listen; name one with --server";
        return Err(Failure { code: EX_CONFIG, why: why.into() });
    };
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    Ok(SocketAddr::new(ip, address.port()).to_string())
}

/// Who runs this, by the system's list of users.
fn user_name() -> Result<String, Failure> {
    let uid = rustix::process::getuid().as_raw().to_string();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let named = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    });
    // Users that are elsewhere (LDAP) have only this.
    let named = named.or_else(|| std::env::var("LOGNAME").ok().filter(|name| !name.is_empty()));
    named.ok_or_else(|| Failure { code: EX_NOUSER, why: format!("user {uid} has no name here; say -f ADDRESS") })
}
