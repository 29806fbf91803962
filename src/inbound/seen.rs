//! Who has come back already: whatever is said of a recipient of a message counts once.

use std::collections::HashSet;
use std::sync::Mutex;

use crate::feedback::token::RecipientHash;
use crate::mail::MessageId;

/// Remembered at least; twice as many at most. About 5 MiB.
const REMEMBERED: usize = 50_000;

/// The recipients that came back of late. A receiver that repeats itself, or a recipient that plays tricks, counts once: neither
/// the brake nor the suppression list sees more of it. Forgotten when the daemon ends.
#[derive(Debug, Default)]
pub(super) struct Seen {
    generations: Mutex<[HashSet<(MessageId, RecipientHash)>; 2]>,
}

impl Seen {
    /// Whether this one came back before.
    pub(super) fn knows(&self, message: MessageId, recipient: RecipientHash) -> bool {
        let generations = self.generations.lock().expect("no code panics under this lock");
        generations.iter().any(|some| some.contains(&(message, recipient)))
    }

    /// It has had its effect.
    pub(super) fn note(&self, message: MessageId, recipient: RecipientHash) {
        let mut generations = self.generations.lock().expect("no code panics under this lock");
        if generations[0].len() >= REMEMBERED {
            generations.swap(0, 1);
            generations[0].clear();
        }
        generations[0].insert((message, recipient));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_the_latest() {
        let seen = Seen::default();
        let recipient = RecipientHash::of(&"a@them.example".parse().unwrap());
        for id in 0..3 * REMEMBERED as u64 {
            assert!(!seen.knows(MessageId(id), recipient));
            seen.note(MessageId(id), recipient);
            assert!(seen.knows(MessageId(id), recipient));
        }
        assert!(seen.knows(MessageId(2 * REMEMBERED as u64 + 1), recipient));
        assert!(!seen.knows(MessageId(0), recipient));
    }
}
