//! What the demo found, as a table and as JSON.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

/// The end of a demo.
#[derive(Debug, Clone, Serialize)]
pub struct DemoReport {
    /// Messages handed over.
    pub messages: u64,
    /// Their recipients.
    pub recipients: u64,
    /// Octets of each message, before the daemon's own headers.
    pub size: usize,
    /// From the first command to the last 250.
    pub accept_seconds: f64,
    /// From the first command until every recipient had its terminal event.
    pub total_seconds: f64,
    /// One row a receiver.
    pub sites: Vec<SiteReport>,
    /// Where the books disagree, the first 20 in words.
    pub problems: Vec<String>,
    /// How many disagreements there are.
    pub problems_total: usize,
    /// What the receivers found wrong with our SMTP, the first 20.
    pub violations: Vec<String>,
}

/// What happened at one receiver.
#[derive(Debug, Clone, Serialize)]
pub struct SiteReport {
    /// Its manners: `good`, `slow`, …
    pub name: &'static str,
    /// Recipients sent its way.
    pub sent: u64,
    /// Recipients with the event `delivered`.
    pub delivered: u64,
    /// Recipients with the event `bounced`.
    pub bounced: u64,
    /// Events `deferred`.
    pub deferred: u64,
    /// Connections it saw.
    pub connections: u64,
    /// Share of deliveries that came over TLS, 0..=1.
    pub tls_share: f64,
    /// Handed over to arrived, milliseconds: the median.
    pub latency_p50_ms: f64,
    /// The same, of 99 in 100.
    pub latency_p99_ms: f64,
    /// Deliveries a second from the first to the last.
    pub per_second: f64,
}

impl DemoReport {
    /// Whether every recipient is accounted for.
    pub fn is_complete(&self) -> bool {
        self.problems_total == 0
    }

    /// Messages accepted a second.
    pub fn accepted_per_second(&self) -> f64 {
        self.messages as f64 / self.accept_seconds.max(f64::EPSILON)
    }
}

/// What fills a row: deliveries in any order, as (latency, time since the start).
pub(super) fn rates(mut latencies: Vec<Duration>, mut times: Vec<Duration>) -> (f64, f64, f64) {
    latencies.sort_unstable();
    times.sort_unstable();
    let at = |share: f64| {
        let index = (latencies.len() as f64 * share).ceil() as usize;
        latencies.get(index.saturating_sub(1)).map_or(0.0, |latency| latency.as_secs_f64() * 1000.0)
    };
    let window = times.last().copied().unwrap_or_default() - times.first().copied().unwrap_or_default();
    let per_second = if window.is_zero() { 0.0 } else { (times.len() - 1) as f64 / window.as_secs_f64() };
    (at(0.5), at(0.99), per_second)
}

impl fmt::Display for DemoReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads =
            ["receiver", "sent", "delivered", "bounced", "deferred", "p50 ms", "p99 ms", "TLS", "conns", "per s"];
        let rows = self.sites.iter().map(|site| {
            [
                site.name.to_owned(),
                thousands(site.sent),
                thousands(site.delivered),
                thousands(site.bounced),
                thousands(site.deferred),
                format!("{:.1}", site.latency_p50_ms),
                format!("{:.1}", site.latency_p99_ms),
                if site.delivered == 0 { "-".into() } else { format!("{:.0}%", site.tls_share * 100.0) },
                thousands(site.connections),
                thousands(site.per_second.round() as u64),
            ]
        });
        let rows: Vec<[String; 10]> = std::iter::once(heads.map(String::from)).chain(rows).collect();
        let widths: [usize; 10] =
            std::array::from_fn(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0));
        for row in &rows {
            write!(f, "{:<width$}", row[0], width = widths[0])?;
            for (cell, width) in row.iter().zip(widths).skip(1) {
                write!(f, "  {cell:>width$}")?;
            }
            writeln!(f)?;
        }
        let delivered: u64 = self.sites.iter().map(|site| site.delivered).sum();
        writeln!(f)?;
        writeln!(
            f,
            "accepted   {} messages of {} octets in {:.2} s: {} a second, each synced to disk before its 250",
            thousands(self.messages),
            thousands(self.size as u64),
            self.accept_seconds,
            thousands(self.accepted_per_second().round() as u64),
        )?;
        writeln!(
            f,
            "delivered  {} recipients and reports, all ends known after {:.2} s",
            thousands(delivered),
            self.total_seconds
        )?;
        if self.is_complete() {
            writeln!(
                f,
                "accounted  every one of {} recipients: one end each, and the receivers agree",
                thousands(self.recipients)
            )?;
        } else {
            writeln!(f, "accounted  NO: {} disagreements", thousands(self.problems_total as u64))?;
            self.problems.iter().try_for_each(|problem| writeln!(f, "  {problem}"))?;
        }
        self.violations.iter().try_for_each(|violation| writeln!(f, "  against the protocol: {violation}"))
    }
}

/// `1234567` as `1,234,567`.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_digits() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(thousands(number), text);
        }
    }

    #[test]
    fn rates_of_none_one_and_many() {
        let ms = |range: std::ops::RangeInclusive<u64>| range.map(Duration::from_millis).collect::<Vec<_>>();
        assert_eq!(rates(vec![], vec![]), (0.0, 0.0, 0.0));
        assert_eq!(rates(ms(5..=5), ms(5..=5)), (5.0, 5.0, 0.0));
        assert_eq!(rates(ms(1..=100), ms(1..=101)), (50.0, 99.0, 1000.0));
    }
}
