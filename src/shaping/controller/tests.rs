//! The numbers the controller promises, against receivers of many shapes on simulated time.

use super::sim::{Rule, Scenario, run};
use super::*;

/// Capacity 100, 10 and again 100 a second: followed within a minute each way, and then hardly throttled. `least` is the
/// part of the capacity that must be used.
fn check_steps(rule: Rule, latency: Millis, least: f64) -> Result<(), String> {
    let trace = run(&Scenario::steps(rule, latency));
    let told = |phase: &str, from: usize, until: usize| {
        let followed = trace.followed(from, until);
        let (used, refused) = (trace.passed(from + 60, until), trace.refusals(from + 60, until));
        let used = used / trace.seconds[from].capacity;
        let line = format!("{rule:?} {latency} ms {phase}: followed {followed:?} used {used:.2} refused {refused:.4}");
        match followed.is_some_and(|seconds| seconds <= 60) && refused <= 0.02 && used >= least {
            true => Ok(()),
            false => Err(line),
        }
    };
    told("first", 60, 240)?;
    told("down", 240, 420)?;
    told("up", 420, 600)
}

fn check_all(cases: &[(Rule, Millis)], least: f64) {
    let wrong: Vec<String> = cases.iter().filter_map(|(rule, ms)| check_steps(*rule, *ms, least).err()).collect();
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn rate_caps_are_followed_down_and_up_within_a_minute() {
    let mut cases = Vec::new();
    for latency in [20, 100, 300] {
        for rule in [0.1, 1.0, 5.0, 10.0].map(Rule::Bucket) {
            cases.push((rule, latency));
        }
        cases.extend([(Rule::Window(1.0), latency), (Rule::Sliding(1.0), latency)]);
    }
    cases.extend([(Rule::Charging(1.0), 20), (Rule::Charging(1.0), 100)]);
    check_all(&cases, 0.8);
}

/// The worst share of refusals, and the part of the capacity that is used while it is low.
fn refusals_of(rule: Rule, latency: Millis) -> (f64, f64) {
    let capacity = vec![(0, 100.0), (360, 10.0), (600, 100.0)];
    let trace = run(&Scenario { capacity, seconds: 840, ..Scenario::steps(rule, latency) });
    let phases = [(60, 360), (420, 600), (660, 840)];
    let worst = phases.map(|(from, until)| trace.refusals(from, until)).into_iter().fold(0.0, f64::max);
    (worst, trace.passed(420, 600) / 10.0)
}

#[test]
fn receivers_that_close_are_not_knocked_at_in_vain() {
    // Over any minute it still counts what was sent before the step, for a minute: it closes once more often.
    for (rule, most) in [
        (Rule::Window(10.0), 0.02),
        (Rule::Window(60.0), 0.02),
        (Rule::Sliding(10.0), 0.02),
        (Rule::Sliding(60.0), 0.03),
    ] {
        let (worst, used) = refusals_of(rule, 100);
        assert!(worst <= most, "{rule:?}: {worst}");
        assert!(used >= 0.5, "{rule:?}: {used}");
    }
}

/// Each step lasts ten minutes: it is followed within `followed_max` seconds, and a minute later no more than `most` of the attempts
/// are throttled.
fn check_long(scenario: Scenario, followed_max: usize, most: f64) {
    let capacity = vec![(0, 100.0), (600, 10.0), (1200, 100.0)];
    let trace = run(&Scenario { capacity, seconds: 1800, ..scenario.clone() });
    for from in [600, 1200] {
        let (refused, followed) = (trace.refusals(from + 60, from + 600), trace.followed(from, from + 600));
        assert!(refused <= most, "{scenario:?} from {from} on: {refused}");
        let in_time = followed.is_some_and(|seconds| seconds <= followed_max);
        assert!(in_time, "{scenario:?} from {from} on: followed {followed:?}");
    }
}

#[test]
fn capacities_by_the_second_are_followed_within_a_minute() {
    let plain = [0.1, 1.0, 10.0].map(Rule::Bucket).into_iter().chain([Rule::Window(1.0), Rule::Sliding(1.0)]);
    for rule in plain.chain([Rule::Charging(1.0), Rule::Charging(10.0)]) {
        for latency in [10, 200, 1000] {
            // All that is on its way is refused, and costs: what that takes to pay is longer than a minute.
            if (rule, latency) != (Rule::Charging(10.0), 1000) {
                check_long(Scenario::steps(rule, latency), 60, 0.02);
            }
        }
    }
}

#[test]
fn a_deep_bucket_far_away_that_counts_refusals_is_followed_late() {
    check_long(Scenario::steps(Rule::Charging(10.0), 1000), 90, 0.025);
}

#[test]
fn daemons_that_share_a_receiver_find_their_parts() {
    for latency in [10, 200, 1000] {
        check_long(Scenario { daemons: 2, ..Scenario::steps(Rule::Bucket(1.0), latency) }, 60, 0.02);
    }
}

#[test]
fn what_is_put_off_for_other_reasons_changes_nothing() {
    for latency in [10, 200, 1000] {
        check_long(Scenario { other: 0.05, ..Scenario::steps(Rule::Bucket(1.0), latency) }, 75, 0.02);
    }
}

#[test]
fn session_caps_are_found_and_followed() {
    let capacity = vec![(0, 20.0), (240, 4.0), (480, 20.0)];
    let scenario = Scenario { capacity, sessions: 100, seconds: 720, ..Scenario::steps(Rule::Sessions, 100) };
    let trace = run(&scenario);
    for (from, until, cap) in [(60, 240, 20.0), (300, 480, 4.0), (540, 720, 20.0)] {
        let sessions: u32 = trace.seconds[from..until].iter().map(|second| second.sessions).sum();
        let mean = f64::from(sessions) / (until - from) as f64;
        let refused = trace.refusals(from, until);
        assert!((0.8 * cap..=cap).contains(&mean), "cap {cap}: {mean} sessions");
        assert!(refused <= 0.02, "cap {cap}: {refused}");
    }
}

#[test]
fn an_overloaded_receiver_gets_fewer_sessions_and_a_slow_one_does_not() {
    let capacity = vec![(0, 200.0), (120, 10.0), (360, 200.0)];
    let scenario = Scenario { capacity, sessions: 50, seconds: 600, ..Scenario::steps(Rule::Overload, 100) };
    let trace = run(&scenario);
    let most = trace.seconds[240..360].iter().map(|second| second.latency).fold(0.0, f64::max);
    assert!(most <= 1500.0, "replies take {most} ms");
    assert!(trace.passed(240, 360) >= 8.0 && trace.passed(480, 600) >= 160.0, "{}", trace.passed(480, 600));

    let slow = Scenario { seconds: 600, ..Scenario::steps(Rule::Open, 5000) };
    assert_eq!(run(&slow).seconds[599].sessions, 200);
}

#[test]
fn who_is_not_throttled_is_not_limited() {
    for latency in [50, 1000, 5000] {
        let trace = run(&Scenario { seconds: 300, ..Scenario::steps(Rule::Open, latency) });
        assert_eq!(trace.changes, [], "{latency} ms");
        assert_eq!(trace.seconds[299].per_second, None);
    }
}

#[test]
fn a_little_noise_is_not_a_limit() {
    for noise in [0.001, 0.002] {
        let trace = run(&Scenario { noise, sessions: 20, seconds: 840, ..Scenario::steps(Rule::Open, 100) });
        let passed = trace.passed(400, 840);
        assert!(passed >= 120.0, "noise {noise}: {passed} of 200");
    }
}

#[test]
fn what_is_not_used_does_not_grow() {
    let scenario = Scenario { demand: Some(4.0), seconds: 1800, ..Scenario::steps(Rule::Bucket(1.0), 100) };
    // Throttled by chance a few times: a pace is found, and never held anything back.
    let trace = run(&Scenario { noise: 0.01, capacity: vec![(0, 100.0)], ..scenario });
    let rate = trace.seconds[1799].per_second.expect("it was throttled");
    assert!((0.5..40.0).contains(&rate), "{rate}");
    assert!(trace.passed(1000, 1800) > 3.0, "{}", trace.passed(1000, 1800));
}

#[test]
fn a_blocked_path_knocks_once_a_minute_and_comes_back() {
    let capacity = vec![(0, 50.0), (120, 0.0), (1920, 50.0)];
    let trace = run(&Scenario { capacity, seconds: 2400, ..Scenario::steps(Rule::Bucket(0.1), 100) });
    let knocks: u32 = trace.seconds[180..1920].iter().map(|second| second.throttled).sum();
    assert!((20..=35).contains(&knocks), "{knocks} knocks in 29 minutes");
    let back = (1920..2390).find(|at| trace.passed(*at, at + 10) > 40.0);
    assert!(back.is_some_and(|at| at <= 1920 + 240), "back at {back:?}");
    assert!(trace.changes.iter().any(|(_, change)| change.cause == Cause::Closed));
}

#[test]
fn every_change_is_told_once_and_says_why() {
    let trace = run(&Scenario::steps(Rule::Bucket(1.0), 100));
    let told: Vec<_> = trace.changes.iter().map(|(_, change)| change.cause).collect();
    assert!(told.contains(&Cause::Throttled) && told.contains(&Cause::Accepted));
    assert!(told.len() < 200, "{} changes in 14 minutes", told.len());
    assert_eq!(run(&Scenario::steps(Rule::Bucket(1.0), 100)).changes, trace.changes, "deterministic");
}

/// Every third recipient does not exist, and is refused long before the content of others would have been taken.
#[test]
fn a_quick_no_makes_no_yes_slow() {
    let (bounds, mut control) = (Bounds::default(), Controller::default());
    for n in 0..3_000 {
        let now = 10_000 + 60 * n;
        match n % 3 {
            0 => control.turned_down(now, now - 50, 10, &bounds),
            _ => control.passed(now, now - 660, 10, &bounds),
        };
        assert_eq!(control.sessions_max(), usize::MAX, "after {n} answers");
    }
    // What is taken ever more slowly is another matter.
    let slower = (0..100).any(|n| control.passed(200_000 + 60 * n, 197_000 + 60 * n, 10, &bounds).is_some());
    assert!(slower && control.sessions_max() == 5, "{}", control.sessions_max());
}

#[test]
fn a_restart_goes_on_where_it_stopped() {
    let bounds = Bounds::default();
    let mut control = Controller::default();
    assert_eq!(control.save(), None);
    for n in 0..100 {
        control.passed(10 * n, 10 * n, 3, &bounds);
    }
    control.throttled(1000, 999, &bounds).expect("the first limit is told");
    control.refused(1000, 3);
    let saved = control.save().expect("something was learned");
    let mut again = Controller::default();
    again.restore(5_000_000, Saved::read(&saved.write()).unwrap(), &bounds);
    assert_eq!(again.sessions_max(), 3);
    assert_eq!(again.save(), Some(saved));
    assert!(again.per_second().is_some_and(|rate| (50.0..120.0).contains(&rate)), "{:?}", again.per_second());
    again.release();
    assert!(again.is_free() && again.may_send(5_000_000) == Gate::Go);
}
