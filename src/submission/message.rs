//! What the door does to a message: reads its header, takes out what must not leave, puts in front what is missing.
//!
//! The body is never moved. Content arrives in a buffer with [`HEADROOM`] free octets in front; fields that are taken
//! out close their gap by moving the header part towards the body, fields that are added are written into the headroom.
//!
//! Where the RFCs leave the choice:
//! - *No header at all* (the first line is no field): an empty line is put in front, so the text becomes the body, as
//!   Postfix does; scripts that pipe plain text rely on it. A leading mbox line (`From `) is dropped.
//! - *A line that is no field in the midst of a header*: refused. Whatever follows it (Bcc, MIME fields) would be shown
//!   to the recipients as text, and the sender would never hear of it.
//! - *No From, Date or Message-ID*: added (RFC 6409 §8). From is made of the envelope's sender, as Postfix does for its
//!   own clients: without it no signing key could be chosen and large receivers refuse the message.
//! - Bcc, Resent-Bcc (RFC 5322 §3.6.3) and Return-Path (RFC 5321 §4.4) are taken out.

use std::fmt::Write;
use std::ops::Range;
use std::time::Duration;

use bytes::{Buf, Bytes};
use smallvec::SmallVec;

use super::fingerprint::fingerprint_of_mail;
use super::options::{Asked, OptionError, Options, PREFIX};
use super::received::Received;
use super::ways_back::{WaysBack, Written};
use crate::clock::Timestamp;
use crate::mail::header::{self, Field};
use crate::mail::{EnhancedCode, EnvelopeAddress, Keyed, Recipient, Reply, ReversePath, Stream};

/// Free octets in front of the content in the buffer given to [`complete`]. All fields we add fit.
pub const HEADROOM: usize = 2048;

/// Received fields at which a message is taken to be in a loop (RFC 5321 §6.3).
const HOPS_MAX: usize = 100;

/// Longest header section, in octets. Reading it is work that no other session on the same thread can interrupt.
const HEADER_MAX: usize = 1 << 20;

/// Content up to this many octets may be copied once more to spare memory: that takes a microsecond or two.
const COPIED_MAX: usize = 64 << 10;

/// What is known of a message when its content is complete.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances<'a> {
    /// The trace field to write.
    pub received: Received<'a>,
    /// The envelope's sender.
    pub reverse_path: &'a ReversePath,
    /// The envelope's recipients.
    pub recipients: &'a [Recipient],
    /// What the protocol asked beside the message.
    pub asked: Asked,
    /// The same and what else it said of the envelope, as given: it counts in the fingerprint, as RCPT's parameters do.
    pub said: &'a str,
    /// The client's own tenant, where it is bound to one.
    pub tenant: Option<&'a str>,
    /// By which recipients leave what they get; `None`: not our affair.
    pub ways_back: Option<&'a WaysBack>,
    /// The client said SMTPUTF8.
    pub smtputf8: bool,
    /// The content holds octets above 127.
    pub eight_bit: bool,
    /// How long it is kept unless it says otherwise.
    pub expire_after: Duration,
}

/// A message ready to be handed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completed {
    /// As it goes out.
    pub content: Bytes,
    /// What it occupies in memory, in octets: the content and what is left of the headroom.
    pub capacity: usize,
    /// Where it belongs.
    pub stream: Stream,
    /// The list it goes to.
    pub list: Option<Box<str>>,
    /// Its tags.
    pub tags: Vec<Box<str>>,
    /// Not tried before.
    pub not_before: Timestamp,
    /// Given up then.
    pub expires_at: Timestamp,
    /// What the client calls the submission, if it does, with what it says.
    pub key: Option<Box<Keyed>>,
    /// What is wrong with its times, which are stand-ins then. Without a key the message is to be refused; with one it may
    /// have been taken while they were good.
    pub overdue: Option<OptionError>,
}

/// Why a message is refused for its header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// A line in the midst of the header is neither field nor continuation.
    #[error("line {line} of the header is no field")]
    NoField {
        /// Counted from 1.
        line: usize,
    },
    /// The header section goes on and on.
    #[error("the header is longer than {HEADER_MAX} octets")]
    TooLong,
    /// Octets above 127 in a field, without SMTPUTF8.
    #[error("field {field} holds 8-bit text, which needs SMTPUTF8 or encoding (RFC 2047)")]
    EightBitField {
        /// Its name.
        field: String,
    },
    /// With SMTPUTF8, a field that is not UTF-8.
    #[error("field {field} is not valid UTF-8")]
    NotUtf8 {
        /// Its name.
        field: String,
    },
    /// Too many Received fields.
    #[error("{hops} Received fields, more than {HOPS_MAX}: the message is in a loop")]
    Loop {
        /// How many there are.
        hops: usize,
    },
    /// An order to us that we cannot obey.
    #[error(transparent)]
    Option(#[from] OptionError),
}

