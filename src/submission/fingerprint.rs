//! What a submission said, in 128 bits, so that a key used again for something else is noticed.
//!
//! Client libraries make some things anew each time they send, and a repeated submission must not contradict itself for
//! that. Left out are therefore:
//!
//! - the fields Date, Message-ID, Received and DKIM-Signature of the message's own header, and our own
//!   X-Posthaste-Idempotency-Key; the other X-Posthaste- fields count;
//! - the values of MIME boundaries, and the lines made of them (RFC 2046 §5.1.1): where parts begin and end still counts;
//! - the order of recipients, and their repetition.

use memchr::{memchr, memmem};
use twox_hash::xxhash3_128::{DEFAULT_SECRET_LENGTH, RawHasher, SecretBuffer};

use super::message::mbox_line_len;
use crate::mail::{AddressHost, EnvelopeAddress, Fingerprint, Recipient, ReversePath};

/// Most boundaries known at a time, and the longest; what lies beyond counts as text.
const BOUNDARIES_MAX: usize = 32;
const BOUNDARY_MAX: usize = 200;

/// Fields of the message's own header that do not count.
const LEFT_OUT: [&[u8]; 5] = [b"Date", b"Message-ID", b"Received", b"DKIM-Signature", b"X-Posthaste-Idempotency-Key"];

/// Names what is done here in the first octet of a [`Fingerprint`]. To be raised with any change by which the same
/// submission gets another one: what was kept before then contradicts nothing.
const FUNCTION: u8 = 2;

/// The fingerprint of a submission: XXH3 with 128 bits. `content` is as received, with lines that end in CRLF.
///
/// It is there to notice mistakes. Who makes two submissions with one fingerprint on purpose gets the first one's receipt
/// for the second under a key of his own, and nobody else is concerned. So it need not be a cryptographic hash, which
/// would cost more than all else that is done for a key.
pub fn fingerprint(reverse_path: &ReversePath, recipients: &[Recipient], content: &[u8]) -> Fingerprint {
    fingerprint_with(reverse_path, recipients, &[], content)
}

/// The same for SMTP: `said` is what MAIL ordered, and what RCPT did is in the recipients. Without orders it is no other
/// than [`fingerprint`].
pub fn fingerprint_of_mail(
    reverse_path: &ReversePath,
    recipients: &[Recipient],
    said: &str,
    content: &[u8],
) -> Fingerprint {
    let ordered = |recipient: &&Recipient| recipient.notify.is_some() || recipient.orcpt.is_some();
    let mut orders: Vec<String> = recipients.iter().filter(ordered).map(orders).collect();
    if said.is_empty() && orders.is_empty() {
        return fingerprint(reverse_path, recipients, content);
    }
    orders.sort_unstable();
    orders.dedup();
    fingerprint_with(reverse_path, recipients, &[said.as_bytes(), orders.join("\n").as_bytes()], content)
}

/// What RCPT said of a recipient.
fn orders(recipient: &Recipient) -> String {
    let Recipient { address, notify, orcpt } = recipient;
    let notify = notify.map(|notify| (notify.success, notify.failure, notify.delay));
    format!("{address} {notify:?} {orcpt:?}")
}

/// The same where the client says more beside the content, piece by piece.
pub fn fingerprint_with(
    reverse_path: &ReversePath,
    recipients: &[Recipient],
    pieces: &[&[u8]],
    content: &[u8],
) -> Fingerprint {
    let mut reader = Reader::default();
    reader.parties(reverse_path, recipients);
    for piece in pieces {
        reader.take(&(piece.len() as u64).to_le_bytes());
        reader.take(piece);
    }
    reader.take(&u64::MAX.to_le_bytes());
    // Some programs leave a line of an mbox file in front. It does not leave with the message, and names the time.
    let body = reader.header(&content[mbox_line_len(content)..], true);
    reader.body(body);
    reader.finish()
}

/// Small pieces are gathered so far before they are hashed: a call for each would take longer than the hash.
const GATHERED: usize = 512;

/// Reads what a submission said, once, from front to end.
struct Reader<'a> {
    hash: RawHasher<&'static [u8; DEFAULT_SECRET_LENGTH]>,
    /// The first `waiting` octets are not hashed yet.
    gathered: [u8; GATHERED],
    waiting: usize,
    boundaries: Vec<&'a [u8]>,
}

impl Default for Reader<'_> {
    fn default() -> Self {
        let hash = RawHasher::new(SecretBuffer::default());
        Reader { hash, gathered: [0; GATHERED], waiting: 0, boundaries: Vec::new() }
    }
}

/// Whether a header line counts, and how; its continuations are like it.
#[derive(Clone, Copy, PartialEq)]
enum Line {
    Plain,
    ContentType,
    LeftOut,
}

impl<'a> Reader<'a> {
    fn take(&mut self, piece: &[u8]) {
        let end = self.waiting + piece.len();
        if let Some(room) = self.gathered.get_mut(self.waiting..end) {
            room.copy_from_slice(piece);
            self.waiting = end;
            return;
        }
        self.hash.write(&self.gathered[..self.waiting]);
        self.hash.write(piece);
        self.waiting = 0;
    }

    fn finish(mut self) -> Fingerprint {
        self.hash.write(&self.gathered[..self.waiting]);
        Fingerprint::new(FUNCTION, self.hash.finish_128())
    }

