//! Kills the real daemon, again and again, while mail goes in and out, and then asks what became of it (DESIGN §2).
//!
//! `kept`: nothing that got its 250 is lost, and every recipient has one end. `once`: clients that are killed as well, and
//! send all of their batch again with the same idempotency keys, get every message delivered once. `returned`: who sent what comes
//! back hears of it once.
//!
//! `POSTHASTE_SEED=N` repeats a run's choices (not its timing); the seed is printed.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "crash/books.rs"]
mod books;
#[path = "crash/client.rs"]
mod client;
#[path = "crash/kept.rs"]
mod kept;
#[path = "crash/once.rs"]
mod once;
#[path = "crash/returned.rs"]
mod returned;
#[path = "crash/stage.rs"]
mod stage;

use posthaste::clock::Clock;

/// What chance begins with.
fn seed() -> u64 {
    from_environment("POSTHASTE_SEED").unwrap_or(Clock.timestamp().0)
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect(name))
}