impl MessageError {
    /// What the client is told.
    pub fn reply(&self) -> Reply {
        let (code, enhanced) = match self {
            MessageError::NoField { .. } | MessageError::Option(_) => (550, EnhancedCode(5, 6, 0)),
            MessageError::TooLong => (552, EnhancedCode(5, 3, 4)),
            MessageError::EightBitField { .. } | MessageError::NotUtf8 { .. } => (550, EnhancedCode(5, 6, 7)),
            MessageError::Loop { .. } => (554, EnhancedCode(5, 4, 6)),
        };
        Reply::ours(code, enhanced, self.to_string())
    }
}

/// Checks and completes a message. `buffer` is [`HEADROOM`] octets of room and then the content, which ends in CRLF (or
/// is empty) and holds no bare CR or LF.
///
/// # Errors
/// The header is not fit to be sent, or orders something we cannot do.
pub fn complete(buffer: Vec<u8>, circumstances: &Circumstances<'_>) -> Result<Completed, MessageError> {
    complete_with(buffer, circumstances, Options::new(circumstances.asked))
}

/// The same where the client has given orders beside the message. One that the header gives as well is refused.
///
/// # Errors
/// As for [`complete`].
pub fn complete_with(
    mut buffer: Vec<u8>,
    circumstances: &Circumstances<'_>,
    options: Options,
) -> Result<Completed, MessageError> {
    let now = circumstances.received.at;
    let message = buffer.get(HEADROOM..).unwrap_or_default();
    let section = &message[..header::section_len(message)];
    let mut facts = Facts { options, ..Facts::default() };
    facts.read(section, circumstances)?;
    let times = facts.options.times(now, circumstances.expire_after);
    let (times, overdue) = match times {
        Ok(times) => (times, None),
        Err(error) => ((now, now.after(circumstances.expire_after)), Some(error)),
    };
    let (not_before, expires_at) = times;
    let key = facts.options.take_key().map(|key| {
        let Circumstances { reverse_path, recipients, said, .. } = *circumstances;
        let fingerprint = fingerprint_of_mail(reverse_path, recipients, said, message);
        Box::new(Keyed::new(key, fingerprint, 1))
    });

    let section_end = HEADROOM + section.len();
    let start = close_gaps(&mut buffer, section_end, &facts.removed);
    let start = put_in_front(&mut buffer, start, facts.prefix(circumstances).as_bytes());
    let (content, capacity) = fitted(buffer, start);
    let (stream, list) = (facts.options.stream(), facts.options.take_list());
    let tags = facts.options.take_tags();
    Ok(Completed { content, capacity, stream, list, tags, not_before, expires_at, key, overdue })
}

/// The content from `start` on, and what it occupies. A buffer much larger than what it holds is left for the next one:
/// shrunk where it stands it would leave a hole in memory that no other buffer fits into, for as long as the content waits
/// (16 KB for 10).
fn fitted(mut buffer: Vec<u8>, start: usize) -> (Bytes, usize) {
    let len = buffer.len() - start;
    if len <= COPIED_MAX && (buffer.capacity() - len) * 4 > len {
        return (Bytes::copy_from_slice(&buffer[start..]), len);
    }
    buffer.shrink_to_fit();
    let capacity = buffer.capacity();
    let mut content = Bytes::from(buffer);
    content.advance(start);
    (content, capacity)
}

/// What a walk over the header finds.
#[derive(Default)]
struct Facts {
    options: Options,
    /// Octets to take out, from the start of the section, in order.
    removed: SmallVec<[Range<usize>; 4]>,
    has_from: bool,
    has_date: bool,
    has_message_id: bool,
    has_unsubscribe: bool,
    headless: bool,
    hops: usize,
}

impl Facts {
    fn read(&mut self, section: &[u8], circumstances: &Circumstances<'_>) -> Result<(), MessageError> {
        let mbox_line = mbox_line_len(section);
        if mbox_line > 0 {
            self.removed.push(0..mbox_line);
        }
        let mut end = mbox_line;
        for field in header::fields(&section[mbox_line..]) {
            end = mbox_line + field.end;
            if end > HEADER_MAX {
                return Err(MessageError::TooLong);
            }
            self.take(field, mbox_line, circumstances)?;
        }
        self.headless = end == mbox_line && end < section.len();
        if !self.headless && end < section.len() {
            return Err(MessageError::NoField { line: memchr::memchr_iter(b'\n', &section[..end]).count() + 1 });
        }
        if self.hops > HOPS_MAX {
            return Err(MessageError::Loop { hops: self.hops });
        }
        Ok(())
    }

