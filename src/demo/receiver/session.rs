//! One connection: the dialogue from banner to QUIT, and the record of what it brought.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::net::TcpStream;

use super::mailbox::Delivery;
use super::wire::Wire;
use super::{Phase, Shared, Tls};
use crate::clock::Clock;

/// Recipients in one transaction (RFC 5321 §4.5.3.1.8 asks for 100 at least).
const RECIPIENTS_MAX: usize = 1000;

struct Session {
    wire: Wire,
    shared: Arc<Shared>,
    number: u64,
    extended: bool,
    messages: u64,
    transaction: Option<Transaction>,
    /// Reused from message to message.
    content: Vec<u8>,
}

#[derive(Default)]
struct Transaction {
    from: String,
    eight_bit: bool,
    smtputf8: bool,
    recipients: Vec<String>,
    /// Octets of BDAT chunks so far; `None` before the first.
    chunked: Option<usize>,
    /// A chunk was refused, so the rest is read and refused too.
    spoiled: bool,
}

/// What follows a command.
#[derive(PartialEq)]
enum Next {
    /// The next command.
    Go,
    /// The end: replies in line are still sent.
    Close,
    /// The end, without a word.
    Cut,
}

/// Serves one connection to its end. A connection that fails is the sender's business; what was recorded stays.
pub(super) async fn run(stream: TcpStream, shared: Arc<Shared>, number: u64, crowded: bool) {
    let _ = stream.set_nodelay(true);
    let wire = Wire::new(stream);
    let mut session =
        Session { wire, shared, number, extended: false, messages: 0, transaction: None, content: Vec::new() };
    let _ = if crowded { session.turn_away().await } else { session.serve().await };
}

impl Session {
    async fn turn_away(&mut self) -> io::Result<()> {
        self.wire.say("421 4.7.0 too many connections");
        self.wire.flush().await
    }

    async fn serve(&mut self) -> io::Result<()> {
        if self.shared.cuts(Phase::Connect) {
            return Ok(());
        }
        let banner = format!("220 {} ESMTP", self.shared.behaviour.hostname);
        self.say(&banner).await;
        self.wire.flush().await?;
        if self.shared.cuts(Phase::Banner) {
            return Ok(());
        }
        let mut line = Vec::new();
        while self.wire.line(&mut line).await? {
            self.watch_line(&line);
            let next = match std::str::from_utf8(&line) {
                Ok(command) => self.command(command).await?,
                Err(_) => {
                    self.say("500 5.5.2 not UTF-8").await;
                    Next::Go
                }
            };
            match next {
                Next::Go => {}
                Next::Close => return self.wire.flush().await,
                Next::Cut => return Ok(()),
            }
        }
        Ok(())
    }

