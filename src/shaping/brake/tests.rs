//! Thresholds, windows, and what is forgotten.

use super::*;

const NOON: Timestamp = Timestamp(1_795_348_800_000);

fn at(minutes: u64) -> Timestamp {
    Timestamp(NOON.0 + minutes * 60_000)
}

fn policy() -> BrakePolicy {
    BrakePolicy {
        complaints: Steps { warn: 0.001, slow: f64::INFINITY, pause: 0.003, harm_min: 3 },
        unknown_users: Steps { warn: 0.05, slow: 0.08, pause: 0.1, harm_min: 10 },
        recipients_min: 100,
    }
}

fn watched(campaign: &str) -> Watched {
    let stream = Stream { tenant: "shop".into(), campaign: campaign.into(), ..Stream::default() };
    Watched { stream, provider: "google".into() }
}

fn levels(crossed: &[Crossed]) -> Vec<(Harm, Level)> {
    crossed.iter().map(|crossed| (crossed.harm, crossed.level)).collect()
}

#[test]
fn each_threshold_is_told_once() {
    let mut brake = Brake::new(policy());
    let list = watched("spring");
    assert_eq!(levels(&brake.count(&list, Fact::Delivered, 2000, at(0))), []);
    let mut told = Vec::new();
    for minute in 0..10 {
        told.extend(levels(&brake.count(&list, Fact::Complaint, 1, at(minute))));
    }
    assert_eq!(told, [(Harm::Complaints, Level::Warn), (Harm::Complaints, Level::Pause)]);
    let mut told = Vec::new();
    for minute in 10..30 {
        told.extend(levels(&brake.count(&list, Fact::UnknownUser, 12, at(minute))));
    }
    let expected = [Level::Warn, Level::Slow, Level::Pause].map(|level| (Harm::UnknownUsers, level));
    assert_eq!(told, expected);
}

#[test]
fn a_share_that_wavers_about_a_threshold_is_told_once() {
    let mut brake = Brake::new(policy());
    let list = watched("spring");
    let mut told = Vec::new();
    // One in twenty, which is the threshold, again and again a little above and a little below it.
    for minute in 0..40 {
        told.extend(levels(&brake.count(&list, Fact::UnknownUser, 1, at(minute))));
        told.extend(levels(&brake.count(&list, Fact::Delivered, 19, at(minute))));
    }
    assert_eq!(told, [(Harm::UnknownUsers, Level::Warn)]);
    // Far below, then above: that is a new offence.
    assert_eq!(levels(&brake.count(&list, Fact::Delivered, 800, at(41))), []);
    assert_eq!(levels(&brake.count(&list, Fact::UnknownUser, 60, at(42))), [(Harm::UnknownUsers, Level::Warn)]);
}

#[test]
fn little_mail_says_nothing() {
    let mut brake = Brake::new(policy());
    let list = watched("spring");
    // Every second user is unknown, but it is only 99 of them; every mail is complained of, but only twice.
    assert_eq!(levels(&brake.count(&list, Fact::Delivered, 49, at(0))), []);
    assert_eq!(levels(&brake.count(&list, Fact::UnknownUser, 50, at(0))), []);
    assert_eq!(levels(&brake.count(&list, Fact::Complaint, 2, at(0))), []);
    assert_eq!(levels(&brake.count(&list, Fact::Delivered, 1, at(1))), [(Harm::UnknownUsers, Level::Pause)]);
}

#[test]
fn the_cause_can_be_read() {
    let mut brake = Brake::new(policy());
    let list = watched("spring");
    brake.count(&list, Fact::Delivered, 1000, at(0));
    let crossed = brake.count(&list, Fact::Complaint, 4, at(120));
    let causes: Vec<String> = crossed.iter().map(Crossed::cause).collect();
    assert_eq!(causes, ["4 complaints of 1000 recipients at google within a day: 0.40 %"]);
    assert_eq!(brake.shares(&list), Some((0.004, 0.0)));
}

#[test]
fn windows_slide_and_a_new_offence_is_told_again() {
    let mut brake = Brake::new(policy());
    let list = watched("spring");
    brake.count(&list, Fact::Delivered, 800, at(0));
    let bad = |brake: &mut Brake, minute| levels(&brake.count(&list, Fact::UnknownUser, 100, at(minute)));
    assert_eq!(bad(&mut brake, 1), [(Harm::UnknownUsers, Level::Pause)]);
    assert_eq!(bad(&mut brake, 2), [], "it is known");
    // A day later all of it is forgotten; good mail comes, then bad again.
    assert_eq!(levels(&brake.count(&list, Fact::Delivered, 800, at(26 * 60))), []);
    assert_eq!(brake.shares(&list), Some((0.0, 0.0)));
    assert_eq!(bad(&mut brake, 26 * 60 + 1), [(Harm::UnknownUsers, Level::Pause)]);
    // An operator who lets it go on begins with a clean slate.
    brake.forgive(|watched| &*watched.stream.campaign == "spring");
    assert_eq!(bad(&mut brake, 26 * 60 + 2), [(Harm::UnknownUsers, Level::Pause)]);
}

