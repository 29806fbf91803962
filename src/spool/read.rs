//! Reading messages and what became of their recipients, from memory or from disk.

use std::sync::Arc;

use bytes::Bytes;

use super::codec::{self, CodecError, Reader};
use super::{Change, MESSAGE, Message, Spool, SpoolError, state};
use crate::log::Location;
use crate::mail::MessageId;

impl Spool {
    /// The message with its content, from memory or from disk.
    ///
    /// # Errors
    /// [`SpoolError::Unknown`] when finished; otherwise the record cannot be read.
    ///
    /// # Cancel safety
    /// Nothing changes but what is cached.
    pub async fn load(&self, id: MessageId) -> Result<Arc<Message>, SpoolError> {
        loop {
            let (location, signature) = {
                let state = self.lock();
                if let Some(message) = state.cache.get(id) {
                    return Ok(message);
                }
                let entry = state.index.get(id).ok_or(SpoolError::Unknown(id))?;
                (entry.message.ok_or(SpoolError::Unknown(id))?, entry.signature())
            };
            let read = self.read_message(id, location, signature).await;
            // It may have been copied forward, and its old place used again, while the read waited.
            if read.is_ok() || self.lock().holds(id, MESSAGE, location) {
                return read;
            }
        }
    }

    /// How large the content of a message is, in octets.
    ///
    /// # Errors
    /// [`SpoolError::Unknown`] when finished.
    pub fn content_len(&self, id: MessageId) -> Result<usize, SpoolError> {
        let state = self.lock();
        if let Some(message) = state.cache.get(id) {
            return Ok(message.content.len());
        }
        let location = state.index.get(id).and_then(|entry| entry.message).ok_or(SpoolError::Unknown(id))?;
        Ok(location.body_len as usize)
    }

    async fn read_message(
        &self,
        id: MessageId,
        location: Location,
        signature: Option<Location>,
    ) -> Result<Arc<Message>, SpoolError> {
        let record = self.log.read(location).await.map_err(Arc::new)?;
        let damaged = |source| SpoolError::Damaged { id, source };
        if record.id != id.0 {
            return Err(damaged(CodecError("message id")));
        }
        let envelope = codec::read_envelope(&mut Reader(&record.head)).map_err(damaged)?;
        let message = Message::new(id, envelope, record.body);
        if let Some(location) = signature {
            let signature = self.log.read(location).await.map_err(Arc::new)?;
            message.signature.set(signature.body).expect("a new message has no signature yet");
        }
        Ok(Arc::new(message))
    }

    /// The message, but without content and signature if it must be read from disk: for what concerns its recipients
    /// only, and for one whose content cannot be read.
    ///
    /// # Errors
    /// As [`load`](Spool::load), but for the content.
    pub async fn load_envelope(&self, id: MessageId) -> Result<Arc<Message>, SpoolError> {
        let location = {
            let state = self.lock();
            if let Some(message) = state.cache.get(id) {
                return Ok(message);
            }
            state.index.get(id).and_then(|entry| entry.message).ok_or(SpoolError::Unknown(id))?
        };
        let record = self.log.read_head(location).await.map_err(Arc::new)?;
        let damaged = |source| SpoolError::Damaged { id, source };
        if record.id != id.0 {
            return Err(damaged(CodecError("message id")));
        }
        let envelope = codec::read_envelope(&mut Reader(&record.head)).map_err(damaged)?;
        Ok(Arc::new(Message::new(id, envelope, Bytes::new())))
    }

    /// The states written so far for a message's recipients, in the order of the log; unsynced ones may be missing.
    ///
    /// # Errors
    /// As [`load`](Spool::load).
    pub async fn states(&self, id: MessageId) -> Result<Vec<Change>, SpoolError> {
        let locations: Vec<Location> = {
            let state = self.lock();
            state.index.get(id).ok_or(SpoolError::Unknown(id))?.states().collect()
        };
        let mut changes = Vec::new();
        for location in locations {
            let record = self.log.read(location).await.map_err(Arc::new)?;
            let found = state::read(&record.head).map_err(|source| SpoolError::Damaged { id, source })?;
            changes.extend(found.changes);
        }
        Ok(changes)
    }
}
