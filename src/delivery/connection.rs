//! An open session: transactions on it, rest between them, leave at the end.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::capabilities::Capabilities;
use super::client::Shared;
use super::data::Outbox;
use super::link::Link;
use super::reply::{Garbage, TEXT_MAX};
use super::transaction::{self, Job, Tally, Timings, Transaction};
use super::verdict::Step;
use super::wire::{Broken, Io, Wire};
use crate::clock::{Clock, Instant};
use crate::config::TimeoutConfig;
use crate::mail::{Blame, EnhancedCode, Failure, Outcome, TlsFacts};

/// Larger content is sent only after the receiver accepted somebody: one round trip is then cheap beside content sent
/// for nothing.
const ONE_FLIGHT_MAX: u64 = 1 << 20;

/// How long leave may take.
const QUIT_LIMIT: Duration = Duration::from_secs(3);

/// An open session with a receiver, fit for one transaction after the other.
#[derive(Debug)]
pub struct Connection<S = Link> {
    wire: Wire<S>,
    capabilities: Capabilities,
    facts: SessionFacts,
    shared: Arc<Shared>,
    /// Commands under way; kept so that it is allocated once.
    commands: Vec<u8>,
    usable: bool,
    needs_reset: bool,
    transactions: u64,
}

impl SessionFacts {
    /// Whether the receiver's EHLO had this keyword.
    pub fn offers(&self, keyword: &str) -> bool {
        self.capabilities.split(' ').any(|offered| offered.eq_ignore_ascii_case(keyword))
    }
}

/// What is known about a session, for events and logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionFacts {
    /// The receiver as routing named it.
    pub host: String,
    /// Its address.
    pub address: SocketAddr,
    /// Our source, by name.
    pub source: Arc<str>,
    /// The address it sends from: with a proxy the proxy's, if that is known.
    pub source_address: Option<IpAddr>,
    /// The TLS in use.
    pub tls: Option<TlsFacts>,
    /// The text of its greeting.
    pub greeting: String,
    /// What it says it can do, as EHLO keywords: `PIPELINING CHUNKING`.
    pub capabilities: String,
    /// TCP, greeting and EHLO.
    pub connect: Duration,
    /// STARTTLS and handshake; zero in the clear.
    pub handshake: Duration,
}

/// Where a transaction's time went, as instants.
#[derive(Debug)]
struct Stopwatch {
    start: Instant,
    envelope_end: Option<Instant>,
    content_start: Option<Instant>,
    content_end: Option<Instant>,
}

impl<S: Io> Connection<S> {
    pub(super) fn new(
        wire: Wire<S>,
        capabilities: Capabilities,
        facts: SessionFacts,
        shared: Arc<Shared>,
    ) -> Connection<S> {
        Connection {
            wire,
            capabilities,
            facts,
            shared,
            commands: Vec::with_capacity(512),
            usable: true,
            needs_reset: false,
            transactions: 0,
        }
    }

    /// What is known about the session.
    pub fn facts(&self) -> &SessionFacts {
        &self.facts
    }

    /// Whether another transaction may be tried. False after 421, a drop, a time-out or nonsense, and while
    /// [`Connection::deliver`] is under way.
    pub fn is_usable(&self) -> bool {
        self.usable
    }

    /// Most recipients the receiver takes in one transaction, as far as known (RFC 9422, or learned from its 452).
    pub fn recipients_max(&self) -> Option<usize> {
        self.capabilities.recipients_max
    }

