//! Why a receiver refused, and whose fault that is: the words of verdicts on replies, bounces and provider profiles.

use serde::{Deserialize, Serialize};

/// Whose fault it is, so what learns of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// The recipient's address or mailbox.
    Recipient,
    /// This message: its content, its size, its form.
    Message,
    /// The receiver's site: it is ill or cannot be reached.
    Site,
    /// We: the IP address we sent from, its name, our rate, our signature.
    Source,
    /// A decision of the receiver, or nobody knows: never counts against the recipient.
    Policy,
}

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The site knows no such mailbox.
    UserUnknown,
    /// The mailbox takes no more.
    MailboxFull,
    /// The domain does not exist or takes no mail.
    HostUnknown,
    /// The mailbox exists and is disabled, frozen or abandoned.
    Suspended,
    /// The message was taken for spam.
    SpamBlock,
    /// The sending address is on a blocklist, has a bad reputation or no reverse name.
    BlockedIp,
    /// SPF, DKIM or DMARC did not pass.
    AuthFailure,
    /// Refused by a rule of the receiver that says no more.
    Policy,
    /// The content or form of the message.
    ContentRejected,
    /// Larger than the receiver takes.
    MessageTooBig,
    /// Too much, too fast.
    RateLimit,
    /// The server does not take mail for this domain.
    RelayingDenied,
    /// The sender gave up after its time.
    Expired,
    /// The way there is broken: connections, DNS failures that pass, loops.
    NetworkError,
    /// The receiver's system is ill, or the dialogue went wrong.
    SystemError,
    /// The text gives no cause we know.
    Other,
}

impl Reason {
    /// All of them, in the order of tables.
    pub const ALL: [Reason; 16] = [
        Reason::UserUnknown,
        Reason::MailboxFull,
        Reason::HostUnknown,
        Reason::Suspended,
        Reason::SpamBlock,
        Reason::BlockedIp,
        Reason::AuthFailure,
        Reason::Policy,
        Reason::ContentRejected,
        Reason::MessageTooBig,
        Reason::RateLimit,
        Reason::RelayingDenied,
        Reason::Expired,
        Reason::NetworkError,
        Reason::SystemError,
        Reason::Other,
    ];

    /// As tables and JSON spell it: `user-unknown`.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::UserUnknown => "user-unknown",
            Reason::MailboxFull => "mailbox-full",
            Reason::HostUnknown => "host-unknown",
            Reason::Suspended => "suspended",
            Reason::SpamBlock => "spam-block",
            Reason::BlockedIp => "blocked-ip",
            Reason::AuthFailure => "auth-failure",
            Reason::Policy => "policy",
            Reason::ContentRejected => "content-rejected",
            Reason::MessageTooBig => "message-too-big",
            Reason::RateLimit => "rate-limit",
            Reason::RelayingDenied => "relaying-denied",
            Reason::Expired => "expired",
            Reason::NetworkError => "network-error",
            Reason::SystemError => "system-error",
            Reason::Other => "other",
        }
    }

    /// Whose fault a failure of this kind is.
    pub fn fault(self) -> Fault {
        match self {
            Reason::UserUnknown | Reason::MailboxFull | Reason::HostUnknown | Reason::Suspended => Fault::Recipient,
            Reason::SpamBlock | Reason::ContentRejected | Reason::MessageTooBig => Fault::Message,
            Reason::BlockedIp | Reason::AuthFailure | Reason::RateLimit => Fault::Source,
            Reason::RelayingDenied | Reason::Expired | Reason::NetworkError | Reason::SystemError => Fault::Site,
            Reason::Policy | Reason::Other => Fault::Policy,
        }
    }

    /// Whether it means that the address will never work.
    pub fn is_lasting(self) -> bool {
        matches!(self, Reason::UserUnknown | Reason::HostUnknown)
    }
}
