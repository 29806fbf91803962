//! A message on its way in: MAIL, RCPT, and the content, by DATA or BDAT.

use std::io;

use super::mind::{Answer, Step};
use super::session::{Session, gone};
use super::{Books, Taken};

/// Recipients in one transaction (RFC 5321 §4.5.3.1.8 asks for 100 at least).
const RECIPIENTS_MAX: usize = 1000;

#[derive(Default)]
pub(super) struct Transaction {
    pub(super) from: String,
    eight_bit: bool,
    smtputf8: bool,
    pub(super) recipients: Vec<String>,
    /// Octets of BDAT chunks so far; `None` before the first.
    chunked: Option<usize>,
    /// A chunk was refused, so the rest is read and refused too.
    spoiled: bool,
}

impl<B: Books> Session<B> {
    pub(super) async fn mail(&mut self, rest: &str) -> io::Result<()> {
        self.sender_refused = false;
        if self.transaction.is_some() {
            self.wire.say("503 5.5.1 one at a time");
            return Ok(());
        }
        let Some((from, parameters)) = path(rest, "FROM:") else {
            self.books.violation(format!("MAIL syntax: {rest}"));
            self.wire.say("501 5.5.4 syntax");
            return Ok(());
        };
        let mut transaction = Transaction { from: from.to_owned(), ..Transaction::default() };
        if let Some(refusal) = self.parameters(parameters, &mut transaction) {
            self.wire.say(refusal);
            return Ok(());
        }
        if !from.is_ascii() && !transaction.smtputf8 {
            self.books.violation(format!("MAIL not ASCII without SMTPUTF8: {from}"));
        }
        self.transactions += 1;
        self.transaction = Some(transaction);
        let answer = self.ask(Step::Mail, "").await?;
        if answer.is_permanent() {
            self.sender_refused = true;
            self.books.refused_sender(from);
        }
        if !self.carry_out(answer, "250 2.1.0 sender ok").await? {
            self.transaction = None;
        }
        Ok(())
    }

    /// Reads the parameters of MAIL; the reply if they cannot be granted.
    fn parameters(&self, parameters: &str, transaction: &mut Transaction) -> Option<&'static str> {
        let (offers, mut refusal) = (&self.host.offers, None);
        for parameter in parameters.split_ascii_whitespace() {
            let (keyword, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let known = match keyword.to_ascii_uppercase().as_str() {
                "SIZE" => {
                    if value.parse::<usize>().is_ok_and(|size| size > offers.size_max) {
                        refusal = Some("552 5.3.4 too big");
                    }
                    self.extended
                }
                "BODY" => {
                    transaction.eight_bit = value.eq_ignore_ascii_case("8BITMIME");
                    offers.eight_bit
                }
                "SMTPUTF8" => {
                    transaction.smtputf8 = true;
                    offers.smtputf8
                }
                "RET" | "ENVID" => offers.dsn,
                _ => false,
            };
            if !known {
                self.books.violation(format!("MAIL parameter not offered: {parameter}"));
                refusal = Some("555 5.5.4 unknown parameter");
            }
        }
        refusal
    }

    pub(super) async fn rcpt(&mut self, rest: &str) -> io::Result<()> {
        let to = match self.addressee(rest) {
            Ok(to) => to,
            Err(reply) => {
                self.wire.say(reply);
                return Ok(());
            }
        };
        self.books.asked(to);
        let answer = self.ask(Step::Rcpt, to).await?;
        if answer.is_permanent() {
            self.books.refused(to);
        }
        if self.carry_out(answer, "250 2.1.5 recipient ok").await?
            && let Some(transaction) = &mut self.transaction
        {
            transaction.recipients.push(to.to_owned());
        }
        Ok(())
    }

