//! A stretch of traffic from first to last: arrivals, restarts, crashes, reloads, checks, and the silence after.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use posthaste::clock::{Simulated, Timestamp};
use posthaste::config::{ByteSize, Config};
use posthaste::log::sim::SimFiles;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::time::sleep;

use crate::books::{Pace, Tally};
use crate::engine::{Ending, Engine, EventBook};
use crate::population;
use crate::traffic::{self, Arrival, Volume};
use crate::world::World;

/// When it begins: a Monday.
const START: Timestamp = Timestamp(1_767_571_200_000);

const HOUR: u64 = 3_600_000;

/// How long after the last arrival all must be through: lifetime of a message, of the report on it, and an attempt.
const SILENCE_MAX: u64 = 8 * 24 * HOUR;

/// Small, so that there are many.
const SEGMENT: u64 = 256 << 10;

/// Connections at once, whatever the configuration of the moment.
const PER_SITE: usize = 10;
const IN_ALL: usize = 60;

/// What it takes at places that take everything. The slowest needs 0.7 s for the end of a message and 0.15 s for each of up
/// to four flights before, and there are four connections at least.
const PACE: Pace = Pace { first: Duration::from_secs(10), each: Duration::from_millis(1300 / 4) };

/// What a run comes to.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub digest: u64,
    pub tally: Tally,
    pub faults: Vec<String>,
}

/// One life of the engine, and how it ends.
struct Life {
    until: Timestamp,
    ending: Ending,
    away: Duration,
}

/// What somebody who watches is told at each full hour.
#[derive(Debug, Clone, Copy)]
pub struct Hour {
    /// Since the beginning.
    pub passed: Duration,
    /// Octets of the books, which never forget, and of the simulated disk.
    pub world: usize,
}

/// Everything that outlives the engine.
struct Run<'a> {
    world: Arc<World>,
    files: SimFiles,
    events: Arc<Mutex<EventBook>>,
    arrivals: std::iter::Peekable<std::vec::IntoIter<Arrival>>,
    rng: SmallRng,
    now: Timestamp,
    watch: &'a mut dyn FnMut(Hour),
}

/// Runs the traffic of `volume` in the world of `seed`.
pub fn run(seed: u64, volume: Volume) -> Outcome {
    watched(seed, volume, &mut |_| ())
}

/// The same with somebody who watches; it makes no difference to the run.
pub fn watched(seed: u64, volume: Volume, watch: &mut dyn FnMut(Hour)) -> Outcome {
    let world = population::world(seed, START, volume.days);
    world.limit(PER_SITE, IN_ALL);
    let arrivals = traffic::arrivals(&world, seed, START, volume);
    let busy: Vec<Timestamp> = arrivals.iter().map(|arrival| arrival.at).collect();
    let mut run = Run {
        arrivals: arrivals.into_iter().peekable(),
        files: SimFiles::new(seed),
        events: Arc::default(),
        rng: SmallRng::seed_from_u64(seed),
        now: START,
        watch,
        world,
    };
    for life in run.lives(volume, &busy) {
        run.live(Some(life));
    }
    run.live(None);
    let mut books = run.world.books();
    books.finish(PACE);
    Outcome { digest: books.digest.sum(), tally: books.tally.clone(), faults: books.faults().to_vec() }
}

