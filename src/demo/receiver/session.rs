//! One connection: the dialogue from banner to QUIT.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use super::mind::{Answer, Known, Mind, Step, Visit};
use super::transaction::Transaction;
use super::wire::{Socket, Wire};
use super::{Books, Offers, Tls};

/// A host of a site: what its sessions have in common.
pub struct Host {
    /// Its name in the banner.
    pub name: String,
    /// Which of the site's hosts it is.
    pub number: usize,
    /// What it says it can do.
    pub offers: Offers,
    /// From a flight of commands to the first reply; also half of what a connection takes to be made.
    pub rtt: Duration,
    /// Its habits, those of all hosts of the site.
    pub mind: Arc<Mind>,
    /// For handshakes; without one none succeeds.
    pub acceptor: Option<TlsAcceptor>,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("name", &self.name).field("offers", &self.offers).finish_non_exhaustive()
    }
}

/// Who calls.
#[derive(Debug)]
pub struct Caller {
    /// From where.
    pub source: Option<IpAddr>,
    /// Which connection of this host it is.
    pub number: u64,
    /// It counts as a session of the site.
    pub visit: Visit,
}

pub(super) struct Session<B> {
    pub(super) wire: Wire,
    pub(super) host: Arc<Host>,
    pub(super) books: Arc<B>,
    pub(super) caller: Caller,
    /// It said EHLO.
    pub(super) extended: bool,
    /// Something was said that is no reply: nobody listens any more.
    pub(super) garbled: bool,
    /// MAIL got a 5yz: so all that belongs to it is refused.
    pub(super) sender_refused: bool,
    pub(super) transactions: usize,
    pub(super) transaction: Option<Transaction>,
    /// Reused from message to message.
    pub(super) content: Vec<u8>,
}

/// Serves one connection to its end, however that comes. What was written down before stays.
pub async fn run<B: Books>(host: Arc<Host>, books: Arc<B>, caller: Caller, stream: Box<dyn Socket>) {
    let mut session = Session {
        wire: Wire::new(stream),
        host,
        books,
        caller,
        extended: false,
        garbled: false,
        sender_refused: false,
        transactions: 0,
        transaction: None,
        content: Vec::new(),
    };
    // A connection that fails is the sender's business.
    let _ = session.serve().await;
}

/// The dialogue is over.
pub(super) fn gone() -> io::Error {
    io::ErrorKind::ConnectionAborted.into()
}

impl<B: Books> Session<B> {
    async fn serve(&mut self) -> io::Result<()> {
        self.travel().await;
        let banner = format!("220 {} ESMTP", self.host.name);
        if !self.react(Step::Greeting, &banner).await? {
            return self.wire.flush().await;
        }
        let mut line = Vec::new();
        loop {
            // The first of a flight comes after the round trip.
            let waited = !self.wire.has_input();
            if !self.wire.line(&mut line).await? {
                return Ok(());
            }
            if waited {
                self.travel().await;
            }
            self.watch_line(&line);
            let Ok(command) = std::str::from_utf8(&line) else {
                self.wire.say("500 5.5.2 not UTF-8");
                continue;
            };
            if !self.command(command).await? {
                return self.wire.flush().await;
            }
        }
    }

