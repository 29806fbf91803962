//! The parameters of MAIL and RCPT (RFC 5321 §4.1.1.11): SIZE, BODY, SMTPUTF8, AUTH, those of DSN (RFC 3461), and the
//! [`Orders`].

use super::orders::Orders;
use super::refusal::{Reason, Refusal};
use crate::mail::{Notify, Ret};

/// Longest ENVID, in octets as given (RFC 3461 §4.4).
const ENVID_MAX: usize = 100;

/// Longest ORCPT, in octets as given (RFC 3461 §4.2).
const ORCPT_MAX: usize = 500;

/// Longest AUTH, in octets as given: the mailbox may be all xtext.
const AUTH_MAX: usize = 500;

/// Behind the path of MAIL.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct MailParameters {
    /// `SIZE` in octets (RFC 1870 §6); what does not fit is the largest number.
    pub(super) size: Option<u64>,
    /// `SMTPUTF8` (RFC 6531 §3.4).
    pub(super) smtputf8: bool,
    /// `RET` (RFC 3461 §4.3).
    pub(super) ret: Option<Ret>,
    /// `ENVID`, as given.
    pub(super) envid: Option<Box<str>>,
    /// When it is to be sent, and how urgent it is.
    pub(super) orders: Orders,
    body: bool,
    auth: bool,
}

/// Behind the path of RCPT.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct RcptParameters {
    /// `NOTIFY` (RFC 3461 §4.1).
    pub(super) notify: Option<Notify>,
    /// `ORCPT`, as given.
    pub(super) orcpt: Option<Box<str>>,
}

impl MailParameters {
    /// Reads what stands behind the path.
    ///
    /// # Errors
    /// `555 5.5.4` for what we do not know, `501 5.5.4` for what is malformed or there twice.
    pub(super) fn parse(rest: &[u8]) -> Result<MailParameters, Refusal> {
        let mut found = MailParameters::default();
        for (name, value) in words(rest) {
            let is = |keyword: &[u8]| name.eq_ignore_ascii_case(keyword);
            if is(b"SIZE") {
                let size = value.and_then(size).ok_or_else(|| Refusal::argument("SIZE must be a number of octets"))?;
                once("SIZE", &mut found.size, size)?;
            } else if is(b"BODY") {
                if !value.is_some_and(|v| v.eq_ignore_ascii_case(b"7BIT") || v.eq_ignore_ascii_case(b"8BITMIME")) {
                    return Err(Refusal::argument("BODY must be 7BIT or 8BITMIME"));
                }
                flag("BODY", &mut found.body)?;
            } else if is(b"SMTPUTF8") {
                if value.is_some() {
                    return Err(Refusal::argument("SMTPUTF8 takes no value"));
                }
                flag("SMTPUTF8", &mut found.smtputf8)?;
            } else if is(b"RET") {
                let ret = match value {
                    Some(v) if v.eq_ignore_ascii_case(b"FULL") => Ret::Full,
                    Some(v) if v.eq_ignore_ascii_case(b"HDRS") => Ret::Hdrs,
                    _ => return Err(Refusal::argument("RET must be FULL or HDRS")),
                };
                once("RET", &mut found.ret, ret)?;
            } else if is(b"ENVID") {
                let envid = value.and_then(|v| xtext(v, ENVID_MAX));
                let bad = || Refusal::argument("ENVID must be xtext of 1 to 100 octets (RFC 3461 4.4)");
                once("ENVID", &mut found.envid, envid.ok_or_else(bad)?.into())?;
            } else if is(b"AUTH") {
                // Who wrote it, as far as the client is to be believed in that (RFC 4954 §5). We tell it to nobody, which
                // is as if it were `<>`.
                if value.and_then(|v| xtext(v, AUTH_MAX)).is_none() {
                    return Err(Refusal::argument("AUTH must be <> or an address in xtext (RFC 4954 5)"));
                }
                flag("AUTH", &mut found.auth)?;
            } else if !found.orders.take(name, value)? {
                return Err(unknown(name));
            }
        }
        Ok(found)
    }

    /// Those that order something, as given: what a submission said beside its content. Empty where there are none.
    pub(super) fn said(&self) -> String {
        let mut said = String::new();
        match self.ret {
            None => {}
            Some(Ret::Full) => said.push_str(" RET=FULL"),
            Some(Ret::Hdrs) => said.push_str(" RET=HDRS"),
        }
        if let Some(envid) = &self.envid {
            said.push_str(" ENVID=");
            said.push_str(envid);
        }
        self.orders.say(&mut said);
        said
    }
}

