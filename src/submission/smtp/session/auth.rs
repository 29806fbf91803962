//! AUTH (RFC 4954): who the client is.
//!
//! While credentials are being checked the session takes nothing: what may follow depends on the answer. The check keeps
//! its place among the replies like a message in flight, so what was said before it is answered before it.

use std::mem;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::super::super::door::{Door, Service};
use super::super::input::Input;
use super::super::refusal::{Reason, Refusal};
use super::super::replies::Outcome;
use super::super::sasl::{Checking, Exchange, Mechanism, Setting, Turn, Verified};
use super::{Certificate, Mode, Next, Session, State, Step};
use crate::access::{AccessError, Principal};
use crate::mail::{EnhancedCode, Reply};

/// Longest line of an exchange with its CRLF, in octets (RFC 4954 §4).
const RESPONSE_MAX: usize = 12_288;

impl<D: Door> Session<D> {
    /// The keyword of EHLO, if AUTH is possible now.
    pub(super) fn auth_offer(&self) -> Option<String> {
        let names: Vec<&str> = Mechanism::offered(self.binding.is_some()).map(Mechanism::name).collect();
        (self.auth_is_possible() && self.auth_is_safe() && self.authenticated.is_none())
            .then(|| format!("AUTH {}", names.join(" ")))
    }

    /// Whether a password may be said here: over TLS, or from where nobody listens.
    fn auth_is_safe(&self) -> bool {
        self.tls || self.policy.config.auth_without_tls.iter().any(|network| network.contains(&self.client))
    }

    /// Whether the client could authenticate, maybe after STARTTLS.
    pub(super) fn auth_is_possible(&self) -> bool {
        D::SERVICE == Service::Submission && (self.policy.tls.is_some() || self.auth_is_safe())
    }

    /// `AUTH mechanism [initial-response]`.
    pub(super) fn auth(&mut self, mechanism: &[u8], initial: Option<&[u8]>) -> Result<(), Refusal> {
        if !self.hello.as_ref().is_some_and(|hello| hello.extended) {
            return Err(Refusal::sequence("say EHLO first"));
        }
        if self.authenticated.is_some() {
            return Err(Refusal::sequence("you are authenticated already"));
        }
        if !matches!(self.state, State::Ready) {
            return Err(Refusal::sequence("a transaction is open; end it or say RSET"));
        }
        if !self.auth_is_possible() {
            let text = match D::SERVICE {
                Service::Submission => "AUTH is not possible here: it needs TLS, which is not set up",
                Service::Inbound => "AUTH is not possible here",
            };
            return Err(Refusal::new(Reason::Syntax, 502, (5, 5, 1), text));
        }
        if !self.auth_is_safe() {
            return Err(Refusal::new(Reason::Auth, 538, (5, 7, 11), "encryption required: say STARTTLS first"));
        }
        let bound = self.binding.is_some();
        let known = Mechanism::offered(bound).find(|known| mechanism.eq_ignore_ascii_case(known.name().as_bytes()));
        let Some(mechanism) = known else {
            let names: Vec<&str> = Mechanism::offered(bound).map(Mechanism::name).collect();
            let text = format!("mechanism not supported; choose one of {}", names.join(", "));
            return Err(Refusal::new(Reason::Syntax, 504, (5, 5, 4), text));
        };
        let initial = match initial {
            None => None,
            // An initial response that is there and empty (RFC 4954 §4).
            Some(b"=") => Some(Vec::new()),
            Some(encoded) => Some(decode(encoded)?),
        };
        let turn = Exchange::begin(mechanism, initial, self.setting());
        self.turn(turn)
    }

    /// Takes a response of the exchange from the input.
    pub(super) fn take_response(&mut self, input: &mut Input) -> Step {
        let octets = input.octets();
        let window = &octets[..octets.len().min(RESPONSE_MAX)];
        let Some(end) = memchr::memchr(b'\n', window) else {
            if window.len() < RESPONSE_MAX {
                return Some(Next::Input);
            }
            input.consume(RESPONSE_MAX);
            self.mode = Mode::LongLine { skipped: RESPONSE_MAX, max: RESPONSE_MAX };
            return None;
        };
        if let Err(refusal) = self.respond(&octets[..end]) {
            self.refuse(refusal);
        }
        input.consume(end + 1);
        None
    }

