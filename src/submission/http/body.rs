//! The JSON of a submission.

use std::borrow::Cow;

use serde::Deserialize;
use utoipa::ToSchema;

use super::shapes::{Fields, List, Object, Octets, Who};
use super::{openapi, place};
use crate::mail::{Notify, Ret};
use crate::submission::rejection::{Rejection, Violation};
use crate::submission::request::{Attachment, Mailbox, Parts, Request, RequestContent, When};

/// Most elements read of lists, so that a body of many small ones does not take many times its size in memory. What is
/// allowed may be less: `recipients_max`, and the rules of [`request`](crate::submission::request).
const WORDS_MAX: usize = 1000;
const MAILBOXES_MAX: usize = 100_000;
const FILES_MAX: usize = 100;

/// A message to be sent: either `raw`, or built from `from`, `to`, `subject`, `text` and so on.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Submission, example = json!({
    "from": "Shop <orders@shop.example>",
    "to": ["Bob <bob@example.com>"],
    "subject": "Your order",
    "text": "Thank you!",
    "campaign": "orders",
    "idempotency_key": "order-4711",
}))]
pub(super) struct Submission {
    /// Who sends. A client bound to a tenant may leave it out.
    #[schema(min_length = 1, max_length = 128)]
    tenant: Option<String>,
    /// What the message belongs to.
    #[schema(min_length = 1, max_length = 128)]
    campaign: Option<String>,
    /// The list it goes to: bulk mail with one gets fields by which its recipient leaves that list (RFC 8058).
    #[schema(min_length = 1, max_length = 128)]
    list: Option<String>,
    /// Whether somebody waits for it. Default: `transactional`.
    #[schema(schema_with = openapi::class_or_null)]
    class: Option<String>,
    /// Free words for the events; without commas.
    #[schema(schema_with = openapi::tags)]
    #[serde(default)]
    tags: List<String, WORDS_MAX>,
    /// Not tried before: a time (RFC 3339) or a duration from now such as `2h`, at most a year ahead.
    #[schema(example = "2h", max_length = 64)]
    not_before: Option<String>,
    /// Given up then: a time (RFC 3339) or a duration from now such as `2h`, at most a year ahead.
    #[schema(example = "2026-11-23T12:00:00Z", max_length = 64)]
    expires_at: Option<String>,
    /// Your name for this submission. Sent again with the same key, it is not mailed again: you get the first receipt.
    #[schema(min_length = 1, max_length = 255, pattern = "^[!-~]+$")]
    idempotency_key: Option<String>,
    /// The sender in the envelope, where reports go; empty: the null path. Default: the address of `from`.
    #[schema(max_length = 512)]
    sender: Option<String>,
    /// The recipients in the envelope. Default: those of `to`, `cc` and `bcc`.
    #[schema(schema_with = openapi::recipients)]
    #[serde(default)]
    recipients: List<String, MAILBOXES_MAX>,
    /// Each recipient gets a message of its own, with only that recipient in To.
    #[serde(default)]
    personal: bool,
    /// Which reports you want (RFC 3461 §4.1); empty: none. Default: of failures.
    #[schema(value_type = Option<Vec<NotifyWord>>)]
    notify: Option<List<NotifyWord, WORDS_MAX>>,
    /// How much of the message a failure report returns (RFC 3461 §4.3).
    ret: Option<RetWord>,
    /// Your name for the envelope in reports (RFC 3461 §4.4).
    #[schema(min_length = 1, max_length = 100, pattern = "^[ -~]+$")]
    envid: Option<String>,
    /// A whole message (RFC 5322), in base64; lines end in CRLF or LF.
    #[schema(value_type = Option<String>, format = Byte)]
    raw: Option<Octets>,
    /// The author.
    from: Option<Who>,
    /// Where answers go.
    #[schema(max_items = 100, value_type = Vec<Who>)]
    #[serde(default)]
    reply_to: List<Who, MAILBOXES_MAX>,
    /// Shown as To.
    #[schema(value_type = Vec<Who>)]
    #[serde(default)]
    to: List<Who, MAILBOXES_MAX>,
    /// Shown as Cc.
    #[schema(value_type = Vec<Who>)]
    #[serde(default)]
    cc: List<Who, MAILBOXES_MAX>,
    /// Never shown.
    #[schema(value_type = Vec<Who>)]
    #[serde(default)]
    bcc: List<Who, MAILBOXES_MAX>,
    /// The subject.
    #[schema(max_length = 998)]
    subject: Option<String>,
    /// The text, as plain text.
    text: Option<String>,
    /// The text, as HTML.
    html: Option<String>,
    /// Further header fields by name. Not those that have a place of their own, and none of `Content-`, `Resent-`,
    /// `X-Posthaste-`, `ARC-`, `Received`, `Return-Path`, `MIME-Version`, `DKIM-Signature`, `Date`.
    #[schema(schema_with = openapi::headers)]
    #[serde(default)]
    headers: Fields,
    /// Files.
    #[schema(max_items = 100, value_type = Vec<File>)]
    #[serde(default)]
    attachments: List<Object<File>, FILES_MAX>,
}

