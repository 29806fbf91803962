//! The secret a client shows: `ph_<id>_<secret>`, made here and nowhere else.
//!
//! `ph_`, 12 letters that name the credential, `_`, 32 letters of 5 random bits each, 7 letters that check the rest. All
//! in the alphabet of base32 (RFC 4648 §6), in lower case. Programs that look for leaked secrets find it by
//! `ph_[a-z2-7]{12}_[a-z2-7]{39}`, and the check tells them, and us, a token from a text that looks like one. No letter
//! needs quoting in a shell, a URL or SCRAM.

/// What a token begins with.
const PREFIX: &str = "ph_";

/// RFC 4648 §6, in lower case.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

const ID_LEN: usize = 12;
const SECRET_LEN: usize = 32;
const CHECK_LEN: usize = 7;

/// Octets in every token.
pub(super) const TOKEN_LEN: usize = PREFIX.len() + ID_LEN + 1 + SECRET_LEN + CHECK_LEN;

/// A text that has the form of a token. Says nothing about who has it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Token<'a> {
    text: &'a str,
}

impl<'a> Token<'a> {
    /// Reads a token; `None` if the text is none, or was mistyped.
    pub(super) fn parse(text: &'a str) -> Option<Token<'a>> {
        let rest = text.strip_prefix(PREFIX).filter(|_| text.len() == TOKEN_LEN && text.is_ascii())?;
        let (id, rest) = rest.split_at(ID_LEN);
        let (secret, sum) = rest.strip_prefix('_')?.split_at(SECRET_LEN);
        let letters = |part: &str| part.bytes().all(|b| ALPHABET.contains(&b));
        let good = letters(id) && letters(secret) && sum == check(id, secret);
        good.then_some(Token { text })
    }

    /// The whole of it.
    pub(super) fn as_str(self) -> &'a str {
        self.text
    }

    /// The id of its credential.
    pub(super) fn id(self) -> &'a str {
        &self.text[PREFIX.len()..PREFIX.len() + ID_LEN]
    }
}

/// Never the secret.
impl std::fmt::Debug for Token<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{PREFIX}{}_…", self.id())
    }
}

/// A new token from so many random octets.
pub(super) fn make(chance: &[u8; ID_LEN + SECRET_LEN]) -> String {
    let letters: String = chance.iter().map(|octet| char::from(ALPHABET[usize::from(octet & 31)])).collect();
    let (id, secret) = letters.split_at(ID_LEN);
    format!("{PREFIX}{id}_{secret}{}", check(id, secret))
}

/// CRC-32 in base32: catches slips of the hand, keeps nobody out.
fn check(id: &str, secret: &str) -> String {
    let mut sum = crc32fast::Hasher::new();
    sum.update(id.as_bytes());
    sum.update(secret.as_bytes());
    let sum = sum.finalize();
    (0..CHECK_LEN).rev().map(|at| char::from(ALPHABET[(sum >> (at * 5)) as usize & 31])).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Must never change: tokens are out there.
    #[test]
    fn the_format_stands() {
        let token = make(&std::array::from_fn(|at| at as u8));
        assert_eq!(token, "ph_abcdefghijkl_mnopqrstuvwxyz234567abcdefghijklacaf757");
        assert_eq!(token.len(), TOKEN_LEN);
        assert_eq!(Token::parse(&token).map(Token::id), Some("abcdefghijkl"));
    }

    #[test]
    fn the_secret_is_not_shown() {
        let token = make(&[7; 44]);
        assert_eq!(format!("{:?}", Token::parse(&token)), "Some(ph_hhhhhhhhhhhh_…)");
    }

    #[test]
    fn takes_nothing_else() {
        let token = make(&[7; 44]);
        for bad in ["", "ph_", "ph__", &token[1..], &token[..54], &token.to_uppercase(), &format!("{token}a"), "ü"] {
            assert_eq!(Token::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_made_is_read(chance in proptest::array::uniform32(any::<u8>()), id in proptest::array::uniform12(any::<u8>())) {
            let mut all = [0; 44];
            all[..12].copy_from_slice(&id);
            all[12..].copy_from_slice(&chance);
            let token = make(&all);
            prop_assert_eq!(Token::parse(&token).map(Token::as_str), Some(token.as_str()));
        }

        #[test]
        fn one_wrong_letter_is_seen(at in 0..TOKEN_LEN, to in "[a-z2-7_]") {
            let mut token = make(&[9; 44]);
            prop_assume!(token[at..=at] != to);
            token.replace_range(at..=at, &to);
            prop_assert_eq!(Token::parse(&token), None);
        }

        #[test]
        fn never_panics(text in "(ph_)?\\PC{0,60}") {
            Token::parse(&text);
        }
    }
}
