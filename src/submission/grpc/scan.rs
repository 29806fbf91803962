//! Looks at a request before prost does: what takes two octets on the wire can take a hundred in memory.
//!
//! What is a little more than allowed is read, and refused with all else that is wrong; this is for what is far more.

/// So many times what is allowed is still read.
const SLACK: usize = 4;

/// Tags, headers and attachments of one request, as [`request`](super::super::request) allows.
const TAGS_MAX: usize = 32;
const HEADERS_MAX: usize = 100;
const ATTACHMENTS_MAX: usize = 100;

/// The number of `SubmitRequest.parts`.
const PARTS: u64 = 12;

const MALFORMED: (&str, &str) = ("request", "is no well-formed protobuf");

/// The fields of a SubmitRequest, counted as they come.
#[derive(Debug)]
pub(super) struct Scan {
    recipients_max: usize,
    counts: Counts,
    expected: Expected,
    /// The number being read, and how many of its bits have come.
    number: u64,
    bits: u32,
    /// Octets of a value that do not matter.
    skip: usize,
    /// Octets still to come of `parts`, if we are in there.
    inside: Option<usize>,
}

#[derive(Debug, Default)]
struct Counts {
    tags: usize,
    recipients: usize,
    mailboxes: usize,
    headers: usize,
    attachments: usize,
}

#[derive(Debug, Clone, Copy)]
enum Expected {
    Key,
    /// Of the field with that number.
    Length(u64),
    /// A number that does not matter.
    Value,
}

/// A field to blame, and why.
pub(super) type Wrong = (&'static str, &'static str);

impl Scan {
    /// For one request.
    pub(super) fn new(recipients_max: usize) -> Scan {
        let counts = Counts::default();
        Scan { recipients_max, counts, expected: Expected::Key, number: 0, bits: 0, skip: 0, inside: None }
    }

    /// Octets of the request, in order. An error is final.
    pub(super) fn saw(&mut self, mut octets: &[u8]) -> Result<(), Wrong> {
        while let Some((&octet, rest)) = octets.split_first() {
            if self.inside == Some(0) {
                if self.skip > 0 || self.bits > 0 || !matches!(self.expected, Expected::Key) {
                    return Err(MALFORMED);
                }
                self.inside = None;
            }
            let taken = self.skip.min(octets.len()).max(1);
            if let Some(left) = &mut self.inside {
                *left = left.checked_sub(taken).ok_or(MALFORMED)?;
            }
            if self.skip > 0 {
                self.skip -= taken;
                octets = &octets[taken..];
                continue;
            }
            octets = rest;
            if self.bits > 63 {
                return Err(MALFORMED);
            }
            self.number |= u64::from(octet & 0x7f) << self.bits;
            self.bits += 7;
            if octet & 0x80 == 0 {
                self.bits = 0;
                let number = std::mem::take(&mut self.number);
                self.number(number)?;
            }
        }
        Ok(())
    }

    /// A number is complete.
    fn number(&mut self, number: u64) -> Result<(), Wrong> {
        let expected = std::mem::replace(&mut self.expected, Expected::Key);
        match expected {
            Expected::Value => {}
            Expected::Length(field) => {
                let length = usize::try_from(number).map_err(|_| MALFORMED)?;
                if field == PARTS && self.inside.is_none() {
                    self.inside = Some(length);
                } else {
                    self.skip = length;
                }
            }
            Expected::Key => {
                let field = number >> 3;
                self.count(field)?;
                match number & 7 {
                    0 => self.expected = Expected::Value,
                    1 => self.skip = 8,
                    2 => self.expected = Expected::Length(field),
                    // A group's fields count as if they were ours.
                    3 | 4 => {}
                    5 => self.skip = 4,
                    _ => return Err(MALFORMED),
                }
            }
        }
        Ok(())
    }

    fn count(&mut self, field: u64) -> Result<(), Wrong> {
        let counts = &mut self.counts;
        let (count, max, name) = match (self.inside.is_some(), field) {
            (false, 4) => (&mut counts.tags, TAGS_MAX, "tags"),
            (false, 9) => (&mut counts.recipients, self.recipients_max, "recipients"),
            // reply_to, to, cc, bcc.
            (true, 2..=5) => (&mut counts.mailboxes, self.recipients_max, "parts.to"),
            (true, 9) => (&mut counts.headers, HEADERS_MAX, "parts.headers"),
            (true, 10) => (&mut counts.attachments, ATTACHMENTS_MAX, "parts.attachments"),
            _ => return Ok(()),
        };
        *count += 1;
        if *count > max.saturating_mul(SLACK) { Err((name, "far more than allowed")) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::super::v1;
    use super::*;

    /// However the octets are cut, the same is found.
    #[track_caller]
    fn check(octets: &[u8], expected: Result<(), Wrong>) {
        for size in [1, 3, 100, usize::MAX] {
            let mut scan = Scan::new(10);
            let found = octets.chunks(size).try_for_each(|chunk| scan.saw(chunk));
            assert_eq!(found, expected, "in pieces of {size}");
        }
    }

    fn asked(parts: v1::Parts) -> v1::SubmitRequest {
        let content = Some(v1::submit_request::Content::Parts(parts));
        v1::SubmitRequest { content, recipients: vec!["a@b.test".into(); 40], personal: true, ..Default::default() }
    }

    #[test]
    fn far_too_many_are_seen_while_they_come() {
        let far = |field| Err((field, "far more than allowed"));
        let attachments = |count| vec![v1::Attachment { inline: true, ..Default::default() }; count];
        let mailboxes = |count| vec![v1::Mailbox::default(); count];
        let good = v1::Parts {
            attachments: attachments(400),
            to: mailboxes(20),
            cc: mailboxes(20),
            text: "x".repeat(300),
            ..Default::default()
        };
        check(&asked(good.clone()).encode_to_vec(), Ok(()));
        // Fields behind `parts` are outside of it again, and a second `parts` is counted with the first.
        let twice = [asked(good.clone()).encode_to_vec(), asked(good.clone()).encode_to_vec()].concat();
        check(&twice, far("recipients"));
        let many = v1::Parts { attachments: attachments(401), ..good.clone() };
        check(&asked(many).encode_to_vec(), far("parts.attachments"));
        check(&asked(v1::Parts { bcc: mailboxes(1), ..good }).encode_to_vec(), far("parts.to"));
        let tags = v1::SubmitRequest { tags: vec![String::new(); 129], ..Default::default() };
        check(&tags.encode_to_vec(), far("tags"));
    }

    #[test]
    fn what_is_no_protobuf_is_seen_or_let_through_to_be_refused() {
        check(&[0xff; 11], Err(MALFORMED));
        check(&[0x0f], Err(MALFORMED));
        // An attachment that is longer than the parts it is in.
        check(&[0x62, 2, 0x52, 9, 0, 0], Err(MALFORMED));
        let whole = asked(v1::Parts { subject: "hello".into(), ..Default::default() }).encode_to_vec();
        for at in 0..whole.len() {
            let mut broken = whole.clone();
            broken[at] ^= 0x5a;
            let _ = Scan::new(10).saw(&broken);
        }
    }
}
