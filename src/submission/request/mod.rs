//! What an API request asks, whatever protocol it came by, and how it becomes messages for the door.
//!
//! The promise: either every field was understood and obeyed, or all that are wrong are named at once and nothing is kept.
//!
//! 1. A door (`http`, `grpc`) fills in a [`Request`] (`asked.rs`) with the texts as they came.
//! 2. [`prepare`] reads the envelope (`envelope.rs`): addresses, times, words, by the same rules as the `X-Posthaste-`
//!    fields of SMTP ([`options`](super::options)).
//! 3. The content is either checked as SMTP would check it (`raw.rs`) or built from parts (`parts.rs`, `fields.rs`), and completed by
//!    [`message`].
//! 4. The result is one message with all recipients, or, for a personal request, one for each, with ids that follow one
//!    another; they stand or fall together.

mod asked;
mod content_type;
mod envelope;
mod fields;
mod parts;
mod raw;
mod said;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

pub use self::asked::{Attachment, Mailbox, Parts, Request, RequestContent, When};
use self::envelope::Envelope;
use self::parts::Built;
use super::door::{Door, Handover, NewMessage};
use super::message::{self, Circumstances, HEADROOM, MessageError};
use super::options::{Asked, OptionError, PREFIX};
use super::received::Received;
use super::rejection::{Rejection, Violation};
use super::ways_back::WaysBack;
use crate::access::Principal;
use crate::clock::Timestamp;
use crate::mail::{self, Domain, EnvelopeAddress, Keyed, MessageId, Recipient, header};

/// What a door knows of a request beside what it says.
#[derive(Debug, Clone)]
pub struct ApiCircumstances<'a> {
    /// On whose behalf.
    pub principal: Arc<Principal>,
    /// Where it came from; `None`: from this machine, over a Unix socket.
    pub client: Option<IpAddr>,
    /// The `with` word of the trace field: `HTTP`, `HTTPS`, `gRPC`.
    pub protocol: &'static str,
    /// Us.
    pub hostname: &'a Domain,
    /// When it came.
    pub now: Timestamp,
    /// Largest message, in octets, header included.
    pub max_message_size: usize,
    /// Most recipients.
    pub recipients_max: usize,
    /// The copies of a personal request take at most this many octets together.
    pub memory_max: usize,
    /// What the door calls the fields of [`RequestContent`].
    pub names: ContentNames,
}

/// How violations name content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentNames {
    /// A whole message: `raw`.
    pub raw: &'static str,
    /// What stands in front of the fields of [`Parts`]: empty, or `parts.`.
    pub parts: &'static str,
}

/// Most wrong fields named in one answer.
const VIOLATIONS_MAX: usize = 50;

/// Most octets of personal copies, whatever `memory_max`. They are queued for the log as one, and it queues 64 MiB
/// ([`LogOptions`](crate::log::LogOptions)): more would find room only when nothing else is queued.
const COPIES_MAX: usize = 48 << 20;

/// Makes a request into what the door takes: checks it, builds its content, gives it ids.
///
/// # Errors
/// The request cannot be obeyed. Every field that is wrong is named, as `to[3]` and with a remedy.
pub fn prepare<D: Door>(
    door: &D,
    request: Request,
    circumstances: &ApiCircumstances<'_>,
) -> Result<Handover, Rejection> {
    prepare_within(door, request, circumstances, |_| true)
}

