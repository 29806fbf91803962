//! What is put on outgoing mail so that complaints about it find us: `CFBL-Address` and `CFBL-Feedback-ID` (RFC 9477), and
//! `Feedback-ID` as Gmail's postmaster tools read it.
//!
//! They are added with the signature, not at the door: only what is signed may stand there, and which keys sign is known then.
//! A client's own fields of these names are kept, and ours are not added beside them.

use std::fmt::Write;
use std::sync::Arc;

use super::token::{Sent, Tokens};
use super::verp::Verp;
use crate::config::FeedbackConfig;
use crate::mail::{Class, Domain, Envelope, MessageId, header};

/// What stands before the token in the address for complaints.
pub const PREFIX: &str = "fbl+";

/// The longest sender that Gmail takes in `Feedback-ID`, in letters.
const SENDER_MAX: usize = 15;

/// The longest of the other parts.
const PART_MAX: usize = 60;

/// Makes the fields, if they are asked for.
#[derive(Debug, Clone)]
pub struct Marks {
    tokens: Arc<Tokens>,
    verp: Verp,
    cfbl: bool,
    /// The last part of `Feedback-ID`; `None`: it is not asked for.
    sender: Option<String>,
}

/// Who will sign a message.
#[derive(Debug, Clone, Copy)]
pub struct Signing<'a, Has: Fn(&Domain) -> bool> {
    /// The domain of its author.
    pub author: &'a Domain,
    /// The domain whose keys sign for that.
    pub domain: &'a Domain,
    /// Whether there are keys of exactly this domain.
    pub has: Has,
}

/// Fields to add.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marked {
    /// Whole fields with their line ends.
    pub fields: String,
    /// A domain that must sign, too.
    pub also: Option<Domain>,
}

impl Marks {
    /// As the configuration wants it.
    pub fn new(config: &FeedbackConfig, hostname: &Domain, tokens: Arc<Tokens>) -> Marks {
        let verp = Verp::new(config, Arc::clone(&tokens));
        Marks { tokens, verp, cfbl: config.cfbl, sender: config.feedback_id.then(|| sender(hostname)) }
    }

    /// Whether nothing is asked for.
    pub fn is_off(&self) -> bool {
        !self.cfbl && self.sender.is_none()
    }

    /// The fields for a message that will be signed so. Reports of our own get none: nobody complains of them.
    pub fn of<Has: Fn(&Domain) -> bool>(
        &self,
        id: MessageId,
        envelope: &Envelope,
        content: &[u8],
        signing: &Signing<'_, Has>,
    ) -> Marked {
        let mut marked = Marked::default();
        let Some(sender) = envelope.reverse_path.address().filter(|_| envelope.stream.class != Class::System) else {
            return marked;
        };
        if self.is_off() {
            return marked;
        }
        let (mut has_cfbl, mut has_id) = (false, false);
        for field in header::fields(&content[..header::section_len(content)]) {
            has_cfbl |= field.is("CFBL-Address") || field.is("CFBL-Feedback-ID");
            has_id |= field.is("Feedback-ID");
        }
        if self.cfbl
            && !has_cfbl
            && let Some(domain) = self.verp.domain_of(sender)
            && let Some(also) = covered(domain, signing)
        {
            let recipients = envelope.recipients.iter().map(|recipient| &recipient.address);
            let token = self.tokens.sent(Sent::to(id, recipients));
            let _ = write!(
                marked.fields,
                "CFBL-Address: {PREFIX}{token}@{domain}; report=arf\r\nCFBL-Feedback-ID: {token}\r\n"
            );
            marked.also = also;
        }
        if let Some(last) = self.sender.as_ref().filter(|_| !has_id) {
            let stream = &envelope.stream;
            let (campaign, tenant) = (part(&stream.campaign), part(&stream.tenant));
            let _ = write!(marked.fields, "Feedback-ID: {campaign}:{tenant}:{}:{last}\r\n", stream.class.as_str());
        }
        marked
    }
}

/// Whether signatures cover an address for complaints at `domain` (RFC 9477 §3.1): the author's own domain must sign, and where
/// that is neither `domain` nor above it, `domain` must sign, too. `None`: they do not, and the field must not be there.
fn covered<Has: Fn(&Domain) -> bool>(domain: &Domain, signing: &Signing<'_, Has>) -> Option<Option<Domain>> {
    if signing.domain != signing.author {
        return None;
    }
    let author = signing.author.as_str();
    let below = domain.as_str().strip_suffix(author).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    match below {
        true => Some(None),
        false => (signing.has)(domain).then(|| Some(domain.clone())),
    }
}