    /// Sender and recipients. Addresses hold no control character, so NUL and LF keep the pieces apart.
    fn parties(&mut self, reverse_path: &ReversePath, recipients: &[Recipient]) {
        reverse_path.address().into_iter().for_each(|sender| self.address(sender));
        match recipients {
            [only] => {
                self.take(b"\n");
                self.address(&only.address);
            }
            several => {
                let mut addresses: Vec<String> = several.iter().map(|one| one.address.to_string()).collect();
                addresses.sort_unstable();
                addresses.dedup();
                for address in &addresses {
                    self.take(b"\n");
                    self.take(address.as_bytes());
                }
            }
        }
        self.take(b"\0");
    }

    /// An address as it is written, without the way through a `String`.
    fn address(&mut self, address: &EnvelopeAddress) {
        self.take(address.local().as_bytes());
        self.take(b"@");
        match address.host() {
            AddressHost::Domain(domain) => self.take(domain.as_str().as_bytes()),
            literal => self.take(literal.to_string().as_bytes()),
        }
    }

    /// Takes the header at the start of `rest`, of the message itself if `own`, else of a part; returns what lies behind.
    /// Ends at the first line that is no field, which may be the empty one.
    fn header(&mut self, rest: &'a [u8], own: bool) -> &'a [u8] {
        let mut kind = Line::Plain;
        // Lines that count as they are, from `plain` to `at`, are taken together.
        let (mut plain, mut at) = (0, 0);
        while at < rest.len() {
            let end = memchr(b'\n', &rest[at..]).map_or(rest.len(), |found| at + found + 1);
            let line = &rest[at..end];
            if !matches!(line[0], b' ' | b'\t') {
                let Some(name) = name(line) else { break };
                kind = match name {
                    _ if name.eq_ignore_ascii_case(b"Content-Type") => Line::ContentType,
                    _ if own && LEFT_OUT.iter().any(|out| out.eq_ignore_ascii_case(name)) => Line::LeftOut,
                    _ => Line::Plain,
                };
            }
            if kind != Line::Plain {
                self.take(&rest[plain..at]);
                plain = end;
            }
            if kind == Line::ContentType {
                self.content_type(line);
            }
            at = end;
        }
        self.take(&rest[plain..at]);
        &rest[at..]
    }

    /// A line of a Content-Type field: the value of `boundary=` is noted, not counted.
    fn content_type(&mut self, line: &'a [u8]) {
        let Some(value) = boundary_value(line) else { return self.take(line) };
        self.take(&line[..value.start]);
        self.take(&line[value.end..]);
        let boundary = &line[value];
        if self.boundaries.len() < BOUNDARIES_MAX && (1..=BOUNDARY_MAX).contains(&boundary.len()) {
            self.boundaries.push(boundary);
        }
    }

    /// Takes what follows a header: text, and further parts where boundaries are known.
    fn body(&mut self, mut rest: &'a [u8]) {
        let mut at = 0;
        // `at` is the start of a line.
        while !self.boundaries.is_empty() {
            if let Some((length, last)) = self.delimiter(&rest[at..]) {
                self.take(&rest[..at]);
                self.take(if last { b"\0end" } else { b"\0part" });
                rest = &rest[at + length..];
                if !last {
                    rest = self.header(rest, false);
                }
                at = 0;
                // What stands where a header ended is looked at, too: a part may be empty.
                if self.delimiter(rest).is_some() {
                    continue;
                }
            }
            match memmem::find(&rest[at..], b"\n--") {
                Some(found) => at += found + 1,
                None => break,
            }
        }
        self.take(rest);
    }

    /// The length of the delimiter line at the start of `rest`, if there is one, and whether it is the last.
    fn delimiter(&self, rest: &[u8]) -> Option<(usize, bool)> {
        let text = rest.strip_prefix(b"--")?;
        self.boundaries.iter().find_map(|boundary| {
            let behind = text.strip_prefix(*boundary)?;
            let (last, behind) = behind.strip_prefix(b"--").map_or((false, behind), |behind| (true, behind));
            let padding = behind.iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
            let behind = &behind[padding..];
            let end = if behind.is_empty() { behind } else { behind.strip_prefix(b"\r\n")? };
            Some((rest.len() - end.len(), last))
        })
    }
}

/// The field name a line begins with.
fn name(line: &[u8]) -> Option<&[u8]> {
    let end = line.iter().position(|b| *b == b':' || !b.is_ascii_graphic())?;
    let (name, behind) = line.split_at(end);
    let colon = behind.trim_ascii_start().first() == Some(&b':');
    (!name.is_empty() && colon).then_some(name)
}

/// Where in a line the value of its `boundary` parameter stands, quotes excluded.
fn boundary_value(line: &[u8]) -> Option<std::ops::Range<usize>> {
    const NAME: &[u8] = b"boundary=";
    let starts = |at: usize| at == 0 || matches!(line[at - 1], b';' | b' ' | b'\t');
    let name = (0..line.len().saturating_sub(NAME.len()))
        .find(|&at| starts(at) && line[at..at + NAME.len()].eq_ignore_ascii_case(NAME))?;
    let start = name + NAME.len();
    if line[start] == b'"' {
        let length = memchr(b'"', &line[start + 1..])?;
        return Some(start + 1..start + 1 + length);
    }
    let ends = |b: &u8| matches!(b, b';' | b' ' | b'\t' | b'\r' | b'\n');
    let length = line[start..].iter().position(ends).unwrap_or(line.len() - start);
    Some(start..start + length)
}

#[cfg(test)]
mod tests;
