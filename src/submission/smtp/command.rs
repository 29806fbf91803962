//! The command parser: one line in, one [`Command`] out. Borrows what it can; allocates only for addresses.
//!
//! Strict where leniency would be ambiguous (angle brackets, parameters, control characters), lenient where real clients
//! err harmlessly: a space behind `FROM:`, white space at the end of the line, source routes (ignored, RFC 5321 §C).

use super::parameters::{self, MailParameters, RcptParameters};
use super::refusal::{Reason, Refusal};
use crate::mail::{Domain, EnvelopeAddress, ReversePath};

/// A command that parsed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command<'a> {
    /// `EHLO name`.
    Ehlo(&'a [u8]),
    /// `HELO name`.
    Helo(&'a [u8]),
    /// `MAIL FROM:<path> …`.
    Mail {
        /// The sender.
        reverse_path: ReversePath,
        /// The rest.
        parameters: MailParameters,
        /// The path was written with octets above 127, be it only in its domain.
        eight_bit: bool,
    },
    /// `RCPT TO:<path> …`.
    Rcpt {
        /// The recipient.
        address: EnvelopeAddress,
        /// The rest.
        parameters: RcptParameters,
        /// As above.
        eight_bit: bool,
    },
    /// `DATA`.
    Data,
    /// `BDAT size [LAST]`.
    Bdat {
        /// Octets that follow the line.
        size: u64,
        /// They are the last of the message.
        last: bool,
    },
    /// `RSET`.
    Rset,
    /// `NOOP …`.
    Noop,
    /// `HELP …`.
    Help,
    /// `VRFY …`.
    Vrfy,
    /// `QUIT`.
    Quit,
    /// `STARTTLS`.
    StartTls,
    /// `AUTH mechanism [initial-response]`.
    Auth {
        /// Its name.
        mechanism: &'a [u8],
        /// Still encoded.
        initial: Option<&'a [u8]>,
    },
}

/// Reads a command line with its line end.
///
/// # Errors
/// The refusal to send; it is fatal when going on could take content or another protocol for commands.
pub(super) fn parse<'a>(line: &'a [u8], hostname: &Domain) -> Result<Command<'a>, Refusal> {
    let syntax = |text: &'static str| Refusal::new(Reason::Syntax, 500, (5, 5, 2), text);
    let line = line.strip_suffix(b"\r\n").ok_or_else(|| syntax("commands end in CRLF, not in a bare LF"))?;
    let end = line.iter().rposition(|b| !matches!(b, b' ' | b'\t')).map_or(0, |at| at + 1);
    let line = &line[..end];
    if line.iter().any(|b| b.is_ascii_control()) {
        return Err(syntax("control character in a command"));
    }
    let space = memchr::memchr(b' ', line).unwrap_or(line.len());
    let (verb, argument) = (&line[..space], line[space..].trim_ascii());
    let mut upper = [0u8; 8];
    let upper = upper.get_mut(..verb.len()).ok_or_else(unknown)?;
    upper.copy_from_slice(verb);
    upper.make_ascii_uppercase();
    match &*upper {
        b"EHLO" => named(argument).map(Command::Ehlo),
        b"HELO" => named(argument).map(Command::Helo),
        b"MAIL" => mail(argument),
        b"RCPT" => rcpt(argument, hostname),
        b"DATA" => bare(Command::Data, argument),
        b"BDAT" => bdat(argument),
        b"RSET" => bare(Command::Rset, argument),
        b"NOOP" => Ok(Command::Noop),
        b"HELP" => Ok(Command::Help),
        b"VRFY" => Ok(Command::Vrfy),
        b"QUIT" => bare(Command::Quit, argument),
        b"STARTTLS" => bare(Command::StartTls, argument),
        b"AUTH" => auth(argument),
        b"EXPN" | b"ETRN" | b"TURN" | b"ATRN" | b"SEND" | b"SOML" | b"SAML" | b"BURL" => {
            Err(Refusal::new(Reason::Syntax, 502, (5, 5, 1), "command not implemented"))
        }
        // A web page can make a browser on a trusted host post to us; its body would be read as commands.
        b"GET" | b"POST" | b"PUT" | b"HEAD" | b"OPTIONS" | b"CONNECT" => {
            Err(Refusal::new(Reason::Syntax, 554, (5, 5, 1), "this is not a web server").fatal())
        }
        _ => Err(unknown()),
    }
}

fn unknown() -> Refusal {
    Refusal::new(Reason::Syntax, 500, (5, 5, 1), "unknown command")
}

fn named(argument: &[u8]) -> Result<&[u8], Refusal> {
    if argument.is_empty() { Err(Refusal::argument("a host name must follow")) } else { Ok(argument) }
}

fn bare<'a>(command: Command<'a>, argument: &[u8]) -> Result<Command<'a>, Refusal> {
    if argument.is_empty() { Ok(command) } else { Err(Refusal::argument("this command takes no argument")) }
}

