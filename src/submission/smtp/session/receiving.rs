//! Content: by DATA, by BDAT, and what happens at its end.

use std::mem;

use tracing::Level;

use super::super::super::door::{Door, Handover, Service};
use super::super::super::options::OptionError;
use super::super::super::received::{Protocol, Received};
use super::super::super::rejection::Rejection;
use super::super::content::{self, Content, Fault, MemoryFull, Whole};
use super::super::data::{DotReader, Progress};
use super::super::input::Input;
use super::super::limits::MemoryShare;
use super::super::refusal::{Reason, Refusal};
use super::super::replies::{Outcome, Record, Ticket};
use super::super::transaction::{Trace, Transaction};
use super::{Chunk, Mode, Next, Session, State, Step};
use crate::mail::{EnhancedCode, Reply};

impl<D: Door> Session<D> {
    pub(super) fn data(&mut self) -> Result<(), Refusal> {
        if let State::Open(transaction) = &self.state
            && transaction.content.is_some()
        {
            return Err(Refusal::sequence("BDAT has begun; go on with it or say RSET"));
        }
        self.begin_content()?;
        self.mode = Mode::Data(DotReader::new());
        self.say("354 go ahead, end with CRLF.CRLF\r\n")
    }

    /// Makes sure that the transaction has content to append to.
    fn begin_content(&mut self) -> Result<(), Refusal> {
        let transaction = match &mut self.state {
            State::Open(transaction) => transaction,
            State::Ready => return Err(Refusal::sequence("say MAIL first")),
            State::Broken => {
                let text = "an earlier chunk was refused; say RSET";
                return Err(Refusal::new(Reason::Aftermath, 503, (5, 5, 1), text));
            }
        };
        if transaction.content.is_some() {
            return Ok(());
        }
        if transaction.recipients.is_empty() {
            return Err(match transaction.recipient_refused {
                true => Refusal::new(Reason::Sequence, 554, (5, 5, 1), "no valid recipients"),
                false => Refusal::sequence("say RCPT first"),
            });
        }
        let config = &self.policy.config;
        let memory = MemoryShare::empty(self.shared.controls.memory.clone());
        let (size_max, line_max) = (config.max_message_size.bytes(), config.line_length_max);
        let content = Content::new(memory, transaction.parameters.size, size_max, line_max);
        // While our own messages are in flight, memory will come back: then we wait instead (see `starved`).
        if !content.has_memory() && !self.replies.has_pending() {
            return Err(Fault::Memory.refusal());
        }
        transaction.content = Some(content);
        Ok(())
    }

    pub(super) fn take_data(&mut self, input: &mut Input) -> Step {
        let (Mode::Data(reader), State::Open(transaction)) = (&mut self.mode, &mut self.state) else { return None };
        let Some(content) = &mut transaction.content else { return None };
        let (taken, progress) = reader.read(input.octets(), content);
        input.consume(taken);
        match progress {
            Progress::End => {
                self.mode = Mode::Command;
                self.finish();
                None
            }
            Progress::MemoryFull => self.starved(),
            Progress::More if content.is_hopeless() => {
                let refusal = content.fault().map_or_else(|| Fault::Memory.refusal(), Fault::refusal);
                self.refuse(refusal.fatal());
                None
            }
            Progress::More => Some(Next::Input),
        }
    }

    /// `BDAT` (RFC 3030 §2). The octets of a chunk come whatever we think of it, so a refusal waits for their end.
    pub(super) fn bdat(&mut self, size: u64, last: bool) -> Result<(), Refusal> {
        let size_max = self.policy.config.max_message_size.bytes();
        if size > content::patience(size_max) {
            return Err(Fault::TooLarge { max: size_max }.refusal().fatal());
        }
        let refusal = self.begin_content().err();
        self.mode = Mode::Chunk(Chunk { size, remaining: size, last, refusal });
        Ok(())
    }

    pub(super) fn take_chunk(&mut self, input: &mut Input) -> Step {
        let Mode::Chunk(chunk) = &mut self.mode else { return None };
        let octets = input.octets();
        let taken = usize::try_from(chunk.remaining).map_or(octets.len(), |remaining| octets.len().min(remaining));
        if chunk.refusal.is_none()
            && let State::Open(transaction) = &mut self.state
            && let Some(content) = &mut transaction.content
            && content.append(&octets[..taken]) == Err(MemoryFull)
        {
            return self.starved();
        }
        input.consume(taken);
        chunk.remaining -= taken as u64;
        if chunk.remaining > 0 {
            return Some(Next::Input);
        }
        self.end_chunk();
        None
    }

