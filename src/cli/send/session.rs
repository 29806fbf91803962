//! A small SMTP client: one message to the daemon next door, and the pipe for programs that speak SMTP themselves.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::letter::Letter;
use super::tls::{Stream, Trust};
use super::{EX_DATAERR, EX_NOPERM, EX_NOUSER, EX_PROTOCOL, EX_TEMPFAIL, EX_UNAVAILABLE, Failure};

/// How long the daemon may take to answer: its own limit and what the disk may take.
const PATIENCE: Duration = Duration::from_secs(330);

/// How long a connection may take.
const CONNECT_PATIENCE: Duration = Duration::from_secs(30);

/// Octets of a reply that are read; a daemon says less.
const REPLY_MAX: u64 = 64 << 10;

/// Parameters of the envelope.
#[derive(Debug, Default)]
pub(super) struct Parameters<'a> {
    /// `NOTIFY` of each recipient.
    pub(super) notify: Option<&'a str>,
    /// `RET`.
    pub(super) ret: Option<&'a str>,
    /// `ENVID`, not yet encoded.
    pub(super) envid: Option<&'a str>,
}

/// A session with a server.
pub(super) struct Session {
    stream: BufReader<Stream>,
    offers: Vec<String>,
}

/// A reply on one line.
#[derive(Debug)]
struct Reply {
    code: u16,
    text: String,
}