/// `AUTH` (RFC 4954 §4).
fn auth(argument: &[u8]) -> Result<Command<'_>, Refusal> {
    let mut words = argument.split(|b| *b == b' ').filter(|word| !word.is_empty());
    match (words.next(), words.next(), words.next()) {
        (Some(mechanism), initial, None) => Ok(Command::Auth { mechanism, initial }),
        _ => Err(Refusal::argument("write AUTH, a mechanism, and at most an initial response in base64")),
    }
}

/// `BDAT` (RFC 3030 §2). When the size cannot be read, nobody knows where the next command begins.
fn bdat<'a>(argument: &[u8]) -> Result<Command<'a>, Refusal> {
    let bad = || Refusal::argument("BDAT wants a size and at most LAST; closing, since content may follow").fatal();
    let mut words = argument.split(|b| *b == b' ').filter(|word| !word.is_empty());
    let size = words.next().and_then(parameters::number).ok_or_else(bad)?;
    let last = match words.next() {
        None => false,
        Some(word) if word.eq_ignore_ascii_case(b"LAST") => true,
        Some(_) => return Err(bad()),
    };
    if words.next().is_some() { Err(bad()) } else { Ok(Command::Bdat { size, last }) }
}

fn mail<'a>(argument: &[u8]) -> Result<Command<'a>, Refusal> {
    let shape = || Refusal::argument("write MAIL FROM:<address> and parameters behind a space");
    let (path, rest) = split_path(argument, b"FROM:").ok_or_else(shape)?;
    let bad = |why: String| Refusal::new(Reason::Address, 501, (5, 1, 7), format!("bad sender address: {why}"));
    let text = without_route(path).map_err(bad)?;
    let reverse_path = text.parse::<ReversePath>().map_err(|error| bad(error.to_string()))?;
    Ok(Command::Mail { reverse_path, parameters: MailParameters::parse(rest)?, eight_bit: !path.is_ascii() })
}

fn rcpt<'a>(argument: &[u8], hostname: &Domain) -> Result<Command<'a>, Refusal> {
    let shape = || Refusal::argument("write RCPT TO:<address> and parameters behind a space");
    let (path, rest) = split_path(argument, b"TO:").ok_or_else(shape)?;
    let bad = |why: String| Refusal::new(Reason::Address, 501, (5, 1, 3), format!("bad recipient address: {why}"));
    let text = without_route(path).map_err(bad)?;
    // RFC 5321 §4.1.1.3: the one address without a domain that must be taken.
    let address = if text.eq_ignore_ascii_case("postmaster") {
        format!("{text}@{hostname}").parse::<EnvelopeAddress>()
    } else {
        text.parse::<EnvelopeAddress>()
    };
    let address = address.map_err(|error| bad(error.to_string()))?;
    Ok(Command::Rcpt { address, parameters: RcptParameters::parse(rest)?, eight_bit: !path.is_ascii() })
}

/// Splits `FROM:<path> rest`. The closing bracket is the first one outside a quoted string.
fn split_path<'a>(argument: &'a [u8], keyword: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let given = argument.get(..keyword.len()).filter(|given| given.eq_ignore_ascii_case(keyword))?;
    let path = argument[given.len()..].trim_ascii_start().strip_prefix(b"<")?;
    let (mut quoted, mut escaped) = (false, false);
    let close = path.iter().position(|b| {
        match (quoted, *b) {
            _ if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => quoted = !quoted,
            (false, b'>') => return true,
            _ => {}
        }
        false
    })?;
    let rest = &path[close + 1..];
    (rest.is_empty() || rest.starts_with(b" ")).then_some((&path[..close], rest))
}