    /// Whom RCPT names, or the reply if it cannot.
    fn addressee<'a>(&self, rest: &'a str) -> Result<&'a str, &'static str> {
        let named = path(rest, "TO:").filter(|(to, _)| !to.is_empty());
        let Some(transaction) = &self.transaction else {
            if let Some((to, _)) = named.filter(|_| self.sender_refused) {
                self.books.refused(to);
            }
            return Err("503 5.5.1 MAIL first");
        };
        let Some((to, parameters)) = named else {
            self.books.violation(format!("RCPT syntax: {rest}"));
            return Err("501 5.5.4 syntax");
        };
        if !to.is_ascii() && !transaction.smtputf8 {
            self.books.violation(format!("RCPT not ASCII without SMTPUTF8: {to}"));
            return Err("553 5.6.7 not ASCII");
        }
        for parameter in parameters.split_ascii_whitespace() {
            let keyword = parameter.split('=').next().unwrap_or_default().to_ascii_uppercase();
            if !self.host.offers.dsn || !matches!(keyword.as_str(), "NOTIFY" | "ORCPT") {
                self.books.violation(format!("RCPT parameter not offered: {parameter}"));
                return Err("555 5.5.4 unknown parameter");
            }
        }
        if transaction.recipients.len() >= RECIPIENTS_MAX { Err("452 4.5.3 too many recipients") } else { Ok(to) }
    }

    pub(super) async fn data(&mut self) -> io::Result<()> {
        let refusal = match &self.transaction {
            None => Some("503 5.5.1 MAIL first"),
            Some(transaction) if transaction.chunked.is_some() => Some("503 5.5.1 DATA after BDAT"),
            Some(transaction) if transaction.recipients.is_empty() => Some("554 5.5.1 no valid recipients"),
            Some(_) => None,
        };
        if let Some(reply) = refusal {
            self.wire.say(reply);
            return Ok(());
        }
        if self.wire.has_input() {
            self.books.violation("content before the 354".into());
        }
        let answer = self.ask(Step::Data, "").await?;
        self.note_refusal(&answer);
        if !self.carry_out(answer, "354 go ahead").await? {
            self.transaction = None;
            return Ok(());
        }
        self.wire.flush().await?;
        self.begin_content().await?;
        let max = self.host.offers.size_max;
        let total = self.wire.data(&mut self.content, max).await?;
        self.travel().await;
        self.end(total).await
    }

    async fn begin_content(&mut self) -> io::Result<()> {
        self.content.clear();
        match self.ask(Step::Content, "").await? {
            Answer::Take => Ok(()),
            Answer::Hang => self.carry_out(Answer::Hang, "").await.map(drop),
            _ => Err(gone()),
        }
    }

    pub(super) async fn bdat(&mut self, rest: &str) -> io::Result<()> {
        let mut words = rest.split_ascii_whitespace();
        let size = words.next().and_then(|size| size.parse::<usize>().ok());
        let last = match words.next() {
            None => Some(false),
            Some(word) if word.eq_ignore_ascii_case("LAST") => Some(true),
            Some(_) => None,
        };
        let (Some(size), Some(last)) = (size, last) else {
            // Where the chunk ends is unknown, so nothing behind it can be understood (RFC 3030 §2).
            self.books.violation(format!("BDAT syntax: {rest}"));
            self.wire.say("501 5.5.4 syntax");
            self.wire.flush().await?;
            return Err(gone());
        };
        if self.transaction.as_ref().is_none_or(|transaction| transaction.chunked.is_none()) {
            self.begin_content().await?;
        }
        let max = self.host.offers.size_max;
        self.wire.exactly(size, &mut self.content, max).await?;
        if let Some(reply) = self.refuse_chunk(size) {
            match &mut self.transaction {
                Some(transaction) if !last => transaction.spoiled = true,
                transaction => *transaction = None,
            }
            self.wire.say(reply);
            return Ok(());
        }
        if last {
            let total = self.transaction.as_ref().and_then(|transaction| transaction.chunked).unwrap_or(size);
            return self.end(total).await;
        }
        self.wire.say("250 2.0.0 chunk taken");
        Ok(())
    }

    /// The reply to a chunk that has no place; else it is counted.
    fn refuse_chunk(&mut self, size: usize) -> Option<&'static str> {
        if !self.host.offers.chunking {
            self.books.violation("BDAT without being offered it".into());
            return Some("500 5.5.1 unknown command");
        }
        match &mut self.transaction {
            None => Some("503 5.5.1 MAIL first"),
            Some(transaction) if transaction.recipients.is_empty() => Some("554 5.5.1 no valid recipients"),
            Some(transaction) if transaction.spoiled => Some("503 5.5.1 an earlier chunk was refused"),
            Some(transaction) => {
                transaction.chunked = Some(transaction.chunked.unwrap_or(0) + size);
                None
            }
        }
    }

    /// The content is here: writes it down, then says so. Some write it down before they are done with it, some after.
    async fn end(&mut self, total: usize) -> io::Result<()> {
        if total > self.host.offers.size_max {
            self.transaction = None;
            self.wire.say("552 5.3.4 too big");
            return Ok(());
        }
        let answer = self.ask(Step::End, "").await?;
        self.note_refusal(&answer);
        let Some(transaction) = self.transaction.take() else { return Ok(()) };
        self.watch_content(&transaction);
        if !matches!(answer, Answer::Take | Answer::TakeAndCut) {
            return self.carry_out(answer, "").await.map(drop);
        }
        let taken = Taken {
            sender: &transaction.from,
            recipients: transaction.recipients,
            content: &self.content,
            tls: self.wire.is_tls(),
            session: self.caller.number,
        };
        let Ok(receipt) = self.books.took(taken) else {
            self.wire.say("452 4.3.1 cannot write it down");
            return Ok(());
        };
        if !self.host.rtt.is_zero() && self.host.mind.coin() {
            self.travel().await;
        }
        self.carry_out(answer, "250 2.0.0 taken").await?;
        self.wire.flush().await?;
        self.books.answered(receipt, !self.garbled);
        Ok(())
    }

    fn note_refusal(&self, answer: &Answer) {
        if let Some(transaction) = self.transaction.as_ref().filter(|_| answer.is_permanent()) {
            transaction.recipients.iter().for_each(|recipient| self.books.refused(recipient));
        }
    }

    /// Notes what a sender must not put into content (RFC 5321 §2.3.8, RFC 6152 §3).
    fn watch_content(&self, transaction: &Transaction) {
        let bare = memchr::memchr2_iter(b'\r', b'\n', &self.content).any(|at| match self.content[at] {
            b'\r' => self.content.get(at + 1) != Some(&b'\n'),
            _ => at == 0 || self.content[at - 1] != b'\r',
        });
        if bare {
            self.books.violation(format!("bare CR or LF in content from <{}>", transaction.from));
        }
        if !self.content.is_ascii() && !transaction.eight_bit && !transaction.smtputf8 {
            self.books.violation(format!("8-bit content without BODY=8BITMIME from <{}>", transaction.from));
        }
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
