//! Who tells of changes of the suppression list: the spool, as of all else that happens.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;

use crate::events::{Archive, Progress};
use crate::feedback;
use crate::mail::MessageId;
use crate::spool::Spool;
use crate::suppression::{Change, Teller, Told};

/// Tells by the spool; what may have been told before a crash is looked for in the event files first.
pub(super) struct Telling {
    pub(super) spool: Arc<Spool>,
    pub(super) archive: Archive,
    /// How far the event files are.
    pub(super) progress: Progress,
}

impl Teller for Telling {
    fn line(&self, change: &Change<'_>) -> Vec<u8> {
        feedback::suppression_line(change)
    }

    fn tell(&self, lines: Bytes, told: Told) {
        self.spool.note_then(lines, move || told.done());
    }

    fn tell_again(&self, lines: Bytes, told: Told) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            // What the spool found behind the end of the event files is in them then.
            self.progress.caught_up().await;
            if self.stand_there(&lines).await { told.done() } else { self.tell(lines, told) }
        })
    }
}

impl Telling {
    /// Whether the event files have these lines. Of what belongs to no message nobody knows where to look: it may be told twice.
    async fn stand_there(&self, lines: &[u8]) -> bool {
        for line in lines.split_inclusive(|octet| *octet == b'\n') {
            let line = line.strip_suffix(b"}\n").unwrap_or(line);
            let Some(message) = message_of(line) else { return false };
            match self.archive.lines(message).await {
                // The position follows.
                Ok(known) if known.iter().any(|known| known.as_bytes().starts_with(line)) => {}
                Ok(_) | Err(_) => return false,
            }
        }
        true
    }
}

fn message_of(line: &[u8]) -> Option<MessageId> {
    #[derive(Deserialize)]
    struct Of {
        message_id: Option<MessageId>,
    }
    serde_json::from_slice::<Of>(&[line, b"}"].concat()).ok()?.message_id
}
