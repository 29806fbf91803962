//! Reading replies: bytes in, whole replies out, however they are cut.
//!
//! RFC 5321 §4.2: three digits, a space or hyphen, text. Bare LF ends a line, too, and a bare code is a reply: servers
//! that do so exist. Everything else is [`Garbage`], which ends the session: after it nobody knows which reply belongs
//! to which command.

use crate::mail::{EnhancedCode, Reply};

/// Text of a reply that is kept (of the reply to EHLO, [`EHLO_TEXT_MAX`]).
pub(super) const TEXT_MAX: usize = 2_000;

/// Text kept of the reply to EHLO: capabilities must not be cut off.
pub(super) const EHLO_TEXT_MAX: usize = 16_384;

/// Longest line that is read at all. RFC 5321 §4.5.3.1.5 says 512; filters put whole error pages into theirs.
const LINE_MAX: usize = 65_536;

/// Most lines in one reply.
const LINES_MAX: usize = 1_000;

/// Where the buffer starts; it grows only for long lines.
const BUFFER_START: usize = 2_048;

/// What is no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Garbage {
    #[error("{0:?} is no reply")]
    NotAReply(String),
    #[error("one reply says {first} and {then}")]
    CodesDiffer { first: u16, then: u16 },
    #[error("a reply of more than {LINES_MAX} lines")]
    TooManyLines,
    #[error("a reply line of more than {LINE_MAX} octets")]
    LineTooLong,
    #[error("{0} makes no sense here")]
    Unexpected(u16),
    #[error("a reply before the command")]
    OutOfTurn,
}

/// A whole reply, valid until the next one is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReplyRef<'a> {
    pub(super) code: u16,
    pub(super) enhanced: Option<EnhancedCode>,
    /// Without codes, lines joined by a line feed, harmless.
    pub(super) text: &'a str,
}

impl ReplyRef<'_> {
    pub(super) fn to_reply(self) -> Reply {
        Reply { code: self.code, enhanced: self.enhanced, text: self.text.to_owned().into() }
    }
}

/// Bytes read and not yet understood, and the reply under way.
#[derive(Debug)]
pub(super) struct Replies {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Up to here there is no LF.
    scanned: usize,
    code: Option<u16>,
    enhanced: Option<EnhancedCode>,
    text: String,
    lines: usize,
    is_whole: bool,
}

impl Replies {
    pub(super) fn new() -> Replies {
        Replies {
            buffer: vec![0; BUFFER_START],
            start: 0,
            end: 0,
            scanned: 0,
            code: None,
            enhanced: None,
            text: String::new(),
            lines: 0,
            is_whole: false,
        }
    }

