//! What a client says, as texts: nothing is checked yet.

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::mail::{Notify, Ret};

/// What a client asks. Nothing is checked yet; empty means: not said.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Who sends. A client bound to a tenant may leave it out.
    pub tenant: Option<String>,
    /// What the messages belong to.
    pub campaign: Option<String>,
    /// The list it goes to.
    pub list: Option<String>,
    /// `transactional` or `bulk`.
    pub class: Option<String>,
    /// Free words for the events.
    pub tags: Vec<String>,
    /// Not tried before.
    pub not_before: Option<When>,
    /// Given up then.
    pub expires_at: Option<When>,
    /// The client's name for this submission.
    pub idempotency_key: Option<String>,
    /// The sender in the envelope, where reports go; `Some("")` is the null path. Default: the address of From.
    pub sender: Option<String>,
    /// The recipients in the envelope. Default with parts: those of To, Cc and Bcc.
    pub recipients: Vec<String>,
    /// Each recipient gets a message of its own; with parts, To shows only that recipient.
    pub personal: bool,
    /// Which reports the sender wants (RFC 3461 §4.1), for every recipient.
    pub notify: Option<Notify>,
    /// How much of the message a failure report returns (RFC 3461 §4.3).
    pub ret: Option<Ret>,
    /// The client's name for the envelope in reports (RFC 3461 §4.4), not encoded.
    pub envid: Option<String>,
    /// What is to be sent.
    pub content: RequestContent,
}

/// A point in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    /// RFC 3339, or a duration from now such as `2h`.
    Text(String),
    /// Already read.
    At(Timestamp),
}

/// What is to be sent.
#[derive(Debug, Clone)]
pub enum RequestContent {
    /// A whole message (RFC 5322), its lines ending in CRLF or LF.
    Raw(Bytes),
    /// A message to be built.
    Parts(Box<Parts>),
}

impl Default for RequestContent {
    fn default() -> RequestContent {
        RequestContent::Parts(Box::default())
    }
}

/// What a message is built from.
#[derive(Debug, Clone, Default)]
pub struct Parts {
    /// The author; must be there.
    pub from: Option<Mailbox>,
    /// Where answers go.
    pub reply_to: Vec<Mailbox>,
    /// Shown as To.
    pub to: Vec<Mailbox>,
    /// Shown as Cc.
    pub cc: Vec<Mailbox>,
    /// Never shown.
    pub bcc: Vec<Mailbox>,
    /// The subject.
    pub subject: Option<String>,
    /// The text, as plain text.
    pub text: Option<String>,
    /// The text, as HTML.
    pub html: Option<String>,
    /// Further header fields, by name and value.
    pub headers: Vec<(String, String)>,
    /// Files.
    pub attachments: Vec<Attachment>,
}

/// An address with the name of whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mailbox {
    /// The name shown.
    pub name: Option<String>,
    /// `local@domain`.
    pub address: String,
}

/// A file that goes with a message.
#[derive(Debug, Clone, Default)]
pub struct Attachment {
    /// What it is called at the receiver.
    pub file_name: Option<String>,
    /// `type/subtype`, parameters allowed. Default: `application/octet-stream`.
    pub content_type: Option<String>,
    /// The octets.
    pub content: Bytes,
    /// By what name the HTML refers to it, as `cid:…`, without angle brackets.
    pub content_id: Option<String>,
    /// Shown within the text, not beside it.
    pub inline: bool,
}