impl Run<'_> {
    /// One or two ends a day, half of them in the middle of a campaign.
    fn lives(&mut self, volume: Volume, busy: &[Timestamp]) -> Vec<Life> {
        let mut lives = Vec::new();
        let mut from = START.0 + HOUR;
        for day in 0..volume.days {
            for _ in 0..self.rng.random_range(1..=2) {
                let anywhere = START.0 + day * 24 * HOUR + self.rng.random_range(HOUR..20 * HOUR);
                let until = match self.rng.random() {
                    true => busy[busy.partition_point(|at| at.0 < anywhere).min(busy.len() - 1)].0,
                    false => anywhere,
                };
                let until = until + self.rng.random_range(0..300);
                let away = Duration::from_millis(match self.rng.random_range(0..4) {
                    0 => self.rng.random_range(HOUR..3 * HOUR),
                    _ => self.rng.random_range(500..60_000),
                });
                if until <= from {
                    continue;
                }
                let endings = [Ending::Clean, Ending::Kill, Ending::PowerCut, Ending::PowerCutInWrite];
                let ending = endings[self.rng.random_range(0..endings.len())];
                lives.push(Life { until: Timestamp(until), ending, away });
                from = until + away.as_millis() as u64 + HOUR;
            }
        }
        lives
    }

    /// One life, in a runtime of its own, which ends with everything in it. `None`: until all is silent.
    fn live(&mut self, life: Option<Life>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let clock = Simulated::from(self.now);
            let engine = Engine::start(&self.world, &self.files, &self.events, &config(0), None, self.rng.random());
            self.check(&engine);
            match life {
                Some(life) => {
                    self.work(&engine, life.until).await;
                    self.end(engine, life).await;
                }
                None => {
                    self.work(&engine, Timestamp(u64::MAX)).await;
                    self.drain(&engine).await;
                    engine.close(Duration::from_secs(60)).await;
                }
            }
            drop(clock);
        });
    }

    /// Until then: arrivals, a check an hour, and now and then another configuration.
    async fn work(&mut self, engine: &Engine, until: Timestamp) {
        let mut check = self.world.now().after(Duration::from_secs(3600));
        let mut reload = self.world.now().after(Duration::from_millis(self.rng.random_range(HOUR..40 * HOUR)));
        while let Some(arrival) = self.arrivals.peek().map(|arrival| arrival.at) {
            let next = arrival.min(check).min(reload).min(until);
            sleep(next.since(self.world.now())).await;
            if next == until {
                return;
            } else if next == arrival {
                self.arrivals.next().into_iter().for_each(|arrival| arrival.submit(engine, &self.world));
            } else if next == check {
                self.check(engine);
                check = check.after(Duration::from_secs(3600));
            } else {
                engine.reload(&config(self.rng.random_range(0..3)));
                reload = reload.after(Duration::from_millis(self.rng.random_range(10 * HOUR..60 * HOUR)));
            }
        }
        if until.0 < u64::MAX {
            sleep(until.since(self.world.now())).await;
        }
    }

    /// The books and the queue agree.
    fn check(&mut self, engine: &Engine) {
        engine.settle();
        let census = engine.queue.census();
        let now = self.world.now();
        let mut books = self.world.books();
        books.adopt(&census.messages);
        books.compare(&census.messages, now);
        books.digest.add(format_args!("{census:?}\n"));
        let spool = engine.spool.census();
        books.log_size(spool.log.bytes, spool.log.live_bytes, SEGMENT, now);
        let cache = config(0).spool.cache_size.bytes();
        books.holds(&census, &spool, cache, now);
        if census.hosts > 2 * self.world.places.len() || census.sites > 2 * self.world.sites.len() {
            books.fault(format!("at {now}: {} hosts, {} sites", census.hosts, census.sites));
        }
        if census.messages.len() != spool.messages {
            books.fault(format!("at {now}: {census:?}, but {spool:?}"));
        }
        let passed = now.since(START);
        let world = books.octets() + self.files.octets();
        drop(books);
        (self.watch)(Hour { passed, world });
    }

    async fn end(&mut self, engine: Engine, life: Life) {
        let went = self.world.now();
        match life.ending {
            Ending::Clean => {
                engine.close(Duration::from_secs(30)).await;
                self.files.kill();
            }
            Ending::Kill | Ending::PowerCut | Ending::PowerCutInWrite => {
                engine.crash(&self.files, life.ending, &mut self.rng);
            }
        }
        self.world.note(format_args!("{:?}", life.ending));
        self.now = self.world.now().after(life.away);
        self.world.books().outage(went, self.now, life.ending);
    }

    /// After the last arrival: everything ends, and nothing is left.
    async fn drain(&mut self, engine: &Engine) {
        let last = self.world.now();
        while engine.queue.open_recipients() > 0 {
            if self.world.now().since(last) > Duration::from_millis(SILENCE_MAX) {
                return self.world.books().fault(format!("it never comes to rest: {:?}", engine.queue.census()));
            }
            sleep(Duration::from_secs(3600)).await;
            self.check(engine);
        }
        // Idle sessions end, dead space is given back.
        sleep(Duration::from_secs(3600)).await;
        self.check(engine);
        let (queue, spool) = (engine.queue.census(), engine.spool.census());
        let held = [queue.sleepers, queue.expiries, queue.in_flight, queue.ready, queue.streams, queue.connections];
        let kept = [spool.messages, spool.cached, spool.moving, spool.ghosts, spool.log.queued_bytes];
        if held != [0; 6] || kept != [0; 5] || spool.log.live_bytes > 0 || spool.log.segments > 4 {
            self.world.books().fault(format!("something is held for ever: {queue:?} {spool:?}"));
        }
    }
}

/// What is configured; the variants differ in limits only.
fn config(variant: usize) -> Config {
    let mut config = Config { hostname: Some("mta.sim.example".parse().unwrap()), ..Config::default() };
    config.spool.segment_size = ByteSize(SEGMENT);
    config.spool.disk_free_min = ByteSize(1 << 20);
    // Its receivers know few of their users, and every bulk stream would be stopped.
    config.brake.enabled = false;
    config.delivery.connections_max = [IN_ALL, 40, 50][variant];
    config.delivery.connections_per_site = [PER_SITE, 4, 6][variant];
    config.delivery.recipients_per_transaction = [100, 10, 3][variant];
    config
}
