//! Opens MIME (RFC 2045, RFC 2046) that others wrote, within bounds: what a message can ask of us grows with its length and
//! nothing else.
//!
//! The walk goes [`DEPTH_MAX`] deep and takes [`PARTS_MAX`] parts; each level reads its octets once. What lies deeper or
//! behind stays closed, and [`Opened::cut`] says so. A library was not asked: mail-parser follows messages in messages
//! without end, and frees them by recursion.

use std::borrow::Cow;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use memchr::{memchr, memmem};

/// Multiparts within multiparts that are opened.
pub(crate) const DEPTH_MAX: usize = 8;

/// Parts that are looked at.
pub(crate) const PARTS_MAX: usize = 100;

/// Fields of one header that are looked at.
const FIELDS_MAX: usize = 500;

/// Octets of a field that are kept.
const VALUE_MAX: usize = 8 * 1024;

/// A field: its name in lower case, its value unfolded.
pub(crate) type NamedValue = (String, String);

/// A message, opened.
#[derive(Debug, Default)]
pub(crate) struct Opened<'a> {
    /// Its header.
    pub(crate) header: Vec<NamedValue>,
    /// Its parts that are no multiparts, in order; a message that is none is its own only part.
    pub(crate) parts: Vec<Part<'a>>,
    /// There was more than is looked at.
    pub(crate) cut: bool,
}

/// A part that is no multipart.
#[derive(Debug)]
pub(crate) struct Part<'a> {
    /// Its header.
    pub(crate) header: Vec<NamedValue>,
    /// `text/plain`, in lower case.
    pub(crate) kind: String,
    /// What follows the header, encoded as it came.
    pub(crate) body: &'a [u8],
}

impl<'a> Opened<'a> {
    /// Opens what is there; broken MIME gives what can be read.
    pub(crate) fn of(message: &'a [u8]) -> Opened<'a> {
        let mut opened = Opened { header: fields(head(message)), ..Opened::default() };
        opened.walk(message, 0);
        opened
    }

    /// The first field of that name, in lower case; empty if there is none.
    pub(crate) fn field(&self, name: &str) -> &str {
        first(&self.header, name)
    }

    fn walk(&mut self, entity: &'a [u8], depth: usize) {
        if self.parts.len() >= PARTS_MAX {
            self.cut = true;
            return;
        }
        let head = head(entity);
        let body = &entity[head.len()..];
        let header = fields(head);
        let content_type = first(&header, "content-type");
        let kind = kind_of(content_type);
        if kind.starts_with("multipart/") {
            self.cut |= depth == DEPTH_MAX;
            let boundary = param(content_type, "boundary").unwrap_or_default();
            let mut pieces = if depth == DEPTH_MAX { Vec::new() } else { split(body, boundary.trim_end().as_bytes()) };
            if pieces.is_empty()
                && depth < DEPTH_MAX
                && let Some(written) = boundary_written(body)
            {
                // The header and the body do not agree; what stands in the body is what parts it.
                pieces = split(body, written);
            }
            if !pieces.is_empty() {
                pieces.into_iter().for_each(|piece| self.walk(piece, depth + 1));
                return;
            }
        }
        self.parts.push(Part { header, kind, body });
    }
}

impl Part<'_> {
    /// The first field of that name, in lower case; empty if there is none.
    pub(crate) fn field(&self, name: &str) -> &str {
        first(&self.header, name)
    }

    /// The name of the file that it says it is; empty if it says none.
    pub(crate) fn file_name(&self) -> String {
        let disposition = param(self.field("content-disposition"), "filename");
        disposition.or_else(|| param(self.field("content-type"), "name")).unwrap_or_default()
    }

    /// The body without its transfer encoding (RFC 2045 §6); what cannot be decoded ends it.
    pub(crate) fn decoded(&self) -> Cow<'_, [u8]> {
        match self.field("content-transfer-encoding").trim().to_ascii_lowercase().as_str() {
            "base64" => Cow::Owned(from_base64(self.body)),
            "quoted-printable" => Cow::Owned(from_quoted_printable(self.body)),
            _ => Cow::Borrowed(self.body),
        }
    }

    /// The decoded body as text: UTF-8, or else ISO 8859-1, which is right for most of what is not.
    pub(crate) fn text(&self) -> String {
        let octets = self.decoded();
        match std::str::from_utf8(&octets) {
            Ok(text) => text.to_owned(),
            Err(_) if self.field("content-type").to_ascii_lowercase().contains("utf-8") => {
                String::from_utf8_lossy(&octets).into_owned()
            }
            Err(_) => octets.iter().map(|octet| char::from(*octet)).collect(),
        }
    }
}

