//! Whose name a message bears: every mailbox of a From or Sender field, read so strictly that no receiver can read
//! another one.
//!
//! Signing reads the same field generously (`signing/author.rs`), as a message should not go out unsigned for a display
//! name. Here the field is a claim to be checked, and a text that programs read differently is a way to make a false one.
//! So it is RFC 5322 §3.4 without the obsolete forms, groups included (RFC 6854); beyond it only what cannot be mistaken:
//! UTF-8 (RFC 6532), and in display names dots and square brackets.

use crate::mail::{AddressError, EnvelopeAddress};

/// Why a field is not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum AuthorError {
    #[error("is not UTF-8")]
    NotUtf8,
    #[error("holds a control character")]
    Control,
    #[error("has a quoted string, comment, group or angle bracket that does not end")]
    Open,
    #[error("has {0:?} where no address can have it; put display names in double quotes")]
    Misplaced(char),
    #[error("has the name {0:?} without an address; put display names in double quotes")]
    NoAddress(String),
    #[error("has the address {0:?}: {1}")]
    Address(String, AddressError),
    #[error("names nobody")]
    Nobody,
}

/// Calls `each` with every mailbox in the field's value, folding included, at least one.
pub(super) fn mailboxes(value: &[u8], mut each: impl FnMut(EnvelopeAddress)) -> Result<(), AuthorError> {
    let text = std::str::from_utf8(value).map_err(|_| AuthorError::NotUtf8)?;
    if text.split("\r\n").any(|line| line.chars().any(|c| c.is_control() && c != '\t')) {
        return Err(AuthorError::Control);
    }
    let mut scan = Scan { rest: text };
    let (mut any, mut in_group) = (false, false);
    loop {
        let words = scan.words()?;
        // A group's name; an empty group names nobody, and that is legal.
        let opens = scan.rest.starts_with(':');
        if opens {
            if in_group || words.is_empty() {
                return Err(AuthorError::Misplaced(':'));
            }
            words.phrase()?;
            in_group = true;
            scan.take();
            scan.nothing()?;
        }
        if !(opens && scan.rest.starts_with(';')) {
            if opens {
                continue;
            }
            let address = scan.mailbox(&words)?;
            each(address.parse().map_err(|why| AuthorError::Address(address.chars().take(80).collect(), why))?);
            any = true;
        }
        if scan.rest.starts_with(';') && std::mem::take(&mut in_group) {
            scan.take();
            scan.nothing()?;
        }
        match scan.take() {
            Some(',') => {}
            Some(c) => return Err(AuthorError::Misplaced(c)),
            None if in_group => return Err(AuthorError::Open),
            None if any => return Ok(()),
            None => return Err(AuthorError::Nobody),
        }
    }
}

/// Words up to a special: a display name, a group's name, or an address without angle brackets.
#[derive(Debug, Default)]
struct Words<'a> {
    /// From the first word's start to the last one's end.
    span: &'a str,
    /// White space or a comment stands between two of them.
    apart: bool,
    /// Where there is an `@` outside quotes.
    at: bool,
}

impl<'a> Words<'a> {
    fn is_empty(&self) -> bool {
        self.span.is_empty()
    }

    /// As a display name: an `@` in it would be an address to some.
    fn phrase(&self) -> Result<(), AuthorError> {
        if self.at { Err(AuthorError::Misplaced('@')) } else { Ok(()) }
    }

    /// As an address.
    fn address(&self) -> Result<&'a str, AuthorError> {
        match (self.at, self.apart) {
            (true, false) => Ok(self.span),
            (true, true) => Err(AuthorError::Misplaced(' ')),
            (false, _) => Err(AuthorError::NoAddress(self.span.chars().take(80).collect())),
        }
    }
}

struct Scan<'a> {
    rest: &'a str,
}