/// A report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = Notify)]
enum NotifyWord {
    Success,
    Failure,
    Delay,
}

/// The whole message, or its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = Return)]
enum RetWord {
    Full,
    Headers,
}

/// A file that goes with a message.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Attachment, example = json!({"file_name": "a.txt", "content_type": "text/plain", "content": "aGVsbG8="}))]
struct File {
    /// What it is called at the receiver.
    #[schema(min_length = 1, max_length = 255)]
    file_name: Option<String>,
    /// `type/subtype`, with parameters or without. Default: `application/octet-stream`.
    #[schema(min_length = 3, max_length = 255, example = "image/png")]
    content_type: Option<String>,
    /// The octets, in base64.
    #[schema(value_type = String, format = Byte)]
    content: Octets,
    /// By what name the HTML refers to it, as `cid:…`, without angle brackets.
    #[schema(min_length = 1, max_length = 255, example = "logo@shop.example")]
    content_id: Option<String>,
    /// Shown within the text, not beside it.
    #[serde(default)]
    inline: bool,
}

impl Submission {
    /// Reads JSON.
    ///
    /// # Errors
    /// It is no JSON, or a field is unknown, twice there, or not of its type; the field is named by its path.
    pub(super) fn read(json: &[u8]) -> Result<Request, Rejection> {
        let Object(submission) =
            serde_json::from_slice::<Object<Submission>>(json).map_err(|error| json_rejection(json, &error))?;
        submission.request()
    }

    fn request(self) -> Result<Request, Rejection> {
        let content = match self.raw.is_some() {
            true => self.raw_alone()?,
            false => RequestContent::Parts(Box::new(Parts {
                from: self.from.map(|who| who.0),
                reply_to: mailboxes(self.reply_to),
                to: mailboxes(self.to),
                cc: mailboxes(self.cc),
                bcc: mailboxes(self.bcc),
                subject: self.subject,
                text: self.text,
                html: self.html,
                headers: self.headers.0,
                attachments: self.attachments.0.into_iter().map(|file| file.0.into()).collect(),
            })),
        };
        let notify = self.notify.map(|words| Notify {
            success: words.0.contains(&NotifyWord::Success),
            failure: words.0.contains(&NotifyWord::Failure),
            delay: words.0.contains(&NotifyWord::Delay),
        });
        let ret = self.ret.map(|word| match word {
            RetWord::Full => Ret::Full,
            RetWord::Headers => Ret::Hdrs,
        });
        Ok(Request {
            tenant: self.tenant,
            campaign: self.campaign,
            list: self.list,
            class: self.class,
            tags: self.tags.0,
            not_before: self.not_before.map(When::Text),
            expires_at: self.expires_at.map(When::Text),
            idempotency_key: self.idempotency_key,
            sender: self.sender,
            recipients: self.recipients.0,
            personal: self.personal,
            notify,
            ret,
            envid: self.envid,
            content,
        })
    }

