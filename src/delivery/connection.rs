//! An open session: transactions on it, rest between them, leave at the end.

mod dialogue;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::capabilities::Capabilities;
use super::client::Shared;
use super::link::Link;
use super::reply::TEXT_MAX;
use super::transaction::{self, Job, Tally, Timings, Transaction};
use super::wire::{Broken, Io, Wire};
use crate::clock::{Clock, Instant};
use crate::mail::{Blame, EnhancedCode, Failure, Outcome, TlsFacts};

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

/// 530 to MAIL: "must issue a STARTTLS command first" (RFC 3207 §4).
fn wants_tls(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Deferred(failure) if failure.reply.code == 530)
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
