//! The content of one message as it is received: one buffer, and the checks made on the way in.
//!
//! Each run of octets is looked at once and copied once. After the first fault nothing more is kept, the memory is given
//! back, and the rest is only counted, since the client must be read to its end before it can be answered.

use super::super::message::HEADROOM;
use super::limits::MemoryShare;
use super::refusal::{Reason, Refusal};

/// A declared SIZE is a hint for the first allocation, believed up to here.
const HINT_MAX: usize = 1 << 20;

/// First allocation without a hint: headroom and a common mail.
const CAPACITY_MIN: usize = 16 << 10;

/// A client that sends this many times the allowed size is not read to the end.
const PATIENCE: u64 = 2;

/// Content being received.
#[derive(Debug)]
pub(super) struct Content {
    buffer: Vec<u8>,
    memory: MemoryShare,
    lines: Lines,
    received: u64,
    size_max: usize,
    fault: Option<Fault>,
}

/// Content received whole, good so far as octets go.
#[derive(Debug)]
pub(super) struct Whole {
    /// [`HEADROOM`], then content that is empty or ends in CRLF.
    pub(super) buffer: Vec<u8>,
    /// What the buffer is accounted with.
    pub(super) memory: MemoryShare,
    /// It holds octets above 127.
    pub(super) eight_bit: bool,
}

/// What is wrong with content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Larger than allowed.
    TooLarge {
        /// Allowed octets.
        max: usize,
    },
    /// CR without LF, or LF without CR.
    BareLineEnd {
        /// `CR` or `LF`.
        octet: &'static str,
        /// Counted from 1.
        line: u64,
    },
    /// A line too long.
    LineTooLong {
        /// Counted from 1.
        line: u64,
        /// In octets, without CRLF.
        length: u64,
        /// Allowed octets.
        max: usize,
        /// Its end has not come yet.
        open: bool,
    },
    /// A NUL.
    Nul {
        /// Counted from 1.
        line: u64,
    },
    /// All memory is in use.
    Memory,
}

/// The content cannot grow now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MemoryFull;

impl Content {
    /// Content of at most `size_max` octets in lines of at most `line_max`. `size_hint` is the declared size.
    pub(super) fn new(memory: MemoryShare, size_hint: Option<u64>, size_max: usize, line_max: usize) -> Content {
        let mut content =
            Content { buffer: Vec::new(), memory, lines: Lines::new(line_max), received: 0, size_max, fault: None };
        let hint = size_hint.map_or(0, |size| usize::try_from(size).unwrap_or(HINT_MAX).min(HINT_MAX));
        // Best effort: without memory now the first octets will ask again.
        let _ = content.grow_to((HEADROOM + hint).max(CAPACITY_MIN));
        content
    }

    /// Whether there is memory to begin with.
    pub(super) fn has_memory(&self) -> bool {
        self.buffer.capacity() > 0
    }

    /// Takes a run of octets, all or nothing.
    ///
    /// # Errors
    /// All memory is in use; nothing was taken. The caller may try again or give up with [`Content::fail`].
    pub(super) fn append(&mut self, run: &[u8]) -> Result<(), MemoryFull> {
        if self.fault.is_none() {
            self.make_room(run.len())?;
        }
        self.received += run.len() as u64;
        match &mut self.fault {
            Some(Fault::LineTooLong { length, open: open @ true, .. }) => {
                let end = memchr::memchr2(b'\r', b'\n', run);
                *open = end.is_none();
                *length += end.unwrap_or(run.len()) as u64;
            }
            Some(_) => {}
            None if self.received > self.size_max as u64 => self.fail(Fault::TooLarge { max: self.size_max }),
            None => match self.lines.scan(run) {
                Some(fault) => self.fail(fault),
                None => self.buffer.extend_from_slice(run),
            },
        }
        Ok(())
    }

    /// Refuses the content; the first fault stands.
    pub(super) fn fail(&mut self, fault: Fault) {
        self.fault.get_or_insert(fault);
        self.buffer = Vec::new();
        self.memory.resize(0);
    }

    /// What is wrong with it so far.
    pub(super) fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Whether it is pointless to read on: so much was sent that the client will not stop either.
    pub(super) fn is_hopeless(&self) -> bool {
        self.received > patience(self.size_max)
    }