    /// Notes what a sender must not do on a command line.
    fn watch_line(&self, line: &[u8]) {
        if line.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)) {
            self.books.violation(format!("bare CR, LF or NUL in a command: {}", line.escape_ascii()));
        }
        let bdat = line.len() >= 4 && line[..4].eq_ignore_ascii_case(b"BDAT");
        if !self.host.offers.pipelining && !bdat && self.wire.has_input() {
            self.books.violation(format!("pipelined without being offered it, behind: {}", line.escape_ascii()));
        }
    }

    /// False: that was QUIT.
    async fn command(&mut self, command: &str) -> io::Result<bool> {
        let (verb, rest) = command.split_once(' ').unwrap_or((command, ""));
        match verb.to_ascii_uppercase().as_str() {
            "EHLO" => self.ehlo(rest).await?,
            "HELO" => {
                self.forget(false);
                self.react(Step::Ehlo, "250 hello").await?;
            }
            "STARTTLS" => self.start_tls().await?,
            "MAIL" => self.mail(rest).await?,
            "RCPT" => self.rcpt(rest).await?,
            "DATA" => self.data().await?,
            "BDAT" => self.bdat(rest).await?,
            "RSET" => {
                self.forget(self.extended);
                self.wire.say("250 2.0.0 reset");
            }
            "NOOP" => self.wire.say("250 2.0.0 fine"),
            "QUIT" => {
                self.wire.say("221 2.0.0 bye");
                return Ok(false);
            }
            _ => {
                self.books.violation(format!("unknown command: {command}"));
                self.wire.say("500 5.5.1 unknown command");
            }
        }
        Ok(true)
    }

    /// What was begun is void.
    fn forget(&mut self, extended: bool) {
        (self.extended, self.sender_refused, self.transaction) = (extended, false, None);
    }

    async fn ehlo(&mut self, name: &str) -> io::Result<()> {
        if name.trim().is_empty() {
            self.books.violation("EHLO without a name".into());
        }
        let offers = &self.host.offers;
        let mut keywords = vec![self.host.name.clone(), format!("SIZE {}", offers.size_max)];
        let offered = [
            (offers.pipelining, "PIPELINING"),
            (offers.chunking, "CHUNKING"),
            (offers.eight_bit, "8BITMIME"),
            (offers.smtputf8, "SMTPUTF8"),
            (offers.dsn, "DSN"),
            (offers.tls != Tls::Absent && !self.wire.is_tls(), "STARTTLS"),
            (true, "ENHANCEDSTATUSCODES"),
        ];
        keywords.extend(offered.into_iter().filter(|(offered, _)| *offered).map(|(_, keyword)| keyword.to_owned()));
        let last = keywords.len() - 1;
        let line = |(n, keyword): (usize, &String)| format!("250{}{keyword}", if n == last { ' ' } else { '-' });
        let lines: Vec<String> = keywords.iter().enumerate().map(line).collect();
        self.forget(false);
        self.extended = self.react(Step::Ehlo, &lines.join("\r\n")).await?;
        Ok(())
    }

    async fn start_tls(&mut self) -> io::Result<()> {
        if self.wire.has_input() {
            self.books.violation("input behind STARTTLS".into());
            return Err(gone());
        }
        match self.host.offers.tls {
            Tls::Offered | Tls::Dropped if !self.wire.is_tls() => self.wire.say("220 2.0.0 go ahead"),
            Tls::Garbage => {
                self.wire.say("220 2.0.0 go ahead\r\nthis is no handshake");
                self.wire.flush().await?;
                return Err(gone());
            }
            Tls::Offered | Tls::Dropped | Tls::Absent | Tls::Refused => {
                self.wire.say("454 4.7.0 no TLS here");
                return Ok(());
            }
        }
        self.wire.flush().await?;
        let answer = self.ask(Step::Tls, "").await?;
        let host = Arc::clone(&self.host);
        let acceptor = host.acceptor.as_ref().filter(|_| host.offers.tls == Tls::Offered && answer == Answer::Take);
        let resumed = self.wire.start_tls(acceptor.ok_or_else(gone)?).await?;
        self.books.secured(resumed);
        self.forget(false);
        Ok(())
    }

    /// Asks the habits and does what they say; `willing` is what a willing receiver says. False: this is refused.
    ///
    /// # Errors
    /// The dialogue is over.
    pub(super) async fn react(&mut self, step: Step, willing: &str) -> io::Result<bool> {
        let answer = self.ask(step, "").await?;
        self.carry_out(answer, willing).await
    }

    pub(super) async fn ask(&mut self, step: Step, recipient: &str) -> io::Result<Answer> {
        let transaction = self.transaction.as_ref();
        let known = Known {
            host: self.host.number,
            source: self.caller.source,
            sender: transaction.map_or("", |transaction| &transaction.from),
            recipient,
            recipients: transaction.map_or(0, |transaction| transaction.recipients.len()),
            transactions: self.transactions,
        };
        let (delay, answer) = self.host.mind.ask(step, &known);
        if !delay.is_zero() {
            self.wire.flush().await?;
            sleep(delay).await;
        }
        self.books.happened(&self.host.name, step, recipient, &answer);
        Ok(answer)
    }

    pub(super) async fn carry_out(&mut self, answer: Answer, willing: &str) -> io::Result<bool> {
        match answer {
            Answer::Take => {
                self.wire.say(willing);
                Ok(true)
            }
            Answer::Say(reply) => {
                // The client takes a 503 to RCPT for a session out of step, too, and leaves it whatever is under way.
                self.garbled |= !reply.starts_with(['2', '3', '4', '5']) || reply.starts_with("503");
                self.wire.say(&reply);
                Ok(false)
            }
            Answer::Close(reply) => {
                self.wire.say(&reply);
                self.wire.flush().await?;
                Err(gone())
            }
            // Replies in line are lost with the rest.
            Answer::Cut | Answer::TakeAndCut => Err(gone()),
            Answer::Hang => {
                self.wire.ignore().await?;
                Err(gone())
            }
        }
    }

    /// A round trip passes.
    pub(super) async fn travel(&mut self) {
        if !self.host.rtt.is_zero() {
            sleep(self.host.rtt).await;
        }
    }
}