    fn take(&mut self, field: Field<'_>, shift: usize, circumstances: &Circumstances<'_>) -> Result<(), MessageError> {
        if circumstances.eight_bit && !field.value.is_ascii() {
            let name = || String::from_utf8_lossy(field.name).into_owned();
            if !circumstances.smtputf8 {
                return Err(MessageError::EightBitField { field: name() });
            }
            if std::str::from_utf8(field.value).is_err() {
                return Err(MessageError::NotUtf8 { field: name() });
            }
        }
        // By length first: most fields are none of these, and this walk is on the path of every message.
        match field.name.len() {
            4 if field.is("From") => self.has_from = true,
            4 if field.is("Date") => self.has_date = true,
            10 if field.is("Message-ID") => self.has_message_id = true,
            16 if field.is("List-Unsubscribe") => self.has_unsubscribe = true,
            8 if field.is("Received") => self.hops += 1,
            3 if field.is("Bcc") => self.remove(field, shift),
            10 if field.is("Resent-Bcc") => self.remove(field, shift),
            11 if field.is("Return-Path") => self.remove(field, shift),
            length if length > PREFIX.len() && field.name[..PREFIX.len()].eq_ignore_ascii_case(PREFIX.as_bytes()) => {
                let name = std::str::from_utf8(field.name).expect("a field's name is printable ASCII");
                self.options.set(name, &field.text(), circumstances.received.at)?;
                self.remove(field, shift);
            }
            _ => {}
        }
        Ok(())
    }

    fn remove(&mut self, field: Field<'_>, shift: usize) {
        self.removed.push(field.start + shift..field.end + shift);
    }

    /// The fields to stand in front, and the empty line if the message has no header.
    fn prefix(&self, circumstances: &Circumstances<'_>) -> String {
        let Received { id, by, at, .. } = circumstances.received;
        let mut prefix = String::with_capacity(512);
        let mut write = |args: std::fmt::Arguments<'_>| prefix.write_fmt(args).expect("a String takes all");
        write(format_args!("{}", circumstances.received));
        if !self.has_message_id {
            write(format_args!("Message-ID: <{id}@{by}>\r\n"));
        }
        if !self.has_date {
            write(format_args!("Date: {}\r\n", at.rfc5322()));
        }
        if !self.has_from {
            match circumstances.reverse_path {
                ReversePath::Null => write(format_args!("From: MAILER-DAEMON@{by}\r\n")),
                ReversePath::Address(address) => write(format_args!("From: {}\r\n", HeaderAddress(address))),
            }
        }
        if let Some(ways_back) = circumstances.ways_back.filter(|_| !self.has_unsubscribe) {
            let mut stream = self.options.stream();
            if let Some(tenant) = circumstances.tenant.filter(|_| stream.tenant.is_empty()) {
                stream.tenant = tenant.into();
            }
            let (list, recipients) = (self.options.list(), circumstances.recipients);
            let written = Written { message: id, stream: &stream, list, recipients };
            write(format_args!("{}", ways_back.unsubscribe_fields(&written)));
        }
        if self.headless {
            write(format_args!("\r\n"));
        }
        prefix
    }
}

/// An envelope address as a header field may hold it: a local part that is no dot-atom is quoted (RFC 5322 §3.4.1).
pub(super) struct HeaderAddress<'a>(pub(super) &'a EnvelopeAddress);

impl std::fmt::Display for HeaderAddress<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (local, host) = (self.0.local(), self.0.host());
        let odd_dots = local.starts_with('.') || local.ends_with('.') || local.contains("..");
        if odd_dots && !local.starts_with('"') { write!(f, "\"{local}\"@{host}") } else { write!(f, "{local}@{host}") }
    }
}

/// The length of a line that separates messages in an mbox file, which some programs leave in front.
pub(super) fn mbox_line_len(section: &[u8]) -> usize {
    if !section.starts_with(b"From ") && !section.starts_with(b">From ") {
        return 0;
    }
    // `From : ann@example.com` is the author's field in an old spelling (RFC 5322 §4.5.2).
    if section.strip_prefix(b"From").is_some_and(|rest| rest.trim_ascii_start().starts_with(b":")) {
        return 0;
    }
    memchr::memmem::find(section, b"\r\n").map_or(0, |at| at + 2)
}

/// Takes `removed` (counted from the section's start at [`HEADROOM`]) out by moving what lies in front of each towards
/// `section_end`. Returns where the header now starts.
fn close_gaps(buffer: &mut [u8], section_end: usize, removed: &[Range<usize>]) -> usize {
    let mut to = section_end;
    let mut kept_end = section_end;
    for gap in removed.iter().rev() {
        let kept = HEADROOM + gap.end..kept_end;
        to -= kept.len();
        buffer.copy_within(kept, to);
        kept_end = HEADROOM + gap.start;
    }
    let kept = HEADROOM..kept_end;
    let start = to - kept.len();
    if start != HEADROOM {
        buffer.copy_within(kept, start);
    }
    start
}

/// Writes `prefix` in front of `start`; returns where it begins.
fn put_in_front(buffer: &mut Vec<u8>, start: usize, prefix: &[u8]) -> usize {
    match start.checked_sub(prefix.len()) {
        Some(at) => {
            buffer[at..start].copy_from_slice(prefix);
            at
        }
        // Cannot be as long as HEADROOM is right (a test holds it), but a longer prefix costs only a move.
        None => {
            buffer.splice(..start, prefix.iter().copied());
            0
        }
    }
}

#[cfg(test)]
mod tests;
