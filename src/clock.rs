//! The only place that asks the time.
//!
//! Two kinds of time, two types: [`Instant`] (tokio's, monotonic, pausable in tests) for waiting, [`Timestamp`] (wall
//! clock) for what is stored and survives a restart. Logic takes both as arguments; only the edges hold a [`Clock`].

use std::cell::Cell;
use std::fmt;
use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
pub use tokio::time::Instant;

/// Wall-clock time in milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The time `later` after this one.
    pub fn after(self, later: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(u64::try_from(later.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long from `earlier` until this time; zero if `earlier` is not earlier.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// `Sun, 22 Nov 2026 12:00:00 +0000` (RFC 5322 §3.3), in UTC.
    pub fn rfc5322(self) -> String {
        let civil = Civil::of(self.0);
        const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
        const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        let (day, month) = (DAYS[(civil.days % 7) as usize], MONTHS[civil.month as usize - 1]);
        if civil.year > 9999 {
            let Civil { day: date, year, hour, minute, second, .. } = civil;
            return format!("{day}, {date:02} {month} {year} {hour:02}:{minute:02}:{second:02} +0000");
        }
        let mut text = *b"Day, 00 Mon 0000 00:00:00 +0000";
        text[..3].copy_from_slice(day.as_bytes());
        text[8..11].copy_from_slice(month.as_bytes());
        let numbers = [(5..7, civil.day), (12..16, civil.year)];
        let time = [(17..19, civil.hour), (20..22, civil.minute), (23..25, civil.second)];
        ascii(put_digits(&mut text, numbers.into_iter().chain(time))).to_owned()
    }

    /// Reads `2026-11-22T12:00:00Z` or with milliseconds (RFC 3339, UTC only). `None` if it is anything else.
    pub fn parse_rfc3339(text: &str) -> Option<Timestamp> {
        let time = humantime_serde::re::humantime::parse_rfc3339(text).ok()?;
        Some(Timestamp(time.duration_since(UNIX_EPOCH).ok()?.as_millis() as u64))
    }
}

/// RFC 3339 with milliseconds, in UTC: `2026-11-22T12:00:00.000Z`.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Civil { year, month, day, hour, minute, second, .. } = Civil::of(self.0);
        let ms = self.0 % 1000;
        if year > 9999 {
            return write!(f, "{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z");
        }
        // Each event has two of these: digit by digit they take a tenth of what `write!` does.
        let mut text = *b"0000-00-00T00:00:00.000Z";
        let date = [(0..4, year), (5..7, month), (8..10, day)];
        let time = [(11..13, hour), (14..16, minute), (17..19, second), (20..23, ms)];
        f.write_str(ascii(put_digits(&mut text, date.into_iter().chain(time))))
    }
}

/// Writes each number into its place, with zeros in front.
fn put_digits(text: &mut [u8], numbers: impl Iterator<Item = (Range<usize>, u64)>) -> &[u8] {
    for (place, mut number) in numbers {
        for digit in text[place].iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
    }
    text
}

fn ascii(text: &[u8]) -> &str {
    std::str::from_utf8(text).expect("digits and letters are ASCII")
}

/// Calendar parts of a time, in UTC.
struct Civil {
    days: u64,
    year: u64,
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
}

impl Civil {
    /// Days to civil date by the era method (Howard Hinnant, "chrono-compatible low-level date algorithms").
    fn of(ms: u64) -> Civil {
        let seconds = ms / 1000;
        let days = seconds / 86_400;
        let z = days + 719_468;
        let era = z / 146_097;
        let doe = z % 146_097;
        let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
        let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
        let mp = (5 * doy + 2) / 153;
        let day = doy - (153 * mp + 2) / 5 + 1;
        let month = if mp < 10 { mp + 3 } else { mp - 9 };
        let year = yoe + era * 400 + u64::from(month <= 2);
        Civil { days, year, month, day, hour: seconds / 3600 % 24, minute: seconds / 60 % 60, second: seconds % 60 }
    }
}

/// Where the edges ask the time. Cheap to copy.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock;

impl Clock {
    /// The wall clock now.
    #[allow(clippy::disallowed_methods, reason = "the one place that may")]
    pub fn timestamp(self) -> Timestamp {
        if let Some((since, then)) = ANCHOR.get() {
            return then.after(Instant::now() - since);
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(since.as_millis() as u64)
    }

    /// The monotonic clock now; follows tokio's paused time in tests.
    pub fn instant(self) -> Instant {
        Instant::now()
    }
}

thread_local! {
    /// Where a simulation has tied the wall clock of this thread to tokio's.
    static ANCHOR: Cell<Option<(Instant, Timestamp)>> = const { Cell::new(None) };
}

/// For simulations: until it is dropped, the wall clock of this thread goes with tokio's, paused time included. Tokio,
/// too, finds its paused clock by the thread.
#[derive(Debug)]
#[must_use]
pub struct Simulated(());

impl Simulated {
    /// From now on it is `now`. Call it inside the runtime whose time is paused.
    pub fn from(now: Timestamp) -> Simulated {
        ANCHOR.set(Some((Instant::now(), now)));
        Simulated(())
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        ANCHOR.set(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_simulated_wall_clock_goes_with_paused_time() {
        let guard = Simulated::from(Timestamp(5_000));
        tokio::time::sleep(Duration::from_secs(86_400)).await;
        assert_eq!(Clock.timestamp(), Timestamp(86_405_000));
        drop(guard);
        assert!(Clock.timestamp() > Timestamp(1_700_000_000_000));
    }

    #[test]
    fn the_end_of_time_is_not_passed() {
        let now = Timestamp(1_000);
        // 2^64 + 384 milliseconds.
        assert_eq!(now.after(Duration::from_secs(18_446_744_073_709_552)), Timestamp(u64::MAX));
        assert_eq!(now.after(Duration::MAX), Timestamp(u64::MAX));
        assert_eq!(now.after(Duration::from_secs(1)), Timestamp(2_000));
    }

    #[test]
    fn prints_dates_as_the_rfcs_want_them() {
        let leap = Timestamp(1_709_209_845_678);
        assert_eq!(leap.to_string(), "2024-02-29T12:30:45.678Z");
        assert_eq!(leap.rfc5322(), "Thu, 29 Feb 2024 12:30:45 +0000");
        assert_eq!(Timestamp(0).rfc5322(), "Thu, 01 Jan 1970 00:00:00 +0000");
        let last = Timestamp(253_402_300_799_999);
        assert_eq!(last.to_string(), "9999-12-31T23:59:59.999Z");
        assert_eq!(last.rfc5322(), "Fri, 31 Dec 9999 23:59:59 +0000");
        assert_eq!(Timestamp(last.0 + 1).to_string(), "10000-01-01T00:00:00.000Z");
        assert_eq!(Timestamp(last.0 + 1).rfc5322(), "Sat, 01 Jan 10000 00:00:00 +0000");
        assert_eq!(Timestamp::parse_rfc3339("2024-02-29T12:30:45.678Z"), Some(leap));
        assert_eq!(Timestamp::parse_rfc3339("yesterday"), None);
    }
}
