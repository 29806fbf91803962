//! What a client asks of us in the message itself: the `X-Posthaste-` fields, which never leave the house.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use humantime_serde::re::humantime;

use crate::clock::Timestamp;
use crate::mail::{Class, IdempotencyKey, IdempotencyKeyError, Stream};

/// What all names begin with.
pub const PREFIX: &str = "X-Posthaste-";

/// Longest tenant, campaign or tag, in octets.
pub const WORD_MAX: usize = 128;

/// Most tags on one message.
const TAGS_MAX: usize = 32;

/// How far ahead a time may lie.
pub const AHEAD_MAX: Duration = Duration::from_secs(366 * 86_400);

/// What the protocol asks beside the message, each with the name it has there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asked {
    /// Not to be tried before.
    pub not_before: Option<(&'static str, Timestamp)>,
    /// To be given up then.
    pub expires_at: Option<(&'static str, Timestamp)>,
    /// The sender is told if it still waits then.
    pub delay_report_at: Option<Timestamp>,
    /// The class, unless a field says otherwise.
    pub class: Option<Class>,
    /// `not_before` had passed when it was asked, which its protocol does not allow.
    pub too_late: bool,
}

/// The fields of one message, read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    asked: Asked,
    tenant: Option<Arc<str>>,
    campaign: Option<Arc<str>>,
    class: Option<Class>,
    list: Option<Box<str>>,
    tags: Option<Vec<Box<str>>>,
    not_before: Option<Timestamp>,
    expires_at: Option<Timestamp>,
    key: Option<IdempotencyKey>,
}

/// A field we cannot obey. Nothing of the message is kept then: half-understood orders are worse than none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {value:?}: {why}")]
pub struct OptionError {
    /// The field's name as given.
    pub field: String,
    /// Its value, shortened.
    pub value: String,
    /// What is wrong with it.
    pub why: Cow<'static, str>,
}

impl Options {
    /// Before the first field, of a message for which the protocol asked this.
    pub fn new(asked: Asked) -> Options {
        Options { asked, ..Options::default() }
    }

    /// Takes one field. `name` begins with [`PREFIX`], in any case; `value` is unfolded and trimmed.
    ///
    /// # Errors
    /// The name is unknown or was there before, or the value is not what it must be. A misspelt name is refused, too:
    /// a password reset whose `-Expires` was ignored would come a day late.
    pub fn set(&mut self, name: &str, value: &str, now: Timestamp) -> Result<(), OptionError> {
        let Asked { not_before, expires_at, .. } = self.asked;
        let mut lower = [0; NAME_MAX];
        let known =
            match lower_case(name.get(PREFIX.len()..).unwrap_or_default(), &mut lower) {
                "tenant" => word(value).and_then(|word| once(&mut self.tenant, word.into())),
                "campaign" => word(value).and_then(|word| once(&mut self.campaign, word.into())),
                "list" => word(value).and_then(|word| once(&mut self.list, word.into())),
                "class" => class(value).and_then(|class| once(&mut self.class, class)),
                "tags" => tags(value).and_then(|tags| once(&mut self.tags, tags)),
                "not-before" => time(value, now)
                    .and_then(|time| not_too(not_before).and_then(|()| once(&mut self.not_before, time))),
                "expires" => time(value, now)
                    .and_then(|time| not_too(expires_at).and_then(|()| once(&mut self.expires_at, time))),
                "idempotency-key" => key(value).and_then(|key| once(&mut self.key, key)),
                _ => Err("no such field in this version".into()),
            };
        known.map_err(|why| OptionError { field: name.into(), value: value.chars().take(80).collect(), why })
    }

    /// Where the message belongs.
    pub fn stream(&self) -> Stream {
        Stream {
            tenant: self.tenant.clone().unwrap_or_default(),
            class: self.class.or(self.asked.class).unwrap_or_default(),
            campaign: self.campaign.clone().unwrap_or_default(),
        }
    }

