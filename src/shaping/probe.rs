//! Ways in for fuzz targets; see [`crate::probe`].

use std::time::Duration;

use super::provider::named_wait;
use crate::mail::wording::comparable;

/// What a reply says: a wait that is read from it is one that may be believed, and is read again from what it was read
/// from, whatever stands behind it.
pub fn wait(octets: &[u8]) {
    let text = comparable(&String::from_utf8_lossy(octets));
    let Some(wait) = named_wait(&text) else { return };
    assert!((Duration::from_secs(1)..=Duration::from_secs(86_400)).contains(&wait), "{wait:?}");
    assert_eq!(named_wait(&format!("{text} . queued as 12")), Some(wait), "the first wait counts: {text:?}");
}
