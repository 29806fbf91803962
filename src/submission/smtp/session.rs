//! The server's side of one dialogue, without I/O: octets in, replies out.
//!
//! [`Session::advance`] takes what it can from the input and says what it waits for. A message whose content is complete
//! goes to the door at once and the session reads on; its reply keeps its place in the queue ([`Replies`]).
//!
//! ```text
//!            EHLO             MAIL            RCPT…          DATA / BDAT          end of content
//!   no name ──────> ready ──────────> open ─────────> open ──────────────> receiving ─────> ready, one more in flight
//! ```

use std::mem;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use tracing::Level;

use super::super::door::Door;
use super::super::received::{HelloName, Protocol, Received};
use super::command::{self, Command};
use super::content::{self, Content, Fault, MemoryFull, Whole};
use super::data::{DotReader, Progress};
use super::input::Input;
use super::limits::MemoryShare;
use super::parameters::MailParameters;
use super::refusal::{Reason, Refusal};
use super::replies::{Replies, Ticket};
use super::transaction::{self, Trace, Transaction};
use super::{Policy, Shared};
use crate::mail::{EnhancedCode, Recipient, Reply, ReversePath};

/// Longest command line with its CRLF, in octets. RFC 5321 §4.5.3.1.4 asks for 512 and what extensions add.
const COMMAND_MAX: usize = 4096;

/// Octets of a line that is too long that are skipped before the session gives up.
const SKIP_MAX: usize = 1 << 20;

/// One dialogue.
pub(super) struct Session<D> {
    shared: Arc<Shared<D>>,
    policy: Arc<Policy>,
    client: IpAddr,
    tls: bool,
    hello: Option<Hello>,
    state: State,
    mode: Mode,
    replies: Replies,
    commands: u64,
    errors: u32,
    leaving: bool,
    ending: Option<Ending>,
}

/// Who the client says it is.
struct Hello {
    name: HelloName,
    extended: bool,
}

/// Where the dialogue stands in the order of commands.
enum State {
    /// No transaction.
    Ready,
    /// A chunk was refused and more of its message may follow.
    Broken,
    /// Behind MAIL.
    Open(Box<Transaction>),
}

/// What the next octets are.
enum Mode {
    /// A command.
    Command,
    /// The rest of a command that is too long.
    LongLine { skipped: usize },
    /// Content behind DATA.
    Data(DotReader),
    /// Content behind BDAT.
    Chunk(Chunk),
}

/// A chunk being received.
struct Chunk {
    size: u64,
    remaining: u64,
    last: bool,
    /// Its octets are not wanted, and this is why.
    refusal: Option<Refusal>,
}

/// What the session waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// More octets from the client.
    Input,
    /// Replies to be written.
    Write,
    /// The oldest message in flight; no input is to be read before.
    Settle,
    /// Nothing: once all replies are written, it ends.
    End(Ending),
}

/// How a dialogue ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// In peace: QUIT, or the client has closed.
    Quit,
    /// By us, while the client may still be talking.
    CutOff,
    /// In the clear; it starts anew over TLS.
    StartTls,
}

/// Whether a step got on, or what it waits for.
type Step = Option<Next>;

impl<D: Door> Session<D> {
    /// A new dialogue with `client`, whose address is canonical (never a v4-mapped one).
    pub(super) fn new(shared: Arc<Shared<D>>, client: IpAddr) -> Session<D> {
        let policy = shared.controls.policy.load_full();
        Session {
            shared,
            policy,
            client,
            tls: false,
            hello: None,
            state: State::Ready,
            mode: Mode::Command,
            replies: Replies::default(),
            commands: 0,
            errors: 0,
            leaving: false,
            ending: None,
        }
    }

    /// Says who we are.
    pub(super) fn greet(&mut self) {
        let text = format!("{} ESMTP posthaste", self.shared.hostname);
        self.replies.push(&Reply { code: 220, enhanced: None, text: text.into() });
    }

    /// The client spoke before the banner. Who does not wait for us would not wait for a refusal either, and bulk
    /// senders of junk are known by it.
    pub(super) fn spoke_first(&mut self) {
        self.refuse(Refusal::new(Reason::OutOfTurn, 554, (5, 5, 0), "you spoke before the banner").fatal());
    }

    /// The handshake is done: all that was said in the clear is forgotten (RFC 3207 §4.2), but not what was counted.
    pub(super) fn secured(&mut self) {
        (self.tls, self.hello, self.state, self.ending) = (true, None, State::Ready, None);
    }

    /// The handshake failed.
    pub(super) fn insecure(&self) {
        self.count(Reason::Tls);
    }

