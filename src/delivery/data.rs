//! Content on its way out: slices in order, dot-stuffed where DATA wants it, never copied.

use std::io::IoSlice;

use smallvec::SmallVec;

use crate::clock::Instant;

/// Slices given to one write.
pub(super) const WINDOW: usize = 32;

/// What is to be written, in order. Remembers how far it got.
#[derive(Debug)]
pub(super) struct Outbox<'a> {
    ready: SmallVec<[&'a [u8]; WINDOW]>,
    /// Slices before this one are written.
    first: usize,
    more: Option<Stuffed<'a>>,
    /// When everything was written and flushed.
    sent_at: Option<Instant>,
}

impl<'a> Outbox<'a> {
    /// These slices as they are.
    pub(super) fn plain(slices: &[&'a [u8]]) -> Outbox<'a> {
        let ready = slices.iter().copied().filter(|slice| !slice.is_empty()).collect();
        Outbox { ready, first: 0, more: None, sent_at: None }
    }

    /// These parts, one text together, as DATA wants them: dot-stuffed, ended by CRLF, dot, CRLF (RFC 5321 §4.5.2).
    pub(super) fn stuffed(signature: &'a [u8], content: &'a [u8]) -> Outbox<'a> {
        Outbox { more: Some(Stuffed::new([signature, content])), ..Outbox::plain(&[]) }
    }

    /// The slices to write next; empty once all are written. `slices` is room for them.
    pub(super) fn next<'s>(&mut self, slices: &'s mut [IoSlice<'a>; WINDOW]) -> &'s [IoSlice<'a>] {
        if self.first == self.ready.len() {
            self.ready.clear();
            self.first = 0;
            if let Some(more) = &mut self.more {
                self.ready.extend(more.filter(|slice| !slice.is_empty()).take(WINDOW));
            }
        }
        let waiting = &self.ready[self.first..];
        let n = waiting.len().min(WINDOW);
        for (room, slice) in slices.iter_mut().zip(waiting) {
            *room = IoSlice::new(slice);
        }
        &slices[..n]
    }

    /// `octets` of what [`Outbox::next`] gave were written.
    pub(super) fn wrote(&mut self, mut octets: usize) {
        while octets > 0 {
            let slice = &mut self.ready[self.first];
            if octets < slice.len() {
                *slice = &slice[octets..];
                return;
            }
            octets -= slice.len();
            self.first += 1;
        }
    }

    /// Nothing remains in the stream's own buffers either.
    pub(super) fn set_sent(&mut self, now: Instant) {
        self.sent_at = Some(now);
    }

    /// The kernel has all of it.
    pub(super) fn is_sent(&self) -> bool {
        self.sent_at.is_some()
    }

    /// Since when.
    pub(super) fn sent_at(&self) -> Option<Instant> {
        self.sent_at
    }
}

/// The octets of two parts as DATA carries them. A dot that begins a line is doubled by ending one slice with it and
/// beginning the next with the same dot.
#[derive(Debug)]
struct Stuffed<'a> {
    parts: [&'a [u8]; 2],
    part: usize,
    place: Place,
    ended: bool,
}

/// Where in a line the octets so far end. Only CRLF ends a line: a receiver that takes less for one is the reason why
/// the door refuses bare CR and LF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    LineStart,
    AfterCr,
    Inside,
}

impl<'a> Stuffed<'a> {
    fn new(parts: [&'a [u8]; 2]) -> Stuffed<'a> {
        Stuffed { parts, part: 0, place: Place::LineStart, ended: false }
    }

    /// Cuts `octets` off the front of the current part.
    fn cut(&mut self, octets: usize) -> &'a [u8] {
        let (slice, rest) = self.parts[self.part].split_at(octets);
        self.parts[self.part] = rest;
        slice
    }
}

impl<'a> Iterator for Stuffed<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        while self.part < self.parts.len() && self.parts[self.part].is_empty() {
            self.part += 1;
        }
        let Some(rest) = self.parts.get(self.part).copied() else {
            let end: &[u8] = if self.place == Place::LineStart { b".\r\n" } else { b"\r\n.\r\n" };
            return (!std::mem::replace(&mut self.ended, true)).then_some(end);
        };
        // The first line may begin, or go on, where the part before ended.
        match (self.place, rest) {
            (Place::LineStart, [b'.', ..]) => {
                self.place = Place::Inside;
                return Some(&rest[..1]);
            }
            (Place::AfterCr, [b'\n', ..]) => {
                self.place = Place::LineStart;
                return Some(self.cut(1));
            }
            _ => {}
        }
        if let Some(found) = memchr::memmem::find(rest, b"\r\n.") {
            // Up to and with the dot, of which the next slice begins with a second copy.
            self.cut(found + 2);
            self.place = Place::Inside;
            return Some(&rest[..found + 3]);
        }
        self.place = match rest {
            [.., b'\r', b'\n'] => Place::LineStart,
            [.., b'\r'] => Place::AfterCr,
            _ => Place::Inside,
        };
        Some(self.cut(rest.len()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::probe::written;
    use super::*;

    #[track_caller]
    fn check(signature: &str, content: &str, expected: &str) {
        let all = written(Outbox::stuffed(signature.as_bytes(), content.as_bytes()), 5);
        assert_eq!(String::from_utf8(all).expect("text"), expected);
    }

    #[test]
    fn stuffs_dots_and_ends_the_text() {
        check("", "a\r\nb\r\n", "a\r\nb\r\n.\r\n");
        check("", "a", "a\r\n.\r\n");
        check("", "", ".\r\n");
        check("", ".", "..\r\n.\r\n");
        check("", ".\r\nMAIL FROM:<x>\r\n", "..\r\nMAIL FROM:<x>\r\n.\r\n");
        check("", "a\r\n.\r\n", "a\r\n..\r\n.\r\n");
        check("", "a\r\n..\r\n.b", "a\r\n...\r\n..b\r\n.\r\n");
        check("", "\r\n.\r\n.\r\n", "\r\n..\r\n..\r\n.\r\n");
        check("", "a\n.\nb\r\n", "a\n.\nb\r\n.\r\n");
        check("", "a\r", "a\r\r\n.\r\n");
        check("D: x\r\n", "S: y\r\n", "D: x\r\nS: y\r\n.\r\n");
        check("D: x\r\n", ".y", "D: x\r\n..y\r\n.\r\n");
        check("D: x\r", "\n.y", "D: x\r\n..y\r\n.\r\n");
        check("D: x\r\n.", ".y", "D: x\r\n...y\r\n.\r\n");
    }

    #[test]
    fn more_dots_than_a_window_holds() {
        let content = "\r\n.x".repeat(500);
        let expected = "\r\n..x".repeat(500) + "\r\n.\r\n";
        assert_eq!(written(Outbox::stuffed(b"", content.as_bytes()), 1000), expected.as_bytes());
    }

    /// What a server does with the lines of DATA (RFC 5321 §4.5.2), up to and without the final dot.
    fn unstuffed(wire: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut at = 0;
        while at < wire.len() {
            let end = memchr::memmem::find(&wire[at..], b"\r\n").map_or(wire.len(), |i| at + i + 2);
            let line = &wire[at..end];
            assert!(line != b".\r\n" || end == wire.len(), "the text ends before its end");
            match line {
                b".\r\n" => {}
                [b'.', rest @ ..] => out.extend_from_slice(rest),
                line => out.extend_from_slice(line),
            }
            at = end;
        }
        out
    }

    fn tricky() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(prop_oneof![Just(b'.'), Just(b'\r'), Just(b'\n'), Just(b'a')], 0..40)
    }

    proptest! {
        #[test]
        fn unstuffing_gives_the_content_back(signature in tricky(), content in tricky(), piece in 1usize..50) {
            let wire = written(Outbox::stuffed(&signature, &content), piece);
            let mut whole = [signature.as_slice(), content.as_slice()].concat();
            if !whole.is_empty() && !whole.ends_with(b"\r\n") {
                whole.extend_from_slice(b"\r\n");
            }
            prop_assert!(wire.ends_with(b"\r\n.\r\n") || wire == b".\r\n");
            prop_assert_eq!(unstuffed(&wire), whole);
            // It ends once: nowhere earlier does a receiver see the end.
            let ends = memchr::memmem::find_iter(&wire, b"\r\n.\r\n").count();
            prop_assert_eq!(ends, usize::from(wire != b".\r\n"));
        }

        #[test]
        fn plain_goes_out_as_it_is(a in tricky(), b in tricky(), piece in 1usize..50) {
            prop_assert_eq!(written(Outbox::plain(&[&a, &b]), piece), [a, b].concat());
        }
    }
}