/// The same where personal copies are accounted: `take` is asked for the octets of all of them before the first is made,
/// and says whether they may be had. What it gave is not given back when the request is refused after all.
///
/// # Errors
/// As for [`prepare`]; or there is no memory for the copies now.
pub fn prepare_within<D: Door>(
    door: &D,
    request: Request,
    circumstances: &ApiCircumstances<'_>,
    take: impl FnOnce(usize) -> bool,
) -> Result<Handover, Rejection> {
    let mut violations = Violations::default();
    let mut content = Content::read(&request.content, circumstances, &mut violations)?;
    let expire_after = door.expire_after();
    let mut envelope = Envelope::read(&request, content.raw(), expire_after, circumstances, &mut violations);
    said_twice(&request, content.raw(), circumstances.names.raw, &mut violations);
    // With a key and nothing else wrong, this may be a repetition of what was good then; the gate finds out.
    if let Some(why) = envelope.overdue.clone()
        && (envelope.key.is_none() || !violations.0.is_empty())
    {
        violations.add("expires_at", why);
    }
    if !violations.0.is_empty() {
        return Err(Rejection::violations(violations.0));
    }
    let copies = if request.personal { envelope.recipients.len() } else { 1 };
    room_for(copies, content.octets(), circumstances)?;
    if copies > 1 && !take(copies * content.octets()) {
        return Err(Rejection::full("no memory for all personal copies now, try again later"));
    }

    let own = circumstances.principal.tenant.as_ref().map(|tenant| tenant.name.as_str());
    let keyed = envelope.key.take().map(|key| {
        let fingerprint = said::print(&request, &envelope, content.raw(), own);
        Box::new(Keyed::new(key, fingerprint, copies as u32))
    });
    let first = door.next_ids(copies as u32);
    let ways_back = door.ways_back();
    let making = Making { request: &request, envelope: &envelope, expire_after, ways_back, circumstances };
    let mut messages: SmallVec<[NewMessage; 1]> = SmallVec::with_capacity(copies);
    let mut overdue = envelope.overdue.clone().map(|why| Box::new(Rejection::invalid("expires_at", why)));
    for copy in 0..copies {
        let only = request.personal.then(|| &envelope.recipients[copy]);
        let built = content.copy(only.map(|recipient| &recipient.address), copy + 1 == copies);
        let (message, wrong) = making.message(MessageId(first.0 + copy as u64), only, built)?;
        messages.push(message);
        overdue =
            overdue.or(wrong.map(|error| Box::new(Rejection::invalid(circumstances.names.raw, error.to_string()))));
    }
    match overdue {
        Some(overdue) if keyed.is_none() => Err(*overdue),
        overdue => {
            messages[0].envelope.key = keyed;
            Ok(Handover { principal: Arc::clone(&circumstances.principal), messages, overdue, client: None })
        }
    }
}

/// The content of a request, checked.
enum Content {
    /// Behind headroom.
    Raw(Vec<u8>),
    Built(Built),
}

impl Content {
    fn read(
        content: &RequestContent,
        circumstances: &ApiCircumstances<'_>,
        violations: &mut Violations,
    ) -> Result<Content, Rejection> {
        match content {
            RequestContent::Raw(raw) => {
                size_allowed(raw.len(), circumstances)?;
                let read = raw::read(raw).unwrap_or_else(|error| {
                    violations.add(circumstances.names.raw, error.to_string());
                    vec![0; HEADROOM]
                });
                Ok(Content::Raw(read))
            }
            RequestContent::Parts(parts) => {
                Ok(Content::Built(Built::read(parts, circumstances.names.parts, violations)))
            }
        }
    }

    /// The octets of a raw message.
    fn raw(&self) -> &[u8] {
        match self {
            Content::Raw(buffer) => &buffer[HEADROOM..],
            Content::Built(_) => &[],
        }
    }

    /// About what each copy takes.
    fn octets(&self) -> usize {
        match self {
            Content::Raw(buffer) => buffer.len(),
            Content::Built(built) => HEADROOM + built.octets(),
        }
    }

    /// A copy of its own behind headroom, and whether an address in its header needs SMTPUTF8. The last one of a raw
    /// message, mostly the only one, is no copy: nothing may be asked of it after.
    fn copy(&mut self, only: Option<&EnvelopeAddress>, last: bool) -> (Vec<u8>, bool) {
        match self {
            Content::Raw(buffer) if last => (std::mem::take(buffer), false),
            Content::Raw(buffer) => (buffer.clone(), false),
            Content::Built(built) => built.message(only),
        }
    }
}

/// What all copies of a request share.
struct Making<'a> {
    request: &'a Request,
    envelope: &'a Envelope,
    expire_after: Duration,
    ways_back: Option<Arc<WaysBack>>,
    circumstances: &'a ApiCircumstances<'a>,
}

