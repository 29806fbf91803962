//! What a reply means for those it is about. One table, nothing else.

use crate::mail::{Blame, EnhancedCode};

/// What a reply answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Reset,
    Mail,
    Rcpt,
    Data,
    /// The dot.
    End,
    /// The last, and only, chunk.
    Bdat,
}

impl Step {
    /// As outcomes name it.
    pub(super) fn command(self) -> &'static str {
        match self {
            Step::Reset => "RSET",
            Step::Mail => "MAIL",
            Step::Rcpt => "RCPT",
            Step::Data => "DATA",
            Step::End => ".",
            Step::Bdat => "BDAT",
        }
    }
}

/// What the judge knows beside the reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Situation {
    /// Recipients accepted in this transaction so far.
    pub(super) accepted: usize,
    /// Nothing was sent on this connection before.
    pub(super) first_transaction: bool,
}

/// What a reply means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Yes. After the content: delivered.
    Accepted,
    /// 354: send the content.
    Go,
    /// Not now. For MAIL, DATA and the content it concerns all recipients.
    Deferred(Blame),
    /// No.
    Failed(Blame),
    /// The transaction is full; this recipient belongs into the next.
    NextTransaction,
    /// BDAT was offered but is not understood; the same by DATA, over another connection.
    NoChunking,
    /// 421: the connection ends; those without verdict go elsewhere.
    Closing,
    /// No answer to this command; the session is out of step.
    Unexpected,
}

/// Judges one reply.
///
/// Blame stays simple: a reply to RCPT is about the recipient, one to the content about the message. A MAIL put off is
/// nearly always a limit or the receiver's load, hence the site's; a MAIL refused is about the sender address unless
/// the code says policy (X.7.Y), which is the site's view of us.
pub(super) fn judge(step: Step, code: u16, enhanced: Option<EnhancedCode>, situation: Situation) -> Verdict {
    if code == 421 {
        return Verdict::Closing;
    }
    match (step, code) {
        (Step::Reset, 200..=299) => Verdict::Accepted,
        (Step::Reset, _) => Verdict::Unexpected,

        (Step::Mail, 200..=299) => Verdict::Accepted,
        (Step::Mail, 400..=499) => Verdict::Deferred(Blame::Site),
        // On a connection in use, "bad sequence" means that the two of us disagree where we are. On a fresh one it
        // means "AUTH first" at some servers, which is a refusal as any other.
        (Step::Mail, 503) if !situation.first_transaction => Verdict::Unexpected,
        // "Must issue a STARTTLS command first" (RFC 3207 §4), or AUTH: about our session, not about the message. We may
        // be in the clear because of one handshake that broke.
        (Step::Mail, 530) => Verdict::Deferred(Blame::EgressPath),
        (Step::Mail, 500..=599) if subject(enhanced) == Some(7) => Verdict::Failed(Blame::Site),
        (Step::Mail, 500..=599) => Verdict::Failed(Blame::Message),

        // MAIL was accepted, so the sequence is right: whoever calls it wrong (a proxy, a server that lost its state) is
        // out of step, and says nothing about the recipient.
        (Step::Rcpt | Step::Data, 503) => Verdict::Unexpected,
        (Step::Rcpt, 200..=299) => Verdict::Accepted,
        (Step::Rcpt, 452 | 552) => too_many(code, enhanced, situation.accepted),
        (Step::Rcpt, 400..=499) => Verdict::Deferred(Blame::Recipient),
        (Step::Rcpt, 500..=599) => Verdict::Failed(Blame::Recipient),

        (Step::Data, 354) => Verdict::Go,
        (Step::Data, 400..=499) => Verdict::Deferred(Blame::Site),
        (Step::Data, 500..=599) => Verdict::Failed(Blame::Message),

        (Step::End | Step::Bdat, 200..=299) => Verdict::Accepted,
        (Step::End | Step::Bdat, 400..=499) => Verdict::Deferred(Blame::Message),
        // Recipients were accepted, so the sequence is right: the server (or a box before it) offers what it cannot.
        (Step::Bdat, 500..=504) => Verdict::NoChunking,
        (Step::End | Step::Bdat, 500..=599) => Verdict::Failed(Blame::Message),

        (Step::Mail | Step::Rcpt | Step::Data | Step::End | Step::Bdat, _) => Verdict::Unexpected,
    }
}

