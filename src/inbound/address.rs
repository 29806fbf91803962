//! Our addresses: which there are, and what each of them says.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::config::Config;
use crate::feedback::token::{Sent, TokenError, Tokens};
use crate::feedback::{marks, verp};

use crate::mail::{AddressHost, Domain, EnhancedCode, EnvelopeAddress, Reply};

/// An address of ours, with what stands in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mailbox {
    /// The return path of a message.
    Bounce(Sent),
    /// For complaints: of a message (RFC 9477), or of whoever has registered our address.
    Complaints(Option<Sent>),
    /// For DMARC and TLS reports.
    Reports,
    /// Where recipients leave lists.
    Unsubscribe,
    /// Who looks after our domains.
    Postmaster(EnvelopeAddress),
}

/// Why an address is none of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoMailbox {
    /// It is at a domain that is not for what comes back.
    #[error("relaying denied: mail is taken for our own return paths only")]
    Elsewhere,
    /// We never made it.
    #[error("no such address here")]
    Unknown,
    /// We made it too long ago.
    #[error("this return path has expired: its message is too old to be reported on")]
    Expired,
}

impl NoMailbox {
    /// What the client hears.
    pub fn reply(self) -> Reply {
        let enhanced = match self {
            NoMailbox::Elsewhere | NoMailbox::Expired => EnhancedCode(5, 7, 1),
            NoMailbox::Unknown => EnhancedCode(5, 1, 1),
        };
        Reply::ours(550, enhanced, self.to_string())
    }
}

/// A local part, as far as its form says what it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Local<'a> {
    /// `b+TOKEN`: a return path.
    Bounce(&'a str),
    /// `fbl+TOKEN`: complaints of a message (RFC 9477).
    Complaint(&'a str),
    /// `fbl`: complaints, as registered with those who have feedback loops.
    Complaints,
    /// `unsubscribe`; the token is the subject.
    Unsubscribe,
    /// `dmarc`: aggregate reports.
    Dmarc,
    /// `tlsrpt`: TLS reports.
    TlsReports,
    /// `postmaster` (RFC 5321 §4.5.1) or `abuse` (RFC 2142 §2).
    Postmaster,
    /// Anything else.
    Other,
}

impl<'a> Local<'a> {
    /// Case does not matter: hosts on the way change it.
    pub(super) fn read(local: &'a str) -> Local<'a> {
        let behind = |prefix: &str| match local.get(..prefix.len()) {
            Some(start) if start.eq_ignore_ascii_case(prefix) => Some(&local[prefix.len()..]),
            _ => None,
        };
        if let Some(token) = behind(verp::PREFIX) {
            return Local::Bounce(token);
        }
        if let Some(token) = behind(marks::PREFIX) {
            return Local::Complaint(token);
        }
        let names = [
            ("fbl", Local::Complaints),
            ("unsubscribe", Local::Unsubscribe),
            ("dmarc", Local::Dmarc),
            ("tlsrpt", Local::TlsReports),
            ("postmaster", Local::Postmaster),
            ("abuse", Local::Postmaster),
        ];
        names.into_iter().find(|(name, _)| local.eq_ignore_ascii_case(name)).map_or(Local::Other, |(_, found)| found)
    }
}

/// All our addresses.
#[derive(Debug, Clone)]
pub struct Mailboxes {
    tokens: Arc<Tokens>,
    lifetime: Duration,
    domains: BTreeSet<Domain>,
    postmaster: Option<EnvelopeAddress>,
}

impl Mailboxes {
    /// As the configuration wants them.
    pub fn new(config: &Config, tokens: Arc<Tokens>) -> Mailboxes {
        Mailboxes {
            tokens,
            lifetime: config.feedback.token_lifetime,
            domains: config.feedback.domains(),
            postmaster: config.inbound.postmaster.clone(),
        }
    }

    /// What an address is for.
    ///
    /// # Errors
    /// It is none of ours.
    pub fn find(&self, address: &EnvelopeAddress, now: Timestamp) -> Result<Mailbox, NoMailbox> {
        let AddressHost::Domain(domain) = address.host() else { return Err(NoMailbox::Elsewhere) };
        if !self.domains.contains(domain) {
            return Err(NoMailbox::Elsewhere);
        }
        match Local::read(address.local()) {
            Local::Bounce(token) => self.sent(token, now).map(Mailbox::Bounce),
            Local::Complaint(token) => self.sent(token, now).map(|sent| Mailbox::Complaints(Some(sent))),
            Local::Complaints => Ok(Mailbox::Complaints(None)),
            Local::Dmarc | Local::TlsReports => Ok(Mailbox::Reports),
            Local::Postmaster => self.postmaster.clone().map(Mailbox::Postmaster).ok_or(NoMailbox::Unknown),
            Local::Unsubscribe => Ok(Mailbox::Unsubscribe),
            Local::Other => Err(NoMailbox::Unknown),
        }
    }

    fn sent(&self, token: &str, now: Timestamp) -> Result<Sent, NoMailbox> {
        self.tokens.read_sent(token, now, self.lifetime).map_err(|error| match error {
            TokenError::Expired => NoMailbox::Expired,
            // Who forges does not learn by how much.
            TokenError::Malformed | TokenError::Forged => NoMailbox::Unknown,
        })
    }

    /// How long a token is believed.
    pub(super) fn lifetime(&self) -> Duration {
        self.lifetime
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_known_in_any_case() {
        for (local, expected) in [
            ("b+x", Local::Bounce("x")),
            ("B+X", Local::Bounce("X")),
            ("b+", Local::Bounce("")),
            ("b", Local::Other),
            ("bb+x", Local::Other),
            ("FBL+x", Local::Complaint("x")),
            ("fbl", Local::Complaints),
            ("Unsubscribe", Local::Unsubscribe),
            ("DMARC", Local::Dmarc),
            ("tlsrpt", Local::TlsReports),
            ("Postmaster", Local::Postmaster),
            ("abuse", Local::Postmaster),
            ("postmaster+x", Local::Other),
            ("é", Local::Other),
            ("unsubscribé+x", Local::Other),
        ] {
            assert_eq!(Local::read(local), expected, "{local}");
        }
    }
}