impl RcptParameters {
    /// Reads what stands behind the path.
    ///
    /// # Errors
    /// As for [`MailParameters::parse`].
    pub(super) fn parse(rest: &[u8]) -> Result<RcptParameters, Refusal> {
        let mut found = RcptParameters::default();
        for (name, value) in words(rest) {
            if name.eq_ignore_ascii_case(b"NOTIFY") {
                let bad = || Refusal::argument("NOTIFY must be NEVER or a list of SUCCESS, FAILURE, DELAY");
                once("NOTIFY", &mut found.notify, value.and_then(notify).ok_or_else(bad)?)?;
            } else if name.eq_ignore_ascii_case(b"ORCPT") {
                let bad = || Refusal::argument("ORCPT must be type;xtext of at most 500 octets (RFC 3461 4.2)");
                once("ORCPT", &mut found.orcpt, value.and_then(orcpt).ok_or_else(bad)?.into())?;
            } else {
                return Err(unknown(name));
            }
        }
        Ok(found)
    }
}

/// `NAME` or `NAME=VALUE`, separated by spaces.
fn words(rest: &[u8]) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
    let words = rest.split(|b| *b == b' ').filter(|word| !word.is_empty());
    words.map(|word| match memchr::memchr(b'=', word) {
        Some(at) => (&word[..at], Some(&word[at + 1..])),
        None => (word, None),
    })
}

fn once<T>(name: &str, slot: &mut Option<T>, value: T) -> Result<(), Refusal> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(twice(name)),
    }
}

fn flag(name: &str, slot: &mut bool) -> Result<(), Refusal> {
    if std::mem::replace(slot, true) { Err(twice(name)) } else { Ok(()) }
}

fn twice(name: &str) -> Refusal {
    Refusal::argument(format!("{name} is there twice"))
}

fn unknown(name: &[u8]) -> Refusal {
    let name = String::from_utf8_lossy(&name[..name.len().min(40)]).into_owned();
    Refusal::new(Reason::Syntax, 555, (5, 5, 4), format!("parameter {name} not recognised or not implemented"))
}

