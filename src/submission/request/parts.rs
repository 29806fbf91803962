//! Mail built from parts.
//!
//! What goes in is what a reader sees, and nothing else: no text can become a field or a part. Every text is checked for
//! characters that could end a line where it must not, and mail-builder encodes the rest (RFC 2047, RFC 2231). The shape,
//! each level only where it is needed:
//!
//! ```text
//! multipart/mixed
//!   multipart/alternative
//!     text/plain
//!     multipart/related
//!       text/html
//!       what the HTML refers to by cid:
//!   attachments
//! ```

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use mail_builder::headers::address::Address;
use mail_builder::headers::content_type::ContentType;
use mail_builder::headers::raw::Raw;
use mail_builder::mime::{BodyPart, MimePart};

use super::super::message::{HEADROOM, HeaderAddress};
use super::fields::{field_path, field_problem, write_field, write_text};
use super::raw::LINE_MAX;
use super::{Attachment, Mailbox, Parts, Violations, content_type, raw};
use crate::mail::EnvelopeAddress;

/// Longest name, subject and file name, in octets.
const NAME_MAX: usize = 255;
const SUBJECT_MAX: usize = 998;

/// Most further fields and attachments.
const FIELDS_MAX: usize = 100;
const ATTACHMENTS_MAX: usize = 100;

/// A message whose parts are all good. Only the addressees are still to be written.
#[derive(Debug)]
pub(super) struct Built {
    /// From and Reply-To.
    author: Vec<u8>,
    /// Further addressees than a personal copy has.
    to: Vec<Shown>,
    cc: Vec<Shown>,
    /// All fields behind, the empty line, the body.
    rest: Vec<u8>,
    /// An address of `author` needs SMTPUTF8.
    smtputf8: bool,
}

/// A mailbox that can be shown.
#[derive(Debug)]
struct Shown {
    name: Option<String>,
    address: EnvelopeAddress,
}

impl Built {
    /// Checks and encodes `parts`; `prefix` is what stands in front of their names.
    pub(super) fn read(parts: &Parts, prefix: &str, violations: &mut Violations) -> Built {
        let mut reader = Reader { prefix, violations };
        let from: Vec<Shown> = match &parts.from {
            Some(from) => reader.mailbox("from", from).into_iter().collect(),
            None => {
                reader.add("from", "must be given");
                Vec::new()
            }
        };
        let [reply_to, to, cc] = [("reply_to", &parts.reply_to), ("to", &parts.to), ("cc", &parts.cc)]
            .map(|(field, list)| reader.mailboxes(field, list));
        reader.mailboxes("bcc", &parts.bcc);
        let mut rest = Vec::new();
        reader.subject(parts.subject.as_deref(), &mut rest);
        reader.fields(&parts.headers, &mut rest);
        let body = reader.body(parts);
        rest.extend_from_slice(b"MIME-Version: 1.0\r\n");
        body.write_part(&mut rest);
        if !rest.ends_with(b"\r\n") {
            rest.extend_from_slice(b"\r\n");
        }
        let mut author = Vec::new();
        addresses("From", &from, &mut author);
        addresses("Reply-To", &reply_to, &mut author);
        let smtputf8 = from.iter().chain(&reply_to).any(|shown| shown.address.needs_smtputf8());
        Built { author, to, cc, rest, smtputf8 }
    }

    /// About how many octets each copy takes.
    pub(super) fn octets(&self) -> usize {
        self.rest.len()
    }

    /// The message, behind [`HEADROOM`] octets of room, and whether an address in its header needs SMTPUTF8. A personal
    /// copy shows `only` its recipient.
    pub(super) fn message(&self, only: Option<&EnvelopeAddress>) -> (Vec<u8>, bool) {
        let mut buffer = Vec::with_capacity(HEADROOM + self.author.len() + self.rest.len() + 256);
        buffer.resize(HEADROOM, 0);
        buffer.extend_from_slice(&self.author);
        let mut shown = self.to.iter().chain(&self.cc);
        let smtputf8 = match only {
            Some(address) => {
                let name = shown.find(|shown| shown.address == *address).and_then(|shown| shown.name.clone());
                addresses("To", &[Shown { name, address: address.clone() }], &mut buffer);
                address.needs_smtputf8()
            }
            None => {
                addresses("To", &self.to, &mut buffer);
                addresses("Cc", &self.cc, &mut buffer);
                shown.any(|shown| shown.address.needs_smtputf8())
            }
        };
        if only.is_none() && self.to.is_empty() && self.cc.is_empty() {
            // Not needed since RFC 5322, but filters dislike mail that is to nobody.
            buffer.extend_from_slice(b"To: undisclosed-recipients:;\r\n");
        }
        buffer.extend_from_slice(&self.rest);
        (buffer, self.smtputf8 || smtputf8)
    }
}