    /// Notes what a sender must not do on a command line.
    fn watch_line(&self, line: &[u8]) {
        if line.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)) {
            self.shared.violation(format!("bare CR, LF or NUL in a command: {}", line.escape_ascii()));
        }
        let bdat = line.len() >= 4 && line[..4].eq_ignore_ascii_case(b"BDAT");
        if !self.shared.behaviour.pipelining && !bdat && self.wire.has_input() {
            self.shared.violation(format!("pipelined without being offered it, behind: {}", line.escape_ascii()));
        }
    }

    async fn say(&mut self, reply: &str) {
        let delay = self.shared.behaviour.reply_delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        self.wire.say(reply);
    }

    async fn command(&mut self, command: &str) -> io::Result<Next> {
        let (verb, rest) = command.split_once(' ').unwrap_or((command, ""));
        match verb.to_ascii_uppercase().as_str() {
            "EHLO" => self.ehlo(rest).await,
            "HELO" => {
                self.extended = false;
                self.transaction = None;
                self.say("250 hello").await;
            }
            "STARTTLS" => return self.start_tls().await,
            "MAIL" => return Ok(self.mail(rest).await),
            "RCPT" => return Ok(self.rcpt(rest).await),
            "DATA" => return self.data().await,
            "BDAT" => return self.bdat(rest).await,
            "RSET" => {
                self.transaction = None;
                self.say("250 2.0.0 reset").await;
            }
            "NOOP" => self.say("250 2.0.0 fine").await,
            "QUIT" => {
                self.say("221 2.0.0 bye").await;
                return Ok(Next::Close);
            }
            _ => {
                self.shared.violation(format!("unknown command: {command}"));
                self.say("500 5.5.1 unknown command").await;
            }
        }
        Ok(Next::Go)
    }

    async fn ehlo(&mut self, name: &str) {
        if name.trim().is_empty() {
            self.shared.violation("EHLO without a name".into());
        }
        self.extended = true;
        self.transaction = None;
        let behaviour = &self.shared.behaviour;
        let mut keywords = vec![behaviour.hostname.clone(), format!("SIZE {}", behaviour.size_max)];
        let offers = [
            (behaviour.pipelining, "PIPELINING"),
            (behaviour.chunking, "CHUNKING"),
            (behaviour.eight_bit, "8BITMIME"),
            (behaviour.smtputf8, "SMTPUTF8"),
            (behaviour.dsn, "DSN"),
            (behaviour.tls != Tls::Absent && !self.wire.is_tls(), "STARTTLS"),
            (true, "ENHANCEDSTATUSCODES"),
        ];
        keywords.extend(offers.into_iter().filter(|(offered, _)| *offered).map(|(_, keyword)| keyword.to_owned()));
        let last = keywords.len() - 1;
        let lines: Vec<String> = keywords
            .iter()
            .enumerate()
            .map(|(n, keyword)| format!("250{}{keyword}", if n == last { ' ' } else { '-' }))
            .collect();
        self.say(&lines.join("\r\n")).await;
    }

    async fn start_tls(&mut self) -> io::Result<Next> {
        if self.wire.has_input() {
            self.shared.violation("input behind STARTTLS".into());
            return Ok(Next::Cut);
        }
        match self.shared.behaviour.tls {
            Tls::Offered if !self.wire.is_tls() => {}
            Tls::Garbage => {
                self.say("220 2.0.0 go ahead").await;
                self.say("this is no handshake").await;
                return Ok(Next::Close);
            }
            Tls::Offered | Tls::Absent | Tls::Refused => {
                self.say("454 4.7.0 no TLS here").await;
                return Ok(Next::Go);
            }
        }
        self.say("220 2.0.0 go ahead").await;
        self.wire.flush().await?;
        let shared = Arc::clone(&self.shared);
        let Some(acceptor) = &shared.acceptor else { return Ok(Next::Cut) };
        let resumed = self.wire.start_tls(acceptor).await?;
        shared.counters.tls.fetch_add(1, Ordering::Relaxed);
        if resumed {
            shared.counters.tls_resumed.fetch_add(1, Ordering::Relaxed);
        }
        self.extended = false;
        self.transaction = None;
        Ok(Next::Go)
    }

    async fn mail(&mut self, rest: &str) -> Next {
        if self.transaction.is_some() {
            self.say("503 5.5.1 one at a time").await;
            return Next::Go;
        }
        let Some((from, parameters)) = path(rest, "FROM:") else {
            self.shared.violation(format!("MAIL syntax: {rest}"));
            self.say("501 5.5.4 syntax").await;
            return Next::Go;
        };
        let behaviour = &self.shared.behaviour;
        let mut transaction = Transaction { from: from.to_owned(), ..Transaction::default() };
        let mut refusal = None;
        for parameter in parameters.split_ascii_whitespace() {
            let (keyword, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let known = match keyword.to_ascii_uppercase().as_str() {
                "SIZE" => {
                    if value.parse::<usize>().is_ok_and(|size| size > behaviour.size_max) {
                        refusal = Some("552 5.3.4 too big");
                    }
                    self.extended
                }
                "BODY" => {
                    transaction.eight_bit = value.eq_ignore_ascii_case("8BITMIME");
                    behaviour.eight_bit
                }
                "SMTPUTF8" => {
                    transaction.smtputf8 = true;
                    behaviour.smtputf8
                }
                "RET" | "ENVID" => behaviour.dsn,
                _ => false,
            };
            if !known {
                self.shared.violation(format!("MAIL parameter not offered: {parameter}"));
                refusal = Some("555 5.5.4 unknown parameter");
            }
        }
        if !from.is_ascii() && !transaction.smtputf8 {
            self.shared.violation(format!("MAIL not ASCII without SMTPUTF8: {from}"));
        }
        if self.shared.behaviour.messages_per_connection.is_some_and(|max| self.messages >= max) {
            self.say("421 4.3.0 enough for one connection").await;
            return Next::Close;
        }
        if self.shared.cuts(Phase::Mail) {
            return Next::Cut;
        }
        if refusal.is_none() {
            self.transaction = Some(transaction);
        }
        self.say(refusal.unwrap_or("250 2.1.0 sender ok")).await;
        Next::Go
    }

    async fn rcpt(&mut self, rest: &str) -> Next {
        if self.shared.cuts(Phase::Rcpt) {
            return Next::Cut;
        }
        let reply = self.judge(rest);
        self.say(reply).await;
        Next::Go
    }

    /// The reply to RCPT; a recipient that gets 250 joins the transaction.
    fn judge(&mut self, rest: &str) -> &'static str {
        let shared = &self.shared;
        let Some(transaction) = &mut self.transaction else { return "503 5.5.1 MAIL first" };
        let Some((to, parameters)) = path(rest, "TO:").filter(|(to, _)| !to.is_empty()) else {
            shared.violation(format!("RCPT syntax: {rest}"));
            return "501 5.5.4 syntax";
        };
        if !to.is_ascii() && !transaction.smtputf8 {
            shared.violation(format!("RCPT not ASCII without SMTPUTF8: {to}"));
            return "553 5.6.7 not ASCII";
        }
        for parameter in parameters.split_ascii_whitespace() {
            let keyword = parameter.split('=').next().unwrap_or_default().to_ascii_uppercase();
            if !shared.behaviour.dsn || !matches!(keyword.as_str(), "NOTIFY" | "ORCPT") {
                shared.violation(format!("RCPT parameter not offered: {parameter}"));
                return "555 5.5.4 unknown parameter";
            }
        }
        if shared.behaviour.refuse.refuses(to) {
            shared.counters.refused.fetch_add(1, Ordering::Relaxed);
            return "550 5.1.1 no such user";
        }
        if let Some(wait) = shared.behaviour.greylist
            && shared.greylist.must_wait(&transaction.from, to, wait, Clock.instant())
        {
            shared.counters.deferred.fetch_add(1, Ordering::Relaxed);
            return "451 4.7.1 greylisted, try again later";
        }
        if transaction.recipients.len() >= RECIPIENTS_MAX {
            return "452 4.5.3 too many recipients";
        }
        transaction.recipients.push(to.to_owned());
        "250 2.1.5 recipient ok"
    }

    async fn data(&mut self) -> io::Result<Next> {
        let refusal = match &self.transaction {
            None => Some("503 5.5.1 MAIL first"),
            Some(transaction) if transaction.chunked.is_some() => Some("503 5.5.1 DATA after BDAT"),
            Some(transaction) if transaction.recipients.is_empty() => Some("554 5.5.1 no valid recipients"),
            Some(_) => None,
        };
        if let Some(reply) = refusal {
            self.say(reply).await;
            return Ok(Next::Go);
        }
        if self.wire.has_input() {
            self.shared.violation("content before the 354".into());
        }
        self.say("354 go ahead").await;
        self.wire.flush().await?;
        if self.shared.cuts(Phase::Content) {
            return Ok(Next::Cut);
        }
        let max = self.shared.behaviour.size_max;
        self.content.clear();
        let total = self.wire.data(&mut self.content, max).await?;
        self.end(total).await
    }

    async fn bdat(&mut self, rest: &str) -> io::Result<Next> {
        let mut words = rest.split_ascii_whitespace();
        let size = words.next().and_then(|size| size.parse::<usize>().ok());
        let last = match words.next() {
            None => Some(false),
            Some(word) if word.eq_ignore_ascii_case("LAST") => Some(true),
            Some(_) => None,
        };
        let (Some(size), Some(last)) = (size, last) else {
            // Where the chunk ends is unknown, so nothing behind it can be understood (RFC 3030 §2).
            self.shared.violation(format!("BDAT syntax: {rest}"));
            self.say("501 5.5.4 syntax").await;
            return Ok(Next::Close);
        };
        if self.shared.cuts(Phase::Content) {
            return Ok(Next::Cut);
        }
        let max = self.shared.behaviour.size_max;
        if self.transaction.as_ref().is_none_or(|transaction| transaction.chunked.is_none()) {
            self.content.clear();
        }
        self.wire.exactly(size, &mut self.content, max).await?;

        let offered = self.shared.behaviour.chunking;
        let refusal = match &mut self.transaction {
            _ if !offered => Some("500 5.5.1 unknown command"),
            None => Some("503 5.5.1 MAIL first"),
            Some(transaction) if transaction.recipients.is_empty() => Some("554 5.5.1 no valid recipients"),
            Some(transaction) if transaction.spoiled => Some("503 5.5.1 an earlier chunk was refused"),
            Some(transaction) => {
                transaction.chunked = Some(transaction.chunked.unwrap_or(0) + size);
                None
            }
        };
        if !offered {
            self.shared.violation("BDAT without being offered it".into());
        }
        if let Some(reply) = refusal {
            match &mut self.transaction {
                Some(transaction) if !last => transaction.spoiled = true,
                transaction => *transaction = None,
            }
            self.say(reply).await;
            return Ok(Next::Go);
        }
        if last {
            let total = self.transaction.as_ref().and_then(|transaction| transaction.chunked).unwrap_or(size);
            return self.end(total).await;
        }
        self.say("250 2.0.0 chunk taken").await;
        Ok(Next::Go)
    }

    /// The content is here: writes it down, then says so.
    async fn end(&mut self, total: usize) -> io::Result<Next> {
        let Some(transaction) = self.transaction.take() else { return Ok(Next::Go) };
        if total > self.shared.behaviour.size_max {
            self.say("552 5.3.4 too big").await;
            return Ok(Next::Go);
        }
        self.watch_content(&transaction);
        if self.shared.mailbox.store(self.deliveries(transaction)).is_err() {
            self.say("452 4.3.1 cannot write it down").await;
            return Ok(Next::Go);
        }
        self.messages += 1;
        self.shared.counters.messages.fetch_add(1, Ordering::Relaxed);
        if self.shared.cuts(Phase::End) {
            return Ok(Next::Cut);
        }
        self.say("250 2.0.0 taken").await;
        Ok(Next::Go)
    }

    /// Notes what a sender must not put into content (RFC 5321 §2.3.8, RFC 6152 §3).
    fn watch_content(&self, transaction: &Transaction) {
        let bare = memchr::memchr2_iter(b'\r', b'\n', &self.content).any(|at| match self.content[at] {
            b'\r' => self.content.get(at + 1) != Some(&b'\n'),
            _ => at == 0 || self.content[at - 1] != b'\r',
        });
        if bare {
            self.shared.violation(format!("bare CR or LF in content from <{}>", transaction.from));
        }
        if !self.content.is_ascii() && !transaction.eight_bit && !transaction.smtputf8 {
            self.shared.violation(format!("8-bit content without BODY=8BITMIME from <{}>", transaction.from));
        }
    }

    fn deliveries(&self, transaction: Transaction) -> Vec<Delivery> {
        let number = number(&self.content, transaction.from.is_empty());
        let content = self.shared.mailbox.keeps_content().then(|| Bytes::copy_from_slice(&self.content));
        let delivery = |recipient| Delivery {
            number,
            sender: transaction.from.clone(),
            recipient,
            at: Clock.timestamp(),
            instant: Clock.instant(),
            tls: self.wire.is_tls(),
            bytes: self.content.len(),
            session: self.number,
            content: content.clone(),
        };
        transaction.recipients.into_iter().map(delivery).collect()
    }
}

