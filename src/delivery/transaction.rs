//! One message to some recipients: what goes in, what comes out, and the tally in between. No I/O.

use std::io::Write as _;
use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;

use super::capabilities::Capabilities;
use super::reply::{Garbage, ReplyRef};
use super::verdict::{Situation, Step, Verdict, judge};
use super::wire::Broken;
use crate::mail::{Blame, EnhancedCode, Failure, Origin, Outcome, Recipient, Reply, Ret, ReversePath};

/// One transaction's work.
#[derive(Debug, Clone, Copy)]
pub struct Job<'a> {
    /// The sender.
    pub reverse_path: &'a ReversePath,
    /// At least one; the receiver's limit is applied here.
    pub recipients: &'a [&'a Recipient],
    /// Header fields to put in front, each ended by CRLF; may be empty.
    pub signature: &'a Bytes,
    /// The message.
    pub content: &'a Bytes,
    /// It holds octets above 127.
    pub eight_bit: bool,
    /// It needs SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// RFC 3461 §4.3.
    pub ret: Option<Ret>,
    /// RFC 3461 §4.4, xtext.
    pub envid: Option<&'a str>,
}

impl Job<'_> {
    /// Octets of header fields and message.
    pub(super) fn size(&self) -> u64 {
        self.signature.len() as u64 + self.content.len() as u64
    }
}

/// What became of a [`Job`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// One per recipient, in order. `None`: never got a verdict, because the session broke before the content was sent
    /// whole or the transaction was full. Not an attempt on the recipient; try it at once in another transaction.
    pub outcomes: Vec<Option<Outcome>>,
    /// What broke the session. The connection is then of no further use.
    pub session_failure: Option<Failure>,
    /// Where the time went.
    pub timings: Timings,
    /// The content was sent whole and no reply came: those accepted are deferred, and may get the message twice.
    pub content_unanswered: bool,
}

/// Time by phase; phases overlap when all goes in one flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timings {
    /// Begin to the last reply to RCPT.
    pub envelope: Duration,
    /// First to last octet of the content.
    pub data: Duration,
    /// Last octet to the final reply.
    pub reply: Duration,
}

impl Transaction {
    /// All recipients alike, without a word said.
    pub(super) fn unsaid(recipients: usize, outcome: Option<Outcome>, session_failure: Option<Failure>) -> Transaction {
        let outcomes = vec![outcome; recipients];
        Transaction { outcomes, session_failure, timings: Timings::default(), content_unanswered: false }
    }
}

/// What can be said without asking: this receiver cannot take this message.
pub(super) fn refusal(job: &Job<'_>, capabilities: &Capabilities) -> Option<Failure> {
    let ours = |code, enhanced, text: String| {
        Some(Failure { blame: Blame::Message, origin: Origin::Local, reply: Reply::ours(code, enhanced, text) })
    };
    // RFC 1870 §6.1.
    if let Some(max) = capabilities.size_max.filter(|max| job.size() > *max) {
        let text = format!("the message has {} octets, the receiver takes {max}", job.size());
        return ours(552, EnhancedCode(5, 3, 4), text);
    }
    // RFC 6531 §3.2: never to a server that did not offer it.
    if job.smtputf8 && !capabilities.smtputf8 {
        return ours(550, EnhancedCode(5, 6, 7), "the receiver does not take internationalized mail (SMTPUTF8)".into());
    }
    // 8-bit content is sent as it is where 8BITMIME is missing. RFC 6152 §3 would have us convert or refuse; converting
    // breaks DKIM, refusing returns mail that in practice arrives: servers that are not 8-bit clean died out.
    None
}

