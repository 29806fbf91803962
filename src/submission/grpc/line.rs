//! A line of the event log, as [`Event`](crate::events::Event) and [`Feedback`](crate::events::Feedback) write it. It is
//! read right into [`v1::Event`](super::v1::Event): `build.rs` says which field has another name or form there.

use std::borrow::Cow;
use std::io;

use serde::{Deserialize, Deserializer};

use super::translate;
use super::v1::{self, event};
use crate::events::WatchError;
use crate::mail::Class;

/// What filters ask.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Line<'a> {
    #[serde(borrow)]
    pub(super) event: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) message_id: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) tenant: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) campaign: Cow<'a, str>,
}

/// Reads a line.
///
/// # Errors
/// It is none.
pub(super) fn read<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<T, WatchError> {
    serde_json::from_slice(line).map_err(|error| WatchError::Read(io::Error::new(io::ErrorKind::InvalidData, error)))
}

/// What happened, by its name in the log.
pub(super) fn kind(name: &str) -> event::Kind {
    event::Kind::from_str_name(&format!("KIND_{}", name.to_ascii_uppercase())).unwrap_or_default()
}

/// The number of a kind.
pub(super) fn kind_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i32, D::Error> {
    Ok(kind(&Cow::<str>::deserialize(deserializer)?).into())
}

/// The number of a class.
pub(super) fn class_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i32, D::Error> {
    let class = Class::parse(&Cow::<str>::deserialize(deserializer)?);
    Ok(class.map_or(v1::Class::Unspecified, translate::class).into())
}

/// A time, from RFC 3339.
pub(super) fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<prost_types::Timestamp>, D::Error> {
    Ok(translate::timestamp_of(&Cow::<str>::deserialize(deserializer)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::events::{Event, Feedback, FeedbackKind, Kind};
    use crate::mail::{EnhancedCode, Envelope, MessageId, Stream};

    fn event(line: &[u8]) -> v1::Event {
        read(line.strip_suffix(b"\n").unwrap()).unwrap()
    }

    #[test]
    fn reads_what_the_log_writes() {
        let stream = Stream { tenant: "shop".into(), class: Class::Bulk, campaign: "spring".into() };
        let mut envelope = Envelope::unreadable(stream, Timestamp(1_500));
        (envelope.tags, envelope.list) = (vec!["a\"b".into()], Some("news".into()));
        let mut told = Event::new(Timestamp(2_000), Kind::Deferred, MessageId(7), &envelope, "b@x.test");
        (told.sender, told.site, told.provider, told.source) = ("a@us.test", "mx.x.test", "google", "mta1");
        (told.attempt, told.next_attempt, told.size) = (3, Some(Timestamp(9_000)), 77);
        (told.code, told.enhanced, told.reply, told.command) = (451, EnhancedCode(4, 7, 1), "later\n", Some("RCPT"));
        (told.timings_ms.queue, told.timings_ms.reply) = (12, 34);
        let mut line = Vec::new();
        told.write_line(&mut line);
        let text = |text: &str| text.to_owned();
        let at = |ms| Some(translate::timestamp(Timestamp(ms)));
        let expected = v1::Event {
            time: at(2_000),
            kind: event::Kind::Deferred.into(),
            message_id: MessageId(7).to_string(),
            recipient: text("b@x.test"),
            sender: text("a@us.test"),
            tenant: text("shop"),
            class: v1::Class::Bulk.into(),
            campaign: text("spring"),
            list: text("news"),
            tags: vec![text("a\"b")],
            accepted_at: at(1_500),
            attempt: 3,
            next_attempt: at(9_000),
            site: text("mx.x.test"),
            provider: text("google"),
            source: text("mta1"),
            code: 451,
            enhanced_code: text("4.7.1"),
            reply: text("later\n"),
            command: text("RCPT"),
            size: 77,
            timings: Some(v1::Timings { queue_ms: 12, reply_ms: 34, ..v1::Timings::default() }),
            ..v1::Event::default()
        };
        assert_eq!(event(&line), expected);
    }

    #[test]
    fn reads_what_came_back() {
        let mut told = Feedback::new(Timestamp(2_000), FeedbackKind::Complained, "abuse");
        (told.id, told.message_id) = (Some(MessageId(8)), Some(MessageId(7)));
        (told.by, told.until) = ("x.test", Some(Timestamp(9_000)));
        let mut line = Vec::new();
        told.write_line(&mut line);
        let read = event(&line);
        assert_eq!((read.kind(), &*read.what, &*read.by), (event::Kind::Complained, "abuse", "x.test"));
        assert_eq!((read.id, read.message_id), (MessageId(8).to_string(), MessageId(7).to_string()));
        assert_eq!(read.until, Some(translate::timestamp(Timestamp(9_000))));
    }

    #[test]
    fn every_kind_has_its_number() {
        for name in [
            "delivered",
            "deferred",
            "bounced",
            "expired",
            "suppressed",
            "cancelled",
            "returned",
            "complained",
            "unsubscribed",
            "replied",
            "suppression",
        ] {
            assert_ne!(kind(name), event::Kind::Unspecified, "{name}");
        }
        assert_eq!(kind("pace"), event::Kind::Unspecified);
    }
}
