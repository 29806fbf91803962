//! What deliveries and events must say after kills.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use posthaste::clock::Instant;
use posthaste::demo::account::Event;
use posthaste::demo::receiver::Delivery;

/// One life of the daemon ended so.
pub struct Kill {
    pub at: Instant,
    /// Connections that each receiver had had by then.
    pub connections: Vec<u64>,
    /// How long the event log was, up to its last whole line.
    pub told: usize,
}

/// What a receiver took, and from whom.
pub struct Arrival {
    pub delivery: Delivery,
    pub receiver: usize,
    /// Which of the daemon's lives began the connection, and so sent this, counted from 0.
    pub life: usize,
}

impl Arrival {
    pub fn new(receiver: usize, delivery: Delivery, kills: &[Kill]) -> Arrival {
        let life = kills.iter().filter(|kill| delivery.session > kill.connections[receiver]).count();
        Arrival { delivery, receiver, life }
    }
}

/// A message handed over: when that began, and when its 250 was here.
pub type HandedOver = (Instant, Instant);

/// Arrivals by recipient, in the order of lives.
pub fn by_recipient(arrivals: &[Arrival]) -> HashMap<&str, Vec<&Arrival>> {
    let mut by_recipient: HashMap<&str, Vec<&Arrival>> = HashMap::new();
    for arrival in arrivals {
        by_recipient.entry(&arrival.delivery.recipient).or_default().push(arrival);
    }
    by_recipient.values_mut().for_each(|arrivals| arrivals.sort_by_key(|arrival| arrival.life));
    by_recipient
}

/// How long before a kill a receiver may have given the 250 that nobody remembers. A commit takes milliseconds; the rest is
/// for a machine that stands still.
const UNREAD_MAX: Duration = Duration::from_secs(10);

/// Each copy of what arrived is what was `sent`, octet by octet, behind the fields that the daemon adds.
pub fn contents(arrivals: &[&Arrival], sent: impl Fn(&Arrival) -> Vec<u8>) {
    let is_added = |line: &[u8]| {
        let begins = ["Received: ", "Date: ", "Message-ID: ", "\t", " "];
        begins.iter().any(|begin| line.starts_with(begin.as_bytes())) && !line.trim_ascii().is_empty()
    };
    for arrival in arrivals {
        let (delivery, sent) = (&arrival.delivery, sent(arrival));
        let content = delivery.content.as_ref().expect("the receivers keep it");
        let added = content.strip_suffix(&sent[..]).and_then(|added| added.strip_suffix(b"\r\n"));
        assert!(
            added.is_some_and(|added| added.split(|octet| *octet == b'\n').all(is_added)),
            "{} got what was not sent, {} octets in place of {}:\n{}",
            delivery.recipient,
            content.len(),
            sent.len(),
            String::from_utf8_lossy(&content[..content.len().min(2000)]),
        );
    }
}

/// Copies too many, each explained by the kill after the copy before it.
#[derive(Default)]
pub struct Copies {
    /// The last of their connections, at most one each: we may not have read the receiver's 250. How long before the kill
    /// that was given.
    in_flight: Vec<Duration>,
    /// The next transaction had begun on their connection, so we had, and the kill came before that was written. How long
    /// before the kill that was, at least.
    unwritten: Vec<Duration>,
}

impl fmt::Display for Copies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Copies { in_flight, unwritten } = self;
        let milliseconds =
            |times: &[Duration], place: usize| times.get(place).map_or(0.0, |time| time.as_secs_f64() * 1e3);
        let (middle, last) = (|times: &[Duration]| times.len() / 2, |times: &[Duration]| times.len().saturating_sub(1));
        write!(
            f,
            "{} copies too many: of {} the 250 was under way, given {:.1} ms before the kill in the middle, {:.1} ms at \
             most; of {} it was not on disk yet, {:.1} ms before the kill in the middle, {:.1} ms at most",
            in_flight.len() + unwritten.len(),
            in_flight.len(),
            milliseconds(in_flight, middle(in_flight)),
            milliseconds(in_flight, last(in_flight)),
            unwritten.len(),
            milliseconds(unwritten, middle(unwritten)),
            milliseconds(unwritten, last(unwritten)),
        )
    }
}

/// Counts the copies too many. For none of the reasons below but the last there is a time limit, since on a busy machine
/// there is none:
///
/// - What the event log tells of as delivered (`told`: in which life) is never sent again by a later life. So a record
///   that is not written while a connection stands idle is found where a test waits for the event and then kills.
/// - No life of the daemon sends one twice.
/// - What a kill makes it forget is what it knew last. So on each connection forgotten ones are followed by none that
///   is remembered.
/// - A group commit takes along what was queued before. So of one that we knew to be delivered when a client began to
///   hand over another message, and the client had its 250 before the kill, nothing may be forgotten.
/// - One of each connection may be forgotten that nothing came after: its 250 may not have been read. But not if the
///   receiver gave it more than [`UNREAD_MAX`] before the kill.
pub fn copies(
    arrivals: &[Arrival],
    kills: &[Kill],
    told: &HashMap<String, usize>,
    handed_over: &[HandedOver],
) -> Copies {
    let mut connections: HashMap<(usize, u64), Vec<(&Arrival, bool)>> = HashMap::new();
    for (recipient, arrivals) in by_recipient(arrivals) {
        for (place, arrival) in arrivals.iter().enumerate() {
            let next = arrivals.get(place + 1);
            assert!(
                next.is_none_or(|next| next.life > arrival.life),
                "{recipient} got two copies though the daemon was not killed in between"
            );
            assert!(
                told.get(recipient).is_none_or(|told| arrival.life <= *told),
                "{recipient} was told of as delivered and sent again"
            );
            let connection = connections.entry((arrival.receiver, arrival.delivery.session)).or_default();
            connection.push((arrival, next.is_some()));
        }
    }
    let mut copies = Copies::default();
    for taken in connections.values_mut() {
        taken.sort_by_key(|(arrival, _)| arrival.delivery.instant);
        for (place, (arrival, _)) in taken.iter().enumerate().filter(|(_, (_, forgotten))| *forgotten) {
            let recipient = &arrival.delivery.recipient;
            let rest = &taken[place + 1..];
            let all = rest.iter().all(|(_, forgotten)| *forgotten);
            assert!(all, "{recipient} was forgotten, another one after it was not");
            let kill = kills[arrival.life].at;
            // Recipients of one transaction have one number.
            let next = rest.iter().find(|(next, _)| next.delivery.number != arrival.delivery.number);
            let Some(known) = next.map(|(next, _)| next.delivery.instant) else {
                let given = kill.saturating_duration_since(arrival.delivery.instant);
                assert!(given <= UNREAD_MAX, "{recipient} was forgotten, {given:?} after its receiver took it");
                copies.in_flight.push(given);
                continue;
            };
            let proof = handed_over.iter().find(|(begun, done)| known <= *begun && *done <= kill);
            assert!(proof.is_none(), "{recipient} was forgotten, though a commit came after it was known");
            copies.unwritten.push(kill.saturating_duration_since(known));
        }
    }
    copies.in_flight.sort_unstable();
    copies.unwritten.sort_unstable();
    copies
}

/// How each recipient of each message ended, which must be once.
pub fn ends(events: &[Event]) -> HashMap<(&str, &str), &str> {
    let mut ends = HashMap::new();
    for event in events.iter().filter(|event| event.is_terminal()) {
        let before = ends.insert((event.message_id.as_str(), event.recipient.as_str()), event.event.as_str());
        assert_eq!(before, None, "{} of {} ended twice, now {}", event.recipient, event.message_id, event.event);
    }
    ends
}