    /// The client was silent for too long.
    pub(super) fn idled(&mut self) {
        let waited = self.policy.config.idle_timeout.as_secs();
        let text = format!("nothing heard for {waited} seconds, closing");
        self.refuse(Refusal::new(Reason::Idle, 421, (4, 4, 2), text).fatal());
    }

    /// The daemon stops: ends at once, or when the message being received is complete.
    pub(super) fn leave(&mut self) {
        self.leaving = true;
    }

    /// The client will send nothing more. Replies can still reach it.
    pub(super) fn hung_up(&mut self) {
        self.ending.get_or_insert(Ending::Quit);
    }

    /// The replies owed.
    pub(super) fn replies(&mut self) -> &mut Replies {
        &mut self.replies
    }

    /// How long the client may be silent.
    pub(super) fn patience(&self) -> std::time::Duration {
        self.policy.config.idle_timeout
    }

    /// What STARTTLS leads to.
    pub(super) fn tls_config(&self) -> Option<Arc<rustls::ServerConfig>> {
        self.policy.tls.clone()
    }

    /// Takes from `input` what can be taken now.
    pub(super) fn advance(&mut self, input: &mut Input) -> Next {
        loop {
            if self.leaving && self.ending.is_none() && !self.is_receiving() {
                let text = "shutting down, try again later";
                self.replies.push(&Reply::ours(421, EnhancedCode(4, 3, 2), text));
                self.ending = Some(Ending::CutOff);
            }
            if let Some(ending) = self.ending {
                return Next::End(ending);
            }
            if self.replies.is_full() {
                return if self.replies.ready().is_empty() { Next::Settle } else { Next::Write };
            }
            let step = match self.mode {
                Mode::Command => self.take_command(input),
                Mode::LongLine { skipped } => self.skip_line(skipped, input),
                Mode::Data(_) => self.take_data(input),
                Mode::Chunk(_) => self.take_chunk(input),
            };
            if let Some(next) = step {
                return next;
            }
        }
    }

    /// Waits until at least one message in flight is settled, and settles all that are.
    pub(super) fn poll_settle(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut settled = false;
        loop {
            match self.replies.poll_oldest(context) {
                Poll::Ready(Some(result)) => self.settle(result),
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => return if settled { Poll::Ready(()) } else { Poll::Pending },
            }
            settled = true;
        }
    }

    fn settle(&mut self, result: Result<(), Reply>) {
        let reply = match result {
            Ok(()) => {
                self.shared.accepted.inc();
                // A client that gets mail through is not one that only tries (as Postfix counts).
                self.errors = 0;
                None
            }
            Err(reply) => {
                self.count(Reason::Door);
                tracing::debug!(%reply, reason = Reason::Door.as_str(), "message refused");
                // It may still be receiving; no point in that when the daemon stops.
                if reply.code == 421 {
                    self.ending = Some(Ending::CutOff);
                }
                Some(reply)
            }
        };
        self.replies.settle(|ticket| match reply {
            Some(reply) => reply,
            None => {
                if let Some(record) = &ticket.record {
                    tracing::debug!(message_id = %ticket.id, "accepted {record}");
                }
                Reply::ours(250, EnhancedCode(2, 0, 0), format!("ok, queued as {}", ticket.id))
            }
        });
    }

    fn is_receiving(&self) -> bool {
        match &self.mode {
            Mode::Data(_) | Mode::Chunk(_) => true,
            Mode::Command | Mode::LongLine { .. } => {
                matches!(&self.state, State::Open(transaction) if transaction.content.is_some())
            }
        }
    }

    /// Refuses: reply, metric, log, and the count of errors, which may end the session instead.
    fn refuse(&mut self, refusal: Refusal) {
        tracing::debug!(reply = %refusal.reply, reason = refusal.reason.as_str(), "refused");
        self.count(refusal.reason);
        self.errors += u32::from(refusal.reason.is_clients_error());
        if self.errors > self.policy.config.errors_max {
            self.count(Reason::Errors);
            let text = format!("too many errors: errors_max is {}, closing", self.policy.config.errors_max);
            self.replies.push(&Reply::ours(421, EnhancedCode(4, 7, 0), text));
            self.ending = Some(Ending::CutOff);
            return;
        }
        self.replies.push(&refusal.reply);
        if refusal.fatal {
            self.ending = Some(Ending::CutOff);
        }
    }

    fn count(&self, reason: Reason) {
        self.shared.refused(reason);
    }
}