    /// Carries one message to some recipients: one transaction. Never fails as a whole; see [`Transaction`].
    ///
    /// # Cancel safety
    /// Not safe: a dropped transaction leaves the session unusable, and nobody knows what became of the message.
    pub async fn deliver(&mut self, job: &Job<'_>) -> Transaction {
        let recipients = job.recipients.len();
        if recipients == 0 {
            return Transaction::unsaid(0, None, None);
        }
        if !self.usable {
            let failure = Failure::ours(Blame::EgressPath, EnhancedCode(4, 4, 2), "the session had ended already");
            return Transaction::unsaid(recipients, None, Some(failure));
        }
        if let Some(failure) = transaction::refusal(job, &self.capabilities) {
            return Transaction::unsaid(recipients, Some(Outcome::Failed(failure)), None);
        }
        self.usable = false;
        let start = Clock.instant();
        let mut watch = Stopwatch { start, envelope_end: None, content_start: None, content_end: None };
        let mut tally = Tally::new(recipients, self.transactions == 0);
        self.transactions += 1;
        let ended = self.converse(job, &mut tally, &mut watch).await;
        let end = Clock.instant();
        let (session_failure, content_unanswered) = match ended {
            Ok(resumable) => {
                self.usable = resumable;
                self.needs_reset = tally.needs_reset();
                (None, false)
            }
            Err(broken) => self.end_broken(broken, &mut tally, &watch),
        };
        self.learn_limit(&tally);
        let timings = watch.timings(end);
        self.shared.stages.data.observe((timings.data + timings.reply).as_secs_f64());
        let outcomes = tally.into_outcomes();
        if self.facts.tls.is_none() && outcomes.iter().flatten().any(wants_tls) {
            // The next session tries STARTTLS again, whatever was noted before.
            let host = self.shared.host_key(&self.facts.host, self.facts.address);
            self.shared.memory().forget_tls_broken(&host, end);
            self.usable = false;
        }
        Transaction { outcomes, session_failure, timings, content_unanswered }
    }