    fn respond(&mut self, line: &[u8]) -> Result<(), Refusal> {
        let Mode::Auth(exchange) = mem::replace(&mut self.mode, Mode::Command) else { return Ok(()) };
        let Some(response) = line.strip_suffix(b"\r") else {
            return Err(Refusal::new(Reason::Syntax, 501, (5, 5, 2), "lines end in CRLF, not in a bare LF"));
        };
        if response == b"*" {
            return Err(Refusal::new(Reason::Auth, 501, (5, 7, 0), "authentication cancelled"));
        }
        let turn = exchange.take(decode(response)?, self.setting());
        self.turn(turn)
    }

    fn setting(&self) -> Setting<'_> {
        Setting { client: self.client, binding: self.binding.as_deref(), authority: &self.shared.authority }
    }

    fn turn(&mut self, turn: Turn) -> Result<(), Refusal> {
        match turn {
            Turn::Challenge(challenge, exchange) => {
                self.mode = Mode::Auth(Box::new(exchange));
                self.replies.push(&challenge_reply(&challenge));
                Ok(())
            }
            Turn::Check(checking) => {
                self.mode = Mode::Checking;
                self.replies.push_check(outcome(checking));
                Ok(())
            }
            Turn::Welcome(principal) => {
                let reply = self.welcome(principal);
                self.replies.push(&reply);
                Ok(())
            }
            Turn::Malformed(why) => Err(Refusal::new(Reason::Syntax, 501, (5, 5, 2), why)),
            Turn::Wrong(why) => Err(Refusal::new(Reason::Auth, 535, (5, 7, 8), why)),
        }
    }

    /// The authority has spoken.
    pub(super) fn checked(&mut self, checked: Result<Verified, AccessError>) {
        self.mode = Mode::Command;
        let reply = match checked {
            Ok(Verified { principal, last_words: None }) => self.welcome(principal),
            Ok(Verified { principal, last_words: Some(words) }) => {
                self.mode = Mode::Auth(Box::new(Exchange::farewell(principal)));
                challenge_reply(&words)
            }
            Err(error) => self.judge(refusal(&error)),
        };
        self.replies.settle(|_| reply);
    }

    fn welcome(&mut self, principal: Arc<Principal>) -> Reply {
        let tenant = |principal: &Principal| principal.tenant.as_ref().map(|tenant| tenant.name.clone());
        if let Certificate::Known(other) = &self.certificate
            && tenant(other) != tenant(&principal)
        {
            let text = "the client certificate and the credentials mean different tenants";
            return self.judge(Refusal::new(Reason::Auth, 535, (5, 7, 8), text));
        }
        tracing::debug!(how = ?principal.how, tenant = tenant(&principal), "authenticated");
        self.authenticated = Some(principal);
        Reply::ours(235, EnhancedCode(2, 7, 0), "you are authenticated")
    }
}

/// Boxed once more, so that all that waits in the queue of replies is of one kind.
fn outcome(checking: Checking) -> super::super::replies::Waiting {
    Box::pin(async move { Outcome::Check(checking.await) })
}

fn challenge_reply(challenge: &[u8]) -> Reply {
    Reply { code: 334, enhanced: None, text: BASE64_STANDARD.encode(challenge).into() }
}

/// Strictly as RFC 4648 §4 has it: padded, nothing in between, no stray bits.
fn decode(encoded: &[u8]) -> Result<Vec<u8>, Refusal> {
    let bad = |_| Refusal::new(Reason::Syntax, 501, (5, 5, 2), "the response is not valid base64");
    BASE64_STANDARD.decode(encoded).map_err(bad)
}

fn refusal(error: &AccessError) -> Refusal {
    match error {
        AccessError::Unauthenticated => Refusal::new(Reason::Auth, 535, (5, 7, 8), "authentication failed"),
        AccessError::Forbidden { why, .. } => Refusal::new(Reason::Auth, 535, (5, 7, 8), why.clone()),
        AccessError::Quota { why, .. } => Refusal::new(Reason::Door, 454, (4, 7, 0), why.clone()),
    }
}
