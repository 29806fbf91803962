//! Waits that replies name: "try again in 300 seconds", "greylisted for 5 minutes", "retry after 00:04:32".

use std::time::Duration;

/// A wait longer than this is not meant for a machine.
const LONGEST: Duration = Duration::from_secs(86_400);

/// So many words may stand between what says "wait" and the time.
const REACH: usize = 6;

/// Words that make a time behind them a wait. Without one of them it may be a window: "more than 20 messages in 60 seconds".
const CUES: [&str; 17] = [
    "again",
    "retry",
    "retrying",
    "try",
    "come",
    "back",
    "wait",
    "resend",
    "reconnect",
    "later",
    "greylisted",
    "graylisted",
    "greylisting",
    "greylist",
    "deferred",
    "delayed",
    "versuchen",
];

/// The wait that a text names, which must be [`comparable`](crate::mail::wording::comparable). 1 s to 24 h.
///
/// Several numbers with units behind one another are one wait (`4 minutes 30 seconds`); of several waits the first counts.
pub fn named_wait(comparable: &str) -> Option<Duration> {
    let words: Vec<&str> = comparable.split([' ', ',', ';', '(', ')', '<', '>', '[', ']', '"', '\'']).collect();
    let words: Vec<&str> = words.into_iter().map(plain).filter(|word| !word.is_empty()).collect();
    let mut cue = None;
    let mut at = 0;
    while at < words.len() {
        if is_cue(words[at]) {
            cue = Some(at);
        }
        let near = cue.is_some_and(|cue| at - cue <= REACH);
        if near && let Some((wait, _)) = time_at(&words[at..]).or_else(|| bare_seconds(&words, at)) {
            return (wait > Duration::ZERO && wait <= LONGEST).then_some(wait);
        }
        at += 1;
    }
    None
}

fn is_cue(word: &str) -> bool {
    CUES.contains(&word) || word.starts_with("retry-after") || word.starts_with("greylist")
}

/// Without the punctuation around it: `seconds.`, `in:`.
fn plain(word: &str) -> &str {
    word.trim_matches(|c: char| !c.is_alphanumeric())
}

/// The time at the front of these words, and how many of them it takes: `5 minutes`, `5min`, `1 hour 30 minutes`, `00:05:00`.
fn time_at(words: &[&str]) -> Option<(Duration, usize)> {
    if let Some(time) = clock(words.first()?) {
        return Some((time, 1));
    }
    let mut total = Duration::ZERO;
    let mut taken = 0;
    loop {
        let rest = &words[taken..];
        let skip = usize::from(taken > 0 && rest.first() == Some(&"and"));
        let Some((time, used)) = one_at(&rest[skip..]) else { break };
        total = total.checked_add(time)?;
        taken += skip + used;
    }
    (taken > 0).then_some((total, taken))
}

/// One number with its unit, in one word or two.
fn one_at(words: &[&str]) -> Option<(Duration, usize)> {
    let first = *words.first()?;
    let letters = first.find(|c: char| !c.is_ascii_digit()).unwrap_or(first.len());
    let number: u64 = first[..letters].parse().ok().or_else(|| spelled(first))?;
    let attached = letters > 0 && letters < first.len();
    let (unit, used) = if attached { (first[letters..].trim_start_matches('-'), 1) } else { (*words.get(1)?, 2) };
    let seconds = match unit {
        "s" | "sec" | "secs" | "second" | "seconds" | "seconde" | "secondes" | "sekunden" | "segundos" | "secondi" => 1,
        "m" | "min" | "mins" | "mn" | "minute" | "minutes" | "minuten" | "minutos" | "minuti" | "minut" => 60,
        "h" | "hr" | "hrs" | "hour" | "hours" | "heure" | "heures" | "stunde" | "stunden" | "hora" | "horas"
        | "ore" => 3600,
        "d" | "day" | "days" => 86_400,
        _ => return None,
    };
    Some((Duration::from_secs(number.checked_mul(seconds)?), used))
}

/// Small numbers are also written as words.
fn spelled(word: &str) -> Option<u64> {
    let words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"];
    let place = words.iter().position(|known| *known == word).or((word == "an" || word == "a").then_some(0))?;
    Some(place as u64 + 1)
}

/// `00:05:00`: hours, minutes, seconds. With two parts it could be a time of day.
fn clock(word: &str) -> Option<Duration> {
    let parts: Vec<u64> =
        word.split(':').map(|part| part.parse().ok().filter(|_| part.len() <= 2)).collect::<Option<_>>()?;
    match parts[..] {
        [hours, minutes, seconds] if minutes < 60 && seconds < 60 => {
            Some(Duration::from_secs(hours * 3600 + minutes * 60 + seconds))
        }
        _ => None,
    }
}

/// `retry after 300`, `retry-after: 300`, `retry in 300`: a number alone is of seconds, if these words stand right before it.
fn bare_seconds(words: &[&str], at: usize) -> Option<(Duration, usize)> {
    let number: u64 = words[at].strip_prefix("retry-after:").unwrap_or(words[at]).parse().ok()?;
    let before = |back: usize| at.checked_sub(back).map_or("", |place| words[place]);
    let told = words[at].starts_with("retry-after:")
        || before(1) == "retry-after"
        || (before(2) == "retry" && matches!(before(1), "after" | "in"));
    told.then_some((Duration::from_secs(number), 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::wording::comparable;

    #[test]
    fn reads_named_waits() {
        for (text, expected) in [
            ("450 4.7.1 Greylisted, please try again in 300 seconds", Some(300)),
            ("451 4.7.1 <a@example.com>: Recipient address rejected: Greylisted for 5 minutes", Some(300)),
            (
                "450 4.2.0 <a@example.com>: Recipient address rejected: example.com greylisted for 60 seconds by ZEROSPAM",
                Some(60),
            ),
            ("451 4.7.1 Greylisting in action, please come back in 00:04:32", Some(272)),
            ("451 Greylisted, please try again in 5 minutes.", Some(300)),
            ("450 4.3.2 Please retry after 120", Some(120)),
            ("421 too busy; retry-after: 30", Some(30)),
            ("451 retry in 90", Some(90)),
            ("451 please wait 1 hour and 30 minutes before you try again", Some(5400)),
            ("421 4.7.0 Try again in an hour", Some(3600)),
            ("451 Please try again in five minutes", Some(300)),
            ("450 try again in 5min", Some(300)),
            ("451 Bitte versuchen Sie es in 10 Minuten erneut", Some(600)),
            ("452 Too much mail from you. Try again (in 15 mins)", Some(900)),
            // Not waits.
            ("450 4.7.1 You have sent more than 20 messages in 60 seconds", None),
            ("421 Too many connections from your host, at most 5 per 10 minutes are allowed. Try again later", None),
            ("451 Requested action aborted: try again later", None),
            ("550 5.1.1 no such user 300 seconds", None),
            ("421 try again in 0 seconds", None),
            ("451 try again in 90 days", None),
            ("451 try again in 99999999999999999999 seconds", None),
            ("451 try again in 18446744073709551615 hours", None),
            ("451 Please try again at 12:30", None),
            ("", None),
        ] {
            assert_eq!(named_wait(&comparable(text)), expected.map(Duration::from_secs), "{text}");
        }
    }
}
