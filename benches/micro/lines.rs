//! The event log for measuring: half a million attempts as they look in life, written by the log itself.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use posthaste::clock::Timestamp;
use posthaste::config::{ByteSize, EventsConfig};
use posthaste::events::{Event, EventLog, Kind};
use posthaste::log::{Position, SegmentId};
use posthaste::mail::{EnhancedCode, MessageId, TlsFacts};
use posthaste::telemetry::Metrics;

/// Lines, of some 800 octets each.
pub const LINES: u64 = 500_000;

/// Octets of a file.
const ROTATE: u64 = 64 << 20;

/// Long ago, so that no clock takes them for messages to come.
const BEGIN: u64 = 1_700_000_000_000;

/// The message of the line with this number: each has a few milliseconds to itself, and every tenth line is a second attempt, of a
/// message ten thousand lines before.
pub fn message(line: u64) -> MessageId {
    let line = if line.is_multiple_of(10) { line.saturating_sub(10_001) } else { line };
    MessageId((BEGIN + line * 7) << 22)
}

/// Appends that line.
pub fn write_line(line: u64, out: &mut Vec<u8>) {
    let envelope = crate::message::envelope();
    let recipient = format!("customer-{line}@receiver-{}.example", line % 5000);
    let time = Timestamp(BEGIN + line * 7 + 900);
    let mut event = Event::new(time, Kind::Delivered, message(line), &envelope, &recipient);
    let tls = TlsFacts { version: "TLSv1.3", cipher: "TLS13_AES_256_GCM_SHA384", resumed: false, verified: false };
    event.sender = "bounces+0k3v9z8q2m1xa@mail.shop.example";
    (event.attempt, event.site, event.provider) = (1, "mx1.receiver.example,mx2.receiver.example", "default");
    (event.source, event.source_address) = ("mta1", Some(Ipv4Addr::new(192, 0, 2, 10).into()));
    (event.mx_host, event.mx_address) = ("mx1.receiver.example", Some(([198, 51, 100, 7], 25).into()));
    (event.tls, event.size) = (Some(&tls), 10_240);
    (event.code, event.enhanced, event.command) = (250, EnhancedCode(2, 0, 0), Some("."));
    event.reply = "ok 1795348800 d2e1a72fcca58-7f2b9c0e6b1si1234567 queued for delivery";
    event.write_line(out);
}

/// Writes all lines, and waits until they can be read.
pub fn write(dir: &Path) -> EventLog {
    let config = EventsConfig { rotate_size: ByteSize(ROTATE), keep: 32 };
    let (log, _) = EventLog::open(dir, &config, Arc::new(Metrics::new())).expect("a folder to write to");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    for first in (0..LINES).step_by(64) {
        let mut lines = Vec::new();
        (first..LINES.min(first + 64)).for_each(|line| write_line(line, &mut lines));
        let position = Position { segment: SegmentId(1), offset: first as u32 };
        log.write(position, lines.into());
        runtime.block_on(log.progress().caught_up());
    }
    log
}