/// Appends `MAIL`, with the parameters the receiver knows.
pub(super) fn push_mail(commands: &mut Vec<u8>, job: &Job<'_>, capabilities: &Capabilities) {
    push(commands, format_args!("MAIL FROM:<{}>", job.reverse_path));
    if capabilities.size {
        push(commands, format_args!(" SIZE={}", job.size()));
    }
    if capabilities.eight_bit_mime && job.eight_bit {
        push(commands, format_args!(" BODY=8BITMIME"));
    }
    if job.smtputf8 {
        push(commands, format_args!(" SMTPUTF8"));
    }
    if capabilities.dsn {
        match job.ret {
            Some(Ret::Full) => push(commands, format_args!(" RET=FULL")),
            Some(Ret::Hdrs) => push(commands, format_args!(" RET=HDRS")),
            None => {}
        }
        if let Some(envid) = job.envid.filter(|text| is_parameter(text)) {
            push(commands, format_args!(" ENVID={envid}"));
        }
    }
    commands.extend_from_slice(b"\r\n");
}

/// Appends one `RCPT`.
pub(super) fn push_rcpt(commands: &mut Vec<u8>, recipient: &Recipient, capabilities: &Capabilities) {
    push(commands, format_args!("RCPT TO:<{}>", recipient.address));
    if capabilities.dsn {
        if let Some(notify) = recipient.notify {
            let names = [("SUCCESS", notify.success), ("FAILURE", notify.failure), ("DELAY", notify.delay)];
            let mut wanted = names.iter().filter(|(_, wanted)| *wanted).map(|(name, _)| *name);
            push(commands, format_args!(" NOTIFY={}", wanted.next().unwrap_or("NEVER")));
            wanted.for_each(|name| push(commands, format_args!(",{name}")));
        }
        if let Some(orcpt) = recipient.orcpt.as_deref().filter(|text| is_parameter(text)) {
            push(commands, format_args!(" ORCPT={orcpt}"));
        }
    }
    commands.extend_from_slice(b"\r\n");
}

/// Appends text.
pub(super) fn push(commands: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    commands.write_fmt(text).expect("a Vec takes everything");
}

/// The door checked these; a second look costs nothing and keeps a command one command.
fn is_parameter(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic())
}

/// Replies so far, and what follows from them.
#[derive(Debug)]
pub(super) struct Tally {
    outcomes: Vec<Option<Outcome>>,
    /// Which recipients the receiver said yes to, and has not judged further.
    standing: SmallVec<[bool; 16]>,
    accepted: usize,
    next_recipient: usize,
    mail: Mail,
    first_transaction: bool,
    content_answered: bool,
    go: bool,
    too_many_after: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mail {
    Unanswered,
    Accepted,
    Refused,
}

impl Tally {
    pub(super) fn new(recipients: usize, first_transaction: bool) -> Tally {
        Tally {
            outcomes: vec![None; recipients],
            standing: SmallVec::from_elem(false, recipients),
            accepted: 0,
            next_recipient: 0,
            mail: Mail::Unanswered,
            first_transaction,
            content_answered: false,
            go: false,
            too_many_after: None,
        }
    }

