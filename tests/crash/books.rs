//! What deliveries and events must say after kills.

use std::collections::HashMap;
use std::time::Duration;

use posthaste::clock::Instant;
use posthaste::demo::account::Event;
use posthaste::demo::receiver::Delivery;

/// A copy that came this shortly before a kill may come again: its outcome was not yet written down.
const EXCUSE_BEFORE: Duration = Duration::from_millis(500);
/// So may one that came this shortly after: it was on its way, whole, when the daemon died.
const EXCUSE_AFTER: Duration = Duration::from_millis(1000);

/// Deliveries by recipient.
pub fn arrivals(deliveries: &[Delivery]) -> HashMap<&str, Vec<&Delivery>> {
    let mut arrivals: HashMap<&str, Vec<&Delivery>> = HashMap::new();
    for delivery in deliveries {
        arrivals.entry(&delivery.recipient).or_default().push(delivery);
    }
    arrivals
}

/// Copies too many. Each must be explained by a kill: the receiver had the one before it, and the daemon died before it
/// wrote that down.
pub fn excused_copies(arrivals: HashMap<&str, Vec<&Delivery>>, kills: &[Instant]) -> usize {
    let mut copies = 0;
    for (recipient, mut deliveries) in arrivals {
        deliveries.sort_by_key(|delivery| delivery.instant);
        for pair in deliveries.windows(2) {
            copies += 1;
            let (first, second) = (pair[0].instant, pair[1].instant);
            let excused = kills
                .iter()
                .any(|kill| *kill <= second && first <= *kill + EXCUSE_AFTER && *kill <= first + EXCUSE_BEFORE);
            assert!(excused, "{recipient} got two copies and no kill explains it");
        }
    }
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
