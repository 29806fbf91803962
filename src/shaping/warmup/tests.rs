//! Days, hours, trouble and restarts of a plan.

use super::*;

/// Midnight.
const BEGIN: Timestamp = Timestamp(20_780 * DAY);

fn at(day: u64, hour: u64) -> Timestamp {
    Timestamp(BEGIN.0 + day * DAY + hour * HOUR)
}

fn plan(provider: Option<&str>, per_day: &[u64]) -> Plan {
    Plan {
        source: "new".into(),
        provider: provider.map(Into::into),
        start: None,
        per_day: per_day.to_vec(),
        deferrals_max: 0.2,
        complaints_max: 0.002,
    }
}

/// Sends as much as there is room for on a day, asking every quarter of an hour.
fn send_day(warmup: &mut Warmup, day: u64, at_most: u64) -> u64 {
    let mut sent = 0;
    for quarter in 0..96 {
        let now = Timestamp(at(day, 0).0 + quarter * HOUR / 4);
        while let (Room::Left(left), true) = (warmup.room("new", "google", now), sent < at_most) {
            let n = left.min(3).min(at_most - sent);
            warmup.take("new", "google", n, now);
            warmup.sign("new", "google", Sign::Delivered, n, now);
            sent += n;
        }
    }
    sent
}

fn stepped(warmup: &mut Warmup) -> Vec<Stepped> {
    warmup.steps().into_iter().map(|step| step.what).collect()
}

#[test]
fn each_day_takes_what_its_plan_says() {
    let mut warmup = Warmup::new(vec![plan(None, &[50, 100, 200])], Vec::new());
    for (day, expected) in (0..).zip([50, 100, 200]) {
        assert_eq!(send_day(&mut warmup, day, u64::MAX), expected);
    }
    assert_eq!(stepped(&mut warmup), [Stepped::Forward, Stepped::Forward]);
    assert_eq!(warmup.room("new", "google", at(3, 0)), Room::Warm);
    assert_eq!(stepped(&mut warmup), [Stepped::Warm]);
    assert_eq!(warmup.room("old", "google", at(0, 0)), Room::Warm, "no plan is about it");
    // Another provider counts for itself.
    assert_eq!(warmup.room("new", "yahoo", at(3, 0)), Room::Left(7));
}

#[test]
fn an_hour_has_its_part_and_the_next_instant_is_exact() {
    let mut warmup = Warmup::new(vec![plan(Some("google"), &[80])], Vec::new());
    let now = Timestamp(at(0, 5).0 + 1234);
    assert_eq!(warmup.room("new", "google", now), Room::Left(10));
    warmup.take("new", "google", 10, now);
    assert_eq!(warmup.room("new", "google", now), Room::Full(at(0, 6)));
    for hour in 6..13 {
        warmup.take("new", "google", 10, at(0, hour));
    }
    assert_eq!(warmup.room("new", "google", at(0, 14)), Room::Full(at(1, 0)));
    assert_eq!(warmup.room("new", "yahoo", now), Room::Warm);
}

#[test]
fn a_day_with_little_mail_is_repeated() {
    let mut warmup = Warmup::new(vec![plan(None, &[50, 100])], Vec::new());
    for day in 0..5 {
        assert_eq!(send_day(&mut warmup, day, 24), 24);
    }
    assert_eq!(stepped(&mut warmup), []);
    assert_eq!(send_day(&mut warmup, 5, 25), 25);
    assert_eq!(send_day(&mut warmup, 6, u64::MAX), 100);
}

#[test]
fn trouble_ends_the_day_and_costs_a_step() {
    let mut warmup = Warmup::new(vec![plan(None, &[50, 100, 200])], Vec::new());
    send_day(&mut warmup, 0, u64::MAX);
    send_day(&mut warmup, 1, 30);
    warmup.sign("new", "google", Sign::Refused, 9, at(1, 23));
    assert!(matches!(warmup.room("new", "google", at(1, 23)), Room::Left(_)), "nine may be chance");
    warmup.sign("new", "google", Sign::Refused, 1, at(1, 23));
    assert_eq!(warmup.room("new", "google", at(1, 23)), Room::Full(at(2, 0)));
    warmup.sign("new", "google", Sign::Refused, 1, at(1, 23));
    assert_eq!(stepped(&mut warmup), [Stepped::Forward, Stepped::Braked], "told once");
    assert_eq!(send_day(&mut warmup, 2, u64::MAX), 50);
    assert_eq!(stepped(&mut warmup), [Stepped::Back]);
    // Complaints do the same.
    assert_eq!(send_day(&mut warmup, 3, 60), 60);
    warmup.sign("new", "google", Sign::Complained, 2, at(3, 22));
    assert!(warmup.progress_of("new", "google", at(3, 22)).is_some_and(|progress| progress.braked));
    assert_eq!(send_day(&mut warmup, 4, u64::MAX), 50);
}

