//! Everything a request says but its content.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt::Write;
use std::time::Duration;

use super::{ApiCircumstances, Request, RequestContent, Violations, When};
use crate::mail::{EnvelopeAddress, IdempotencyKey, Recipient, ReversePath, header};
use crate::submission::options::{Options, PREFIX};

/// Longest ENVID, in octets as encoded (RFC 3461 §4.4).
const ENVID_MAX: usize = 100;

/// What was read of a request; where something is wrong, a stand-in.
#[derive(Debug)]
pub(super) struct Envelope {
    pub(super) options: Options,
    pub(super) key: Option<IdempotencyKey>,
    pub(super) reverse_path: ReversePath,
    pub(super) recipients: Vec<Recipient>,
    pub(super) envid: Option<Box<str>>,
    /// What is wrong with its times.
    pub(super) overdue: Option<Cow<'static, str>>,
}

impl Envelope {
    /// Reads what `request` says; `content` is the content of a raw one.
    pub(super) fn read(
        request: &Request,
        content: &[u8],
        expire_after: Duration,
        circumstances: &ApiCircumstances<'_>,
        violations: &mut Violations,
    ) -> Envelope {
        let key = request.idempotency_key.as_deref().and_then(|key| {
            key.parse()
                .map_err(|error: crate::mail::IdempotencyKeyError| violations.add("idempotency_key", error.to_string()))
                .ok()
        });
        let envid = request.envid.as_deref().and_then(|envid| {
            let encoded = xtext(envid);
            if encoded.is_none() {
                violations.add("envid", "must be 1 to 100 printable ASCII characters (RFC 3461 §4.4)");
            }
            encoded
        });
        let (options, overdue) = options(request, expire_after, circumstances, violations);
        Envelope {
            options,
            overdue,
            key,
            reverse_path: sender(request, content, circumstances, violations),
            recipients: recipients(request, circumstances, violations),
            envid,
        }
    }
}

/// The orders, by the rules of the fields that give them in a message, and what is wrong with when they would expire.
fn options(
    request: &Request,
    expire_after: Duration,
    circumstances: &ApiCircumstances<'_>,
    violations: &mut Violations,
) -> (Options, Option<Cow<'static, str>>) {
    let mut options = Options::default();
    let mut set = |field: &'static str, name: &str, value: Option<&str>| {
        let Some(value) = value else { return };
        if let Err(error) = options.set(&format!("{PREFIX}{name}"), value, circumstances.now) {
            violations.add(field, error.why);
        }
    };
    set("tenant", "Tenant", request.tenant.as_deref());
    set("campaign", "Campaign", request.campaign.as_deref());
    set("list", "List", request.list.as_deref());
    set("class", "Class", request.class.as_deref());
    let text = |when: &When| match when {
        When::Text(text) => text.clone(),
        When::At(time) => time.to_string(),
    };
    set("not_before", "Not-Before", request.not_before.as_ref().map(text).as_deref());
    set("expires_at", "Expires", request.expires_at.as_ref().map(text).as_deref());
    let odd = request.tags.iter().position(|tag| tag.trim().is_empty() || tag.contains(','));
    match odd {
        Some(_) => {}
        None if request.tags.is_empty() => {}
        None => set("tags", "Tags", Some(&request.tags.join(","))),
    }
    let times = options.times(circumstances.now, expire_after);
    let overdue = times.err().map(|error| match error.why {
        passed if passed == "has passed" => passed,
        _ => "is not after not_before".into(),
    });
    if let Some(index) = odd {
        violations.add(format!("tags[{index}]"), "must be 1 to 128 printable octets without a comma");
    }
    (options, overdue)
}

/// The sender in the envelope: what the request says, or the address of From.
fn sender(
    request: &Request,
    content: &[u8],
    circumstances: &ApiCircumstances<'_>,
    violations: &mut Violations,
) -> ReversePath {
    if let Some(sender) = &request.sender {
        return sender.parse().unwrap_or_else(|error: crate::mail::AddressError| {
            violations.add("sender", error.to_string());
            ReversePath::Null
        });
    }
    match &request.content {
        // A bad address there is named where From is read.
        RequestContent::Parts(parts) => parts.from.as_ref().and_then(|from| from.address.parse().ok()),
        // Nothing: it could not be read, and that is named.
        RequestContent::Raw(_) if content.is_empty() => None,
        RequestContent::Raw(_) => {
            let from = author(content);
            if from.is_none() {
                let field = circumstances.names.raw;
                violations
                    .add("sender", format!("must be given, as no address can be read from the field From of {field}"));
            }
            from
        }
    }
    .map_or(ReversePath::Null, ReversePath::Address)
}

