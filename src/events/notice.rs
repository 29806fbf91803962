//! What happens to many at once: a pace found, an order given, a source warmed up.

use serde::Serialize;

use crate::clock::Timestamp;

/// What a [`Notice`] tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NoticeKind {
    /// The controller changed the pace of an egress path.
    Pace,
    /// An order was given, taken back, or ran out.
    Order,
    /// Too many complaints or unknown users: the reputation brake.
    Brake,
    /// A source took a step of its warm-up, or back.
    Warmup,
    /// A source was taken out, or is back.
    Source,
}

/// What it is about; empty: any.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct About<'a> {
    /// The family of sites.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub provider: &'a str,
    /// The site.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub site: &'a str,
    /// The recipients' domain.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub domain: &'a str,
    /// The source, by name.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub source: &'a str,
    /// The pool.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub pool: &'a str,
    /// Whose mail.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub tenant: &'a str,
    /// Mail of which class.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub class: &'a str,
    /// The campaign.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub campaign: &'a str,
}

/// One line of the event log that belongs to no message: it has no `message_id`. See [`crate::spool::Spool::note`].
#[derive(Debug, Serialize)]
pub struct Notice<'a> {
    /// When, RFC 3339 with milliseconds.
    #[serde(serialize_with = "super::event::display")]
    pub time: Timestamp,
    /// What of.
    pub event: NoticeKind,
    /// What happened, in a word: `paused`, `slower`.
    pub what: &'a str,
    /// What it is about.
    #[serde(flatten)]
    pub about: About<'a>,
    /// Why, in a sentence.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub cause: &'a str,
    /// Who did it: `operator`, `brake`, or a name.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub by: &'a str,
    /// Until when.
    #[serde(serialize_with = "super::event::display_some", skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Recipients a second from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_second: Option<f64>,
    /// Connections from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
}

impl<'a> Notice<'a> {
    /// A notice that says only what happened, and to what.
    pub fn new(time: Timestamp, event: NoticeKind, what: &'a str, about: About<'a>) -> Notice<'a> {
        Notice { time, event, what, about, cause: "", by: "", until: None, per_second: None, connections: None }
    }

    /// As one line, with its line feed.
    pub fn line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).expect("every field is plain text or a number");
        line.push(b'\n');
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_it_knows_and_no_more() {
        let about = About { tenant: "shop", ..About::default() };
        let mut notice = Notice::new(Timestamp(0), NoticeKind::Order, "paused", about);
        let line = |notice: &Notice<'_>| String::from_utf8(notice.line()).unwrap();
        let plain = r#"{"time":"1970-01-01T00:00:00.000Z","event":"order","what":"paused","tenant":"shop"}"#;
        assert_eq!(line(&notice), format!("{plain}\n"));
        (notice.cause, notice.until, notice.per_second) = ("a \"test\"", Some(Timestamp(1)), Some(2.5));
        let rest = r#","cause":"a \"test\"","until":"1970-01-01T00:00:00.001Z","per_second":2.5}"#;
        assert_eq!(line(&notice), format!("{}{rest}\n", plain.strip_suffix('}').unwrap()));
    }
}
