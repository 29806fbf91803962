//! A body that comes in pieces, cut into lines.

use bytes::{Bytes, BytesMut};

/// What was read, cut into lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    buffer: BytesMut,
    /// The start of the buffer up to here holds no line end.
    looked_at: usize,
    /// Octets of the line being read that were too many to be kept.
    dropped: usize,
    /// Octets not kept any more, whose memory is still to be given back.
    pub(super) shed: usize,
    /// The last line given.
    pub(super) number: u64,
}

/// A line without its end, or its length where that was too much.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) number: u64,
    pub(super) octets: Result<Bytes, usize>,
}

impl Lines {
    /// Whether nothing has come yet.
    pub(super) fn is_untouched(&self) -> bool {
        self.number == 0 && self.buffer.is_empty()
    }

    pub(super) fn push(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
    }

    /// The next whole line, of at most `max` octets.
    pub(super) fn next(&mut self, max: usize) -> Option<Line> {
        match memchr::memchr(b'\n', &self.buffer[self.looked_at..]) {
            Some(at) => {
                let line = self.buffer.split_to(self.looked_at + at + 1);
                self.looked_at = 0;
                Some(self.line(line.freeze(), 1, max))
            }
            None => {
                self.looked_at = self.buffer.len();
                if self.dropped + self.buffer.len() > max {
                    self.dropped += self.buffer.len();
                    self.shed += self.buffer.len();
                    self.looked_at = 0;
                    self.buffer.clear();
                }
                None
            }
        }
    }

    /// What is left behind the last line end, if anything.
    pub(super) fn rest(&mut self) -> Option<Line> {
        let rest = self.buffer.split().freeze();
        (!rest.is_empty() || self.dropped > 0).then(|| self.line(rest, 0, usize::MAX))
    }

    fn line(&mut self, octets: Bytes, end: usize, max: usize) -> Line {
        self.number += 1;
        let length = std::mem::take(&mut self.dropped) + octets.len();
        let good = length == octets.len() && length - end <= max;
        let octets = if good {
            Ok(octets.slice(..octets.len() - end))
        } else {
            self.shed += octets.len();
            Err(length)
        };
        Line { number: self.number, octets }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_lines_however_they_come() {
        let text = b"one\n\ntwo\r\n0123456789ab\n0123456789\nrest";
        let good = |number, text: &'static [u8]| Line { number, octets: Ok(Bytes::from_static(text)) };
        for cut in 1..text.len() {
            let mut lines = Lines::default();
            let mut found = Vec::new();
            for piece in text.chunks(cut) {
                lines.push(piece);
                found.extend(std::iter::from_fn(|| lines.next(10)));
            }
            found.extend(lines.rest());
            let expected = [
                good(1, b"one"),
                good(2, b""),
                good(3, b"two\r"),
                Line { number: 4, octets: Err(13) },
                good(5, b"0123456789"),
                good(6, b"rest"),
            ];
            assert_eq!(found, expected, "in pieces of {cut}");
            assert_eq!(lines.rest(), None);
        }
    }
}