    /// The list it goes to.
    pub fn list(&self) -> Option<&str> {
        self.list.as_deref()
    }

    /// The same, taken out.
    pub fn take_list(&mut self) -> Option<Box<str>> {
        self.list.take()
    }

    /// Its tags.
    pub fn take_tags(&mut self) -> Vec<Box<str>> {
        self.tags.take().unwrap_or_default()
    }

    /// The client's name for the submission.
    pub fn take_key(&mut self) -> Option<IdempotencyKey> {
        self.key.take()
    }

    /// From when and until when it is tried. A message held back lives `expire_after` from the time it is let go, so
    /// that one planned for next week is not given up before.
    ///
    /// # Errors
    /// It would expire before it may be tried, or a time has passed. Both may come of nothing but delay: what was good
    /// when a submission was first sent is in the past when it is repeated.
    pub fn times(&self, now: Timestamp, expire_after: Duration) -> Result<(Timestamp, Timestamp), OptionError> {
        let named = |name, time: Option<Timestamp>| time.map(|time| (name, time));
        let release = named("X-Posthaste-Not-Before", self.not_before).or(self.asked.not_before);
        let deadline = named("X-Posthaste-Expires", self.expires_at).or(self.asked.expires_at);
        let passed = |(field, time): (&str, Timestamp)| OptionError {
            field: field.into(),
            value: time.to_string(),
            why: "has passed".into(),
        };
        if let Some(release) = self.asked.not_before.filter(|_| self.asked.too_late) {
            return Err(passed(release));
        }
        if let Some(deadline) = deadline.filter(|(_, time)| *time <= now) {
            return Err(passed(deadline));
        }
        let not_before = release.map_or(now, |(_, time)| time.max(now));
        let expires_at = deadline.map_or_else(|| not_before.after(expire_after), |(_, time)| time);
        if expires_at <= not_before {
            let (field, other) = (deadline.map_or("", |(name, _)| name), release.map_or("now", |(name, _)| name));
            let why = format!("is not after {other}").into();
            return Err(OptionError { field: field.into(), value: expires_at.to_string(), why });
        }
        Ok((not_before, expires_at))
    }
}

/// Longest name that is known, or known not to be.
const NAME_MAX: usize = 16;

/// A short name in lower case, in `room`; a longer one, which is no name of ours, as it is.
fn lower_case<'a>(name: &'a str, room: &'a mut [u8; NAME_MAX]) -> &'a str {
    let Some(room) = room.get_mut(..name.len()) else { return name };
    room.copy_from_slice(name.as_bytes());
    room.make_ascii_lowercase();
    std::str::from_utf8(room).expect("only ASCII letters were changed")
}

/// What is wrong with a value.
type Why = Cow<'static, str>;

fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), Why> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err("the field is there twice".into()),
    }
}