    /// The content is complete.
    ///
    /// A last line without CRLF, which BDAT can carry, gets one: the next server may want DATA, which cannot do
    /// without, and a signature must not depend on that.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn finish(mut self) -> Result<Whole, Fault> {
        if self.fault.is_none()
            && let Some(fault) = self.lines.end()
        {
            self.fail(fault);
        }
        let ends_in_crlf = self.received == 0 || self.buffer.ends_with(b"\r\n");
        if self.fault.is_none() && !ends_in_crlf && self.append(b"\r\n").is_err() {
            self.fail(Fault::Memory);
        }
        if self.fault.is_none() && self.buffer.is_empty() && self.make_room(0).is_err() {
            self.fail(Fault::Memory);
        }
        match self.fault {
            Some(fault) => Err(fault),
            None => Ok(Whole { buffer: self.buffer, memory: self.memory, eight_bit: self.lines.eight_bit }),
        }
    }

    fn make_room(&mut self, octets: usize) -> Result<(), MemoryFull> {
        let needed = self.buffer.len().max(HEADROOM) + octets;
        if needed <= self.buffer.capacity() && !self.buffer.is_empty() {
            return Ok(());
        }
        // Doubling keeps copies rare; no further than the largest message can need.
        let doubled = (self.buffer.capacity() * 2).min(HEADROOM + self.size_max + 2);
        self.grow_to(needed.max(doubled).max(CAPACITY_MIN))
    }

    fn grow_to(&mut self, capacity: usize) -> Result<(), MemoryFull> {
        if capacity > self.buffer.capacity() {
            if !self.memory.resize(capacity) {
                return Err(MemoryFull);
            }
            self.buffer.reserve_exact(capacity - self.buffer.len());
        }
        if self.buffer.is_empty() {
            self.buffer.resize(HEADROOM, 0);
        }
        Ok(())
    }
}

/// Octets of one content that are read even though it is refused, when `size_max` are allowed.
pub(super) fn patience(size_max: usize) -> u64 {
    (size_max as u64).saturating_mul(PATIENCE).saturating_add(HINT_MAX as u64)
}

impl Fault {
    /// What the client is told.
    pub(super) fn refusal(self) -> Refusal {
        match self {
            Fault::TooLarge { max } => {
                Refusal::new(Reason::Size, 552, (5, 3, 4), format!("message larger than {max} octets"))
            }
            Fault::BareLineEnd { octet, line } => Refusal::new(
                Reason::BareLineEnd,
                550,
                (5, 6, 11),
                format!("line {line} holds a bare {octet}; lines end in CRLF (RFC 5321 2.3.8)"),
            ),
            Fault::LineTooLong { line, length, max, .. } => Refusal::new(
                Reason::LineLength,
                554,
                (5, 6, 0),
                format!("line {line} is {length} octets long, more than {max} (RFC 5321 4.5.3.1.6)"),
            ),
            Fault::Nul { line } => Refusal::new(Reason::Nul, 550, (5, 6, 0), format!("line {line} holds a NUL")),
            Fault::Memory => Refusal::new(Reason::Memory, 452, (4, 3, 1), "memory_max is in use, try again later"),
        }
    }
}

/// The checks on lines, which may begin in one run and end in another.
#[derive(Debug)]
struct Lines {
    max: usize,
    /// The line being read, from 1.
    line: u64,
    /// Its octets so far, a CR at the end included.
    length: usize,
    after_cr: bool,
    eight_bit: bool,
}

impl Lines {
    fn new(max: usize) -> Lines {
        Lines { max, line: 1, length: 0, after_cr: false, eight_bit: false }
    }

    /// Looks at a run. The first fault by place wins, however the runs are cut.
    fn scan(&mut self, run: &[u8]) -> Option<Fault> {
        self.eight_bit = self.eight_bit || !run.is_ascii();
        match memchr::memchr(0, run) {
            None => self.scan_ends(run),
            Some(at) => self.scan_ends(&run[..at]).or(match self.after_cr {
                true => Some(Fault::BareLineEnd { octet: "CR", line: self.line }),
                false => Some(Fault::Nul { line: self.line }),
            }),
        }
    }

