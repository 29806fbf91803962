//! The machine-readable part (RFC 5965 §3, RFC 6591 §3) and what is left of the message.

use super::super::mime::{NamedValue, Opened, Part, fields, first, head, param};
use super::{Complaint, MANY_MAX, bare, find, is_feedback};

/// Further fields that are kept.
const OTHER_MAX: usize = 50;

/// Reads the machine-readable part, if there is one.
pub(super) fn read(opened: &Opened<'_>) -> Option<Complaint> {
    let typed = opened
        .parts
        .iter()
        .position(|part| part.kind.split('/').nth(1).is_some_and(is_feedback) && !part.kind.starts_with("multipart/"));
    let (report, place) = match typed {
        Some(place) => (fields(&opened.parts[place].decoded()), place),
        None => untyped(opened)?,
    };
    let mut complaint = of_fields(&report);
    complaint.standard = true;
    let original = original(&opened.parts, place);
    add_original(&mut complaint, &original);
    find::all(&mut complaint, opened, &report, &original);
    Some(complaint)
}

/// A message that says it is a report, without anything to be read in it.
pub(super) fn empty_report(opened: &Opened<'_>) -> Option<Complaint> {
    let said = param(opened.field("content-type"), "report-type").is_some_and(|kind| is_feedback(&kind));
    let mut complaint = said.then(|| Complaint { feedback_type: "abuse".into(), ..Complaint::default() })?;
    let original = original(&opened.parts, 0);
    add_original(&mut complaint, &original);
    find::all(&mut complaint, opened, &[], &original);
    Some(complaint)
}

/// The fields of a part that lost its type, or of a body whose boundaries were lost: a block of lines with Feedback-Type and
/// another of the fields that must be there (RFC 5965 §3.1).
fn untyped(opened: &Opened<'_>) -> Option<(Vec<NamedValue>, usize)> {
    let reports = param(opened.field("content-type"), "report-type").is_some_and(|kind| is_feedback(&kind));
    opened.parts.iter().enumerate().find_map(|(place, part)| {
        let whole = part.kind.starts_with("multipart/") || part.kind.starts_with("text/");
        let body = (whole || reports).then(|| part.decoded())?;
        let block = block_with(&body, "feedback-type")?;
        let fields = fields(block);
        let two = ["user-agent", "version"].iter().any(|name| !first(&fields, name).is_empty());
        (two && fields.iter().any(|field| field.0 == "feedback-type")).then_some((fields, place))
    })
}

/// The lines between empty ones around the first line that begins with that field name.
fn block_with<'b>(body: &'b [u8], name: &str) -> Option<&'b [u8]> {
    let (mut start, mut at, mut found) = (0, 0, false);
    while at < body.len() {
        let end = memchr::memchr(b'\n', &body[at..]).map_or(body.len(), |len| at + len + 1);
        let line = body[at..end].trim_ascii();
        let is_edge = line.is_empty() || line.starts_with(b"--");
        if is_edge && found {
            return Some(&body[start..at]);
        }
        if is_edge {
            start = end;
        }
        found |= line.len() > name.len()
            && line[..name.len()].eq_ignore_ascii_case(name.as_bytes())
            && line[name.len()..].trim_ascii_start().starts_with(b":");
        at = end;
    }
    found.then(|| &body[start..])
}

fn of_fields(report: &[NamedValue]) -> Complaint {
    let mut complaint = Complaint::default();
    let mut removal = Vec::new();
    let mut received_date = String::new();
    let mut message_id = String::new();
    for (name, value) in report {
        let text = value.clone();
        match name.as_str() {
            "feedback-type" => set(&mut complaint.feedback_type, word(value)),
            "user-agent" => set(&mut complaint.user_agent, text),
            "version" => set(&mut complaint.version, text),
            "original-rcpt-to" => push_addresses(&mut complaint.original_rcpt, value),
            "removal-recipient" => push_addresses(&mut removal, value),
            "original-mail-from" => set(&mut complaint.original_mail_from, bare(value)),
            "original-envelope-id" => set(&mut complaint.original_envelope_id, text),
            "source-ip" => set(&mut complaint.source_ip, text),
            "arrival-date" => set(&mut complaint.arrival_date, text),
            "received-date" => set(&mut received_date, text),
            "message-id" | "original-message-id" => set(&mut message_id, bare(value)),
            "reported-domain" => push(&mut complaint.reported_domain, text),
            "reported-uri" => push(&mut complaint.reported_uri, text),
            "authentication-results" => push(&mut complaint.authentication_results, text),
            "incidents" => complaint.incidents = complaint.incidents.or(value.trim().parse().ok()),
            "auth-failure" => set(&mut complaint.auth_failure, word(value)),
            "delivery-result" => set(&mut complaint.delivery_result, word(value)),
            "content-type" | "content-transfer-encoding" | "mime-version" | "content-disposition" => {}
            _ if complaint.other.len() < OTHER_MAX => complaint.other.push((name.clone(), text)),
            _ => {}
        }
    }
    if complaint.original_rcpt.is_empty() {
        complaint.original_rcpt = removal;
    }
    set(&mut complaint.arrival_date, received_date);
    // Of the report; the message itself knows better, if it is there.
    complaint.original_message_id = message_id;
    if complaint.feedback_type.is_empty() {
        complaint.feedback_type = "abuse".into();
    }
    complaint
}