    /// Notes the reply to `step`. `Err` if the session cannot go on.
    pub(super) fn take(&mut self, step: Step, reply: ReplyRef<'_>) -> Result<(), Broken> {
        let situation = Situation { accepted: self.accepted, first_transaction: self.first_transaction };
        let verdict = judge(step, reply.code, reply.enhanced, situation);
        let failure =
            |blame| Failure { blame, origin: Origin::Remote { command: step.command() }, reply: reply.to_reply() };
        match (step, verdict) {
            (_, Verdict::Closing) => {
                return Err(Broken::Closing { command: step.command(), reply: reply.to_reply() });
            }
            // With MAIL refused or nobody accepted, the replies to what was sent along say nothing (RFC 2920 §3.1).
            (Step::Rcpt, _) if self.mail == Mail::Refused => {}
            (Step::Data, Verdict::Go) => self.go = true,
            (Step::Data | Step::End | Step::Bdat, _) if self.accepted == 0 => {}
            (_, Verdict::Unexpected | Verdict::Go) => {
                return Err(Broken::Garbage { command: step.command(), garbage: Garbage::Unexpected(reply.code) });
            }
            (_, Verdict::NoChunking) => return Err(Broken::NoChunking { reply: reply.to_reply() }),

            (Step::Reset, _) => {}
            (Step::Mail, Verdict::Accepted) => self.mail = Mail::Accepted,
            (Step::Mail, Verdict::Deferred(blame)) => self.refuse_all(Outcome::Deferred(failure(blame))),
            (Step::Mail, Verdict::Failed(blame)) => self.refuse_all(Outcome::Failed(failure(blame))),
            (Step::Rcpt, Verdict::Accepted) => {
                self.standing[self.next_recipient] = true;
                self.accepted += 1;
            }
            (Step::Rcpt, Verdict::Deferred(blame)) => {
                self.outcomes[self.next_recipient] = Some(Outcome::Deferred(failure(blame)));
            }
            (Step::Rcpt, Verdict::Failed(blame)) => {
                self.outcomes[self.next_recipient] = Some(Outcome::Failed(failure(blame)));
            }
            // Only a server that says so in so many digits has a limit to be remembered: a bare 452 may be anything.
            (Step::Rcpt | Step::Mail, Verdict::NextTransaction) => {
                if reply.enhanced.is_some() {
                    self.too_many_after.get_or_insert(self.accepted);
                }
            }
            (Step::Data, Verdict::Accepted | Verdict::NextTransaction) => {}
            (Step::Data | Step::End | Step::Bdat, Verdict::Deferred(blame)) => {
                self.settle(Outcome::Deferred(failure(blame)));
            }
            (Step::Data | Step::End | Step::Bdat, Verdict::Failed(blame)) => {
                self.settle(Outcome::Failed(failure(blame)));
            }
            (Step::End | Step::Bdat, Verdict::Accepted | Verdict::NextTransaction) => {
                self.settle(Outcome::Delivered { reply: reply.to_reply() });
            }
        }
        match step {
            Step::Rcpt => self.next_recipient += 1,
            // A refused chunk leaves the transaction open (RFC 3030 §2); an answered dot never does.
            Step::End => self.content_answered = true,
            Step::Bdat => self.content_answered = (200..300).contains(&reply.code),
            Step::Reset | Step::Mail | Step::Data => {}
        }
        Ok(())
    }

    /// MAIL was refused: so is everyone.
    fn refuse_all(&mut self, outcome: Outcome) {
        self.mail = Mail::Refused;
        self.outcomes.fill(Some(outcome));
    }

    /// One fate for all that were accepted.
    fn settle(&mut self, outcome: Outcome) {
        for (place, standing) in self.outcomes.iter_mut().zip(&mut self.standing) {
            if std::mem::take(standing) {
                *place = Some(outcome.clone());
            }
        }
    }

    /// The content left us whole and the session broke before it was answered.
    pub(super) fn settle_unanswered(&mut self, why: &Failure) {
        self.settle(Outcome::Deferred(why.clone()));
    }

    /// Some recipient was accepted and waits for the content's reply.
    pub(super) fn anyone_standing(&self) -> bool {
        self.standing.contains(&true)
    }

    /// MAIL was refused, and with it everyone.
    pub(super) fn mail_refused(&self) -> bool {
        self.mail == Mail::Refused
    }

    /// MAIL was answered at all.
    pub(super) fn mail_answered(&self) -> bool {
        self.mail != Mail::Unanswered
    }

    /// DATA got its 354.
    pub(super) fn may_send_content(&self) -> bool {
        self.go
    }

    /// The receiver may still think a transaction open.
    pub(super) fn needs_reset(&self) -> bool {
        self.mail == Mail::Accepted && !self.content_answered
    }

    /// After how many recipients it said "too many".
    pub(super) fn too_many_after(&self) -> Option<usize> {
        self.too_many_after
    }

    /// One per recipient.
    pub(super) fn into_outcomes(self) -> Vec<Option<Outcome>> {
        self.outcomes
    }
}