    /// Nothing read that was not taken, and no reply half read.
    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end && self.code.is_none()
    }

    /// Room to read into; never empty as long as [`Replies::has_next`] was asked since the last [`Replies::filled`].
    pub(super) fn room(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.scanned -= self.start;
            self.start = 0;
        }
        if self.end == self.buffer.len() {
            self.buffer.resize((self.buffer.len() * 2).min(LINE_MAX + 2), 0);
        }
        &mut self.buffer[self.end..]
    }

    /// `octets` of the room were filled.
    pub(super) fn filled(&mut self, octets: usize) {
        self.end += octets;
    }

    /// Takes up to one line of what was read, for a reader that parses by itself; at most `max` octets.
    pub(super) fn take_raw_line(&mut self, max: usize) -> &[u8] {
        let waiting = &self.buffer[self.start..self.end];
        let line = memchr::memchr(b'\n', waiting).map_or(waiting.len(), |lf| lf + 1).min(max);
        let from = self.start;
        self.start += line;
        self.scanned = self.start;
        &self.buffer[from..from + line]
    }

    /// Whether a whole reply has come; keeps `text_max` octets of its text. If so, [`Replies::take_next`] gives it.
    pub(super) fn has_next(&mut self, text_max: usize) -> Result<bool, Garbage> {
        if self.is_whole {
            return Ok(true);
        }
        loop {
            let Some(lf) = memchr::memchr(b'\n', &self.buffer[self.scanned..self.end]) else {
                self.scanned = self.end;
                return if self.end - self.start > LINE_MAX { Err(Garbage::LineTooLong) } else { Ok(false) };
            };
            let line = self.start..self.scanned + lf;
            self.start = line.end + 1;
            self.scanned = self.start;
            if line.len() > LINE_MAX {
                return Err(Garbage::LineTooLong);
            }
            if self.take_line(line, text_max)? {
                self.is_whole = true;
                return Ok(true);
            }
        }
    }

    /// The reply that [`Replies::has_next`] saw.
    pub(super) fn take_next(&mut self) -> ReplyRef<'_> {
        self.is_whole = false;
        let code = self.code.take().expect("has_next said so");
        ReplyRef { code, enhanced: self.enhanced, text: &self.text }
    }

    /// One line, LF left out. Whether it was the last of its reply.
    fn take_line(&mut self, line: std::ops::Range<usize>, text_max: usize) -> Result<bool, Garbage> {
        let line = &self.buffer[line];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let (code, last, rest) = split_line(line).ok_or_else(|| Garbage::NotAReply(excerpt(line)))?;
        match self.code {
            Some(first) if first != code => return Err(Garbage::CodesDiffer { first, then: code }),
            Some(_) => self.lines += 1,
            None => {
                self.code = Some(code);
                self.enhanced = None;
                self.text.clear();
                self.lines = 1;
            }
        }
        if self.lines > LINES_MAX {
            return Err(Garbage::TooManyLines);
        }
        let rest = strip_enhanced(rest, code, &mut self.enhanced);
        if self.lines > 1 && self.text.len() < text_max {
            self.text.push('\n');
        }
        push_harmless(&mut self.text, rest, text_max);
        Ok(last)
    }
}

/// `250-text`: code, whether it is the last line, text.
fn split_line(line: &[u8]) -> Option<(u16, bool, &[u8])> {
    let (digits, rest) = line.split_at_checked(3)?;
    let code = match digits {
        [a @ b'2'..=b'5', b @ b'0'..=b'9', c @ b'0'..=b'9'] => {
            u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0')
        }
        _ => return None,
    };
    match rest {
        [] => Some((code, true, rest)),
        [b' ', text @ ..] => Some((code, true, text)),
        [b'-', text @ ..] => Some((code, false, text)),
        _ => None,
    }
}

/// Cuts an enhanced code off the front, if its class is that of the reply and it does not contradict an earlier line
/// (RFC 2034 §4).
fn strip_enhanced<'a>(text: &'a [u8], code: u16, known: &mut Option<EnhancedCode>) -> &'a [u8] {
    let (word, rest) = match memchr::memchr(b' ', text) {
        Some(space) => (&text[..space], &text[space + 1..]),
        None => (text, &text[text.len()..]),
    };
    let found = std::str::from_utf8(word).ok().and_then(|word| word.parse::<EnhancedCode>().ok());
    match found {
        Some(found) if u16::from(found.0) == code / 100 && known.is_none_or(|known| known == found) => {
            *known = Some(found);
            rest
        }
        Some(_) | None => text,
    }
}

/// Appends as valid UTF-8 without control characters, up to `max` octets in all.
fn push_harmless(text: &mut String, octets: &[u8], max: usize) {
    // No character has more than 4 octets, so more input than this cannot matter.
    let octets = &octets[..octets.len().min(max.saturating_sub(text.len()) + 4)];
    for c in String::from_utf8_lossy(octets).chars() {
        let c = match c {
            '\t' => ' ',
            c if c.is_control() => '?',
            c => c,
        };
        if text.len() + c.len_utf8() > max {
            return;
        }
        text.push(c);
    }
}