/// The address and the parameters behind `FROM:` or `TO:`. A `>` inside a quoted local part does not end the path.
fn path<'a>(rest: &'a str, prefix: &str) -> Option<(&'a str, &'a str)> {
    let head = rest.get(..prefix.len()).filter(|head| head.eq_ignore_ascii_case(prefix))?;
    let inner = rest[head.len()..].strip_prefix('<')?;
    let (mut quoted, mut escaped) = (false, false);
    let end = inner.char_indices().find_map(|(at, c)| {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '>' if !quoted => return Some(at),
            _ => {}
        }
        None
    })?;
    Some((&inner[..end], inner[end + 1..].trim_start()))
}

/// The number in the `X-Number` header; in a report, anywhere, since it stands in the message returned.
fn number(content: &[u8], report: bool) -> Option<u64> {
    let end = if report { None } else { memchr::memmem::find(content, b"\r\n\r\n") };
    let head = &content[..end.map_or(content.len(), |end| end + 2)];
    let value = if head.len() >= 9 && head[..9].eq_ignore_ascii_case(b"X-Number:") {
        &head[9..]
    } else {
        let at = memchr::memmem::find(head, b"\r\nX-Number:")?;
        &head[at + 11..]
    };
    let line = &value[..memchr::memmem::find(value, b"\r\n").unwrap_or(value.len())];
    std::str::from_utf8(line).ok()?.trim().parse().ok()
}