/// As many labels of the host's name, from the right, as Gmail takes: the same for all hosts of a domain.
fn sender(hostname: &Domain) -> String {
    let mut rest = hostname.as_str();
    while rest.len() > SENDER_MAX {
        match rest.split_once('.') {
            Some((_, behind)) if behind.contains('.') || rest.len() - behind.len() <= 4 => rest = behind,
            _ => return rest[..SENDER_MAX].to_owned(),
        }
    }
    rest.to_owned()
}

/// A part of `Feedback-ID`: nothing in it may look like another part or another field.
fn part(text: &str) -> String {
    let is_harmless = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    text.chars().take(PART_MAX).map(|c| if is_harmless(c) { c } else { '-' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feedback::report::tests::{envelope, recipient};

    const MAIL: &[u8] = b"From: a@us.example\r\n\r\nx\r\n";

    fn marks(bounce: &str, cfbl: bool, feedback_id: bool) -> Marks {
        let bounce_domain = Some(bounce.parse().unwrap());
        let config = FeedbackConfig { bounce_domain, cfbl, feedback_id, ..FeedbackConfig::default() };
        Marks::new(&config, &"mta1.us.example".parse().unwrap(), Arc::new(Tokens::new(b"a secret of some length")))
    }

    fn of(marks: &Marks, content: &[u8], (author, domain, keys): (&str, &str, &[&str])) -> Marked {
        let (author, domain) = (author.parse().unwrap(), domain.parse().unwrap());
        let has = |domain: &Domain| keys.contains(&domain.as_str());
        let mut envelope = envelope("a@us.example", vec![recipient("b@them.example")]);
        envelope.stream.campaign = "spring: sale\r\n".into();
        envelope.stream.tenant = "shop".into();
        marks.of(MessageId(7 << 22), &envelope, content, &Signing { author: &author, domain: &domain, has })
    }

    #[test]
    fn only_what_is_signed_as_rfc_9477_wants_is_added() {
        let (us, sub, other) = ("us.example", "news.us.example", "esp.example");
        for (bounce, author, domain, keys, expected) in [
            (us, us, us, &[us][..], Some(None)),
            ("b.us.example", us, us, &[us], Some(None)),
            ("thus.example", us, us, &[us], None),
            (us, sub, sub, &[sub], None),
            (us, sub, sub, &[sub, us], Some(Some(us))),
            (us, sub, us, &[us], None),
            (other, us, us, &[us], None),
            (other, us, us, &[us, other], Some(Some(other))),
        ] {
            let marked = of(&marks(bounce, true, false), MAIL, (author, domain, keys));
            let found = (!marked.fields.is_empty()).then(|| marked.also.as_ref().map(Domain::as_str));
            assert_eq!(found, expected, "{bounce} {author} {domain} {keys:?}");
        }
    }

    #[test]
    fn fields_have_their_form() {
        let ours = ("us.example", "us.example", &[][..]);
        let marks = marks("b.us.example", true, true);
        let class = envelope("a@us.example", Vec::new()).stream.class;
        let fields = of(&marks, MAIL, ours).fields;
        let lines: Vec<&str> = fields.split("\r\n").collect();
        let token = lines[1].strip_prefix("CFBL-Feedback-ID: ").unwrap();
        assert_eq!(lines[0], format!("CFBL-Address: fbl+{token}@b.us.example; report=arf"));
        assert_eq!(lines[2], format!("Feedback-ID: spring--sale--:shop:{}:mta1.us.example", class.as_str()));
        assert!(lines.len() == 4 && lines[3].is_empty() && lines.iter().all(|line| line.len() <= 100));
        let own = b"cfbl-address: x@us.example\r\nfeedback-id: x\r\nFrom: a@us.example\r\n\r\n";
        assert_eq!(of(&marks, own, ours), Marked::default());
    }

    #[test]
    fn our_own_reports_and_what_is_off_get_none() {
        let off = marks("us.example", false, false);
        assert!(off.is_off() && of(&off, MAIL, ("us.example", "us.example", &[])) == Marked::default());
        assert_eq!(sender(&"mta1.mail.us.example".parse().unwrap()), "mail.us.example");
        assert_eq!(sender(&"averyveryverylongname.example".parse().unwrap()), "averyveryverylo");
        assert_eq!(part("a:b\r\nc é"), "a-b--c--");
    }
}