    /// The raw content, if nothing is there to be built beside it.
    fn raw_alone(&self) -> Result<RequestContent, Rejection> {
        let beside = [
            ("from", self.from.is_some()),
            ("reply_to", !self.reply_to.0.is_empty()),
            ("to", !self.to.0.is_empty()),
            ("cc", !self.cc.0.is_empty()),
            ("bcc", !self.bcc.0.is_empty()),
            ("subject", self.subject.is_some()),
            ("text", self.text.is_some()),
            ("html", self.html.is_some()),
            ("headers", !self.headers.0.is_empty()),
            ("attachments", !self.attachments.0.is_empty()),
        ];
        let violations: Vec<Violation> = beside
            .into_iter()
            .filter(|(_, there)| *there)
            .map(|(field, _)| Violation {
                field: field.into(),
                why: "is of no use beside raw, which is sent as it is".into(),
            })
            .collect();
        match &self.raw {
            Some(raw) if violations.is_empty() => Ok(RequestContent::Raw(raw.0.clone())),
            _ => Err(Rejection::violations(violations)),
        }
    }
}

/// What serde_json says, with the field to blame.
pub(super) fn json_rejection(json: &[u8], error: &serde_json::Error) -> Rejection {
    let path = place::path(json, error.line(), error.column());
    let path = if path.is_empty() { Cow::Borrowed("body") } else { path.into() };
    // It may name a field as the client wrote it.
    Rejection::invalid(path, error.to_string().replace(char::is_control, "?"))
}

fn mailboxes(list: List<Who, MAILBOXES_MAX>) -> Vec<Mailbox> {
    list.0.into_iter().map(|who| who.0).collect()
}

impl From<File> for Attachment {
    fn from(file: File) -> Attachment {
        let File { file_name, content_type, content, content_id, inline } = file;
        Attachment { file_name, content_type, content: content.0, content_id, inline }
    }
}

#[cfg(test)]
mod tests {
    use super::super::shapes::FIELDS_MAX;
    use super::*;

    /// What does not fit, of a case.
    fn misfit(json: &[u8], field: &str, why: &str) -> Option<String> {
        let told = match Submission::read(json) {
            Ok(request) => format!("{request:?}"),
            Err(rejection) => match &rejection.violations[..] {
                [violation] if violation.field == field && violation.why.contains(why) => return None,
                _ => rejection.reply.text.into_owned(),
            },
        };
        Some(format!("{:.80}: {told:.200}, not {field}: {why}", String::from_utf8_lossy(json)))
    }

    #[test]
    fn reads_a_submission() {
        let json = r#"{
            "tenant": "t", "class": "bulk", "tags": ["a"], "not_before": "2h", "personal": true, "notify": ["failure"],
            "ret": "headers", "from": {"name": "Ann", "address": "a@b"}, "to": ["\"Lee, \\\"Bob\\\"\" <c@d>", "e@f"],
            "headers": {"X-B": "1", "X-A": "2"}, "subject": null,
            "attachments": [{"content": "aGVsbG8", "inline": true}]
        }"#;
        let request = Submission::read(json.as_bytes()).expect("good");
        assert_eq!(
            (request.tenant.as_deref(), request.class.as_deref(), request.personal),
            (Some("t"), Some("bulk"), true)
        );
        assert_eq!(request.notify, Some(Notify { failure: true, ..Notify::default() }));
        assert_eq!((request.ret, request.not_before), (Some(Ret::Hdrs), Some(When::Text("2h".into()))));
        let RequestContent::Parts(parts) = request.content else { panic!("parts") };
        let named = |name: &str, address: &str| Mailbox { name: Some(name.into()), address: address.into() };
        assert_eq!(parts.from, Some(named("Ann", "a@b")));
        assert_eq!(parts.to, [named("Lee, \"Bob\"", "c@d"), Mailbox { name: None, address: "e@f".into() }]);
        assert_eq!(parts.headers, [("X-B".into(), "1".into()), ("X-A".into(), "2".into())]);
        assert_eq!((&parts.attachments[0].content[..], parts.attachments[0].inline), (&b"hello"[..], true));
        let raw = Submission::read(br#"{"raw": "QTogYg=="}"#).expect("good").content;
        assert!(matches!(raw, RequestContent::Raw(octets) if octets == "A: b"));
    }

