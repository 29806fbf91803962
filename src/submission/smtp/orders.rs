//! The parameters of MAIL that order when a message is sent and how urgent it is: FUTURERELEASE (RFC 4865), DELIVERBY
//! (RFC 2852) and MT-PRIORITY (RFC 6710). They ask for what the `X-Posthaste-` fields ask for, in the words of standards.
//!
//! `BY` with mode `R` is an expiry; with mode `N` it is the time at which the sender is told that the message still waits,
//! while we go on trying. Where we are not what the RFCs had in mind: a deadline ends with our handing the message over,
//! since nearly no receiver speaks DELIVERBY and to return all mail for its sake (RFC 2852 §4.1.4) would help nobody. For the
//! same reason mode N and the trace flag bring no report of each handing over, which they would do with sendmail: of that,
//! NOTIFY=SUCCESS tells. As there, who said NOTIFY without DELAY hears of no delay. What sendmail reports of an expired
//! mode R is 5.4.7; ours is 4.4.7 as for all mail that waited for too long, since nothing was found wrong with it.
//! A priority chooses one of our two classes.

use std::fmt::Write;
use std::time::Duration;

use super::super::options::{AHEAD_MAX, Asked, rfc3339};
use super::parameters;
use super::refusal::Refusal;
use crate::clock::Timestamp;
use crate::mail::Class;

/// What EHLO announces as the longest hold; less than is allowed, so that a client may count from when it read it.
const HOLD_ANNOUNCED: Duration = Duration::from_secs(365 * 86_400);

/// The parameters as given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Orders {
    hold: Option<Hold>,
    by: Option<By>,
    priority: Option<i8>,
}

/// The parameter BY (RFC 2852 §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// Mode R: not delivered after this time.
    Return(Duration),
    /// Mode N: the sender is to hear when it waits after so many seconds; it may be so already.
    Notify(i64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    For(Duration),
    Until(Timestamp),
}

impl Hold {
    fn name(self) -> &'static str {
        match self {
            Hold::For(_) => "HOLDFOR",
            Hold::Until(_) => "HOLDUNTIL",
        }
    }
}

/// The keywords of EHLO.
pub(super) fn announce(out: &mut String, now: Timestamp) {
    // By the day: two sessions a second apart hear the same.
    let latest = now.after(HOLD_ANNOUNCED).to_string();
    let (seconds, day) = (HOLD_ANNOUNCED.as_secs(), &latest[..10]);
    write!(out, "FUTURERELEASE {seconds} {day}T00:00:00Z\nDELIVERBY\nMT-PRIORITY\n").expect("a String takes all");
}

