//! What each command does.

use std::sync::Arc;

use super::super::super::door::{Door, Service};
use super::super::super::received::HelloName;
use super::super::command::{self, Command};
use super::super::content::Fault;
use super::super::input::Input;
use super::super::orders;
use super::super::parameters::MailParameters;
use super::super::refusal::{Reason, Refusal};
use super::super::transaction::{self, Transaction};
use super::{Certificate, Ending, Hello, Mode, Next, Session, State, Step};
use crate::access::Principal;
use crate::mail::{Recipient, Reply, ReversePath};

/// Longest command line with its CRLF, in octets. RFC 5321 §4.5.3.1.4 asks for 512 and what extensions add.
const COMMAND_MAX: usize = 4096;

/// Octets of a line that is too long that are skipped before the session gives up.
const SKIP_MAX: usize = 1 << 20;

impl<D: Door> Session<D> {
    pub(super) fn take_command(&mut self, input: &mut Input) -> Step {
        let octets = input.octets();
        let window = &octets[..octets.len().min(COMMAND_MAX)];
        let Some(end) = memchr::memchr(b'\n', window) else {
            if window.len() < COMMAND_MAX {
                return Some(Next::Input);
            }
            input.consume(COMMAND_MAX);
            self.mode = Mode::LongLine { skipped: COMMAND_MAX, max: COMMAND_MAX };
            return None;
        };
        let behind = octets.len() > end + 1;
        match self.count_command().and_then(|()| command::parse(&octets[..=end], &self.shared.hostname)) {
            Ok(command) => self.obey(command, behind),
            Err(refusal) => {
                if let State::Open(transaction) = &mut self.state {
                    transaction.recipient_refused |= refusal.reason == Reason::Address;
                }
                self.refuse(refusal);
            }
        }
        input.consume(end + 1);
        None
    }

    /// Skips what is left of a line longer than `max`.
    pub(super) fn skip_line(&mut self, skipped: usize, max: usize, input: &mut Input) -> Step {
        let octets = input.octets();
        let (taken, ended) = match memchr::memchr(b'\n', octets) {
            Some(end) => (end + 1, true),
            None => (octets.len(), false),
        };
        input.consume(taken);
        let refusal = || {
            // RFC 4954 §6 has a code of its own for responses of AUTH.
            let (what, detail) = if max == COMMAND_MAX { ("command line", 2) } else { ("response", 6) };
            Refusal::new(Reason::Syntax, 500, (5, 5, detail), format!("{what} longer than {max} octets"))
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
        self.mode = Mode::LongLine { skipped, max };
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
            Command::Auth { mechanism, initial } => self.auth(mechanism, initial),
            Command::Rset => {
                self.state = State::Ready;
                self.say("250 2.0.0 ok\r\n")
            }
            Command::Noop => self.say("250 2.0.0 ok\r\n"),
            Command::Help => {
                self.say("214 2.0.0 EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY STARTTLS AUTH QUIT; see RFC 5321\r\n")
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

    pub(super) fn say(&mut self, reply: &'static str) -> Result<(), Refusal> {
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
            text.push_str("\n8BITMIME\nSMTPUTF8\nENHANCEDSTATUSCODES\nCHUNKING\n");
            if D::SERVICE == Service::Submission {
                text.push_str("DSN\n");
                orders::announce(&mut text, self.shared.clock.timestamp());
            }
            if let Some(offer) = self.auth_offer() {
                text.push_str(&offer);
                text.push('\n');
            }
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
        let principal = self.principal()?;
        let config = &self.policy.config;
        if eight_bit && !parameters.smtputf8 {
            return Err(Refusal::new(Reason::Address, 550, (5, 6, 7), "this address needs SMTPUTF8"));
        }
        if parameters.size.is_some_and(|size| size > config.max_message_size.0) {
            return Err(Fault::TooLarge { max: config.max_message_size.bytes() }.refusal());
        }
        let asked = parameters.orders.asked(self.shared.clock.timestamp())?;
        self.shared.door.ready().map_err(|rejection| Refusal::door(rejection.reply))?;
        self.state = State::Open(Box::new(Transaction::new(principal, from, parameters, asked)));
        self.say("250 2.1.0 ok\r\n")
    }

    /// Who submits: whoever the client showed to be, by AUTH or its certificate, else a trusted network.
    fn principal(&self) -> Result<Arc<Principal>, Refusal> {
        if D::SERVICE == Service::Inbound {
            return Ok(Arc::clone(&self.shared.network));
        }
        if let Some(principal) = &self.authenticated {
            return Ok(Arc::clone(principal));
        }
        if let Certificate::Known(principal) = &self.certificate {
            return Ok(Arc::clone(principal));
        }
        let judged_by_network = matches!(self.certificate, Certificate::None);
        if judged_by_network && self.policy.config.trusted_networks.iter().any(|network| network.contains(&self.client))
        {
            return Ok(Arc::clone(&self.shared.network));
        }
        if self.auth_is_possible() {
            let first = if self.auth_offer().is_some() { "" } else { "; say STARTTLS first" };
            let text = format!("authentication required{first}");
            return Err(Refusal::new(Reason::Relay, 530, (5, 7, 0), text));
        }
        let text = format!("relaying denied: {} is not in trusted_networks", self.client);
        Err(Refusal::new(Reason::Relay, 550, (5, 7, 1), text))
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
        } else if let Err(reply) = self.shared.door.receives(&recipient.address) {
            Refusal { reply, reason: Reason::Recipient, fatal: false }
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
