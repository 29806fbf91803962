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

/// Copies too many, each explained by the kill after the copy before it.
#[derive(Default)]
pub struct Copies {
    /// The last of their connections: we may not have read the receiver's 250.
    in_flight: usize,
    /// The next transaction had begun on their connection, so we had, and the kill came before that was written. How long
    /// before the kill that was, at least.
    unwritten: Vec<Duration>,
}

impl fmt::Display for Copies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Copies { in_flight, unwritten } = self;
        let middle = unwritten.get(unwritten.len() / 2).copied().unwrap_or_default();
        let longest = unwritten.last().copied().unwrap_or_default();
        write!(
            f,
            "{} copies too many: of {in_flight} the 250 was under way, of {} it was not on disk yet, {:.1} ms before the \
             kill in the middle, {:.1} ms at most",
            in_flight + unwritten.len(),
            unwritten.len(),
            middle.as_secs_f64() * 1e3,
            longest.as_secs_f64() * 1e3,
        )
    }
}

/// Counts the copies too many. For none of the reasons below there is a time limit, since on a busy machine there is
/// none:
///
/// - No life of the daemon sends one twice.
/// - What a kill makes it forget is what it knew last. So on each connection forgotten ones are followed by none that
///   is remembered.
/// - A group commit takes along what was queued before. So of one that we knew to be delivered when a client began to
///   hand over another message, and the client had its 250 before the kill, nothing may be forgotten.
pub fn copies(arrivals: &[Arrival], kills: &[Kill], handed_over: &[HandedOver]) -> Copies {
    let mut connections: HashMap<(usize, u64), Vec<(&Arrival, bool)>> = HashMap::new();
    for (recipient, arrivals) in by_recipient(arrivals) {
        for (place, arrival) in arrivals.iter().enumerate() {
            let next = arrivals.get(place + 1);
            assert!(
                next.is_none_or(|next| next.life > arrival.life),
                "{recipient} got two copies though the daemon was not killed in between"
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
                copies.in_flight += 1;
                continue;
            };
            let proof = handed_over.iter().find(|(begun, done)| known <= *begun && *done <= kill);
            assert!(proof.is_none(), "{recipient} was forgotten, though a commit came after it was known");
            copies.unwritten.push(kill.saturating_duration_since(known));
        }
    }
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