    fn scan_ends(&mut self, run: &[u8]) -> Option<Fault> {
        let first = *run.first()?;
        if self.after_cr && first != b'\n' {
            return Some(Fault::BareLineEnd { octet: "CR", line: self.line });
        }
        let mut start = 0;
        for at in memchr::memchr2_iter(b'\r', b'\n', run) {
            let before_is_cr = if at == 0 { self.after_cr } else { run[at - 1] == b'\r' };
            let length = self.length + (at - start);
            if run[at] == b'\r' {
                if length > self.max {
                    return Some(self.too_long(length, false));
                }
                if run.get(at + 1).is_some_and(|next| *next != b'\n') {
                    return Some(Fault::BareLineEnd { octet: "CR", line: self.line });
                }
                continue;
            }
            if !before_is_cr {
                return Some(match length > self.max {
                    true => self.too_long(length, false),
                    false => Fault::BareLineEnd { octet: "LF", line: self.line },
                });
            }
            self.line += 1;
            self.length = 0;
            start = at + 1;
        }
        self.length += run.len() - start;
        self.after_cr = run.last() == Some(&b'\r');
        let length = self.length - usize::from(self.after_cr);
        if length > self.max { Some(self.too_long(length, !self.after_cr)) } else { None }
    }

    fn too_long(&self, length: usize, open: bool) -> Fault {
        Fault::LineTooLong { line: self.line, length: length as u64, max: self.max, open }
    }

    fn end(&self) -> Option<Fault> {
        self.after_cr.then_some(Fault::BareLineEnd { octet: "CR", line: self.line })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::limits::Memory;
    use super::*;

    /// Feeds `content` cut into pieces of `cut` octets.
    fn receive(content: &[u8], cut: usize, size_max: usize, memory: &Arc<Memory>) -> Result<Vec<u8>, Fault> {
        let mut sink = Content::new(MemoryShare::empty(memory.clone()), None, size_max, 10);
        for run in content.chunks(cut) {
            if sink.append(run).is_err() {
                sink.fail(Fault::Memory);
            }
        }
        let received = sink.finish()?;
        assert_eq!(received.eight_bit, !content.is_ascii());
        assert_eq!(memory.used(), received.buffer.capacity(), "accounted by real capacity");
        Ok(received.buffer[HEADROOM..].to_vec())
    }

    #[track_caller]
    fn check(content: &[u8], expected: Result<&[u8], Fault>) {
        for cut in 1..=content.len().max(1) {
            let memory = Memory::new(1 << 20);
            let got = receive(content, cut, 40, &memory);
            assert_eq!(got.as_deref().map_err(|fault| *fault), expected, "in pieces of {cut}");
            assert_eq!(memory.used(), 0);
        }
    }

    #[test]
    fn takes_good_lines() {
        check(b"", Ok(b""));
        check(b"\r\n", Ok(b"\r\n"));
        check(b"one\r\n\r\ntwo\r\n", Ok(b"one\r\n\r\ntwo\r\n"));
        check(b"no end", Ok(b"no end\r\n"));
        check(b"1234567890\r\n1234567890\r\n", Ok(b"1234567890\r\n1234567890\r\n"));
        check(b"\xff\xfe\r\n", Ok(b"\xff\xfe\r\n"));
    }

    #[test]
    fn names_the_first_fault() {
        let bare = |octet, line| Err(Fault::BareLineEnd { octet, line });
        let long = |line, length| Err(Fault::LineTooLong { line, length, max: 10, open: false });
        check(b"a\nb\r\n", bare("LF", 1));
        check(b"\n", bare("LF", 1));
        check(b"a\r\nb\rc\r\n", bare("CR", 2));
        check(b"a\r\r\n", bare("CR", 1));
        check(b"a\r", bare("CR", 1));
        check(b"a\r\n\r", bare("CR", 2));
        check(b"a\r\n\n", bare("LF", 2));
        check(b"a\r\0\n", bare("CR", 1));
        check(b"a\r\nb\0\nc", Err(Fault::Nul { line: 2 }));
        check(b"a\nb\0", bare("LF", 1));
        check(b"a\r\n12345678901\r\n", long(2, 11));
        check(b"a\r\n123456789012345\r\nb\nc\r\n", long(2, 15));
        // Its end never comes.
        let open = Fault::LineTooLong { line: 1, length: 30, max: 10, open: true };
        check(&[b'x'; 30], Err(open));
        assert_eq!(receive(&b"12345678\r\n".repeat(5), 7, 40, &Memory::new(1 << 20)), Err(Fault::TooLarge { max: 40 }));
    }

    #[test]
    fn memory_is_bounded_and_given_back() {
        let memory = Memory::new(20 << 10);
        let line = [&[b'x'; 8][..], b"\r\n"].concat().repeat(3000);
        assert_eq!(receive(&line, 1000, 1 << 20, &memory), Err(Fault::Memory));
        assert_eq!(memory.used(), 0);
        let content = Content::new(MemoryShare::empty(memory.clone()), Some(u64::MAX), 1 << 20, 10);
        assert!(!content.has_memory(), "the hint is capped, but 1 MiB is too much here");
    }
}
