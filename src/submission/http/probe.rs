//! The way in for a fuzz target: JSON, to a message read back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::NAMES;
use super::body::Submission;
use crate::access::Principal;
use crate::clock::Timestamp;
use crate::mail::{MessageId, Receipt, header};
use crate::submission::door::{Door, Handover};
use crate::submission::rejection::Rejection;
use crate::submission::request::{ApiCircumstances, prepare};

/// A door that takes all and keeps nothing.
struct Open(AtomicU64);

impl Door for Open {
    fn next_ids(&self, count: u32) -> MessageId {
        MessageId(self.0.fetch_add(u64::from(count), Ordering::Relaxed))
    }

    fn ready(&self) -> Result<(), Rejection> {
        Ok(())
    }

    fn accept(&self, _: Handover) -> impl Future<Output = Result<Receipt, Rejection>> + Send + 'static {
        std::future::ready(Err(Rejection::closing()))
    }

    fn expire_after(&self) -> Duration {
        Duration::from_secs(3600)
    }
}

/// Reads foreign octets as the JSON of a submission and prepares it.
///
/// # Panics
/// What comes out could not be sent: a line too long, a bare CR or LF, a NUL, a header that is none.
pub fn submission(octets: &[u8]) {
    let Ok(request) = Submission::read(octets) else { return };
    let hostname = "mta.example".parse().expect("a domain");
    let circumstances = ApiCircumstances {
        principal: Principal::network(),
        client: None,
        protocol: "HTTP",
        hostname: &hostname,
        now: Timestamp(1_795_348_800_000),
        max_message_size: 1 << 20,
        recipients_max: 100,
        memory_max: 4 << 20,
        names: NAMES,
    };
    let handover = match prepare(&Open(AtomicU64::new(1)), request, &circumstances) {
        Ok(handover) => handover,
        Err(rejection) => {
            assert!(!rejection.reply.text.is_empty());
            return;
        }
    };
    for message in &handover.messages {
        let content = &message.content;
        assert!(content.ends_with(b"\r\n"), "the last line has no end");
        for line in content[..content.len() - 2].split(|b| *b == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            assert!(line.len() <= 998 && !line.contains(&b'\r') && !line.contains(&0), "a line that cannot be sent");
        }
        let section = &content[..header::section_len(content)];
        let end = header::fields(section).last().map_or(0, |field| field.end);
        assert_eq!(end, section.len(), "a header line that is no field");
        assert!(message.envelope.smtputf8 || section.is_ascii(), "8-bit text in the header");
        assert!(!message.envelope.recipients.is_empty());
    }
}
