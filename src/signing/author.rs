//! Who wrote a message: the domain of the first address in From.

use crate::mail::Domain;

/// The domain of the first mailbox in a From field's value (RFC 5322 §3.4), folding included; `None` if there is none.
///
/// Takes what people really send: unquoted specials in display names, groups, comments anywhere, source routes. Where
/// that leads nowhere (a smiley opens a comment that never ends), whatever stands behind the last `@` will do: a message
/// must not go out unsigned for a display name.
pub(super) fn domain(value: &[u8]) -> Option<Domain> {
    by_grammar(value).or_else(|| behind_last_at(value))
}

fn behind_last_at(value: &[u8]) -> Option<Domain> {
    let at = memchr::memrchr(b'@', value)?;
    let behind = value[at + 1..].trim_ascii_start();
    let end = behind.iter().position(|b| !(b.is_ascii_alphanumeric() || b"-._".contains(b) || *b >= 0x80));
    std::str::from_utf8(&behind[..end.unwrap_or(behind.len())]).ok()?.parse().ok()
}

fn by_grammar(value: &[u8]) -> Option<Domain> {
    let mut scan = Scan { rest: value, address: Vec::new(), in_angle: false };
    let address = scan.first_mailbox()?;
    let at = address.iter().rposition(|b| *b == b'@')?;
    std::str::from_utf8(&address[at + 1..]).ok()?.parse().ok()
}

/// Walks a value, leaving out comments, white space and quoted strings: an `@` or a comma inside one means nothing, and
/// only the domain is asked for.
struct Scan<'a> {
    rest: &'a [u8],
    /// What may be the address.
    address: Vec<u8>,
    in_angle: bool,
}

impl Scan<'_> {
    fn first_mailbox(&mut self) -> Option<&[u8]> {
        while let Some((&b, rest)) = self.rest.split_first() {
            self.rest = rest;
            match b {
                b'(' => self.skip_comment(),
                b'"' => self.skip_quoted(),
                // What stood before was a display name; what stands inside is the address.
                b'<' => {
                    self.address.clear();
                    self.in_angle = true;
                }
                b'>' => break,
                // What stood before was a group's name, or a source route.
                b':' => self.address.clear(),
                b',' | b';' if self.in_angle => {}
                b',' | b';' if self.address.contains(&b'@') => break,
                b',' | b';' => self.address.clear(),
                b' ' | b'\t' | b'\r' | b'\n' => {}
                _ => self.address.push(b),
            }
        }
        Some(&self.address).filter(|address| !address.is_empty()).map(Vec::as_slice)
    }

    /// Comments nest (RFC 5322 §3.2.2).
    fn skip_comment(&mut self) {
        let mut depth = 1;
        while let Some((&b, rest)) = self.rest.split_first() {
            self.rest = rest;
            match b {
                b'\\' => self.rest = rest.get(1..).unwrap_or_default(),
                b'(' => depth += 1,
                b')' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return;
            }
        }
    }

    fn skip_quoted(&mut self) {
        while let Some((&b, rest)) = self.rest.split_first() {
            self.rest = rest;
            match b {
                b'\\' => self.rest = rest.get(1..).unwrap_or_default(),
                b'"' => return,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(value: &str, expected: Option<&str>) {
        assert_eq!(domain(value.as_bytes()).as_ref().map(Domain::as_str), expected, "{value}");
    }

    #[test]
    fn finds_the_author() {
        check(" ann@example.com\r\n", Some("example.com"));
        check(" Ann Lee <ann@Example.COM>\r\n", Some("example.com"));
        check(" \"Lee, Ann\" <ann@example.com>, bob@other.example\r\n", Some("example.com"));
        check(" \"ann@trap.example\" <ann@example.com>", Some("example.com"));
        check(" ann@trap.example <ann@example.com>", Some("example.com"));
        check(" Ann (ann@trap.example (deep)) <ann@example.com>", Some("example.com"));
        check(" Ann\r\n <ann@example.com>", Some("example.com"));
        check(" <ann@\r\n example.com>", Some("example.com"));
        check(" ann@example.com (Ann)", Some("example.com"));
        check(" Staff: ann@example.com, bob@other.example;", Some("example.com"));
        check(" Nobody:;, ann@example.com", Some("example.com"));
        check(" <@relay.example,@two.example:ann@example.com>", Some("example.com"));
        check(" \"a@b\"@example.com", Some("example.com"));
        check(" \"quoted \\\" <x@trap.example>\" <ann@example.com>", Some("example.com"));
        check(" Jürgen <jürgen@bücher.example>", Some("xn--bcher-kva.example"));
        check(" Lee, Ann <ann@example.com>", Some("example.com"));
        check(" a@one.example, b@two.example", Some("one.example"));
        check(" Ann :( <ann@example.com>", Some("example.com"));
        check(" 12\" Pizza <ann@example.com>\r\n", Some("example.com"));
        check(" a > b <ann@example.com>", Some("example.com"));
        check(" undisclosed:;", None);
        check(" ann", None);
        check(" <>", None);
        check(" ann@[192.0.2.1]", None);
        check("", None);
        check(" (open", None);
        check(" \"open", None);
    }

    proptest! {
        #[test]
        fn never_panics(value in proptest::collection::vec(any::<u8>(), 0..60)) {
            domain(&value);
        }
    }
}