#[test]
fn nothing_goes_before_the_start() {
    let late = Plan { start: Some(at(2, 0)), ..plan(None, &[50]) };
    let mut warmup = Warmup::new(vec![late], Vec::new());
    assert_eq!(warmup.room("new", "google", at(0, 3)), Room::Full(at(2, 0)));
    assert_eq!(warmup.room("new", "google", at(2, 0)), Room::Left(7));
}

#[test]
fn goes_on_after_a_restart_and_with_another_plan() {
    let mut warmup = Warmup::new(vec![plan(None, &[50, 100, 200])], Vec::new());
    send_day(&mut warmup, 0, u64::MAX);
    send_day(&mut warmup, 1, 40);
    let kept = warmup.changed();
    assert_eq!((kept.len(), warmup.changed().len()), (1, 0));
    let text = serde_json::to_string(&kept[0]).unwrap();
    let kept: Kept = serde_json::from_str(&text).unwrap();
    let mut again = Warmup::new(vec![plan(None, &[50, 100, 200])], vec![kept]);
    let progress = again.progress(at(1, 23));
    assert_eq!(progress, warmup.progress(at(1, 23)));
    assert_eq!((progress[0].day, progress[0].days, progress[0].sent, progress[0].per_day), (2, 3, 40, 100));
    again.set_plans(vec![plan(Some("google"), &[10, 60, 90])]);
    assert_eq!(again.progress(at(1, 23))[0].per_day, 60);
    again.set_plans(Vec::new());
    assert!(again.is_empty() && again.progress(at(1, 23)).is_empty());
}

#[test]
fn a_clock_set_back_begins_no_new_day() {
    let mut warmup = Warmup::new(vec![plan(None, &[50, 100])], Vec::new());
    send_day(&mut warmup, 1, u64::MAX);
    assert_eq!(warmup.room("new", "google", at(0, 3)), Room::Full(at(2, 0)));
    assert_eq!(stepped(&mut warmup), []);
}

#[test]
fn a_clock_that_was_ahead_holds_nothing_back_for_long() {
    let mut ahead = Warmup::new(vec![plan(None, &[10, 20])], Vec::new());
    ahead.take("new", "google", 10, at(4000, 3));
    let mut warmup = Warmup::new(vec![plan(None, &[10, 20])], ahead.changed());
    assert_eq!(warmup.room("new", "google", at(0, 3)), Room::Full(at(1, 0)), "what was sent is not forgotten");
    assert_eq!(warmup.room("new", "google", at(1, 0)), Room::Left(3));
    assert_eq!(stepped(&mut warmup), [Stepped::Forward]);
    // An hour is no reason to begin a day twice.
    warmup.take("new", "google", 20, at(1, 23));
    assert_eq!(warmup.room("new", "google", at(0, 23)), Room::Full(at(2, 0)));
}

#[test]
fn numbers_that_cannot_be_do_no_harm() {
    let wild = Kept {
        step: usize::MAX,
        sent: u64::MAX,
        refused: u64::MAX,
        today: u64::MAX,
        hour: u64::MAX,
        ..Kept::default()
    };
    let kept = Kept { source: "new".into(), provider: "google".into(), ..wild };
    let mut warmup = Warmup::new(vec![plan(None, &[10, 20])], vec![Kept { step: 0, ..kept.clone() }]);
    warmup.take("new", "google", 1, at(0, 0));
    warmup.sign("new", "google", Sign::Refused, 1, at(0, 0));
    assert_eq!(warmup.room("new", "google", at(0, 0)), Room::Full(at(1, 0)));
    let mut warm = Warmup::new(vec![plan(None, &[10, 20])], vec![kept]);
    assert_eq!(warm.room("new", "google", at(0, 0)), Room::Warm);
    assert_eq!(warm.progress(at(0, 0))[0].day, 2);
}