/// Messages within messages that mail-parser is given. It goes as deep as there are any and comes back by recursion, so that
/// a message of 500 KB takes more stack than a thread has.
const MESSAGES_MAX: usize = 64;

/// Octets that it is given where messages are encoded: what is in them cannot be counted from outside.
const ENCODED_MAX: usize = 32 * 1024;

/// As much of a message as mail-parser may read: nothing of one with too many messages in it, less of one that hides them.
pub(crate) fn for_library(message: &[u8]) -> &[u8] {
    let low = message.to_ascii_lowercase();
    let is_encoded =
        |text: &[u8]| [&b"base64"[..], b"quoted-printable"].iter().any(|one| memmem::find(text, one).is_some());
    // Parts of a digest are messages without saying so (RFC 2046 §5.1.5).
    let digests = memmem::find_iter(&low, b"digest").count();
    let (mut messages, mut hidden) = (digests, digests > 0 && is_encoded(&low));
    let (mut names_message, mut encoded) = (false, false);
    for (place, line) in low.split(|b| *b == b'\n').enumerate() {
        // Of the block between empty lines: a header, or a paragraph.
        if line.trim_ascii().is_empty() && place > 0 {
            (names_message, encoded) = (false, false);
            continue;
        }
        let types = memmem::find_iter(line, b"message").filter(|at| {
            // `message/rfc822`, also where a comment or a line end stands in it; not `Message-ID`.
            let behind = line[at + b"message".len()..].trim_ascii_start();
            matches!(behind.first(), None | Some(b'/' | b'('))
        });
        let types = types.count();
        messages += types;
        names_message |= types > 0;
        encoded |= is_encoded(line);
        hidden |= names_message && encoded;
    }
    match () {
        () if messages > MESSAGES_MAX => &[],
        () if hidden => &message[..message.len().min(ENCODED_MAX)],
        () => message,
    }
}

/// The first field of that name, in lower case; empty if there is none.
pub(crate) fn first<'f>(header: &'f [NamedValue], name: &str) -> &'f str {
    header.iter().find(|field| field.0 == name).map_or("", |field| &field.1)
}

/// The header with its empty line.
pub(crate) fn head(entity: &[u8]) -> &[u8] {
    for start in [&b"\n"[..], b"\r\n"] {
        if entity.starts_with(start) {
            return &entity[..start.len()];
        }
    }
    // The first line end with another behind it.
    let end = memchr::memchr_iter(b'\n', entity).find_map(|at| {
        [&b"\n"[..], b"\r\n"].iter().find(|end| entity[at + 1..].starts_with(end)).map(|e| at + 1 + e.len())
    });
    &entity[..end.unwrap_or(entity.len())]
}

/// The fields of a header or group. Lines that are no fields (an mbox line, an empty one) are passed over.
pub(crate) fn fields(text: &[u8]) -> Vec<NamedValue> {
    let mut fields: Vec<NamedValue> = Vec::new();
    for line in text.split(|b| *b == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.first().is_some_and(|b| matches!(b, b' ' | b'\t')) {
            if let Some((_, value)) = fields.last_mut()
                && value.len() + line.len() < VALUE_MAX
            {
                value.push(' ');
                value.push_str(String::from_utf8_lossy(line).trim());
            }
            continue;
        }
        let Some(colon) = memchr(b':', line) else { continue };
        let name = line[..colon].trim_ascii_end();
        if name.is_empty() || !name.iter().all(u8::is_ascii_graphic) {
            continue;
        }
        if fields.len() == FIELDS_MAX {
            break;
        }
        let value = &line[colon + 1..line.len().min(colon + 1 + VALUE_MAX)];
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        fields.push((name, String::from_utf8_lossy(value).trim().to_owned()));
    }
    fields
}

/// `text/plain` of a Content-Type, in lower case; the default for none.
pub(crate) fn kind_of(content_type: &str) -> String {
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    if kind.is_empty() { "text/plain".into() } else { kind.to_ascii_lowercase() }
}