/// The address in a message's From field, where that is easily told.
fn author(content: &[u8]) -> Option<EnvelopeAddress> {
    let section = &content[..header::section_len(content)];
    let from = header::fields(section).find(|field| field.is("From"))?.text();
    let address = match from.strip_suffix('>') {
        Some(text) => &text[text.rfind('<')? + 1..],
        None => &from,
    };
    address.trim().parse().ok()
}

/// The recipients in the envelope, each once, in the order given: those the request names, or those of its parts.
fn recipients(request: &Request, circumstances: &ApiCircumstances<'_>, violations: &mut Violations) -> Vec<Recipient> {
    let mut found = Vec::new();
    let mut known = HashSet::new();
    let max = circumstances.recipients_max;
    // Whether there is room for more: one too many is enough to know.
    let only = request.recipients.len() == 1;
    let mut add = |address: EnvelopeAddress| {
        if only || known.insert(address.clone()) {
            found.push(Recipient { notify: request.notify, ..Recipient::new(address) });
        }
        found.len() <= max
    };
    for (index, text) in request.recipients.iter().enumerate() {
        match text.parse() {
            Ok(address) => {
                if !add(address) {
                    break;
                }
            }
            Err(_) if violations.full() => break,
            Err(error) => {
                let error: crate::mail::AddressError = error;
                violations.add(format!("recipients[{index}]"), error.to_string());
            }
        }
    }
    if let RequestContent::Parts(parts) = &request.content {
        let prefix = circumstances.names.parts;
        if request.recipients.is_empty() {
            let all = [&parts.to, &parts.cc, &parts.bcc].into_iter().flatten();
            all.filter_map(|mailbox| mailbox.address.parse().ok()).all(add);
        } else if !parts.bcc.is_empty() {
            violations.add(format!("{prefix}bcc"), "is of no use beside recipients; name them there");
        }
        if request.recipients.is_empty() && [&parts.to, &parts.cc, &parts.bcc].into_iter().all(Vec::is_empty) {
            violations.add("recipients", format!("must name somebody, or {prefix}to, {prefix}cc or {prefix}bcc must"));
        }
    } else if request.recipients.is_empty() {
        violations.add("recipients", format!("must name somebody where there is {}", circumstances.names.raw));
    }
    if found.len() > max {
        violations.add("recipients", format!("are more than {max} (recipients_max)"));
    }
    found
}

/// xtext (RFC 3461 §4) of printable ASCII; `None` where it is something else or too long.
fn xtext(text: &str) -> Option<Box<str>> {
    let mut encoded = String::with_capacity(text.len());
    for b in text.bytes() {
        match b {
            b'+' | b'=' | b' ' => write!(encoded, "+{b:02X}").expect("a String takes all"),
            b'!'..=b'~' => encoded.push(char::from(b)),
            _ => return None,
        }
    }
    (1..=ENVID_MAX).contains(&encoded.len()).then(|| encoded.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_envids() {
        assert_eq!(xtext("order 7+8=15").as_deref(), Some("order+207+2B8+3D15"));
        assert_eq!(xtext(&"=".repeat(33)).map(|text| text.len()), Some(99));
        for bad in ["", "a\tb", "\u{fc}", &"=".repeat(34)] {
            assert_eq!(xtext(bad), None, "{bad}");
        }
    }

    #[test]
    fn finds_the_author() {
        for (content, expected) in [
            ("From: a@b.example\r\n\r\n", Some("a@b.example")),
            ("To: x@y\r\nFROM: \"Lee, Ann\"\r\n <a@b.example>\r\n\r\n", Some("a@b.example")),
            ("Subject: s\r\n\r\nFrom: a@b.example\r\n", None),
            ("From: a@b, c@d\r\n\r\n", None),
            ("From: Ann\r\n\r\n", None),
        ] {
            let found = author(content.as_bytes()).map(|address| address.to_string());
            assert_eq!(found.as_deref(), expected, "{content}");
        }
    }
}
