//! Mail for those who look after our domains (RFC 5321 §4.5.1, RFC 2142 §2): handed on as it came.

use std::sync::Arc;

use bytes::Bytes;
use smallvec::smallvec;

use super::desk::{Arrived, Desk};
use crate::mail::{Class, Envelope, EnvelopeAddress, Recipient, ReversePath, Stream};
use crate::spool::Message;
use crate::submission::Rejection;
use crate::submission::received::{Protocol, Received};

impl Desk {
    /// Sends it on to whoever the operator named. Its return path becomes null: should it fail, nobody is told, or those whose
    /// addresses are forged would be.
    pub(super) async fn hand_on(&self, arrived: &Arrived, to: &EnvelopeAddress) -> Result<(), Rejection> {
        let Arrived { at, client, envelope: came, content, .. } = arrived;
        let id = self.parts.queue.next_ids(1);
        let smtputf8 = came.smtputf8;
        let protocol = Protocol { extended: true, tls: false, auth: false, smtputf8 };
        let received = Received {
            hello: None,
            client: *client,
            by: &self.hostname,
            protocol: protocol.name(),
            id,
            recipient: None,
            at: *at,
        };
        let mut whole = received.to_string().into_bytes();
        whole.extend_from_slice(content);
        let envelope = Envelope {
            reverse_path: ReversePath::Null,
            recipients: vec![Recipient::new(to.clone())],
            expires_at: at.after(self.parts.queue.expire_after()),
            smtputf8,
            eight_bit: came.eight_bit,
            ..Envelope::unreadable(Stream { class: Class::System, ..Stream::default() }, *at)
        };
        let message = Arc::new(Message::new(id, envelope, Bytes::from(whole)));
        self.parts.queue.accept(smallvec![message]).await.map_err(Rejection::from_queue)
    }
}