/// Commands.
impl<D: Door> Session<D> {
    fn take_command(&mut self, input: &mut Input) -> Step {
        let octets = input.octets();
        let window = &octets[..octets.len().min(COMMAND_MAX)];
        let Some(end) = memchr::memchr(b'\n', window) else {
            if window.len() < COMMAND_MAX {
                return Some(Next::Input);
            }
            input.consume(COMMAND_MAX);
            self.mode = Mode::LongLine { skipped: COMMAND_MAX };
            return None;
        };
        let behind = octets.len() > end + 1;
        match self.count_command().and_then(|()| command::parse(&octets[..=end], &self.shared.hostname)) {
            Ok(command) => self.obey(command, behind),
            Err(refusal) => self.refuse(refusal),
        }
        input.consume(end + 1);
        None
    }

    fn skip_line(&mut self, skipped: usize, input: &mut Input) -> Step {
        let octets = input.octets();
        let (taken, ended) = match memchr::memchr(b'\n', octets) {
            Some(end) => (end + 1, true),
            None => (octets.len(), false),
        };
        input.consume(taken);
        let refusal = || {
            let text = format!("command line longer than {COMMAND_MAX} octets");
            Refusal::new(Reason::Syntax, 500, (5, 5, 2), text)
        };
        if ended {
            self.mode = Mode::Command;
            match self.count_command() {
                Ok(()) => self.refuse(refusal()),
                Err(too_many) => self.refuse(too_many),
            }
            return None;
        }
        let skipped = skipped + taken;
        if skipped > SKIP_MAX {
            self.refuse(refusal().fatal());
            return None;
        }
        self.mode = Mode::LongLine { skipped };
        Some(Next::Input)
    }

    fn count_command(&mut self) -> Result<(), Refusal> {
        self.commands += 1;
        let max = self.policy.config.commands_max;
        if self.commands > max {
            let text = format!("too many commands: commands_max is {max}, closing");
            return Err(Refusal::new(Reason::Commands, 421, (4, 7, 0), text).fatal());
        }
        Ok(())
    }

    /// Does what a command asks. `behind`: more octets have come behind it.
    fn obey(&mut self, command: Command<'_>, behind: bool) {
        let result = match command {
            Command::Ehlo(name) => self.hello(name, true),
            Command::Helo(name) => self.hello(name, false),
            Command::Mail { reverse_path, parameters, eight_bit } => self.mail(reverse_path, parameters, eight_bit),
            Command::Rcpt { address, parameters, eight_bit } => {
                self.rcpt(transaction::recipient(address, parameters), eight_bit)
            }
            Command::Data => self.data().map_err(|refusal| if behind { refusal.out_of_turn() } else { refusal }),
            Command::Bdat { size, last } => self.bdat(size, last),
            Command::StartTls => self.start_tls(behind),
            Command::Rset => {
                self.state = State::Ready;
                self.say("250 2.0.0 ok\r\n")
            }
            Command::Noop => self.say("250 2.0.0 ok\r\n"),
            Command::Help => {
                self.say("214 2.0.0 EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY STARTTLS QUIT; see RFC 5321\r\n")
            }
            // RFC 5321 §3.5.3: neither confirm nor deny.
            Command::Vrfy => self.say("252 2.0.0 send some mail, we will try\r\n"),
            Command::Quit => {
                self.ending = Some(Ending::Quit);
                self.say("221 2.0.0 bye\r\n")
            }
        };
        if let Err(refusal) = result {
            self.refuse(refusal);
        }
    }

    fn say(&mut self, reply: &'static str) -> Result<(), Refusal> {
        self.replies.push_raw(reply.as_bytes());
        Ok(())
    }

    fn hello(&mut self, name: &[u8], extended: bool) -> Result<(), Refusal> {
        self.state = State::Ready;
        self.hello = Some(Hello { name: HelloName::read(name), extended });
        let hostname = &self.shared.hostname;
        let mut text = format!("{hostname} greets {}", self.client);
        if extended {
            let size = self.policy.config.max_message_size.0;
            text.push_str("\nPIPELINING\nSIZE ");
            text.push_str(&size.to_string());
            text.push_str("\n8BITMIME\nSMTPUTF8\nENHANCEDSTATUSCODES\nCHUNKING\nDSN\n");
            if self.policy.tls.is_some() && !self.tls {
                text.push_str("STARTTLS\n");
            }
            text.push_str("HELP");
        }
        self.replies.push(&Reply { code: 250, enhanced: None, text: text.into() });
        Ok(())
    }