/// The first that says something counts (RFC 5965 §3.1: most fields stand once).
fn set(field: &mut String, value: String) {
    if field.is_empty() {
        *field = value;
    }
}

fn push(list: &mut Vec<String>, value: String) {
    if !value.is_empty() && list.len() < MANY_MAX {
        list.push(value);
    }
}

/// The first word, in lower case: some put parameters or comments behind it.
fn word(value: &str) -> String {
    let end = value.find([';', '(', ' ', '\t']).unwrap_or(value.len());
    value[..end].to_ascii_lowercase()
}

/// One address, or several behind commas; a type in front (`rfc822;`) is left out.
pub(super) fn push_addresses(list: &mut Vec<String>, value: &str) {
    let value = value.split_once(';').filter(|(kind, _)| !kind.contains('@')).map_or(value, |(_, rest)| rest);
    let several = value.matches('@').count() > 1 && !value.contains('"');
    if several {
        value.split(',').for_each(|one| push(list, bare(one)));
    } else {
        push(list, bare(value));
    }
}

/// The header of the message that a report is about, and the part's octets behind it.
pub(super) struct Original {
    pub(super) header: Vec<NamedValue>,
    pub(super) body: Vec<u8>,
}

/// The first part, best behind the report, that is a message or its header, by its type or else by its looks.
pub(super) fn original(parts: &[Part<'_>], report: usize) -> Original {
    let is_message = |part: &&Part<'_>| part.kind.contains("rfc822") || part.kind.starts_with("message/global");
    let behind = parts.get(report + 1..).unwrap_or_default();
    let typed = behind.iter().find(is_message).or_else(|| parts.iter().find(is_message));
    let looks = || behind.iter().find(|part| looks_like_header(&part.decoded()));
    match typed.or_else(looks) {
        Some(part) => parted(&part.decoded()),
        None => Original { header: Vec::new(), body: Vec::new() },
    }
}

/// A message, taken apart.
pub(super) fn parted(octets: &[u8]) -> Original {
    let octets = octets.trim_ascii_start();
    let head = head(octets);
    Original { header: fields(head), body: octets[head.len()..].to_vec() }
}

/// Whether text begins like a message: three fields, one of which every message has.
pub(super) fn looks_like_header(octets: &[u8]) -> bool {
    let head = head(octets.trim_ascii_start());
    let fields = fields(head);
    let known = ["received", "from", "message-id", "date", "subject", "to", "return-path", "cfbl-feedback-id"];
    fields.len() >= 3 && fields.iter().filter(|field| known.contains(&field.0.as_str())).count() >= 2
}

pub(super) fn add_original(complaint: &mut Complaint, original: &Original) {
    let field = |name| first(&original.header, name);
    let id = bare(field("message-id"));
    if !id.is_empty() {
        complaint.original_message_id = id;
    }
    complaint.original_to = mailbox(field("to"));
    complaint.original_subject = field("subject").to_owned();
    complaint.feedback_id = field("feedback-id").to_owned();
    set(&mut complaint.original_mail_from, bare(field("return-path")));
    if complaint.original_rcpt.is_empty() {
        // What the receiver wrote on the message when it took it; often redacted.
        let names = ["x-hmxmroriginalrecipient", "delivered-to", "x-original-to", "x-rcpt-to"];
        let value = names.into_iter().map(field).find(|value| value.contains('@')).unwrap_or_default();
        push_addresses(&mut complaint.original_rcpt, value);
    }
}

/// The address of a mailbox: what stands in angle brackets, else all.
pub(super) fn mailbox(value: &str) -> String {
    let inside = value.rsplit_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(inside, _)| inside);
    inside.unwrap_or(value).trim().to_owned()
}
