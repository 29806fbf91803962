//! So many in so long, as an operator writes it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use humantime_serde::re::humantime::{format_duration, parse_duration};
use serde::{Deserialize, Serialize};

use super::ByteSize;

/// So many in so long: `"100/s"`, `"6000/min"`, `"1000/10m"`, `"20000/d burst 500"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// How many; at least 1.
    pub amount: u64,
    /// In how long; at least a millisecond.
    pub period: Duration,
    /// How many at once after a pause; `None`: as many as come in a second, at least one.
    pub burst: Option<u64>,
}

/// The same in octets: `"10MiB/s"`, `"1GiB/h burst 50MiB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRate(pub RateLimit);

impl RateLimit {
    /// How many may go at once after a pause.
    pub fn burst(self) -> f64 {
        let in_a_second = self.amount as f64 / self.period.as_secs_f64();
        self.burst.map_or(in_a_second.max(1.0), |burst| burst as f64)
    }

    /// Reads `AMOUNT/PERIOD` and perhaps ` burst AMOUNT`. `None` if it is anything else.
    fn read(text: &str, amount: impl Fn(&str) -> Option<u64>) -> Option<RateLimit> {
        let (rate, burst) = match text.split_once("burst") {
            Some((rate, burst)) => (rate, Some(amount(burst.trim())?)),
            None => (text, None),
        };
        let (many, long) = rate.split_once('/')?;
        let long = long.trim();
        let period = match long.starts_with(|c: char| c.is_ascii_digit()) {
            true => parse_duration(long),
            false => parse_duration(&format!("1{long}")),
        };
        let period = period.ok().filter(|period| *period >= Duration::from_millis(1))?;
        let amount = amount(many.trim()).filter(|amount| *amount > 0)?;
        Some(RateLimit { amount, period, burst })
    }

    fn write(self, f: &mut fmt::Formatter<'_>, amount: impl Fn(u64) -> String) -> fmt::Result {
        let period = format_duration(self.period).to_string();
        // `1s` is said as `s`.
        let unit = period.strip_prefix('1').filter(|unit| unit.chars().all(char::is_alphabetic)).unwrap_or(&period);
        write!(f, "{}/{unit}", amount(self.amount))?;
        match self.burst {
            Some(burst) => write!(f, " burst {}", amount(burst)),
            None => Ok(()),
        }
    }
}

impl FromStr for RateLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<RateLimit, String> {
        let form = "write it as \"100/s\", \"1000/h\", \"500/10m\" or \"100/s burst 20\"";
        RateLimit::read(text, |text| text.parse().ok()).ok_or_else(|| format!("{text:?} is not a rate; {form}"))
    }
}

impl FromStr for ByteRate {
    type Err = String;

    fn from_str(text: &str) -> Result<ByteRate, String> {
        let form = "write it as \"10MiB/s\", \"1GiB/h\" or \"10MiB/s burst 50MiB\"";
        let size = |text: &str| Some(text.parse::<ByteSize>().ok()?.0);
        RateLimit::read(text, size).map(ByteRate).ok_or_else(|| format!("{text:?} is not a rate of octets; {form}"))
    }
}

impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, |amount| amount.to_string())
    }
}

impl fmt::Display for ByteRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.write(f, |amount| ByteSize(amount).to_string())
    }
}

impl Serialize for RateLimit {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for ByteRate {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RateLimit {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<RateLimit, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for ByteRate {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<ByteRate, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_rates() {
        for (text, amount, seconds, burst, written) in [
            ("100/s", 100, 1, None, "100/s"),
            ("6000 / min", 6000, 60, None, "6000/m"),
            ("1000/h burst 20", 1000, 3600, Some(20), "1000/h burst 20"),
            ("20000/day", 20_000, 86_400, None, "20000/day"),
            ("20000/d", 20_000, 86_400, None, "20000/day"),
            ("500/10m", 500, 600, None, "500/10m"),
        ] {
            let rate: RateLimit = text.parse().expect(text);
            assert_eq!(rate, RateLimit { amount, period: Duration::from_secs(seconds), burst });
            assert_eq!(rate.to_string(), written);
            assert_eq!(rate.to_string().parse(), Ok(rate));
        }
        for bad in [
            "",
            "100",
            "100/",
            "/s",
            "0/s",
            "100/0s",
            "x/s",
            "100/s burst",
            "100/s burst many",
            "1MiB/s",
            "1/fortnight",
        ] {
            assert!(bad.parse::<RateLimit>().is_err(), "{bad}");
        }
        let bytes: ByteRate = "10MiB/s burst 1GiB".parse().expect("octets");
        assert_eq!((bytes.0.amount, bytes.0.burst), (10 << 20, Some(1 << 30)));
        assert_eq!(bytes.to_string(), "10MiB/s burst 1GiB");
        assert!("10 apples/s".parse::<ByteRate>().is_err());
    }

    #[test]
    fn a_second_s_worth_may_go_at_once() {
        for (text, burst) in [("100/s", 100.0), ("6000/min", 100.0), ("10/h", 1.0), ("10/h burst 10", 10.0)] {
            assert_eq!(text.parse::<RateLimit>().expect(text).burst(), burst, "{text}");
        }
    }
}
