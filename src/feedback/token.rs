//! Tokens: what we write on the wire so that whatever comes back can be believed and resolved, and nobody can forge one.
//!
//! | token | stands in | names | form |
//! |---|---|---|---|
//! | [`Sent`] | VERP return path, `CFBL-Feedback-ID` | a message, and which of its recipients | 36 letters and digits, case does not matter |
//! | [`Subscription`] | unsubscribe addresses (URL, mailto) | whose subscription to what | base64url, as long as it must be |
//!
//! Each is authenticated by HMAC-SHA256, cut to 80 bits, under a key derived for its kind, so that one kind cannot stand in
//! for the other. A message's token ends with the lifetime that is asked for when it is read, counted from the time in the
//! message id; a subscription's does not end: a link in an old letter must work.
//!
//! A token names the recipient by 32 bits of a hash: enough to tell the recipients of one message apart. That of several names the
//! domain that all of them have, authenticated by another key, so that neither stands in for the other. All of those several have
//! such a token: what comes with it is no proof of what it says of one of them.

use std::io;
use std::path::Path;
use std::time::Duration;

use aws_lc_rs::{constant_time, digest, hmac, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::clock::Timestamp;
use crate::mail::{Class, EnvelopeAddress, MessageId, Stream};

/// Octets of a token's HMAC.
const MAC: usize = 10;
/// Message id, recipient, HMAC.
const SENT: usize = 8 + 4 + MAC;
/// Longest text that is looked at.
const TEXT_MAX: usize = 2_000;
/// Crockford's base 32, small letters.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// A message that was sent, and to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// Which.
    pub message: MessageId,
    /// Which of its recipients; `None`: one of several.
    pub recipient: Option<RecipientHash>,
    /// The domain of those several; `None`: they have different ones, or there is one recipient only.
    pub domain: Option<DomainHash>,
}

/// Tells the domains of one message's recipients apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DomainHash(u32);

impl DomainHash {
    /// Of the host of this address.
    pub fn of(address: &EnvelopeAddress) -> DomainHash {
        DomainHash(short_hash(&address.host().to_string()))
    }
}

impl Sent {
    /// A message to these recipients.
    pub fn to<'a>(message: MessageId, mut recipients: impl Iterator<Item = &'a EnvelopeAddress>) -> Sent {
        let (first, second) = (recipients.next(), recipients.next());
        let domain = first.map(DomainHash::of);
        match (first, second) {
            (Some(only), None) => Sent { message, recipient: Some(RecipientHash::of(only)), domain: None },
            (_, second) => {
                let same = second.into_iter().chain(recipients).all(|other| Some(DomainHash::of(other)) == domain);
                Sent { message, recipient: None, domain: domain.filter(|_| same) }
            }
        }
    }

    /// A message to anybody.
    pub fn any(message: MessageId) -> Sent {
        Sent { message, recipient: None, domain: None }
    }

    /// Whether the token names this recipient of the message, by itself or among others.
    pub fn covers(&self, address: &EnvelopeAddress) -> bool {
        self.recipient == Some(RecipientHash::of(address)) || self.domain == Some(DomainHash::of(address))
    }
}

/// Tells the recipients of one message apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RecipientHash(u32);

impl RecipientHash {
    /// Of this address. Never that of "any".
    pub fn of(address: &EnvelopeAddress) -> RecipientHash {
        RecipientHash(short_hash(&address.to_string()))
    }

    /// It, for keys.
    pub fn octets(self) -> [u8; 4] {
        self.0.to_be_bytes()
    }
}

/// 32 bits of a text whose case does not matter; never zero.
fn short_hash(text: &str) -> u32 {
    let hash = digest::digest(&digest::SHA256, text.to_lowercase().as_bytes());
    u32::from_be_bytes(hash.as_ref()[..4].try_into().expect("four octets")).max(1)
}

