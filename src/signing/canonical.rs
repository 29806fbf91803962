//! What a signature covers, in the relaxed form of RFC 6376 §3.4: the fields of the header and the hash of the body.

use mail_auth::common::crypto::{HashContext, HashImpl, HashOutput, Sha256};
use mail_auth::dkim::Canonicalization;
use mail_auth::dkim::canonicalize::BodyHasher;
use smallvec::SmallVec;

use crate::mail::header::{self, Field};

/// Whether a field is named once more than it occurs, so that nobody can add another one on the way (RFC 6376 §8.15).
#[derive(Clone, Copy, PartialEq)]
enum Once {
    /// Always.
    More,
    /// If there is one: who passes mail on for us may add their own, but not beside ours (RFC 9477 §3.1.3).
    IfThere,
    /// Never: a mailing list or a gateway may rightly add one.
    Enough,
}
use Once::{Enough, IfThere, More};

/// The fields that are signed.
const SIGNED: [(&str, Once); 19] = [
    ("From", More),
    ("Subject", More),
    ("To", More),
    ("Date", More),
    ("Message-ID", More),
    ("List-Unsubscribe", More),
    ("List-Unsubscribe-Post", More),
    ("Feedback-ID", More),
    ("Cc", Enough),
    ("Reply-To", Enough),
    ("Sender", Enough),
    ("MIME-Version", Enough),
    ("Content-Type", Enough),
    ("Content-Transfer-Encoding", Enough),
    ("In-Reply-To", Enough),
    ("References", Enough),
    ("List-Id", Enough),
    ("CFBL-Address", IfThere),
    ("CFBL-Feedback-ID", IfThere),
];

/// Fields of one name that are signed; of more than that, which no honest message has, the lowest. Bounds the signature
/// and the memory for it, whatever the message holds.
const SAME_NAME_MAX: usize = 20;

/// The fields of one header section that are signed.
pub(super) struct SignedFields {
    /// The `h=` tag.
    pub names: Vec<&'static str>,
    /// The fields in that order, in relaxed form, each with its CRLF.
    pub canonical: Vec<u8>,
}

impl SignedFields {
    pub(super) fn of(section: &[u8]) -> SignedFields {
        let mut found: [SmallVec<[&[u8]; 1]>; SIGNED.len()] = Default::default();
        let mut cut = [false; SIGNED.len()];
        for field in fields(section) {
            let Some(place) = SIGNED.iter().position(|(name, _)| field.is(name)) else { continue };
            if found[place].len() == SAME_NAME_MAX {
                found[place].remove(0);
                cut[place] = true;
            }
            found[place].push(field.value);
        }
        let mut fields = SignedFields { names: Vec::with_capacity(2 * SIGNED.len()), canonical: Vec::new() };
        for (place, (name, once)) in SIGNED.into_iter().enumerate() {
            // Of several fields of one name a verifier takes the lowest first (RFC 6376 §5.4.2).
            for value in found[place].iter().rev() {
                fields.names.push(name);
                relaxed_field(name, value, &mut fields.canonical);
            }
            let oversigned = once == More || once == IfThere && !found[place].is_empty();
            if oversigned && !cut[place] {
                fields.names.push(name);
            }
        }
        fields
    }
}

/// The fields of a section. Where a line is no field, goes on behind it, as verifiers do: a stray line must not cost the
/// signature over what follows. Takes linear time, whatever the section holds.
pub(super) fn fields(section: &[u8]) -> impl Iterator<Item = Field<'_>> {
    let mut rest = section;
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            let line_len = memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
            let has_colon = memchr::memchr(b':', &rest[..line_len]).is_some();
            if let Some(field) = has_colon.then(|| header::fields(rest).next()).flatten() {
                rest = &rest[field.end..];
                return Some(field);
            }
            rest = &rest[line_len..];
        }
        None
    })
}

/// Appends a field in relaxed form (RFC 6376 §3.4.2).
///
/// Not mail-auth's: that one takes a form feed for white space and leaves out the CRLF of a last field without one.
pub(super) fn relaxed_field(name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.extend(name.bytes().map(|b| b.to_ascii_lowercase()));
    out.push(b':');
    let start = out.len();
    let mut space = false;
    for &b in value {
        match b {
            b'\r' | b'\n' => {}
            b' ' | b'\t' => space = true,
            _ => {
                if space && out.len() > start {
                    out.push(b' ');
                }
                space = false;
                out.push(b);
            }
        }
    }
    out.extend(b"\r\n");
}

/// SHA-256 of the body in relaxed form (RFC 6376 §3.4.4), the `bh=` tag.
pub(super) fn body_hash(body: &[u8]) -> HashOutput {
    let mut hasher = BodyHasher::new(Sha256::hasher(), Canonicalization::Relaxed, 0);
    hasher.write(without_blank_end(body));
    hasher.finish().0.complete()
}

/// The body without the lines at its end that hold only spaces and tabs.
///
/// mail-auth 0.13.3 keeps such lines (stalwartlabs/mail-auth#62, fixed in a line we cannot use), so its hash of the whole
/// body would be wrong; the relaxed form of the cut body is the one RFC 6376 asks for.
fn without_blank_end(body: &[u8]) -> &[u8] {
    let Some(last) = body.iter().rposition(|b| !matches!(b, b' ' | b'\t' | b'\r' | b'\n')) else {
        return &[];
    };
    // Keep the rest of that last line: white space behind it is the canonicaliser's to judge.
    let end = memchr::memchr(b'\n', &body[last..]).map_or(body.len(), |at| last + at + 1);
    &body[..end]
}