impl<'a> Scan<'a> {
    fn take(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    /// The address of a mailbox that begins with `words`; skips to what stands behind it.
    fn mailbox(&mut self, words: &Words<'a>) -> Result<&'a str, AuthorError> {
        match self.rest.chars().next() {
            Some('<') => {
                words.phrase()?;
                self.take();
                let address = self.angle()?;
                self.nothing()?;
                Ok(address)
            }
            None if words.is_empty() => Err(AuthorError::Nobody),
            Some(c) if words.is_empty() => Err(AuthorError::Misplaced(c)),
            _ => words.address(),
        }
    }

    /// Skips white space and comments.
    fn nothing(&mut self) -> Result<(), AuthorError> {
        loop {
            self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
            if !self.rest.starts_with('(') {
                return Ok(());
            }
            self.comment()?;
        }
    }

    /// Comments nest (RFC 5322 §3.2.2).
    fn comment(&mut self) -> Result<(), AuthorError> {
        let mut depth = 0;
        loop {
            match self.take().ok_or(AuthorError::Open)? {
                '\\' => _ = self.take().ok_or(AuthorError::Open)?,
                '(' => depth += 1,
                ')' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }

    fn quoted(&mut self) -> Result<(), AuthorError> {
        self.take();
        loop {
            match self.take().ok_or(AuthorError::Open)? {
                '\\' => _ = self.take().ok_or(AuthorError::Open)?,
                '"' => return Ok(()),
                _ => {}
            }
        }
    }

    /// Words until a special that ends them.
    fn words(&mut self) -> Result<Words<'a>, AuthorError> {
        self.nothing()?;
        let all = self.rest;
        let mut words = Words::default();
        loop {
            let before = self.rest;
            match before.chars().next() {
                Some('"') => self.quoted()?,
                Some('\\') => return Err(AuthorError::Misplaced('\\')),
                Some(')') => return Err(AuthorError::Misplaced(')')),
                None | Some('<' | '>' | ':' | ';' | ',') => return Ok(words),
                Some(' ' | '\t' | '\r' | '\n' | '(') => {
                    self.nothing()?;
                    continue;
                }
                Some(c) => {
                    words.at |= c == '@';
                    self.take();
                }
            }
            // This word began where the last one ended, or something stands between.
            let end = all.len() - self.rest.len();
            words.apart |= !words.span.is_empty() && words.span.len() != all.len() - before.len();
            words.span = &all[..end];
        }
    }

    /// The address behind a `<`, up to its `>`. No comment, no white space within, no source route.
    fn angle(&mut self) -> Result<&'a str, AuthorError> {
        let all = self.rest;
        while let Some(c) = self.rest.chars().next() {
            match c {
                '"' => self.quoted()?,
                '>' => {
                    let address = all[..all.len() - self.rest.len()].trim_matches([' ', '\t', '\r', '\n']);
                    self.take();
                    return Ok(address);
                }
                '<' | '(' | ')' | ',' | ';' | '\\' => return Err(AuthorError::Misplaced(c)),
                _ => _ = self.take(),
            }
        }
        Err(AuthorError::Open)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(value: &str) -> Result<String, AuthorError> {
        let mut found = Vec::new();
        mailboxes(value.as_bytes(), |address| found.push(address.to_string())).map(|()| found.join(" "))
    }

    #[track_caller]
    fn check(value: &str, expected: &str) {
        assert_eq!(read(value), Ok(expected.into()), "{value}");
    }

    #[track_caller]
    fn check_refused(value: &str, expected: &str) {
        assert_eq!(read(value).map_err(|e| e.to_string()), Err(expected.into()), "{value}");
    }

    #[test]
    fn reads_what_clients_send() {
        check(" ann@example.com\r\n", "ann@example.com");
        check(" Ann Lee <ann@Example.COM>\r\n", "ann@example.com");
        check(" \"Lee, Ann\" <ann@example.com>", "ann@example.com");
        check(" \"ceo@bank.example\" <ann@example.com>", "ann@example.com");
        check(" \"a \\\" <x@bank.example>\" <ann@example.com>", "ann@example.com");
        check(" J. P. O'Neill <jp@example.com>", "jp@example.com");
        check(" [Shop] Team <shop@example.com>", "shop@example.com");
        check(" =?utf-8?q?ceo=40bank.example?= <ann@example.com>", "ann@example.com");
        check(" Jürgen <jürgen@bücher.example>", "jürgen@xn--bcher-kva.example");
        check(" Ann (the (best) <x@bank.example>) <ann@example.com> (home)", "ann@example.com");
        check(" ann@example.com (Ann)", "ann@example.com");
        check(" (first) ann@example.com", "ann@example.com");
        check(" Ann\r\n <ann@example.com>\r\n", "ann@example.com");
        check(" Ann <\r\n ann@example.com >", "ann@example.com");
        check("<ann@example.com>", "ann@example.com");
        check(" a@one.example, B <b@two.example>,\r\n c@three.example", "a@one.example b@two.example c@three.example");
        check(" Staff: a@one.example, B <b@two.example>;", "a@one.example b@two.example");
        check(" Staff: a@one.example;, b@two.example", "a@one.example b@two.example");
        check(" Nobody:;, b@two.example", "b@two.example");
        check(" \"a b\"@example.com", "\"a b\"@example.com");
        check(" \"a@bank.example\"@example.com", "\"a@bank.example\"@example.com");
        check(" Ann <\"x>y\"@example.com>", "\"x>y\"@example.com");
        check(" ann@[192.0.2.1]", "ann@[192.0.2.1]");
    }

    #[test]
    fn refuses_what_can_be_read_in_two_ways() {
        let quote = "; put display names in double quotes";
        let misplaced = |c: char| format!("has {c:?} where no address can have it{quote}");
        check_refused(" ceo@bank.example <ann@example.com>", &misplaced('@'));
        check_refused(" Lee, Ann <ann@example.com>", &format!("has the name \"Lee\" without an address{quote}"));
        check_refused(" ann@example.com <", &misplaced('@'));
        check_refused(
            " Ann <ann@example.com",
            "has a quoted string, comment, group or angle bracket that does not end",
        );
        check_refused(" <ceo@bank.example> <ann@example.com>", &misplaced('<'));
        check_refused(" <a@one.example> b@two.example", &misplaced('b'));
        check_refused(" <<ann@example.com>>", &misplaced('<'));
        check_refused(" ann@example.com>", &misplaced('>'));
        check_refused(
            " <@bank.example:ann@example.com>",
            "has the address \"@bank.example:ann@example.com\": the part before the @ is not valid",
        );
        check_refused(" ceo@bank.example ann@example.com", &misplaced(' '));
        check_refused(" ann@ example.com", &misplaced(' '));
        check_refused(" ann@(x)example.com", &misplaced(' '));
        check_refused(" <ann@(x)example.com>", &misplaced('('));
        check_refused(
            " <ann @example.com>",
            "has the address \"ann @example.com\": the part before the @ is not valid",
        );
        check_refused(
            " ceo@bank.example@example.com",
            "has the address \"ceo@bank.example@example.com\": the part before the @ is not valid",
        );
        check_refused(" Ann \\<ceo@bank.example\\> <ann@example.com>", &misplaced('\\'));
        check_refused(
            " Ann :( <ann@example.com>",
            "has a quoted string, comment, group or angle bracket that does not end",
        );
        check_refused(
            " 12\" Pizza <ann@example.com>",
            "has a quoted string, comment, group or angle bracket that does not end",
        );
        check_refused(
            " Staff: a@one.example",
            "has a quoted string, comment, group or angle bracket that does not end",
        );
        check_refused(" A: B: a@one.example;;", &misplaced(':'));
        check_refused(" a@one.example; b@two.example", &misplaced(';'));
        check_refused(" a@one.example,, b@two.example", &misplaced(','));
        check_refused(" a@one.example,", "names nobody");
        check_refused(" undisclosed:;", "names nobody");
        check_refused("", "names nobody");
        check_refused(" ann", &format!("has the name \"ann\" without an address{quote}"));
        check_refused(
            " =?utf-8?q?ceo=40bank.example?=",
            &format!("has the name \"=?utf-8?q?ceo=40bank.example?=\" without an address{quote}"),
        );
        check_refused(" <>", "has the address \"\": the address has no @");
        check_refused(" a\rb@example.com", "holds a control character");
        check_refused(" a\0@example.com", "holds a control character");
        assert_eq!(mailboxes(b" J\xfcrgen <a@b.example>", |_| {}), Err(AuthorError::NotUtf8));
    }

    proptest! {
        #[test]
        fn never_panics(value in proptest::collection::vec(any::<u8>(), 0..60)) {
            _ = mailboxes(&value, |_| {});
        }

        /// Whatever domain stands outside quotes and comments is one we looked at.
        #[test]
        fn no_address_is_passed_over(parts in proptest::collection::vec(
            prop::sample::select(vec!["a@good.example", "b@bad.example", "<", ">", ",", ";", ":", " ", "x", "\r\n ", "[", "]", "@", "\\"]), 1..9))
        {
            let value = parts.concat();
            // That is another domain.
            prop_assume!(!value.contains("examplex"));
            let mut found = Vec::new();
            if mailboxes(value.as_bytes(), |address| found.push(address.to_string())).is_ok() {
                prop_assert_eq!(found.iter().filter(|a| a.ends_with("@bad.example")).count(), value.matches("@bad.example").count(), "{:?}", value);
            }
        }
    }
}