/// The path as text, without a source route (`@a,@b:`), which RFC 5321 §C asks us to take and ignore.
fn without_route(path: &[u8]) -> Result<&str, String> {
    let text = std::str::from_utf8(path).map_err(|_| "it is not UTF-8".to_owned())?;
    if !text.starts_with('@') {
        return Ok(text);
    }
    let (route, mailbox) = text.split_once(':').ok_or_else(|| "the source route has no end".to_owned())?;
    let hop = |hop: &str| hop.strip_prefix('@').is_some_and(|domain| domain.parse::<Domain>().is_ok());
    if route.split(',').all(hop) { Ok(mailbox) } else { Err("the source route is not valid".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(line: &str) -> Result<Command<'_>, Refusal> {
        parse(line.as_bytes(), &"mta.example".parse().expect("a domain"))
    }

    #[track_caller]
    fn check(line: &str, expected: Command<'_>) {
        assert_eq!(parse_line(line), Ok(expected), "{line:?}");
    }

    #[track_caller]
    fn check_refused(line: &str, expected: &str) {
        let refusal = parse_line(line).expect_err(line);
        let fatal = if refusal.fatal { " (fatal)" } else { "" };
        assert_eq!(format!("{}{fatal}", refusal.reply), expected, "{line:?}");
    }

    #[test]
    fn reads_commands() {
        check("EHLO a b\r\n", Command::Ehlo(b"a b"));
        check("helo [1.2.3.4]  \t\r\n", Command::Helo(b"[1.2.3.4]"));
        check("DATA\r\n", Command::Data);
        check("data \r\n", Command::Data);
        check("bdat 12\r\n", Command::Bdat { size: 12, last: false });
        check("BDAT 0 last\r\n", Command::Bdat { size: 0, last: true });
        check("NOOP what ever\r\n", Command::Noop);
        check("StartTLS\r\n", Command::StartTls);
        check_refused("\r\n", "500 5.5.1 unknown command");
        check_refused(" NOOP\r\n", "500 5.5.1 unknown command");
        check_refused("NOOP\n", "500 5.5.2 commands end in CRLF, not in a bare LF");
        check_refused("NO\0OP\r\n", "500 5.5.2 control character in a command");
        check_refused("NOOP\rRSET\r\n", "500 5.5.2 control character in a command");
        check_refused("NOOP\r\r\n", "500 5.5.2 control character in a command");
        check_refused("RSET now\r\n", "501 5.5.4 this command takes no argument");
        check_refused("EHLO\r\n", "501 5.5.4 a host name must follow");
        check_refused("EXPN list\r\n", "502 5.5.1 command not implemented");
        check_refused("SUPERCALIFRAGILISTIC\r\n", "500 5.5.1 unknown command");
        check_refused("POST / HTTP/1.1\r\n", "554 5.5.1 this is not a web server (fatal)");
        for bad in ["BDAT", "BDAT x", "BDAT -1", "BDAT 1 FIRST", "BDAT 1 LAST LAST", "BDAT 18446744073709551616"] {
            check_refused(
                &format!("{bad}\r\n"),
                "501 5.5.4 BDAT wants a size and at most LAST; closing, since content may follow (fatal)",
            );
        }
    }

    #[test]
    fn reads_paths() {
        let from = |line: &str| match parse_line(line) {
            Ok(Command::Mail { reverse_path, .. }) => Ok(format!("<{reverse_path}>")),
            Ok(other) => panic!("{other:?}"),
            Err(refusal) => Err(refusal.reply.to_string()),
        };
        let good = |line: &str, path: &str| assert_eq!(from(line), Ok(path.to_owned()), "{line:?}");
        good("MAIL FROM:<a@b.example>\r\n", "<a@b.example>");
        good("mail from: <a@B.example>\r\n", "<a@b.example>");
        good("MAIL FROM:<>\r\n", "<>");
        good("MAIL FROM:<@r.example,@s.example:a@b.example>\r\n", "<a@b.example>");
        good("MAIL FROM:<\"a>b\\\" c\"@b.example> SIZE=1\r\n", "<\"a>b\\\" c\"@b.example>");
        good("MAIL FROM:<jürgen@bücher.example>\r\n", "<jürgen@xn--bcher-kva.example>");
        for bad in [
            "MAIL a@b",
            "MAIL FROM:a@b",
            "MAIL FROM:<a@b",
            "MAIL FROM:a@b>",
            "MAIL FROM:<a@b>SIZE=1",
            "MAIL",
            "MAIL FROM",
            "MAIL TO:<a@b>",
            "MAIL FROM:<a@b>>",
        ] {
            let expected = "501 5.5.4 write MAIL FROM:<address> and parameters behind a space";
            assert_eq!(from(&format!("{bad}\r\n")), Err(expected.to_owned()), "{bad}");
        }
        for (bad, why) in [
            ("<a>", "the address has no @"),
            ("<a b@c>", "the part before the @ is not valid"),
            ("<<a@b>>", ""),
            ("<a@b..c>", "\"b..c\" is not a domain name"),
            ("<@r.example>", "the source route has no end"),
            ("<@r x:a@b>", "the source route is not valid"),
            ("<@:a@b>", "the source route is not valid"),
        ] {
            let refused = from(&format!("MAIL FROM:{bad}\r\n")).expect_err(bad);
            let expected = format!("501 5.1.7 bad sender address: {why}");
            assert!(refused == expected || why.is_empty(), "{bad}: {refused}");
        }
    }

    #[test]
    fn reads_recipients() {
        let to = |line: &str| match parse_line(line) {
            Ok(Command::Rcpt { address, eight_bit, .. }) => Ok((address.to_string(), eight_bit)),
            Ok(other) => panic!("{other:?}"),
            Err(refusal) => Err(refusal.reply.to_string()),
        };
        assert_eq!(to("RCPT TO:<a@b.example>\r\n"), Ok(("a@b.example".into(), false)));
        assert_eq!(to("RCPT TO:<a@bücher.example>\r\n"), Ok(("a@xn--bcher-kva.example".into(), true)));
        assert_eq!(to("RCPT TO:<PostMaster>\r\n"), Ok(("PostMaster@mta.example".into(), false)));
        assert_eq!(to("RCPT TO:<>\r\n"), Err("501 5.1.3 bad recipient address: the address has no @".into()));
        let bytes = b"RCPT TO:<a\xff@b.example>\r\n";
        let refused = parse(bytes, &"mta.example".parse().expect("a domain")).expect_err("not UTF-8");
        assert_eq!(refused.reply.to_string(), "501 5.1.3 bad recipient address: it is not UTF-8");
    }
}