    /// Ends when the peer closes or says something while nothing was asked; the session is then not usable. A TLS
    /// session ticket is nothing said.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn idle(&mut self) {
        if self.usable && self.wire.replies.is_empty() {
            self.wire.advance(None).await;
        }
        self.usable = false;
    }

    /// Takes leave (RFC 5321 §4.1.1.10) and closes; takes three seconds at most.
    pub async fn quit(mut self) {
        let leave = async {
            if self.usable {
                let _ = self.wire.command(b"QUIT\r\n", "QUIT", QUIT_LIMIT, TEXT_MAX).await;
            }
            let _ = self.wire.stream.shutdown().await;
        };
        let _ = timeout(QUIT_LIMIT, leave).await;
    }

    /// The whole dialogue. `Ok(false)`: all is said, but the session must not be used again.
    async fn converse(&mut self, job: &Job<'_>, tally: &mut Tally, watch: &mut Stopwatch) -> Result<bool, Broken> {
        if !self.wire.replies.is_empty() {
            return Err(self.out_of_turn().await);
        }
        let limit = self.capabilities.recipients_max.unwrap_or(usize::MAX);
        let asked = job.recipients.len().min(limit);
        match self.capabilities.pipelining {
            true => self.pipelined(job, asked, tally, watch).await,
            false => self.lockstep(job, asked, tally, watch).await,
        }
    }

    /// Envelope in one flight (RFC 2920), with the content in the same if the receiver can CHUNKING (RFC 3030).
    async fn pipelined(
        &mut self,
        job: &Job<'_>,
        asked: usize,
        tally: &mut Tally,
        watch: &mut Stopwatch,
    ) -> Result<bool, Broken> {
        let chunking = self.capabilities.chunking;
        let together = chunking && job.size() <= ONE_FLIGHT_MAX;
        let reset = self.needs_reset.then_some(Step::Reset);
        self.commands.clear();
        if reset.is_some() {
            self.commands.extend_from_slice(b"RSET\r\n");
        }
        transaction::push_mail(&mut self.commands, job, &self.capabilities);
        for recipient in &job.recipients[..asked] {
            transaction::push_rcpt(&mut self.commands, recipient, &self.capabilities);
        }
        let envelope = reset.into_iter().chain([Step::Mail]).chain(std::iter::repeat_n(Step::Rcpt, asked));
        if together {
            transaction::push(&mut self.commands, format_args!("BDAT {} LAST\r\n", job.size()));
            let mut out = Outbox::plain(&[&self.commands, job.signature, job.content]);
            watch.content_start = Some(watch.start);
            return self.wire.flight(&mut out, envelope.chain([Step::Bdat]), &self.shared, tally, watch).await;
        }
        let data = (!chunking).then_some(Step::Data);
        if data.is_some() {
            self.commands.extend_from_slice(b"DATA\r\n");
        }
        {
            let mut out = Outbox::plain(&[&self.commands]);
            let in_step = self.wire.flight(&mut out, envelope.chain(data), &self.shared, tally, watch).await?;
            let last = if chunking { Step::Rcpt } else { Step::Data };
            in_step.then_some(()).ok_or_else(|| answered_unasked(last))?;
        }
        self.content(job, chunking, tally, watch).await
    }

    /// One command at a time.
    async fn lockstep(
        &mut self,
        job: &Job<'_>,
        asked: usize,
        tally: &mut Tally,
        watch: &mut Stopwatch,
    ) -> Result<bool, Broken> {
        if self.needs_reset {
            self.single(Step::Reset, tally, watch, |commands, _| commands.extend_from_slice(b"RSET\r\n")).await?;
        }
        self.single(Step::Mail, tally, watch, |commands, caps| transaction::push_mail(commands, job, caps)).await?;
        if tally.mail_refused() {
            return Ok(true);
        }
        for recipient in &job.recipients[..asked] {
            self.single(Step::Rcpt, tally, watch, |commands, caps| transaction::push_rcpt(commands, recipient, caps))
                .await?;
        }
        let chunking = self.capabilities.chunking;
        if tally.anyone_standing() && !chunking {
            self.single(Step::Data, tally, watch, |commands, _| commands.extend_from_slice(b"DATA\r\n")).await?;
        }
        self.content(job, chunking, tally, watch).await
    }

    async fn single(
        &mut self,
        step: Step,
        tally: &mut Tally,
        watch: &mut Stopwatch,
        compose: impl FnOnce(&mut Vec<u8>, &Capabilities),
    ) -> Result<(), Broken> {
        self.commands.clear();
        compose(&mut self.commands, &self.capabilities);
        let mut out = Outbox::plain(&[&self.commands]);
        let in_step = self.wire.flight(&mut out, [step].into_iter(), &self.shared, tally, watch).await?;
        in_step.then_some(()).ok_or_else(|| answered_unasked(step))
    }

    /// The content by itself, after the envelope was answered.
    async fn content(
        &mut self,
        job: &Job<'_>,
        chunking: bool,
        tally: &mut Tally,
        watch: &mut Stopwatch,
    ) -> Result<bool, Broken> {
        let wanted = tally.anyone_standing();
        if chunking {
            if !wanted {
                return Ok(true);
            }
            self.commands.clear();
            transaction::push(&mut self.commands, format_args!("BDAT {} LAST\r\n", job.size()));
            let mut out = Outbox::plain(&[&self.commands, job.signature, job.content]);
            watch.content_start = Some(Clock.instant());
            return self.wire.flight(&mut out, [Step::Bdat].into_iter(), &self.shared, tally, watch).await;
        }
        if !tally.may_send_content() {
            return Ok(true);
        }
        // A 354 although nobody was accepted: RFC 2920 §3.1 wants the dot alone.
        let mut out = match wanted {
            true => Outbox::stuffed(job.signature, job.content),
            false => Outbox::plain(&[b".\r\n"]),
        };
        watch.content_start = wanted.then(|| Clock.instant());
        self.wire.flight(&mut out, [Step::End].into_iter(), &self.shared, tally, watch).await
    }

    /// The peer spoke before it was asked: most often a 421 on its way out.
    async fn out_of_turn(&mut self) -> Broken {
        let mut nothing = Outbox::plain(&[]);
        let limit = Duration::from_secs(1);
        match self.wire.answer(&mut nothing, "IDLE", limit, limit, TEXT_MAX).await {
            Ok(reply) if reply.code == 421 => Broken::Closing { command: "IDLE", reply: reply.to_reply() },
            Ok(_) => Broken::Garbage { command: "IDLE", garbage: Garbage::OutOfTurn },
            Err(broken) => broken,
        }
    }

    /// What a broken session leaves: who was accepted and got the whole content is deferred, everyone else is told
    /// nothing; and the host's extensions come under suspicion where they may be to blame.
    fn end_broken(&mut self, broken: Broken, tally: &mut Tally, watch: &Stopwatch) -> (Option<Failure>, bool) {
        self.shared.session_failed("session");
        let sent = watch.content_end.is_some();
        // RCPT was answered with yes, the content left us whole, and what came was no answer to it: it may have been
        // taken. (Without an answer to RCPT it was not: servers answer in order, RFC 2920 §3.2.) 421 and a refused
        // BDAT are answers: it was not taken.
        let answered = matches!(broken, Broken::Closing { .. } | Broken::NoChunking { .. });
        let unanswered = sent && !answered && tally.anyone_standing();
        self.suspect(&broken, tally, unanswered);
        let failure = broken.into_failure();
        if unanswered {
            self.shared.metrics.unanswered_content.inc();
            let text = format!("the content was sent and not answered: {}", failure.reply.text);
            tally.settle_unanswered(&Failure::ours(Blame::EgressPath, EnhancedCode(4, 4, 2), text));
        }
        (Some(failure), unanswered)
    }

    fn suspect(&mut self, broken: &Broken, tally: &Tally, unanswered: bool) {
        let now = Clock.instant();
        let host = self.shared.host_key(&self.facts.host, self.facts.address);
        let mut memory = self.shared.memory();
        let in_envelope = tally.mail_answered() && matches!(broken.command(), "RCPT" | "DATA");
        match broken {
            Broken::NoChunking { .. } => memory.note_no_chunking(&host, now),
            Broken::Silent { .. } | Broken::Garbage { .. } if self.capabilities.pipelining && in_envelope => {
                memory.note_no_pipelining(&host, now);
            }
            // Boxes in between that pass CHUNKING on and swallow BDAT are known; the retry will show.
            Broken::Silent { .. } | Broken::Stuck { .. } if self.capabilities.chunking && unanswered => {
                memory.note_no_chunking(&host, now);
            }
            Broken::Closed { .. }
            | Broken::Silent { .. }
            | Broken::Stuck { .. }
            | Broken::Lost { .. }
            | Broken::Garbage { .. }
            | Broken::Closing { .. } => {}
        }
    }

    fn learn_limit(&mut self, tally: &Tally) {
        if let Some(max) = tally.too_many_after().filter(|max| *max > 0) {
            self.capabilities.recipients_max = Some(max);
            let host = self.shared.host_key(&self.facts.host, self.facts.address);
            self.shared.memory().note_recipients_max(&host, max, Clock.instant());
        }
    }
}

