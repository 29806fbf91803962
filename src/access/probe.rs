//! Ways in for fuzz targets; see [`crate::probe`].

use super::author;
use super::token::{self, Token};

/// What is read as an author's field names addresses, and each stands in the field, but for case and the form of its
/// domain.
pub fn author(octets: &[u8]) {
    let mut found = Vec::new();
    if author::mailboxes(octets, |address| found.push(address)).is_err() {
        return;
    }
    assert!(!found.is_empty(), "nobody");
    let text = std::str::from_utf8(octets).expect("what is read is UTF-8");
    assert!(found.iter().all(|address| text.contains(address.local())), "{found:?}");
}

/// What is read as a token is one, letter by letter, and printing it tells no secret. Any 44 octets make one.
pub fn token(octets: &[u8]) {
    if let Ok(text) = std::str::from_utf8(octets)
        && let Some(token) = Token::parse(text)
    {
        assert!(token.as_str() == text && text.is_ascii() && text.starts_with("ph_"));
        assert!(text.contains(token.id()) && !format!("{token:?}").contains(&text[text.len() - 39..]));
    }
    if let Some(chance) = octets.first_chunk() {
        let made = token::make(chance);
        assert_eq!(Token::parse(&made).map(Token::as_str), Some(made.as_str()));
    }
}
