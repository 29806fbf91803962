//! One mail transaction: from MAIL to the end of the content.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::super::message::{self, Circumstances, MessageError};
use super::super::options::{Asked, OptionError};
use super::super::received::Received;
use super::super::ways_back::WaysBack;
use super::content::{Content, Whole};
use super::limits::MemoryShare;
use super::parameters::{MailParameters, RcptParameters};
use crate::access::Principal;
use crate::clock::Timestamp;
use crate::mail::{Envelope, EnvelopeAddress, Recipient, ReversePath, Stream};

/// From here on equal recipients are found by a table instead of by looking at each.
const TABLE_FROM: usize = 16;

/// What a transaction has gathered.
#[derive(Debug)]
pub(super) struct Transaction {
    /// On whose behalf.
    pub(super) principal: Arc<Principal>,
    /// The sender.
    pub(super) reverse_path: ReversePath,
    /// The parameters of MAIL.
    pub(super) parameters: MailParameters,
    /// What they ask for, counted from then.
    pub(super) asked: Asked,
    /// Who is to get it, each once.
    pub(super) recipients: Vec<Recipient>,
    /// A RCPT was refused.
    pub(super) recipient_refused: bool,
    /// The content, once DATA or the first BDAT has come.
    pub(super) content: Option<Content>,
    table: HashMap<u64, usize>,
}

/// A transaction that is complete, ready for the door.
#[derive(Debug)]
pub(super) struct Submitted {
    /// On whose behalf.
    pub(super) principal: Arc<Principal>,
    /// Everything but the content.
    pub(super) envelope: Envelope,
    /// The message as it goes out.
    pub(super) content: Bytes,
    /// What is wrong with its times, unless it was taken before.
    pub(super) overdue: Option<OptionError>,
    /// What the content is accounted with.
    pub(super) memory: MemoryShare,
}

/// What is known of the session when a transaction completes.
#[derive(Debug, Clone)]
pub(super) struct Trace<'a> {
    /// The trace field, its recipient still unsaid.
    pub(super) received: Received<'a>,
    /// How long a message lives unless it says otherwise.
    pub(super) expire_after: Duration,
    /// What is added so that recipients can leave.
    pub(super) ways_back: Option<Arc<WaysBack>>,
}

impl Transaction {
    /// Begins with MAIL.
    pub(super) fn new(
        principal: Arc<Principal>,
        reverse_path: ReversePath,
        parameters: MailParameters,
        asked: Asked,
    ) -> Transaction {
        Transaction {
            principal,
            reverse_path,
            parameters,
            asked,
            recipients: Vec::new(),
            recipient_refused: false,
            content: None,
            table: HashMap::new(),
        }
    }

    /// Whether the recipient is there already, with the same parameters.
    pub(super) fn has(&self, recipient: &Recipient) -> bool {
        if self.recipients.len() < TABLE_FROM {
            return self.recipients.contains(recipient);
        }
        match self.table.get(&self.table.hasher().hash_one(&recipient.address)) {
            None => false,
            // The table knows the first of those that share a hash; with other parameters it may be there again.
            Some(first) => self.recipients[*first..].contains(recipient),
        }
    }

    /// Adds a recipient that is not there yet.
    pub(super) fn add(&mut self, recipient: Recipient) {
        self.recipients.push(recipient);
        let known = if self.recipients.len() == TABLE_FROM { 0 } else { self.recipients.len() - 1 };
        if self.recipients.len() >= TABLE_FROM {
            for (index, recipient) in self.recipients.iter().enumerate().skip(known) {
                let hash = self.table.hasher().hash_one(&recipient.address);
                self.table.entry(hash).or_insert(index);
            }
        }
    }

    /// Completes the message and its envelope.
    ///
    /// # Errors
    /// The header is not fit to be sent.
    pub(super) fn complete(self, whole: Whole, trace: Trace<'_>) -> Result<Submitted, MessageError> {
        let Whole { buffer, mut memory, eight_bit } = whole;
        let smtputf8 = self.parameters.smtputf8;
        let only = match self.recipients.as_slice() {
            [only] => Some(&only.address),
            _ => None,
        };
        let received = Received { recipient: only, ..trace.received };
        let completed = message::complete(
            buffer,
            &Circumstances {
                received,
                reverse_path: &self.reverse_path,
                recipients: &self.recipients,
                asked: self.asked,
                said: &self.parameters.said(),
                tenant: self.principal.tenant.as_ref().map(|tenant| &*tenant.name),
                ways_back: trace.ways_back.as_deref(),
                smtputf8,
                eight_bit,
                expire_after: trace.expire_after,
            },
        )?;
        // With a key this may be a repetition, and whether it is the gate finds out.
        let overdue = match completed.overdue {
            Some(error) if completed.key.is_none() => return Err(error.into()),
            overdue => overdue,
        };
        // To give memory back never fails.
        memory.resize(completed.capacity);
        let envelope = Envelope {
            reverse_path: self.reverse_path,
            recipients: self.recipients,
            stream: completed.stream,
            accepted_at: trace.received.at,
            not_before: completed.not_before,
            expires_at: completed.expires_at,
            delay_report_at: self.asked.delay_report_at,
            smtputf8,
            eight_bit,
            ret: self.parameters.ret,
            envid: self.parameters.envid,
            list: completed.list,
            tags: completed.tags,
            key: completed.key,
        };
        Ok(Submitted { principal: self.principal, envelope, content: completed.content, overdue, memory })
    }
}

impl Transaction {
    /// The message and its envelope with nothing done to them, for what comes back.
    pub(super) fn untouched(self, whole: Whole, at: Timestamp) -> (Arc<Principal>, Envelope, Bytes, MemoryShare) {
        let Whole { buffer, memory, eight_bit } = whole;
        let envelope = Envelope {
            reverse_path: self.reverse_path,
            recipients: self.recipients,
            smtputf8: self.parameters.smtputf8,
            eight_bit,
            ..Envelope::unreadable(Stream::default(), at)
        };
        (self.principal, envelope, Bytes::from(buffer).slice(message::HEADROOM..), memory)
    }
}

/// The recipient RCPT asks for.
pub(super) fn recipient(address: EnvelopeAddress, parameters: RcptParameters) -> Recipient {
    Recipient { address, notify: parameters.notify, orcpt: parameters.orcpt }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Notify;

    #[test]
    fn keeps_equal_recipients_once() {
        let mut transaction =
            Transaction::new(Principal::network(), ReversePath::Null, MailParameters::default(), Asked::default());
        let named = |n: usize| Recipient::new(format!("r{n}@b.example").parse().expect("an address"));
        for n in 0..100 {
            assert!(!transaction.has(&named(n)));
            transaction.add(named(n));
            assert!((0..=n).all(|known| transaction.has(&named(known))));
        }
        let mut silent = named(50);
        silent.notify = Some(Notify::default());
        assert!(!transaction.has(&silent));
        transaction.add(silent.clone());
        assert!(transaction.has(&silent) && transaction.has(&named(50)));
    }
}
