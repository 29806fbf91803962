//! A message in memory.

use bytes::Bytes;
use tokio::sync::OnceCell;

use crate::mail::{Envelope, MessageId};

/// A message with its content, as it is handed from stage to stage. Shared by `Arc`; never changes but for the signature,
/// which is added once.
#[derive(Debug)]
pub struct Message {
    /// Its name.
    pub id: MessageId,
    /// Everything but the content.
    pub envelope: Envelope,
    /// The message as it goes out, without the signature fields.
    pub content: Bytes,
    /// DKIM-Signature fields to put in front of the content; empty when no key applies. Set at the first attempt.
    pub signature: OnceCell<Bytes>,
}

impl Message {
    /// A message not yet signed.
    pub fn new(id: MessageId, envelope: Envelope, content: Bytes) -> Message {
        Message { id, envelope, content, signature: OnceCell::new() }
    }
}