impl Orders {
    /// Takes a parameter if it is one of these; whether it is.
    ///
    /// # Errors
    /// `501 5.5.4`: the value is none, or contradicts what was said before.
    pub(super) fn take(&mut self, name: &[u8], value: Option<&[u8]>) -> Result<bool, Refusal> {
        let is = |keyword: &[u8]| name.eq_ignore_ascii_case(keyword);
        if is(b"HOLDFOR") {
            let seconds = value.and_then(seconds).filter(|seconds| *seconds > 0);
            let bad = || Refusal::argument("HOLDFOR must be 1 to 999999999 seconds");
            self.hold(Hold::For(Duration::from_secs(seconds.ok_or_else(bad)?)))?;
        } else if is(b"HOLDUNTIL") {
            let time = value.and_then(|text| std::str::from_utf8(text).ok()).and_then(rfc3339);
            let bad = || Refusal::argument("HOLDUNTIL must be a time such as 2026-11-22T12:00:00Z");
            self.hold(Hold::Until(time.ok_or_else(bad)?))?;
        } else if is(b"BY") {
            if self.by.replace(by(value)?).is_some() {
                return Err(Refusal::argument("BY is there twice"));
            }
        } else if is(b"MT-PRIORITY") {
            let bad = || Refusal::argument("MT-PRIORITY must be -9 to 9");
            if self.priority.replace(value.and_then(priority).ok_or_else(bad)?).is_some() {
                return Err(Refusal::argument("MT-PRIORITY is there twice"));
            }
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    fn hold(&mut self, hold: Hold) -> Result<(), Refusal> {
        match self.hold.replace(hold) {
            None => Ok(()),
            Some(before) if before.name() == hold.name() => {
                Err(Refusal::argument(format!("{} is there twice", hold.name())))
            }
            Some(_) => Err(Refusal::argument("HOLDFOR and HOLDUNTIL are both there; say one of them")),
        }
    }

    /// What they ask for, counted from `now`. A release that has passed is refused when the message is complete: this may
    /// be a submission taken long ago and sent again, which only its key can tell.
    ///
    /// # Errors
    /// `501 5.5.4`: a time is too far ahead, or the deadline comes before the release.
    pub(super) fn asked(&self, now: Timestamp) -> Result<Asked, Refusal> {
        let too_far = |name: &str| Refusal::argument(format!("{name} is more than a year ahead"));
        let not_before = self.hold.map(|hold| match hold {
            Hold::For(wait) => (hold.name(), now.after(wait)),
            Hold::Until(time) => (hold.name(), time),
        });
        if let Some((name, time)) = not_before
            && time.since(now) > AHEAD_MAX
        {
            return Err(too_far(name));
        }
        let (expires_at, delay_report_at) = match self.by {
            None => (None, None),
            Some(By::Return(wait)) => (Some(("BY", now.after(wait))), None),
            Some(By::Notify(seconds)) => (None, Some(Timestamp(now.0.saturating_add_signed(seconds * 1000)))),
        };
        let times = expires_at.map(|(_, time)| time).into_iter().chain(delay_report_at);
        if times.into_iter().any(|time| time.since(now) > AHEAD_MAX) {
            return Err(too_far("BY"));
        }
        if let (Some((hold, release)), Some((by, deadline))) = (not_before, expires_at)
            && deadline <= release
        {
            return Err(Refusal::argument(format!("{by} is over before {hold} lets the message go")));
        }
        let class = |priority| if priority < 0 { Class::Bulk } else { Class::Transactional };
        let too_late = not_before.is_some_and(|(_, time)| time < now);
        Ok(Asked { not_before, expires_at, delay_report_at, class: self.priority.map(class), too_late })
    }

    /// Writes them as they were given, one spelling for each.
    pub(super) fn say(&self, out: &mut String) {
        let mut write = |args: std::fmt::Arguments<'_>| out.write_fmt(args).expect("a String takes all");
        match self.hold {
            None => {}
            Some(Hold::For(wait)) => write(format_args!(" HOLDFOR={}", wait.as_secs())),
            Some(Hold::Until(time)) => write(format_args!(" HOLDUNTIL={time}")),
        }
        match self.by {
            None => {}
            Some(By::Return(wait)) => write(format_args!(" BY={}", wait.as_secs())),
            Some(By::Notify(seconds)) => write(format_args!(" BY={seconds};N")),
        }
        if let Some(priority) = self.priority {
            write(format_args!(" MT-PRIORITY={priority}"));
        }
    }
}

/// At most nine digits.
fn seconds(digits: &[u8]) -> Option<u64> {
    parameters::number(digits).filter(|_| digits.len() <= 9)
}

/// `by-time;by-mode[by-trace]` (RFC 2852 §4).
fn by(value: Option<&[u8]>) -> Result<By, Refusal> {
    let bad = || Refusal::argument("BY must be seconds, a semicolon, and R or N, such as 3600;R");
    let value = value.ok_or_else(bad)?;
    let semicolon = memchr::memchr(b';', value).ok_or_else(bad)?;
    let (time, mode) = (&value[..semicolon], value[semicolon + 1..].to_ascii_uppercase());
    let (negative, digits) = match time {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    let seconds = seconds(digits).ok_or_else(bad)?;
    match mode.as_slice() {
        b"R" | b"RT" if negative || seconds == 0 => Err(Refusal::argument("BY with mode R must be above 0")),
        b"R" | b"RT" => Ok(By::Return(Duration::from_secs(seconds))),
        // Nine digits fit.
        b"N" | b"NT" => Ok(By::Notify(if negative { -(seconds as i64) } else { seconds as i64 })),
        _ => Err(bad()),
    }
}

/// RFC 6710 §3: one digit, signed.
fn priority(value: &[u8]) -> Option<i8> {
    match *value {
        [digit @ b'0'..=b'9'] | [b'+', digit @ b'1'..=b'9'] => Some((digit - b'0') as i8),
        [b'-', digit @ b'1'..=b'9'] => Some(-((digit - b'0') as i8)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_795_348_800_000); // 2026-11-22T12:00:00Z

    fn read(words: &[(&str, &str)]) -> Result<Asked, String> {
        let mut orders = Orders::default();
        for (name, value) in words {
            let value = Some(value.as_bytes()).filter(|value| !value.is_empty());
            let known = orders.take(name.as_bytes(), value).map_err(|refusal| refusal.reply.to_string())?;
            assert!(known, "{name}");
        }
        orders.asked(NOW).map_err(|refusal| refusal.reply.to_string())
    }

    #[test]
    fn reads_orders() {
        let hour = Duration::from_secs(3600);
        let all = read(&[("holdfor", "3600"), ("BY", "+7200;rt"), ("MT-PRIORITY", "-3")]);
        let expected = Asked {
            not_before: Some(("HOLDFOR", NOW.after(hour))),
            expires_at: Some(("BY", NOW.after(2 * hour))),
            class: Some(Class::Bulk),
            ..Asked::default()
        };
        assert_eq!(all, Ok(expected));
        for (by, report_at) in [("7200;N", NOW.after(2 * hour)), ("0;nt", NOW), ("-5;N", Timestamp(NOW.0 - 5000))] {
            let expected = Asked { delay_report_at: Some(report_at), ..Asked::default() };
            assert_eq!(read(&[("BY", by)]), Ok(expected), "{by}");
        }
        let until = read(&[("HOLDUNTIL", "2026-11-22T15:00:00+02:00"), ("MT-PRIORITY", "0")]);
        let expected = Asked {
            not_before: Some(("HOLDUNTIL", NOW.after(hour))),
            class: Some(Class::Transactional),
            ..Asked::default()
        };
        assert_eq!(until, Ok(expected));
        let passed = read(&[("HOLDUNTIL", "2026-11-22T11:59:59Z")]).expect("judged when the message is complete");
        assert!(passed.too_late);
    }

    #[test]
    fn refuses_what_it_cannot_obey() {
        let check = |words: &[(&str, &str)], why: &str| assert_eq!(read(words), Err(why.to_owned()), "{words:?}");
        for bad in ["", "0", "-1", "1000000000", "1h", " 1"] {
            check(&[("HOLDFOR", bad)], "501 5.5.4 HOLDFOR must be 1 to 999999999 seconds");
        }
        check(&[("HOLDFOR", "999999999")], "501 5.5.4 HOLDFOR is more than a year ahead");
        for bad in ["", "soon", "2026-11-22", "2026-11-22T12:00:00", "\u{fc}"] {
            check(&[("HOLDUNTIL", bad)], "501 5.5.4 HOLDUNTIL must be a time such as 2026-11-22T12:00:00Z");
        }
        check(&[("HOLDUNTIL", "2036-11-22T11:00:00Z")], "501 5.5.4 HOLDUNTIL is more than a year ahead");
        check(
            &[("HOLDFOR", "1"), ("HOLDUNTIL", "2026-11-22T13:00:00Z")],
            "501 5.5.4 HOLDFOR and HOLDUNTIL are both there; say one of them",
        );
        check(&[("HOLDFOR", "1"), ("HOLDFOR", "1")], "501 5.5.4 HOLDFOR is there twice");
        check(&[("BY", "1;R"), ("BY", "1;R")], "501 5.5.4 BY is there twice");
        for bad in ["", "10", ";R", "10;", "10;X", "10;R;T", "1000000000;R", "--1;R", "1,R"] {
            check(&[("BY", bad)], "501 5.5.4 BY must be seconds, a semicolon, and R or N, such as 3600;R");
        }
        for bad in ["0;R", "-5;R"] {
            check(&[("BY", bad)], "501 5.5.4 BY with mode R must be above 0");
        }
        check(&[("BY", "999999999;N")], "501 5.5.4 BY is more than a year ahead");
        check(&[("BY", "60;R"), ("HOLDFOR", "60")], "501 5.5.4 BY is over before HOLDFOR lets the message go");
        for bad in ["", "10", "-10", "+0", "x", "-0", "1.5"] {
            check(&[("MT-PRIORITY", bad)], "501 5.5.4 MT-PRIORITY must be -9 to 9");
        }
        check(&[("MT-PRIORITY", "1"), ("MT-PRIORITY", "2")], "501 5.5.4 MT-PRIORITY is there twice");
    }

    #[test]
    fn announces_what_it_obeys() {
        let mut out = String::new();
        announce(&mut out, NOW);
        assert_eq!(out, "FUTURERELEASE 31536000 2027-11-22T00:00:00Z\nDELIVERBY\nMT-PRIORITY\n");
    }
}