    #[test]
    fn names_the_field_that_is_wrong() {
        let deep = format!("{{\"from\": {}", "[".repeat(100_000));
        // What stands behind the one too many is not read.
        let many =
            |field: &str, element: &str, n: usize| format!("{{\"{field}\": [{}", format!("{element},").repeat(n));
        let files = many("attachments", r#"{"content":""}"#, FILES_MAX + 1);
        let (to, tags) = (many("to", r#""""#, MAILBOXES_MAX + 1), many("tags", r#""""#, WORDS_MAX + 1));
        let fields: Vec<String> = (0..=FIELDS_MAX).map(|n| format!("\"{n}\":\"\"")).collect();
        let fields = format!("{{\"headers\": {{{},x", fields.join(","));
        let cases: Vec<(&[u8], &str, &str)> = vec![
            (files.as_bytes(), "attachments[100]", "at most 100"),
            (to.as_bytes(), "to[100000]", "at most 100000"),
            (tags.as_bytes(), "tags[1000]", "at most 1000"),
            (fields.as_bytes(), "headers.100", "at most 100"),
            (b"", "body", "EOF"),
            (b"[]", "body", "expected an object"),
            (b"{} x", "body", "trailing"),
            (br#"{"from": "a@b",}"#, "body", "trailing comma"),
            (br#"{"subject": "a", "subjcet": "b"}"#, "subjcet", "unknown field `subjcet`, expected one of `tenant`"),
            (br#"{"subject": "a", "subject": "b"}"#, "subject", "duplicate field `subject`"),
            (br#"{"subject": 1}"#, "subject", "invalid type: integer `1`, expected a string"),
            (br#"{"personal": 1}"#, "personal", "expected a boolean"),
            (br#"{"personal": 1e999}"#, "personal", "number out of range"),
            (br#"{"personal": null}"#, "personal", "expected a boolean"),
            (br#"{"to": "a@b"}"#, "to", "expected a sequence"),
            (br#"{"to": ["a@b", 1]}"#, "to[1]", "expected an address"),
            (br#"{"to": [["a@b"]]}"#, "to[0]", "expected an address"),
            (br#"{"to": ["a@b", {"adress": "x"}]}"#, "to[1].adress", "unknown field `adress`"),
            (br#"{"to": [{"name": 1}]}"#, "to[0].name", "expected a string"),
            (br#"{"to": [{"name": "x"}]}"#, "to[0]", "missing field `address`"),
            (br#"{"headers": {"X-A": "1", "X-A": "2"}}"#, "headers", "duplicate field `X-A`"),
            (br#"{"headers": {"X-A": ["1"]}}"#, "headers.X-A", "expected a string"),
            (br#"{"attachments": [{"content": "*"}]}"#, "attachments[0].content", "no base64"),
            (br#"{"attachments": [{"content": "aGVsbG8=", "inline": "yes"}]}"#, "attachments[0].inline", "boolean"),
            (br#"{"attachments": [{}]}"#, "attachments[0]", "missing field `content`"),
            (br#"{"attachments": [["a", "b/c", "QQ==", "d", true]]}"#, "attachments[0]", "expected an object"),
            (br#"{"notify": ["never"]}"#, "notify[0]", "unknown variant `never`"),
            (br#"{"subject": "\ud800"}"#, "subject", "hex escape"),
            (b"{\"subject\": \"a\nb\"}", "subject", "control character"),
            (b"{\"subject\": \"\xff\"}", "subject", "unicode"),
            (deep.as_bytes(), "from", "expected an address"),
            (br#"{"raw": "QQ==", "subject": "s"}"#, "subject", "beside raw"),
        ];
        let misfits: Vec<String> =
            cases.into_iter().filter_map(|(json, field, why)| misfit(json, field, why)).collect();
        assert!(misfits.is_empty(), "{misfits:#?}");
    }
}