#[cfg(test)]
mod tests {
    use mail_auth::common::crypto::HashAlgorithm;
    use proptest::prelude::*;

    use super::*;

    /// RFC 6376 §3.4.4 read word by word, without regard to speed.
    fn relaxed_body(body: &[u8]) -> Vec<u8> {
        let text = body.iter().map(|b| char::from(*b)).collect::<String>();
        let mut lines: Vec<String> = Vec::new();
        for line in text.split("\r\n") {
            // a: no white space at line ends, runs of it become one space
            let mut relaxed = String::new();
            for c in line.trim_end_matches([' ', '\t']).chars() {
                match c {
                    ' ' | '\t' if relaxed.ends_with(' ') => {}
                    ' ' | '\t' => relaxed.push(' '),
                    c => relaxed.push(c),
                }
            }
            lines.push(relaxed);
        }
        // b: no empty lines at the end; a body that is not empty ends in CRLF
        while lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        lines.iter().flat_map(|line| line.chars().map(|c| c as u8).chain(*b"\r\n")).collect()
    }

    #[track_caller]
    fn check_body(body: &[u8]) {
        let expected = HashAlgorithm::Sha256.hash(relaxed_body(body).as_slice());
        assert_eq!(body_hash(body).as_ref(), expected.as_ref(), "{:?}", String::from_utf8_lossy(body));
    }

    /// Checks `body` and all that begin with it and have up to `more` tokens more; returns how many.
    fn check_all_from(body: &mut Vec<u8>, more: usize) -> usize {
        check_body(body);
        if more == 0 {
            return 1;
        }
        let mut count = 1;
        for token in [&b"a"[..], b" ", b"\t", b"\r\n"] {
            body.extend(token);
            count += check_all_from(body, more - 1);
            body.truncate(body.len() - token.len());
        }
        count
    }

    /// All of white space, without a line end and empty ones among them.
    #[test]
    fn hashes_every_short_body_right() {
        assert_eq!(check_all_from(&mut Vec::new(), 6), 5461);
    }

    proptest! {
        /// Longer ones reach the word-at-a-time paths of the canonicaliser.
        #[test]
        fn hashes_longer_bodies_right(tokens in proptest::collection::vec(
            prop_oneof![Just("a"), Just("longer words"), Just(" "), Just("\t"), Just("\r\n"), Just("é"), Just("\u{c}"), Just(".")], 0..80)) {
            check_body(tokens.concat().as_bytes());
        }

        #[test]
        fn never_panics(section in proptest::collection::vec(any::<u8>(), 0..80)) {
            SignedFields::of(&section);
            body_hash(&section);
        }
    }

    #[track_caller]
    fn check_fields(section: &str, canonical: &str) {
        let fields = SignedFields::of(section.as_bytes());
        assert_eq!(String::from_utf8_lossy(&fields.canonical), canonical, "{section}");
    }

    #[test]
    fn writes_fields_in_relaxed_form() {
        check_fields("From: a\r\n", "from:a\r\n");
        check_fields("SUBJECT \t:  two \t words \r\n", "subject:two words\r\n");
        check_fields("Subject: folded\r\n  line\r\n\there \r\n", "subject:folded line here\r\n");
        check_fields("Subject:\r\n", "subject:\r\n");
        check_fields("Subject:  \r\n  \r\n", "subject:\r\n");
        check_fields("Subject:\r\n x\r\n", "subject:x\r\n");
        check_fields("Subject: a\u{c} b\r\n", "subject:a\u{c} b\r\n");
        check_fields("Subject: no line end", "subject:no line end\r\n");
        check_fields("X-Other: x\r\nReceived: y\r\n", "");
        check_fields("", "");
    }

    #[test]
    fn takes_fields_of_one_name_from_below() {
        check_fields("To: 1\r\nX: y\r\nTo: 2\r\nFrom: f\r\n", "from:f\r\nto:2\r\nto:1\r\n");
    }

    #[test]
    fn goes_on_behind_a_line_that_is_no_field() {
        check_fields("To: 1\r\nstray line\r\nFrom: f\r\n", "from:f\r\nto:1\r\n");
        check_fields(": nameless\r\nFrom: f\r\n", "from:f\r\n");
        check_fields("nocolon\r\nFrom: f\r\n", "from:f\r\n");
    }

    #[test]
    fn names_what_is_signed_and_what_must_not_be_added() {
        let names = SignedFields::of(b"From: f\r\nTo: 1\r\nTo: 2\r\nCc: c\r\nList-Id: l\r\n").names.join(":");
        let list = "List-Unsubscribe:List-Unsubscribe-Post:Feedback-ID";
        assert_eq!(names, format!("From:From:Subject:To:To:To:Date:Message-ID:{list}:Cc:List-Id"));
    }

    #[test]
    fn a_flood_of_one_field_is_signed_at_its_end_only() {
        let flood: String = (0..10_000).map(|n| format!("To: {n}\r\n")).collect();
        let fields = SignedFields::of(format!("From: f\r\n{flood}").as_bytes());
        assert_eq!(fields.names.iter().filter(|name| **name == "To").count(), SAME_NAME_MAX);
        assert!(fields.canonical.starts_with(b"from:f\r\nto:9999\r\nto:9998\r\n"));
    }
}