/// Connects to the first of the server's addresses that answers.
///
/// # Errors
/// [`EX_TEMPFAIL`]: nobody listens; try again when the daemon runs.
pub(super) fn connect(server: &str) -> Result<TcpStream, Failure> {
    let failed = |why: String| Failure { code: EX_TEMPFAIL, why: format!("no daemon answers at {server}: {why}") };
    let addresses: Vec<SocketAddr> = server.to_socket_addrs().map_err(|error| failed(error.to_string()))?.collect();
    let mut last = failed("it has no address".into());
    for address in addresses {
        match TcpStream::connect_timeout(&address, CONNECT_PATIENCE) {
            Ok(stream) => {
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(error) => last = failed(error.to_string()),
        }
    }
    Err(last)
}

/// Speaks for a program that knows SMTP (`-bs`): what it says goes to the server, what the server says to it, until the
/// server closes. The server's first words come first: it does not like to be spoken to before.
///
/// # Errors
/// [`EX_TEMPFAIL`]: the connection failed.
pub(super) fn relay(server: TcpStream) -> Result<(), Failure> {
    let mut from_server = server.try_clone().map_err(lost)?;
    let mut to_client = io::stdout().lock();
    let mut buffer = vec![0; 64 << 10];
    let mut listening = false;
    loop {
        let count = from_server.read(&mut buffer).map_err(lost)?;
        if count == 0 {
            return Ok(());
        }
        to_client.write_all(&buffer[..count]).and_then(|()| to_client.flush()).map_err(lost)?;
        if !listening {
            listening = true;
            let mut to_server = server.try_clone().map_err(lost)?;
            // Not waited for: it may sit in a read that never ends, and the process does not.
            std::thread::spawn(move || {
                let _ = io::copy(&mut io::stdin().lock(), &mut to_server);
                let _ = to_server.shutdown(std::net::Shutdown::Write);
            });
        }
    }
}

impl Session {
    /// Greets the server as `hello`. With `trust`, TLS begins before anything else.
    pub(super) fn open(stream: TcpStream, hello: &str, trust: Option<&Trust>) -> Result<Session, Failure> {
        stream.set_read_timeout(Some(PATIENCE)).map_err(lost)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(lost)?;
        let stream = match trust {
            None => Stream::Plain(stream),
            Some(trust) => trust.secure(stream)?,
        };
        let mut session = Session { stream: BufReader::new(stream), offers: Vec::new() };
        session.read()?.expect(220, "greeting")?;
        session.greet(hello)?;
        Ok(session)
    }

    fn greet(&mut self, hello: &str) -> Result<(), Failure> {
        let reply = self.ask(&format!("EHLO {hello}"), "EHLO")?.expect(250, "EHLO")?;
        self.offers = reply.text.split('\n').skip(1).map(str::to_ascii_uppercase).collect();
        Ok(())
    }

    /// STARTTLS (RFC 3207), and the greeting again: what was offered in the clear counts no more.
    pub(super) fn start_tls(mut self, hello: &str, trust: &Trust) -> Result<Session, Failure> {
        let failed = |why: &str| Failure { code: EX_TEMPFAIL, why: format!("the server {why}") };
        if !self.has("STARTTLS") {
            return Err(failed("does not offer STARTTLS"));
        }
        self.ask("STARTTLS", "STARTTLS")?.expect(220, "STARTTLS")?;
        if !self.stream.buffer().is_empty() {
            return Err(failed("said something behind its answer to STARTTLS, where somebody else may have put it"));
        }
        let Stream::Plain(stream) = self.stream.into_inner() else { return Err(failed("speaks TLS already")) };
        let mut session = Session { stream: BufReader::new(trust.secure(stream)?), offers: Vec::new() };
        session.greet(hello)?;
        Ok(session)
    }

    /// AUTH PLAIN.
    pub(super) fn authenticate(&mut self, user: &str, password: &str) -> Result<(), Failure> {
        let secret = BASE64_STANDARD.encode(format!("\0{user}\0{password}"));
        self.ask(&format!("AUTH PLAIN {secret}"), "AUTH")?.expect(235, "AUTH").map(drop)
    }

    /// Hands the message over, to all recipients or to none; what the server said.
    pub(super) fn submit(&mut self, letter: &Letter, parameters: &Parameters<'_>) -> Result<String, Failure> {
        let mut mail = format!("MAIL FROM:<{}>", letter.sender);
        if self.has("SIZE") {
            mail.push_str(&format!(" SIZE={}", letter.content.len()));
        }
        if !letter.content.is_ascii() && self.has("8BITMIME") {
            mail.push_str(" BODY=8BITMIME");
        }
        if letter.needs_smtputf8 && self.has("SMTPUTF8") {
            mail.push_str(" SMTPUTF8");
        }
        let dsn = self.has("DSN");
        if let Some(ret) = parameters.ret.filter(|_| dsn) {
            mail.push_str(&format!(" RET={ret}"));
        }
        if let Some(envid) = parameters.envid.filter(|_| dsn) {
            mail.push_str(&format!(" ENVID={}", xtext(envid)));
        }
        self.ask(&mail, "MAIL")?.expect(250, "sender")?;
        let notify = parameters.notify.filter(|_| dsn).map(|notify| format!(" NOTIFY={notify}")).unwrap_or_default();
        for recipient in &letter.recipients {
            let reply = self.ask(&format!("RCPT TO:<{recipient}>{notify}"), "RCPT")?;
            reply.expect(250, &format!("recipient {recipient}"))?;
        }
        self.ask("DATA", "DATA")?.expect(354, "DATA")?;
        self.stream.get_mut().write_all(&stuffed(&letter.content)).map_err(lost)?;
        let reply = self.read()?.expect(250, "message")?;
        // It is accepted; how the session ends changes nothing.
        let _ = self.ask("QUIT", "QUIT");
        Ok(format!("{} {}", reply.code, reply.text))
    }

    fn has(&self, keyword: &str) -> bool {
        self.offers.iter().any(|offer| offer.split(' ').next() == Some(keyword))
    }

    /// `what` stands for the line in errors; it may hold a secret.
    fn ask(&mut self, line: &str, what: &str) -> Result<Reply, Failure> {
        let failed = |error| Failure { why: format!("{what}: {}", lost(error).why), code: EX_TEMPFAIL };
        self.stream.get_mut().write_all(format!("{line}\r\n").as_bytes()).map_err(failed)?;
        self.read()
    }

    fn read(&mut self) -> Result<Reply, Failure> {
        let malformed = || Failure { code: EX_PROTOCOL, why: "the server does not speak SMTP".into() };
        let mut text = String::new();
        let mut left = REPLY_MAX;
        loop {
            let mut line = Vec::new();
            let count = (&mut self.stream).take(left).read_until(b'\n', &mut line).map_err(lost)?;
            left -= count as u64;
            if count == 0 && left > 0 {
                return Err(lost(io::ErrorKind::UnexpectedEof.into()));
            }
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\r', '\n']);
            let code = line.get(..3).and_then(|code| code.parse::<u16>().ok()).ok_or_else(malformed)?;
            text.push_str(line.get(4..).unwrap_or_default());
            match line.as_bytes().get(3) {
                Some(b'-') => text.push('\n'),
                None | Some(b' ') => return Ok(Reply { code, text }),
                Some(_) => return Err(malformed()),
            }
        }
    }
}

impl Reply {
    /// This, or the failure it is.
    fn expect(self, code: u16, what: &str) -> Result<Reply, Failure> {
        if self.code == code {
            return Ok(self);
        }
        let text = self.text.replace('\n', " ");
        Err(Failure { code: self.exit_code(), why: format!("{what}: {} {text}", self.code) })
    }

    /// By what the reply is about (RFC 3463 §3).
    fn exit_code(&self) -> u8 {
        if self.code < 500 {
            return EX_TEMPFAIL;
        }
        match (self.code, self.text.split(' ').next().unwrap_or_default()) {
            (530 | 534 | 535 | 538, _) => EX_NOPERM,
            (552, _) => EX_DATAERR,
            (_, enhanced) if enhanced.starts_with("5.1.") => EX_NOUSER,
            (_, enhanced) if enhanced.starts_with("5.6.") => EX_DATAERR,
            (_, enhanced) if enhanced.starts_with("5.7.") => EX_NOPERM,
            _ => EX_UNAVAILABLE,
        }
    }
}

fn lost(error: io::Error) -> Failure {
    Failure { code: EX_TEMPFAIL, why: format!("the connection failed: {error}") }
}

/// The content with a dot in front of each that begins a line, and the end (RFC 5321 §4.5.2). Lines end in CRLF.
fn stuffed(content: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(content.len() + content.len() / 50 + 5);
    for line in content.split_inclusive(|b| *b == b'\n') {
        if line.starts_with(b".") {
            wire.push(b'.');
        }
        wire.extend_from_slice(line);
    }
    wire.extend_from_slice(b".\r\n");
    wire
}

/// xtext (RFC 3461 §4).
pub(super) fn xtext(text: &str) -> String {
    let encode = |octet: u8| match octet {
        b'!'..=b'~' if !b"+=".contains(&octet) => char::from(octet).to_string(),
        _ => format!("+{octet:02X}"),
    };
    text.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_say_whose_fault_it_is() {
        for (code, text, expected) in [
            (421, "4.3.2 shutting down", EX_TEMPFAIL),
            (452, "4.3.1 full", EX_TEMPFAIL),
            (501, "5.1.3 bad recipient address", EX_NOUSER),
            (530, "5.7.0 authentication required", EX_NOPERM),
            (550, "5.7.1 relaying denied", EX_NOPERM),
            (550, "5.6.0 line 3 of the header is no field", EX_DATAERR),
            (552, "5.3.4 message larger than 10 octets", EX_DATAERR),
            (554, "no", EX_UNAVAILABLE),
        ] {
            let failure = Reply { code, text: text.into() }.expect(250, "message").expect_err("a refusal");
            assert_eq!((failure.code, failure.why), (expected, format!("message: {code} {text}")));
        }
    }

    #[test]
    fn encodes_for_the_wire() {
        assert_eq!(stuffed(b".a\r\nb.\r\n..\r\n"), b"..a\r\nb.\r\n...\r\n.\r\n");
        assert_eq!(stuffed(b""), b".\r\n");
        assert_eq!(xtext("a+b=c \u{fc}"), "a+2Bb+3Dc+20+C3+BC");
    }
}