/// Digits, nothing else, that fit.
pub(super) fn number(digits: &[u8]) -> Option<u64> {
    if !is_digits(digits) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Up to 20 digits (RFC 1870 §6.1), which may say more than 64 bits hold.
fn size(digits: &[u8]) -> Option<u64> {
    (is_digits(digits) && digits.len() <= 20).then(|| number(digits).unwrap_or(u64::MAX))
}

fn is_digits(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(u8::is_ascii_digit)
}

fn notify(value: &[u8]) -> Option<Notify> {
    if value.eq_ignore_ascii_case(b"NEVER") {
        return Some(Notify::default());
    }
    let mut notify = Notify::default();
    for word in value.split(|b| *b == b',') {
        let slot = match word {
            _ if word.eq_ignore_ascii_case(b"SUCCESS") => &mut notify.success,
            _ if word.eq_ignore_ascii_case(b"FAILURE") => &mut notify.failure,
            _ if word.eq_ignore_ascii_case(b"DELAY") => &mut notify.delay,
            _ => return None,
        };
        *slot = true;
    }
    Some(notify)
}

/// `type;xtext`; the type is an atom.
fn orcpt(value: &[u8]) -> Option<&str> {
    let semicolon = memchr::memchr(b';', value)?;
    let kind = &value[..semicolon];
    let is_atom = |b: &u8| b.is_ascii_alphanumeric() || *b == b'-' || *b == b'_';
    if kind.is_empty() || !kind.iter().all(is_atom) {
        return None;
    }
    let address = &value[semicolon + 1..];
    if kind.eq_ignore_ascii_case(b"utf-8") && !address.is_ascii() {
        // RFC 6533 §3: with SMTPUTF8, utf-8-addr-unitext may stand as it is.
        let text = std::str::from_utf8(value).ok()?;
        return (text.len() <= ORCPT_MAX && !text.chars().any(|c| c.is_control() || c == ' ')).then_some(text);
    }
    xtext(address, ORCPT_MAX.checked_sub(semicolon + 1)?)?;
    std::str::from_utf8(value).ok()
}

/// xtext (RFC 3461 §4) that decodes to printable ASCII: what is decoded into a report must not break its lines.
fn xtext(value: &[u8], max: usize) -> Option<&str> {
    if value.is_empty() || value.len() > max {
        return None;
    }
    let mut rest = value;
    while let [first, tail @ ..] = rest {
        rest = match (*first, tail) {
            (b'+', [high, low, behind @ ..]) => {
                let decoded = upper_hex(*high)? << 4 | upper_hex(*low)?;
                (b' '..=b'~').contains(&decoded).then_some(behind)?
            }
            (b'+' | b'=', _) => return None,
            (b'!'..=b'~', _) => tail,
            _ => return None,
        };
    }
    std::str::from_utf8(value).ok()
}

fn upper_hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mail(rest: &str) -> Result<MailParameters, String> {
        MailParameters::parse(rest.as_bytes()).map_err(|refusal| refusal.reply.to_string())
    }

    fn rcpt(rest: &str) -> Result<RcptParameters, String> {
        RcptParameters::parse(rest.as_bytes()).map_err(|refusal| refusal.reply.to_string())
    }

    #[test]
    fn reads_mail_parameters() {
        let all = mail(" SIZE=12  body=8bitmime SMTPUTF8 RET=hdrs ENVID=a+3Db");
        let expected = MailParameters {
            size: Some(12),
            smtputf8: true,
            ret: Some(Ret::Hdrs),
            envid: Some("a+3Db".into()),
            orders: Orders::default(),
            body: true,
            auth: false,
        };
        assert_eq!(all, Ok(expected));
        assert_eq!(mail(" SIZE=99999999999999999999").map(|p| p.size), Ok(Some(u64::MAX)));
        for (bad, why) in [
            ("SIZE", "501 5.5.4 SIZE must be a number of octets"),
            ("SIZE=", "501 5.5.4 SIZE must be a number of octets"),
            ("SIZE=+1", "501 5.5.4 SIZE must be a number of octets"),
            ("SIZE=999999999999999999999", "501 5.5.4 SIZE must be a number of octets"),
            ("SIZE=1 size=2", "501 5.5.4 SIZE is there twice"),
            ("BODY=BINARYMIME", "501 5.5.4 BODY must be 7BIT or 8BITMIME"),
            ("BODY=7BIT BODY=7BIT", "501 5.5.4 BODY is there twice"),
            ("SMTPUTF8=yes", "501 5.5.4 SMTPUTF8 takes no value"),
            ("RET=ALL", "501 5.5.4 RET must be FULL or HDRS"),
            ("ENVID=", "501 5.5.4 ENVID must be xtext of 1 to 100 octets (RFC 3461 4.4)"),
            ("ENVID=a+0Db", "501 5.5.4 ENVID must be xtext of 1 to 100 octets (RFC 3461 4.4)"),
            ("ENVID=a+3", "501 5.5.4 ENVID must be xtext of 1 to 100 octets (RFC 3461 4.4)"),
            ("ENVID=a+3db", "501 5.5.4 ENVID must be xtext of 1 to 100 octets (RFC 3461 4.4)"),
            ("AUTH", "501 5.5.4 AUTH must be <> or an address in xtext (RFC 4954 5)"),
            ("AUTH=a=b", "501 5.5.4 AUTH must be <> or an address in xtext (RFC 4954 5)"),
            ("AUTH=<> AUTH=<>", "501 5.5.4 AUTH is there twice"),
            ("HOLDFOR=x", "501 5.5.4 HOLDFOR must be 1 to 999999999 seconds"),
            ("TRANSID=<a@b>", "555 5.5.4 parameter TRANSID not recognised or not implemented"),
            ("X\u{fc}", "555 5.5.4 parameter X\u{fc} not recognised or not implemented"),
        ] {
            assert_eq!(mail(bad), Err(why.to_owned()), "{bad}");
        }
        assert!(mail(&format!("ENVID={}", "x".repeat(101))).is_err());
        assert!(mail("AUTH=<>").is_ok() && mail("AUTH=e+3Dmc2@example.com").is_ok());
    }

    #[test]
    fn says_its_orders_again() {
        let said = |rest: &str| mail(rest).expect("good").said();
        assert_eq!(said("SIZE=12 BODY=8BITMIME SMTPUTF8 AUTH=<>"), "");
        assert_eq!(
            said("mt-priority=+3 BY=0060;r HOLDFOR=0010 ENVID=a ret=hdrs"),
            " RET=HDRS ENVID=a HOLDFOR=10 BY=60 MT-PRIORITY=3"
        );
        assert_eq!(said("HOLDUNTIL=2026-11-22T14:00:00+02:00"), " HOLDUNTIL=2026-11-22T12:00:00.000Z");
    }

    #[test]
    fn reads_rcpt_parameters() {
        let notify = |rest: &str| rcpt(rest).map(|p| p.notify.map(|n| (n.success, n.failure, n.delay)));
        assert_eq!(notify(" NOTIFY=NEVER"), Ok(Some((false, false, false))));
        assert_eq!(notify(" notify=success,DELAY"), Ok(Some((true, false, true))));
        assert_eq!(notify(""), Ok(None));
        for bad in ["NOTIFY", "NOTIFY=", "NOTIFY=NEVER,SUCCESS", "NOTIFY=SUCCESS,", "NOTIFY=ALL"] {
            let why = "501 5.5.4 NOTIFY must be NEVER or a list of SUCCESS, FAILURE, DELAY";
            assert_eq!(notify(bad), Err(why.to_owned()), "{bad}");
        }
        for good in ["rfc822;a+2Bb@c.example", "x400;CN+3Da", "utf-8;j\u{fc}rgen@b", "utf-8;j\\x{FC}rgen@b"] {
            assert_eq!(rcpt(&format!("ORCPT={good}")).map(|p| p.orcpt), Ok(Some(good.into())), "{good}");
        }
        for bad in ["", "rfc822", "rfc822;", ";a", "rfc822;a=b", "rfc822;a+0A", "r c;a", "rfc822;j\u{fc}", "a.b;c"] {
            assert!(rcpt(&format!("ORCPT={bad}")).is_err(), "{bad}");
        }
        assert!(rcpt(&format!("ORCPT=rfc822;{}", "x".repeat(500))).is_err());
        assert_eq!(rcpt("SIZE=1"), Err("555 5.5.4 parameter SIZE not recognised or not implemented".into()));
    }
}
