//! Lists of addresses as headers and command lines have them (RFC 5322 §3.4): where each address stands.

use std::ops::Range;

/// The list cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum ListError {
    /// A quotation, comment, literal or angle bracket that does not end.
    #[error("a quote, comment or bracket has no end")]
    Open,
    /// Words side by side that are no address.
    #[error("an address is missing, or stands without its brackets")]
    Words,
}

/// Where the addresses stand, without names, comments and brackets. The null address (`<>`) and empty places between
/// commas are none.
pub(super) fn addresses(list: &[u8]) -> Result<Vec<Range<usize>>, ListError> {
    let mut found = Vec::new();
    let mut place = Place::default();
    let mut at = 0;
    while let Some(&octet) = list.get(at) {
        let start = at;
        at = match octet {
            b'"' => behind(list, at, b'"')?,
            b'[' => behind(list, at, b']')?,
            b'(' => behind_comment(list, at)?,
            b'<' => behind_bracket(list, at)?,
            _ => at + 1,
        };
        match octet {
            b'<' => place.bracket = Some(trimmed(list, start + 1..at - 1)),
            b',' | b';' => found.extend(std::mem::take(&mut place).end()?),
            // What stood in front was the name of a group.
            b':' => place = Place::default(),
            b'(' | b' ' | b'\t' | b'\r' | b'\n' => place.gap = place.words.is_some(),
            _ => place.word(start..at),
        }
    }
    found.extend(place.end()?);
    Ok(found)
}

/// What stands between two commas.
#[derive(Default)]
struct Place {
    /// From the first word to the last.
    words: Option<Range<usize>>,
    /// White space or a comment stands behind the last word.
    gap: bool,
    /// Words stand apart: they are a name, no address.
    apart: bool,
    bracket: Option<Range<usize>>,
}

impl Place {
    fn word(&mut self, word: Range<usize>) {
        match &mut self.words {
            None => self.words = Some(word),
            Some(words) => {
                self.apart |= self.gap;
                words.end = word.end;
            }
        }
        self.gap = false;
    }

    fn end(self) -> Result<Option<Range<usize>>, ListError> {
        match (self.bracket, self.words) {
            (Some(address), _) => Ok(Some(address).filter(|address| !address.is_empty())),
            (None, Some(_)) if self.apart => Err(ListError::Words),
            (None, words) => Ok(words),
        }
    }
}

/// Behind the `end` of what begins at `from`; a backslash takes the next octet with it.
fn behind(list: &[u8], from: usize, end: u8) -> Result<usize, ListError> {
    let mut at = from + 1;
    while let Some(&octet) = list.get(at) {
        at += if octet == b'\\' { 2 } else { 1 };
        if octet == end {
            return Ok(at);
        }
    }
    Err(ListError::Open)
}

fn behind_comment(list: &[u8], from: usize) -> Result<usize, ListError> {
    let (mut at, mut depth) = (from, 0);
    while let Some(&octet) = list.get(at) {
        at += if octet == b'\\' { 2 } else { 1 };
        match octet {
            b'(' => depth += 1,
            b')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Ok(at);
        }
    }
    Err(ListError::Open)
}

fn behind_bracket(list: &[u8], from: usize) -> Result<usize, ListError> {
    let mut at = from + 1;
    while let Some(&octet) = list.get(at) {
        match octet {
            b'"' => at = behind(list, at, b'"')?,
            b'>' => return Ok(at + 1),
            _ => at += 1,
        }
    }
    Err(ListError::Open)
}

fn trimmed(list: &[u8], range: Range<usize>) -> Range<usize> {
    let inside = &list[range.clone()];
    let start = range.start + (inside.len() - inside.trim_ascii_start().len());
    start..start + inside.trim_ascii().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(list: &str) -> Result<Vec<&str>, ListError> {
        Ok(addresses(list.as_bytes())?.into_iter().map(|range| &list[range]).collect())
    }

    #[test]
    fn finds_addresses() {
        for (list, expected) in [
            ("a@b.example", &["a@b.example"][..]),
            (" a@b ,\r\n\tc@d\r\n", &["a@b", "c@d"]),
            ("Ann Smith <a@b>, \"Smith, Bob\" < c@d >", &["a@b", "c@d"]),
            ("root (Cron Daemon)", &["root"]),
            ("(Cron (a) \\) Daemon) root", &["root"]),
            ("\"(Cron Daemon)\" <root>", &["root"]),
            ("undisclosed-recipients:;", &[]),
            ("friends: a@b, Bob <c@d>;, e@f", &["a@b", "c@d", "e@f"]),
            ("\"a b\"@c, <\"d>e\"@f>", &["\"a b\"@c", "\"d>e\"@f"]),
            ("a@[IPv6:2001:db8::1], b@c", &["a@[IPv6:2001:db8::1]", "b@c"]),
            ("<>, ,", &[]),
            ("J\u{fc}rgen <j@b>", &["j@b"]),
            ("", &[]),
        ] {
            assert_eq!(read(list), Ok(expected.to_vec()), "{list:?}");
        }
    }

    #[test]
    fn says_what_it_cannot_read() {
        for list in ["Ann Smith", "a@b c@d", "a (x) b"] {
            assert_eq!(read(list), Err(ListError::Words), "{list:?}");
        }
        for list in ["\"a", "a (b", "<a", "a@[1", "\"a\\\"", "(\\"] {
            assert_eq!(read(list), Err(ListError::Open), "{list:?}");
        }
    }
}