    fn start_tls(&mut self, behind: bool) -> Result<(), Refusal> {
        if self.tls {
            return Err(Refusal::sequence("TLS is active already"));
        }
        if self.policy.tls.is_none() {
            return Err(Refusal::new(Reason::Syntax, 502, (5, 5, 1), "TLS is not set up here"));
        }
        if behind {
            // Sent in the clear, it would be read as if it had come over TLS (CVE-2011-0411).
            let text = "octets behind STARTTLS, closing";
            return Err(Refusal::new(Reason::OutOfTurn, 554, (5, 5, 0), text).fatal());
        }
        self.ending = Some(Ending::StartTls);
        self.say("220 2.0.0 go ahead\r\n")
    }

    fn mail(&mut self, from: ReversePath, parameters: MailParameters, eight_bit: bool) -> Result<(), Refusal> {
        if self.hello.is_none() {
            return Err(Refusal::sequence("say EHLO first"));
        }
        if let State::Open(_) = self.state {
            return Err(Refusal::sequence("a transaction is open; end it or say RSET"));
        }
        // From here on a reload of the configuration counts.
        self.policy = self.shared.controls.policy.load_full();
        let config = &self.policy.config;
        if !config.trusted_networks.iter().any(|network| network.contains(&self.client)) {
            let text = format!("relaying denied: {} is not in trusted_networks", self.client);
            return Err(Refusal::new(Reason::Relay, 550, (5, 7, 1), text));
        }
        if eight_bit && !parameters.smtputf8 {
            return Err(Refusal::new(Reason::Address, 550, (5, 6, 7), "this address needs SMTPUTF8"));
        }
        if parameters.size.is_some_and(|size| size > config.max_message_size.0) {
            return Err(Fault::TooLarge { max: config.max_message_size.bytes() }.refusal());
        }
        self.shared.door.ready().map_err(Refusal::door)?;
        self.state = State::Open(Box::new(Transaction::new(from, parameters)));
        self.say("250 2.1.0 ok\r\n")
    }

    fn rcpt(&mut self, recipient: Recipient, eight_bit: bool) -> Result<(), Refusal> {
        let State::Open(transaction) = &mut self.state else { return Err(Refusal::sequence("say MAIL first")) };
        if transaction.content.is_some() {
            return Err(Refusal::sequence("the content has begun"));
        }
        if transaction.has(&recipient) {
            return self.say("250 2.1.5 ok, again\r\n");
        }
        let refusal = if eight_bit && !transaction.parameters.smtputf8 {
            Refusal::new(Reason::Address, 553, (5, 6, 7), "this address needs SMTPUTF8")
        } else if transaction.recipients.len() >= self.policy.config.recipients_max {
            let text = format!("too many recipients: recipients_max is {}", self.policy.config.recipients_max);
            Refusal::new(Reason::Recipients, 452, (4, 5, 3), text)
        } else {
            transaction.add(recipient);
            return self.say("250 2.1.5 ok\r\n");
        };
        transaction.recipient_refused = true;
        Err(refusal)
    }
}

/// Content.
impl<D: Door> Session<D> {
    fn data(&mut self) -> Result<(), Refusal> {
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

    fn take_data(&mut self, input: &mut Input) -> Step {
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
    fn bdat(&mut self, size: u64, last: bool) -> Result<(), Refusal> {
        let size_max = self.policy.config.max_message_size.bytes();
        if size > content::patience(size_max) {
            return Err(Fault::TooLarge { max: size_max }.refusal().fatal());
        }
        let refusal = self.begin_content().err();
        self.mode = Mode::Chunk(Chunk { size, remaining: size, last, refusal });
        Ok(())
    }

    fn take_chunk(&mut self, input: &mut Input) -> Step {
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
        let shared = &*self.shared;
        let id = shared.door.next_id();
        let protocol = Protocol { extended: hello.extended, tls: self.tls, smtputf8: transaction.parameters.smtputf8 };
        let received = Received {
            hello: &hello.name,
            client: self.client,
            by: &shared.hostname,
            protocol,
            id,
            recipient: None,
            at: shared.clock.timestamp(),
        };
        let submitted = transaction
            .complete(whole, Trace { received, expire_after: shared.door.expire_after() })
            .map_err(|error| Refusal { reply: error.reply(), reason: Reason::Header, fatal: false })?;
        let record = tracing::enabled!(Level::DEBUG).then(|| {
            let (from, recipients) = (&submitted.envelope.reverse_path, submitted.envelope.recipients.len());
            let octets = submitted.content.len();
            format!("from=<{from}> recipients={recipients} bytes={octets} protocol={}", protocol.name()).into()
        });
        let accepting = shared.door.accept(id, submitted.envelope, submitted.content);
        let ticket = Ticket { id, record, memory: submitted.memory };
        self.replies.push_pending(Box::pin(accepting), ticket);
        Ok(())
    }
}
