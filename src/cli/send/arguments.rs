//! The command line as sendmail has it: single letters, bundled, some with a value, in or behind the word.
//!
//! clap cannot read it (`-oi`, `-bs`, `-Ffull name`), and half of it is there only to be ignored: programs have called
//! `sendmail` with it for forty years.

use std::path::PathBuf;

use super::tls::Begin;
use super::{EX_USAGE, Failure};

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Arguments {
    /// What to do.
    pub(super) deed: Deed,
    /// `-t`: also to those whom the header names.
    pub(super) from_header: bool,
    /// `-f`, `-r`: the envelope's sender.
    pub(super) sender: Option<String>,
    /// `-F`: the author's name, if the message has no From.
    pub(super) full_name: Option<String>,
    /// `-i`, `-oi`: a line that is only a dot is text.
    pub(super) dot_is_text: bool,
    /// `-v`: tell what the daemon said.
    pub(super) verbose: bool,
    /// `-N`, as RCPT has it.
    pub(super) notify: Option<String>,
    /// `-R`, as MAIL has it.
    pub(super) ret: Option<String>,
    /// `-V`: the client's name for the envelope.
    pub(super) envid: Option<String>,
    /// The rest of the line.
    pub(super) recipients: Vec<String>,
    /// `--config`.
    pub(super) config: Option<PathBuf>,
    /// `--server`: `HOST:PORT` instead of the configured address.
    pub(super) server: Option<String>,
    /// `--tls`: when TLS begins.
    pub(super) tls: Begin,
    /// `--tls-name`: the server's name in its certificate, instead of that in `--server`.
    pub(super) tls_name: Option<String>,
    /// `--ca-file`: the authorities to believe, instead of the public ones.
    pub(super) ca_file: Option<PathBuf>,
    /// `--user`.
    pub(super) user: Option<String>,
    /// `--password-file`.
    pub(super) password_file: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Deed {
    /// Send what is on stdin.
    #[default]
    Send,
    /// `-bs`: speak SMTP on stdin and stdout.
    Relay,
    /// `-bp`: print the queue.
    PrintQueue,
    /// `-q`: try again whatever waits.
    Retry,
    /// `-bi`, `-I`: rebuild the alias database, of which there is none.
    NewAliases,
    /// `--help`.
    Help,
}

/// Letters with a value that mean nothing here.
const IGNORED_WITH_VALUE: &str = "ABCDLOXdehop";

/// Letters that mean nothing here.
const IGNORED: &str = "GUcmnx";

impl Arguments {
    /// Reads the words behind the program's name.
    pub(super) fn parse(words: &[String]) -> Result<Arguments, Failure> {
        let mut found = Arguments::default();
        let mut words = words.iter().map(String::as_str);
        while let Some(word) = words.next() {
            if word == "--help" {
                // Whatever else is there.
                return Ok(Arguments { deed: Deed::Help, ..Arguments::default() });
            } else if word == "--" {
                found.recipients.extend(words.by_ref().map(str::to_owned));
            } else if let Some(long) = word.strip_prefix("--") {
                found.long(long, &mut words)?;
            } else if let Some(letters) = word.strip_prefix('-').filter(|letters| !letters.is_empty()) {
                found.letters(letters, &mut words)?;
            } else {
                found.recipients.push(word.to_owned());
            }
        }
        if found.user.is_some() != found.password_file.is_some() {
            return Err(usage("--user and --password-file belong together"));
        }
        if found.tls == Begin::Off && (found.tls_name.is_some() || found.ca_file.is_some()) {
            return Err(usage("--tls-name and --ca-file mean nothing without --tls"));
        }
        if found.tls != Begin::Off && found.deed == Deed::Relay {
            return Err(usage("-bs speaks to the server in the clear only; leave --tls out"));
        }
        Ok(found)
    }

    fn long<'a>(&mut self, long: &'a str, words: &mut impl Iterator<Item = &'a str>) -> Result<(), Failure> {
        let (name, attached) = match long.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (long, None),
        };
        let mut value = || attached.or_else(|| words.next()).ok_or_else(|| usage(format!("--{name} wants a value")));
        match name {
            "config" => self.config = Some(value()?.into()),
            "server" => {
                let server = value()?;
                let port = server.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
                port.ok_or_else(|| usage("--server must be HOST:PORT"))?;
                self.server = Some(server.to_owned());
            }
            "tls" => {
                let begin = Begin::parse(value()?);
                self.tls = begin.ok_or_else(|| usage("--tls must be starttls, implicit or off"))?;
            }
            "tls-name" => self.tls_name = Some(value()?.to_owned()),
            "ca-file" => self.ca_file = Some(value()?.into()),
            "user" => self.user = Some(value()?.to_owned()),
            "password-file" => self.password_file = Some(value()?.into()),
            _ => return Err(usage(format!("unknown option --{name}"))),
        }
        Ok(())
    }

    fn letters<'a>(&mut self, letters: &'a str, words: &mut impl Iterator<Item = &'a str>) -> Result<(), Failure> {
        let mut rest = letters.chars();
        while let Some(letter) = rest.next() {
            match letter {
                't' => self.from_header = true,
                'i' => self.dot_is_text = true,
                'v' => self.verbose = true,
                'I' => self.deed = Deed::NewAliases,
                // Its value, if any, is an interval or a pattern, which are for another daemon.
                'q' if rest.as_str().is_empty() => self.deed = Deed::Retry,
                'q' => return Err(usage(format!("-q{} is not supported; -q is", rest.as_str()))),
                _ if IGNORED.contains(letter) => {}
                _ if IGNORED_WITH_VALUE.contains(letter) || "FNRVbfr".contains(letter) => {
                    let attached = Some(rest.as_str()).filter(|attached| !attached.is_empty());
                    let value = attached.or_else(|| words.next());
                    return self.valued(letter, value.ok_or_else(|| usage(format!("-{letter} wants a value")))?);
                }
                _ => return Err(usage(format!("unknown option -{letter}"))),
            }
        }
        Ok(())
    }

    fn valued(&mut self, letter: char, value: &str) -> Result<(), Failure> {
        match letter {
            'F' => self.full_name = Some(value.to_owned()),
            'N' => self.notify = Some(notify(value)?),
            'R' => self.ret = Some(ret(value)?),
            'V' => self.envid = Some(value.to_owned()),
            'f' | 'r' => self.sender = Some(value.to_owned()),
            'o' if value.starts_with('i') => self.dot_is_text = true,
            'b' => {
                self.deed = match value {
                    "m" => Deed::Send,
                    "s" => Deed::Relay,
                    "p" => Deed::PrintQueue,
                    "i" => Deed::NewAliases,
                    _ => return Err(usage(format!("-b{value} is not supported; -bm, -bs, -bp and -bi are"))),
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn notify(value: &str) -> Result<String, Failure> {
    let upper = value.to_ascii_uppercase();
    let good = upper == "NEVER" || upper.split(',').all(|word| ["SUCCESS", "FAILURE", "DELAY"].contains(&word));
    if good { Ok(upper) } else { Err(usage("-N must be never, or a list of success, failure, delay")) }
}

fn ret(value: &str) -> Result<String, Failure> {
    match value.to_ascii_uppercase().as_str() {
        "FULL" => Ok("FULL".into()),
        "HDRS" => Ok("HDRS".into()),
        _ => Err(usage("-R must be full or hdrs")),
    }
}

fn usage(why: impl Into<String>) -> Failure {
    Failure { code: EX_USAGE, why: why.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &[&str]) -> Result<Arguments, String> {
        let words: Vec<String> = line.iter().map(|word| (*word).to_owned()).collect();
        Arguments::parse(&words).map_err(|failure| failure.why)
    }

    #[track_caller]
    fn check(line: &[&str], expected: Arguments) {
        assert_eq!(read(line), Ok(expected), "{line:?}");
    }

    #[test]
    fn reads_what_programs_say() {
        let to = |recipients: &[&str]| recipients.iter().map(|to| (*to).to_owned()).collect::<Vec<_>>();
        let sender = |sender: &str| Some(sender.to_owned());
        // PHP's mail().
        check(&["-t", "-i"], Arguments { from_header: true, dot_is_text: true, ..Arguments::default() });
        check(
            &["-t", "-i", "-fa@b.example"],
            Arguments { from_header: true, dot_is_text: true, sender: sender("a@b.example"), ..Arguments::default() },
        );
        // mutt, cron, git send-email, Symfony.
        check(
            &["-oem", "-oi", "-f", "a@b.example", "-N", "delay,failure", "-R", "hdrs", "--", "c@d.example"],
            Arguments {
                dot_is_text: true,
                sender: sender("a@b.example"),
                notify: Some("DELAY,FAILURE".into()),
                ret: Some("HDRS".into()),
                recipients: to(&["c@d.example"]),
                ..Arguments::default()
            },
        );
        check(
            &["-FCronDaemon", "-i", "-B8BITMIME", "-oem", "root"],
            Arguments {
                full_name: Some("CronDaemon".into()),
                dot_is_text: true,
                recipients: to(&["root"]),
                ..Arguments::default()
            },
        );
        check(&["-bs", "-i"], Arguments { deed: Deed::Relay, dot_is_text: true, ..Arguments::default() });
        // Bundled, odd, ignored.
        check(
            &["-tiv", "-f", "", "-V", "id 1", "-O", "X=y", "-X/dev/null", "-mnx", "-h3", "-ocode"],
            Arguments {
                from_header: true,
                dot_is_text: true,
                verbose: true,
                sender: sender(""),
                envid: Some("id 1".into()),
                ..Arguments::default()
            },
        );
        check(
            &["--config=/c", "--server", "h:25", "--user", "u", "--password-file=/p", "-", "a"],
            Arguments {
                config: Some("/c".into()),
                server: Some("h:25".into()),
                user: Some("u".into()),
                password_file: Some("/p".into()),
                recipients: to(&["-", "a"]),
                ..Arguments::default()
            },
        );
        check(
            &["--tls", "starttls", "--tls-name=mta.example", "--ca-file", "/ca", "a"],
            Arguments {
                tls: Begin::StartTls,
                tls_name: Some("mta.example".into()),
                ca_file: Some("/ca".into()),
                recipients: to(&["a"]),
                ..Arguments::default()
            },
        );
        for (line, deed) in
            [("-bp", Deed::PrintQueue), ("-I", Deed::NewAliases), ("-q", Deed::Retry), ("-bm", Deed::Send)]
        {
            check(&[line], Arguments { deed, ..Arguments::default() });
        }
    }

    #[test]
    fn says_what_it_does_not_know() {
        for (line, why) in [
            (&["-f"][..], "-f wants a value"),
            (&["-k"], "unknown option -k"),
            (&["-bd"], "-bd is not supported; -bm, -bs, -bp and -bi are"),
            (&["-q15m"], "-q15m is not supported; -q is"),
            (&["-N", "sometimes"], "-N must be never, or a list of success, failure, delay"),
            (&["-R", "all"], "-R must be full or hdrs"),
            (&["--colour"], "unknown option --colour"),
            (&["--config"], "--config wants a value"),
            (&["--server", "mta1.example"], "--server must be HOST:PORT"),
            (&["--tls", "maybe"], "--tls must be starttls, implicit or off"),
            (&["--ca-file=/c"], "--tls-name and --ca-file mean nothing without --tls"),
            (&["--tls=implicit", "-bs"], "-bs speaks to the server in the clear only; leave --tls out"),
            (&["--user", "u"], "--user and --password-file belong together"),
        ] {
            assert_eq!(read(line), Err(why.to_owned()), "{line:?}");
        }
    }
}
