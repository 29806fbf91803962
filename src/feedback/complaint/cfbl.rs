//! Complaints asked for by CFBL-Address (RFC 9477): who sends one must have signed it.
//!
//! RFC 9477 §3.5: the report has a valid DKIM signature of the domain in its From, or it is not to be processed. Anybody can
//! write to the address, and a token can be copied from a message by whoever reads it; the signature says at least which
//! provider speaks.

use std::time::Duration;

use hickory_resolver::config::{ResolverConfig, ResolverOpts};
use mail_auth::{AuthenticatedMessage, DkimResult, MessageAuthenticator};

use super::super::mime;
use super::arf::mailbox;

/// Signatures of one report that are looked at; with more it counts as unsigned. Each may cost a hash of all of it.
const SIGNATURES_MAX: usize = 8;

/// What the signatures of a report say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signed {
    /// The domain of its author signed it.
    By(String),
    /// It did not, or the signature does not hold.
    Not(&'static str),
    /// The key cannot be looked up at present; try again.
    Unknown,
}

/// Verifies signatures, asking the DNS for keys.
pub struct Verifier {
    authenticator: MessageAuthenticator,
    timeout: Duration,
}

impl Verifier {
    /// Asks these servers; a whole verification ends within `timeout`.
    ///
    /// # Errors
    /// There is no resolver to be had from them.
    pub fn new(servers: ResolverConfig, options: ResolverOpts, timeout: Duration) -> Result<Verifier, String> {
        let authenticator = MessageAuthenticator::new(servers, options).map_err(|error| error.to_string())?;
        Ok(Verifier { authenticator, timeout })
    }

    /// Whether the domain of the author signed the message: its own name, or one above it.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn verify(&self, message: &[u8]) -> Signed {
        let Some(author) = author(message) else { return Signed::Not("no author") };
        match tokio::time::timeout(self.timeout, self.check(message, &author)).await {
            Err(_) | Ok(Signed::Unknown) => Signed::Unknown,
            Ok(Signed::Not(why)) => {
                // mail-auth keeps lines of white space at the end of a body (stalwartlabs/mail-auth#62) that relaxed
                // canonicalisation drops (RFC 6376 §3.4.4), so a right signature over such a body fails; the cut one holds.
                let cut = without_blank_end(message);
                let again = cut.len() < message.len();
                let second = async { if again { self.check(cut, &author).await } else { Signed::Not(why) } };
                tokio::time::timeout(self.timeout, second).await.unwrap_or(Signed::Unknown)
            }
            Ok(signed) => signed,
        }
    }

    async fn check(&self, message: &[u8], author: &str) -> Signed {
        let Some(parsed) = AuthenticatedMessage::parse(message) else { return Signed::Not("no message") };
        let outputs = self.authenticator.verify_dkim(&parsed).await;
        let mut found = Signed::Not("no signature");
        for output in &outputs {
            let Some(signature) = output.signature() else { continue };
            let domain = signature.d.to_ascii_lowercase();
            if !is_or_is_above(&domain, author) {
                continue;
            }
            let signs_author = signature.h.iter().any(|name| name.eq_ignore_ascii_case("from"));
            match output.result() {
                // A signature over a part of the body lets anybody add the rest.
                DkimResult::Pass if signs_author && signature.l == 0 => return Signed::By(domain),
                DkimResult::Pass => found = Signed::Not("signature covers too little"),
                DkimResult::TempError(_) => found = Signed::Unknown,
                DkimResult::Neutral(_) | DkimResult::Fail(_) | DkimResult::PermError(_) | DkimResult::None => {
                    if found != Signed::Unknown {
                        found = Signed::Not("signature does not hold");
                    }
                }
            }
        }
        found
    }
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Verifier")
    }
}

/// The domain of the one author; with several From fields or too many signatures there is none to speak of.
pub(in crate::feedback) fn author(message: &[u8]) -> Option<String> {
    let header = mime::fields(mime::head(message));
    let count = |name: &str| header.iter().filter(|field| field.0 == name).count();
    if count("from") != 1 || count("dkim-signature") > SIGNATURES_MAX {
        return None;
    }
    let from = mailbox(mime::first(&header, "from"));
    let (_, domain) = from.rsplit_once('@')?;
    let domain = domain.trim().to_ascii_lowercase();
    (!domain.is_empty() && !from.contains(',')).then_some(domain)
}

/// Whether `domain`, of two labels at least, is `name` or above it.
fn is_or_is_above(domain: &str, name: &str) -> bool {
    let above = || name.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
    domain == name || domain.contains('.') && above()
}

fn without_blank_end(message: &[u8]) -> &[u8] {
    let Some(last) = message.iter().rposition(|b| !matches!(b, b' ' | b'\t' | b'\r' | b'\n')) else { return message };
    let end = memchr::memchr(b'\n', &message[last..]).map_or(message.len(), |at| last + at + 1);
    &message[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_author_is_one() {
        for (message, expected) in [
            ("From: A <a@Them.Example>\n\n", Some("them.example")),
            ("From: a@them.example\nFrom: b@them.example\n\n", None),
            ("From: a@x.example, b@them.example\n\n", None),
            ("From: a\n\n", None),
            ("\nFrom: a@them.example", None),
        ] {
            assert_eq!(author(message.as_bytes()).as_deref(), expected, "{message}");
        }
        let many = format!("From: a@them.example\n{}\n", "DKIM-Signature: v=1\n".repeat(9));
        assert_eq!(author(many.as_bytes()), None);
        assert!(is_or_is_above("them.example", "a.them.example") && is_or_is_above("a.b", "a.b"));
        assert!(!is_or_is_above("example", "them.example") && !is_or_is_above("m.example", "them.example"));
        assert_eq!(without_blank_end(b"a\r\n \r\n\r\n"), b"a\r\n");
    }
}
