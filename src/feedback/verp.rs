//! The return path of what we send, made so that a bounce says of whom it is (VERP): `b+TOKEN@bounce_domain`.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::token::{Sent, Tokens};
use crate::config::{FeedbackConfig, VerpNames};
use crate::mail::{AddressHost, Domain, EnvelopeAddress, MessageId, Recipient, ReversePath};

/// What stands before the token.
pub const PREFIX: &str = "b+";

/// Makes return paths, if they are asked for.
#[derive(Debug, Clone)]
pub struct Verp {
    tokens: Arc<Tokens>,
    domain: Option<Domain>,
    by_sender: BTreeMap<Domain, Domain>,
    names: VerpNames,
}

impl Verp {
    /// As the configuration wants it.
    pub fn new(config: &FeedbackConfig, tokens: Arc<Tokens>) -> Verp {
        let (domain, by_sender) = (config.bounce_domain.clone(), config.bounce_domains.clone());
        Verp { tokens, domain, by_sender, names: config.verp }
    }

    /// Whether the return path for messages of this sender names one recipient, so that no two may share a transaction.
    pub fn names_each(&self, sender: &ReversePath) -> bool {
        self.names == VerpNames::Recipient && sender.address().is_some_and(|sender| self.domain_of(sender).is_some())
    }

    /// The return path of a transaction with these recipients of a message of `sender`; `None`: the sender's own. It names
    /// the recipient if there is one only, else their domain if they have one, else the message: then whoever gets it
    /// could speak for the others, and is not believed. A message without a return path gets none (RFC 5321 §4.5.5): to
    /// a report no bounce may come. Costs one HMAC, nothing if no domain is configured.
    pub fn return_path(
        &self,
        sender: &ReversePath,
        message: MessageId,
        recipients: &[&Recipient],
    ) -> Option<ReversePath> {
        let domain = self.domain_of(sender.address()?)?;
        let sent = Sent::to(message, recipients.iter().map(|recipient| &recipient.address));
        let token = self.tokens.sent(sent);
        let address = format!("{PREFIX}{token}@{domain}");
        Some(ReversePath::Address(address.parse().expect("letters, digits and a plus at a domain")))
    }

    /// The bounce domain for a sender: that of the longest of its domains that has one, else the general one.
    pub(super) fn domain_of(&self, sender: &EnvelopeAddress) -> Option<&Domain> {
        let general = self.domain.as_ref();
        let AddressHost::Domain(domain) = sender.host() else { return general };
        if self.by_sender.is_empty() {
            return general;
        }
        let mut rest = Some(domain.as_str());
        while let Some(name) = rest {
            if let Some((_, found)) = self.by_sender.iter().find(|(known, _)| known.as_str() == name) {
                return Some(found);
            }
            rest = name.split_once('.').map(|(_, parent)| parent);
        }
        general
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::clock::Timestamp;
    use crate::feedback::token::{DomainHash, RecipientHash};

    const ID: MessageId = MessageId(1_700_000_000_000 << 22);

    fn verp(config: &FeedbackConfig) -> Verp {
        Verp::new(config, Arc::new(Tokens::new(b"a secret of some length")))
    }

    fn recipients(addresses: &[&str]) -> Vec<Recipient> {
        addresses.iter().map(|address| Recipient::new(address.parse().unwrap())).collect()
    }

    fn path_of(verp: &Verp, sender: &str, addresses: &[&str]) -> Option<String> {
        let recipients = recipients(addresses);
        let sender = sender.parse().unwrap();
        verp.return_path(&sender, ID, &recipients.iter().collect::<Vec<_>>()).map(|path| path.to_string())
    }

    #[test]
    fn names_the_one_recipient_or_the_domain_or_the_message() {
        let verp =
            verp(&FeedbackConfig { bounce_domain: Some("b.us.example".parse().unwrap()), ..FeedbackConfig::default() });
        let sent = |addresses: &[&str]| {
            let path = path_of(&verp, "news@us.example", addresses).unwrap();
            let token = path.strip_prefix("b+").unwrap().strip_suffix("@b.us.example").unwrap();
            assert!(path.split('@').next().unwrap().len() <= 64, "RFC 5321 §4.5.3.1.1");
            verp.tokens.read_sent(token, Timestamp(1_700_000_000_000), Duration::from_secs(1)).unwrap()
        };
        let address = "a@them.example".parse().unwrap();
        let (one, domain) = (RecipientHash::of(&address), DomainHash::of(&address));
        assert_eq!(sent(&["a@them.example"]), Sent { message: ID, recipient: Some(one), domain: None });
        let several = Sent { message: ID, recipient: None, domain: Some(domain) };
        assert_eq!(sent(&["a@them.example", "b@THEM.example"]), several);
        assert_eq!(sent(&["a@them.example", "b@they.example"]), Sent::any(ID));
    }

    #[test]
    fn reports_keep_their_null_path_and_nothing_is_made_unless_asked_for() {
        let off = verp(&FeedbackConfig::default());
        assert_eq!(path_of(&off, "news@us.example", &["a@them.example"]), None);
        let on =
            verp(&FeedbackConfig { bounce_domain: Some("b.us.example".parse().unwrap()), ..FeedbackConfig::default() });
        assert_eq!(path_of(&on, "", &["a@them.example"]), None);
    }

    #[test]
    fn senders_may_have_domains_of_their_own() {
        let domain = |name: &str| name.parse::<Domain>().unwrap();
        let bounce_domains = [("us.example", "b.us.example"), ("sub.us.example", "b.sub.example")];
        let bounce_domains = bounce_domains.into_iter().map(|(from, to)| (domain(from), domain(to))).collect();
        let config =
            FeedbackConfig { bounce_domain: Some(domain("b.example")), bounce_domains, ..FeedbackConfig::default() };
        let some = verp(&config);
        let only = verp(&FeedbackConfig { bounce_domain: None, ..config });
        let of = |verp: &Verp, sender: &str| {
            path_of(verp, sender, &["a@them.example"]).and_then(|path| Some(path.split_once('@')?.1.to_owned()))
        };
        for (sender, expected) in [
            ("a@us.example", "b.us.example"),
            ("a@x.us.example", "b.us.example"),
            ("a@x.sub.us.example", "b.sub.example"),
            ("a@thus.example", "b.example"),
            ("a@[192.0.2.1]", "b.example"),
        ] {
            assert_eq!(of(&some, sender).as_deref(), Some(expected), "{sender}");
            let own = Some(expected).filter(|domain| *domain != "b.example");
            assert_eq!(of(&only, sender).as_deref(), own, "{sender}");
        }
    }
}
