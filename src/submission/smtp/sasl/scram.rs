//! SCRAM-SHA-256 (RFC 5802, RFC 7677): the messages. What is computed with secrets is behind [`ScramKeys`].

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::{NOT_FOR_OTHERS, ScramKeys, Setting, Turn};

/// Longest nonce taken from a client, in octets; our challenge repeats it.
const NONCE_MAX: usize = 128;

/// An HMAC-SHA-256.
const PROOF_BYTES: usize = 32;

/// Before the client's first message.
pub(super) struct Scram {
    /// `-PLUS`: the client binds the exchange to the TLS session.
    pub(super) plus: bool,
}

/// Between the server's first and the client's last message.
pub(super) struct Challenged {
    keys: Box<dyn ScramKeys>,
    /// What `c=` must say.
    binding: String,
    nonce: String,
    /// The client's first message without its GS2 header, a comma, and our challenge.
    so_far: String,
}

impl Scram {
    /// The client's first message: `n,,n=user,r=nonce` (RFC 5802 §7). Gives our challenge.
    pub(super) fn first(self, message: &[u8], setting: Setting<'_>) -> Result<(Vec<u8>, Challenged), Turn> {
        let message = std::str::from_utf8(message).map_err(|_| Turn::Malformed("the message is no text"))?;
        let first = ClientFirst::parse(message).ok_or(Turn::Malformed("the first message of SCRAM is malformed"))?;
        let bound = self.check_binding(first.flag, setting)?;
        let user = unescape(first.user).ok_or(Turn::Malformed("the user name is malformed"))?;
        if first.acting.is_some_and(|acting| acting != first.user) {
            return Err(Turn::Wrong(NOT_FOR_OTHERS));
        }
        let keys = setting.authority.scram(&user);
        let nonce = format!("{}{}", first.nonce, setting.authority.nonce());
        let salt = BASE64_STANDARD.encode(keys.salt());
        let challenge = format!("r={nonce},s={salt},i={}", keys.iterations());
        let header = [first.header.as_bytes(), bound.map_or(&[], |octets| octets)].concat();
        let binding = BASE64_STANDARD.encode(header);
        let so_far = format!("{},{challenge}", first.bare);
        Ok((challenge.into_bytes(), Challenged { keys, binding, nonce, so_far }))
    }

    /// What the client's flag says of channel binding must fit the mechanism and what we offered (RFC 5802 §6): one that
    /// believes we have none was lied to on the way.
    fn check_binding<'a>(&self, flag: &str, setting: Setting<'a>) -> Result<Option<&'a [u8; 32]>, Turn> {
        match (flag, setting.binding) {
            ("p=tls-exporter", Some(binding)) if self.plus => Ok(Some(binding)),
            ("n", _) if !self.plus => Ok(None),
            ("y", None) if !self.plus => Ok(None),
            ("y", Some(_)) if !self.plus => Err(Turn::Wrong("this server does support channel binding")),
            _ => Err(Turn::Wrong("this channel binding is not supported here; tls-exporter is, with -PLUS")),
        }
    }
}

impl Challenged {
    /// The client's last message: `c=…,r=…,p=…`.
    pub(super) fn last(self, message: &[u8], setting: Setting<'_>) -> Turn {
        let malformed = Turn::Malformed("the last message of SCRAM is malformed");
        let Some((said, proof)) = std::str::from_utf8(message).ok().and_then(|message| message.rsplit_once(",p="))
        else {
            return malformed;
        };
        let mut fields = said.split(',');
        let (Some(binding), Some(nonce)) = (
            fields.next().and_then(|field| field.strip_prefix("c=")),
            fields.next().and_then(|field| field.strip_prefix("r=")),
        ) else {
            return malformed;
        };
        let Some(proof) = BASE64_STANDARD.decode(proof).ok().filter(|proof| proof.len() == PROOF_BYTES) else {
            return malformed;
        };
        if binding != self.binding {
            return Turn::Wrong("the channel bindings do not match");
        }
        if nonce != self.nonce {
            return Turn::Wrong("this is not the nonce of this exchange");
        }
        let auth_message = format!("{},{said}", self.so_far).into_bytes();
        Turn::Check(self.keys.verify(auth_message, proof, setting.client))
    }
}

/// The client's first message in its parts.
struct ClientFirst<'a> {
    /// `n`, `y`, or `p=` and a name.
    flag: &'a str,
    /// Whom it would act as.
    acting: Option<&'a str>,
    /// The GS2 header with its commas.
    header: &'a str,
    /// All behind the header.
    bare: &'a str,
    user: &'a str,
    nonce: &'a str,
}

impl<'a> ClientFirst<'a> {
    fn parse(message: &'a str) -> Option<ClientFirst<'a>> {
        let (flag, rest) = message.split_once(',')?;
        let (acting, bare) = rest.split_once(',')?;
        let acting = match acting {
            "" => None,
            named => Some(named.strip_prefix("a=")?),
        };
        let header = &message[..message.len() - bare.len()];
        // A field in front of the name (`m=`) is an extension that must be understood; we know none.
        let mut fields = bare.split(',');
        let user = fields.next()?.strip_prefix("n=").filter(|user| !user.is_empty())?;
        let nonce = fields.next()?.strip_prefix("r=")?;
        let good = (1..=NONCE_MAX).contains(&nonce.len()) && nonce.bytes().all(|b| b.is_ascii_graphic());
        good.then_some(ClientFirst { flag, acting, header, bare, user, nonce })
    }
}

/// `=2C` is a comma and `=3D` an equals sign; nothing else may follow one.
fn unescape(name: &str) -> Option<String> {
    let mut parts = name.split('=');
    let mut out = parts.next()?.to_owned();
    for part in parts {
        out.push(match part.get(..2)? {
            "2C" => ',',
            "3D" => '=',
            _ => return None,
        });
        out.push_str(&part[2..]);
    }
    (!out.contains('\0')).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_first_messages() {
        let read = |message| ClientFirst::parse(message).map(|f| (f.flag, f.acting, f.header, f.user, f.nonce));
        assert_eq!(read("n,,n=user,r=abc"), Some(("n", None, "n,,", "user", "abc")));
        assert_eq!(read("y,a=u,n=u,r=a,x=1"), Some(("y", Some("u"), "y,a=u,", "u", "a")));
        let bound = "p=tls-exporter,,n=u=2C,r=!~";
        assert_eq!(read(bound), Some(("p=tls-exporter", None, "p=tls-exporter,,", "u=2C", "!~")));
        let long = format!("n,,n=u,r={}", "x".repeat(129));
        for bad in ["", "n", "n,", "n,,", "n,,n=u", "n,,n=,r=a", "n,,m=x,n=u,r=a", "n,x,n=u,r=a", "n,,n=u,r=", &long] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn names_are_unescaped() {
        for (name, expected) in [
            ("user", Some("user")),
            ("a=2Cb=3D", Some("a,b=")),
            ("jürgen", Some("jürgen")),
            ("a=2c", None),
            ("a=", None),
            ("a=3", None),
            ("a=ü", None),
        ] {
            assert_eq!(unescape(name).as_deref(), expected, "{name}");
        }
    }
}