/// A parameter of a Content-Type or Content-Disposition.
pub(crate) fn param(value: &str, name: &str) -> Option<String> {
    let mut rest = value.split_once(';')?.1;
    loop {
        let (given, after) = rest.split_once('=')?;
        let after = after.trim_start();
        let (found, behind) = match after.strip_prefix('"') {
            Some(quoted) => quoted_string(quoted),
            None => {
                let end = after.find(';').unwrap_or(after.len());
                (after[..end].trim().to_owned(), &after[end..])
            }
        };
        // What stands in front of the name, up to the last semicolon, is no parameter.
        let given = given.rsplit(';').next().unwrap_or_default().trim();
        if given.eq_ignore_ascii_case(name) {
            return Some(found);
        }
        rest = behind.split_once(';')?.1;
    }
}

fn quoted_string(text: &str) -> (String, &str) {
    let mut found = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (found, &text[at + 1..]),
            '\\' => found.extend(chars.next().map(|(_, c)| c)),
            c => found.push(c),
        }
    }
    (found, "")
}

/// What lies between the lines that are made of `boundary` (RFC 2046 §5.1.1). Without a last one the rest counts.
fn split<'a>(body: &'a [u8], boundary: &[u8]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    let (mut start, mut at) = (None, 0);
    while at < body.len() && pieces.len() <= PARTS_MAX && !boundary.is_empty() {
        let end = memchr(b'\n', &body[at..]).map_or(body.len(), |len| at + len + 1);
        let behind = body[at..end].strip_prefix(b"--").and_then(|line| line.strip_prefix(boundary));
        let delimiter = behind.map(<[u8]>::trim_ascii).filter(|behind| matches!(*behind, b"" | b"--"));
        if let Some(behind) = delimiter {
            if let Some(start) = start {
                pieces.push(without_last_line_end(&body[start..at]));
            }
            start = Some(end);
            if behind == b"--" {
                return pieces;
            }
        }
        at = end;
    }
    if let Some(start) = start.filter(|start| *start < body.len()) {
        pieces.push(&body[start..]);
    }
    pieces
}

fn without_last_line_end(piece: &[u8]) -> &[u8] {
    let piece = piece.strip_suffix(b"\n").unwrap_or(piece);
    piece.strip_suffix(b"\r").unwrap_or(piece)
}

/// The first line of a body that looks like a boundary and stands in front of something like a header.
fn boundary_written(body: &[u8]) -> Option<&[u8]> {
    let at = if body.starts_with(b"--") { 0 } else { memmem::find(body, b"\n--")? + 1 };
    let line = body[at..].split(|b| *b == b'\n').next()?;
    let boundary = line.get(2..)?.trim_ascii();
    let behind = body[at + line.len()..].get(1..)?;
    let field = behind.split(|b| *b == b'\n').next()?;
    (boundary.len() >= 4 && memchr(b':', field).is_some_and(|colon| field[..colon].iter().all(u8::is_ascii_graphic)))
        .then_some(boundary)
}

fn from_base64(body: &[u8]) -> Vec<u8> {
    let config = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    let engine = GeneralPurpose::new(&alphabet::STANDARD, config);
    let is_digit = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/');
    // Padding ends it: what follows is an advertisement of a list server, not data.
    let digits: Vec<u8> = body.iter().copied().take_while(|b| *b != b'=').filter(is_digit).collect();
    let whole = if digits.len() % 4 == 1 { digits.len() - 1 } else { digits.len() };
    engine.decode(&digits[..whole]).unwrap_or_default()
}

fn from_quoted_printable(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len());
    let mut rest = body;
    while let Some(at) = memchr(b'=', rest) {
        out.extend_from_slice(&rest[..at]);
        let behind = &rest[at + 1..];
        let hex = |b: u8| char::from(b).to_digit(16);
        rest = match behind {
            [b'\n', rest @ ..] | [b'\r', b'\n', rest @ ..] => rest,
            [high, low, rest @ ..] if hex(*high).is_some() && hex(*low).is_some() => {
                out.push((hex(*high).unwrap_or(0) << 4 | hex(*low).unwrap_or(0)) as u8);
                rest
            }
            _ => {
                out.push(b'=');
                behind
            }
        };
    }
    out.extend_from_slice(rest);
    out
}

#[cfg(test)]
mod tests;