fn excerpt(line: &[u8]) -> String {
    let mut text = String::new();
    push_harmless(&mut text, line, 80);
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds `bytes` in pieces of `piece` octets; all replies as text, and the error if one ended it.
    fn read(bytes: &[u8], piece: usize) -> Vec<Result<String, Garbage>> {
        let mut replies = Replies::new();
        let mut seen = Vec::new();
        for chunk in bytes.chunks(piece) {
            let mut chunk = chunk;
            while !chunk.is_empty() {
                let room = replies.room();
                let n = room.len().min(chunk.len());
                room[..n].copy_from_slice(&chunk[..n]);
                replies.filled(n);
                chunk = &chunk[n..];
                loop {
                    match replies.has_next(TEXT_MAX) {
                        Ok(true) => seen.push(Ok(format!("{:?}", replies.take_next().to_reply().to_string()))),
                        Ok(false) => break,
                        Err(garbage) => {
                            seen.push(Err(garbage));
                            return seen;
                        }
                    }
                }
            }
        }
        seen
    }

    #[track_caller]
    fn check(bytes: &str, expected: &[&str]) {
        let read: Vec<String> =
            read(bytes.as_bytes(), 7).into_iter().map(|r| r.unwrap_or_else(|garbage| garbage.to_string())).collect();
        assert_eq!(read, expected, "{bytes:?}");
    }

    #[test]
    fn reads_replies() {
        check("250 ok\r\n", &["\"250 ok\""]);
        check("250\r\n", &["\"250\""]);
        check("250 ok\n250-a\n250 b\n", &["\"250 ok\"", "\"250 a b\""]);
        check("250-a\r\n250 b\r\n421 bye\r\n", &["\"250 a b\"", "\"421 bye\""]);
        check("550 5.1.1 no such user\r\n", &["\"550 5.1.1 no such user\""]);
        check("550-5.1.1 no\r\n550 5.1.1 user\r\n", &["\"550 5.1.1 no user\""]);
        check("550 5.1.1\r\n", &["\"550 5.1.1\""]);
        check("250 5.1.1 strange\r\n", &["\"250 5.1.1 strange\""]);
        check("421-4.7.28 slow\r\n421-4.7.28 down\r\n421 4.7.28 x\r\n", &["\"421 4.7.28 slow down x\""]);
        check("250 a\0b\u{7f}\tc\r\r\n", &["\"250 a?b? c?\""]);
        check("250 ok", &[]);
    }

    #[test]
    fn refuses_garbage() {
        for bad in ["hello\r\n", "25 ok\r\n", "1500 x\r\n", "250_ok\r\n", "\r\n", "650 ok\r\n", "150 ok\r\n"] {
            let read = read(bad.as_bytes(), 100);
            assert!(matches!(read.as_slice(), [Err(Garbage::NotAReply(_))]), "{bad:?} {read:?}");
        }
        check("250-a\r\n251 b\r\n", &["one reply says 250 and 251"]);
        check(&"250-x\r\n".repeat(1001), &["a reply of more than 1000 lines"]);
        check(&format!("250 {}", "x".repeat(70_000)), &["a reply line of more than 65536 octets"]);
    }

    #[test]
    fn keeps_enhanced_codes_apart_from_text() {
        let mut replies = Replies::new();
        let bytes = b"550-5.7.1 blocked\r\n550 see url\r\n";
        replies.room()[..bytes.len()].copy_from_slice(bytes);
        replies.filled(bytes.len());
        assert_eq!(replies.has_next(TEXT_MAX), Ok(true));
        let reply = replies.take_next().to_reply();
        assert_eq!(reply.enhanced, Some(EnhancedCode(5, 7, 1)));
        assert_eq!(reply.text, "blocked\nsee url");
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        let long = format!("250-{}\r\n250 {}\r\n", "ä".repeat(900), "ü".repeat(20_000));
        let seen = read(long.as_bytes(), 1000);
        let text = seen[0].as_ref().expect("a reply");
        assert!((1_990..2_100).contains(&text.len()), "{}", text.len());
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_replies(
            bytes in proptest::collection::vec(prop_oneof![
                Just(b"250 ok\r\n".to_vec()), Just(b"250-x\r\n".to_vec()), Just(b"550 5.1.1 no\n".to_vec()),
                proptest::collection::vec(any::<u8>(), 0..6),
            ], 0..12),
            piece in 1usize..40,
        ) {
            let bytes = bytes.concat();
            prop_assert_eq!(read(&bytes, piece), read(&bytes, usize::MAX));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..5000)) {
            read(&bytes, 61);
        }
    }
}
