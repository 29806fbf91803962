//! The forms of those who have their own.

use serde_json::Value;

use super::super::mime::{Opened, first};
use super::arf::{self, Original, add_original, looks_like_header, mailbox, original, parted};
use super::{Complaint, MANY_MAX, find};

/// As much of the words for people is looked at, in octets.
const WORDS_MAX: usize = 256 * 1024;

/// What subjects of complaints in words say, in lower case.
const SUBJECTS: [&str; 6] = [
    "complaint about message from",
    "email feedback report for",
    "email abuse report",
    "spam complaint from",
    "abuse report (feedback loop",
    "feedback loop report",
];

/// What the words of complaints say, in lower case.
const COMPLAINTS: [&str; 6] = [
    "this is an email abuse report for",
    "this is a spam report for",
    "this is an abuse report for",
    "marked the following message as spam",
    "reported the following message as spam",
    "reported your message as spam",
];

/// What requests to leave say in their subject, in lower case.
const LEAVE: [&str; 7] =
    ["unsubscribe", "opt-out", "opt out", "optout", "list-unsubscribe", "unsubscribe me", "remove me"];

/// A request to leave is short, in octets: what a program writes, or a person in a hurry.
const LEAVE_MAX: usize = 1_000;

/// Reads what has no machine-readable part.
pub(super) fn read(opened: &Opened<'_>) -> Option<Complaint> {
    let words = words(opened);
    let original = original(&opened.parts, 0);
    let complaint = notification(&words)
        .or_else(|| microsoft(opened, &original))
        .or_else(|| failed_authentication(opened, &words))
        .or_else(|| in_words(opened, &words))
        .or_else(|| leaves(opened, &words));
    let mut complaint = complaint?;
    let original = if original.header.is_empty() { embedded(&words) } else { original };
    let known = std::mem::take(&mut complaint.original_message_id);
    let to = std::mem::take(&mut complaint.original_to);
    add_original(&mut complaint, &original);
    if complaint.original_message_id.is_empty() {
        complaint.original_message_id = known;
    }
    if complaint.original_to.is_empty() {
        complaint.original_to = to;
    }
    find::all(&mut complaint, opened, &[], &original);
    Some(complaint)
}

/// The text parts.
fn words(opened: &Opened<'_>) -> String {
    let mut words = String::new();
    for part in opened.parts.iter().filter(|part| part.kind.starts_with("text/") || part.kind.ends_with("json")) {
        if !part.kind.contains("rfc822") && words.len() < WORDS_MAX {
            words.push_str(&part.text());
            words.push('\n');
        }
    }
    words.truncate(words.floor_char_boundary(WORDS_MAX));
    words
}

/// Microsoft's form before it spoke ARF: the message, with the recipient in a field of its own.
fn microsoft(opened: &Opened<'_>, original: &Original) -> Option<Complaint> {
    let named = !first(&original.header, "x-hmxmroriginalrecipient").is_empty();
    let subject = opened.field("subject").to_lowercase();
    let about = subject.find("complaint about message from");
    let told = about.is_some() && mailbox(opened.field("from")).eq_ignore_ascii_case("staff@hotmail.com");
    if !named && !told {
        return None;
    }
    let address = about.and_then(|at| subject[at..].split_whitespace().last()).unwrap_or_default();
    let source_ip = if address.parse::<std::net::IpAddr>().is_ok() { address } else { "" };
    Some(Complaint { feedback_type: "abuse".into(), source_ip: source_ip.into(), ..Complaint::default() })
}

