//! Foreign text made fit for a header field.

use std::fmt::Write;

/// Fields are folded at white space before this column, as RFC 5322 §2.1.1 wishes.
const LINE_WISH: usize = 78;
/// A word longer than this is cut in two: no line may pass 998 octets (RFC 5322 §2.1.1).
const WORD_MAX: usize = 900;

/// Appends `name: value` with CRLF: whatever `value` holds, one field comes out, in printable ASCII, folded between words.
/// Everything that is neither printable ASCII nor white space becomes `?`.
pub(super) fn push(out: &mut String, name: &str, value: &str) {
    let _ = write!(out, "{name}:");
    let mut column = name.len() + 1;
    let value = printable(value);
    for word in value.split_ascii_whitespace() {
        for piece in word.as_bytes().chunks(WORD_MAX) {
            if column + 1 + piece.len() > LINE_WISH && column > name.len() + 1 {
                out.push_str("\r\n");
                column = 0;
            }
            out.push(' ');
            out.push_str(std::str::from_utf8(piece).unwrap_or("?"));
            column += 1 + piece.len();
        }
    }
    out.push_str("\r\n");
}

/// Printable ASCII and white space; the rest becomes `?`.
pub(super) fn printable(text: &str) -> String {
    let keep = |c: char| c.is_ascii_graphic() || c.is_ascii_whitespace();
    text.chars().map(|c| if keep(c) { c } else { '?' }).collect()
}

/// Decodes xtext (RFC 3461 §4): `+2B` is `+`. Digits that are none stay as they are.
pub(super) fn from_xtext(text: &str) -> String {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&b, tail)) = rest.split_first() {
        let decoded = (b == b'+').then(|| tail.get(..2)).flatten().and_then(hex_octet);
        octets.push(decoded.unwrap_or(b));
        rest = if decoded.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&octets).into_owned()
}

fn hex_octet(digits: &[u8]) -> Option<u8> {
    let digit = |b: u8| char::from(b).to_digit(16);
    Some((digit(digits[0])? << 4 | digit(digits[1])?) as u8)
}

/// `utf-8-addr-xtext` (RFC 6533 §3): ASCII for an address that is not, `\x{FC}` for ü.
pub(super) fn to_utf8_xtext(address: &str) -> String {
    let mut out = String::with_capacity(address.len() + 16);
    for c in address.chars() {
        match c {
            '\\' | '+' | '=' => {
                let _ = write!(out, "\\x{{{:02X}}}", u32::from(c));
            }
            c if c.is_ascii_graphic() => out.push(c),
            c => {
                let _ = write!(out, "\\x{{{:02X}}}", u32::from(c));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(value: &str, expected: &str) {
        let mut out = String::new();
        push(&mut out, "Name", value);
        assert_eq!(out, expected);
    }

    #[test]
    fn writes_one_field() {
        check("value", "Name: value\r\n");
        check("two\r\nX-Evil: 1", "Name: two X-Evil: 1\r\n");
        check("a\0b\u{7f}ü", "Name: a?b??\r\n");
        check("", "Name:\r\n");
        let (first, second) = ("a".repeat(60), "b".repeat(60));
        check(&format!("{first} {second}"), &format!("Name: {first}\r\n {second}\r\n"));
    }

    #[test]
    fn decodes_xtext() {
        for (text, decoded) in [("a+2Bb+3Dc", "a+b=c"), ("+", "+"), ("+2", "+2"), ("+zz", "+zz"), ("+0D+0A", "\r\n")] {
            assert_eq!(from_xtext(text), decoded, "{text}");
        }
        assert_eq!(to_utf8_xtext("jü+x@example.com"), "j\\x{FC}\\x{2B}x@example.com");
    }

    proptest! {
        #[test]
        fn whatever_comes_one_field_goes_out(value in "(\\PC|[\r\n\t\0 ]){0,40}", long in 0usize..3000) {
            let mut out = String::new();
            push(&mut out, "Name", &format!("{value}{}", "x".repeat(long)));
            prop_assert!(out.is_ascii() && out.ends_with("\r\n"));
            let lines: Vec<&str> = out.trim_end_matches("\r\n").split("\r\n").collect();
            prop_assert!(lines[0].starts_with("Name:"));
            prop_assert!(lines[1..].iter().all(|line| line.starts_with(' ') && line.trim() != ""));
            prop_assert!(lines.iter().all(|line| line.len() <= 998 && !line.contains(['\r', '\n'])));
        }
    }
}
