//! A connection between messages: it rests as long as `delivery.idle_timeout` after each, and no longer.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use posthaste::clock::{Simulated, Timestamp};
use posthaste::config::{ByteSize, Config};
use posthaste::log::sim::SimFiles;
use tokio::time::sleep;

use crate::engine::Engine;
use crate::receiver::{Answer, Ask, Habit, Step};
use crate::traffic;
use crate::world::World;

const START: Timestamp = Timestamp(1_767_571_200_000);

/// In seconds.
const IDLE: u64 = 30;

/// Steps and their seconds.
type Seen = Arc<Mutex<Vec<(Step, u64)>>>;

/// Notes who connects and what is taken.
#[derive(Debug)]
struct Watching(Seen);

impl Habit for Watching {
    fn answer(&mut self, ask: &mut Ask<'_>) -> Option<Answer> {
        if matches!(ask.step, Step::Greeting | Step::End) {
            self.0.lock().unwrap().push((ask.step, ask.now.since(START).as_secs()));
        }
        None
    }
}

/// Hands in a message at each of these seconds; says in which ones there was a connection, and a message.
pub fn seen(seconds: &[u64]) -> (Vec<u64>, Vec<u64>) {
    let seen = Seen::default();
    let world = World::of_one("calm", true, Watching(Arc::clone(&seen)), 1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let clock = Simulated::from(START);
        let engine = Engine::start(&world, &SimFiles::new(1), &Arc::default(), &config(), None, 1);
        for second in seconds {
            sleep(START.after(Duration::from_secs(*second)).since(world.now())).await;
            traffic::campaign(world.now(), 0, 1).into_iter().for_each(|arrival| arrival.submit(&engine, &world));
        }
        sleep(Duration::from_secs(2 * IDLE)).await;
        engine.settle();
        assert!(engine.close(Duration::from_secs(60)).await);
        drop(clock);
    });
    let of =
        |wanted| seen.lock().unwrap().iter().filter(|(step, _)| *step == wanted).map(|(_, second)| *second).collect();
    (of(Step::Greeting), of(Step::End))
}

/// Asserts that messages less than that apart share a connection, however old it is, and others do not.
pub fn check() {
    assert_eq!(seen(&[0, 20, 40, 60, 95, 120]), (vec![0, 95], vec![0, 20, 40, 60, 95, 120]));
}

fn config() -> Config {
    let mut config = Config { hostname: Some("mta.sim.example".parse().unwrap()), ..Config::default() };
    config.spool.segment_size = ByteSize(4 << 20);
    config.spool.disk_free_min = ByteSize(1 << 20);
    config.delivery.idle_timeout = Duration::from_secs(IDLE);
    config
}
