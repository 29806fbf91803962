//! The report itself: who gets it, and its frame.

use std::time::Duration;

use mail_builder::headers::content_type::ContentType;
use mail_builder::mime::MimePart;
use memchr::memmem;

use super::{delay, field, status, words};
use crate::clock::Timestamp;
use crate::config::Reporting;
use crate::mail::{Class, Domain, Envelope, Failure, MessageId, Notify, Recipient, Ret, ReversePath, Stream, header};

/// How long a report is tried. Not the lifetime of the message it is about: that may have been minutes.
const LIFETIME: Duration = Duration::from_secs(4 * 86_400);

/// The largest message returned whole; of larger ones only the headers go back (RFC 3461 §4.3 leaves that to us).
const RETURN_MAX: usize = 64 << 10;

/// RFC 5322 §2.1.1.
const LINE_MAX: usize = 998;

/// Who reports, and what is usual for the stream.
#[derive(Debug, Clone, Copy)]
pub struct Reporter<'a> {
    /// Our name.
    pub hostname: &'a Domain,
    /// What senders hear that did not say by NOTIFY.
    pub reporting: Reporting,
}

/// One recipient, as a report tells of it.
#[derive(Debug, Clone, Copy)]
pub struct ReportedRecipient<'a> {
    /// Who.
    pub recipient: &'a Recipient,
    /// The last thing said about it; for a relayed one the receiver's yes.
    pub failure: &'a Failure,
    /// The host that said it, if one did.
    pub mx: Option<&'a str>,
    /// When; `Timestamp(0)` if it was never attempted.
    pub last_attempt: Timestamp,
    /// What there is to tell. The same for all recipients of a report, or all of them not reached.
    pub fate: Fate,
}

/// How a recipient came to its end, or that it has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Refused for good.
    Failed,
    /// Its time ran out.
    Expired,
    /// Handed to a receiver that sends no reports itself (RFC 3461 §5.2.2).
    Relayed,
    /// It still waits, and is tried on.
    Delayed,
    /// A receiver took it, and later sent back that it failed.
    Returned,
    /// A receiver took it, and later sent word that this became of it, in a word of RFC 3464 §2.3.3: `delivered`.
    Confirmed(&'static str),
}

impl Fate {
    /// It did not get there, and will not.
    pub(super) fn is_failure(self) -> bool {
        match self {
            Fate::Failed | Fate::Expired | Fate::Returned => true,
            Fate::Relayed | Fate::Delayed | Fate::Confirmed(_) => false,
        }
    }
}

impl ReportedRecipient<'_> {
    /// Whether the sender hears if it fails.
    pub(super) fn hears_of_failure(&self, reporting: Reporting) -> bool {
        self.recipient.notify.map_or(reporting.failures, |notify| notify.failure)
    }

    /// Whether the sender is to hear of this: as he asked (RFC 3461 §4.1), else as is usual for the stream.
    fn is_wanted(&self, original: &Envelope, reporting: Reporting) -> bool {
        match self.fate {
            Fate::Failed | Fate::Expired | Fate::Returned => self.hears_of_failure(reporting),
            Fate::Relayed | Fate::Confirmed(_) => self.recipient.notify.is_some_and(|notify| notify.success),
            Fate::Delayed => delay::is_wanted(original, self.recipient, reporting),
        }
    }
}

