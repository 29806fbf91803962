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
#[path = "simulation/traffic.rs"]
mod traffic;
#[path = "simulation/week.rs"]
mod week;
#[path = "simulation/world.rs"]
mod world;

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
    for seed in seeds {
        check(seed, WEEK);
    }
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
