//! The DATA receiver: finds the end of the content and takes out the dots added for transparency (RFC 5321 §4.5.2).
//!
//! Only `CRLF . CRLF` ends the content. A line begins after CRLF and nowhere else, so none of `LF . LF`, `LF . CRLF`,
//! `CRLF . LF`, `CR . CR` does, however a sender or a server before us reads them (SMTP smuggling). Such content is
//! refused by [`Content`] when its end has come.

use memchr::memmem;

use super::content::{Content, MemoryFull};

/// Where in a line the reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Behind CRLF, or at the very start.
    LineStart,
    /// Behind a dot at the start of a line; the dot is not content, whatever follows.
    Dot,
    /// Behind that dot and a CR.
    DotCr,
    /// In a line.
    Line,
    /// In a line, behind a CR.
    LineCr,
}

/// Reads the content behind DATA.
#[derive(Debug)]
pub(super) struct DotReader {
    at: At,
}

/// How far the reader came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// All input is taken; the end has not come.
    More,
    /// The end has come; what is left of the input are commands.
    End,
    /// The content wants memory and there is none; the rest of the input is not taken.
    MemoryFull,
}

impl DotReader {
    /// Before the first octet.
    pub(super) fn new() -> DotReader {
        DotReader { at: At::LineStart }
    }

    /// Takes content from the start of `input`: how many octets, and why it stopped there.
    pub(super) fn read(&mut self, input: &[u8], content: &mut Content) -> (usize, Progress) {
        let mut taken = 0;
        while let Some(&next) = input.get(taken) {
            let (run, after, consumed): (&[u8], At, usize) = match (self.at, next) {
                (At::LineStart, b'.') => (b"", At::Dot, 1),
                (At::LineStart, _) => (b"", At::Line, 0),
                (At::Dot, b'\r') => (b"", At::DotCr, 1),
                (At::Dot, _) => (b"", At::Line, 0),
                (At::DotCr, b'\n') => return (taken + 1, Progress::End),
                // The CR held back was content after all.
                (At::DotCr, _) => (b"\r", At::LineCr, 0),
                (At::LineCr, b'\n') => (b"\n", At::LineStart, 1),
                (At::LineCr, _) => (b"", At::Line, 0),
                (At::Line, _) => {
                    let (run, after) = run_of_lines(&input[taken..]);
                    (run, after, run.len())
                }
            };
            if !run.is_empty() && content.append(run) == Err(MemoryFull) {
                return (taken, Progress::MemoryFull);
            }
            self.at = after;
            taken += consumed;
        }
        (taken, Progress::More)
    }
}

/// The longest run that can be copied as it is: up to a line that begins with a dot.
fn run_of_lines(input: &[u8]) -> (&[u8], At) {
    if let Some(crlf) = memmem::find(input, b"\r\n.") {
        return (&input[..crlf + 2], At::LineStart);
    }
    let after = if input.ends_with(b"\r\n") {
        At::LineStart
    } else if input.ends_with(b"\r") {
        At::LineCr
    } else {
        At::Line
    };
    (input, after)
}

#[cfg(test)]
mod tests {
    use super::super::super::message::HEADROOM;
    use super::super::content::Fault;
    use super::super::limits::{Memory, MemoryShare};
    use super::*;

    /// Reads `wire` in pieces of every size; expects the end exactly at `wire`'s end.
    #[track_caller]
    fn check(wire: &[u8], expected: Result<&[u8], &str>) {
        for cut in 1..=wire.len() {
            let mut content = Content::new(MemoryShare::empty(Memory::new(1 << 20)), None, 1000, 998);
            let mut reader = DotReader::new();
            let mut pieces = wire.chunks(cut).peekable();
            while let Some(piece) = pieces.next() {
                let progress = reader.read(piece, &mut content);
                let expected = if pieces.peek().is_none() { Progress::End } else { Progress::More };
                assert_eq!(
                    progress,
                    (piece.len(), expected),
                    "{:?} in pieces of {cut}",
                    wire.escape_ascii().to_string()
                );
            }
            let got = content.finish().map(|received| received.buffer[HEADROOM..].to_vec());
            let got = got.as_deref().map_err(|fault| match fault {
                Fault::BareLineEnd { octet, .. } => *octet,
                other => panic!("{other:?}"),
            });
            assert_eq!(got, expected, "in pieces of {cut}");
        }
    }

    #[test]
    fn takes_out_dots() {
        check(b".\r\n", Ok(b""));
        check(b"a\r\n.\r\n", Ok(b"a\r\n"));
        check(b"..\r\n.\r\n", Ok(b".\r\n"));
        check(b"..a\r\n...\r\n.b\r\nc.\r\n.\r\n", Ok(b".a\r\n..\r\nb\r\nc.\r\n"));
        check(b"\r\n\r\n.\r\n", Ok(b"\r\n\r\n"));
    }

    #[test]
    fn nothing_else_ends_it() {
        for wire in [&b"a\n.\n.\r\n\r\n.\r\n"[..], b"a\n.\r\nb\r\n.\r\n", b"a\r\n.\nb\r\n.\r\n", b"\n.\r\n\r\n.\r\n"] {
            check(wire, Err("LF"));
        }
        for wire in [&b"a\r.\r\nb\r\n.\r\n"[..], b"a\r\n.\rb\r\n.\r\n", b"a\r.\rb\r\n.\r\n", b"a\r\n.\r\r\n.\r\n"] {
            check(wire, Err("CR"));
        }
    }
}
