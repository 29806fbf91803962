//! Ways in for fuzz targets; see [`crate::probe`].

use std::sync::Arc;

use super::one_click::{BODY_MAX, way};
use super::page::{Pages, Say};
use super::{Mailbox, Mailboxes, NoMailbox};
use crate::clock::Timestamp;
use crate::config::Config;
use crate::feedback::token::{Subscription, TokenError, Tokens};
use crate::mail::{AddressHost, Class, EnvelopeAddress, MessageId, Stream};

/// Within the life of the tokens in the seeds.
const NOW: Timestamp = Timestamp(1_795_348_800_000);

/// A recipient as somebody gives it to the listener. One at another domain is never ours, and what is taken for a return
/// path of ours is the very one that we make for what it names.
pub fn mailbox(octets: &[u8]) {
    let tokens = Arc::new(Tokens::new(b"the secret of the seeds"));
    let mut config = Config::default();
    config.feedback.bounce_domain = Some("b.us.example".parse().expect("a domain"));
    let mailboxes = Mailboxes::new(&config, Arc::clone(&tokens));
    let Ok(address) = String::from_utf8_lossy(octets).parse::<EnvelopeAddress>() else { return };
    let ours = matches!(address.host(), AddressHost::Domain(domain) if domain.as_str() == "b.us.example");
    match mailboxes.find(&address, NOW) {
        Ok(Mailbox::Bounce(sent)) => {
            assert!(ours);
            let local = format!("b+{}", tokens.sent(sent));
            assert!(local.eq_ignore_ascii_case(address.local()), "{address} is not {local}");
        }
        Ok(Mailbox::Complaints(Some(sent))) => {
            assert!(ours);
            let local = format!("fbl+{}", tokens.sent(sent));
            assert!(local.eq_ignore_ascii_case(address.local()), "{address} is not {local}");
        }
        Ok(Mailbox::Complaints(None) | Mailbox::Reports | Mailbox::Unsubscribe) => assert!(ours),
        Ok(Mailbox::Postmaster(to)) => panic!("{to} is not configured"),
        Err(NoMailbox::Elsewhere) => assert!(!ours),
        Err(NoMailbox::Unknown | NoMailbox::Expired) => assert!(ours),
    }
}

/// A request to unsubscribe, after an octet that says what of it: a token that somebody made, the body; or, in lines, a
/// subscription of ours (address, tenant, campaign, list, and what languages its owner reads).
///
/// A token of ours says what went into it, and no other text says anything. A body asks for the same whatever else stands in
/// its form. No foreign text makes the page another.
pub fn unsubscribe(octets: &[u8]) {
    let Some((&kind, octets)) = octets.split_first() else { return };
    let tokens = Tokens::new(b"the secret of the seeds");
    match kind % 3 {
        0 => {
            let Ok(token) = std::str::from_utf8(octets) else { return };
            if let Ok(subscription) = tokens.read_subscription(token) {
                assert_eq!(tokens.subscription(&subscription), token, "two texts are one token");
            }
        }
        1 => {
            let body = &octets[..octets.len().min(BODY_MAX)];
            let asked = way(body);
            assert!(asked.is_none() || asked == way(&[body, b"&a=b"].concat()), "{}", body.escape_ascii());
        }
        _ => subscription(&tokens, &String::from_utf8_lossy(octets)),
    }
}

fn subscription(tokens: &Tokens, said: &str) {
    let mut lines = said.split('\n');
    let mut next = || lines.next().unwrap_or_default();
    let Ok(address) = next().parse::<EnvelopeAddress>() else { return };
    // As submission leaves them: short, and without control characters.
    let mut word = || next().chars().filter(|c| !c.is_control()).take(64).collect::<String>();
    let (tenant, campaign, list) = (word(), word(), word());
    let stream = Stream { tenant: tenant.as_str().into(), class: Class::Bulk, campaign: campaign.as_str().into() };
    let list = (!list.is_empty()).then(|| list.into());
    let made = Subscription { address, stream, list, message: MessageId(7) };
    let token = tokens.subscription(&made);
    let mut read = tokens.read_subscription(&token).expect("a token of ours");
    if made.list.is_some() {
        // A token has room for one of both.
        read.stream.campaign = made.stream.campaign.clone();
    }
    assert_eq!(read, made);
    assert_eq!(Tokens::new(b"another").read_subscription(&token), Err(TokenError::Forged));
    let other = if token.ends_with('A') { 'Q' } else { 'A' };
    assert!(tokens.read_subscription(&format!("{}{other}", &token[..token.len() - 1])).is_err(), "a forged token");
    check_page(&made, next());
}

/// The page has the same elements as that of somebody with a plain name.
fn check_page(subscription: &Subscription, languages: &str) {
    let pages = Pages::new(None);
    let plain = Subscription {
        address: "ann@us.example".parse().expect("an address"),
        list: subscription.list.as_ref().map(|_| "news".into()),
        ..subscription.clone()
    };
    let page = |subscription: &Subscription| pages.in_language(languages, Say::Ask(subscription));
    let (page, expected) = (page(subscription), page(&plain));
    for mark in ['<', '>', '"', '\'', '{', '}', '='] {
        assert_eq!(page.matches(mark).count(), expected.matches(mark).count(), "{mark} in {page}");
    }
}