    fn end_chunk(&mut self) {
        let Mode::Chunk(chunk) = mem::replace(&mut self.mode, Mode::Command) else { return };
        let fault = match &self.state {
            State::Open(transaction) => transaction.content.as_ref().and_then(Content::fault),
            State::Ready | State::Broken => None,
        };
        let refusal = chunk.refusal.or_else(|| fault.map(Fault::refusal));
        match refusal {
            Some(refusal) => {
                // A chunk without MAIL leaves nothing broken: the next one is wrong for itself.
                let nothing_open = matches!(self.state, State::Ready);
                self.state = if chunk.last || nothing_open { State::Ready } else { State::Broken };
                self.refuse(refusal);
            }
            None if chunk.last => self.finish(),
            None => {
                let text = format!("{} octets received", chunk.size);
                self.replies.push(&Reply::ours(250, EnhancedCode(2, 0, 0), text));
            }
        }
    }

    /// There is no memory to go on: waits for our own messages in flight, or gives the content up.
    fn starved(&mut self) -> Step {
        if self.replies.has_pending() {
            return Some(Next::Settle);
        }
        if let State::Open(transaction) = &mut self.state
            && let Some(content) = &mut transaction.content
        {
            content.fail(Fault::Memory);
        }
        None
    }

    /// The content has come to its end.
    fn finish(&mut self) {
        let State::Open(mut transaction) = mem::replace(&mut self.state, State::Ready) else { return };
        let Some(content) = transaction.content.take() else { return };
        let result = content.finish().map_err(Fault::refusal).and_then(|whole| self.submit(*transaction, whole));
        if let Err(refusal) = result {
            self.refuse(refusal);
        }
    }

    /// Completes the message and hands it to the door.
    fn submit(&mut self, transaction: Transaction, whole: Whole) -> Result<(), Refusal> {
        let Some(hello) = &self.hello else { return Err(Refusal::sequence("say EHLO first")) };
        if D::SERVICE == Service::Inbound {
            return self.hand_in(transaction, whole);
        }
        let shared = &*self.shared;
        let id = shared.door.next_ids(1);
        let protocol = Protocol {
            extended: hello.extended,
            tls: self.tls,
            auth: self.authenticated.is_some(),
            smtputf8: transaction.parameters.smtputf8,
        };
        let received = Received {
            hello: Some(&hello.name),
            client: Some(self.client),
            by: &shared.hostname,
            protocol: protocol.name(),
            id,
            recipient: None,
            at: shared.clock.timestamp(),
        };
        let submitted = transaction
            .complete(
                whole,
                Trace { received, expire_after: shared.door.expire_after(), ways_back: shared.door.ways_back() },
            )
            .map_err(|error| Refusal { reply: error.reply(), reason: Reason::Header, fatal: false })?;
        let record = tracing::enabled!(Level::DEBUG).then(|| {
            Box::new(Record {
                from: submitted.envelope.reverse_path.to_string(),
                recipients: submitted.envelope.recipients.len(),
                bytes: submitted.content.len(),
                tls: protocol.tls,
            })
        });
        let overdue = submitted
            .overdue
            .map(|OptionError { field, value, why }| Box::new(Rejection::invalid(field, format!("{value:?}: {why}"))));
        let handover = Handover::one(submitted.principal, id, submitted.envelope, submitted.content);
        self.hand_over(Handover { overdue, ..handover }, Ticket::new(id, record, submitted.memory));
        Ok(())
    }

    /// Hands what came back to the door as it is.
    fn hand_in(&mut self, transaction: Transaction, whole: Whole) -> Result<(), Refusal> {
        let id = self.shared.door.next_ids(1);
        let (principal, envelope, content, memory) = transaction.untouched(whole, self.shared.clock.timestamp());
        let handover = Handover { client: Some(self.client), ..Handover::one(principal, id, envelope, content) };
        self.hand_over(handover, Ticket::new(id, None, memory));
        Ok(())
    }

    fn hand_over(&mut self, handover: Handover, ticket: Ticket) {
        let accepting = self.shared.door.accept(handover);
        self.replies.push_pending(Box::pin(async move { Outcome::Message(accepting.await) }), ticket);
    }
}
