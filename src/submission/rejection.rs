//! A submission that is not taken, in terms that every protocol can say.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use crate::mail::{EnhancedCode, Reply};

/// Why a submission was not taken. Nothing of it is kept.
///
/// | kind | SMTP | gRPC | HTTP |
/// |---|---|---|---|
/// | [`Invalid`](RejectionKind::Invalid) | 550 5.6.0 | INVALID_ARGUMENT, field violations | 400 |
/// | [`TooLarge`](RejectionKind::TooLarge) | 552 5.3.4 | INVALID_ARGUMENT | 413 |
/// | [`Unauthenticated`](RejectionKind::Unauthenticated) | 535 5.7.8 | UNAUTHENTICATED | 401 |
/// | [`Forbidden`](RejectionKind::Forbidden) | 550 5.7.1 | PERMISSION_DENIED | 403 |
/// | [`KeyReused`](RejectionKind::KeyReused) | 550 5.7.0 | FAILED_PRECONDITION | 409 |
/// | [`NotFound`](RejectionKind::NotFound) | — | NOT_FOUND | 404 |
/// | [`Quota`](RejectionKind::Quota) | 452 4.7.1 | RESOURCE_EXHAUSTED, retry delay | 429 |
/// | [`Full`](RejectionKind::Full) | 452 4.3.1 | RESOURCE_EXHAUSTED, retry delay | 503 |
/// | [`Trouble`](RejectionKind::Trouble) | 451 4.3.0 | UNAVAILABLE | 503 |
/// | [`Closing`](RejectionKind::Closing) | 421 4.3.2 | UNAVAILABLE | 503 |
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// What sort of reason.
    pub kind: RejectionKind,
    /// The whole reason as one sentence, with its SMTP code.
    pub reply: Reply,
    /// The fields to blame and what is wrong with each; empty when it is not the request's fault.
    pub violations: Vec<Violation>,
    /// When it may be worth trying again; `None`: never as it is, or not known.
    pub retry_after: Option<Duration>,
}

/// What sort of reason there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RejectionKind {
    /// The request is not well-formed or cannot be obeyed.
    Invalid,
    /// Larger than allowed.
    TooLarge,
    /// We do not know who this is.
    Unauthenticated,
    /// We do, and they may not.
    Forbidden,
    /// The idempotency key stands for a different submission.
    KeyReused,
    /// There is no such message, or it is somebody else's.
    NotFound,
    /// The tenant has used up what it may.
    Quota,
    /// The queue, the memory or the disk is full.
    Full,
    /// It could not be stored.
    Trouble,
    /// The daemon is shutting down.
    Closing,
}

impl RejectionKind {
    /// The `reason` label of metrics, the same for gRPC and HTTP.
    pub fn label(self) -> &'static str {
        match self {
            RejectionKind::Invalid => "invalid",
            RejectionKind::TooLarge => "size",
            RejectionKind::Unauthenticated => "unauthenticated",
            RejectionKind::Forbidden => "forbidden",
            RejectionKind::KeyReused => "key_reused",
            RejectionKind::NotFound => "not_found",
            RejectionKind::Quota => "quota",
            RejectionKind::Full => "full",
            RejectionKind::Trouble => "trouble",
            RejectionKind::Closing => "closing",
        }
    }
}

/// A field of a request and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Its path, as `message.to[3]`.
    pub field: Cow<'static, str>,
    /// What is wrong and what would be right.
    pub why: Cow<'static, str>,
}

/// When to try again if we cannot know: memory and disk come back within seconds or not soon.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// Longest path of a field, and longest word on what is wrong with it, in octets.
const TEXT_MAX: usize = 200;

impl Rejection {
    fn new(kind: RejectionKind, code: u16, enhanced: (u8, u16, u16), why: impl Into<Cow<'static, str>>) -> Rejection {
        let reply = Reply::ours(code, EnhancedCode(enhanced.0, enhanced.1, enhanced.2), why);
        Rejection { kind, reply, violations: Vec::new(), retry_after: None }
    }

    /// About what it takes in memory.
    pub fn octets(&self) -> usize {
        let violations = self.violations.iter();
        let violations = violations.map(|one| size_of::<Violation>() + one.field.len() + one.why.len());
        size_of::<Rejection>() + self.reply.text.len() + violations.sum::<usize>()
    }

