//! How envelopes and states are written into the log: plain fields, lengths in front, one version octet.
//!
//! By hand rather than by a serialiser: start-up reads a million of these, and what is on disk must not change because a
//! struct did. A field is added by raising the version and reading the old one too.

use crate::clock::Timestamp;
use crate::mail::{
    Blame, Class, EnhancedCode, Envelope, Failure, Fingerprint, Keyed, Notify, Origin, Recipient, Reply, Ret,
    ReversePath, Stream,
};

/// The record cannot be read: damaged, or written by a newer version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the record's {0} cannot be read")]
pub struct CodecError(pub &'static str);

type Result<T> = std::result::Result<T, CodecError>;

/// Appends fields to a buffer.
#[derive(Debug, Default)]
pub(super) struct Writer(pub Vec<u8>);

impl Writer {
    pub(super) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    /// LEB128.
    pub(super) fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn display(&mut self, value: &impl std::fmt::Display) {
        self.text(&value.to_string());
    }
}

/// Reads fields back; every method fails with the field's name rather than panic.
#[derive(Debug)]
pub(super) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8> {
        let (first, rest) = self.0.split_first().ok_or(CodecError(field))?;
        self.0 = rest;
        Ok(*first)
    }

    pub(super) fn number(&mut self, field: &'static str) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8(field)?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(CodecError(field))
    }

    pub(super) fn bytes(&mut self, field: &'static str) -> Result<&'a [u8]> {
        let len = self.number(field)? as usize;
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(CodecError(field))?;
        self.0 = rest;
        Ok(bytes)
    }

    pub(super) fn text(&mut self, field: &'static str) -> Result<&'a str> {
        std::str::from_utf8(self.bytes(field)?).map_err(|_| CodecError(field))
    }

    fn parsed<T: std::str::FromStr>(&mut self, field: &'static str) -> Result<T> {
        self.text(field)?.parse().map_err(|_| CodecError(field))
    }

    fn small(&mut self, field: &'static str) -> Result<u16> {
        u16::try_from(self.number(field)?).map_err(|_| CodecError(field))
    }

    fn time(&mut self, field: &'static str) -> Result<Timestamp> {
        self.number(field).map(Timestamp)
    }
}

/// Raised when a field is added or means something else. Version 2: the idempotency key, behind the recipients. Version 3:
/// the first octet of its fingerprint says what made it. Version 4: when delay is reported, behind the key. Version 5: the list,
/// behind that.
const VERSION: u8 = 5;

const SMTPUTF8: u8 = 1;
const EIGHT_BIT: u8 = 2;
const RET_FULL: u8 = 4;
const RET_HDRS: u8 = 8;
const ENVID: u8 = 16;
const KEY: u8 = 32;
const DELAY_REPORT: u8 = 64;
const LIST: u8 = 128;

pub(super) fn write_envelope(w: &mut Writer, envelope: &Envelope) {
    w.u8(VERSION);
    let mut flags = 0;
    flags |= if envelope.smtputf8 { SMTPUTF8 } else { 0 };
    flags |= if envelope.eight_bit { EIGHT_BIT } else { 0 };
    flags |= match envelope.ret {
        None => 0,
        Some(Ret::Full) => RET_FULL,
        Some(Ret::Hdrs) => RET_HDRS,
    };
    flags |= if envelope.envid.is_some() { ENVID } else { 0 };
    flags |= if envelope.key.is_some() { KEY } else { 0 };
    flags |= if envelope.delay_report_at.is_some() { DELAY_REPORT } else { 0 };
    flags |= if envelope.list.is_some() { LIST } else { 0 };
    w.u8(flags);
    w.number(envelope.accepted_at.0);
    w.number(envelope.not_before.0);
    w.number(envelope.expires_at.0);
    w.u8(envelope.stream.class as u8);
    w.text(&envelope.stream.tenant);
    w.text(&envelope.stream.campaign);
    w.display(&envelope.reverse_path);
    if let Some(envid) = &envelope.envid {
        w.text(envid);
    }
    w.number(envelope.tags.len() as u64);
    envelope.tags.iter().for_each(|tag| w.text(tag));
    w.number(envelope.recipients.len() as u64);
    envelope.recipients.iter().for_each(|recipient| write_recipient(w, recipient));
    if let Some(keyed) = &envelope.key {
        w.text(keyed.key.as_str());
        w.0.extend_from_slice(&keyed.fingerprint.0);
        w.number(keyed.messages.into());
    }
    if let Some(at) = envelope.delay_report_at {
        w.number(at.0);
    }
    if let Some(list) = &envelope.list {
        w.text(list);
    }
}

/// Whether an envelope has a key, without reading it.
pub(super) fn has_key(head: &[u8]) -> bool {
    head.first().is_some_and(|version| *version > 1) && head.get(1).is_some_and(|flags| flags & KEY != 0)
}

pub(super) fn read_envelope(r: &mut Reader<'_>) -> Result<Envelope> {
    // Version 1 had no keys, versions before 4 no reports of delay, before 5 no lists, and so not their flags.
    let version = r.u8("version")?;
    if !(1..=VERSION).contains(&version) {
        return Err(CodecError("version"));
    }
    let flags = r.u8("flags")?;
    let ret = match flags & (RET_FULL | RET_HDRS) {
        RET_FULL => Some(Ret::Full),
        RET_HDRS => Some(Ret::Hdrs),
        _ => None,
    };
    let (accepted_at, not_before, expires_at) = (r.time("accepted_at")?, r.time("not_before")?, r.time("expires_at")?);
    let class = *Class::ALL.get(r.u8("class")? as usize).ok_or(CodecError("class"))?;
    let stream = Stream { tenant: r.text("tenant")?.into(), class, campaign: r.text("campaign")?.into() };
    let reverse_path: ReversePath = r.parsed("reverse path")?;
    let envid = if flags & ENVID != 0 { Some(r.text("envid")?.into()) } else { None };
    let tags = (0..r.number("tags")?).map(|_| Ok(r.text("tag")?.into())).collect::<Result<_>>()?;
    let recipients = (0..r.number("recipients")?).map(|_| read_recipient(r)).collect::<Result<_>>()?;
    let key = if flags & KEY != 0 { Some(Box::new(read_key(r, version)?)) } else { None };
    let delay_report_at = if flags & DELAY_REPORT != 0 { Some(r.time("delay report")?) } else { None };
    let list = if flags & LIST != 0 { Some(r.text("list")?.into()) } else { None };
    Ok(Envelope {
        reverse_path,
        recipients,
        stream,
        accepted_at,
        not_before,
        expires_at,
        delay_report_at,
        smtputf8: flags & SMTPUTF8 != 0,
        eight_bit: flags & EIGHT_BIT != 0,
        ret,
        envid,
        list,
        tags,
        key,
    })
}

fn read_key(r: &mut Reader<'_>, version: u8) -> Result<Keyed> {
    let key = r.parsed("key")?;
    let (fingerprint, rest) = r.0.split_first_chunk().ok_or(CodecError("fingerprint"))?;
    r.0 = rest;
    let messages = u32::try_from(r.number("messages")?).map_err(|_| CodecError("messages"))?;
    let fingerprint = if version < 3 { Fingerprint::UNKNOWN } else { Fingerprint(*fingerprint) };
    Ok(Keyed::new(key, fingerprint, messages))
}

const NOTIFY: u8 = 1;
const SUCCESS: u8 = 2;
const FAILURE: u8 = 4;
const DELAY: u8 = 8;
const ORCPT: u8 = 16;

fn write_recipient(w: &mut Writer, recipient: &Recipient) {
    let notify = recipient.notify.map_or(0, |n| {
        NOTIFY
            | if n.success { SUCCESS } else { 0 }
            | if n.failure { FAILURE } else { 0 }
            | if n.delay { DELAY } else { 0 }
    });
    w.u8(notify | if recipient.orcpt.is_some() { ORCPT } else { 0 });
    w.display(&recipient.address);
    if let Some(orcpt) = &recipient.orcpt {
        w.text(orcpt);
    }
}

fn read_recipient(r: &mut Reader<'_>) -> Result<Recipient> {
    let flags = r.u8("recipient flags")?;
    let notify = (flags & NOTIFY != 0).then_some(Notify {
        success: flags & SUCCESS != 0,
        failure: flags & FAILURE != 0,
        delay: flags & DELAY != 0,
    });
    let address = r.parsed("recipient")?;
    let orcpt = if flags & ORCPT != 0 { Some(r.text("orcpt")?.into()) } else { None };
    Ok(Recipient { address, notify, orcpt })
}

pub(super) fn write_failure(w: &mut Writer, failure: &Failure) {
    w.u8(failure.blame as u8);
    match failure.origin {
        Origin::Local => w.text(""),
        Origin::Remote { command } => w.text(command),
    }
    w.number(failure.reply.code.into());
    let EnhancedCode(class, subject, detail) = failure.reply.enhanced.unwrap_or(EnhancedCode(0, 0, 0));
    w.u8(class);
    w.number(subject.into());
    w.number(detail.into());
    w.text(&failure.reply.text);
}

pub(super) fn read_failure(r: &mut Reader<'_>) -> Result<Failure> {
    const BLAMES: [Blame; 4] = [Blame::Recipient, Blame::Message, Blame::Site, Blame::EgressPath];
    const COMMANDS: [&str; 9] = ["MAIL", "RCPT", "DATA", "BDAT", ".", "EHLO", "HELO", "STARTTLS", "AUTH"];
    let blame = *BLAMES.get(r.u8("blame")? as usize).ok_or(CodecError("blame"))?;
    let origin = match r.text("command")? {
        "" => Origin::Local,
        said => Origin::Remote { command: COMMANDS.into_iter().find(|c| *c == said).unwrap_or("?") },
    };
    let code = r.small("code")?;
    let enhanced = EnhancedCode(r.u8("enhanced")?, r.small("enhanced")?, r.small("enhanced")?);
    let text = r.text("reply")?.to_owned();
    let enhanced = (enhanced.0 != 0).then_some(enhanced);
    Ok(Failure { blame, origin, reply: Reply { code, enhanced, text: text.into() } })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Envelope {
        let mut second = Recipient::new("jürgen@[IPv6:2001:db8::1]".parse().unwrap());
        second.notify = Some(Notify { failure: true, ..Notify::default() });
        second.orcpt = Some("rfc822;a+2Bb".into());
        Envelope {
            reverse_path: "a@us.example".parse().unwrap(),
            recipients: vec![Recipient::new("b@them.example".parse().unwrap()), second],
            stream: Stream { tenant: "shop".into(), class: Class::Bulk, campaign: "spring".into() },
            accepted_at: Timestamp(1_700_000_000_000),
            not_before: Timestamp(1_700_000_000_000),
            expires_at: Timestamp(1_700_345_600_000),
            delay_report_at: Some(Timestamp(1_700_003_600_000)),
            smtputf8: true,
            eight_bit: false,
            ret: Some(Ret::Hdrs),
            envid: Some("QQ314159".into()),
            list: Some("news".into()),
            tags: vec!["one".into(), "two".into()],
            key: Some(Box::new(Keyed::new("order-4711".parse().unwrap(), Fingerprint(*b"0123456789abcdef"), 3))),
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let null = Envelope {
            reverse_path: ReversePath::Null,
            ret: None,
            envid: None,
            tags: vec![],
            key: None,
            delay_report_at: None,
            list: None,
            ..sample()
        };
        for envelope in [sample(), null] {
            let mut w = Writer::default();
            write_envelope(&mut w, &envelope);
            assert_eq!(read_envelope(&mut Reader(&w.0)), Ok(envelope));
        }
        let remote = Failure {
            blame: Blame::Site,
            origin: Origin::Remote { command: "RCPT" },
            reply: Reply { code: 451, enhanced: None, text: "later\nplease".into() },
        };
        for failure in [remote, Failure::ours(Blame::EgressPath, EnhancedCode(4, 4, 1), "no route")] {
            let mut w = Writer::default();
            write_failure(&mut w, &failure);
            assert_eq!(read_failure(&mut Reader(&w.0)), Ok(failure));
        }
    }

    #[test]
    fn earlier_versions_read() {
        let unlisted = Envelope { list: None, ..sample() };
        let undelayed = Envelope { delay_report_at: None, ..unlisted.clone() };
        let unkeyed = Envelope { key: None, ..undelayed.clone() };
        let unknown = Keyed::new(sample().key.unwrap().key, Fingerprint::UNKNOWN, 3);
        let unprinted = Envelope { key: Some(Box::new(unknown)), ..undelayed.clone() };
        let written = [
            (1, unkeyed.clone(), unkeyed),
            (2, undelayed.clone(), unprinted),
            (3, undelayed.clone(), undelayed),
            (4, unlisted.clone(), unlisted),
        ];
        for (version, written, read) in written {
            let mut w = Writer::default();
            write_envelope(&mut w, &written);
            w.0[0] = version;
            assert_eq!(read_envelope(&mut Reader(&w.0)), Ok(read), "version {version}");
        }
    }

    #[test]
    fn every_truncation_is_an_error() {
        let mut w = Writer::default();
        write_envelope(&mut w, &sample());
        for len in 0..w.0.len() {
            assert!(read_envelope(&mut Reader(&w.0[..len])).is_err(), "{len}");
        }
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_envelope(&mut Reader(&bytes));
            let _ = read_failure(&mut Reader(&bytes));
        }
    }
}