/// A notification of Amazon SES by SNS: JSON, bare or as the text of another.
fn notification(words: &str) -> Option<Complaint> {
    if !words.contains("omplaint") {
        return None;
    }
    // Long lines were broken by a mail server: `!`, line end, space.
    let text = words[words.find('{')?..].replace("!\r\n ", "").replace("!\n ", "");
    let mut outer: Value = serde_json::Deserializer::from_str(&text).into_iter().next()?.ok()?;
    if let Some(message) = outer["Message"].as_str() {
        outer = serde_json::from_str(message).ok()?;
    }
    let kind = outer["notificationType"].as_str().or(outer["eventType"].as_str())?;
    if !kind.eq_ignore_ascii_case("complaint") {
        return None;
    }
    let (said, mail) = (&outer["complaint"], &outer["mail"]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let recipients = said["complainedRecipients"].as_array().map(Vec::as_slice).unwrap_or_default();
    let or = |value: String, other: &str| if value.is_empty() { other.to_owned() } else { value };
    let header = |name: &str| {
        let fields = mail["headers"].as_array().map(Vec::as_slice).unwrap_or_default();
        let field = fields.iter().find(|field| field["name"].as_str().is_some_and(|n| n.eq_ignore_ascii_case(name)));
        field.map(|field| text(&field["value"])).unwrap_or_default()
    };
    let id = or(header("message-id"), mail["commonHeaders"]["messageId"].as_str().unwrap_or_default());
    Some(Complaint {
        feedback_type: or(text(&said["complaintFeedbackType"]), "abuse").to_ascii_lowercase(),
        user_agent: text(&said["userAgent"]),
        arrival_date: text(&said["arrivalDate"]),
        original_rcpt: recipients.iter().take(MANY_MAX).map(|one| text(&one["emailAddress"])).collect(),
        original_mail_from: text(&mail["source"]),
        original_message_id: super::bare(&or(id, mail["messageId"].as_str().unwrap_or_default())),
        original_to: mailbox(&header("to")),
        ..Complaint::default()
    })
}

/// A failure of DMARC told in words, as Exim's users do.
fn failed_authentication(opened: &Opened<'_>, words: &str) -> Option<Complaint> {
    let (subject, words) = (opened.field("subject").to_lowercase(), words.to_lowercase());
    let told = words.contains("dmarc policy") && (words.contains("failed") || words.contains("did not"));
    let named =
        subject.contains("dmarc") && ["forensic report", "failure report"].iter().any(|one| subject.contains(one));
    (named || told && subject.contains("report")).then(|| Complaint {
        feedback_type: "auth-failure".into(),
        auth_failure: "dmarc".into(),
        ..Complaint::default()
    })
}

fn in_words(opened: &Opened<'_>, words: &str) -> Option<Complaint> {
    let (subject, words) = (opened.field("subject").to_lowercase(), words.to_lowercase());
    let told = SUBJECTS.iter().any(|one| subject.contains(one)) || COMPLAINTS.iter().any(|one| words.contains(one));
    let answer = subject.starts_with("re:") || !opened.field("in-reply-to").is_empty();
    (told && !answer).then(|| Complaint { feedback_type: "abuse".into(), ..Complaint::default() })
}

/// A request to leave by mail, as mail programs send it to a `mailto:` of List-Unsubscribe (RFC 2369 §3.2).
fn leaves(opened: &Opened<'_>, words: &str) -> Option<Complaint> {
    let subject = opened.field("subject").trim().to_lowercase();
    let program =
        words.contains("sent this email to unsubscribe") || words.contains("sent this message to unsubscribe");
    let short = LEAVE.contains(&subject.as_str()) && words.trim().len() <= LEAVE_MAX;
    let from_list = !opened.field("list-id").is_empty() || opened.field("precedence").eq_ignore_ascii_case("list");
    if from_list || !(program || short) {
        return None;
    }
    let sender = mailbox(opened.field("from"));
    let original_rcpt = if sender.contains('@') { vec![sender] } else { Vec::new() };
    Some(Complaint { feedback_type: "opt-out".into(), original_rcpt, ..Complaint::default() })
}

/// The header of the message among words: the first block of lines that looks like one.
fn embedded(words: &str) -> Original {
    let words = words.replace('\r', "");
    let mut at = 0;
    // A few blocks only: what is returned stands behind an explanation, not behind a book.
    for _ in 0..40 {
        let block = &words[at..];
        let end = block.find("\n\n").map_or(block.len(), |end| end + 2);
        if looks_like_header(&block.as_bytes()[..end]) {
            return parted(block.as_bytes());
        }
        at += end;
        if at >= words.len() {
            break;
        }
    }
    arf::parted(b"")
}