/// What an unsubscribe address ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// Whose.
    pub address: EnvelopeAddress,
    /// To mail of this stream. With a list its campaign is not said; without one it is the campaign that is left.
    pub stream: Stream,
    /// To this list.
    pub list: Option<Box<str>>,
    /// The message that the address stood in.
    pub message: MessageId,
}

/// Why a text is no token of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It does not have the form of one.
    #[error("not a token")]
    Malformed,
    /// It has the form, but we did not make it, or not for this purpose.
    #[error("not a token of ours")]
    Forged,
    /// We made it too long ago.
    #[error("the token has expired")]
    Expired,
}

/// The keys behind all tokens.
pub struct Tokens {
    sent: hmac::Key,
    sent_to_domain: hmac::Key,
    subscription: hmac::Key,
}

impl Tokens {
    /// From a secret of any length.
    pub fn new(secret: &[u8]) -> Tokens {
        let root = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let derive = |purpose: &str| hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&root, purpose.as_bytes()).as_ref());
        Tokens {
            sent: derive("sent"),
            sent_to_domain: derive("sent to a domain"),
            subscription: derive("subscription"),
        }
    }

    /// From the file at `path`; if there is none, it is made, readable by its owner only. Blocks.
    ///
    /// # Errors
    /// The file cannot be read or written, or holds fewer than 16 octets.
    pub fn load_or_make(path: &Path) -> io::Result<Tokens> {
        let secret = match std::fs::read(path) {
            Ok(secret) => secret,
            Err(error) if error.kind() == io::ErrorKind::NotFound => make(path)?,
            Err(error) => return Err(error),
        };
        if secret.len() < 16 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "fewer than 16 octets are no secret"));
        }
        Ok(Tokens::new(&secret))
    }

    /// The token of a message.
    pub fn sent(&self, sent: Sent) -> String {
        let mut octets = [0; SENT];
        octets[..8].copy_from_slice(&sent.message.0.to_be_bytes());
        let (key, hash) = match (sent.recipient, sent.domain) {
            (Some(recipient), _) => (&self.sent, recipient.0),
            (None, Some(domain)) => (&self.sent_to_domain, domain.0),
            (None, None) => (&self.sent, 0),
        };
        octets[8..12].copy_from_slice(&hash.to_be_bytes());
        let mac = hmac::sign(key, &octets[..12]);
        octets[12..].copy_from_slice(&mac.as_ref()[..MAC]);
        base32(&octets)
    }

    /// Reads the token of a message that is not older than `lifetime`.
    ///
    /// # Errors
    /// It is none, or not ours, or too old.
    pub fn read_sent(&self, text: &str, now: Timestamp, lifetime: Duration) -> Result<Sent, TokenError> {
        let octets: [u8; SENT] = from_base32(text).ok_or(TokenError::Malformed)?;
        let made_by = |key: &hmac::Key| {
            let mac = hmac::sign(key, &octets[..12]);
            constant_time::verify_slices_are_equal(&mac.as_ref()[..MAC], &octets[12..]).is_ok()
        };
        let to_domain = match () {
            () if made_by(&self.sent) => false,
            () if made_by(&self.sent_to_domain) => true,
            () => return Err(TokenError::Forged),
        };
        let message = MessageId(u64::from_be_bytes(octets[..8].try_into().expect("eight octets")));
        let hash = u32::from_be_bytes(octets[8..12].try_into().expect("four octets"));
        if now.since(message.time()) > lifetime {
            return Err(TokenError::Expired);
        }
        let some = Some(hash).filter(|hash| *hash != 0);
        Ok(match to_domain {
            true => Sent { message, recipient: None, domain: some.map(DomainHash) },
            false => Sent { message, recipient: some.map(RecipientHash), domain: None },
        })
    }

    /// The token of a subscription.
    pub fn subscription(&self, subscription: &Subscription) -> String {
        let Subscription { address, stream, list, message } = subscription;
        let mut octets = vec![1, stream.class as u8];
        octets.extend_from_slice(&message.0.to_be_bytes());
        let address = address.to_string();
        // One of both: a header line has room for no more.
        let (campaign, list) =
            (if list.is_some() { "" } else { &*stream.campaign }, list.as_deref().unwrap_or_default());
        for text in [&address, &*stream.tenant, campaign, list] {
            octets.extend_from_slice(&(text.len() as u16).to_be_bytes());
            octets.extend_from_slice(text.as_bytes());
        }
        let mac = hmac::sign(&self.subscription, &octets);
        octets.extend_from_slice(&mac.as_ref()[..MAC]);
        URL_SAFE_NO_PAD.encode(octets)
    }

    /// Reads the token of a subscription.
    ///
    /// # Errors
    /// It is none, or not ours.
    pub fn read_subscription(&self, text: &str) -> Result<Subscription, TokenError> {
        if text.len() > TEXT_MAX {
            return Err(TokenError::Malformed);
        }
        let octets = URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Malformed)?;
        let (said, mac) = octets.split_last_chunk::<MAC>().ok_or(TokenError::Malformed)?;
        let ours = hmac::sign(&self.subscription, said);
        constant_time::verify_slices_are_equal(&ours.as_ref()[..MAC], mac).map_err(|_| TokenError::Forged)?;
        read_subscription(said).ok_or(TokenError::Malformed)
    }
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tokens")
    }
}