impl Making<'_> {
    /// One message, for all recipients or `only` for one, of what [`Content::copy`] gave; and what is wrong with its times.
    fn message(
        &self,
        id: MessageId,
        only: Option<&Recipient>,
        (buffer, header_needs): (Vec<u8>, bool),
    ) -> Result<(NewMessage, Option<OptionError>), Rejection> {
        let Making { request, envelope, circumstances, .. } = *self;
        let recipients = only.map_or(envelope.recipients.as_slice(), std::slice::from_ref);
        size_allowed(buffer.len() - HEADROOM, circumstances)?;
        let needs = |address: &EnvelopeAddress| address.needs_smtputf8();
        let smtputf8 = header_needs
            || envelope.reverse_path.address().is_some_and(needs)
            || recipients.iter().any(|recipient| needs(&recipient.address));
        let eight_bit = !buffer.is_ascii();
        let received = Received {
            hello: None,
            client: circumstances.client,
            by: circumstances.hostname,
            protocol: circumstances.protocol,
            id,
            recipient: if let [only] = recipients { Some(&only.address) } else { None },
            at: circumstances.now,
        };
        let reverse_path = &envelope.reverse_path;
        let expire_after = self.expire_after;
        let asked = Asked::default();
        // What it said beside the content is in the fingerprint of the request.
        let said = "";
        let tenant = circumstances.principal.tenant.as_ref().map(|tenant| &*tenant.name);
        let ways_back = self.ways_back.as_deref();
        let known = Circumstances {
            received,
            reverse_path,
            recipients,
            asked,
            said,
            tenant,
            ways_back,
            smtputf8,
            eight_bit,
            expire_after,
        };
        let completed = message::complete_with(buffer, &known, envelope.options.clone())
            .map_err(|error| refused(&error, circumstances.names.raw))?;
        let envelope = mail::Envelope {
            reverse_path: envelope.reverse_path.clone(),
            recipients: recipients.to_vec(),
            stream: completed.stream,
            accepted_at: circumstances.now,
            not_before: completed.not_before,
            expires_at: completed.expires_at,
            delay_report_at: None,
            smtputf8,
            eight_bit,
            ret: request.ret,
            envid: envelope.envid.clone(),
            list: completed.list,
            tags: completed.tags,
            key: completed.key,
        };
        Ok((NewMessage { id, envelope, content: completed.content }, completed.overdue))
    }
}

/// Names each order that is given by the request and by its content.
fn said_twice(request: &Request, content: &[u8], raw: &str, violations: &mut Violations) {
    let given = [
        ("tenant", "Tenant", request.tenant.is_some()),
        ("campaign", "Campaign", request.campaign.is_some()),
        ("list", "List", request.list.is_some()),
        ("class", "Class", request.class.is_some()),
        ("tags", "Tags", !request.tags.is_empty()),
        ("not_before", "Not-Before", request.not_before.is_some()),
        ("expires_at", "Expires", request.expires_at.is_some()),
        ("idempotency_key", "Idempotency-Key", request.idempotency_key.is_some()),
    ];
    let section = &content[..header::section_len(content)];
    // A line of an mbox file in front is no field, and would hide those behind it.
    let section = &section[message::mbox_line_len(section)..];
    let prefixed =
        |name: &[u8]| name.len() > PREFIX.len() && name[..PREFIX.len()].eq_ignore_ascii_case(PREFIX.as_bytes());
    if !header::fields(section).any(|field| prefixed(field.name)) {
        return;
    }
    for (field, name, _) in given.into_iter().filter(|(_, _, given)| *given) {
        let name = format!("{PREFIX}{name}");
        if header::fields(section).any(|field| field.is(&name)) {
            violations.add(field, format!("is given by {name} in {raw}, too; say it once"));
        }
    }
    let key = format!("{PREFIX}Idempotency-Key");
    if request.idempotency_key.is_none() && header::fields(section).any(|field| field.is(&key)) {
        violations.add(raw.to_owned(), format!("{key}: say it as idempotency_key"));
    }
}

fn size_allowed(octets: usize, circumstances: &ApiCircumstances<'_>) -> Result<(), Rejection> {
    let max = circumstances.max_message_size;
    if octets <= max { Ok(()) } else { Err(Rejection::too_large(format!("message larger than {max} octets"))) }
}

/// Whether so many copies may be in memory at once, and be stored as one.
fn room_for(copies: usize, octets: usize, circumstances: &ApiCircumstances<'_>) -> Result<(), Rejection> {
    let max = circumstances.memory_max.min(COPIES_MAX);
    match copies.checked_mul(octets) {
        Some(sum) if copies == 1 || sum <= max => Ok(()),
        _ => Err(Rejection::too_large(format!(
            "{copies} personal copies of {octets} octets take more than {max}; name fewer recipients"
        ))),
    }
}

/// A message not fit to be sent, as the request's fault.
fn refused(error: &MessageError, raw: &'static str) -> Rejection {
    match error {
        MessageError::TooLong => Rejection::too_large(error.to_string()),
        _ => Rejection::invalid(raw, error.to_string()),
    }
}

/// Gathers what is wrong.
#[derive(Debug, Default)]
struct Violations(Vec<Violation>);

impl Violations {
    fn add(&mut self, field: impl Into<Cow<'static, str>>, why: impl Into<Cow<'static, str>>) {
        if self.0.len() < VIOLATIONS_MAX {
            self.0.push(Violation { field: field.into(), why: why.into() });
        }
    }

    /// What else is wrong will not be told.
    fn full(&self) -> bool {
        self.0.len() >= VIOLATIONS_MAX
    }
}
