//! Ways in for fuzz targets; see [`crate::probe`].

use std::sync::Arc;
use std::time::Duration;

use super::author;
use super::directory::Record;
use super::meter::{Meter, Saved};
use super::tenant::Tenant;
use super::token::{self, Token};
use crate::clock::Clock;

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

/// What the ledger has of a tenant: its record, or what it has used. What can be read is written so that it reads the same, counting goes
/// on from it, and what was used is neither forgotten by a clock that stands still nor kept for longer than a day.
pub fn tenant(octets: &[u8]) {
    if let Ok(record) = serde_json::from_slice::<Record>(octets) {
        let text = serde_json::to_string(&record).expect("every field is text");
        let again: Record = serde_json::from_str(&text).expect("it was written");
        assert_eq!(serde_json::to_string(&again).expect("every field is text"), text);
        assert_eq!((&again.tenant, &again.credentials), (&record.tenant, &record.credentials));
    }
    if let Ok(saved) = serde_json::from_slice::<Saved>(octets) {
        let meter = Arc::new(Meter::new(&saved, Clock));
        let now = Clock.timestamp();
        let used = meter.used(now);
        drop(meter.charge(&Tenant::default(), 3, || 0, now).expect("no limit is set"));
        assert_eq!(meter.used(now), (used.0.saturating_add(3), used.1.saturating_add(3)));
        let (kept, _) = meter.save().expect("it has changed");
        assert_eq!(Meter::new(&kept, Clock).used(now), meter.used(now), "{kept:?}");
        assert_eq!(meter.used(now.after(Duration::from_secs(25 * 3600))), (0, 0));
    }
}
