//! The Received field we put in front of every message (RFC 5321 §4.4).

use std::fmt::{self, Write};
use std::net::IpAddr;

use crate::clock::Timestamp;
use crate::mail::{AddressHost, Domain, EnvelopeAddress, MessageId};

/// What a client called itself in EHLO or HELO, made safe to stand in a header field.
///
/// RFC 5321 §4.1.4 forbids to refuse a client for its name, so anything printable comes in. A name that is a domain or
/// an address literal is kept as such; of anything else only harmless octets survive, and it is written as a comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HelloName {
    /// A domain, or an address literal with its brackets.
    Valid(Box<str>),
    /// Neither; every octet but letters, digits and `-._:[]` replaced by `?`.
    Odd(Box<str>),
}

/// Longest name kept, in octets (RFC 5321 §4.5.3.1.2).
const NAME_MAX: usize = 255;

impl HelloName {
    /// Reads the argument of EHLO or HELO.
    pub fn read(argument: &[u8]) -> HelloName {
        let text = std::str::from_utf8(argument).unwrap_or_default();
        if let Ok(domain) = text.parse::<Domain>() {
            return HelloName::Valid(domain.as_str().into());
        }
        // Let the address parser judge the literal; its local part is a stand-in.
        if let Ok(address) = format!("x@{text}").parse::<EnvelopeAddress>()
            && matches!(address.host(), AddressHost::Literal(_))
        {
            return HelloName::Valid(address.host().to_string().into());
        }
        let harmless = |b: &u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(b);
        let safe = argument.iter().take(NAME_MAX).map(|b| if harmless(b) { char::from(*b) } else { '?' });
        HelloName::Odd(safe.collect::<String>().into())
    }
}

/// How a message came in, as the `with` clause names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protocol {
    /// The client said EHLO, not HELO.
    pub extended: bool,
    /// Over TLS.
    pub tls: bool,
    /// The client is authenticated.
    pub auth: bool,
    /// The transaction had SMTPUTF8.
    pub smtputf8: bool,
}

impl Protocol {
    /// The registered name (RFC 3848; RFC 6531 §4.3). TLS and AUTH imply that EHLO was spoken, whatever came after.
    pub fn name(self) -> &'static str {
        match (self.smtputf8, self.tls, self.auth) {
            (true, true, true) => "UTF8SMTPSA",
            (true, true, false) => "UTF8SMTPS",
            (true, false, true) => "UTF8SMTPA",
            (true, false, false) => "UTF8SMTP",
            (false, true, true) => "ESMTPSA",
            (false, true, false) => "ESMTPS",
            (false, false, true) => "ESMTPA",
            (false, false, false) if self.extended => "ESMTP",
            (false, false, false) => "SMTP",
        }
    }
}

/// Everything a Received field tells.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    /// The client's own name; `None`: the protocol has none.
    pub hello: Option<&'a HelloName>,
    /// Its address; `None`: it is on this machine.
    pub client: Option<IpAddr>,
    /// Us.
    pub by: &'a Domain,
    /// How it came in, as the `with` clause names it: [`Protocol::name`], `HTTP`, `gRPC`.
    pub protocol: &'static str,
    /// Our id for the message.
    pub id: MessageId,
    /// The recipient, only when there is exactly one: several would tell each of the others (RFC 5321 §7.6).
    pub recipient: Option<&'a EnvelopeAddress>,
    /// When it came in.
    pub at: Timestamp,
}

/// Longest address shown in `for`, in octets (RFC 5321 §4.5.3.1.3). Bounds the field to 1 KiB.
const FOR_MAX: usize = 254;

/// The whole field, folded, with its final CRLF.
impl fmt::Display for Received<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Received: ")?;
        match (self.hello, self.client.map(AddressHost::Literal)) {
            (Some(HelloName::Valid(name)), Some(client)) => write!(f, "from {name} ({client})\r\n\t")?,
            (Some(HelloName::Odd(name)), Some(client)) => write!(f, "from {client} (HELO {name})\r\n\t")?,
            (None, Some(client)) => write!(f, "from {client} ({client})\r\n\t")?,
            (_, None) => {}
        }
        write!(f, "by {} (posthaste) with {}\r\n\tid {}", self.by, self.protocol, self.id)?;
        if let Some(recipient) = self.recipient {
            let length = recipient.local().len() + 1 + host_len(recipient.host());
            if length <= FOR_MAX {
                write!(f, " for <{recipient}>")?;
            }
        }
        f.write_str(";\r\n\t")?;
        f.write_str(&self.at.rfc5322())?;
        f.write_str("\r\n")
    }
}

