//! One transaction's dialogue: what is said in which flight, by what the receiver can.

use std::time::Duration;

use super::{Connection, Stopwatch};
use crate::clock::Clock;
use crate::config::TimeoutConfig;
use crate::delivery::capabilities::Capabilities;
use crate::delivery::client::Shared;
use crate::delivery::data::Outbox;
use crate::delivery::reply::{Garbage, TEXT_MAX};
use crate::delivery::transaction::{self, Job, Tally};
use crate::delivery::verdict::Step;
use crate::delivery::wire::{Broken, Io, Wire};

/// Larger content is sent only after the receiver accepted somebody: one round trip is then cheap beside content sent
/// for nothing.
const ONE_FLIGHT_MAX: u64 = 1 << 20;

impl<S: Io> Connection<S> {
    /// The whole dialogue. `Ok(false)`: all is said, but the session must not be used again.
    pub(super) async fn converse(
        &mut self,
        job: &Job<'_>,
        tally: &mut Tally,
        watch: &mut Stopwatch,
    ) -> Result<bool, Broken> {
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
