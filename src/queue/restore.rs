//! Start-up: what the spool found joins the queue again.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::scheduler::{Group, Newcomer, Recipients};
use super::{Queue, at};
use crate::mail::AddressHost;
use crate::spool::{ENDED, Restored, RestoredRecipient, Update};

impl Queue {
    /// So many messages are going to be restored: their places are made in one piece, which leaves no holes in memory.
    pub fn reserve(&self, messages: usize) {
        self.lock().reserve(messages);
    }

    /// An unfinished message found at start-up joins the queue with the states it had.
    pub fn restore(self: &Arc<Queue>, restored: Restored) {
        let Restored { id, envelope, recipients, taken_back } = restored;
        let timestamp = self.clock.timestamp();
        let now = self.now();
        let expires = at(now, timestamp, envelope.expires_at);
        let known: HashMap<u32, RestoredRecipient> = recipients.into_iter().map(|r| (r.recipient, r)).collect();
        let mut groups: Vec<Group<'_>> = Vec::new();
        let apart = envelope.recipients.len() > 1 && self.parts.load().verp.names_each(&envelope.reverse_path);
        let mut places: HashMap<(&AddressHost, u16, bool, u64, usize), usize> = HashMap::new();
        for (place, recipient) in envelope.recipients.iter().enumerate() {
            let (attempts, late, due) = match known.get(&(place as u32)) {
                None => (0, false, envelope.not_before),
                Some(RestoredRecipient { attempts: ENDED, .. }) => continue,
                Some(RestoredRecipient { attempts, late, next_attempt, .. }) => (*attempts, *late, *next_attempt),
            };
            // Not now, so that nothing is attempted before the timers run.
            let due = at(now, timestamp, due).min(expires).max(now + 1);
            let host = recipient.address.host();
            let alone = if apart { place } else { 0 };
            let group = *places.entry((host, attempts, late, due, alone)).or_insert_with(|| {
                groups.push(Group { host, attempts, late, recipients: Recipients::None, due, refused: false });
                groups.len() - 1
            });
            groups[group].recipients.push(place as u32);
        }
        if groups.is_empty() {
            // Every recipient ended, but the tombstone did not reach the disk.
            let update = Update {
                id,
                changes: Vec::new(),
                finished: true,
                events: Bytes::new(),
                signature: None,
                reports: Vec::new(),
                synced: None,
            };
            return self.spool.record(update, |_| {});
        }
        let newcomer = Newcomer {
            id,
            stream: &envelope.stream,
            accepted_at: envelope.accepted_at,
            recipients: envelope.recipients.len(),
            size: self.spool.content_len(id).unwrap_or_default() as u64,
            expires,
            apart,
        };
        self.with_actions(|scheduler, _, actions| scheduler.add(now, newcomer, groups, actions));
        if taken_back {
            self.taken_back.lock().expect("no code panics under this lock").push(id);
        }
    }
}