/// The printed length of a host in octets, without printing it twice in the common case.
fn host_len(host: &AddressHost) -> usize {
    match host {
        AddressHost::Domain(domain) => domain.as_str().len(),
        AddressHost::Literal(_) => {
            let mut printed = String::new();
            write!(printed, "{host}").expect("a String takes all");
            printed.len()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(hello: &str, client: &str, recipient: Option<&str>, protocol: Protocol, expected: &str) {
        let recipient = recipient.map(|text| text.parse::<EnvelopeAddress>().expect("an address"));
        let received = Received {
            hello: Some(&HelloName::read(hello.as_bytes())),
            client: Some(client.parse().expect("an address")),
            by: &"mta1.example.net".parse().expect("a domain"),
            protocol: protocol.name(),
            id: MessageId(7),
            recipient: recipient.as_ref(),
            at: Timestamp(1_709_209_845_678),
        };
        assert_eq!(received.to_string(), expected);
    }

    #[test]
    fn tells_how_a_message_came() {
        let esmtp = Protocol { extended: true, tls: false, auth: false, smtputf8: false };
        check(
            "App.Example",
            "192.0.2.1",
            Some("a@b.example"),
            esmtp,
            "Received: from app.example ([192.0.2.1])\r\n\tby mta1.example.net (posthaste) with ESMTP\r\n\t\
             id 0000000000007 for <a@b.example>;\r\n\tThu, 29 Feb 2024 12:30:45 +0000\r\n",
        );
        check(
            "[IPv6:2001:DB8::1]",
            "2001:db8::2",
            None,
            Protocol { tls: true, smtputf8: true, ..esmtp },
            "Received: from [IPv6:2001:db8::1] ([IPv6:2001:db8::2])\r\n\tby mta1.example.net (posthaste) with \
             UTF8SMTPS\r\n\tid 0000000000007;\r\n\tThu, 29 Feb 2024 12:30:45 +0000\r\n",
        );
    }

    #[test]
    fn tells_how_a_request_came() {
        let by = "mta1.example.net".parse().expect("a domain");
        let at = Timestamp(1_709_209_845_678);
        let client = Some([192, 0, 2, 1].into());
        let mut received =
            Received { hello: None, client, by: &by, protocol: "HTTP", id: MessageId(7), recipient: None, at };
        let rest =
            "by mta1.example.net (posthaste) with HTTP\r\n\tid 0000000000007;\r\n\tThu, 29 Feb 2024 12:30:45 +0000\r\n";
        assert_eq!(received.to_string(), format!("Received: from [192.0.2.1] ([192.0.2.1])\r\n\t{rest}"));
        received.client = None;
        assert_eq!(received.to_string(), format!("Received: {rest}"));
    }

    #[test]
    fn names_protocols_as_registered() {
        let mut names = Vec::new();
        for (extended, tls, smtputf8) in [
            (false, false, false),
            (true, false, false),
            (true, true, false),
            (false, true, false),
            (true, false, true),
            (true, true, true),
        ] {
            for auth in [false, true] {
                names.push(Protocol { extended, tls, auth, smtputf8 }.name());
            }
        }
        assert_eq!(names[..6], ["SMTP", "ESMTPA", "ESMTP", "ESMTPA", "ESMTPS", "ESMTPSA"]);
        assert_eq!(names[6..], ["ESMTPS", "ESMTPSA", "UTF8SMTP", "UTF8SMTPA", "UTF8SMTPS", "UTF8SMTPSA"]);
    }

    #[test]
    fn a_name_never_injects() {
        let cases: [(&[u8], &str); 6] = [
            (b"my computer", "my?computer"),
            (b"a) (b\r\nX: y", "a???b??X:?y"),
            (b"10.0.0.1", "10.0.0.1"),
            (b"\xff\xfe", "??"),
            (b"[10.0.0.1", "[10.0.0.1"),
            (b"<script>", "?script?"),
        ];
        for (argument, expected) in cases {
            assert_eq!(HelloName::read(argument), HelloName::Odd(expected.into()));
        }
        assert_eq!(HelloName::read("bücher.example".as_bytes()), HelloName::Valid("xn--bcher-kva.example".into()));
        let HelloName::Odd(long) = HelloName::read(&[b'x'; 4000]) else { panic!("too long for a domain") };
        assert_eq!(long.len(), NAME_MAX);
    }
}