/// To obey one of two orders would be to choose which of them was meant.
fn not_too(asked: Option<(&'static str, Timestamp)>) -> Result<(), Why> {
    match asked {
        None => Ok(()),
        Some((name, _)) => Err(format!("MAIL has {name}, too; say it once").into()),
    }
}

fn key(value: &str) -> Result<IdempotencyKey, Why> {
    value.parse().map_err(|why: IdempotencyKeyError| why.to_string().into())
}

fn word(value: &str) -> Result<&str, Why> {
    if value.is_empty() || value.len() > WORD_MAX || value.chars().any(char::is_control) {
        return Err("must be 1 to 128 printable octets".into());
    }
    Ok(value)
}

fn class(value: &str) -> Result<Class, Why> {
    match Class::parse(value) {
        Some(Class::System) => Err("is kept for our own reports; say transactional or bulk".into()),
        Some(class) => Ok(class),
        None => Err("must be transactional or bulk".into()),
    }
}

fn tags(value: &str) -> Result<Vec<Box<str>>, Why> {
    let tags: Vec<Box<str>> = value
        .split(',')
        .map(str::trim)
        .filter(|tag| !tag.is_empty())
        .map(|tag| word(tag).map(Box::from))
        .collect::<Result<_, _>>()
        .map_err(|_| "each tag must be 1 to 128 printable octets")?;
    if tags.len() > TAGS_MAX {
        return Err("at most 32 tags".into());
    }
    Ok(tags)
}

/// A point in time (RFC 3339, with any offset), or a duration from now: `2h`, `1h 30m`.
fn time(value: &str, now: Timestamp) -> Result<Timestamp, Why> {
    let relative = || humantime::parse_duration(value.strip_prefix('+').unwrap_or(value)).ok();
    let time = rfc3339(value)
        .or_else(|| relative().map(|wait| now.after(wait)))
        .ok_or("must be a time such as 2026-11-22T12:00:00Z or a duration such as 2h")?;
    if time.since(now) > AHEAD_MAX { Err("is more than a year ahead".into()) } else { Ok(time) }
}

/// RFC 3339 §5.6 with `Z` or a numeric offset.
pub fn rfc3339(value: &str) -> Option<Timestamp> {
    if let Some(time) = Timestamp::parse_rfc3339(value) {
        return Some(time);
    }
    let (local, offset) = value.split_at_checked(value.len().checked_sub(6)?)?;
    let local = Timestamp::parse_rfc3339(&format!("{local}Z"))?;
    let &[sign, h1, h2, b':', m1, m2] = offset.as_bytes() else { return None };
    let digit = |b: u8| b.is_ascii_digit().then(|| u64::from(b - b'0'));
    let (hours, minutes) = (digit(h1)? * 10 + digit(h2)?, digit(m1)? * 10 + digit(m2)?);
    if hours > 23 || minutes > 59 {
        return None;
    }
    let shift = (hours * 60 + minutes) * 60_000;
    match sign {
        b'+' => local.0.checked_sub(shift),
        b'-' => local.0.checked_add(shift),
        _ => None,
    }
    .map(Timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_795_348_800_000); // 2026-11-22T12:00:00Z

    #[track_caller]
    fn check(fields: &[(&str, &str)], expected: Result<Options, &str>) {
        let mut options = Options::default();
        let result =
            fields.iter().try_for_each(|(name, value)| options.set(&format!("X-Posthaste-{name}"), value, NOW));
        assert_eq!(result.map(|()| options).map_err(|e| e.to_string()), expected.map_err(str::to_owned));
    }

    #[test]
    fn reads_streams_and_tags() {
        check(
            &[("Tenant", "shop 1"), ("CAMPAIGN", "spring"), ("class", "Bulk"), ("Tags", "a, b c,,d,")],
            Ok(Options {
                tenant: Some("shop 1".into()),
                campaign: Some("spring".into()),
                class: Some(Class::Bulk),
                tags: Some(vec!["a".into(), "b c".into(), "d".into()]),
                ..Options::default()
            }),
        );
    }

    #[test]
    fn reads_times() {
        for (text, after) in [
            ("2h", 7200),
            ("+90s", 90),
            ("1h 30m", 5400),
            ("2026-11-22T12:00:10Z", 10),
            ("2026-11-22T14:00:10+02:00", 10),
            ("2026-11-22T06:30:10-05:30", 10),
            ("2026-11-22T11:00:00Z", -3600),
        ] {
            let expected = Timestamp(NOW.0.checked_add_signed(after * 1000).expect("in range"));
            assert_eq!(time(text, NOW), Ok(expected), "{text}");
        }
        for bad in ["", "soon", "12:00", "2026-11-22", "2026-11-22T12:00:00", "2026-11-22T12:00:00+99:00", "-2h", "ü"]
        {
            assert!(time(bad, NOW).is_err(), "{bad}");
        }
    }

    #[test]
    fn refuses_what_it_cannot_obey() {
        check(
            &[("Class", "system")],
            Err("X-Posthaste-Class: \"system\": is kept for our own reports; say transactional or bulk"),
        );
        check(&[("Class", "urgent")], Err("X-Posthaste-Class: \"urgent\": must be transactional or bulk"));
        check(&[("Tenant", "")], Err("X-Posthaste-Tenant: \"\": must be 1 to 128 printable octets"));
        check(&[("Tenant", "a\tb")], Err("X-Posthaste-Tenant: \"a\\tb\": must be 1 to 128 printable octets"));
        check(&[("Tenant", "a"), ("tenant", "b")], Err("X-Posthaste-tenant: \"b\": the field is there twice"));
        check(&[("Expires", "2000d")], Err("X-Posthaste-Expires: \"2000d\": is more than a year ahead"));
        check(
            &[("Idempotency-Key", "k 1")],
            Err("X-Posthaste-Idempotency-Key: \"k 1\": must be 1 to 255 printable ASCII characters without spaces"),
        );
        check(&[("Campain", "k")], Err("X-Posthaste-Campain: \"k\": no such field in this version"));
        assert!(tags(&"x,".repeat(33)).is_err());
        assert!(word(&"x".repeat(129)).is_err());
    }

    #[test]
    fn a_message_held_back_lives_from_its_release() {
        let hour = Duration::from_secs(3600);
        let mut options = Options::default();
        assert_eq!(options.times(NOW, hour), Ok((NOW, NOW.after(hour))));
        options.set("X-Posthaste-Not-Before", "2h", NOW).expect("good");
        assert_eq!(options.times(NOW, hour), Ok((NOW.after(2 * hour), NOW.after(3 * hour))));
        options.set("X-Posthaste-Expires", "1h", NOW).expect("good");
        assert!(options.times(NOW, hour).is_err());
    }

    #[test]
    fn tells_what_has_passed() {
        let hour = Duration::from_secs(3600);
        let mut options = Options::default();
        options.set("X-Posthaste-Expires", "0s", NOW).expect("a time");
        let error = options.times(NOW, hour).expect_err("it is over").to_string();
        assert_eq!(error, "X-Posthaste-Expires: \"2026-11-22T12:00:00.000Z\": has passed");
        let asked = Asked { not_before: Some(("HOLDUNTIL", NOW)), too_late: true, ..Asked::default() };
        let error = Options::new(asked).times(NOW, hour).expect_err("it is over").to_string();
        assert_eq!(error, "HOLDUNTIL: \"2026-11-22T12:00:00.000Z\": has passed");
    }

    #[test]
    fn what_the_protocol_asks_is_asked_once() {
        let hour = Duration::from_secs(3600);
        let asked = Asked {
            not_before: Some(("HOLDFOR", NOW.after(hour))),
            expires_at: Some(("BY", NOW.after(2 * hour))),
            class: Some(Class::Bulk),
            ..Asked::default()
        };
        let mut options = Options::new(asked);
        assert_eq!(options.times(NOW, hour), Ok((NOW.after(hour), NOW.after(2 * hour))));
        assert_eq!(options.stream().class, Class::Bulk);
        options.set("X-Posthaste-Class", "transactional", NOW).expect("a field says otherwise");
        assert_eq!(options.stream().class, Class::Transactional);
        for (name, other) in [("Not-Before", "HOLDFOR"), ("Expires", "BY")] {
            let error = options.clone().set(&format!("X-Posthaste-{name}"), "1h", NOW).expect_err("twice").to_string();
            assert_eq!(error, format!("X-Posthaste-{name}: \"1h\": MAIL has {other}, too; say it once"));
        }
        let mut options = Options::new(Asked { expires_at: None, ..asked });
        options.set("X-Posthaste-Expires", "30m", NOW).expect("good");
        let error = options.times(NOW, hour).expect_err("it expires before").to_string();
        assert_eq!(error, "X-Posthaste-Expires: \"2026-11-22T12:30:00.000Z\": is not after HOLDFOR");
    }
}