/// Writes an address field, unless there is nobody to show.
fn addresses(name: &str, list: &[Shown], buffer: &mut Vec<u8>) {
    if list.is_empty() {
        return;
    }
    let address = |shown: &Shown| Address::new_address(shown.name.clone(), HeaderAddress(&shown.address).to_string());
    write_field(name, &Address::new_list(list.iter().map(address).collect()), buffer);
}

/// Walks the parts and gathers what is wrong.
struct Reader<'a> {
    prefix: &'a str,
    violations: &'a mut Violations,
}

impl Reader<'_> {
    fn add(&mut self, field: &str, why: impl Into<Cow<'static, str>>) {
        self.violations.add(format!("{}{field}", self.prefix), why);
    }

    fn mailboxes(&mut self, field: &str, list: &[Mailbox]) -> Vec<Shown> {
        let numbered = list.iter().enumerate();
        numbered.filter_map(|(index, mailbox)| self.mailbox(&format!("{field}[{index}]"), mailbox)).collect()
    }

    fn mailbox(&mut self, field: &str, mailbox: &Mailbox) -> Option<Shown> {
        let name = mailbox.name.as_deref().map(str::trim).filter(|name| !name.is_empty());
        let name_good = name.is_none_or(|name| name.len() <= NAME_MAX && !has_control(name));
        if !name_good {
            self.add(field, format!("the name must be at most {NAME_MAX} octets without control characters"));
        }
        match mailbox.address.parse() {
            Ok(address) => name_good.then(|| Shown { name: name.map(str::to_owned), address }),
            Err(error) => {
                let error: crate::mail::AddressError = error;
                self.add(field, error.to_string());
                None
            }
        }
    }

    fn subject(&mut self, subject: Option<&str>, buffer: &mut Vec<u8>) {
        let Some(subject) = subject else { return };
        if subject.len() > SUBJECT_MAX || has_control(subject) {
            return self.add("subject", format!("must be at most {SUBJECT_MAX} octets without control characters"));
        }
        self.text("subject", "Subject", subject, buffer);
    }

    /// Writes a field, whose lines must be short enough however it is folded.
    fn text(&mut self, field: &str, name: &str, value: &str, buffer: &mut Vec<u8>) {
        let start = buffer.len();
        write_text(name, value, buffer);
        // The CR counts here, the LF does not.
        if buffer[start..].split(|b| *b == b'\n').any(|line| line.len() > LINE_MAX + 1) {
            self.add(field, "has a word too long to be folded; lines have at most 998 octets");
        }
    }

    fn fields(&mut self, fields: &[(String, String)], buffer: &mut Vec<u8>) {
        if fields.len() > FIELDS_MAX {
            return self.add("headers", format!("at most {FIELDS_MAX} fields"));
        }
        for (index, (name, value)) in fields.iter().enumerate() {
            let before = &fields[..index];
            if let Err(why) = field_problem(name, value, before).map_or(Ok(()), Err) {
                self.add(&field_path(name), why);
                continue;
            }
            self.text(&field_path(name), name, value, buffer);
        }
    }

    fn body<'a>(&mut self, parts: &'a Parts) -> MimePart<'a> {
        for (field, text) in [("text", &parts.text), ("html", &parts.html)] {
            if text.as_ref().is_some_and(|text| text.contains('\0')) {
                self.add(field, "must not hold NUL");
            }
        }
        if parts.text.is_none() && parts.html.is_none() && parts.attachments.is_empty() {
            self.add("text", "must be given, or html, or an attachment");
        }
        if parts.attachments.len() > ATTACHMENTS_MAX {
            self.add("attachments", format!("at most {ATTACHMENTS_MAX}"));
            return MimePart::new("text/plain", "");
        }
        let (mut related, mut mixed) = (Vec::new(), Vec::new());
        for (index, attachment) in parts.attachments.iter().enumerate() {
            let field = format!("attachments[{index}]");
            let twice = |known: &Attachment| known.content_id.is_some() && known.content_id == attachment.content_id;
            if parts.attachments[..index].iter().any(twice) {
                self.add(&format!("{field}.content_id"), "is that of another attachment, too");
            }
            if let Some(part) = self.attachment(&field, attachment) {
                let referred = attachment.content_id.is_some() && parts.html.is_some();
                if referred { related.push(part) } else { mixed.push(part) }
            }
        }
        let text = parts.text.as_deref().map(|text| MimePart::new("text/plain", BodyPart::Text(with_crlf(text))));
        let html = parts.html.as_deref().map(|html| MimePart::new("text/html", BodyPart::Text(with_crlf(html))));
        let html = html.map(|html| around("multipart/related", [vec![html], related].concat()));
        let body = match (text, html) {
            (Some(text), Some(html)) => Some(around("multipart/alternative", vec![text, html])),
            (text, html) => text.or(html),
        };
        // A single attachment without text is a message of two parts, too: readers show the first.
        let body = body.unwrap_or_else(|| MimePart::new("text/plain", ""));
        mixed.insert(0, body);
        around("multipart/mixed", mixed)
    }

    fn attachment<'a>(&mut self, field: &str, attachment: &'a Attachment) -> Option<MimePart<'a>> {
        let Attachment { file_name, content_type, content, content_id, inline } = attachment;
        let mut good = true;
        let mut wrong = |reader: &mut Self, sub: &str, why: Cow<'static, str>| {
            good = false;
            reader.add(&format!("{field}.{sub}"), why);
        };
        let kind = content_type::read(content_type.as_deref().unwrap_or("application/octet-stream"));
        let kind = kind.unwrap_or_else(|why| {
            wrong(self, "content_type", why.into());
            ContentType::new("application/octet-stream")
        });
        if file_name.as_ref().is_some_and(|name| name.is_empty() || name.len() > NAME_MAX || has_control(name)) {
            wrong(self, "file_name", format!("must be 1 to {NAME_MAX} octets without control characters").into());
        }
        let plain = |id: &String| {
            (1..=NAME_MAX).contains(&id.len())
                && id.bytes().all(|b| b.is_ascii_graphic() && !b"<>()[]\\\",;:".contains(&b))
        };
        if !content_id.as_ref().is_none_or(plain) {
            let why =
                format!("must be 1 to {NAME_MAX} printable ASCII characters without brackets, as in logo@example.com");
            wrong(self, "content_id", why.into());
        }
        let encoded = encode(&kind.c_type, content);
        if let Err(error) = &encoded {
            wrong(self, "content", format!("of a message must be one that can go as it is: {error}").into());
        }
        if !good {
            return None;
        }
        let (encoding, octets) = encoded.ok()?;
        let mut disposition = ContentType::new(if *inline { "inline" } else { "attachment" });
        if let Some(name) = file_name {
            disposition = disposition.attribute("filename", name.clone());
        }
        let mut part = MimePart::new(kind, BodyPart::Binary(octets)).header("Content-Disposition", disposition);
        if let Some(id) = content_id {
            part = part.header("Content-ID", Raw::new(format!("<{id}>")));
        }
        Some(match encoding {
            Some(encoding) => part.transfer_encoding(encoding),
            None => part,
        })
    }
}