/// Makes a secret and its file, which is there whole or not at all.
fn make(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Write;
    let mut secret = vec![0; 32];
    rand::fill(&mut secret).map_err(|_| io::Error::other("the system has no randomness"))?;
    let dir = path.parent().unwrap_or(Path::new("."));
    // Only its owner may read what `tempfile` makes.
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(&secret)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    std::fs::File::open(dir)?.sync_all()?;
    Ok(secret)
}

fn read_subscription(mut rest: &[u8]) -> Option<Subscription> {
    let (&[1, class], more) = rest.split_first_chunk()? else { return None };
    let (message, more) = more.split_first_chunk()?;
    rest = more;
    let mut text = || {
        let (len, more) = rest.split_first_chunk()?;
        let (text, more) = more.split_at_checked(u16::from_be_bytes(*len).into())?;
        rest = more;
        std::str::from_utf8(text).ok()
    };
    let (address, tenant, campaign, list) = (text()?, text()?, text()?, text()?);
    Some(Subscription {
        address: address.parse().ok()?,
        stream: Stream {
            tenant: tenant.into(),
            class: *Class::ALL.get(usize::from(class))?,
            campaign: campaign.into(),
        },
        list: Some(list).filter(|list| !list.is_empty()).map(Into::into),
        message: MessageId(u64::from_be_bytes(*message)),
    })
}

/// Five bits a digit, the highest first; the last digit is filled up with zeroes.
fn base32(octets: &[u8]) -> String {
    let digits = (octets.len() * 8).div_ceil(5);
    let bit = |at: usize| octets.get(at / 8).map_or(0, |octet| octet >> (7 - at % 8) & 1);
    let digit = |place: usize| (0..5).fold(0, |value, at| value << 1 | bit(place * 5 + at));
    (0..digits).map(|place| char::from(DIGITS[usize::from(digit(place))])).collect()
}

fn from_base32<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != (N * 8).div_ceil(5) {
        return None;
    }
    let (mut octets, mut filled) = ([0; N], 0);
    for letter in text.bytes() {
        let value = DIGITS.iter().position(|digit| *digit == letter.to_ascii_lowercase())? as u8;
        for at in (0..5).rev() {
            let bit = value >> at & 1;
            match octets.get_mut(filled / 8) {
                Some(octet) => *octet |= bit << (7 - filled % 8),
                // What fills up is zero, or two texts were one token.
                None if bit == 1 => return None,
                None => {}
            }
            filled += 1;
        }
    }
    Some(octets)
}

#[cfg(test)]
mod tests;
