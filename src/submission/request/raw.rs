//! A whole message as an API client gives it: the checks SMTP makes, but for line ends.
//!
//! API clients keep messages in files and strings of their own, where lines mostly end in LF. Nothing is at stake here
//! that would be with SMTP: the message has a length, no line can end it. So LF becomes CRLF; a bare CR has no such
//! meaning and is refused.

use super::super::message::HEADROOM;

/// Longest line in octets, without CRLF (RFC 5322 §2.1.1).
pub(super) const LINE_MAX: usize = 998;

/// What is wrong with content. Lines count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum RawError {
    /// There is nothing.
    #[error("is empty")]
    Empty,
    /// CR without LF.
    #[error("line {line} holds a bare CR; lines end in CRLF or LF")]
    BareCr {
        /// Which.
        line: usize,
    },
    /// A NUL.
    #[error("line {line} holds a NUL")]
    Nul {
        /// Which.
        line: usize,
    },
    /// A line too long.
    #[error("line {line} is {length} octets long, more than {LINE_MAX} (RFC 5322 §2.1.1)")]
    LineTooLong {
        /// Which.
        line: usize,
        /// In octets, without its end.
        length: usize,
    },
}

/// Content with lines that end in CRLF, behind [`HEADROOM`] octets of room.
///
/// # Errors
/// The first thing that is wrong, by line.
pub(super) fn read(raw: &[u8]) -> Result<Vec<u8>, RawError> {
    if raw.is_empty() {
        return Err(RawError::Empty);
    }
    // Where the first line ends in CRLF, the others do; else most lines of most messages are longer than 40 octets.
    let first = memchr::memchr(b'\n', raw).map_or(raw, |at| &raw[..at]);
    let more = if first.ends_with(b"\r") { 2 } else { raw.len() / 40 + 2 };
    let mut buffer = Vec::with_capacity(HEADROOM + raw.len() + more);
    buffer.resize(HEADROOM, 0);
    append_lines(raw, &mut buffer)?;
    Ok(buffer)
}

/// Appends text line by line, each with CRLF at its end.
///
/// # Errors
/// The first thing that is wrong; what was appended is of no use then.
pub(super) fn append_lines(text: &[u8], buffer: &mut Vec<u8>) -> Result<(), RawError> {
    // Lines that end in CRLF are copied many at a time, when one comes that does not.
    let mut copied = 0;
    let mut start = 0;
    let mut line = 0;
    while start < text.len() {
        line += 1;
        let end = memchr::memchr(b'\n', &text[start..]).map(|at| start + at);
        let octets = &text[start..end.unwrap_or(text.len())];
        let without_cr = end.and_then(|_| octets.strip_suffix(b"\r"));
        let octets = without_cr.unwrap_or(octets);
        match memchr::memchr2(b'\r', 0, octets) {
            Some(at) if octets[at] == 0 => return Err(RawError::Nul { line }),
            Some(_) => return Err(RawError::BareCr { line }),
            None if octets.len() > LINE_MAX => return Err(RawError::LineTooLong { line, length: octets.len() }),
            None => {}
        }
        let next = end.map_or(text.len(), |end| end + 1);
        if without_cr.is_none() {
            buffer.extend_from_slice(&text[copied..start + octets.len()]);
            buffer.extend_from_slice(b"\r\n");
            copied = next;
        }
        start = next;
    }
    buffer.extend_from_slice(&text[copied..]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(raw: &[u8], expected: Result<&[u8], RawError>) {
        let got = read(raw);
        assert_eq!(got.as_deref().map(|buffer| &buffer[HEADROOM..]).map_err(|error| *error), expected);
    }

    #[test]
    fn lines_come_to_end_in_crlf() {
        check(b"A: b\n\nc", Ok(b"A: b\r\n\r\nc\r\n"));
        check(b"A: b\r\n\r\nc\r\n", Ok(b"A: b\r\n\r\nc\r\n"));
        check(b"a\r\n.\nb\n.\r\n", Ok(b"a\r\n.\r\nb\r\n.\r\n"));
        check(b"\n", Ok(b"\r\n"));
        check(b"\xff", Ok(b"\xff\r\n"));
        check(b"a\nb\r\nc\r\nd\ne\r\nf", Ok(b"a\r\nb\r\nc\r\nd\r\ne\r\nf\r\n"));
        check(&[b'x'; LINE_MAX], Ok(&[&[b'x'; LINE_MAX][..], b"\r\n"].concat()));
    }

    #[test]
    fn what_cannot_be_sent_is_named_by_line() {
        check(b"", Err(RawError::Empty));
        check(b"a\nb\rc", Err(RawError::BareCr { line: 2 }));
        check(b"a\r", Err(RawError::BareCr { line: 1 }));
        check(b"a\r\r\n", Err(RawError::BareCr { line: 1 }));
        check(b"a\n\n\0", Err(RawError::Nul { line: 3 }));
        check(&[b'x'; 999], Err(RawError::LineTooLong { line: 1, length: 999 }));
        check(b"a\r\n\r", Err(RawError::BareCr { line: 2 }));
    }

    /// As one would write it who does not care how long it takes.
    fn plain(raw: &[u8]) -> Option<Vec<u8>> {
        let mut lines: Vec<&[u8]> = raw.split_inclusive(|octet| *octet == b'\n').collect();
        let ended =
            |line: &&[u8]| line.strip_suffix(b"\n").map(|line| line.strip_suffix(b"\r").unwrap_or(line).to_vec());
        let last = lines.pop_if(|line| !line.ends_with(b"\n")).map(<[u8]>::to_vec);
        let lines: Vec<Vec<u8>> = lines.iter().filter_map(ended).chain(last).collect();
        let good = lines.iter().flatten().all(|octet| !matches!(octet, b'\r' | 0));
        good.then(|| lines.iter().flat_map(|line| [line, &b"\r\n"[..]].concat()).collect())
    }

    proptest::proptest! {
        #[test]
        fn any_mixture_of_line_ends_is_read(text in "(a|bc|\r\n|\r\n|\n|\n|\r|\0){1,30}") {
            let got = read(text.as_bytes()).ok().map(|buffer| buffer[HEADROOM..].to_vec());
            proptest::prop_assert_eq!(got, plain(text.as_bytes()));
        }
    }
}
