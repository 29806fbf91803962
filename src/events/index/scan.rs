//! Finding out whose a line is, without reading what it says.

use std::fs::File;
use std::io;
use std::ops::Range;

use memchr::memmem::Finder;

use super::{Entry, Reads};
use crate::mail::MessageId;

/// Octets read at a time. Lines are far shorter.
const BLOCK: usize = 1 << 20;

/// In front of the id. No text in a line looks like it: a quote within one has a backslash in front.
const KEY: &[u8] = b"\"message_id\":\"";

/// What every line of the message has in it, and no other.
pub(in crate::events) fn needle_of(id: MessageId) -> String {
    format!("\"message_id\":\"{id}\"")
}

/// Whose the line is; `None`: no message's.
fn named(key: &Finder<'_>, line: &[u8]) -> Option<MessageId> {
    let begin = key.find(line)? + KEY.len();
    MessageId::from_digits(line.get(begin..begin + MessageId::DIGITS)?)
}

#[cfg(test)]
pub(super) fn named_in(line: &[u8]) -> Option<MessageId> {
    named(&Finder::new(KEY), line)
}

/// Adds an entry for each whole line that names a message; `offset` is where `lines` begin in their file.
pub(super) fn collect(lines: &[u8], offset: u64, entries: &mut Vec<Entry>) {
    let key = Finder::new(KEY);
    let mut begin = 0;
    for end in memchr::memchr_iter(b'\n', lines) {
        if let Some(id) = named(&key, &lines[begin..end]) {
            entries.push(Entry { message: id.0, offset: offset + begin as u64 });
        }
        begin = end + 1;
    }
}

/// Shows the whole lines of a stretch of the file, a block at a time, and where each block begins; `show` says whether to
/// go on.
pub(in crate::events) fn each_block(
    file: &File,
    stretch: Range<u64>,
    mut show: impl FnMut(u64, &[u8]) -> bool,
) -> io::Result<()> {
    let reads = Reads::default();
    let mut block = vec![0; BLOCK.min((stretch.end - stretch.start) as usize)];
    let mut at = stretch.start;
    while at < stretch.end {
        let wanted = block.len().min((stretch.end - at) as usize);
        let read = reads.read_at(file, &mut block[..wanted], at)?;
        let whole = memchr::memrchr(b'\n', &block[..read]).map_or(0, |end| end + 1);
        if whole > 0 {
            if !show(at, &block[..whole]) {
                return Ok(());
            }
            at += whole as u64;
        } else if read < wanted || at + read as u64 == stretch.end {
            // The last line has no end yet.
            return Ok(());
        } else {
            block.resize(block.len() * 2, 0);
        }
    }
    Ok(())
}
