//! The header section of a message: where it ends, which fields it has. Borrows, and allocates only where
//! a value stands on several lines.

use std::borrow::Cow;

use memchr::memmem;

/// One field of a header section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// The name as written, without white space before the colon.
    pub name: &'a [u8],
    /// Everything behind the colon, folding and final CRLF included.
    pub value: &'a [u8],
    /// Where the field starts, in octets from the start of the section.
    pub start: usize,
    /// Where the next one starts.
    pub end: usize,
}

impl<'a> Field<'a> {
    /// Compares the name without regard to case.
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }

    /// The value on one line: unfolded, trimmed, invalid UTF-8 replaced.
    pub fn text(&self) -> Cow<'a, str> {
        let text = match std::str::from_utf8(self.value) {
            Ok(text) => Cow::Borrowed(text.trim()),
            Err(_) => Cow::Owned(String::from_utf8_lossy(self.value).trim().to_owned()),
        };
        // A CR or LF alone is not folding, and stays.
        if memchr::memchr(b'\n', text.as_bytes()).is_some() { Cow::Owned(text.replace("\r\n", "")) } else { text }
    }
}

/// The length of the header section with the final CRLF of its last field, without the empty line behind it. A message
/// without an empty line is all header (RFC 5322 §3.5).
pub fn section_len(message: &[u8]) -> usize {
    if message.starts_with(b"\r\n") {
        return 0;
    }
    memmem::find(message, b"\r\n\r\n").map_or(message.len(), |at| at + 2)
}

/// Walks the fields of a header section. A line that is no field (no colon, a name with a control character or space)
/// ends the walk: what follows is not header. The caller can compare the last `end` with the section's length.
pub fn fields(section: &[u8]) -> Fields<'_> {
    Fields { section, at: 0 }
}

/// Iterator of [`fields`].
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    section: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    fn next(&mut self) -> Option<Field<'a>> {
        let rest = &self.section[self.at..];
        let colon = memchr::memchr(b':', rest)?;
        let name = rest[..colon].trim_ascii_end();
        if name.is_empty() || !name.iter().all(|b| (33..=126).contains(b)) {
            return None;
        }
        let len = field_len(rest);
        let field = Field { name, value: &rest[(colon + 1).min(len)..len], start: self.at, end: self.at + len };
        self.at += len;
        Some(field)
    }
}

/// The length of the field at the start of `rest`: up to the first CRLF that no space or tab follows.
fn field_len(rest: &[u8]) -> usize {
    let mut at = 0;
    // One octet is found without the preparation that a search for two takes, and lines are short.
    while let Some(found) = memchr::memchr(b'\n', &rest[at..]) {
        at += found + 1;
        if rest[..at].ends_with(b"\r\n") && !matches!(rest.get(at), Some(b' ' | b'\t')) {
            return at;
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(section: &str) -> Vec<String> {
        fields(section.as_bytes()).map(|f| String::from_utf8_lossy(f.name).into_owned()).collect()
    }

    #[test]
    fn walks_folded_fields() {
        let message = b"From: a\r\nSubject: one\r\n two\r\nX :\r\n\r\nbody: no\r\n";
        let section = &message[..section_len(message)];
        assert_eq!(names(std::str::from_utf8(section).expect("ascii")), ["From", "Subject", "X"]);
        let subject = fields(section).nth(1).expect("there");
        assert_eq!(subject.text(), "one two");
        assert_eq!(&section[subject.start..subject.end], b"Subject: one\r\n two\r\n");
        assert!(subject.is("SUBJECT"));
    }

    #[test]
    fn stops_where_the_header_does() {
        assert_eq!(section_len(b"\r\nbody"), 0);
        assert_eq!(section_len(b"A: b"), 4);
        assert_eq!(names("A: b\r\nno field here\r\nC: d\r\n"), ["A"]);
        assert_eq!(names(": x\r\n"), Vec::<String>::new());
        assert_eq!(names("A"), Vec::<String>::new());
    }
}