/// The report about recipients of one message that were not reached, were relayed to where reports end, or still wait
/// (RFC 3464), ready to be queued under `report_id`; to the envelope sender, from nobody. Also about those of which something
/// came back after they had been handed over.
///
/// `None` if nobody wants it: the message was a report itself (a null reverse path, RFC 5321 §6.1), or for every recipient
/// in `reported` NOTIFY excludes this (RFC 3461 §4.1), or says nothing and the stream is told by events only. `content` is
/// the message as accepted; what of it goes back follows RET: the headers if it says nothing. Empty: nothing is left of it.
pub fn delivery_report(
    original: &Envelope,
    id: MessageId,
    content: &[u8],
    reported: &[ReportedRecipient<'_>],
    reporter: Reporter<'_>,
    report_id: MessageId,
    now: Timestamp,
) -> Option<(Envelope, Vec<u8>)> {
    let sender = original.reverse_path.address()?;
    let Reporter { hostname, reporting } = reporter;
    let wanted = |one: &&ReportedRecipient<'_>| one.is_wanted(original, reporting);
    let reported: Vec<&ReportedRecipient<'_>> = reported.iter().filter(wanted).collect();
    let subject = match reported.first()?.fate {
        Fate::Failed | Fate::Expired | Fate::Returned => "Your message could not be delivered",
        Fate::Confirmed("delivered") => "Your message was delivered",
        Fate::Relayed | Fate::Confirmed(_) => "Your message was handed on",
        Fate::Delayed => "Your message is delayed",
    };
    // RFC 3461 §4.3: RET is about reports of failure.
    let whole = original.ret == Some(Ret::Full) && reported.iter().any(|one| one.fate.is_failure());
    let returned = Returned::of(whole, content);
    let mut out = String::with_capacity(4096);
    field::push(&mut out, "Date", &now.rfc5322());
    field::push(&mut out, "From", &format!("Mail Delivery System <MAILER-DAEMON@{hostname}>"));
    // An address holds no control character, and is raw UTF-8 where it must be (RFC 6532 §3.2).
    out.push_str(&format!("To: <{sender}>\r\n"));
    field::push(&mut out, "Subject", subject);
    field::push(&mut out, "Message-ID", &format!("<{report_id}@{hostname}>"));
    if let Some(original_id) = message_id(content) {
        field::push(&mut out, "References", &original_id);
    }
    field::push(&mut out, "Auto-Submitted", "auto-replied");
    field::push(&mut out, "MIME-Version", "1.0");
    let words = words::for_people(original, id, &reported, reporter, returned.words());
    let status = status::delivery_status(original, id, &reported, hostname);
    let boundary = boundary(report_id, &[content, words.as_bytes(), status.as_bytes()]);
    let eight_bit = !out.is_ascii() || returned.is_eight_bit();
    let mut parts = vec![
        MimePart::new("text/plain", words),
        MimePart::new("message/delivery-status", status.as_bytes()).transfer_encoding("7bit"),
    ];
    parts.extend(returned.into_part());
    let kind = ContentType::new("multipart/report")
        .attribute("report-type", "delivery-status")
        .attribute("boundary", boundary);
    let mut out = out.into_bytes();
    MimePart::new(kind, parts).write_part(&mut out);

    let smtputf8 = sender.needs_smtputf8();
    // RFC 3461 §5.2.9 (h): a report asks for no reports.
    let recipient = Recipient { notify: Some(Notify::default()), ..Recipient::new(sender.clone()) };
    let envelope = Envelope {
        reverse_path: ReversePath::Null,
        recipients: vec![recipient],
        stream: Stream { class: Class::System, ..original.stream.clone() },
        accepted_at: now,
        not_before: now,
        expires_at: now.after(LIFETIME),
        delay_report_at: None,
        smtputf8,
        eight_bit,
        ret: None,
        envid: None,
        list: None,
        tags: Vec::new(),
        key: None,
    };
    Some((envelope, out))
}

/// What of the message goes back.
enum Returned<'a> {
    /// All of it.
    Message { content: &'a [u8], kind: &'static str, encoding: &'static str },
    /// Its header section, perhaps cut.
    Headers(&'a [u8]),
    /// Nothing, which RFC 6522 §3 allows.
    Nothing,
}

impl<'a> Returned<'a> {
    fn of(whole: bool, content: &'a [u8]) -> Returned<'a> {
        let section = &content[..header::section_len(content)];
        if content.is_empty() {
            return Returned::Nothing;
        }
        // A message inside a report cannot be encoded (RFC 2046 §5.2.1), so one with longer lines goes back as headers.
        if whole && content.len() <= RETURN_MAX && short_lines(content) {
            let kind = if section.is_ascii() { "message/rfc822" } else { "message/global" };
            let encoding = if content.is_ascii() { "7bit" } else { "8bit" };
            return Returned::Message { content, kind, encoding };
        }
        // Cut behind the last line that fits whole.
        let headers = match section.get(..RETURN_MAX) {
            Some(start) => &start[..memchr::memrchr(b'\n', start).map_or(0, |at| at + 1)],
            None => section,
        };
        Returned::Headers(headers)
    }

    fn words(&self) -> &'static str {
        match self {
            Returned::Message { .. } => "The message is attached.",
            Returned::Headers(_) => "The headers of the message are attached.",
            Returned::Nothing => "",
        }
    }

    fn is_eight_bit(&self) -> bool {
        matches!(self, Returned::Message { encoding: "8bit", .. })
    }

    fn into_part(self) -> Option<MimePart<'a>> {
        Some(match self {
            Returned::Nothing => return None,
            Returned::Message { content, kind, encoding } => MimePart::new(kind, content).transfer_encoding(encoding),
            // 8-bit headers and long lines are encoded, which RFC 6522 §4 allows here. RFC 6533's message/global-headers
            // would name them better, but few programs that read reports know it.
            Returned::Headers(section) if section.is_ascii() && short_lines(section) => {
                MimePart::new("text/rfc822-headers", section).transfer_encoding("7bit")
            }
            Returned::Headers(section) => {
                MimePart::new(ContentType::new("text/rfc822-headers").attribute("charset", "utf-8"), section)
            }
        })
    }
}

fn short_lines(text: &[u8]) -> bool {
    text.split(|b| *b == b'\n').all(|line| line.len() <= LINE_MAX + 1)
}

/// The message's own Message-ID, if it is fit to stand in a field of ours: one word between angle brackets.
fn message_id(content: &[u8]) -> Option<String> {
    let section = &content[..header::section_len(content)];
    let id = header::fields(section).find(|field| field.is("Message-ID"))?.text();
    let inner = id.strip_prefix('<')?.strip_suffix('>')?;
    let fit = inner.len() <= 250 && inner.bytes().all(|b| b.is_ascii_graphic() && b != b'<' && b != b'>');
    fit.then(|| id.into_owned())
}

/// A boundary that occurs in none of the parts, even if somebody foresaw `report_id`.
fn boundary(report_id: MessageId, parts: &[&[u8]]) -> String {
    let mut boundary = format!("=_report-{report_id}");
    while parts.iter().any(|part| memmem::find(part, boundary.as_bytes()).is_some()) {
        boundary.push('x');
    }
    boundary
}

#[cfg(test)]
pub(super) mod tests;
