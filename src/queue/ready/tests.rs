use super::*;
use crate::mail::MessageId;
use crate::queue::scheduler::Recipients;

fn item(id: u64) -> Item {
    Item { message: MessageId(id), host: 0, attempts: 0, spoilt: 0, late: false, recipients: Recipients::One(0) }
}

fn lane(stream: StreamId) -> LaneId {
    LaneId { stream, host: None, source: None }
}

fn take(ready: &mut Ready, more: impl FnMut(&[Item], &Item) -> bool) -> Vec<Item> {
    let lane = ready.turn(None).map(|(lane, _)| lane);
    lane.map_or_else(Vec::new, |lane| ready.take(lane, more))
}

fn next(ready: &mut Ready) -> Option<u64> {
    take(ready, |_, _| false).first().map(|item| item.message.0)
}

#[test]
fn a_small_stream_does_not_wait_for_a_large_one() {
    let mut ready = Ready::default();
    (0..100_000).for_each(|n| ready.push(Class::Bulk, lane(1), item(n)));
    ready.push(Class::Bulk, lane(2), item(1_000_000));
    let waited = (0..).find(|_| next(&mut ready) == Some(1_000_000)).expect("it comes");
    assert!(waited <= QUANTUM as usize, "waited {waited}");
}

#[test]
fn transactional_mail_has_its_share_and_bulk_is_not_starved() {
    let mut ready = Ready::default();
    for n in 0..2_200 {
        ready.push(Class::Transactional, lane(1), item(n));
        ready.push(Class::Bulk, lane(2), item(10_000 + n));
        ready.push(Class::System, lane(3), item(20_000 + n));
    }
    let mut counts = [0; 3];
    for _ in 0..2_200 {
        counts[next(&mut ready).expect("there") as usize / 10_000] += 1;
    }
    assert_eq!(counts, [1600, 400, 200]);
}

#[test]
fn a_transactional_message_goes_within_one_round() {
    let mut ready = Ready::default();
    (0..1000).for_each(|n| ready.push(Class::Bulk, lane(1), item(n)));
    assert!((0..500).all(|_| next(&mut ready).is_some()));
    ready.push(Class::Transactional, lane(2), item(7_777));
    let waited = (0..).find(|_| next(&mut ready) == Some(7_777)).expect("it comes");
    assert!(waited <= 4, "waited {waited}");
}

#[test]
fn recipients_of_one_message_leave_together() {
    let mut ready = Ready::default();
    for n in [1, 1, 1, 2] {
        ready.push(Class::Bulk, lane(1), item(n));
    }
    let together = |picked: &[Item], next: &Item| picked.len() < 2 && picked[0].message == next.message;
    let sizes: Vec<usize> = std::iter::from_fn(|| Some(take(&mut ready, together).len()).filter(|n| *n > 0)).collect();
    assert_eq!(sizes, [2, 1, 1]);
    assert!(ready.is_empty());
}

#[test]
fn draining_hands_over_everything() {
    let mut ready = Ready::default();
    (0..10).for_each(|n| ready.push(Class::Bulk, lane(n as u32 % 3), item(n)));
    assert_eq!(ready.drain().len(), 10);
    assert!(ready.is_empty() && next(&mut ready).is_none());
}

#[test]
fn a_lane_set_aside_holds_up_nobody() {
    let mut ready = Ready::default();
    (0..3).for_each(|n| ready.push(Class::Bulk, lane(1), item(n)));
    (10..13).for_each(|n| ready.push(Class::Bulk, lane(2), item(n)));
    assert_eq!(ready.turn(None).map(|(lane, _)| lane), Some(lane(1)));
    assert_eq!(ready.set_aside(lane(1), None), Some(Class::Bulk));
    ready.push(Class::Bulk, lane(1), item(3));
    assert_eq!((ready.len(), ready.available()), (7, 3));
    assert_eq!(std::iter::from_fn(|| next(&mut ready)).collect::<Vec<_>>(), [10, 11, 12]);
    assert!(ready.is_aside(lane(1), None) && ready.best_class().is_none() && !ready.is_empty());
    ready.restore(lane(1));
    assert!(!ready.is_senior(lane(1)));
    assert_eq!(std::iter::from_fn(|| next(&mut ready)).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert!(ready.is_empty());
}

#[test]
fn who_stood_in_line_goes_first() {
    let line = BucketId::NONE;
    let mut ready = Ready::default();
    (0..40).for_each(|n| ready.push(Class::Bulk, lane(1 + n as u32 % 2), item(n)));
    assert_eq!(ready.turn(None).map(|(lane, _)| lane), Some(lane(1)));
    ready.set_aside(lane(1), Some(line));
    assert_eq!(next(&mut ready), Some(1));
    ready.restore(lane(1));
    assert!(ready.is_senior(lane(1)));
    assert_eq!(next(&mut ready), Some(0));
    assert!(!ready.is_senior(lane(1)));
    ready.set_aside(lane(1), Some(line));
    let drained: Vec<u64> = ready.drain().iter().map(|item| item.message.0).collect();
    assert_eq!(drained.len(), 38);
    assert_eq!((drained[0], drained[37]), (3, 38));
}

#[test]
fn what_nobody_needs_does_not_stay_aside() {
    let mut ready = Ready::default();
    (0..3).for_each(|n| ready.push(Class::Bulk, lane(1), item(n)));
    assert_eq!(ready.purge(lane(1), |_| true), None, "it may go");
    ready.set_aside(lane(1), None);
    assert!(ready.is_held(lane(1)));
    assert_eq!(ready.purge(lane(1), |item| item.message.0 == 1), None);
    let purged = std::iter::from_fn(|| ready.purge(lane(1), |_| true)).count();
    assert_eq!((purged, ready.len(), ready.available()), (3, 0, 0));
    assert!(!ready.is_held(lane(1)) && ready.turn(None).is_none());
}

#[test]
fn what_wishes_for_a_source_is_passed_over_by_others() {
    let (one, two) = (SourceId(1), SourceId(2));
    let mut ready = Ready::default();
    let wishing = LaneId { source: Some(one), ..lane(1) };
    (0..3).for_each(|n| ready.push(Class::Transactional, wishing, item(n)));
    (10..12).for_each(|n| ready.push(Class::Bulk, lane(1), item(n)));
    assert_eq!((ready.available(), ready.available_to(one), ready.available_to(two)), (5, 5, 2));
    let taken = |ready: &mut Ready, source| {
        let lane = ready.turn(Some(source)).map(|(lane, _)| lane)?;
        ready.take(lane, |_, _| false).first().map(|item| item.message.0)
    };
    assert_eq!(taken(&mut ready, two), Some(10));
    assert_eq!(taken(&mut ready, one), Some(0));
    assert_eq!(taken(&mut ready, two), Some(11));
    assert_eq!(taken(&mut ready, two), None);
    // Set aside, it is nobody's; let go, its own source's again.
    ready.set_aside(wishing, None);
    assert_eq!((ready.available_to(one), ready.bound().len()), (0, 0));
    ready.restore(wishing);
    assert_eq!((ready.available_to(one), ready.available_to(two)), (2, 0));
    ready.unbind(one);
    assert!(ready.bound().is_empty());
    assert_eq!((taken(&mut ready, two), taken(&mut ready, one)), (Some(1), Some(2)));
    assert!(ready.is_empty() && ready.available() == 0);
}

#[test]
fn a_lane_of_one_item_is_small() {
    // There may be a million of them.
    assert!(size_of::<(LaneId, Lane)>() <= 80, "{}", size_of::<(LaneId, Lane)>());
}