    /// A field is wrong.
    pub fn invalid(field: impl Into<Cow<'static, str>>, why: impl Into<Cow<'static, str>>) -> Rejection {
        Rejection::violations(vec![Violation { field: field.into(), why: why.into() }])
    }

    /// Fields are wrong; at least one.
    pub fn violations(mut violations: Vec<Violation>) -> Rejection {
        violations.iter_mut().for_each(Violation::shorten);
        let why = violations.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        Rejection { violations, ..Rejection::new(RejectionKind::Invalid, 550, (5, 6, 0), why) }
    }

    /// It is larger than allowed.
    pub fn too_large(why: impl Into<Cow<'static, str>>) -> Rejection {
        Rejection::new(RejectionKind::TooLarge, 552, (5, 3, 4), why)
    }

    /// We do not know who this is. `why` never tells whether the name or the secret was wrong.
    pub fn unauthenticated(why: impl Into<Cow<'static, str>>) -> Rejection {
        Rejection::new(RejectionKind::Unauthenticated, 535, (5, 7, 8), why)
    }

    /// The client may not do that.
    pub fn forbidden(field: impl Into<Cow<'static, str>>, why: impl Into<Cow<'static, str>>) -> Rejection {
        let mut violation = Violation { field: field.into(), why: why.into() };
        violation.shorten();
        let text = violation.to_string();
        Rejection { violations: vec![violation], ..Rejection::new(RejectionKind::Forbidden, 550, (5, 7, 1), text) }
    }

    /// The idempotency key stands for something else.
    pub fn key_reused() -> Rejection {
        let why = "this idempotency key was used for a different message";
        Rejection::new(RejectionKind::KeyReused, 550, (5, 7, 0), why)
    }

    /// There is no such message, or none that this client may see.
    pub fn not_found(why: impl Into<Cow<'static, str>>) -> Rejection {
        Rejection::new(RejectionKind::NotFound, 550, (5, 1, 0), why)
    }

    /// The tenant has used up what it may; worth trying after `retry_after`.
    pub fn quota(why: impl Into<Cow<'static, str>>, retry_after: Option<Duration>) -> Rejection {
        Rejection { retry_after, ..Rejection::new(RejectionKind::Quota, 452, (4, 7, 1), why) }
    }

    /// There is no room.
    pub fn full(why: impl Into<Cow<'static, str>>) -> Rejection {
        Rejection { retry_after: Some(TRY_AGAIN), ..Rejection::new(RejectionKind::Full, 452, (4, 3, 1), why) }
    }

    /// It could not be done, for reasons of our own.
    pub fn trouble(why: impl Into<Cow<'static, str>>) -> Rejection {
        Rejection { retry_after: Some(TRY_AGAIN), ..Rejection::new(RejectionKind::Trouble, 451, (4, 3, 0), why) }
    }

    /// The daemon is shutting down.
    pub fn closing() -> Rejection {
        let why = "shutting down, try again later";
        Rejection { retry_after: Some(TRY_AGAIN), ..Rejection::new(RejectionKind::Closing, 421, (4, 3, 2), why) }
    }

    /// What the queue says when it takes nothing: one of the last three kinds.
    pub fn from_queue(reply: Reply) -> Rejection {
        let kind = match reply.code {
            421 => RejectionKind::Closing,
            452 => RejectionKind::Full,
            _ => RejectionKind::Trouble,
        };
        Rejection { kind, reply, violations: Vec::new(), retry_after: Some(TRY_AGAIN) }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reply.fmt(f)
    }
}

impl std::error::Error for Rejection {}

impl Violation {
    /// What repeats a client's words must not be as long as they are.
    fn shorten(&mut self) {
        for text in [&mut self.field, &mut self.why] {
            if text.len() > TEXT_MAX {
                let mut short = text[..text.floor_char_boundary(TEXT_MAX)].to_owned();
                short.push('\u{2026}');
                *text = short.into();
            }
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_words_are_cut() {
        let long = "\u{fc}".repeat(1 << 20);
        for rejection in [Rejection::invalid(long.clone(), long.clone()), Rejection::forbidden("tenant", long.clone())]
        {
            assert!(rejection.reply.text.len() < 500 && rejection.violations[0].why.ends_with("\u{fc}\u{2026}"));
        }
        assert_eq!(Rejection::invalid("a", "b").violations[0].to_string(), "a: b");
    }
}
