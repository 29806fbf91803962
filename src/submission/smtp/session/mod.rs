//! The server's side of one dialogue, without I/O: octets in, replies out.
//!
//! [`Session::advance`] takes what it can from the input and says what it waits for. A message whose content is complete
//! goes to the door at once and the session reads on; its reply keeps its place in the queue ([`Replies`]). Credentials
//! go to the authority, and the session waits for its word.
//!
//! ```text
//!            EHLO             MAIL            RCPT…          DATA / BDAT          end of content
//!   no name ──────> ready ──────────> open ─────────> open ──────────────> receiving ─────> ready, one more in flight
//! ```

mod auth;
mod commands;
mod receiving;

use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::super::door::{Door, Service};
use super::super::received::HelloName;
use super::super::rejection::Rejection;
use super::data::DotReader;
use super::input::Input;
use super::refusal::{Reason, Refusal};
use super::replies::{Answer, Outcome, Replies};
use super::sasl::Exchange;
use super::transaction::Transaction;
use super::{Policy, Shared};
use crate::access::Principal;
use crate::mail::{EnhancedCode, Reply};

/// One dialogue.
pub(super) struct Session<D> {
    shared: Arc<Shared<D>>,
    policy: Arc<Policy>,
    client: IpAddr,
    tls: bool,
    /// `tls-exporter` of the TLS session (RFC 9266).
    binding: Option<Box<[u8; 32]>>,
    certificate: Certificate,
    authenticated: Option<Arc<Principal>>,
    hello: Option<Hello>,
    state: State,
    mode: Mode,
    replies: Replies,
    commands: u64,
    errors: u32,
    leaving: bool,
    ending: Option<Ending>,
}

/// What the client's certificate tells of it.
enum Certificate {
    /// It showed none.
    None,
    /// No tenant is known by it. Who shows one means to be held to it, so the network it comes from does not help.
    Unknown,
    /// Whose it is.
    Known(Arc<Principal>),
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
    /// The rest of a command or response that is longer than `max`.
    LongLine { skipped: usize, max: usize },
    /// A response of AUTH.
    Auth(Box<Exchange>),
    /// Nothing, until it is known whether credentials are right.
    Checking,
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
    /// The oldest in flight; no input is to be read before.
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
            binding: None,
            certificate: Certificate::None,
            authenticated: None,
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
    /// `binding` is what the TLS session exports for SCRAM, `names` are those in the client's certificate.
    pub(super) fn secured(&mut self, binding: Option<Box<[u8; 32]>>, names: Option<&[String]>) {
        (self.tls, self.binding) = (true, binding);
        self.certificate = match names.map(|names| self.shared.authority.certificate(names)) {
            None => Certificate::None,
            Some(Err(_)) => Certificate::Unknown,
            Some(Ok(principal)) => Certificate::Known(principal),
        };
        (self.hello, self.authenticated, self.state, self.ending) = (None, None, State::Ready, None);
    }

    /// The handshake failed.
    pub(super) fn insecure(&self) {
        self.count(Reason::Tls);
    }

    /// The client was silent for too long, or as good as silent.
    pub(super) fn idled(&mut self) {
        let waited = self.policy.config.idle_timeout.as_secs();
        let text = format!("too little heard for {waited} seconds, closing");
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
    pub(super) fn patience(&self) -> Duration {
        self.policy.config.idle_timeout
    }

    /// Commands taken so far.
    pub(super) fn commands(&self) -> u64 {
        self.commands
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
                Mode::LongLine { skipped, max } => self.skip_line(skipped, max, input),
                Mode::Auth(_) => self.take_response(input),
                Mode::Checking => return Next::Settle,
                Mode::Data(_) => self.take_data(input),
                Mode::Chunk(_) => self.take_chunk(input),
            };
            if let Some(next) = step {
                return next;
            }
        }
    }

    /// Waits until at least one that is in flight is settled, and settles all that are.
    pub(super) fn poll_settle(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut settled = false;
        loop {
            match self.replies.poll_oldest(context) {
                Poll::Ready(Some(Outcome::Message(answer))) => self.settle(answer),
                Poll::Ready(Some(Outcome::Check(checked))) => self.checked(checked),
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => return if settled { Poll::Ready(()) } else { Poll::Pending },
            }
            settled = true;
        }
    }

    fn settle(&mut self, answer: Answer) {
        let reply = match answer {
            Ok(receipt) => {
                // A client that gets mail through is not one that only tries (as Postfix counts).
                self.errors = 0;
                let before = if receipt.replayed { " (accepted before)" } else { "" };
                if let Some(accepted) = &self.shared.accepted {
                    accepted.inc_by(u64::from(!receipt.replayed));
                }
                let what = if D::SERVICE == Service::Inbound { "taken" } else { "queued" };
                Reply::ours(250, EnhancedCode(2, 0, 0), format!("ok, {what} as {}{before}", receipt.id))
            }
            Err(Rejection { reply, .. }) => {
                self.count(Reason::Door);
                tracing::debug!(%reply, reason = Reason::Door.as_str(), "message refused");
                // It may still be receiving; no point in that when the daemon stops.
                if reply.code == 421 {
                    self.ending = Some(Ending::CutOff);
                }
                reply
            }
        };
        self.replies.settle(|ticket| {
            if reply.is_positive() {
                ticket.inspect(|ticket| ticket.log_accepted());
            }
            reply
        });
    }

    fn is_receiving(&self) -> bool {
        match &self.mode {
            Mode::Data(_) | Mode::Chunk(_) => true,
            Mode::Auth(_) | Mode::Checking => false,
            Mode::Command | Mode::LongLine { .. } => {
                matches!(&self.state, State::Open(transaction) if transaction.content.is_some())
            }
        }
    }

    /// Refuses: reply, and what [`Session::judge`] does.
    fn refuse(&mut self, refusal: Refusal) {
        let reply = self.judge(refusal);
        self.replies.push(&reply);
    }

    /// Metric, log, and the count of errors, which may end the session: then the reply is another.
    fn judge(&mut self, refusal: Refusal) -> Reply {
        tracing::debug!(reply = %refusal.reply, reason = refusal.reason.as_str(), "refused");
        self.count(refusal.reason);
        self.errors += u32::from(refusal.reason.is_clients_error());
        if self.errors > self.policy.config.errors_max {
            self.count(Reason::Errors);
            let text = format!("too many errors: errors_max is {}, closing", self.policy.config.errors_max);
            self.ending = Some(Ending::CutOff);
            return Reply::ours(421, EnhancedCode(4, 7, 0), text);
        }
        if refusal.fatal {
            self.ending = Some(Ending::CutOff);
        }
        refusal.reply
    }

    fn count(&self, reason: Reason) {
        self.shared.refused(reason);
    }
}
