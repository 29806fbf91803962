//! Opens a message: what of it speaks to people, what to machines, what is left of the original.

use mail_parser::{Message, MessageParser, MimeHeaders, PartType};

use super::super::mime;

/// As much of a message is looked at, in bytes: reports stand in front of what they return.
const LOOKED_AT: usize = 512 * 1024;

/// As much is kept of the words for people, in bytes: they are searched for every recipient.
const WORDS_MAX: usize = 48 * 1024;

/// As many parts are looked at.
const PARTS_MAX: usize = 100;

/// As deep as messages in messages are followed.
const DEPTH_MAX: usize = 3;

/// A message, opened.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// The header's fields in order: names in lower case, values unfolded; encoded words decoded in the subject.
    pub(super) header: Vec<(String, String)>,
    /// Words for people: text parts outside what is returned.
    pub(super) human: String,
    /// Words for machines: `message/delivery-status`, or lines that look like it.
    pub(super) status: String,
    /// The words for machines were found among others: nothing says that they are this message's own.
    pub(super) loose_status: bool,
    /// The header of the original message, as far as it came back.
    pub(super) original: String,
    /// There is a complaint in it (RFC 5965).
    pub(super) complaint: bool,
    /// There is a disposition notification in it (RFC 8098).
    pub(super) disposition: bool,
}

impl Parts {
    /// Opens what is there; broken MIME gives what can be read.
    pub(super) fn open(message: &[u8]) -> Parts {
        let message = &message[..message.len().min(LOOKED_AT)];
        let mut parts = Parts { header: fields(&String::from_utf8_lossy(head(message))), ..Parts::default() };
        if let Some(parsed) = MessageParser::default().parse(mime::for_library(message)) {
            if let Some(subject) = parsed.subject() {
                parts.header.retain(|field| field.0 != "subject");
                parts.header.push(("subject".into(), subject.into()));
            }
            parts.collect(&parsed, 0);
        }
        if parts.human.trim().is_empty() && parts.status.is_empty() {
            let body = &message[head(message).len()..];
            parts.human = String::from_utf8_lossy(body).into_owned();
        }
        parts.human.truncate(parts.human.floor_char_boundary(WORDS_MAX));
        if parts.status.is_empty() {
            // Reports whose parts lost their types or their boundaries.
            let body = String::from_utf8_lossy(&message[head(message).len()..]).replace('\r', "");
            let low = body.to_ascii_lowercase();
            let at = ["\nfinal-recipient:", "\noriginal-recipient:"].iter().filter_map(|name| low.find(name)).min();
            if let Some(at) = at.filter(|_| low.contains("\naction:")) {
                let start = body[..at].rfind("\n\n").unwrap_or(at);
                parts.status = body[start..].to_owned();
                parts.loose_status = true;
            }
        }
        parts
    }

    /// The first field of that name, in lower case.
    pub(super) fn field(&self, name: &str) -> &str {
        self.header.iter().find(|field| field.0 == name).map_or("", |field| &field.1)
    }

    fn collect(&mut self, message: &Message<'_>, depth: usize) {
        let mut html = String::new();
        for part in message.parts.iter().take(PARTS_MAX) {
            let (kind, subtype) = part
                .content_type()
                .map_or(("text", "plain"), |kind| (kind.ctype(), kind.subtype().unwrap_or_default()));
            let kind = format!("{kind}/{subtype}").to_ascii_lowercase();
            match kind.as_str() {
                "message/delivery-status" | "message/global-delivery-status" | "message/xdelivery-status" => {
                    let text = String::from_utf8_lossy(part.contents());
                    if is_status(&text) {
                        self.status.push_str("\n\n");
                        self.status.push_str(&text);
                    } else {
                        // Some mailers give their words for people this type.
                        self.human.push_str(&text);
                        self.human.push('\n');
                    }
                    continue;
                }
                "message/feedback-report" => self.complaint = true,
                "message/disposition-notification" => self.disposition = true,
                "text/rfc822-headers" | "message/rfc822-headers" | "message/global-headers" => {
                    if self.original.is_empty() {
                        self.original = String::from_utf8_lossy(part.contents()).into_owned();
                    }
                    continue;
                }
                _ => {}
            }
            match &part.body {
                PartType::Text(text) => {
                    self.human.push_str(text);
                    self.human.push('\n');
                }
                PartType::Html(text) => html.push_str(&plain(text)),
                PartType::Message(inner) => {
                    if self.original.is_empty() {
                        self.original = String::from_utf8_lossy(head(inner.raw_message())).into_owned();
                    }
                    // A report forwarded as it is; what it carries is no report of ours unless it says so itself.
                    let reports = inner
                        .content_type()
                        .is_some_and(|kind| kind.subtype().is_some_and(|s| s.eq_ignore_ascii_case("report")));
                    if reports && depth < DEPTH_MAX && self.status.is_empty() {
                        self.collect(inner, depth + 1);
                    }
                }
                PartType::Binary(_) | PartType::InlineBinary(_) | PartType::Multipart(_) => {}
            }
        }
        if self.human.trim().is_empty() {
            self.human.push_str(&html);
        }
    }
}

/// Whether a part holds fields of a report (RFC 3464 §2.1).
fn is_status(text: &str) -> bool {
    let low = text.to_ascii_lowercase();
    ["final-recipient:", "original-recipient:", "reporting-mta:", "action:", "status:"]
        .iter()
        .any(|name| low.contains(name))
}

/// The header with its empty line.
fn head(message: &[u8]) -> &[u8] {
    let end =
        [&b"\n\n"[..], b"\n\r\n"].iter().filter_map(|end| Some(memchr::memmem::find(message, end)? + end.len())).min();
    &message[..end.unwrap_or(message.len())]
}

/// The fields of a header or of a group: names in lower case, values unfolded.
pub(super) fn fields(text: &str) -> Vec<(String, String)> {
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        if line.starts_with([' ', '\t']) {
            if let Some(last) = fields.last_mut() {
                last.1.push(' ');
                last.1.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':')
            && !name.is_empty()
            && name.bytes().all(|b| b.is_ascii_graphic())
        {
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    fields
}

/// HTML without its tags; elements end lines.
fn plain(html: &str) -> String {
    let mut text = String::with_capacity(html.len());
    let mut rest = html;
    while let Some(open) = rest.find('<') {
        text.push_str(&rest[..open]);
        let close = rest[open..].find('>').map_or(rest.len(), |at| open + at + 1);
        let tag = rest[open..close].to_ascii_lowercase();
        if ["<br", "<p", "</p", "<div", "</div", "<tr", "</tr", "<li", "</td"].iter().any(|one| tag.starts_with(one)) {
            text.push('\n');
        } else if tag.contains('@') && !tag.contains('=') {
            // `<a@b>`, written without care.
            text.push_str(&rest[open..close]);
        }
        rest = &rest[close..];
    }
    text.push_str(rest);
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&nbsp;", " ")
        .replace("&quot;", "\"")
        .replace("&#39;", "'")
        .replace("&amp;", "&")
}
