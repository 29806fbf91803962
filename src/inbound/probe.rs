//! Ways in for fuzz targets; see [`crate::probe`].

use std::sync::Arc;

use super::{Mailbox, Mailboxes, NoMailbox};
use crate::clock::Timestamp;
use crate::config::Config;
use crate::feedback::token::Tokens;
use crate::mail::{AddressHost, EnvelopeAddress};

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