/// 452 and 552 to RCPT: RFC 5321 §4.5.3.1.10 gives "too many recipients" the code 452, says that 552 was once used for
/// it, and that a client should treat 552 as 452. The enhanced code tells full mailboxes and full disks apart. Without
/// progress in this transaction there is no next one, or a server that takes nobody would be asked for ever.
fn too_many(code: u16, enhanced: Option<EnhancedCode>, accepted: usize) -> Verdict {
    match (code, enhanced) {
        (_, Some(EnhancedCode(_, 5, 3)) | None) if accepted > 0 => Verdict::NextTransaction,
        (552, Some(EnhancedCode(5, subject, _))) if subject != 5 => Verdict::Failed(Blame::Recipient),
        (452, Some(EnhancedCode(4, 3, 1))) => Verdict::Deferred(Blame::Site),
        _ => Verdict::Deferred(Blame::Recipient),
    }
}

fn subject(enhanced: Option<EnhancedCode>) -> Option<u16> {
    enhanced.map(|code| code.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: [Step; 6] = [Step::Reset, Step::Mail, Step::Rcpt, Step::Data, Step::End, Step::Bdat];

    fn show(step: Step, reply: &str, accepted: usize, first_transaction: bool) -> String {
        let (code, enhanced) = reply.split_once(' ').map_or((reply, None), |(c, e)| (c, e.parse().ok()));
        let situation = Situation { accepted, first_transaction };
        format!("{:?}", judge(step, code.parse().expect("a code"), enhanced, situation))
    }

    #[test]
    fn every_step_times_every_class() {
        let table: Vec<String> = ["250", "354", "450", "550"]
            .iter()
            .map(|reply| {
                let row: Vec<String> = STEPS.iter().map(|step| show(*step, reply, 1, true)).collect();
                format!("{reply}: {}", row.join(", "))
            })
            .collect();
        let expected = [
            "250: Accepted, Accepted, Accepted, Unexpected, Accepted, Accepted",
            "354: Unexpected, Unexpected, Unexpected, Go, Unexpected, Unexpected",
            "450: Unexpected, Deferred(Site), Deferred(Recipient), Deferred(Site), Deferred(Message), Deferred(Message)",
            "550: Unexpected, Failed(Message), Failed(Recipient), Failed(Message), Failed(Message), Failed(Message)",
        ];
        assert_eq!(table, expected);
        for step in STEPS {
            assert_eq!(show(step, "421 4.7.0", 0, false), "Closing");
        }
    }

    #[test]
    fn codes_with_a_meaning_of_their_own() {
        for (step, reply, accepted, first, expected) in [
            (Step::Mail, "550 5.7.1", 0, true, "Failed(Site)"),
            (Step::Mail, "552 5.3.4", 0, true, "Failed(Message)"),
            (Step::Mail, "503 5.5.1", 0, true, "Failed(Message)"),
            (Step::Mail, "503 5.5.1", 0, false, "Unexpected"),
            (Step::Rcpt, "251", 0, true, "Accepted"),
            (Step::Rcpt, "252", 0, true, "Accepted"),
            (Step::Rcpt, "452 4.5.3", 1, true, "NextTransaction"),
            (Step::Rcpt, "452 4.5.3", 0, true, "Deferred(Recipient)"),
            (Step::Rcpt, "452", 1, true, "NextTransaction"),
            (Step::Rcpt, "452", 0, true, "Deferred(Recipient)"),
            (Step::Rcpt, "452 4.2.2", 1, true, "Deferred(Recipient)"),
            (Step::Rcpt, "452 4.3.1", 1, true, "Deferred(Site)"),
            (Step::Rcpt, "552", 1, true, "NextTransaction"),
            (Step::Rcpt, "552", 0, true, "Deferred(Recipient)"),
            (Step::Rcpt, "552 5.5.3", 1, true, "NextTransaction"),
            (Step::Rcpt, "552 5.5.3", 0, true, "Deferred(Recipient)"),
            (Step::Rcpt, "552 5.2.2", 1, true, "Failed(Recipient)"),
            (Step::Bdat, "500", 1, true, "NoChunking"),
            (Step::Bdat, "503 5.5.1", 1, true, "NoChunking"),
            (Step::Bdat, "552 5.3.4", 1, true, "Failed(Message)"),
            (Step::End, "503", 1, true, "Failed(Message)"),
        ] {
            assert_eq!(show(step, reply, accepted, first), expected, "{step:?} {reply} {accepted}");
        }
    }
}
