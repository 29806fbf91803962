//! What a client says beside a whole message: query parameters, and the Idempotency-Key field.

use axum::http::HeaderMap;
use serde::Deserialize;
use utoipa::IntoParams;

use super::openapi;
use crate::mail::{Notify, Ret};
use crate::submission::rejection::{Rejection, Violation};
use crate::submission::request::{Request, When};

/// The header field with the client's name for the submission (draft-ietf-httpapi-idempotency-key-header).
pub(super) const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The orders of a submission whose body is the message itself. With JSON they stand in the body, and none of these may
/// be given.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "stands for the document; the parameters are read one by one, to name all that are wrong")]
pub(super) struct Orders {
    /// A recipient in the envelope; may be given several times. At least one must be there beside `message/rfc822`.
    #[param(style = Form, explode, max_items = 1000)]
    recipient: Option<Vec<String>>,
    /// The sender in the envelope, where reports go; empty: the null path. Default: the address in the field From.
    #[param(max_length = 512)]
    sender: Option<String>,
    /// Who sends. A client bound to a tenant may leave it out.
    #[param(min_length = 1, max_length = 128)]
    tenant: Option<String>,
    /// What the message belongs to.
    #[param(min_length = 1, max_length = 128)]
    campaign: Option<String>,
    /// The list it goes to.
    #[param(min_length = 1, max_length = 128)]
    list: Option<String>,
    /// Whether somebody waits for it. Default: `transactional`.
    #[param(schema_with = openapi::class)]
    class: Option<String>,
    /// A free word for the events, without commas; may be given several times.
    #[param(style = Form, explode, max_items = 32)]
    tag: Option<Vec<String>>,
    /// Not tried before: a time (RFC 3339) or a duration from now such as `2h`.
    #[param(max_length = 64)]
    not_before: Option<String>,
    /// Given up then: a time (RFC 3339) or a duration from now such as `2h`.
    #[param(max_length = 64)]
    expires_at: Option<String>,
    /// Each recipient gets a message of its own.
    personal: Option<bool>,
    /// A report you want: `success`, `failure`, `delay`, or alone `never`; may be given several times.
    #[param(style = Form, explode, max_items = 3)]
    notify: Option<Vec<String>>,
    /// How much of the message a failure report returns: `full` or `headers`.
    #[param(schema_with = openapi::ret)]
    ret: Option<String>,
    /// Your name for the envelope in reports.
    #[param(min_length = 1, max_length = 100)]
    envid: Option<String>,
}

/// Reads the parameters of a query, all of them.
///
/// # Errors
/// Each that is unknown, twice there, or not what it must be.
pub(super) fn orders(pairs: Vec<(String, String)>) -> Result<Request, Rejection> {
    let mut request = Request::default();
    let mut violations = Vec::new();
    let mut never = false;
    let mut personal = None;
    for (name, value) in pairs {
        let set = match name.as_str() {
            "recipient" => {
                request.recipients.push(value);
                Ok(())
            }
            "tag" => {
                request.tags.push(value);
                Ok(())
            }
            "sender" => once(&mut request.sender, value),
            "tenant" => once(&mut request.tenant, value),
            "campaign" => once(&mut request.campaign, value),
            "list" => once(&mut request.list, value),
            "class" => once(&mut request.class, value),
            "not_before" => once(&mut request.not_before, When::Text(value)),
            "expires_at" => once(&mut request.expires_at, When::Text(value)),
            "envid" => once(&mut request.envid, value),
            "personal" => match value.as_str() {
                "true" => once(&mut personal, true),
                "false" => once(&mut personal, false),
                _ => Err("must be true or false"),
            },
            "ret" => match value.as_str() {
                "full" => once(&mut request.ret, Ret::Full),
                "headers" => once(&mut request.ret, Ret::Hdrs),
                _ => Err("must be full or headers"),
            },
            "notify" => {
                let notify = request.notify.get_or_insert_default();
                let word = match value.as_str() {
                    "success" => Some(&mut notify.success),
                    "failure" => Some(&mut notify.failure),
                    "delay" => Some(&mut notify.delay),
                    "never" => Some(&mut never),
                    _ => None,
                };
                word.map(|word| *word = true).ok_or("must be success, failure, delay, or never")
            }
            _ => Err("no such parameter in this version"),
        };
        if let Err(why) = set {
            violations.push(Violation { field: clean(&name).into(), why: why.into() });
        }
    }
    if never && request.notify != Some(Notify::default()) {
        violations.push(Violation { field: "notify".into(), why: "never must stand alone".into() });
    }
    request.personal = personal.unwrap_or_default();
    if violations.is_empty() { Ok(request) } else { Err(Rejection::violations(violations)) }
}

fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), &'static str> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err("is there twice"),
    }
}

/// A foreign name as an answer may show it; one of no characters has quotes.
pub(super) fn clean(name: &str) -> String {
    let name = if name.is_empty() { "\"\"" } else { name };
    name.chars().take(80).map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// The key in the header of a request. The draft has it in quotes (RFC 8941 §3.3.3); most clients send it without.
///
/// # Errors
/// The field is there twice, or holds what no key can.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Rejection> {
    let wrong = |why: &'static str| Rejection::invalid("Idempotency-Key", why);
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(wrong("is there twice"));
    }
    let text = value.to_str().map_err(|_| wrong("must be printable ASCII"))?.trim();
    let Some(quoted) = text.strip_prefix('"') else { return Ok(Some(text.into())) };
    let quoted = quoted.strip_suffix('"').ok_or_else(|| wrong("the closing quote is missing"))?;
    let mut key = String::with_capacity(quoted.len());
    let mut characters = quoted.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => key.push(characters.next().ok_or_else(|| wrong("ends in the midst of an escape"))?),
            '"' => return Err(wrong("holds a quote without a backslash")),
            _ => key.push(character),
        }
    }
    Ok(Some(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Request, String> {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        orders(pairs).map_err(|rejection| rejection.reply.text.into_owned())
    }

    #[test]
    fn reads_orders() {
        let request = read(&[
            ("recipient", "a@b"),
            ("recipient", "c@d"),
            ("sender", ""),
            ("tag", "x"),
            ("personal", "true"),
            ("notify", "success"),
            ("notify", "delay"),
            ("ret", "headers"),
            ("expires_at", "2h"),
        ])
        .expect("good");
        assert_eq!(request.recipients, ["a@b", "c@d"]);
        assert_eq!((request.sender.as_deref(), request.tags.len(), request.personal), (Some(""), 1, true));
        assert_eq!(request.notify, Some(Notify { success: true, failure: false, delay: true }));
        assert_eq!((request.ret, request.expires_at), (Some(Ret::Hdrs), Some(When::Text("2h".into()))));
        assert_eq!(read(&[("notify", "never")]).map(|request| request.notify), Ok(Some(Notify::default())));
        assert!(read(&[]).is_ok_and(|request| request.notify.is_none()));
    }

    #[test]
    fn names_all_that_is_wrong() {
        let wrong = [
            ("to", "a@b"),
            ("sender", "a@b"),
            ("sender", "c@d"),
            ("personal", "yes"),
            ("ret", "all"),
            ("notify", "never"),
            ("notify", "success"),
        ];
        let expected = "to: no such parameter in this version; sender: is there twice; personal: must be true or false; \
                        ret: must be full or headers; notify: never must stand alone";
        assert_eq!(read(&wrong).map(|_| ()), Err(expected.into()));
    }

    #[test]
    fn reads_keys() {
        let key = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            values.iter().for_each(|value| _ = headers.append(IDEMPOTENCY_KEY, value.parse().expect("a value")));
            idempotency_key(&headers).map_err(|rejection| rejection.reply.text.into_owned())
        };
        assert_eq!(key(&[]), Ok(None));
        assert_eq!(key(&["abc-1"]), Ok(Some("abc-1".into())));
        assert_eq!(key(&[r#""a\"b\\c""#]), Ok(Some(r#"a"b\c"#.into())));
        for wrong in [&["a", "a"][..], &["\"a"], &["\"a\"b\""], &["\"a\\"], &["\u{e4}"]] {
            assert!(key(wrong).is_err(), "{wrong:?}");
        }
    }
}