/// The parts under one roof, if they need one.
fn around<'a>(kind: &'static str, mut parts: Vec<MimePart<'a>>) -> MimePart<'a> {
    match parts.len() {
        1 => parts.remove(0),
        _ => MimePart::new(kind, parts),
    }
}

/// How content is to be written, and its octets then; `None`: base64, which mail-builder does.
fn encode<'a>(kind: &str, content: &'a [u8]) -> Result<(Option<&'static str>, Cow<'a, [u8]>), raw::RawError> {
    if kind.starts_with("text/") {
        // A file must arrive as it is, with its own line ends.
        let mut encoded = Vec::with_capacity(content.len() / 57 * 78 + 80);
        for line in content.chunks(57) {
            encoded.extend_from_slice(BASE64.encode(line).as_bytes());
            encoded.extend_from_slice(b"\r\n");
        }
        return Ok((Some("base64"), encoded.into()));
    }
    if kind.starts_with("message/") {
        // RFC 2046 §5.2: these must not be encoded.
        let mut lines = Vec::with_capacity(content.len() + content.len() / 40);
        raw::append_lines(content, &mut lines)?;
        return Ok((Some(if lines.is_ascii() { "7bit" } else { "8bit" }), lines.into()));
    }
    Ok((None, content.into()))
}

/// Text with all its line ends, CR, LF or CRLF, as CRLF.
fn with_crlf(text: &str) -> Cow<'_, str> {
    if memchr::memchr2(b'\r', b'\n', text.as_bytes()).is_none() {
        return text.into();
    }
    let mut lines = String::with_capacity(text.len() + text.len() / 40);
    let mut rest = text;
    while let Some(at) = memchr::memchr2(b'\r', b'\n', rest.as_bytes()) {
        lines.push_str(&rest[..at]);
        lines.push_str("\r\n");
        rest = &rest[at..];
        rest = rest.strip_prefix("\r\n").unwrap_or_else(|| &rest[1..]);
    }
    lines.push_str(rest);
    lines.into()
}

fn has_control(text: &str) -> bool {
    text.chars().any(char::is_control)
}