impl<S: Io> Wire<S> {
    /// Writes `out` and takes the replies to `steps`, in order. `Ok(false)`: the last reply came before all was
    /// written, so the session is out of step.
    async fn flight(
        &mut self,
        out: &mut Outbox<'_>,
        steps: impl Iterator<Item = Step>,
        shared: &Shared,
        tally: &mut Tally,
        watch: &mut Stopwatch,
    ) -> Result<bool, Broken> {
        let timeouts = &shared.timeouts;
        let mut result = Ok(true);
        for step in steps {
            let limit = time_for(step, timeouts);
            let answer = self.answer(out, step.command(), timeouts.data_block, limit, TEXT_MAX).await;
            let sent = out.is_sent();
            let taken = answer.and_then(|reply| match reply.code {
                // Nobody can have taken what we have not finished sending.
                200..=299 if !sent && matches!(step, Step::End | Step::Bdat) => Err(answered_unasked(step)),
                _ => tally.take(step, reply),
            });
            if let Err(broken) = taken {
                result = Err(broken);
                break;
            }
            if step == Step::Rcpt {
                watch.envelope_end = Some(Clock.instant());
            }
        }
        // Also when it broke: whether the content left us whole decides what the break means.
        if watch.content_start.is_some() {
            watch.content_end = out.sent_at();
        }
        result.map(|_| out.is_sent())
    }
}

/// 530 to MAIL: "must issue a STARTTLS command first" (RFC 3207 §4).
fn wants_tls(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Deferred(failure) if failure.reply.code == 530)
}

/// A reply to a command that has not left us whole. Went we on, content would come where the receiver waits for commands.
fn answered_unasked(step: Step) -> Broken {
    Broken::Garbage { command: step.command(), garbage: Garbage::OutOfTurn }
}

/// RFC 5321 §4.5.3.2.
fn time_for(step: Step, timeouts: &TimeoutConfig) -> Duration {
    match step {
        Step::Reset => timeouts.ehlo,
        Step::Mail | Step::Rcpt => timeouts.envelope,
        Step::Data => timeouts.data_start,
        Step::End | Step::Bdat => timeouts.data_end,
    }
}

impl Stopwatch {
    fn timings(&self, end: Instant) -> Timings {
        let content = self.content_start.zip(self.content_end);
        Timings {
            envelope: self.envelope_end.unwrap_or(end) - self.start,
            data: content.map(|(start, end)| end.saturating_duration_since(start)).unwrap_or_default(),
            reply: self.content_end.map(|sent| end.saturating_duration_since(sent)).unwrap_or_default(),
        }
    }
}
