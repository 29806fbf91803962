//! Replies that say no, and why they do.

use std::borrow::Cow;

use crate::mail::{EnhancedCode, Reply};

/// A reply other than yes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// What the client hears.
    pub(super) reply: Reply,
    /// What the metric counts.
    pub(super) reason: Reason,
    /// The session ends with it.
    pub(super) fatal: bool,
}

/// Why something was refused: the `reason` label of `submissions_refused`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// A command that is unknown or malformed.
    Syntax,
    /// A command out of order.
    Sequence,
    /// A chunk behind one that was refused; the client had no chance to know.
    Aftermath,
    /// An address that is none.
    Address,
    /// A client outside `trusted_networks` that is not authenticated.
    Relay,
    /// Credentials that are wrong, not complete, or not to be said in the clear.
    Auth,
    /// A recipient that is none of ours.
    Recipient,
    /// Larger than `max_message_size`.
    Size,
    /// More than `recipients_max`.
    Recipients,
    /// A line longer than `line_length_max`.
    LineLength,
    /// A bare CR or LF in content.
    BareLineEnd,
    /// A NUL in content.
    Nul,
    /// A header not fit to be sent, or an order in it that cannot be obeyed.
    Header,
    /// `memory_max` is in use.
    Memory,
    /// The door could not take it.
    Door,
    /// More than `commands_max`.
    Commands,
    /// More than `errors_max`.
    Errors,
    /// More than `connections_max` or `connections_per_client_max`.
    Connections,
    /// Silent for `idle_timeout`.
    Idle,
    /// Spoke before it was asked: before the banner, behind STARTTLS, behind a refused DATA.
    OutOfTurn,
    /// The TLS handshake failed.
    Tls,
}

impl Reason {
    /// The label.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Reason::Syntax => "syntax",
            Reason::Sequence => "sequence",
            Reason::Aftermath => "aftermath",
            Reason::Address => "address",
            Reason::Relay => "relay",
            Reason::Auth => "auth",
            Reason::Recipient => "recipient",
            Reason::Size => "size",
            Reason::Recipients => "recipients",
            Reason::LineLength => "line_length",
            Reason::BareLineEnd => "bare_line_end",
            Reason::Nul => "nul",
            Reason::Header => "header",
            Reason::Memory => "memory",
            Reason::Door => "door",
            Reason::Commands => "commands",
            Reason::Errors => "errors",
            Reason::Connections => "connections",
            Reason::Idle => "idle",
            Reason::OutOfTurn => "out_of_turn",
            Reason::Tls => "tls",
        }
    }

    /// Whether it counts against `errors_max`. What is our own shortage does not, nor what a proper client must try to
    /// find out: a recipient too many (RFC 5321 §4.5.3.1.10), a message too large or unfit.
    pub(super) fn is_clients_error(self) -> bool {
        match self {
            Reason::Syntax | Reason::Sequence | Reason::Address | Reason::Relay | Reason::Auth | Reason::Recipient => {
                true
            }
            Reason::Aftermath
            | Reason::Size
            | Reason::Recipients
            | Reason::LineLength
            | Reason::BareLineEnd
            | Reason::Nul
            | Reason::Header
            | Reason::Memory
            | Reason::Door
            | Reason::Commands
            | Reason::Errors
            | Reason::Connections
            | Reason::Idle
            | Reason::OutOfTurn
            | Reason::Tls => false,
        }
    }
}

impl Refusal {
    /// A refusal after which the session goes on.
    pub(super) fn new(
        reason: Reason,
        code: u16,
        enhanced: (u8, u16, u16),
        text: impl Into<Cow<'static, str>>,
    ) -> Refusal {
        let enhanced = EnhancedCode(enhanced.0, enhanced.1, enhanced.2);
        Refusal { reply: Reply::ours(code, enhanced, text), reason, fatal: false }
    }

    /// A command that is malformed: `501 5.5.4`.
    pub(super) fn argument(text: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal::new(Reason::Syntax, 501, (5, 5, 4), text)
    }

    /// A command out of order: `503 5.5.1`.
    pub(super) fn sequence(text: &'static str) -> Refusal {
        Refusal::new(Reason::Sequence, 503, (5, 5, 1), text)
    }

    /// The door's own words. A 421 ends the session (RFC 5321 §3.8).
    pub(super) fn door(reply: Reply) -> Refusal {
        let fatal = reply.code == 421;
        Refusal { reply, reason: Reason::Door, fatal }
    }

    /// The same for a client that has already sent what should have waited for this answer. It would be taken for
    /// commands, so the session ends.
    pub(super) fn out_of_turn(mut self) -> Refusal {
        self.reply.text = format!("{}; closing, content came without waiting for 354", self.reply.text).into();
        Refusal { reason: Reason::OutOfTurn, ..self.fatal() }
    }

    /// The same, but the session ends with it.
    pub(super) fn fatal(self) -> Refusal {
        Refusal { fatal: true, ..self }
    }
}
