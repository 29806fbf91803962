//! The ways back: fields by which a recipient leaves a list (RFC 2369 §3.2, RFC 8058).
//!
//! They are put on at acceptance, so that the signature covers them as it covers the rest. Bulk mail gets them if it names a
//! list (or `unsubscribe.without_list` says so), if it has exactly one recipient, because a link that many people have
//! unsubscribes any of them, and if it brings none of its own.

use std::fmt::Write;
use std::sync::Arc;

use crate::config::UnsubscribeConfig;
use crate::feedback::token::{Subscription, Tokens};
use crate::mail::{Class, Domain, MessageId, Recipient, Stream};

/// Longest line of a header (RFC 5322 §2.1.1). A way whose address would not fit is left out.
const LINE_MAX: usize = 998;

/// What is needed to write them.
#[derive(Debug, Clone)]
pub struct WaysBack {
    tokens: Arc<Tokens>,
    url: Option<Arc<str>>,
    without_list: bool,
    /// Where mail for `unsubscribe@` is taken.
    mail_domain: Option<Domain>,
}

/// What they are written for.
#[derive(Debug, Clone, Copy)]
pub struct Written<'a> {
    /// The message.
    pub message: MessageId,
    /// Where it belongs.
    pub stream: &'a Stream,
    /// The list it goes to.
    pub list: Option<&'a str>,
    /// Its recipients.
    pub recipients: &'a [Recipient],
}

impl WaysBack {
    /// As the configuration has them; `bounce_domain` takes mail for us, if there is one.
    pub fn new(config: &UnsubscribeConfig, bounce_domain: Option<&Domain>, tokens: Arc<Tokens>) -> WaysBack {
        let mail_domain = bounce_domain.filter(|_| config.mailto).cloned();
        let url = config.url.as_deref().map(|url| url.trim_end_matches('/').into());
        WaysBack { tokens, url, without_list: config.without_list, mail_domain }
    }

    /// The fields for this message, each with its CRLF; empty: none.
    pub fn unsubscribe_fields(&self, written: &Written<'_>) -> String {
        let Written { message, stream, list, recipients } = *written;
        let Some(url) = &self.url else { return String::new() };
        let [recipient] = recipients else { return String::new() };
        if stream.class != Class::Bulk || (list.is_none() && !self.without_list) {
            return String::new();
        }
        let (address, list) = (recipient.address.clone(), list.map(Into::into));
        let token = self.tokens.subscription(&Subscription { address, stream: stream.clone(), list, message });
        let one_click = format!("List-Unsubscribe: <{url}/{token}>");
        if one_click.len() >= LINE_MAX {
            return String::new();
        }
        let mut fields = one_click;
        if let Some(domain) = &self.mail_domain {
            let mailto = format!(" <mailto:unsubscribe@{domain}?subject={token}>");
            if mailto.len() <= LINE_MAX {
                let _ = write!(fields, ",\r\n{mailto}");
            }
        }
        fields.push_str("\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n");
        fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: MessageId = MessageId(77 << 22);

    fn tokens() -> Arc<Tokens> {
        Arc::new(Tokens::new(b"a secret of some length"))
    }

    fn ways(change: impl FnOnce(&mut UnsubscribeConfig)) -> WaysBack {
        let url = Some("https://us.example/leave/".into());
        let mut config = UnsubscribeConfig { url, ..UnsubscribeConfig::default() };
        change(&mut config);
        WaysBack::new(&config, Some(&"bounces.us.example".parse().unwrap()), tokens())
    }

    fn to(addresses: &[&str]) -> Vec<Recipient> {
        addresses.iter().map(|address| Recipient::new(address.parse().unwrap())).collect()
    }

    fn fields(ways: &WaysBack, class: Class, list: Option<&str>, recipients: &[Recipient]) -> String {
        let stream = Stream { tenant: "shop".into(), class, campaign: "spring".into() };
        ways.unsubscribe_fields(&Written { message: ID, stream: &stream, list, recipients })
    }

    #[test]
    fn both_ways_lead_to_the_same_subscription() {
        let fields = fields(&ways(|_| {}), Class::Bulk, Some("news"), &to(&["a@them.example"]));
        let (ways, post) = fields.split_once("\r\nList-Unsubscribe-Post: ").unwrap();
        assert_eq!(post, "List-Unsubscribe=One-Click\r\n");
        let (url, mailto) = ways.split_once(">,\r\n <").unwrap();
        let token = url.strip_prefix("List-Unsubscribe: <https://us.example/leave/").unwrap();
        assert_eq!(mailto, format!("mailto:unsubscribe@bounces.us.example?subject={token}>"));
        let read = tokens().read_subscription(token).unwrap();
        assert_eq!((read.address.to_string().as_str(), read.list.as_deref()), ("a@them.example", Some("news")));
        assert_eq!((&*read.stream.tenant, read.message), ("shop", ID));
    }

    #[test]
    fn only_where_they_belong() {
        let one = to(&["a@them.example"]);
        for (ways, class, list, recipients, some) in [
            (ways(|_| {}), Class::Bulk, Some("news"), &one, true),
            (ways(|_| {}), Class::Transactional, Some("news"), &one, false),
            (ways(|_| {}), Class::Bulk, None, &one, false),
            (ways(|config| config.without_list = true), Class::Bulk, None, &one, true),
            (ways(|config| config.url = None), Class::Bulk, Some("news"), &one, false),
            (ways(|_| {}), Class::Bulk, Some("news"), &to(&["a@them.example", "b@them.example"]), false),
        ] {
            let fields = fields(&ways, class, list, recipients);
            assert_eq!(!fields.is_empty(), some, "{class:?} {list:?} {fields}");
        }
        let without = fields(&ways(|config| config.mailto = false), Class::Bulk, Some("news"), &one);
        assert!(!without.contains("mailto") && without.contains("https://us.example/leave/"));
    }

    #[test]
    fn no_line_is_too_long_and_no_name_breaks_one() {
        let address = format!("{}@{}.example", "l".repeat(200), "d".repeat(60));
        for (list, recipients) in [("l".repeat(128), to(&[&address])), ("é\u{2028}<>,\"".into(), to(&["a@b.example"]))]
        {
            let fields = fields(&ways(|_| {}), Class::Bulk, Some(&list), &recipients);
            assert!(!fields.is_empty() && fields.is_ascii());
            assert!(fields.split("\r\n").all(|line| line.len() <= LINE_MAX && !line.contains(['\r', '\n'])));
        }
    }
}
