//! A receiver that takes 100, then 10, then again 100 messages a second, and a campaign for it: the controller in the whole
//! engine.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use posthaste::clock::{Simulated, Timestamp};
use posthaste::config::{ByteSize, Config};
use posthaste::log::sim::SimFiles;
use tokio::time::sleep;

use crate::books::Pace;
use crate::engine::Engine;
use crate::receiver::{Answer, Ask, Habit, Step};
use crate::traffic;
use crate::world::World;

const START: Timestamp = Timestamp(1_767_571_200_000);

/// From which second on it takes how many a second.
const STEPS: [(u64, f64); 3] = [(0, 100.0), (120, 10.0), (220, 100.0)];
/// When the last step is over, in seconds.
const END: usize = 330;

const MESSAGES: usize = 23_500;

/// What the receiver made of MAIL, second by second: taken, told to slow down.
type Ledger = Arc<Mutex<Vec<(u32, u32)>>>;

/// A token bucket of one second whose rate changes.
#[derive(Debug)]
struct Stepping {
    tokens: f64,
    filled_at: Timestamp,
    seconds: Ledger,
}

impl Habit for Stepping {
    fn answer(&mut self, ask: &mut Ask<'_>) -> Option<Answer> {
        if ask.step != Step::Mail {
            return None;
        }
        let second = ask.now.since(START).as_secs();
        let rate = STEPS.iter().rev().find(|(from, _)| *from <= second).map_or(0.0, |(_, rate)| *rate);
        let since = ask.now.since(self.filled_at).as_secs_f64();
        (self.tokens, self.filled_at) = ((self.tokens + since * rate).min(rate), ask.now);
        let takes = self.tokens >= 1.0;
        self.tokens -= f64::from(u8::from(takes));
        let mut seconds = self.seconds.lock().unwrap();
        let second = second as usize;
        if seconds.len() <= second {
            seconds.resize(second + 1, (0, 0));
        }
        let (taken, slowed) = &mut seconds[second];
        (*taken, *slowed) = (*taken + u32::from(takes), *slowed + u32::from(!takes));
        (!takes).then(|| Answer::Say("451 4.7.28 rate limited, slow down".into()))
    }
}

/// Runs it to the last message; what the receiver saw, what is wrong in the books, and the kinds of events that were told.
pub fn run(seed: u64) -> (Vec<(u32, u32)>, Vec<String>) {
    let seconds: Ledger = Arc::default();
    let habit = Stepping { tokens: 100.0, filled_at: START, seconds: Arc::clone(&seconds) };
    let world = World::of_one("paced", false, habit, seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let clock = Simulated::from(START);
        let engine = Engine::start(&world, &SimFiles::new(seed), &Arc::default(), &config(), None, seed);
        for arrival in traffic::campaign(START, 0, MESSAGES) {
            arrival.submit(&engine, &world);
        }
        loop {
            sleep(Duration::from_secs(60)).await;
            engine.settle();
            if engine.queue.open_recipients() == 0 || world.now().since(START) > Duration::from_secs(48 * 3600) {
                break;
            }
        }
        engine.close(Duration::from_secs(60)).await;
        drop(clock);
    });
    let mut books = world.books();
    // It is slower than anybody: what it was given is looked at below.
    books.finish(Pace { first: Duration::ZERO, each: Duration::ZERO });
    let seconds = seconds.lock().unwrap().clone();
    (seconds, books.faults().to_vec())
}

/// Asserts that every step is followed within a minute, with hardly anybody told to slow down afterwards.
pub fn check(seed: u64) {
    let (seconds, faults) = run(seed);
    assert!(faults.is_empty(), "{faults:?}");
    let taken: u32 = seconds.iter().map(|(taken, _)| taken).sum();
    assert_eq!(taken as usize, MESSAGES, "taken, each once");
    let ends = STEPS.iter().skip(1).map(|(from, _)| *from as usize).chain([END]);
    for ((from, rate), end) in STEPS.into_iter().zip(ends) {
        let settled = &seconds[from as usize + 60..end];
        let (taken, slowed) = settled.iter().fold((0, 0), |sum, second| (sum.0 + second.0, sum.1 + second.1));
        let (mean, share) = (f64::from(taken) / settled.len() as f64, f64::from(slowed) / f64::from(taken + slowed));
        println!("{rate}/s: {mean:.1}/s taken, {:.2} % told to slow down", 100.0 * share);
        assert!((0.8 * rate..=1.2 * rate).contains(&mean), "at {rate}/s: {mean}/s; {seconds:?}");
        assert!(share <= 0.02, "at {rate}/s: {share}; {seconds:?}");
    }
}

fn config() -> Config {
    let mut config = Config { hostname: Some("mta.sim.example".parse().unwrap()), ..Config::default() };
    config.spool.segment_size = ByteSize(4 << 20);
    config.spool.disk_free_min = ByteSize(1 << 20);
    config.delivery.connections_per_site = 20;
    config
}
