//! Messages kept in memory for their first attempt.

use std::sync::Arc;

use super::Message;
use crate::mail::{IdMap, MessageId};

/// What a message costs beyond its content, roughly: its envelope, and what may be free in its buffer.
const OVERHEAD: usize = 2048;

/// Bounded in octets. When full, newcomers stay on disk: the older ones will be sent first and are worth more here.
#[derive(Debug)]
pub(super) struct Cache {
    messages: IdMap<Arc<Message>>,
    size: usize,
    size_max: usize,
}

impl Cache {
    pub(super) fn new(size_max: usize) -> Cache {
        Cache { messages: IdMap::default(), size: 0, size_max }
    }

    /// Octets in use.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn get(&self, id: MessageId) -> Option<Arc<Message>> {
        self.messages.get(&id).cloned()
    }

    pub(super) fn insert(&mut self, message: &Arc<Message>) {
        let size = message.content.len() + OVERHEAD;
        if self.size + size <= self.size_max && self.messages.insert(message.id, Arc::clone(message)).is_none() {
            self.size += size;
        }
    }

    pub(super) fn remove(&mut self, id: MessageId) {
        if let Some(message) = self.messages.remove(&id) {
            self.size -= message.content.len() + OVERHEAD;
        }
    }
}