#[test]
fn campaigns_are_judged_apart() {
    let mut brake = Brake::new(policy());
    brake.count(&watched("good"), Fact::Delivered, 1000, at(0));
    let crossed = brake.count(&watched("bad"), Fact::UnknownUser, 100, at(0));
    assert_eq!(crossed.iter().map(|c| &*c.watched.stream.campaign).collect::<Vec<_>>(), ["bad"]);
    assert!(brake.count(&watched("good"), Fact::Delivered, 1, at(1)).is_empty());
}

#[test]
fn memory_is_bounded_and_the_large_are_kept() {
    let mut brake = Brake { watched_max: 1000, ..Brake::new(policy()) };
    brake.count(&watched("large"), Fact::Delivered, 5000, at(0));
    for n in 0..10_000 {
        brake.count(&watched(&format!("small{n}")), Fact::Delivered, 1, at(n / 100));
        assert!(brake.len() <= 1000);
    }
    assert!(brake.shares(&watched("large")).is_some());
    // A day later the old ones go first, whatever their size.
    for n in 0..2000 {
        brake.count(&watched(&format!("new{n}")), Fact::Delivered, 1, at(3000));
    }
    assert!(brake.shares(&watched("large")).is_none());
}

#[test]
fn a_restart_is_no_clean_slate() {
    let mut brake = Brake::new(policy());
    let list = watched("spring");
    brake.count(&list, Fact::Delivered, 90, at(0));
    brake.count(&list, Fact::UnknownUser, 9, at(100));
    brake.count(&watched("long".repeat(200).as_str()), Fact::Delivered, 1, at(100));
    let kept = |brake: &mut Brake| -> Vec<Kept> {
        let changed = brake.changed();
        assert!(changed.iter().all(|(key, _)| key.len() <= KEY_MAX));
        let kept = changed.into_iter().filter_map(|(_, kept)| kept);
        kept.map(|kept| serde_json::from_str(&serde_json::to_string(&kept).unwrap()).unwrap()).collect()
    };
    let before = kept(&mut brake);
    assert_eq!((before.len(), brake.changed().len()), (2, 0));
    let mut after = Brake::new(policy());
    after.restore(before.clone(), at(110));
    assert_eq!(after.shares(&list), brake.shares(&list));
    let told = levels(&after.count(&list, Fact::UnknownUser, 1, at(111)));
    assert_eq!(told, [(Harm::UnknownUsers, Level::Pause)]);
    // What was told stays told; what was let go stays forgotten.
    let mut again = Brake::new(policy());
    again.restore(kept(&mut after), at(112));
    assert_eq!(levels(&again.count(&list, Fact::UnknownUser, 1, at(112))), []);
    again.forgive(|_| true);
    assert!(again.changed().iter().all(|(_, kept)| kept.is_none()));
    let mut late = Brake::new(policy());
    late.restore(before, at(100 + 24 * 60));
    assert!(late.is_empty());
}

#[test]
fn a_clock_set_back_breaks_nothing() {
    let mut brake = Brake::new(policy());
    let list = watched("spring");
    for minute in [0, 5000, 3, u64::from(u32::MAX), 0] {
        brake.count(&list, Fact::Delivered, u32::MAX, at(minute));
        brake.count(&list, Fact::Complaint, 1, at(minute));
    }
    assert_eq!(brake.len(), 1);
}

#[test]
fn a_clock_that_was_ahead_counts_for_a_day_and_no_longer() {
    let mut ahead = Brake::new(policy());
    let list = watched("spring");
    ahead.count(&list, Fact::Delivered, 90, at(1 << 22));
    ahead.count(&list, Fact::UnknownUser, 9, at((1 << 22) + 60));
    let kept: Vec<Kept> = ahead.changed().into_iter().filter_map(|(_, kept)| kept).collect();
    let mut brake = Brake::new(policy());
    brake.restore(kept, at(0));
    let told = levels(&brake.count(&list, Fact::UnknownUser, 1, at(1)));
    assert_eq!(told, [(Harm::UnknownUsers, Level::Pause)], "what was counted is not forgotten");
    brake.count(&list, Fact::Delivered, 1, at(25 * 60));
    assert_eq!(brake.shares(&list), Some((0.0, 0.0)));
}
