//! The whole loop of queue, routing, delivery and feedback on paused time, between simulated receivers: a week of traffic
//! in seconds, the same for the same seed.
//!
//! Real are the spool with its log, the queue, routing, the SMTP client, feedback, and what events say. Simulated are
//! files, names, network, receivers and time; see [`engine`] and [`world`]. There is one thread, and all chance comes from
//! the seed, so that a run is a function of it: the tests run one seed twice and compare the digests of everything that
//! happened.
//!
//!     cargo test --test simulation                          # a few fixed seeds
//!     POSTHASTE_SEED=17 cargo test --test simulation week   # that one
//!     POSTHASTE_SEEDS=500 cargo test --test simulation week # so many, from 1
//!     POSTHASTE_TRACE=1 … -- --nocapture                    # every step of every dialogue
//!     cargo test --test simulation three_weeks -- --ignored --nocapture # memory over three weeks, as the system counts it
//!
//! One more week is of a seed by chance, which is printed where it fails, with the command that shows it again.
//!
//! The receivers are those of `posthaste demo` (`src/demo/receiver/`): a new behaviour is a new habit there.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "simulation/books/mod.rs"]
mod books;
#[path = "simulation/dns.rs"]
mod dns;
#[path = "simulation/engine.rs"]
mod engine;
#[path = "simulation/fleet.rs"]
mod fleet;
#[path = "simulation/pace.rs"]
mod pace;
#[path = "simulation/population.rs"]
mod population;
#[path = "simulation/receiver.rs"]
mod receiver;
#[path = "simulation/rest.rs"]
mod rest;
#[path = "simulation/traffic.rs"]
mod traffic;
#[path = "simulation/week.rs"]
mod week;
#[path = "simulation/world.rs"]
mod world;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use traffic::Volume;
use week::Outcome;

/// About 20,000 recipients.
const WEEK: Volume = Volume {
    days: 7,
    transactional_per_day: 500,
    campaigns_per_day: 2,
    messages_per_campaign: 350,
    floods: 4,
    messages_per_flood: 1200,
};

/// A shorter stretch of the same.
const DAY: Volume = Volume { days: 1, floods: 1, ..WEEK };

/// Three weeks of the same.
const WEEKS: Volume = Volume { days: 21, floods: 12, ..WEEK };

fn check(seed: u64, volume: Volume) -> Outcome {
    let outcome = week::run(seed, volume);
    println!("seed {seed}: {:?}", outcome.tally);
    let faults = outcome.faults.join("\n  ");
    assert!(outcome.faults.is_empty(), "POSTHASTE_SEED={seed} shows:\n  {faults}\n{:?}", outcome.tally);
    outcome
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

#[test]
fn a_week_of_traffic() {
    let seeds: Vec<u64> = match (from_environment("POSTHASTE_SEED"), from_environment("POSTHASTE_SEEDS")) {
        (Some(seed), _) => vec![seed],
        (None, Some(count)) => (1..=count).collect(),
        (None, None) => vec![1],
    };
    seeds.into_iter().for_each(check_week);
}

/// A week is as it should be, and holds no more than a day did.
fn check_week(seed: u64) {
    let (day, week) = (check(seed, DAY).tally.held, check(seed, WEEK).tally.held);
    assert_eq!(week.grew(&day), [""; 0], "POSTHASTE_SEED={seed}: {day:?} {week:?}");
}

/// Every run of the tests is another one. What it shows is shown again by the seed it prints.
#[test]
fn a_seed_that_nobody_has_seen() {
    if from_environment("POSTHASTE_SEED").or(from_environment("POSTHASTE_SEEDS")).is_some() {
        return;
    }
    // Chance from the system, without asking the clock.
    let seed = RandomState::new().build_hasher().finish() % 1_000_000_000;
    println!("again: POSTHASTE_SEED={seed} cargo test --test simulation week");
    check_week(seed);
}

/// Three weeks take no more memory than one, as the system counts it, but for the books and the simulated disk.
#[test]
#[ignore = "it takes minutes, and the process for itself"]
fn three_weeks_take_no_more_memory_than_one() {
    // The most in the first week, and after it: of the process, of books and disk.
    let (mut first, mut later) = ([0; 2], [0; 2]);
    let outcome = week::watched(from_environment("POSTHASTE_SEED").unwrap_or(1), WEEKS, &mut |hour| {
        let most = if hour.passed < Duration::from_secs(7 * 86_400) { &mut first } else { &mut later };
        *most = [most[0].max(resident()), most[1].max(hour.world)];
    });
    assert_eq!(outcome.faults, [""; 0]);
    let [more, explained] = [0, 1].map(|of: usize| later[of].saturating_sub(first[of]) >> 10);
    println!("{} KiB after a week; {more} KiB more after three, {explained} KiB of it books and disk", first[0] >> 10);
    assert!(first[0] > 0 && more < explained + explained / 4 + (16 << 10), "{first:?} {later:?}");
}

/// Octets of memory that the process has.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    4096 * statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap()
}

#[test]
fn the_same_seed_is_the_same_day() {
    let seeds = from_environment("POSTHASTE_SEED").map_or(vec![7, 8], |seed| vec![seed]);
    for seed in seeds {
        assert_eq!(check(seed, DAY), check(seed, DAY), "seed {seed}");
    }
}

#[test]
fn a_fleet_of_sources_keeps_its_promises() {
    let seed = from_environment("POSTHASTE_SEED").unwrap_or(1);
    let outcome = fleet::run(seed);
    println!("seed {seed}: {:?}", outcome.tally);
    let faults = outcome.faults.join("\n  ");
    assert!(outcome.faults.is_empty(), "POSTHASTE_SEED={seed} shows:\n  {faults}\n{:?}", outcome.tally);
    assert_eq!(fleet::run(seed).digest, outcome.digest, "the same seed");
}

#[test]
fn a_receiver_that_slows_down_is_followed_and_so_is_its_recovery() {
    pace::check(from_environment("POSTHASTE_SEED").unwrap_or(1));
}

#[test]
fn a_connection_rests_as_long_as_it_may_after_each_message() {
    rest::check();
}
